//! From the accept of a connection over TLS to what it speaks, or to how its handshake failed.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
    time::Instant,
};

use rustls::AlertDescription;
use weir_core::plan::Mode;

use super::{Front, TlsFault, gate::Turn, stream::TlsStream};
use crate::{
    accept::Accepted,
    fault::Fault,
    hello,
    reason::Reason,
    session::{self, timeouts},
    stream::{Socket, Stream},
    timers::Deadline,
    tunnel,
    worker::{Entrance, LocalRoute, Over, Worker},
};

/// Bytes of a ClientHello at the most that are held until it is whole, and of what follows it, which may be a chain of
/// certificates.
const HELLO_MOST: usize = hello::MAX;
pub(super) const MESSAGE_MOST: usize = 128 << 10;

/// What is told who speaks HTTP without TLS.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 60\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS, and the request came in plain HTTP.\n";

/// A handshake counts as under way from its first byte to the drop of this: a connection that says nothing costs nothing.
struct Handshake<'w>(&'w Worker);

impl<'w> Handshake<'w> {
    /// None: as many are under way as may be.
    fn begin(worker: &'w Worker) -> Option<Self> {
        if worker.handshakes() >= worker.most_handshakes.load(Relaxed) {
            return None;
        }
        worker.cell.handshakes.add(1);
        Some(Self(worker))
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.cell.handshakes.sub(1);
    }
}

/// Serves a connection of a service that ends TLS to its end.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    route: Rc<LocalRoute>,
    front: Arc<Front>,
    accepted: Accepted,
) {
    let Accepted {
        open,
        socket,
        caller,
        at,
    } = accepted;
    let shaken = Box::pin(shake(&worker, &route, &front, socket, at)).await;
    let stream = match shaken {
        Ok(stream) => stream,
        Err(NotShaken::Eased) => {
            session::record_null(&worker, &route, caller.address, at, Reason::Drained);
            return worker.stir();
        }
        Err(NotShaken::Fault(fault)) => return record(&worker, &route, caller.address, at, fault),
    };
    let h2 = stream.facts().is_some_and(|facts| *facts.alpn == *b"h2");
    let accepted = Accepted {
        open,
        socket: Socket::Tls(stream),
        caller,
        at,
    };
    // Each in a future of its own, so that no connection has room for what another one speaks.
    match &route.route.service.mode {
        Mode::Http(_) => {
            drop(route);
            session::serve_tls(&worker, &entrance, accepted, h2).await;
        }
        Mode::Tcp(_) => Box::pin(tunnel::serve(worker, route, accepted)).await,
        Mode::L4(_) => {}
    }
}

/// Why there is no handshake.
enum NotShaken {
    /// It had not begun when connections were eased out.
    Eased,
    Fault(Fault),
}

/// Makes the handshake.
async fn shake(
    worker: &Rc<Worker>,
    route: &LocalRoute,
    front: &Front,
    socket: Socket,
    at: Instant,
) -> Result<Box<TlsStream>, NotShaken> {
    let mut under_way = None;
    let deadline = worker.timers.deadline();
    let within = timeouts(route).handshake;
    let stream = TlsStream::new(Arc::clone(&front.config), socket, &worker.records);
    let mut stream = match stream {
        Ok(stream) => Box::new(stream),
        Err(error) => {
            tracing::error!(service = %route.route.service.name, %error, "no handshake can be made");
            let fault = Fault::Tls(TlsFault::Internal, "no handshake can be made");
            return Err(NotShaken::Fault(fault));
        }
    };
    let mut turn = Turn::default();
    let mut come = Come::Nothing;
    let shaken = poll_fn(|cx| {
        match poll(cx, worker, &mut stream, &mut turn, &mut come, &mut under_way) {
            Poll::Ready(done) => return Poll::Ready(done.map_err(NotShaken::Fault)),
            Poll::Pending => {}
        }
        let is_silent = || matches!(come, Come::Nothing) && stream.is_untouched();
        let fault = match worker.is_over(cx, &deadline, at, within, is_silent) {
            None => return Poll::Pending,
            Some(Over::Eased) => return Poll::Ready(Err(NotShaken::Eased)),
            Some(Over::Cut) => Fault::Drained,
            Some(Over::Late) => Fault::Tls(TlsFault::Timeout, come.as_str()),
        };
        Poll::Ready(Err(NotShaken::Fault(fault)))
    });
    match shaken.await {
        Ok(()) => {
            if let Some(auth) = &front.clients {
                stream.know_client(auth);
            }
            let took = at.elapsed();
            if let Some(facts) = stream.facts() {
                route.cell.handshake(facts.version == "1.3", facts.resumed, took);
            }
            Ok(stream)
        }
        Err(NotShaken::Eased) => Err(NotShaken::Eased),
        Err(NotShaken::Fault(fault)) => {
            // What it is still told is no handshake any more.
            drop(under_way);
            part(worker, &deadline, &mut stream, fault).await;
            Err(NotShaken::Fault(fault))
        }
    }
}

