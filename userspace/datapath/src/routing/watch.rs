//! The watch over the kernel's routing: netlink in, [`Ways`] out.
//!
//! Two sockets: one hears what changes, the other asks. Neighbours are followed message by message. Links, routes and
//! rules are asked for anew whenever any of them changes: the kernel says nothing of IPv4 routes that vanish with an
//! interface or an address, so messages alone do not add up. Bursts are gathered for [`GATHER`], and asking is spread so
//! that it never takes more than one part in [`SHARE`] of the time. After a loss (the socket's buffer was full) all is
//! asked for anew; and every [`REFRESH`], because of some settings (an interface's MTU for IPv6) nothing is heard.
//!
//! Next hops are kept fresh, because packets that XDP sends do not count as use. Writes no map: who holds the datapath
//! does that.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use rtnetlink::{
    Handle, IpVersion, MulticastGroup, RouteMessageBuilder,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{RouteNetlinkMessage, rule::RuleMessage},
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, sleep_until},
};

use super::{Neighbor, Routing, Tables, Ways, decode};
use crate::neighbors::{REFRESH, touch};

/// How long changes are gathered before anything is made of them.
const GATHER: Duration = Duration::from_millis(30);

/// Of this many parts of the time one may be spent on asking and working out.
const SHARE: u32 = 5;

/// How long after a failure it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What can change the answer to a packet.
const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv6Rule,
];

/// What must be done before the ways are as they should be.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Due {
    /// Ask for neighbours.
    neighbors: bool,
    /// Ask for links, routes and rules.
    topology: bool,
    /// Work the ways out.
    ways: bool,
}

const EVERYTHING: Due = Due {
    neighbors: true,
    topology: true,
    ways: true,
};

/// The two sockets.
struct Sockets {
    heard: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    handle: Handle,
    tasks: [JoinHandle<()>; 2],
}

