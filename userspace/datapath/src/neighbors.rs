//! Link addresses of next hops: XDP cannot ask for them, so userspace has the kernel do it.
//!
//! Two causes: a backend is wanted (its next hop is resolved before the first packet, and kept fresh, because packets
//! that XDP forwards do not count as use), and the programs met a next hop without a link address (an event; the packet
//! was dropped, its sender repeats it). Only ever asks the kernel to resolve: writes no address itself.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        neighbour::{NeighbourFlags, NeighbourState},
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia},
    },
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    time::MissedTickBehavior,
};
use weir_abi::NeighborEvent;

/// How often next hops are touched. The kernel takes an entry for stale after 15 to 45 s.
pub(crate) const REFRESH: Duration = Duration::from_secs(15);

/// Events taken from the buffer at once.
const BATCH: usize = 256;

/// The ring buffer that the programs write to.
pub struct NeighborEvents(RingBuf<MapData>);

impl NeighborEvents {
    pub(crate) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// The next event; None when there is none now.
    pub fn next_event(&mut self) -> Option<(IpAddr, u32)> {
        while let Some(item) = self.0.next() {
            // An item of another size was written by a program of another layout: it says nothing.
            if let Some(event) = decode(&item) {
                return Some(event);
            }
        }
        None
    }
}

impl AsRawFd for NeighborEvents {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for NeighborEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for NeighborEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NeighborEvents").finish_non_exhaustive()
    }
}

/// Next hop and interface of an event as it lies in the buffer.
fn decode(item: &[u8]) -> Option<(IpAddr, u32)> {
    let item: &[u8; size_of::<NeighborEvent>()] = item.try_into().ok()?;
    let (addr, rest) = item.split_first_chunk::<16>()?;
    let (ifindex, _) = rest.split_first_chunk::<4>()?;
    let ip = IpAddr::from(*addr).to_canonical();
    Some((ip, u32::from_ne_bytes(*ifindex)))
}

/// Keeps next hops resolved.
#[derive(Debug)]
pub struct Neighbors {
    handle: Handle,
    events: Option<AsyncFd<NeighborEvents>>,
}

impl Neighbors {
    /// Opens a netlink socket in the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn new(events: Option<NeighborEvents>) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let events = match events {
            None => None,
            // SAFETY: the ring buffer holds its map's descriptor open and the same for as long as it lives; it moves
            // into the AsyncFd, which never gives it out again but by reference.
            Some(events) => Some(unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }?),
        };
        Ok(Self { handle, events })
    }

    /// Resolves the next hops of these addresses and keeps them fresh, and answers the programs' events. Ends when the
    /// sender of `targets` is gone.
    pub async fn run(mut self, mut targets: watch::Receiver<Vec<IpAddr>>) {
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = targets.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tick.reset_immediately();
                }
                _ = tick.tick() => {
                    let targets = targets.borrow_and_update().clone();
                    for target in targets {
                        self.keep(target).await;
                    }
                }
                missing = missing(self.events.as_mut()) => {
                    for (next_hop, ifindex) in missing {
                        tracing::debug!(%next_hop, ifindex, "resolving a next hop that a packet needs");
                        if let Err(error) = self.resolve(next_hop, ifindex).await {
                            tracing::debug!(%next_hop, ifindex, %error, "next hop cannot be resolved");
                        }
                    }
                }
            }
        }
    }

    /// Has the kernel resolve the link address of a next hop, or confirm it if it is stale.
    ///
    /// # Errors
    /// When the kernel refuses (the interface is gone, or has no link addresses).
    pub async fn resolve(&self, next_hop: IpAddr, ifindex: u32) -> Result<(), rtnetlink::Error> {
        touch(&self.handle, next_hop, ifindex).await
    }

    /// The next hop of an address by the kernel's routes; None for addresses of this box.
    ///
    /// # Errors
    /// When there is no route.
    pub async fn next_hop(&self, target: IpAddr) -> Result<Option<(IpAddr, u32)>, rtnetlink::Error> {
        let message = match target {
            IpAddr::V4(v4) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(v4, 32)
                .build(),
            IpAddr::V6(v6) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(v6, 128)
                .build(),
        };
        let mut routes = Box::pin(self.handle.route().get(message).execute());
        Ok(routes.try_next().await?.and_then(|route| via(&route, target)))
    }

    async fn keep(&self, target: IpAddr) {
        let result = match self.next_hop(target).await {
            Ok(Some((next_hop, ifindex))) => self.resolve(next_hop, ifindex).await,
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(error) = result {
            tracing::debug!(backend = %target, %error, "the next hop of a backend cannot be resolved");
        }
    }
}

/// Has the kernel resolve a link address, or confirm it if it is stale.
pub(crate) async fn touch(handle: &Handle, next_hop: IpAddr, ifindex: u32) -> Result<(), rtnetlink::Error> {
    let request = handle.neighbours().add(ifindex, next_hop);
    // NTF_USE is what a packet would do to the entry; an address or state is not given.
    request
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace()
        .execute()
        .await
}

/// Waits for events and takes those there are, each next hop once. Waits for ever without a buffer.
async fn missing(events: Option<&mut AsyncFd<NeighborEvents>>) -> BTreeSet<(IpAddr, u32)> {
    let Some(events) = events else {
        return std::future::pending().await;
    };
    let mut found = BTreeSet::new();
    loop {
        let mut ready = match events.readable_mut().await {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(%error, "neighbor events cannot be waited for");
                return std::future::pending().await;
            }
        };
        for _ in 0..BATCH {
            match ready.get_inner_mut().next_event() {
                Some(event) => drop(found.insert(event)),
                None => {
                    ready.clear_ready();
                    break;
                }
            }
        }
        if !found.is_empty() {
            return found;
        }
    }
}

/// Where a route leads; None if it ends on this box or leads nowhere.
fn via(route: &RouteMessage, target: IpAddr) -> Option<(IpAddr, u32)> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    let (mut hop, mut interface) = (target, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            interface = Some(*index);
        } else if let RouteAttribute::Gateway(RouteAddress::Inet(v4))
        | RouteAttribute::Via(RouteVia::Inet(v4)) = attribute
        {
            hop = (*v4).into();
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(v6))
        | RouteAttribute::Via(RouteVia::Inet6(v6)) = attribute
        {
            hop = (*v6).into();
        }
    }
    Some((hop, interface?))
}

#[cfg(test)]
mod tests {
    use weir_abi::Addr16;

    use super::*;

    #[test]
    fn events_are_decoded_as_they_lie_in_the_buffer() {
        for text in ["192.0.2.1", "2001:db8::1"] {
            let ip: IpAddr = text.parse().unwrap();
            let mut bytes = Addr16::from(ip).octets().to_vec();
            bytes.extend(7_u32.to_ne_bytes());
            bytes.extend([0; 4]);
            assert_eq!(decode(&bytes), Some((ip, 7)));
            assert_eq!(decode(&bytes[1..]), None);
        }
    }
}
