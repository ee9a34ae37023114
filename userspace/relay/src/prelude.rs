//! What comes before a connection's own bytes: the PROXY header, from where proxies are that send one.
//!
//! ```text
//!   accept ──▶ prelude ── whole ──▶ enter, as the client that was told
//!                 └─ none, broken, late ──▶ reset, a reason, a record
//! ```
//!
//! The header is looked at where it lies, in the system's buffer, and taken once it is whole: so nothing of what follows is
//! read ahead, whoever reads it next, and a connection that is slow with it holds no memory here.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use weir_core::{
    plan::Mode,
    proxy::{MAX_V2, Malformed, Read, read},
};

use crate::{
    accept::{self, Accepted},
    access::RecordMode,
    caller::Caller,
    fault::Fault,
    phases::Phases,
    reason::Reason,
    scratch::HEADROOM,
    stream::{Socket, Stream},
    worker::{End, Entrance, LocalRoute, Over, Worker},
};

/// Why a header was not had.
enum NotHad {
    /// The connection ends before anything has come: nobody had a question.
    Nothing(Reason),
    Fault(Fault),
}

/// Reads the header of an accepted connection within that time, and serves the connection.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    entrance: Rc<Entrance>,
    route: Rc<LocalRoute>,
    within: Duration,
    mut accepted: Accepted,
) {
    let read = {
        let deadline = worker.timers.deadline();
        let mut known = 0;
        let (socket, at) = (&mut accepted.socket, accepted.at);
        poll_fn(|cx| {
            if let Poll::Ready(read) = poll(cx, &worker, socket, &mut known) {
                return Poll::Ready(read);
            }
            let is_silent = || known == 0 && socket.is_untouched();
            let not_had = match worker.is_over(cx, &deadline, at, within, is_silent) {
                None => return Poll::Pending,
                Some(Over::Eased) => NotHad::Nothing(Reason::Drained),
                Some(Over::Cut) => NotHad::Fault(Fault::Drained),
                Some(Over::Late) => NotHad::Fault(Fault::ProxyTimeout),
            };
            Poll::Ready(Err(not_had))
        })
        .await
    };
    match read.and_then(|len| take(&worker, &mut accepted, len)) {
        Ok(caller) => {
            accepted.caller = caller;
            // The time that it took is not the client's: its own begins now. And there may have been a reload since.
            accepted.at = Instant::now();
            accept::enter(&worker, &entrance, entrance.route().unwrap_or(route), accepted);
        }
        Err(not_had) => refuse(&worker, &route, accepted, not_had),
    }
}

/// Waits until the header is whole: its length.
fn poll(
    cx: &mut Context<'_>,
    worker: &Worker,
    socket: &mut Socket,
    known: &mut usize,
) -> Poll<Result<usize, NotHad>> {
    loop {
        let scratch = &mut *worker.scratch.borrow_mut();
        let room = scratch
            .buf
            .get_mut(HEADROOM..HEADROOM + MAX_V2)
            .unwrap_or_default();
        let n = match socket.poll_peek(cx, room, *known) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(broken(&error, *known))),
            Poll::Pending => return Poll::Pending,
        };
        if n == 0 {
            return Poll::Ready(Err(NotHad::Nothing(Reason::ClientClosed)));
        }
        match read(room.get(..n).unwrap_or_default()) {
            Ok(Read::Whole(header)) => return Poll::Ready(Ok(header.len)),
            Ok(Read::Partial) if n > *known => *known = n,
            // It has ended in the middle.
            Ok(Read::Partial) => return Poll::Ready(Err(NotHad::Fault(Fault::ProxyCut))),
            Err(malformed) => return Poll::Ready(Err(NotHad::Fault(Fault::Proxy(malformed)))),
        }
    }
}

/// Takes the header out of the connection.
fn take(worker: &Worker, accepted: &mut Accepted, len: usize) -> Result<Caller, NotHad> {
    let scratch = &mut *worker.scratch.borrow_mut();
    let bytes = scratch.buf.get_mut(HEADROOM..HEADROOM + len).unwrap_or_default();
    let taken = accepted.socket.take(bytes);
    taken.map_err(|error| broken(&error, len))?;
    match read(bytes) {
        Ok(Read::Whole(header)) => Ok(Caller::told(&accepted.caller, &header, bytes)),
        // It was whole when it was looked at, and what is looked at stays.
        Ok(Read::Partial) => Err(NotHad::Fault(Fault::Proxy(Malformed::Missing))),
        Err(malformed) => Err(NotHad::Fault(Fault::Proxy(malformed))),
    }
}

fn broken(_error: &io::Error, known: usize) -> NotHad {
    match known {
        0 => NotHad::Nothing(Reason::ClientClosed),
        _ => NotHad::Fault(Fault::ProxyCut),
    }
}

/// Resets the connection: who speaks for a client would take whatever else came for the answer to it. One that just ends
/// because connections are eased out has spoken for nobody.
fn refuse(worker: &Worker, route: &LocalRoute, accepted: Accepted, not_had: NotHad) {
    let Accepted {
        open,
        mut socket,
        caller,
        at,
    } = accepted;
    let (reason, detail, is_null) = match not_had {
        NotHad::Nothing(reason) => (reason, None, true),
        NotHad::Fault(fault) => (fault.verdict().reason, fault.detail(), false),
    };
    let (mode, phases) = match &route.route.service.mode {
        Mode::Http(_) => (RecordMode::Http, Phases::no_request(at, at)),
        Mode::Tcp(_) | Mode::L4(_) => (RecordMode::Tcp, Phases::connection(at)),
    };
    let now = Instant::now();
    if is_null {
        route.cell.null.add(1);
    } else {
        route.cell.end(reason);
        route.cell.total.observe(phases.took(now));
    }
    if !is_null || worker.records_null() {
        let end = End {
            mode,
            route,
            client: caller.address,
            backend: None,
            phases: &phases,
            reason,
            now,
        };
        worker.record(&end, |record| record.detail = detail);
    }
    if reason != Reason::Drained || !is_null {
        socket.reset_on_drop();
    }
    // Who sees the end finds it counted.
    drop(socket);
    drop(open);
}
