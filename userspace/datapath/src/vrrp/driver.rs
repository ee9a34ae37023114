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
//!
//! This file is the owner's side; `run.rs` is the thread's.

mod counts;
mod run;

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot};
use weir_core::vrrp::{
    accept::V2,
    auth::{Keys, Mode, Sequence},
    machine::{Config, State},
    wire::Checksum,
};

pub use self::counts::{Counted, Counts};
use super::{
    addresses::Held,
    leases::LeaseError,
    link::Link,
    report::{Report, Reported},
    ring::Ring,
    watch::Watch,
};
use crate::{sys::packet::run_in_real_time, vips::VipError};

/// Above the kernel's threads that work for others (`ksoftirqd` is ordinary), below those that may not wait (50).
pub(crate) const REAL_TIME: u64 = 40;

/// A group of virtual routers.
pub struct Group {
    /// What its owner knows it by. No two groups of a driver have the same.
    pub id: usize,
    /// What the machine is to do. Its routers are those of [`Self::routers`], in the same order; where their adverts come
    /// from is taken from the links.
    pub config: Config,
    /// Its routers.
    pub routers: Vec<Virtual>,
    /// The addresses of all of them, each once, as they are put on interfaces.
    pub held: Vec<Held>,
    /// Whether the box has them in every state, since others serve them beside it and connections stay where they are.
    pub keeps: bool,
    /// How adverts are signed.
    pub signing: Option<Signing>,
    /// How much speaks against this box.
    pub demotion: u32,
    /// It was master in the process before, and its adverts that are the longest ago left then. Of a group that runs
    /// already it counts for nothing.
    pub last_sent: Option<Instant>,
    /// Where is counted.
    pub counts: Arc<Counts>,
}

/// One virtual router on its link.
#[derive(Debug)]
pub struct Virtual {
    /// The link. None: the one that the group has for this router already.
    pub link: Option<Link>,
    /// Its addresses, each once.
    pub addresses: Vec<IpAddr>,
    /// The link address that goes with them, and whether frames may leave from it. None: the interface's own.
    pub mac: Option<([u8; 6], bool)>,
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
    /// The numbers of adverts. A group that runs already goes on behind the greater of this and its own.
    pub sequence: Sequence,
}

/// Who carries out what a group's state means. Called by the driver's thread: adverts wait meanwhile.
pub trait Hands: Send {
    /// These are the group's addresses from now on; none: the group is gone. Those that it has no more were given before, and new
    /// ones are not taken before it succeeds.
    ///
    /// # Errors
    /// Nothing would end this box's answers for them when its lease does. The group takes no part; it is tried again.
    fn own(&mut self, group: usize, held: &[Held]) -> Result<(), LeaseError>;

    /// The group's addresses are answered for until then, or not at all.
    fn lease(&mut self, group: usize, until: Option<Instant>);

    /// Another box counts as master of the group until then, or none does. Of groups that share addresses with others only.
    fn elsewhere(&mut self, group: usize, until: Elsewhere);

    /// These are to be this box's. Called again now and then while they are: what is there already is fine.
    ///
    /// # Errors
    /// Not all of them could be put there. It is tried again.
    fn take(&mut self, group: usize, held: &[Held]) -> Result<(), VipError>;

    /// These are not, or no longer, to be this box's. Called again now and then.
    ///
    /// # Errors
    /// Not all of them could be taken away. It is tried again.
    fn give(&mut self, group: usize, held: &[Held]) -> Result<(), VipError>;

    /// What a process after this one has to know of a group to go on as master, if this one dies: when its adverts left
    /// that are the longest ago, None if it is no master, and the number of its last advert.
    fn remember(&mut self, group: usize, last_sent: Option<Instant>, sequence: u64);
}

/// How long another box counts as one that may have connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Elsewhere {
    /// There is none.
    Nobody,
    /// As long as nothing else is said: it is master.
    Master,
    /// Until then: it was master, and handed over while it lived.
    Until(Instant),
}

