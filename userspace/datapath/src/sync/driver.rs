//! The thread that tells other boxes of flows and listens to them.
//!
//! It does everything in one loop, in steps of a millisecond or two: what has come in, what is due, some entries of a look
//! through the tables. So no look keeps an answer waiting, and nothing is locked but the report. With nobody there it looks
//! at nothing.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, TryRecvError, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::{debug, info, warn};
use weir_core::{
    sync::{
        Event, NotTaken, Output, Peer, Refused, Settings,
        peer::{Counts, EXPIRES},
        wire::LONGEST,
    },
    vrrp::auth::Keys,
};

use super::{
    SyncTables, View,
    scan::{For, Scan},
    take::Taker,
};
use crate::{error::MapError, sweep::cpu_time};

/// Between two looks, of the time that one takes: looking takes a thirtieth of one CPU.
const SHARE: u32 = 30;
/// However little there is to see, it is not looked at again sooner.
const SHORTEST: Duration = Duration::from_millis(500);
/// However much, not later: it has to fit into [`weir_core::sync::peer::REFRESH`].
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(10);
/// The owner waits no longer than that to be heard.
const HEARS: Duration = Duration::from_millis(200);
/// Datagrams that are taken in before something else has its turn.
const BATCH: usize = 128;

/// What the thread needs.
pub struct Setup {
    /// Bound where peers send to.
    pub socket: UdpSocket,
    /// Where to send, each address once.
    pub peers: Vec<SocketAddr>,
    /// For all peers.
    pub settings: Settings,
    /// The keys that are known.
    pub keys: Box<dyn Keys + Send>,
    /// Drawn for this process.
    pub seed: u64,
    /// The maps.
    pub tables: SyncTables,
    /// Whom the numbers in them stand for.
    pub view: View,
}

/// The thread's owner. Ends it when dropped.
#[derive(Debug)]
pub struct Driver {
    tell: Option<Sender<View>>,
    report: Arc<Mutex<Report>>,
    thread: Option<JoinHandle<()>>,
}

/// How it stands.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// Each peer.
    pub peers: Vec<PeerReport>,
    /// Datagrams that were not taken.
    pub refused: BTreeMap<Refused, u64>,
    /// Entries that were taken.
    pub taken: u64,
    /// Entries that were not.
    pub not_taken: BTreeMap<NotTaken, u64>,
    /// What the last look through the tables took of a CPU.
    pub look: Duration,
    /// Looks that were made.
    pub looks: u64,
}

impl Report {
    /// Whether there is a peer whose table may hold what is not held here yet.
    pub fn is_unfinished(&self) -> bool {
        self.peers.iter().any(|peer| !peer.holds)
    }
}

/// One peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerReport {
    /// Where it is.
    pub address: SocketAddr,
    /// It was heard lately.
    pub there: bool,
    /// When it was last heard.
    pub heard: Option<Duration>,
    /// Its table, or nobody's, is held.
    pub holds: bool,
    /// Parts of its table that came and how many there are, while they are coming.
    pub joining: Option<(u32, Option<u32>)>,
    /// For how long the oldest entry has been waiting to be sent.
    pub lag: Duration,
    /// What was counted.
    pub counts: Counts,
}

impl Driver {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had, or the socket can't be used so.
    pub fn start(setup: Setup) -> io::Result<Self> {
        setup.socket.set_nonblocking(true)?;
        // Bursts of who joins; the kernel gives what it may.
        let socket = socket2::SockRef::from(&setup.socket);
        socket.set_recv_buffer_size(4 << 20)?;
        let (tell, heard) = channel();
        let report = Arc::new(Mutex::new(Report::default()));
        let mut run = Run::new(setup, heard, Arc::clone(&report), Instant::now());
        run.publish(Instant::now());
        let thread = thread::Builder::new()
            .name("weir-sync".into())
            .spawn(move || run.run())?;
        Ok(Self {
            tell: Some(tell),
            report,
            thread: Some(thread),
        })
    }

    /// The maps are made of something else now.
    pub fn follow(&self, view: View) {
        if let Some(tell) = &self.tell
            && tell.send(view).is_err()
        {
            warn!("the thread that tells other boxes of flows has ended");
        }
    }

    /// How it stands.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.tell.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the thread that tells other boxes of flows has panicked");
        }
    }
}

