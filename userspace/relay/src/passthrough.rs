//! TLS that is passed on: a connection's ClientHello is looked at, and chooses the pool.
//!
//! ```text
//!   accept ──▶ hello ── a rule takes it ──▶ tunnel, every byte as it came
//!                └─ none, no TLS, late ──▶ an alert or a word, a reason, a record
//! ```
//!
//! The hello is looked at where it lies, in the system's buffer, and left there for the tunnel: a connection that is slow
//! with it holds no memory here, and what the backend reads is what the client sent.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use weir_core::plan::{Mode, Passthrough};

use crate::{
    accept::Accepted,
    fault::Fault,
    hello::{self, Hello, NoHello, Read},
    reason::Reason,
    scratch::HEADROOM,
    session,
    stream::{Socket, Stream},
    timers::Deadline,
    tunnel,
    worker::{LocalRoute, Over, Worker},
};

/// What is told who speaks HTTP where TLS is passed on.
const PLAIN_HTTP: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 60\r\n\
    Connection: close\r\n\r\nThis port speaks HTTPS, and the request came in plain HTTP.\n";

/// Alerts of RFC 8446 section 6.
const DECODE_ERROR: u8 = 50;
const UNRECOGNIZED_NAME: u8 = 112;

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, route: Rc<LocalRoute>, mut accepted: Accepted) {
    let Mode::Tcp(tcp) = &route.route.service.mode else {
        return;
    };
    let Some(passthrough) = &tcp.passthrough else {
        return;
    };
    let deadline = worker.timers.deadline();
    let read = {
        let mut known = 0;
        let (socket, since) = (&mut accepted.socket, Instant::now());
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll(cx, &worker, socket, &mut known) {
                return Poll::Ready(read.map_err(Some));
            }
            let is_silent = || known == 0 && socket.is_untouched();
            let fault = match worker.is_over(cx, &deadline, since, passthrough.timeout, is_silent) {
                None => return Poll::Pending,
                Some(Over::Eased) => None,
                Some(Over::Cut) => Some(Fault::Drained),
                Some(Over::Late) => Some(Fault::HelloTimeout),
            };
            Poll::Ready(Err(fault))
        })
        .await
    };
    let read = match read {
        Ok(hello) => Ok(hello),
        Err(Some(fault)) => Err(fault),
        // Connections are eased out, and this one has said nothing.
        Err(None) => {
            let client = accepted.caller.address;
            return session::record_null(&worker, &route, client, accepted.at, Reason::Drained);
        }
    };
    let chosen = read.and_then(|hello| {
        let chosen = choose(&route, passthrough, &hello).ok_or(Fault::HelloUnrouted);
        accepted.caller.sni = hello.sni.map(Rc::from);
        chosen
    });
    match chosen {
        Ok(chosen) => {
            drop(deadline);
            tunnel::serve(Rc::clone(&worker), chosen, accepted).await;
        }
        Err(fault) => refuse(&worker, &route, &deadline, accepted, fault).await,
    }
}

/// Where the first rule that holds sends it; else the service's own pool.
fn choose(route: &Rc<LocalRoute>, passthrough: &Passthrough, hello: &Hello) -> Option<Rc<LocalRoute>> {
    let offers = |protocol: &str| hello.alpn().any(|offered| offered == protocol.as_bytes());
    let rule = { passthrough.rules.iter() }.position(|rule| rule.holds(hello.sni.as_deref(), offers));
    match rule {
        Some(rule) => route.by_rule(rule).map(Rc::clone),
        None => route.route.has_pool().then(|| Rc::clone(route)),
    }
}

/// Waits until the hello is whole.
fn poll(
    cx: &mut Context<'_>,
    worker: &Worker,
    socket: &mut Socket,
    known: &mut usize,
) -> Poll<Result<Hello, Fault>> {
    loop {
        let scratch = &mut *worker.scratch.borrow_mut();
        let room = scratch
            .buf
            .get_mut(HEADROOM..HEADROOM + hello::MAX)
            .unwrap_or_default();
        let n = match socket.poll_peek(cx, room, *known) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientClosed)),
            Poll::Pending => return Poll::Pending,
        };
        if n == 0 {
            return Poll::Ready(Err(Fault::ClientClosed));
        }
        match hello::read(room.get(..n).unwrap_or_default()) {
            Ok(Read::Whole(hello)) => return Poll::Ready(Ok(hello)),
            Ok(Read::Partial) if n > *known => *known = n,
            // It has ended in the middle.
            Ok(Read::Partial) => return Poll::Ready(Err(Fault::HelloCut)),
            Err(none) => return Poll::Ready(Err(Fault::Hello(none))),
        }
    }
}

/// Says what is wrong, in what the client speaks, and ends the connection.
async fn refuse(
    worker: &Rc<Worker>,
    route: &LocalRoute,
    deadline: &Deadline,
    accepted: Accepted,
    fault: Fault,
) {
    let Accepted {
        open: _open,
        mut socket,
        caller,
        at,
    } = accepted;
    let alert = |description| [21, 3, 3, 0, 2, 2, description];
    let (unrecognized, decode) = (alert(UNRECOGNIZED_NAME), alert(DECODE_ERROR));
    let words = if fault == Fault::HelloUnrouted {
        unrecognized.as_slice()
    } else if fault == Fault::Hello(NoHello::NotTls) {
        if speaks_http(worker, &mut socket) {
            PLAIN_HTTP
        } else {
            &[]
        }
    } else if matches!(fault, Fault::Hello(_) | Fault::HelloCut) {
        decode.as_slice()
    } else {
        &[]
    };
    tunnel::record_refused(worker, route, &caller, at, fault, words.len() as u64);
    let sent = poll_fn(|cx| match socket.poll_send(cx, words) {
        Poll::Ready(done) => Poll::Ready(done),
        // They are the first bytes of the connection: there is room for them, or something is wrong with it.
        Poll::Pending => Poll::Ready(Err(io::ErrorKind::WouldBlock.into())),
    });
    if words.is_empty() || sent.await.is_err() {
        socket.reset_on_drop();
        return;
    }
    session::linger(worker, deadline, &mut socket).await;
}

/// Whether what came begins as a request of HTTP: with a method and a space.
fn speaks_http(worker: &Worker, socket: &mut Socket) -> bool {
    let mut context = Context::from_waker(std::task::Waker::noop());
    let scratch = &mut *worker.scratch.borrow_mut();
    let room = scratch.buf.get_mut(..32).unwrap_or_default();
    let come = match socket.poll_peek(&mut context, room, 0) {
        Poll::Ready(Ok(n)) => room.get(..n).unwrap_or_default(),
        Poll::Ready(Err(_)) | Poll::Pending => return false,
    };
    let method = come.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    (3..=16).contains(&method) && come.get(method) == Some(&b' ')
}