/// How far a handshake has come.
#[derive(Clone, Copy)]
enum Come {
    Nothing,
    Bytes,
    Messages,
}

impl Come {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing came",
            Self::Bytes => "ClientHello not whole",
            Self::Messages => "handshake not finished",
        }
    }
}

fn poll<'w>(
    cx: &mut Context<'_>,
    worker: &'w Worker,
    stream: &mut TlsStream,
    turn: &mut Turn,
    come: &mut Come,
    under_way: &mut Option<Handshake<'w>>,
) -> Poll<Result<(), Fault>> {
    let gone = |error: io::Error| match error.kind() == io::ErrorKind::OutOfMemory {
        true => Fault::Memory,
        false => Fault::ClientClosed,
    };
    loop {
        // What is to be said goes before what is to be heard.
        match stream.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(gone(error))),
            Poll::Pending => return Poll::Pending,
        }
        if stream.facts().is_some() {
            return Poll::Ready(Ok(()));
        }
        if !stream.is_due() {
            match stream.poll_more(cx) {
                Poll::Ready(Ok(0)) => {
                    let cut = matches!(come, Come::Bytes);
                    return Poll::Ready(Err(match cut {
                        true => Fault::Tls(TlsFault::Broken, "ClientHello cut short"),
                        false => Fault::ClientClosed,
                    }));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(gone(error))),
                Poll::Pending => return Poll::Pending,
            }
            if matches!(come, Come::Nothing) {
                *come = Come::Bytes;
                if speaks_http(stream.has_come()) {
                    return Poll::Ready(Err(Fault::Tls(TlsFault::Plain, "HTTP in plain text")));
                }
                *under_way = Handshake::begin(worker);
                if under_way.is_none() {
                    return Poll::Ready(Err(Fault::Tls(TlsFault::Limit, "too many handshakes")));
                }
            }
            let most = match stream.has_said() {
                true => MESSAGE_MOST,
                false => HELLO_MOST,
            };
            if stream.has_come().len() > most {
                return Poll::Ready(Err(Fault::Tls(TlsFault::Broken, "message too large")));
            }
        }
        if turn.poll(cx, &worker.gate).is_pending() {
            stream.set_due();
            return Poll::Pending;
        }
        match stream.step() {
            Ok(()) => {
                if stream.has_said() {
                    *come = Come::Messages;
                }
            }
            Err(error) => {
                let (fault, detail) = TlsFault::of(&error);
                if fault == TlsFault::UnknownName {
                    // RFC 6066 section 3; rustls says that access is denied.
                    stream.say_instead(AlertDescription::UnrecognisedName);
                }
                let first = matches!(come, Come::Bytes);
                let no_tls = fault == TlsFault::Broken && first && !stream.was_tls();
                return Poll::Ready(Err(match no_tls {
                    true => Fault::Tls(TlsFault::Plain, "no TLS"),
                    false => Fault::Tls(fault, detail),
                }));
            }
        }
    }
}

/// Whether a connection begins with a request of HTTP: a method, and what follows it.
fn speaks_http(bytes: &[u8]) -> bool {
    let method = bytes.iter().take_while(|b| b.is_ascii_uppercase()).count();
    (3..=16).contains(&method) && matches!(bytes.get(method), Some(b' '))
}

/// Says what is to be said to who could not be served: an alert, or a response in plain text.
async fn part(worker: &Worker, deadline: &Deadline, stream: &mut TlsStream, fault: Fault) {
    let Fault::Tls(tls, _) = fault else { return };
    if tls == TlsFault::Limit {
        return stream.reset_on_drop();
    }
    if tls == TlsFault::Plain && speaks_http(stream.has_come()) {
        let socket = stream.below();
        let whole = poll_fn(|cx| match socket.poll_send(cx, PLAIN_HTTP) {
            Poll::Ready(Ok(n)) => Poll::Ready(n == PLAIN_HTTP.len()),
            // It is the first thing that is sent: there is room, or there is something wrong.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(false),
        });
        if !whole.await {
            return;
        }
    } else {
        let mut context = Context::from_waker(std::task::Waker::noop());
        if !matches!(stream.poll_flush(&mut context), Poll::Ready(Ok(()))) {
            return;
        }
    }
    session::linger(worker, deadline, stream.below()).await;
}

/// A connection that is one too many: reset, since nothing could be said before a handshake.
pub(crate) fn refuse(
    worker: &Worker,
    route: &LocalRoute,
    mut socket: Socket,
    address: SocketAddr,
    fault: Fault,
) {
    socket.reset_on_drop();
    record(worker, route, address, Instant::now(), fault);
    drop(socket);
}

/// Counts and writes what became of a connection that never got through its handshake.
fn record(worker: &Worker, route: &LocalRoute, address: SocketAddr, at: Instant, fault: Fault) {
    session::record_handshake(worker, route, address, at, fault);
    worker.stir();
}
