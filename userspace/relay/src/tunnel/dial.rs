//! From a client of a TCP service to a connection that takes its bytes.

use std::{
    cell::Cell,
    future::poll_fn,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Instant, SystemTime},
};

use weir_core::{balance::Tried, plan::Tcp};

use crate::{
    announce::{self, Known},
    caller::Caller,
    fault::Fault,
    phases::Phases,
    reason::{Cause, Trouble},
    stream::Socket,
    timers::Deadline,
    upstream::{self, BackendSocket, Connection, Lease, Leased, Link, NoLease, Peer, Terms, Upstream, Wait},
    worker::{LocalRoute, Worker},
};

/// Finding a backend for a TCP connection.
pub(super) struct Dial<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) client: &'a Socket,
    pub(super) caller: &'a Caller,
    pub(super) route: &'a LocalRoute,
    pub(super) tcp: &'a Tcp,
    pub(super) deadline: &'a Deadline,
    pub(super) backend: Option<usize>,
    pub(super) retries: u32,
    /// Backends that could not be connected to.
    pub(super) tried: Tried,
    pub(super) phases: Phases,
}

impl Dial<'_> {
    pub(super) async fn run(&mut self) -> Result<Upstream, Fault> {
        let pool = &self.route.pool;
        // Nobody else's bytes have gone over a connection of this service.
        let terms = Terms {
            fresh_only: true,
            once: true,
            stream: false,
        };
        let mut failed = None;
        let mut attempts = 0;
        pool.budget.request(Instant::now());
        loop {
            let lease = match (pool.lease(None, &self.tried, terms), failed) {
                (Ok(lease), _) => lease,
                (Err(NoLease::Nobody), Some(fault)) => return Err(fault),
                (Err(NoLease::Nobody | NoLease::Wait), _) => self.wait(terms).await?,
            };
            attempts += 1;
            let Lease { index, peer, how } = lease;
            self.backend = Some(index);
            if failed.is_some() {
                self.retries += 1;
                self.route.cell.retries.add(1);
                pool.cell.retries.add(1);
                peer.cell.retries.add(1);
            }
            let slot = match how {
                Leased::Fresh(slot) => slot,
                Leased::Idle(connection) => connection.slot,
                // It was not asked for.
                Leased::Stream(_) => continue,
            };
            let began = Instant::now();
            let connected = self.connect(&peer).await;
            let now = Instant::now();
            let took = now.saturating_duration_since(began);
            let is_connected = matches!(connected, Ok(Ok(_)));
            self.phases.dialled(took, is_connected.then_some(now));
            match connected? {
                Ok(stream) => {
                    pool.cell.connect.observe(took);
                    peer.cell.connections.add(1);
                    let link = Link::Http1(Connection { stream, slot });
                    return Ok(Upstream::new(link, peer, false));
                }
                Err(trouble) => {
                    peer.cell.error(trouble.cause);
                    let fault = Fault::from(trouble);
                    let retries = pool.retries();
                    if !retries.on.connect || attempts >= retries.attempts || !self.tried.insert(index) {
                        return Err(fault);
                    }
                    failed = Some(fault);
                }
            }
        }
    }

    async fn connect(&self, peer: &Peer) -> Result<Result<Socket, Trouble>, Fault> {
        self.deadline.set(Instant::now(), self.tcp.timeouts.connect);
        let ends = (self.caller.address, self.caller.destination());
        let pool = &self.route.pool;
        let begun = pool.begin_for(&self.worker.stock, peer, ends, |cx| self.stop(cx, Cause::Local));
        let mut stream = match begun.await? {
            Ok(stream) => stream,
            Err(cause) => return Ok(Err(cause.into())),
        };
        let header = self.header();
        let mut sent = 0;
        let connected = poll_fn(|cx| {
            let begun = self.poll_begun(cx, &mut stream, &header, &mut sent);
            self.in_time(cx, begun, Cause::TimeoutConnect)
        });
        let connected = connected.await?;
        peer.cell.bytes_out.add(sent as u64);
        let secure = match (connected, peer.secure()) {
            (Ok(()), None) => return Ok(Ok(Socket::Backend(stream))),
            (Ok(()), Some(secure)) => secure,
            (Err(cause), _) => return Ok(Err(cause.into())),
        };
        self.deadline.set(Instant::now(), self.tcp.timeouts.connect);
        let mut securing = match secure.begin(stream) {
            Ok(securing) => securing,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let secured = poll_fn(|cx| {
            let done = securing.poll(cx);
            self.in_time(cx, done, Trouble::from(Cause::TimeoutTls))
        });
        Ok(secured.await?.map(|()| securing.into_socket()))
    }

    /// What a step towards a backend came to, or that there is no time for more of them.
    fn in_time<E>(
        &self,
        cx: &Context<'_>,
        polled: Poll<Result<(), E>>,
        late: E,
    ) -> Poll<Result<Result<(), E>, Fault>> {
        if let Poll::Ready(done) = polled {
            return Poll::Ready(Ok(done));
        }
        match self.stop(cx, late) {
            Some(stop) => Poll::Ready(stop.map(Err)),
            None => Poll::Pending,
        }
    }

    /// Why not to wait for the backend any longer: the time is up, which has this cause, or the drain is over.
    fn stop<E>(&self, cx: &Context<'_>, late: E) -> Option<Result<E, Fault>> {
        match (self.deadline.passed(cx), self.worker.cutting.get()) {
            (_, true) => Some(Err(Fault::Drained)),
            (is_late, false) => is_late.then_some(Ok(late)),
        }
    }

    /// Until the connection is there, and its header is out.
    fn poll_begun(
        &self,
        cx: &mut Context<'_>,
        stream: &mut BackendSocket,
        header: &[u8],
        sent: &mut usize,
    ) -> Poll<Result<(), Cause>> {
        if *sent == 0
            && let Err(cause) = ready!(upstream::poll_connected(stream, cx))
        {
            return Poll::Ready(Err(cause));
        }
        upstream::poll_begun(stream, cx, header, sent, header.len())
    }

    /// What the connection to the backend begins with.
    fn header(&self) -> Vec<u8> {
        let Some(out) = self.route.pool.proxy() else {
            return Vec::new();
        };
        let Caller { address, told, sni } = self.caller;
        let told = told.as_deref();
        let fresh;
        let id = match told.and_then(|told| told.tlvs().unique_id) {
            Some(id) => id,
            None if out.tlvs.unique_id => {
                fresh = self.worker.ids.borrow_mut().next(SystemTime::now());
                fresh.as_bytes()
            }
            None => b"",
        };
        let server = told.and_then(|told| told.server);
        announce::header(
            out,
            &Known {
                client: *address,
                server: server.or_else(|| self.client.local_addr().ok()),
                told,
                sni: sni.as_deref(),
                tls: self.client.tls().map(|tls| &**tls),
                id,
            },
        )
    }

    async fn wait(&mut self, terms: Terms) -> Result<Lease, Fault> {
        let wait = Wait {
            worker: self.worker,
            deadline: self.deadline,
            most: self.tcp.timeouts.queue,
            tried: self.tried,
            terms,
            ahead: Cell::new(None),
        };
        let began = Instant::now();
        let client = self.client;
        let ended = wait.run(&self.route.pool, || client.is_broken()).await;
        if let Some(ahead) = wait.ahead.get() {
            self.phases.waited(began.elapsed(), ahead, ended.is_ok());
        }
        ended
    }
}
