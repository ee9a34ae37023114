//! The child processes: what each does with the messages of control.
//!
//! A child is told its work over connections to the listening socket that control left it. It outlives control: when
//! the connection ends it carries on with what it was last told, and obeys whoever connects next.

pub(crate) mod health;
pub(crate) mod keys;
pub(crate) mod relay;

use anyhow::Context;
use nix::unistd::Uid;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

use crate::{
    cli::LogArgs,
    ipc::{self, Listener},
    logging, privileges,
};

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
        // Caught once, they end nobody any more. What a terminal or a session tells a whole group is control's to obey.
        for kind in [SignalKind::hangup(), SignalKind::interrupt()] {
            drop(signal(kind)?);
        }
        let listener = Listener::inherited().with_context(|| {
            format!("`weir role {role}` is started by `weir run`, which leaves it a socket as standard input")
        })?;
        serve(listener).await
    })
}

/// What this process says of itself in its greeting.
fn identity() -> String {
    // The program, "role", the role.
    let args: Vec<_> = std::env::args().skip(3).collect();
    ipc::identity(Uid::effective(), &args)
}
