//! (being written)
#[derive(clap::Args)]
pub(crate) struct Args {}
pub(crate) fn run(_: Args) -> anyhow::Result<()> {
    anyhow::bail!("not yet written")
}
