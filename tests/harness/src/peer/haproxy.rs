//! HAProxy as a peer of the PROXY protocol, in front of weir or behind it. What it does is written by the test, as the
//! sections of its configuration behind `global` and `defaults`.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch};

/// A running HAProxy. Killed when dropped.
#[derive(Debug)]
pub struct Haproxy {
    _process: Process,
    _scratch: Scratch,
}

impl Haproxy {
    /// Starts it inside a namespace with these sections, and waits until it accepts connections at these addresses.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn start(netns: &Netns, sections: &str, listen: &[SocketAddr]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let config = scratch.write(
            "haproxy.cfg",
            format!(
                "global\n  log stderr format raw local0 warning\n\
                 defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n{sections}"
            ),
        )?;
        let cmd = Cmd::new("haproxy").arg("-db").arg("-f").arg(&config);
        let mut process = Process::start("haproxy", &scratch, &cmd.inside(netns))
            .context("a peer needs haproxy (Debian and Ubuntu: package haproxy)")?;
        process.until(Duration::from_secs(10), "haproxy accepts connections", || {
            for addr in listen {
                netns
                    .run(|| TcpStream::connect_timeout(addr, Duration::from_millis(500)))
                    .map_err(|e| format!("{e:#}"))?
                    .map_err(|e| format!("{addr}: {e}"))?;
            }
            Ok(())
        })?;
        Ok(Self {
            _process: process,
            _scratch: scratch,
        })
    }
}
