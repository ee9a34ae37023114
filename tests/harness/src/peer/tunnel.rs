//! The far end of `forward = "ipip"`: takes packets out of tunnels inside a backend's namespace.
//!
//! The kernel of a test machine need not have a tunnel device. Here a raw socket per outer and inner family receives
//! what comes by protocol 4 or 41, and another one sends the inner packet as it is to its destination, which must be an
//! address of the namespace's own `lo`: it arrives there with the client as its source. Checksums are verified on the
//! way in, so a packet that was changed on its way is lost. Answers are the namespace's own and take its routes.

use std::{
    io::Read as _,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{lab::Family, netns::Netns};

/// How long a thread waits before it looks whether it is to stop.
const TICK: Duration = Duration::from_millis(20);
/// IPPROTO_RAW: what is sent begins with its IP header.
const RAW: i32 = 255;

/// The end of tunnels over both families. Stops when dropped.
#[derive(Debug)]
pub struct Tunnel {
    ways: Vec<Arc<Way>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Way {
    outer: Family,
    inner: Family,
    packets: AtomicU64,
}

impl Tunnel {
    /// Opens it inside a namespace.
    ///
    /// # Errors
    /// Not root.
    pub fn start(netns: &Netns) -> Result<Self> {
        let mut tunnel = Self {
            ways: Vec::new(),
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for (outer, inner) in Family::ALL.iter().flat_map(|o| Family::ALL.map(|i| (*o, i))) {
            // RFC 2003 and RFC 4213.
            let carried = match inner {
                Family::V4 => 4,
                Family::V6 => 41,
            };
            let (receive, send) = netns
                .run(|| {
                    let receive = Socket::new(domain(outer), Type::RAW, Some(Protocol::from(carried)))?;
                    receive.set_read_timeout(Some(TICK))?;
                    receive.set_recv_buffer_size(4 << 20)?;
                    let send = Socket::new(domain(inner), Type::RAW, Some(Protocol::from(RAW)))?;
                    Ok::<_, std::io::Error>((receive, send))
                })?
                .with_context(|| format!("no raw socket for tunnels in {}", netns.name()))?;
            let way = Arc::new(Way {
                outer,
                inner,
                packets: AtomicU64::new(0),
            });
            tunnel.ways.push(Arc::clone(&way));
            let stop = Arc::clone(&tunnel.stop);
            tunnel
                .threads
                .push(thread::spawn(move || way.carry(&receive, &send, &stop)));
        }
        Ok(tunnel)
    }

    /// Packets taken out so far, of these families.
    pub fn packets(&self, outer: Family, inner: Family) -> u64 {
        self.ways
            .iter()
            .filter(|way| way.outer == outer && way.inner == inner)
            .map(|way| way.packets.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so already.
            let _ended = thread.join();
        }
    }
}

impl Way {
    fn carry(&self, mut receive: &Socket, send: &Socket, stop: &AtomicBool) {
        let mut buffer = vec![0; 64 << 10];
        while !stop.load(Ordering::Relaxed) {
            let Ok(len) = receive.read(&mut buffer) else {
                continue;
            };
            let packet = buffer.get(..len).unwrap_or_default();
            let Some(inner) = self.inner(packet) else { continue };
            let Some(destination) = destination(self.inner, inner) else {
                continue;
            };
            self.packets.fetch_add(1, Ordering::Relaxed);
            // What can't be delivered is lost, as packets are: whoever waits for it complains.
            let _sent = send.send_to(inner, &destination.into());
        }
    }

    /// A raw socket hands over the header of IPv4, but not that of IPv6.
    fn inner<'p>(&self, packet: &'p [u8]) -> Option<&'p [u8]> {
        match self.outer {
            Family::V4 => packet.get(usize::from(packet.first()? & 15) * 4..),
            Family::V6 => Some(packet),
        }
    }
}

fn domain(family: Family) -> Domain {
    match family {
        Family::V4 => Domain::IPV4,
        Family::V6 => Domain::IPV6,
    }
}

fn destination(family: Family, packet: &[u8]) -> Option<SocketAddr> {
    match family {
        Family::V4 => {
            let bytes: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv4Addr::from(bytes).into(), 0))
        }
        Family::V6 => {
            let bytes: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some(SocketAddr::new(Ipv6Addr::from(bytes).into(), 0))
        }
    }
}
