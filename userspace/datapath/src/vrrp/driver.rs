//! The thread that runs machines: what arrives and the time go in, adverts, announcements and [`Hands`] are what comes out.
//!
//! ```text
//!   links ──packets──▶ judge ──▶ machine ──▶ adverts, frames ──▶ links
//!   owner ──orders───▶           │  └──────▶ lease, take, give ──▶ hands
//!                                └─────────▶ reports ──▶ owner
//! ```
//!
//! One thread for all groups, since one that sleeps makes all of them late. It runs before all ordinary threads
//! (`SCHED_FIFO`) if it may; it waits for nothing but its links, its owner and the time. What is wrong with one packet or one
//! advert is reported and changes nothing.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::{
        eventfd::{EfdFlags, EventFd},
        time::TimeSpec,
    },
};
use weir_core::vrrp::{
    Family,
    accept::{Refused, Rules, Senders, Signatures, V2, judge},
    announce,
    auth::{Keys, Mode, Sequence, Signer, Window},
    machine::{Config, Heard, Machine, Output, RouterKey, State},
    wire::{self, Checksum, Ends, Message},
};

use super::{
    link::Link,
    report::{Report, Reported},
    ring::Ring,
    watch::Watch,
};
use crate::sys::packet::run_in_real_time;

/// Above the kernel's threads that work for others (`ksoftirqd` is ordinary), below those that may not wait (50).
const REAL_TIME: i32 = 40;

/// An advert with 255 addresses of IPv6 and its signature, in its packet.
const LONGEST: usize = 4_352;

/// Packets of one link that are taken before the next one's turn.
const TURN: usize = 64;

/// A group of virtual routers.
pub struct Group {
    /// Its name.
    pub name: Arc<str>,
    /// What the machine is to do. Its routers are those of [`Self::routers`], in the same order.
    pub config: Config,
    /// Its routers.
    pub routers: Vec<Virtual>,
    /// How adverts are signed.
    pub signing: Option<Signing>,
    /// It was master in the process before, and its adverts that are the longest ago left then.
    pub last_sent: Option<Instant>,
}

/// One virtual router on its link.
#[derive(Debug)]
pub struct Virtual {
    /// The link.
    pub link: Link,
    /// Its addresses, each once.
    pub addresses: Vec<IpAddr>,
    /// The boxes it shares them with, if adverts go to each of them. None: to the group.
    pub peers: Vec<IpAddr>,
    /// How checksums are made.
    pub checksum: Checksum,
    /// What is thought of version 2.
    pub v2: V2,
    /// Hosts may take the box for a router.
    pub is_router: bool,
}

/// How a group signs.
pub struct Signing {
    /// The keys.
    pub keys: Box<dyn Keys + Send>,
    /// Number of the one that signs.
    pub key: u8,
    /// What becomes of adverts of others that are not signed as they should be.
    pub mode: Mode,
    /// The numbers of adverts.
    pub sequence: Sequence,
}

/// Who carries out what a group's state means. Called by the driver's thread: adverts wait meanwhile.
pub trait Hands: Send {
    /// The group's addresses are answered for until then, or not at all.
    fn lease(&mut self, group: usize, until: Option<Instant>);
    /// The addresses are to be this box's.
    fn take(&mut self, group: usize);
    /// The addresses are not, or no longer, to be this box's.
    fn give(&mut self, group: usize);
}

/// What the owner wants.
enum Order {
    Demote { group: usize, total: u32 },
    Stop,
}

/// The thread, while it runs. Dropped, it stops at once, and whoever is master says that it leaves.
#[derive(Debug)]
pub struct Driver {
    orders: Sender<Order>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    is_real_time: io::Result<()>,
}

