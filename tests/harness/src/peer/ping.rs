//! One echo request of ICMP or ICMPv6, and its answer.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Type, code, checksum (the kernel's to fill in), identifier (the kernel's too), sequence number.
const HEADER: usize = 8;

/// Sends one from inside a namespace, with this payload.
///
/// # Errors
/// No answer within the time, another payload in it, or the kernel had an ICMP error for us.
pub fn ping(netns: &Netns, target: IpAddr, payload: &[u8], time: Duration) -> Result<()> {
    let (domain, protocol, request, reply) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    // Who may open such a socket; for both families.
    netns.sysctl("ipv4/ping_group_range", "0 0")?;
    let mut socket = netns.run(|| Socket::new(domain, Type::DGRAM, Some(protocol)))??;
    socket.connect(&SocketAddr::new(target, 0).into())?;
    socket.set_read_timeout(Some(time))?;
    let mut packet = vec![request, 0, 0, 0, 0, 0, 0, 1];
    packet.extend_from_slice(payload);
    socket.write_all(&packet).context("can't send an echo request")?;
    let mut answer = vec![0; 64 << 10];
    let len = socket
        .read(&mut answer)
        .with_context(|| format!("no echo from {target}"))?;
    let answer = answer.get(..len).unwrap_or_default();
    if answer.first() != Some(&reply) || answer.get(HEADER..) != Some(payload) {
        bail!("{target} answered with something else than the echo");
    }
    Ok(())
}
