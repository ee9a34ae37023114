//! One stream of a connection: what of it counts as under way, and its request from the head to the end.

use std::{rc::Rc, sync::Arc};

use h2::RecvStream;

use super::Conn;
use crate::{
    access::RequestLine,
    fault::Fault,
    http1::{
        head::{HeadLimits, MAX_FIELDS},
        version::Version,
    },
    http2::request::Received,
    scratch::HEAD_MAX,
    session::{
        Session,
        begin::{Bad, Raw},
        exchange::Held,
        h2::H2,
        http,
    },
    stats::ServiceCell,
    worker::LocalRoute,
};

/// A piece of a response that is on its way.
pub(in crate::session::h2) struct Unsent(Rc<Conn>);

impl Unsent {
    pub(in crate::session::h2) fn new(conn: &Rc<Conn>) -> Self {
        conn.unsent.set(conn.unsent.get() + 1);
        Self(Rc::clone(conn))
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        let conn = &self.0;
        conn.unsent.set(conn.unsent.get() - 1);
        if conn.active.get() == 0 {
            // It moves: its time begins anew.
            conn.since.set(conn.worker.clock.now());
            conn.deadline.wake();
        }
    }
}

/// A connection that counts as one of HTTP/2, from its making to its drop.
pub(super) struct Counted(Arc<ServiceCell>);

impl Counted {
    pub(super) fn new(cell: &Arc<ServiceCell>) -> Self {
        cell.http2.add(1);
        cell.http2_open.add(1);
        Self(Arc::clone(cell))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.http2_open.sub(1);
    }
}

/// A stream that counts as under way, and whose body counts as held until it is taken.
pub(super) struct Active {
    conn: Rc<Conn>,
    id: u32,
}

impl Active {
    pub(super) fn new(conn: &Rc<Conn>, id: u32, body: &mut RecvStream) -> Self {
        conn.active.set(conn.active.get() + 1);
        if !body.is_end_stream() {
            conn.bodies.borrow_mut().insert(id, body.flow_control().clone());
        }
        conn.counted.0.http2_streams.add(1);
        conn.worker.cell.streams.add(1);
        Self {
            conn: Rc::clone(conn),
            id,
        }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let conn = &self.conn;
        conn.watch.borrow_mut().end(self.id);
        let body = conn.bodies.borrow_mut().remove(&self.id);
        if let Some(body) = body {
            conn.holds_less(body.used_capacity());
        }
        conn.counted.0.http2_streams.sub(1);
        conn.worker.cell.streams.sub(1);
        conn.active.set(conn.active.get() - 1);
        if conn.active.get() == 0 {
            conn.since.set(conn.worker.clock.now());
            // The connection's task is to see that its time runs now.
            conn.deadline.wake();
        }
    }
}

/// One request, to its end.
pub(super) async fn stream(
    mut session: Session<H2>,
    _active: Active,
    route: Rc<LocalRoute>,
    received: Received,
) {
    match session.read(route, received) {
        Ok(exchange) => {
            session.serve(exchange).await;
        }
        Err(bad) => {
            session.refuse(&bad).await;
        }
    }
}

impl Session<H2> {
    /// From a head as it came to an exchange.
    fn read(&mut self, route: Rc<LocalRoute>, received: Received) -> Result<Held, Box<Bad>> {
        let worker = Rc::clone(&self.worker);
        let bad = |route: Rc<LocalRoute>, fault| {
            let id = worker.fresh_id(&route);
            Box::new(Bad {
                route,
                fault,
                began: Some(worker.clock.now()),
                bytes: 0,
                line: Some(line(&received)),
                to_head: received.method() == "HEAD",
                counted: false,
                id,
            })
        };
        let Some(http) = http(&route) else {
            return Err(bad(Rc::clone(&route), Fault::Drained));
        };
        let limits = HeadLimits {
            bytes: (http.limits.head as usize).min(HEAD_MAX),
            fields: usize::from(http.limits.headers).min(MAX_FIELDS),
        };
        let began = Some(worker.clock.now());
        let scratch = &mut *worker.scratch.borrow_mut();
        let read = received.read(limits, |parsed| {
            // Only `TRACE` shows it again.
            let shown = format!("{} {} HTTP/2.0\r\n", parsed.method, parsed.target.path);
            self.begin(
                parsed,
                shown.as_bytes(),
                Rc::clone(&route),
                http,
                &mut scratch.head,
                began,
            )
        });
        let mut held = match read {
            Ok(begun) => begun?,
            Err(malformed) => return Err(bad(Rc::clone(&route), Fault::Request(malformed))),
        };
        scratch.head = scratch.vec();
        if let Some(x) = held.get().filter(|x| x.keeps_head()) {
            x.raw = Raw::Fields(Box::new(received));
        }
        Ok(held)
    }
}

fn line(received: &Received) -> RequestLine {
    RequestLine::new(
        received.method().as_bytes(),
        received.target().as_bytes(),
        Version::Http2,
    )
}
