//! nsd as a DNS backend, and dig as its client.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result};

use crate::{command::Cmd, netns::Netns, process::Process, scratch::Scratch};

/// A name whose TXT record is the name of the server that answers.
pub const WHO: &str = "who.weir.test.";
/// A name with a TXT answer of some 3 KiB: over UDP it is truncated, so dig asks again over TCP.
pub const BIG: &str = "big.weir.test.";

/// A running nsd on port 53. Killed when dropped.
#[derive(Debug)]
pub struct Nsd {
    process: Process,
    _scratch: Scratch,
}

impl Nsd {
    /// Starts it inside a namespace and waits until it answers over UDP and TCP on every address.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn start(netns: &Netns, name: &str, listen: &[IpAddr]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let dir = scratch.path().display();
        let addresses: String = listen
            .iter()
            .map(|addr| format!("  ip-address: {addr}@53\n"))
            .collect();
        let config = format!(
            "server:\n{addresses}  server-count: 1\n  username: \"\"\n  chroot: \"\"\n  zonesdir: \"{dir}\"\n  \
             database: \"\"\n  pidfile: \"\"\n  xfrdfile: \"{dir}/xfrd.state\"\n  xfrdir: \"{dir}\"\n  \
             zonelistfile: \"{dir}/zone.list\"\n  rrl-ratelimit: 0\n  ipv4-edns-size: 4096\n  \
             ipv6-edns-size: 4096\nremote-control:\n  control-enable: no\n\
             zone:\n  name: weir.test\n  zonefile: weir.test.zone\n"
        );
        let big: String = (0..16)
            .map(|i| format!("{BIG} TXT \"{name} {i} {}\"\n", "x".repeat(180)))
            .collect();
        let zone = format!(
            "$TTL 60\nweir.test. SOA {name}.weir.test. root.weir.test. 1 60 60 60 60\nweir.test. NS {name}.weir.test.\n{WHO} TXT \"{name}\"\n{big}"
        );
        scratch.write("weir.test.zone", zone)?;
        let path = scratch.write("nsd.conf", config)?;
        let cmd = Cmd::new("nsd").args(["-d", "-c"]).arg(path).inside(netns);
        let process = Process::start("nsd", &scratch, &cmd)
            .context("a DNS backend needs nsd (Debian and Ubuntu: package nsd)")?;
        let mut nsd = Self {
            process,
            _scratch: scratch,
        };
        nsd.process
            .until(Duration::from_secs(10), &format!("nsd {name} answers"), || {
                for (addr, tcp) in listen.iter().flat_map(|addr| [(*addr, false), (*addr, true)]) {
                    let answer = dig(netns, addr, 53, WHO, tcp).map_err(|e| format!("{e:#}"))?;
                    if answer != [name] {
                        return Err(format!("{addr} answered {answer:?}"));
                    }
                }
                Ok(())
            })?;
        Ok(nsd)
    }
}

/// Asks for TXT records: the strings of the answer, sorted. One try of 2 s.
///
/// # Errors
/// dig is not installed, or no answer came.
pub fn dig(netns: &Netns, server: IpAddr, port: u16, name: &str, tcp: bool) -> Result<Vec<String>> {
    let tcp = if tcp { "+tcp" } else { "+notcp" };
    ask(netns, server, port, name, &["+noedns", tcp])
}

/// As [`dig`], over UDP whatever the size: an answer of up to 4096 bytes comes in one datagram, in fragments if it must.
///
/// # Errors
/// As [`dig`]; or the answer was truncated.
pub fn dig_large(netns: &Netns, server: IpAddr, port: u16, name: &str) -> Result<Vec<String>> {
    ask(netns, server, port, name, &["+bufsize=4096", "+ignore", "+notcp"])
}

fn ask(netns: &Netns, server: IpAddr, port: u16, name: &str, how: &[&str]) -> Result<Vec<String>> {
    let text = Cmd::new("dig")
        .args(["+short", "+tries=1", "+time=2"])
        .args(how)
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
