//! `cargo xtask demo`: the balancer at work in network namespaces.

use anyhow::{Result, bail};

/// Show weir at work on real traffic, in network namespaces that it makes and removes itself.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> Result<()> {
    bail!("the demo is being written")
}
