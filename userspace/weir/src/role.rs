//! The child processes: what each does with the messages of control.
//!
//! A child is told its work over connections to the listening socket that control left it. It outlives control: when
//! the connection ends it carries on with what it was last told, and obeys whoever connects next.

pub(crate) mod health;
pub(crate) mod relay;

use anyhow::Context;
use tokio::task::LocalSet;

use crate::{cli::LogArgs, ipc::Listener, logging, privileges};

/// Sets a child up and runs it on one thread until it ends.
fn enter<F>(role: &'static str, log: &LogArgs, serve: impl FnOnce(Listener) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    logging::init(log, role)?;
    privileges::confine()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("async runtime")?;
    LocalSet::new().block_on(&runtime, async {
        let listener = Listener::inherited().with_context(|| {
            format!("`weir role {role}` is started by `weir run`, which leaves it a socket as standard input")
        })?;
        serve(listener).await
    })
}
