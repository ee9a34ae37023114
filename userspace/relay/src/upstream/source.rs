//! Where a pool's connections come from: source addresses, and the ports of each towards each backend.
//!
//! Shared by all workers, so that none is out of ports while another has some; a port is taken and given back under a lock
//! that is held for the time of a few memory accesses, once per connection and never per request. Which port is free is
//! `weir_core::ports`' affair; here sockets are bound, and what the system says to that is heard.
//!
//! ```text
//!   PoolSource ── (address, backend) ──▶ Space: Mutex<Ports> ── take ──▶ Lease ── dropped ──▶ given back
//! ```

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use rustix::io::Errno;
use socket2::Socket;
use weir_core::{
    ids::Interface,
    ports::{Counts, End, Outlook, Ports, Resting},
};

use super::{
    connect::{connect_cause, open, start},
    socket::BackendSocket,
};
use crate::{
    reason::Cause,
    stats::{PoolCell, PoolPorts},
};

/// Ports that are tried for one connection. The system refuses one where something is in its way that the model knows
/// nothing of: connections of a relay before this one, above all.
const TRIES: usize = 256;

/// Ports that are tried for one connection before their rest is over, when there is no other.
const EARLY: usize = 4;

/// Where the connections of a pool come from.
pub(crate) struct PoolSource {
    way: Way,
    /// Connections that this side ends end by RST.
    reset: bool,
    /// Whose turn among the addresses it is.
    turn: AtomicUsize,
}

enum Way {
    /// From these addresses, by a port of the system's choice.
    Chosen(Vec<IpAddr>),
    /// From weir's own ports: towards each backend, one space for each address.
    Own(HashMap<SocketAddr, Vec<Arc<Space>>>),
}

/// The ports of one source address towards one backend.
pub(crate) struct Space {
    pub(crate) address: IpAddr,
    ports: Mutex<Ports>,
}

