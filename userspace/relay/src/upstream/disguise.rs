//! Connections that come from their client's address, as the backend sees them.
//!
//! Binding a socket to an address of somebody else takes a privilege that the relay does not have. So control makes such
//! sockets (their port, if none is asked for, is chosen when they connect), and the relay keeps a [`Stock`] of them that all workers take from; what a worker adds is the client's address
//! and the way to the backend.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use socket2::Socket;
use tokio::{net::TcpStream, sync::Notify};
use weir_core::{ids::Interface, plan::ClientSource};

use super::{
    connect::{begin_connect, bind_to, connect_cause, start},
    peer::Peer,
    pool::LocalPool,
    socket::BackendSocket,
};
use crate::{fault::Fault, reason::Cause};

/// Sockets of one family that are kept, if any are wanted.
const MOST: usize = 256;
/// Fewer than that are made up for.
const FEW: usize = MOST / 2;

/// Sockets that may be bound to addresses of others: TCP, not bound, not blocking.
#[derive(Debug, Default)]
pub struct Stock {
    /// Of IPv4, then of IPv6.
    shelves: [Mutex<Shelf>; 2],
    /// Rings when some are to be asked for.
    short: Notify,
}

#[derive(Debug, Default)]
struct Shelf {
    /// Some pool connects in its clients' names.
    wanted: bool,
    sockets: VecDeque<OwnedFd>,
    /// Asked for, and not come yet.
    asked: usize,
    /// Tasks that wait for one.
    waiting: Vec<Waker>,
}

impl Shelf {
    fn lacks(&self) -> usize {
        let has = self.sockets.len() + self.asked;
        match self.wanted && has < FEW {
            true => MOST - has,
            false => 0,
        }
    }
}

impl Stock {
    fn shelf(&self, v6: bool) -> MutexGuard<'_, Shelf> {
        let [v4_shelf, v6_shelf] = &self.shelves;
        let shelf = if v6 { v6_shelf } else { v4_shelf };
        // Nothing under the lock leaves it half-changed.
        shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says of which family sockets are kept. Those of others go.
    pub fn want(&self, v4: bool, v6: bool) {
        for (is_v6, wanted) in [(false, v4), (true, v6)] {
            let mut shelf = self.shelf(is_v6);
            shelf.wanted = wanted;
            if !wanted {
                shelf.sockets.clear();
            }
        }
        self.short.notify_one();
    }

    /// Waits until sockets are to be asked for: how many of IPv4, how many of IPv6. They then count as asked for.
    pub async fn lacks(&self) -> (usize, usize) {
        loop {
            let take = |v6| {
                let mut shelf = self.shelf(v6);
                let lacks = shelf.lacks();
                shelf.asked += lacks;
                lacks
            };
            let lacks = (take(false), take(true));
            if lacks != (0, 0) {
                return lacks;
            }
            self.short.notified().await;
        }
    }

    /// Nothing comes of what was asked for: it may be asked for anew.
    pub fn forget_asked(&self) {
        for v6 in [false, true] {
            self.shelf(v6).asked = 0;
        }
        self.short.notify_one();
    }

    /// Takes in sockets that have come.
    pub fn give(&self, v6: bool, sockets: Vec<OwnedFd>) {
        let mut shelf = self.shelf(v6);
        shelf.asked = shelf.asked.saturating_sub(sockets.len());
        if shelf.wanted {
            shelf.sockets.extend(sockets);
        }
        let waiting = std::mem::take(&mut shelf.waiting);
        drop(shelf);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// A socket, once there is one.
    pub(crate) fn poll_take(&self, cx: &Context<'_>, v6: bool) -> Poll<OwnedFd> {
        let mut shelf = self.shelf(v6);
        let socket = shelf.sockets.pop_front();
        if socket.is_none() && !shelf.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            shelf.waiting.push(cx.waker().clone());
        }
        if shelf.lacks() > 0 {
            self.short.notify_one();
        }
        drop(shelf);
        socket.map_or(Poll::Pending, Poll::Ready)
    }
}

