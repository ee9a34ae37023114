//! A flood: TCP packets with made-up sources, as many a second as are asked for.
//!
//! Frames go out by a packet socket, past the sender's own stack, which never hears of the connections. Whoever answers
//! them finds nobody.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket},
};

use crate::{command::Cmd, netns::Netns};

/// TCP flags: SYN.
pub const SYN: u8 = 0x02;
/// TCP flags: ACK.
pub const ACK: u8 = 0x10;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Packets {
    /// Where to.
    pub target: SocketAddr,
    /// TCP flags.
    pub flags: u8,
    /// How many source addresses take turns: 198.18.0.0 or 2001:db8:ff:: and on.
    pub sources: u32,
    /// Packets a second.
    pub rate: u32,
}

/// A flood under way; it ends with the value.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
}

impl Flood {
    /// Starts it inside a namespace, from an interface to the one at the other end of its line.
    ///
    /// # Errors
    /// There is no such interface, or no packet socket to be had.
    pub fn start(from: (&Netns, &str), to: (&Netns, &str), packets: Packets) -> Result<Self> {
        let (source, destination) = (link_address(from)?, link_address(to)?);
        let socket = from.0.run(|| packet_socket(from.1))??;
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let sender = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            thread::spawn(move || {
                let link = [destination, source].concat();
                let start = Instant::now();
                let mut next = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    let due = start.elapsed().as_secs_f64() * f64::from(packets.rate);
                    if f64::from(next) >= due {
                        thread::park_timeout(Duration::from_millis(1));
                        continue;
                    }
                    let frame = frame(&link, packets, next);
                    // A full queue is no trouble: the next one goes out a moment later.
                    if send(socket.as_raw_fd(), &frame, MsgFlags::empty()).is_ok() {
                        sent.fetch_add(1, Ordering::Relaxed);
                    }
                    next += 1;
                }
            })
        };
        Ok(Self {
            stop,
            sent,
            sender: Some(sender),
        })
    }

    /// Packets sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            let _ended = sender.join();
        }
    }
}

/// A raw socket that sends whole frames by an interface of the calling thread's namespace.
fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
        .context("a packet socket (root is needed)")?;
    let link = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {interface}"))?;
    bind(fd.as_raw_fd(), &link).with_context(|| format!("a packet socket on {interface}"))?;
    Ok(fd)
}

fn link_address((netns, interface): (&Netns, &str)) -> Result<[u8; 6]> {
    let text = Cmd::new("ip")
        .args(["-j", "link", "show", "dev", interface])
        .inside(netns)
        .check()?;
    let links: serde_json::Value = serde_json::from_str(&text)?;
    let address = links.pointer("/0/address").and_then(serde_json::Value::as_str);
    let address = address.with_context(|| format!("{interface} has no link address"))?;
    let bytes: Result<Vec<u8>, _> = address
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect();
    bytes?
        .try_into()
        .map_err(|_| anyhow!("{address}: no link address"))
}

/// A packet, the `number`th, with right checksums.
fn frame(link: &[u8], packets: Packets, number: u32) -> Vec<u8> {
    let host = number % packets.sources.max(1);
    // A port of its own for each turn of an address.
    let port = 1024 + (number / packets.sources.max(1) % 60_000) as u16;
    let mut tcp = Vec::from(port.to_be_bytes());
    tcp.extend(packets.target.port().to_be_bytes());
    tcp.extend(number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    tcp.extend(number.wrapping_mul(0x85eb_ca6b).to_be_bytes());
    tcp.extend([0x60, packets.flags, 0xfa, 0xf0, 0, 0, 0, 0, 2, 4, 5, 0xb4]);
    let mut out = link.to_vec();
    match packets.target.ip() {
        IpAddr::V4(target) => {
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + (host & 0x1_ffff));
            let addresses = [source.octets(), target.octets()].concat();
            fill_checksum(&mut tcp, &addresses);
            let mut ip = vec![0x45, 0, 0, 20 + tcp.len() as u8, 0, 0, 0x40, 0, 64, 6, 0, 0];
            ip.extend(addresses);
            let check = !sum(&ip);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            out.extend([8, 0]);
            out.extend(ip);
        }
        IpAddr::V6(target) => {
            let net = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0xff, 0, 0, 0, 0, 0));
            let source = Ipv6Addr::from(net + (u128::from(host) << 64));
            let addresses = [source.octets(), target.octets()].concat();
            fill_checksum(&mut tcp, &addresses);
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64]);
            out.extend(addresses);
        }
    }
    out.extend(tcp);
    out
}

/// Fills in TCP's checksum (RFC 9293 section 3.1).
fn fill_checksum(tcp: &mut [u8], addresses: &[u8]) {
    let pseudo = [addresses, &[0, 6, 0, tcp.len() as u8]].concat();
    let check = !sum(&[&pseudo, &*tcp].concat());
    tcp[16..18].copy_from_slice(&check.to_be_bytes());
}

/// The sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2);
    let mut sum: u32 = pairs
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_right() {
        for target in ["192.0.2.10:80", "[2001:db8:1::10]:80"] {
            let packets = Packets {
                target: target.parse().unwrap(),
                flags: SYN,
                sources: 70_000,
                rate: 1,
            };
            for number in [0, 1, 69_999, 1 << 31] {
                let frame = frame(&[0; 12], packets, number);
                let (addresses, tcp) = match packets.target.is_ipv4() {
                    true => (&frame[26..34], &frame[34..]),
                    false => (&frame[22..54], &frame[54..]),
                };
                let pseudo = [0, 6, 0, tcp.len() as u8];
                assert_eq!(sum(&[addresses, &pseudo, tcp].concat()), 0xffff);
                if packets.target.is_ipv4() {
                    assert_eq!(sum(&frame[14..34]), 0xffff);
                }
            }
        }
    }
}