impl Driver {
    /// Starts the thread in the network namespace of the calling one; all groups take part at once.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(
        groups: Vec<Group>,
        hands: impl Hands + 'static,
        reports: Sender<Report>,
    ) -> io::Result<Self> {
        Self::start_with(groups, hands, reports, None)
    }

    /// The same, with adverts that the kernel's programs hand out: on the links that they are attached to.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(
        groups: Vec<Group>,
        hands: impl Hands + 'static,
        reports: Sender<Report>,
        adverts: Option<Ring>,
    ) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let bell = Arc::new(bell);
        let (orders, inbox) = channel();
        let (started, is_started) = channel();
        let ring = Arc::clone(&bell);
        let watch = Watch::new()?;
        let body = move || {
            let _ = started.send(run_in_real_time(REAL_TIME));
            Loop::new(groups, hands, reports, watch, adverts).run(&inbox, &ring);
        };
        let thread = thread::Builder::new().name("vrrp".into()).spawn(body)?;
        let is_real_time = is_started.recv().map_err(io::Error::other)?;
        Ok(Self {
            orders,
            bell,
            thread: Some(thread),
            is_real_time,
        })
    }

    /// Whether the thread runs before all ordinary ones. If not, a busy box makes it late, and then it gives its
    /// addresses away.
    ///
    /// # Errors
    /// The kernel's reason: the process needs root, `CAP_SYS_NICE` or a limit of real-time priority, and real-time shares of
    /// its control group.
    pub const fn is_real_time(&self) -> Result<(), &io::Error> {
        match &self.is_real_time {
            Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Sets how much speaks against this box as master of a group.
    pub fn demote(&self, group: usize, total: u32) {
        self.order(Order::Demote { group, total });
    }

    fn order(&self, order: Order) {
        // A thread that is gone takes no orders.
        if self.orders.send(order).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A group, while it runs.
struct Running {
    routers: Vec<Virtual>,
    /// Whether each router's link can be used.
    usable: Vec<bool>,
    signing: Option<Signing>,
    window: Window,
    machine: Machine,
}

struct Loop<H> {
    groups: Vec<Running>,
    /// All routers of all groups.
    known: BTreeSet<RouterKey>,
    watch: Watch,
    adverts: Option<Ring>,
    hands: H,
    reports: Sender<Report>,
    buffer: Vec<u8>,
    advert: Vec<u8>,
}

impl<H: Hands> Loop<H> {
    fn new(
        groups: Vec<Group>,
        hands: H,
        reports: Sender<Report>,
        watch: Watch,
        adverts: Option<Ring>,
    ) -> Self {
        let now = Instant::now();
        let run = |group: Group| {
            let mut machine = Machine::new(group.config, now);
            machine.start(group.last_sent, now);
            Running {
                usable: vec![true; group.routers.len()],
                routers: group.routers,
                signing: group.signing,
                window: Window::default(),
                machine,
            }
        };
        let routers = groups.iter().flat_map(|group| &group.config.routers);
        let mut it = Self {
            known: routers.map(|router| router.key.clone()).collect(),
            watch,
            adverts,
            groups: groups.into_iter().map(run).collect(),
            hands,
            reports,
            buffer: vec![0; LONGEST],
            advert: Vec::with_capacity(LONGEST),
        };
        for group in 0..it.groups.len() {
            let is_master = it
                .groups
                .get(group)
                .is_some_and(|g| g.machine.state() == State::Master);
            if !is_master {
                // What a process before may have left.
                it.hands.lease(group, None);
                it.hands.give(group);
            }
            it.carry_out(group);
        }
        it.look_at_links();
        it.hear();
        it
    }

    fn run(&mut self, inbox: &Receiver<Order>, bell: &EventFd) {
        loop {
            // What has arrived counts before the time does: a thread that was late hears first what it missed.
            self.receive();
            if self.watch.has_news() {
                self.look_at_links();
            }
            loop {
                match inbox.try_recv() {
                    Ok(Order::Demote { group, total }) => {
                        if let Some(running) = self.groups.get_mut(group) {
                            running.machine.set_demotion(total, Instant::now());
                        }
                        self.carry_out(group);
                    }
                    Ok(Order::Stop) | Err(TryRecvError::Disconnected) => return self.stop(),
                    Err(TryRecvError::Empty) => break,
                }
            }
            for group in 0..self.groups.len() {
                if let Some(running) = self.groups.get_mut(group) {
                    running.machine.handle_timeout(Instant::now());
                }
                self.carry_out(group);
            }
            self.wait(bell);
        }
    }

    /// Until something arrives, is ordered or due.
    fn wait(&self, bell: &EventFd) {
        let links = self.groups.iter().flat_map(|group| &group.routers);
        let mut waited: Vec<_> = links
            .map(|router| PollFd::new(router.link.as_fd(), PollFlags::POLLIN))
            .collect();
        waited.push(PollFd::new(bell.as_fd(), PollFlags::POLLIN));
        waited.push(PollFd::new(self.watch.as_fd(), PollFlags::POLLIN));
        if let Some(adverts) = &self.adverts {
            waited.push(PollFd::new(adverts.as_fd(), PollFlags::POLLIN));
        }
        let due = self
            .groups
            .iter()
            .filter_map(|group| group.machine.deadline())
            .min();
        let time = due.map(|due| TimeSpec::from(due.saturating_duration_since(Instant::now())));
        // Whatever woke it, or failed: all is looked at anyway.
        let _ = ppoll(&mut waited, time, None);
        let _ = bell.read();
    }

    /// Whether the links of all routers can be used, now that something has changed.
    fn look_at_links(&mut self) {
        let mut is_other = false;
        for group in 0..self.groups.len() {
            let Some(running) = self.groups.get_mut(group) else {
                return;
            };
            let routers = running.routers.iter_mut().zip(&mut running.usable).enumerate();
            for (router, (it, before)) in routers {
                let mut is_usable = it.link.is_usable();
                // One that has vanished may be back, as another.
                if !is_usable && let Ok(link) = it.link.reopen() {
                    is_usable = link.is_usable();
                    is_other |= link.index() != it.link.index();
                    it.link = link;
                }
                if std::mem::replace(before, is_usable) != is_usable {
                    running.machine.set_usable(router, is_usable, Instant::now());
                    let what = Reported::Usable { router, is_usable };
                    let _ = self.reports.send(Report { group, what });
                }
            }
            self.carry_out(group);
        }
        if is_other {
            self.hear();
        }
    }

    /// Has the kernel's programs hand out what is for these links, as they are now.
    fn hear(&self) {
        let Some(adverts) = &self.adverts else { return };
        let routers = self.groups.iter().flat_map(|group| &group.routers);
        let places: Vec<_> = routers
            .flat_map(|it| {
                let own = it.link.own();
                [Family::of(own).group(), own].map(|to| (it.link.index(), to))
            })
            .collect();
        // Then the sockets get them.
        if let Err(error) = adverts.hear(&places) {
            tracing::warn!(%error, "adverts of virtual routers come by the sockets alone");
        }
    }

    /// Takes what the kernel's programs have handed out.
    fn receive_handed_out(&mut self) {
        for _ in 0..TURN {
            let adverts = self.adverts.as_mut();
            let Some(arrived) = adverts.and_then(|adverts| adverts.receive(&mut self.buffer)) else {
                return;
            };
            // As by their sockets, each router on the link hears all of its family.
            let is_v4 = self.buffer.first().is_some_and(|first| first >> 4 == 4);
            for group in 0..self.groups.len() {
                let routers = self.groups.get(group).map_or(0, |group| group.routers.len());
                for router in 0..routers {
                    let it = self.groups.get(group).and_then(|group| group.routers.get(router));
                    if it.is_some_and(|it| {
                        it.link.index() == arrived.ifindex && it.link.own().is_ipv4() == is_v4
                    }) {
                        self.consider(group, router, arrived.len, arrived.at);
                    }
                }
            }
        }
    }

    fn receive(&mut self) {
        self.receive_handed_out();
        for group in 0..self.groups.len() {
            let routers = self.groups.get(group).map_or(0, |group| group.routers.len());
            for router in 0..routers {
                for _ in 0..TURN {
                    if !self.receive_one(group, router) {
                        break;
                    }
                }
            }
        }
    }

    /// Takes one packet of a link. Whether there was one.
    fn receive_one(&mut self, group: usize, router: usize) -> bool {
        let Some(it) = self.groups.get(group).and_then(|group| group.routers.get(router)) else {
            return false;
        };
        // A link that is down says so once; what is lost meanwhile is lost.
        let Ok(Some((len, arrived))) = it.link.receive(&mut self.buffer) else {
            return false;
        };
        self.consider(group, router, len, arrived);
        true
    }

    /// Judges the packet in the buffer, which a router has received.
    fn consider(&mut self, group: usize, router: usize, len: usize, arrived: Instant) {
        let Some(running) = self.groups.get_mut(group) else {
            return;
        };
        let Some(it) = running.routers.get(router) else {
            return;
        };
        let bytes = self.buffer.get(..len).unwrap_or_default();
        let told = |what| {
            let _ = self.reports.send(Report { group, what });
        };
        let refused = |source, reason| told(Reported::Refused { source, reason });
        let packet = match wire::packet(bytes) {
            Ok(packet) => packet,
            Err(reason) => {
                refused(None, reason.into());
                return;
            }
        };
        let source = packet.ends.source();
        let advert = match wire::read(&packet) {
            Ok(advert) => advert,
            Err(reason) => {
                refused(Some(source), reason.into());
                return;
            }
        };
        let Some(config) = running.machine.config().routers.get(router) else {
            return;
        };
        if advert.vrid != config.key.vrid {
            // Each of several routers on a link hears all; the first one speaks for them.
            let on_link =
                |key: &&RouterKey| key.interface == config.key.interface && key.family == config.key.family;
            let mut others = self.known.iter().filter(on_link);
            let speaks = others.clone().next() == Some(&config.key);
            if speaks && !others.any(|key| key.vrid == advert.vrid) {
                refused(Some(source), Refused::UnknownVrid);
            }
            return;
        }
        let rules = Rules {
            own: it.link.own(),
            addresses: &it.addresses,
            interval: running.machine.config().interval,
            senders: if it.peers.is_empty() {
                Senders::Group
            } else {
                Senders::Peers(&it.peers)
            },
            v2: it.v2,
        };
        let signatures = running.signing.as_ref().map(|signing| Signatures {
            keys: &*signing.keys,
            mode: signing.mode,
            window: &mut running.window,
        });
        match judge(&rules, &packet.ends, &advert, signatures) {
            Ok(None) => {}
            Ok(Some(reason)) => told(Reported::Unsigned { source, reason }),
            Err(reason) => {
                refused(Some(source), reason);
                return;
            }
        }
        if advert.checksum != it.checksum
            && packet.ends.source().is_ipv4()
            && advert.version == wire::Version::V3
        {
            told(Reported::OtherChecksum {
                source,
                checksum: advert.checksum,
            });
        }
        let heard = Heard {
            source,
            priority: advert.priority,
            interval: advert.interval,
            arrived,
        };
        running.machine.handle_advert(router, &heard, Instant::now());
        self.carry_out(group);
    }

    fn carry_out(&mut self, group: usize) {
        let Some(running) = self.groups.get_mut(group) else {
            return;
        };
        let told = |what| {
            let _ = self.reports.send(Report { group, what });
        };
        while let Some(output) = running.machine.poll_output() {
            match output {
                Output::Shut => self.hands.lease(group, None),
                Output::Lease(until) => self.hands.lease(group, Some(until)),
                Output::Take => self.hands.take(group),
                Output::Give => self.hands.give(group),
                Output::Advert { router, priority } => {
                    let sent = running.send(router, priority, &mut self.advert);
                    running.machine.sent(router, sent.is_ok(), Instant::now());
                    if let Err(cause) = sent {
                        told(Reported::NotSent { router, cause });
                    }
                }
                Output::Announce => {
                    for (router, it) in running.routers.iter().enumerate() {
                        for ip in &it.addresses {
                            let frame = announce::frame(it.link.mac(), *ip, it.is_router);
                            if let Err(cause) = it.link.announce(&frame) {
                                told(Reported::NotSent { router, cause });
                            }
                        }
                    }
                }
                Output::Changed(change) => told(Reported::Changed(change)),
                Output::Rival(rival) => told(Reported::Rival(rival)),
                Output::Late(by) => told(Reported::Late(by)),
            }
        }
    }

    fn stop(&mut self) {
        for group in 0..self.groups.len() {
            if let Some(running) = self.groups.get_mut(group) {
                running.machine.stop(Instant::now());
            }
            self.carry_out(group);
        }
    }
}

impl Running {
    /// Sends an advert of one router, to the group or to every peer. That it left for one of them is enough for the others
    /// to be told of a failure, not for the lease.
    fn send(&mut self, router: usize, priority: u8, advert: &mut Vec<u8>) -> io::Result<()> {
        let gone = || io::Error::other("no such router");
        let it = self.routers.get(router).ok_or_else(gone)?;
        let config = self.machine.config();
        let key = &config.routers.get(router).ok_or_else(gone)?.key;
        let message = Message {
            vrid: key.vrid,
            priority,
            interval: config.interval,
            addresses: &it.addresses,
            checksum: it.checksum,
        };
        let group = [key.family.group()];
        let receivers: &[IpAddr] = if it.peers.is_empty() { &group } else { &it.peers };
        let mut sent = Ok(());
        for to in receivers {
            let ends = Ends::new(it.link.own(), *to).ok_or_else(gone)?;
            let signer = self.signing.as_mut().map(|signing| {
                let sequence = signing.sequence.next();
                let signer = Signer {
                    key: signing.key,
                    sequence,
                };
                (signer, &*signing.keys as &dyn Keys)
            });
            wire::write(advert, &message, &ends, signer).map_err(io::Error::other)?;
            // One that does not get it may take over: that is what the lease is for.
            if let Err(cause) = it.link.send(advert, *to) {
                sent = Err(cause);
            }
        }
        sent
    }
}