impl Sockets {
    fn open() -> io::Result<Self> {
        // First the one that hears: then no change falls between the answer and the first message.
        let (hearing, _, heard) = rtnetlink::new_multicast_connection(&GROUPS)?;
        let (asking, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            heard: heard.map(|(message, _)| message).boxed(),
            handle,
            tasks: [tokio::spawn(hearing), tokio::spawn(asking)],
        })
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Watches the kernel's routing.
#[derive(Debug)]
pub struct Watcher {
    sockets: Option<Sockets>,
    routing: Routing,
    due: Due,
    /// The neighbours that the ways lead over.
    needed: BTreeSet<Neighbor>,
}

impl Watcher {
    /// Opens the sockets in the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When a socket cannot be opened.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            sockets: Some(Sockets::open()?),
            routing: Routing::default(),
            due: EVERYTHING,
            needed: BTreeSet::new(),
        })
    }

    /// Follows the kernel: `backends` are the addresses that a way is wanted to; `ways` gets what is known, after the
    /// first reading; `asked` gets those backends whose next hop the kernel must be asked for, to be kept fresh by
    /// [`Neighbors`](crate::neighbors::Neighbors). Ends when the sender of `backends` is gone.
    pub async fn run(
        mut self,
        mut backends: watch::Receiver<Vec<IpAddr>>,
        ways: watch::Sender<Option<Ways>>,
        asked: watch::Sender<Vec<IpAddr>>,
    ) {
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut wake = Some(Instant::now());
        // Not before this moment: the last time took long.
        let mut earliest = Instant::now();
        let mut failing = false;
        loop {
            tokio::select! {
                message = next(self.sockets.as_mut()) => {
                    match message {
                        Some(message) => self.hear(message),
                        None => {
                            tracing::error!("netlink is silent: the kernel is asked for each packet until it speaks again");
                            self.sockets = None;
                            self.due = EVERYTHING;
                            publish(&ways, Some(Ways::default()));
                        }
                    }
                    if self.due != Due::default() {
                        wake.get_or_insert_with(|| earliest.max(Instant::now() + GATHER));
                    }
                }
                changed = backends.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.due.ways = true;
                    wake = Some(earliest.max(Instant::now()));
                }
                () = at(wake) => {
                    let began = Instant::now();
                    let targets = backends.borrow_and_update().clone();
                    wake = match self.catch_up(&targets).await {
                        Ok(fresh) => {
                            publish(&ways, Some(self.routing.ways(&targets)));
                            publish(&asked, self.routing.asked(&targets));
                            earliest = Instant::now() + began.elapsed() * (SHARE - 1);
                            failing = false;
                            self.touch_all(fresh).await;
                            None
                        }
                        Err(error) => {
                            if !failing {
                                tracing::warn!(%error, "routes cannot be read: the kernel is asked for each packet");
                            }
                            failing = true;
                            self.sockets = None;
                            self.due = EVERYTHING;
                            publish(&ways, Some(Ways::default()));
                            publish(&asked, targets);
                            Some(Instant::now() + RETRY)
                        }
                    };
                }
                _ = tick.tick() => {
                    let needed = self.needed.clone();
                    self.touch_all(needed).await;
                    (self.due.topology, self.due.ways) = (true, true);
                    wake.get_or_insert_with(|| earliest.max(Instant::now()));
                }
            }
        }
    }

    /// Takes in what has changed; what cannot be taken from the message itself is due then.
    fn hear(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        if let NetlinkPayload::Overrun(_) = message.payload {
            tracing::debug!("netlink messages were lost, everything is read anew");
            self.due = EVERYTHING;
            return;
        }
        let NetlinkPayload::InnerMessage(inner) = message.payload else {
            return;
        };
        let (gone, message) = if let RouteNetlinkMessage::NewNeighbour(message) = &inner {
            (false, message)
        } else if let RouteNetlinkMessage::DelNeighbour(message) = &inner {
            (true, message)
        } else {
            (self.due.topology, self.due.ways) = (true, true);
            return;
        };
        let Some((neighbor, mac)) = decode::neighbor(message) else {
            return;
        };
        let before = match mac.filter(|_| !gone) {
            Some(mac) => self.routing.neighbors.insert(neighbor, mac),
            None => self.routing.neighbors.remove(&neighbor),
        };
        if before != mac.filter(|_| !gone) {
            tracing::trace!(next_hop = %neighbor.1, ifindex = neighbor.0, known = mac.is_some() && !gone, "neighbour changed");
            self.due.ways = true;
        }
    }

    /// Asks for what is due. Gives the neighbours that were not needed before.
    async fn catch_up(&mut self, backends: &[IpAddr]) -> Result<BTreeSet<Neighbor>, rtnetlink::Error> {
        if self.sockets.is_none() {
            self.sockets = Sockets::open()
                .map_err(|error| tracing::debug!(%error, "netlink cannot be opened"))
                .ok();
        }
        let Some(handle) = self.sockets.as_ref().map(|sockets| sockets.handle.clone()) else {
            return Err(rtnetlink::Error::RequestFailed);
        };
        if self.due.neighbors {
            let mut found = Vec::new();
            let mut answers = std::pin::pin!(handle.neighbours().get().execute());
            while let Some(message) = answers.try_next().await? {
                found.extend(decode::neighbor(&message));
            }
            let known = found
                .into_iter()
                .filter_map(|(neighbor, mac)| Some((neighbor, mac?)));
            self.routing.neighbors = known.collect();
            self.due.neighbors = false;
        }
        if self.due.topology {
            self.read_topology(&handle).await?;
            self.due.topology = false;
        }
        let needed = self.routing.needed(backends);
        let fresh = needed.difference(&self.needed).copied().collect();
        self.needed = needed;
        self.due.ways = false;
        Ok(fresh)
    }

    async fn read_topology(&mut self, handle: &Handle) -> Result<(), rtnetlink::Error> {
        let mut policy = [false; 2];
        for (family, policy) in [IpVersion::V4, IpVersion::V6].into_iter().zip(&mut policy) {
            *policy = rules(handle, family)
                .await?
                .is_some_and(|rules| decode::is_policy(&rules));
        }
        let mut links = BTreeMap::new();
        let mut answers = std::pin::pin!(handle.link().get().execute());
        while let Some(message) = answers.try_next().await? {
            links.extend(decode::link(&message));
        }
        let mut tables = Tables::default();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for mut message in [v4, v6] {
            // Of every table: those of no interest are left out when the messages are read.
            message.header.table = 0;
            let mut answers = std::pin::pin!(handle.route().get(message).execute());
            while let Some(message) = answers.try_next().await? {
                if let Some(route) = decode::route(&message) {
                    tables.add(route);
                }
            }
        }
        for ((before, now), family) in self.routing.policy.iter().zip(policy).zip(["IPv4", "IPv6"]) {
            if now && !before {
                tracing::warn!(
                    family,
                    "ip rules besides the kernel's own decide about routes: the kernel is asked for each packet, which is slower"
                );
            }
        }
        tracing::debug!(links = links.len(), networks = tables.len(), "routes read");
        self.routing.policy = policy;
        self.routing.set_links(links);
        self.routing.set_tables(tables);
        Ok(())
    }

    async fn touch_all(&self, neighbors: BTreeSet<Neighbor>) {
        let Some(sockets) = &self.sockets else {
            return;
        };
        for (ifindex, next_hop) in neighbors {
            if let Err(error) = touch(&sockets.handle, next_hop, ifindex).await {
                tracing::debug!(%next_hop, ifindex, %error, "next hop cannot be resolved");
            }
        }
    }
}

/// The rules of one family; None if the kernel knows no rules, or not the family.
async fn rules(handle: &Handle, family: IpVersion) -> Result<Option<Vec<RuleMessage>>, rtnetlink::Error> {
    match handle.rule().get(family).execute().try_collect().await {
        Ok(rules) => Ok(Some(rules)),
        Err(rtnetlink::Error::NetlinkError(error))
            if matches!(-error.raw_code(), libc::EOPNOTSUPP | libc::EAFNOSUPPORT) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The next message; None when the socket is gone. Waits for ever without one: it is opened anew when that is due.
async fn next(sockets: Option<&mut Sockets>) -> Option<NetlinkMessage<RouteNetlinkMessage>> {
    match sockets {
        Some(sockets) => sockets.heard.next().await,
        None => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

fn publish<T: PartialEq>(sender: &watch::Sender<T>, value: T) {
    sender.send_if_modified(|present| {
        let changed = *present != value;
        *present = value;
        changed
    });
}

#[cfg(test)]
mod tests;
