//! keepalived as the other speaker of VRRP. What it does is written by the test, as its whole configuration.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch, wait::wait_until};

/// A running keepalived, parent and child. Killed when dropped.
#[derive(Debug)]
pub struct Keepalived {
    process: Process,
    _scratch: Scratch,
}

impl Keepalived {
    /// Starts it inside a namespace.
    ///
    /// # Errors
    /// It is not installed.
    pub fn start(netns: &Netns, config: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = scratch.write("keepalived.conf", config)?;
        let cmd = Cmd::new("keepalived")
            .args([
                "--dont-fork",
                "--vrrp",
                "--log-console",
                "--log-detail",
                "--use-file",
            ])
            .arg(config)
            .arg("--pid")
            .arg(scratch.join("pid"))
            .arg("--vrrp_pid")
            .arg(scratch.join("vrrp.pid"));
        let process = Process::start("keepalived", &scratch, &cmd.inside(netns))
            .context("a peer needs keepalived (Debian and Ubuntu: package keepalived)")?;
        Ok(Self {
            process,
            _scratch: scratch,
        })
    }

    /// Waits until it says something.
    ///
    /// # Errors
    /// It has ended, or does not say it in time.
    pub fn wait_log(&mut self, what: &str, deadline: Duration) -> Result<()> {
        wait_until(deadline, &format!("keepalived says {what:?}"), || {
            let log = self.process.stdout() + &self.process.stderr();
            if log.contains(what) { Ok(()) } else { Err(log) }
        })
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self, deadline: Duration) -> Result<()> {
        self.process.stop(deadline).map(drop)
    }
}