struct Link {
    address: SocketAddr,
    peer: Peer,
    /// Another process of it was heard before.
    met: bool,
    /// The look through the tables for one that has begun to listen.
    joining: Option<Scan>,
}

struct Run {
    socket: UdpSocket,
    links: Vec<Link>,
    keys: Box<dyn Keys + Send>,
    tables: SyncTables,
    view: View,
    heard: Receiver<View>,
    shared: Arc<Mutex<Report>>,
    report: Report,
    start: Instant,
    scan: Option<Scan>,
    /// What the look that is going on has taken so far.
    took: Duration,
    scan_at: Instant,
    /// When the last look began.
    scanned: Instant,
    adopt: bool,
    /// What the maps are made of has changed since the last look began.
    anew: bool,
}

impl Run {
    fn new(setup: Setup, heard: Receiver<View>, shared: Arc<Mutex<Report>>, now: Instant) -> Self {
        let Setup {
            socket,
            peers,
            settings,
            keys,
            seed,
            tables,
            view,
        } = setup;
        let links = peers
            .into_iter()
            .zip(1_u64..)
            .map(|(address, n)| Link {
                address,
                peer: Peer::new(settings, seed, seed.rotate_left(32).wrapping_add(n), now),
                met: false,
                joining: None,
            })
            .collect();
        Self {
            socket,
            links,
            keys,
            tables,
            view,
            heard,
            shared,
            report: Report::default(),
            start: now,
            scan: None,
            took: Duration::ZERO,
            scan_at: now,
            scanned: now,
            adopt: false,
            anew: false,
        }
    }