/// A group as it is at a moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Which.
    pub group: usize,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// What it announces, or would.
    pub priority: u8,
    /// Who was heard last as master, and its priority.
    pub heard: Option<(IpAddr, u8)>,
    /// Whether a rival is heard.
    pub has_rival: bool,
    /// Until when it answers.
    pub lease: Option<Instant>,
    /// Whether each of its routers can take part, and where its adverts come from.
    pub routers: Vec<(bool, IpAddr)>,
}

/// What the owner wants.
enum Order {
    Demote {
        group: usize,
        total: u32,
    },
    Configure {
        groups: Vec<Group>,
        done: oneshot::Sender<()>,
    },
    Check,
    Look(oneshot::Sender<Vec<Seen>>),
    Leave(Sender<()>),
    Stop,
}

/// The thread, while it runs. Dropped, it stops at once, and whoever is master says that it leaves.
#[derive(Debug)]
pub struct Driver {
    orders: Sender<Order>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    /// The other end is the thread's as long as it lives.
    alive: mpsc::Receiver<Infallible>,
    is_real_time: io::Result<()>,
}

impl Driver {
    /// Starts the thread in the network namespace of the calling one; all groups take part at once. `reports` is called by
    /// the thread, and must not make it wait.
    ///
    /// # Errors
    /// When there can be no further thread.
    pub fn start(
        groups: Vec<Group>,
        hands: impl Hands + 'static,
        reports: impl Fn(Report) + Send + 'static,
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
        reports: impl Fn(Report) + Send + 'static,
        adverts: Option<Ring>,
    ) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let bell = Arc::new(bell);
        let (orders, inbox) = channel();
        let (started, is_started) = channel();
        let ring = Arc::clone(&bell);
        let watch = Watch::new()?;
        let (lives, alive) = mpsc::channel(1);
        let body = move || {
            // Dropped at the end of the thread, however it comes about.
            let _lives = lives;
            let _ = started.send(run_in_real_time(REAL_TIME as i32));
            run::Loop::new(groups, hands, reports, watch, adverts).run(&inbox, &ring);
        };
        let thread = thread::Builder::new().name("vrrp".into()).spawn(body)?;
        let is_real_time = is_started.recv().map_err(io::Error::other)?;
        Ok(Self {
            orders,
            bell,
            thread: Some(thread),
            alive,
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

    /// Waits until the thread has died: it has panicked, for what ends it otherwise is that this value is dropped. Nothing is done
    /// any more then: leases run out, addresses stay where they are, and orders are lost. May be waited for anew.
    pub async fn died(&mut self) {
        self.alive.recv().await;
    }

    /// Sets how much speaks against this box as master of a group.
    pub fn demote(&self, group: usize, total: u32) {
        self.order(Order::Demote { group, total });
    }

    /// From now on there are these groups. One that runs already goes on in its state; one that is not among them stops, and
    /// its addresses are given back. The answer comes when it is done.
    pub fn configure(&self, groups: Vec<Group>) -> oneshot::Receiver<()> {
        let (done, is_done) = oneshot::channel();
        self.order(Order::Configure { groups, done });
        is_done
    }

    /// Compares the addresses that are there with those that should be.
    pub fn check(&self) {
        self.order(Order::Check);
    }

    /// All groups as they are.
    pub fn look(&self) -> oneshot::Receiver<Vec<Seen>> {
        let (seen, answer) = oneshot::channel();
        self.order(Order::Look(seen));
        answer
    }

    /// Ends the thread, and leaves leases and addresses as they are, for a process that goes on with them. Masters advertise once
    /// more as the last thing: their successor has until their leases end, and three intervals before others take over.
    pub fn leave(mut self) {
        let (left, has_left) = channel();
        self.order(Order::Leave(left));
        // One that has died has left, too.
        let _ = has_left.recv();
        // Not waited for: its links take the kernel tens of milliseconds to close.
        drop(self.thread.take());
    }

    fn order(&self, order: Order) {
        // A thread that is gone takes no orders; whoever waits for its answer hears that there will be none.
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
