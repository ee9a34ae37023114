//! BIRD as the routing daemon beside weir, and as the router that it tells. What it does is written by the test, as its
//! configuration behind `router id` and the protocol that reads interfaces.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch};

/// A running BIRD. Killed when dropped; the routes that it has given to the kernel go with its namespace.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    scratch: Scratch,
}

impl Bird {
    /// Starts it inside a namespace.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn start(netns: &Netns, id: &str, sections: &str) -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = scratch.write(
            "bird.conf",
            format!("log stderr all;\nrouter id {id};\nprotocol device {{ scan time 1; }}\n{sections}"),
        )?;
        let socket = scratch.join("bird.ctl");
        let cmd = Cmd::new("bird")
            .arg("-f")
            .arg("-c")
            .arg(&config)
            .arg("-s")
            .arg(&socket)
            .arg("-P")
            .arg(scratch.join("bird.pid"));
        let mut process = Process::start("bird", &scratch, &cmd.inside(netns))
            .context("a peer needs bird (Debian and Ubuntu: package bird2)")?;
        process.until(Duration::from_secs(10), "bird answers", || {
            let asked = Cmd::new("birdc")
                .arg("-s")
                .arg(&socket)
                .args(["show", "status"])
                .check();
            asked.map(drop).map_err(|e| format!("{e:#}"))
        })?;
        Ok(Self { process, scratch })
    }

    /// What it says of protocols and routes, for an error.
    pub fn story(&self) -> String {
        let ask = |what: [&str; 3]| {
            let socket = self.scratch.join("bird.ctl");
            let asked = Cmd::new("birdc").arg("-s").arg(&socket).args(what).check();
            asked.unwrap_or_else(|e| format!("{e:#}"))
        };
        [
            ask(["show", "protocols", "all"]),
            ask(["show", "route", "all"]),
            self.process.stderr(),
        ]
        .join("\n")
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