    fn run(&mut self) {
        let mut published = Instant::now();
        loop {
            match self.heard.try_recv() {
                Ok(view) => {
                    self.view = view;
                    self.anew = true;
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            }
            self.take_in();
            let now = Instant::now();
            for link in &mut self.links {
                if link.peer.poll_timeout() <= now {
                    link.peer.handle_timeout(now);
                }
            }
            self.put_out(now);
            self.look(now);
            if now.saturating_duration_since(published) >= HEARS {
                self.publish(now);
                published = now;
            }
            self.wait();
        }
    }

    fn publish(&mut self, now: Instant) {
        let since = |at: Instant| now.saturating_duration_since(at);
        self.report.peers = self
            .links
            .iter()
            .map(|link| {
                let status = link.peer.status();
                PeerReport {
                    address: link.address,
                    there: status.there.is_some(),
                    heard: status.heard.map(since),
                    holds: status.holds,
                    joining: status.joining,
                    lag: status.waiting.map_or(Duration::ZERO, since),
                    counts: status.counts,
                }
            })
            .collect();
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(&self.report);
    }

    /// What has come in.
    fn take_in(&mut self) {
        // What is longer than any datagram of ours shows by its length.
        let mut buffer = [0; LONGEST + 1];
        for _ in 0..BATCH {
            let (len, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What an earlier datagram met on its way: nobody listens there, say.
                Err(error) => {
                    debug!(%error, "the socket of flow sync");
                    continue;
                }
            };
            let bytes = buffer.get(..len).unwrap_or_default();
            if let Err(refused) = self.hear(from.ip().to_canonical(), bytes) {
                *self.report.refused.entry(refused).or_default() += 1;
                debug!(%from, reason = refused.name(), "a datagram of flow sync is refused");
            }
        }
    }

    fn hear(&mut self, from: IpAddr, bytes: &[u8]) -> Result<(), Refused> {
        let link = self
            .links
            .iter_mut()
            .find(|link| link.address.ip().to_canonical() == from)
            .ok_or(Refused::Peer)?;
        let entries = link.peer.receive(bytes, &*self.keys, Instant::now())?;
        let mut entries = entries.peekable();
        if entries.peek().is_none() {
            return Ok(());
        }
        let taken = Taker::new(&self.tables, &self.view).and_then(|mut taker| {
            for entry in entries {
                match taker.take(&entry)? {
                    Ok(()) => self.report.taken += 1,
                    Err(why) => *self.report.not_taken.entry(why).or_default() += 1,
                }
            }
            Ok(())
        });
        if let Err(error) = taken {
            warn!(%error, "flows of another box can't be taken over");
        }
        Ok(())
    }

    /// What is to be sent, and what else peers say.
    fn put_out(&mut self, now: Instant) {
        for link in &mut self.links {
            while let Some(output) = link.peer.poll_output(&*self.keys, now) {
                match output {
                    Output::Send(bytes) => {
                        // A full queue of the device, nobody there: it is made up for.
                        if let Err(error) = self.socket.send_to(&bytes, link.address) {
                            debug!(peer = %link.address, %error, "a datagram of flow sync can't be sent");
                        }
                    }
                    Output::Everything => match Scan::new(For::Joining, 0, &self.tables) {
                        Ok(scan) => link.joining = Some(scan),
                        Err(error) => warn!(%error, "the tables of flows can't be read"),
                    },
                    Output::Event(event) => {
                        say(link.address, event);
                        if event == (Event::There { anew: true }) {
                            self.adopt |= link.met;
                            link.met = true;
                        }
                    }
                }
            }
        }
    }

    /// Goes on with the looks through the tables, or begins one.
    fn look(&mut self, now: Instant) {
        for link in &mut self.links {
            let Some(mut scan) = link.joining.take() else {
                continue;
            };
            match scan.step(&self.tables, &self.view, |entry| link.peer.fill(entry)) {
                Ok(true) => link.joining = Some(scan),
                Ok(false) => link.peer.full(),
                Err(error) => {
                    warn!(peer = %link.address, %error, "the tables of flows can't be read for a box that joins");
                    link.peer.full();
                }
            }
        }
        if self.scan.is_none() {
            let listens = self.links.iter().any(|link| link.peer.is_there());
            if !self.anew && (now < self.scan_at || !listens) {
                return;
            }
            self.begin_look(now);
        }
        let Some(mut scan) = self.scan.take() else {
            return;
        };
        let begin = cpu_time();
        let links = &mut self.links;
        let more = scan.step(&self.tables, &self.view, |entry| {
            links.iter_mut().for_each(|link| link.peer.tell(entry, now));
        });
        self.took += cpu_time().saturating_sub(begin);
        match more {
            Ok(true) => self.scan = Some(scan),
            Ok(false) => {
                self.report.look = self.took;
                self.report.looks += 1;
                self.scan_at = now + self.took.saturating_mul(SHARE).clamp(SHORTEST, LONGEST_PAUSE);
            }
            Err(error) => self.fails(&error, now),
        }
    }

    fn begin_look(&mut self, now: Instant) {
        self.anew = false;
        let expire = self.links.iter().all(|link| {
            let there = link.peer.status().there;
            there.is_some_and(|since| now.saturating_duration_since(since) > EXPIRES)
        });
        let what = For::Listening {
            from: self.scanned.saturating_duration_since(self.start),
            to: now.saturating_duration_since(self.start),
            expire,
            adopt: std::mem::take(&mut self.adopt),
        };
        let last = now.saturating_duration_since(self.scanned).as_secs();
        match Scan::new(what, u32::try_from(last).unwrap_or(u32::MAX), &self.tables) {
            Ok(scan) => {
                self.scan = Some(scan);
                self.scanned = now;
                self.took = Duration::ZERO;
            }
            Err(error) => self.fails(&error, now),
        }
    }

    fn fails(&mut self, error: &MapError, now: Instant) {
        warn!(%error, "the tables of flows can't be read for other boxes");
        self.scan_at = now + AGAIN;
    }

    /// Waits for the next thing.
    fn wait(&self) {
        if self.anew || self.scan.is_some() || self.links.iter().any(|link| link.joining.is_some()) {
            return;
        }
        let now = Instant::now();
        let looks = self.links.iter().any(|link| link.peer.is_there());
        let due = self.links.iter().map(|link| link.peer.poll_timeout());
        let due = due.chain(looks.then_some(self.scan_at));
        let time = due.fold(now + HEARS, Instant::min).saturating_duration_since(now);
        // Rounded up: what is due in less than a millisecond would be asked for again and again.
        let time = PollTimeout::try_from(time + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        if let Err(error) = poll(&mut fds, time) {
            debug!(%error, "waiting for datagrams of flow sync");
        }
    }
}

fn say(peer: SocketAddr, event: Event) {
    match event {
        Event::There { .. } => info!(%peer, "flow sync: the peer is there"),
        Event::Lost => warn!(%peer, "flow sync: the peer is not heard any more"),
        Event::Joined => info!(%peer, "flow sync: the peer's flows are held"),
        Event::Alone => {
            info!(%peer, "flow sync: the peer was not heard since the start, it is not waited for")
        }
    }
}
