//! Taking connections from one listening socket.
//!
//! Owns the accept loop, the limit on connections, and what happens when descriptors run out. Connections are handed to
//! a task of their own, which reads at once: with TCP_DEFER_ACCEPT on the listener the request is there already.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SocketFlags};
use tokio::io::{Interest, unix::AsyncFd};
use weir_core::{ids::ListenKey, plan::Mode};

use crate::{
    caller::Caller,
    fault::Fault,
    passthrough, prelude, session,
    stream::Socket,
    tls, tunnel,
    worker::{Entrance, LocalRoute, Open, Worker},
};

/// Connections taken in a row before others get their turn.
const BURST: usize = 64;

/// How long accepting is put off when descriptors or memory have run out.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the task is aborted.
pub(crate) async fn run(worker: Rc<Worker>, key: ListenKey, entrance: Rc<Entrance>, socket: Arc<OwnedFd>) {
    #[expect(
        deprecated,
        reason = "its unsoundness needs a type that lies about its descriptor; an Arc<OwnedFd> owns one"
    )]
    let watched = AsyncFd::with_interest(socket, Interest::READABLE);
    let socket = match watched {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!(listener = %key, %error, "a listening socket can't be watched; it is not served by this worker");
            return;
        }
    };
    let mut paused = false;
    loop {
        let mut guard = match socket.readable().await {
            Ok(guard) => guard,
            Err(error) => {
                tracing::error!(listener = %key, %error, "waiting for connections failed; the listener is not served");
                return;
            }
        };
        let mut taken = 0;
        while taken < BURST {
            match accept(socket.get_ref()) {
                Ok((stream, client)) => {
                    taken += 1;
                    paused = false;
                    begin(&worker, &entrance, stream, client);
                }
                Err(Errno::AGAIN) => {
                    guard.clear_ready();
                    break;
                }
                Err(error) if is_exhausted(error) => {
                    worker.cell.accept_paused.add(1);
                    if !paused {
                        paused = true;
                        tracing::warn!(listener = %key, error = %io::Error::from(error),
                            "connections wait: descriptors or memory have run out; raise the limit (ulimit -n)");
                    }
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
                // The connection has ended before it was taken, or the network says so: on with the next.
                Err(_) => taken += 1,
            }
        }
        if taken == BURST {
            tokio::task::yield_now().await;
        }
    }
}

fn accept(socket: &Arc<OwnedFd>) -> Result<(std::net::TcpStream, SocketAddr), Errno> {
    let (fd, client) = rustix::net::acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    let client = client
        .and_then(|c| SocketAddr::try_from(c).ok())
        .ok_or(Errno::CONNABORTED)?;
    Ok((std::net::TcpStream::from(fd), client))
}

fn is_exhausted(error: Errno) -> bool {
    [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&error)
}

fn begin(worker: &Rc<Worker>, entrance: &Rc<Entrance>, stream: std::net::TcpStream, client: SocketAddr) {
    // Between the end of a listener and the abort of its task nothing is accepted; should it be, it just ends.
    let Some(route) = entrance.route() else { return };
    let over = |most: u32| {
        if route.open() >= u64::from(most) {
            Some(Fault::Limit)
        } else if worker.is_full() {
            Some(Fault::LimitTotal)
        } else {
            None
        }
    };
    // What a transparent listener accepts has the address that its client wanted.
    let destination = { entrance.is_transparent() }
        .then(|| stream.local_addr().ok())
        .flatten();
    let socket = Socket::Raw(stream);
    let mode = &route.route.service.mode;
    let refused = match mode {
        Mode::Http(http) => over(http.limits.connections),
        Mode::Tcp(tcp) => over(tcp.connections),
        Mode::L4(_) => None,
    };
    if let Some(fault) = refused {
        route.cell.refused.add(1);
        match mode {
            _ if route.route.tls.is_some() => tls::refuse(worker, &route, socket, client, fault),
            Mode::Http(_) => session::refuse(worker, &route, socket, client, fault),
            Mode::Tcp(_) | Mode::L4(_) => tunnel::refuse(worker, &route, socket, client, fault),
        }
        // Its record is to be written though nothing is open.
        worker.stir();
        return;
    }
    let accepted = Accepted {
        open: Open::new(worker, &route.cell),
        socket,
        caller: match destination {
            Some(destination) => Caller::taken_in(client, destination),
            None => Caller::direct(client),
        },
        at: Instant::now(),
    };
    match &route.route.service.proxy {
        Some(proxy) if proxy.is_from(client.ip()) => {
            let (worker, entrance, within) = (Rc::clone(worker), Rc::clone(entrance), proxy.timeout);
            tokio::task::spawn_local(prelude::serve(worker, entrance, route, within, accepted));
        }
        Some(_) | None => enter(worker, entrance, route, accepted),
    }
}

/// A connection that was accepted.
pub(crate) struct Accepted {
    pub(crate) open: Open,
    pub(crate) socket: Socket,
    pub(crate) caller: Caller,
    /// When.
    pub(crate) at: Instant,
}

/// Serves a connection whose client is known, in a task of its own.
pub(crate) fn enter(worker: &Rc<Worker>, entrance: &Rc<Entrance>, route: Rc<LocalRoute>, accepted: Accepted) {
    if let Some(front) = route.route.tls.clone() {
        let (worker, entrance) = (Rc::clone(worker), Rc::clone(entrance));
        tokio::task::spawn_local(tls::serve(worker, entrance, route, front, accepted));
        return;
    }
    match &route.route.service.mode {
        Mode::Http(_) => {
            tokio::task::spawn_local(session::serve(worker, entrance, accepted));
        }
        Mode::Tcp(tcp) if tcp.passthrough.is_some() => {
            tokio::task::spawn_local(passthrough::serve(Rc::clone(worker), route, accepted));
        }
        Mode::Tcp(_) => {
            tokio::task::spawn_local(tunnel::serve(Rc::clone(worker), route, accepted));
        }
        Mode::L4(_) => {}
    }
}