impl LocalPool {
    /// Begins a client's connection to a backend, as the pool says: from the client's address, to where the client wanted to
    /// go. `ends` are those two. Waits for no more than a socket that may have that address; `stop` says why not any longer.
    pub(crate) async fn begin_for(
        &self,
        stock: &Stock,
        peer: &Peer,
        ends: (SocketAddr, Option<SocketAddr>),
        stop: impl Fn(&Context<'_>) -> Option<Result<Cause, Fault>>,
    ) -> Result<Result<BackendSocket, Cause>, Fault> {
        let (client, destination) = ends;
        let to = match destination {
            _ if !self.pool.is_original_destination() => peer.address(),
            Some(destination) => destination,
            // Its listener is transparent no more.
            None => return Ok(Err(Cause::Unreachable)),
        };
        let Some(ClientSource { port }) = self.pool.client_source else {
            return Ok(begin_connect(
                to,
                self.pool.interface,
                self.source.as_deref(),
                &self.cell,
            ));
        };
        let port = if port { client.port() } else { 0 };
        let from = SocketAddr::new(client.ip().to_canonical(), port);
        let socket = poll_fn(|cx| match stock.poll_take(cx, from.is_ipv6()) {
            Poll::Ready(socket) => Poll::Ready(Ok(Ok(socket))),
            Poll::Pending => match stop(cx) {
                Some(stop) => Poll::Ready(stop.map(Err)),
                None => Poll::Pending,
            },
        });
        let begun = socket
            .await?
            .and_then(|socket| begin_connect_as(socket, from, to, self.pool.interface));
        if begun.as_ref().err() == Some(&Cause::NoPort) {
            self.cell.no_port.add(1);
        }
        Ok(begun)
    }
}

/// Begins to connect from a client's address. With port 0 the kernel chooses one that is free towards the backend.
fn begin_connect_as(
    socket: OwnedFd,
    from: SocketAddr,
    to: SocketAddr,
    interface: Option<Interface>,
) -> Result<BackendSocket, Cause> {
    let connect = || -> io::Result<TcpStream> {
        let socket = Socket::from(socket);
        if let Some(interface) = interface {
            bind_to(&socket, interface)?;
        }
        socket.bind(&from.into())?;
        start(socket, to)
    };
    connect()
        .map(BackendSocket::plain)
        .map_err(|error| connect_cause(&error))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::Relaxed},
        },
        task::Wake,
    };

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    fn sockets(count: usize) -> Vec<OwnedFd> {
        (0..count)
            .map(|_| {
                let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM.nonblocking(), None);
                socket.unwrap().into()
            })
            .collect()
    }

    #[tokio::test]
    async fn what_is_short_is_asked_for_once() {
        let stock = Stock::default();
        stock.want(true, false);
        assert_eq!(stock.lacks().await, (MOST, 0));
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        assert!(stock.poll_take(&cx, false).is_pending());
        assert!(stock.poll_take(&cx, false).is_pending(), "known already");
        stock.give(false, sockets(MOST));
        assert_eq!(woken.0.load(Relaxed), 1);
        for _ in 0..MOST - FEW {
            assert!(stock.poll_take(&cx, false).is_ready());
        }
        let still = tokio::time::timeout(std::time::Duration::from_millis(20), stock.lacks()).await;
        assert!(still.is_err(), "half of them are there");
        assert!(stock.poll_take(&cx, false).is_ready());
        assert_eq!(stock.lacks().await, (MOST - FEW + 1, 0));
        stock.forget_asked();
        assert_eq!(
            stock.lacks().await,
            (MOST - FEW + 1, 0),
            "whoever was asked is gone"
        );
    }

    #[tokio::test]
    async fn what_nobody_wants_is_not_kept() {
        let stock = Stock::default();
        stock.give(false, sockets(3));
        let cx = Context::from_waker(Waker::noop());
        assert!(stock.poll_take(&cx, false).is_pending());
        stock.want(true, true);
        assert_eq!(stock.lacks().await, (MOST, MOST));
        stock.give(false, sockets(MOST));
        stock.want(false, false);
        assert!(stock.poll_take(&cx, false).is_pending());
    }

    #[tokio::test]
    async fn a_connection_has_the_address_that_it_was_given() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let from: SocketAddr = "127.0.0.9:0".parse().unwrap();
        let socket = sockets(1).pop().unwrap();
        let stream = begin_connect_as(socket, from, to, None).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), from.ip());
        assert_eq!(peer, stream.local_addr().unwrap());
        // An address of the other family.
        let socket = sockets(1).pop().unwrap();
        assert!(matches!(
            begin_connect_as(socket, "[::1]:0".parse().unwrap(), to, None),
            Err(Cause::Local)
        ));
    }
}
