//! unbound as a DNS backend, and dig as its client.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};

use crate::{
    command::Cmd,
    netns::Netns,
    process::{Process, tail},
    scratch::Scratch,
    wait::wait_until,
};

/// A name whose TXT record is the name of the server that answers.
pub const WHO: &str = "who.weir.test.";
/// A name with a TXT answer of some 3 KiB: over UDP it is truncated, so dig asks again over TCP.
pub const BIG: &str = "big.weir.test.";

/// A running unbound on port 53. Killed when dropped.
#[derive(Debug)]
pub struct Unbound {
    process: Process,
    _scratch: Scratch,
}

impl Unbound {
    /// Starts it inside a namespace and waits until it answers over UDP and TCP on every address.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn start(netns: &Netns, name: &str, listen: &[IpAddr]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let interfaces: String = listen
            .iter()
            .map(|addr| format!("  interface: {addr}@53\n"))
            .collect();
        let big: String = (0..16)
            .map(|i| {
                format!(
                    "  local-data: '{BIG} 60 IN TXT \"{name} {i} {}\"'\n",
                    "x".repeat(180)
                )
            })
            .collect();
        let config = format!(
            "server:\n{interfaces}  do-daemonize: no\n  chroot: \"\"\n  username: \"\"\n  directory: \"{dir}\"\n  \
             pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  num-threads: 1\n  module-config: \"iterator\"\n  \
             access-control: 0.0.0.0/0 allow\n  access-control: ::/0 allow\n  max-udp-size: 1232\n  \
             local-zone: \"weir.test.\" static\n  local-data: '{WHO} 60 IN TXT \"{name}\"'\n{big}\
             remote-control:\n  control-enable: no\n",
            dir = scratch.path().display(),
        );
        let path = scratch.write("unbound.conf", config)?;
        let program = if std::path::Path::new("/usr/sbin/unbound").exists() {
            "/usr/sbin/unbound"
        } else {
            "unbound"
        };
        let cmd = Cmd::new(program).args(["-d", "-c"]).arg(path).inside(netns);
        let process = Process::start("unbound", &scratch, &cmd)
            .context("a DNS backend needs unbound (Debian and Ubuntu: package unbound)")?;
        let mut unbound = Self {
            process,
            _scratch: scratch,
        };
        wait_until(
            Duration::from_secs(10),
            &format!("unbound {name} answers"),
            || {
                if let Ok(Some(status)) = unbound.process.ended() {
                    return Err(format!(
                        "unbound has ended ({status}): {}",
                        tail(&unbound.process.stderr())
                    ));
                }
                for (addr, tcp) in listen.iter().flat_map(|addr| [(*addr, false), (*addr, true)]) {
                    let answer = dig(netns, addr, 53, WHO, tcp).map_err(|e| format!("{e:#}"))?;
                    if answer != [name] {
                        return Err(format!("{addr} answered {answer:?}"));
                    }
                }
                Ok(())
            },
        )?;
        Ok(unbound)
    }
}

/// Asks for TXT records: the strings of the answer, sorted. One try of 2 s.
///
/// # Errors
/// dig is not installed, or no answer came.
pub fn dig(netns: &Netns, server: IpAddr, port: u16, name: &str, tcp: bool) -> Result<Vec<String>> {
    let text = Cmd::new("dig")
        .args([
            "+short",
            "+tries=1",
            "+time=2",
            "+noedns",
            if tcp { "+tcp" } else { "+notcp" },
        ])
        .args(["-p", &port.to_string(), &format!("@{server}"), name, "TXT"])
        .inside(netns)
        .check()?;
    let mut strings: Vec<String> = text
        .lines()
        .map(|line| line.trim_matches('"').to_owned())
        .collect();
    strings.sort();
    Ok(strings)
}
