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
    session,
    stream::Socket,
    tunnel,
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
                    worker.accept_paused.add(1);
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
    let over = |most: u32| open(&route) >= u64::from(most);
    let socket = Socket::Raw(stream);
    match &route.route.service.mode {
        Mode::Http(http) if over(http.limits.connections) => {
            route.cell.refused.add(1);
            session::refuse(worker, &route, socket, client);
            // Its record is to be written though nothing is open.
            worker.stir();
        }
        Mode::Tcp(tcp) if over(tcp.connections) => {
            route.cell.refused.add(1);
            tunnel::refuse(worker, &route, client);
            worker.stir();
        }
        Mode::Http(_) => {
            let open = Open::new(worker, &route.cell);
            let session = session::Session::new(worker, entrance, open, socket, client, Instant::now());
            tokio::task::spawn_local(session.run());
        }
        Mode::Tcp(_) => {
            let open = Open::new(worker, &route.cell);
            tokio::task::spawn_local(tunnel::serve(Rc::clone(worker), route, open, socket, client));
        }
        Mode::L4(_) => {}
    }
}

/// Connections of the service open now, over all workers.
fn open(route: &LocalRoute) -> u64 {
    route.route.cells.iter().map(|c| c.open.get()).sum()
}