impl Space {
    pub(crate) fn new(address: IpAddr, ports: Ports) -> Self {
        let ports = Mutex::new(ports);
        Self { address, ports }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Ports> {
        // Nothing under the lock leaves it half-changed.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Ports>> {
        match self.ports.try_lock() {
            Ok(ports) => Some(ports),
            Err(TryLockError::Poisoned(error)) => Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A port that is in use. Dropping it gives it back.
pub(crate) struct Lease {
    space: Arc<Space>,
    port: u16,
    /// It is used before its rest was over.
    early: Option<Resting>,
    end: Cell<End>,
}

impl Lease {
    fn new(space: &Arc<Space>, port: u16, early: Option<Resting>) -> Self {
        Self {
            space: Arc::clone(space),
            port,
            early,
            end: Cell::new(End::Free),
        }
    }

    fn address(&self) -> SocketAddr {
        (self.space.address, self.port).into()
    }

    /// How its use ends, when it is dropped.
    pub(super) fn ends(&self, end: End) {
        self.end.set(end);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut ports = self.space.lock();
        match (self.end.get(), self.early) {
            (End::Refused, Some(resting)) => ports.give_back_resting(resting, now),
            (end, _) => ports.give_back(self.port, end, now),
        }
    }
}

/// Why a connection was not begun from an address and port.
enum Refusal {
    /// The port has another use.
    Port,
    /// The address can't be used.
    Address(io::Error),
    /// It is not the source's fault.
    Other(io::Error),
}

impl PoolSource {
    pub(crate) fn chosen(addresses: Vec<IpAddr>, reset: bool) -> Self {
        Self::new(Way::Chosen(addresses), reset)
    }

    pub(crate) fn own(spaces: HashMap<SocketAddr, Vec<Arc<Space>>>, reset: bool) -> Self {
        Self::new(Way::Own(spaces), reset)
    }

    fn new(way: Way, reset: bool) -> Self {
        Self {
            way,
            reset,
            turn: AtomicUsize::new(0),
        }
    }

    /// How its own ports stand. None: the system chooses.
    pub(crate) fn look(&self, now: Instant) -> Option<PoolPorts> {
        let Way::Own(towards) = &self.way else { return None };
        let mut fewest: BTreeMap<IpAddr, Counts> = BTreeMap::new();
        let mut soonest: Option<Duration> = None;
        for spaces in towards.values() {
            let mut all: Option<Outlook> = None;
            for space in spaces {
                let mut ports = space.lock();
                let (counts, outlook) = (ports.counts(now), ports.outlook(now));
                drop(ports);
                let known = fewest.entry(space.address).or_insert(counts);
                if counts.free < known.free {
                    *known = counts;
                }
                match &mut all {
                    Some(all) => all.add(&outlook),
                    None => all = Some(outlook),
                }
            }
            let end = all.and_then(|all| all.exhausted_in());
            soonest = soonest.into_iter().chain(end).min();
        }
        Some(PoolPorts {
            addresses: fewest.into_iter().collect(),
            exhausted_in: soonest,
        })
    }

    /// Begins to connect from one of the addresses. Never waits.
    pub(super) fn connect(
        &self,
        to: SocketAddr,
        interface: Option<Interface>,
        cell: &PoolCell,
    ) -> Result<BackendSocket, Cause> {
        match &self.way {
            Way::Chosen(addresses) => self.connect_chosen(addresses, to, interface),
            Way::Own(spaces) => {
                let spaces = spaces.get(&to).map(Vec::as_slice).unwrap_or_default();
                self.connect_own(spaces, to, interface, cell)
            }
        }
    }

    fn connect_chosen(
        &self,
        addresses: &[IpAddr],
        to: SocketAddr,
        interface: Option<Interface>,
    ) -> Result<BackendSocket, Cause> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let count = addresses.len().max(1);
        let in_turn = addresses.iter().cycle().skip(turn % count).take(count);
        let mut cause = Cause::Local;
        for address in in_turn.filter(|address| address.is_ipv4() == to.is_ipv4()) {
            let bind = |socket: &Socket| {
                setsockopt(socket, IpBindAddressNoPort, &true)?;
                socket.bind(&SocketAddr::new(*address, 0).into())
            };
            match begin(to, interface, bind) {
                Ok(stream) => return Ok(BackendSocket::kept(stream, None, self.reset)),
                Err(Refusal::Port) => cause = Cause::NoPort,
                Err(Refusal::Address(error)) => unusable(*address, &error),
                Err(Refusal::Other(error)) => return Err(connect_cause(&error)),
            }
        }
        Err(cause)
    }

    fn connect_own(
        &self,
        spaces: &[Arc<Space>],
        to: SocketAddr,
        interface: Option<Interface>,
        cell: &PoolCell,
    ) -> Result<BackendSocket, Cause> {
        let mut usable: Vec<&Arc<Space>> = spaces.iter().collect();
        let (mut tries, mut early) = (0, 0);
        while tries < TRIES {
            let lease = match self.take(&usable) {
                Some(lease) => lease,
                None if early < EARLY => {
                    early += 1;
                    let Some(lease) = take_early(&usable) else { break };
                    lease
                }
                None => break,
            };
            let bind = |socket: &Socket| {
                // Other connections have the same address and port, to other backends.
                socket.set_reuse_address(true)?;
                socket.bind(&lease.address().into())
            };
            match begin(to, interface, bind) {
                Ok(stream) => {
                    if lease.early.is_some() {
                        cell.port_early.add(1);
                    }
                    return Ok(BackendSocket::kept(stream, Some(lease), self.reset));
                }
                Err(Refusal::Port) => {
                    lease.ends(End::Refused);
                    cell.port_refused.add(1);
                    tries += 1;
                }
                Err(Refusal::Address(error)) => {
                    unusable(lease.space.address, &error);
                    usable.retain(|space| space.address != lease.space.address);
                }
                Err(Refusal::Other(error)) => return Err(connect_cause(&error)),
            }
        }
        Err(match usable.is_empty() {
            true => Cause::Local,
            false => Cause::NoPort,
        })
    }

    /// A free port of an address whose turn it is, or that comes next; first of those that no other worker is at.
    fn take(&self, spaces: &[&Arc<Space>]) -> Option<Lease> {
        let turn = self.turn.fetch_add(1, Relaxed);
        let count = spaces.len();
        let in_turn = || spaces.iter().cycle().skip(turn % count.max(1)).take(count);
        let now = Instant::now();
        let quick = in_turn().find_map(|space| {
            let port = space.try_lock()?.take(now)?;
            Some(Lease::new(space, port, None))
        });
        quick.or_else(|| {
            in_turn().find_map(|space| {
                let port = space.lock().take(now)?;
                Some(Lease::new(space, port, None))
            })
        })
    }
}

fn take_early(spaces: &[&Arc<Space>]) -> Option<Lease> {
    let now = Instant::now();
    spaces.iter().find_map(|space| {
        let resting = space.lock().take_resting(now)?;
        Some(Lease::new(space, resting.port, Some(resting)))
    })
}

/// Begins to connect from what `bind` binds to.
fn begin(
    to: SocketAddr,
    interface: Option<Interface>,
    bind: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<tokio::net::TcpStream, Refusal> {
    let is = |error: &io::Error, errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let socket = open(to, interface).map_err(Refusal::Other)?;
    bind(&socket).map_err(|error| match error {
        // Something listens there, or has it for itself.
        error if is(&error, Errno::ADDRINUSE) => Refusal::Port,
        error if is(&error, Errno::ADDRNOTAVAIL) => Refusal::Address(error),
        error => Refusal::Other(error),
    })?;
    start(socket, to).map_err(|error| match error {
        // There is a connection with the same two ends, be it in TIME_WAIT.
        error if is(&error, Errno::ADDRNOTAVAIL) || is(&error, Errno::ADDRINUSE) => Refusal::Port,
        error => Refusal::Other(error),
    })
}

fn unusable(address: IpAddr, error: &io::Error) {
    tracing::warn!(%address, %error, "a source address can't be used; is it on this box still?");
}
