//! A connection over TLS, with a client or with a backend: its handshake's steps, and then its bytes.
//!
//! A connection owns no buffer while nothing of it is under way: records are made and taken apart in the worker's
//! [`Buffers`]. Kept are only half a record that has come, what of one was not asked for yet, and records that the system
//! did not take.
//!
//! What is reported as sent is with the system: records that it did not take are sent before any more is accepted, and
//! count as unsent until then. So the bytes that a caller offers again must begin with those that it offered before.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use rustls::{
    AlertDescription, Error, ServerConfig, client::UnbufferedClientConnection, pki_types::ServerName,
    server::UnbufferedServerConnection,
};
use weir_tls::ClientAuth;

use super::{
    buffers::{Buffers, CLOSE_NOTIFY, READ, RECORD, RECORD_MORE, WRITE},
    client::Shown,
    facts::{Asked, TlsFacts},
    records::{Records, Side},
};
use crate::{
    hello,
    scratch::{Memory, Share},
    stream::{Socket, Stream},
};

/// A connection over TLS.
pub(crate) struct TlsStream {
    socket: Socket,
    side: Side,
    buffers: Rc<RefCell<Buffers>>,
    facts: Option<Rc<TlsFacts>>,
    /// What the ClientHello asked for, until the facts have it.
    sni: Option<String>,
    records: Records,
    /// `records.outgoing` is sent up to here.
    sent: usize,
    /// They are counted as held.
    share: Option<Share>,
    /// What has come and is kept is counted as well.
    kept: Option<Share>,
    /// Plain bytes in them that their sender has not been told of.
    owed: usize,
    state: State,
    /// The handshake's next step waits for its turn.
    due: bool,
    /// The handshake has said something.
    said: bool,
    /// Whether the first byte that came was one of TLS. None: nothing came.
    tls: Option<bool>,
}

/// How far this side is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It sends.
    Open,
    /// It has ended its bytes, and the end of the connection below is to follow.
    Ending,
    /// That is done.
    Ended,
    /// Nothing more is to be said: the handshake has failed, or the other side shall see that it was cut.
    Silent,
}

impl TlsStream {
    /// With a client.
    ///
    /// # Errors
    /// As rustls has them: the configuration can't be used.
    pub(super) fn new(
        config: Arc<ServerConfig>,
        socket: Socket,
        buffers: &Rc<RefCell<Buffers>>,
    ) -> Result<Self, Error> {
        let side = Side::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self::of(side, socket, buffers))
    }

    /// With a backend, which is asked for that name. Its first [`Self::step`] has something to say.
    ///
    /// # Errors
    /// As rustls has them: the configuration can't be used.
    pub(super) fn to(
        config: Arc<rustls::ClientConfig>,
        name: ServerName<'static>,
        socket: Socket,
        buffers: &Rc<RefCell<Buffers>>,
    ) -> Result<Self, Error> {
        let side = Side::Client(UnbufferedClientConnection::new(config, name)?);
        Ok(Self::of(side, socket, buffers))
    }

    fn of(side: Side, socket: Socket, buffers: &Rc<RefCell<Buffers>>) -> Self {
        Self {
            socket,
            side,
            buffers: Rc::clone(buffers),
            facts: None,
            sni: None,
            records: Records::default(),
            sent: 0,
            share: None,
            kept: None,
            owed: 0,
            state: State::Silent,
            due: false,
            said: false,
            tls: None,
        }
    }

    /// The facts of the connection; None before its handshake is done.
    pub(crate) const fn facts(&self) -> Option<&Rc<TlsFacts>> {
        self.facts.as_ref()
    }

    /// Has the facts speak of the client's certificate, if it has shown one: judged by these. For a handshake that is done,
    /// and whose facts nobody else has yet.
    pub(super) fn know_client(&mut self, auth: &ClientAuth) {
        let Side::Server(conn) = &self.side else { return };
        if let Some(facts) = self.facts.as_mut().and_then(Rc::get_mut) {
            facts.client = Shown::of(conn.peer_certificates(), auth);
        }
    }

    /// What has come of the handshake's present message.
    pub(super) fn has_come(&self) -> &[u8] {
        &self.records.incoming
    }

    /// Whether the handshake's next step waits for its turn.
    pub(super) const fn is_due(&self) -> bool {
        self.due
    }

    pub(super) const fn set_due(&mut self) {
        self.due = true;
    }

    /// Whether the handshake has come so far that something was answered.
    pub(super) const fn has_said(&self) -> bool {
        self.said
    }

    /// Whether what came began as TLS does.
    pub(super) const fn was_tls(&self) -> bool {
        matches!(self.tls, Some(true))
    }

    /// The connection below, for those that do not speak TLS.
    pub(super) const fn below(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Reads what comes of the handshake. `Ready(Ok(0))`: the other side has ended.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let buffers = Rc::clone(&self.buffers);
        let buffers = &mut *buffers.borrow_mut();
        let n = ready!(self.socket.poll_recv(cx, &mut buffers.read))?;
        let read = buffers.read.get(..n).unwrap_or_default();
        // A record of a handshake (RFC 8446 section 5.1).
        if self.tls.is_none() {
            self.tls = read.first().map(|first| *first == 22);
        }
        self.records.incoming.extend_from_slice(read);
        self.count(&buffers.memory)?;
        Poll::Ready(Ok(n))
    }

    /// Counts what has come and is kept, in place of what was kept before.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`]: as much is kept already as may be.
    fn count(&mut self, memory: &Memory) -> io::Result<()> {
        let bytes = self.records.kept();
        if self.kept.as_ref().map_or(0, Share::bytes) != bytes as u64 {
            self.kept = None;
            if bytes > 0 {
                self.kept = Some(memory.share(bytes)?);
            }
        }
        Ok(())
    }

    /// Does what there is to do for the handshake. What it has to say lies in wait for [`Self::poll_flush`]. Once it is done
    /// there are [`Self::facts`].
    ///
    /// # Errors
    /// It has failed; an alert lies in wait as well.
    pub(super) fn step(&mut self) -> Result<(), Error> {
        self.due = false;
        if !self.said && matches!(self.side, Side::Server(_)) {
            // What it makes of it is rustls' to judge: there, what is not whole or not sound has no name.
            if let Ok(hello::Read::Whole(hello)) = hello::read(&self.records.incoming) {
                self.sni = hello.sni;
            }
        }
        let mut incoming = std::mem::take(&mut self.records.incoming);
        if let Err(error) = self.side.feed(&mut self.records, &mut incoming, &mut []) {
            // For whoever asks what it was.
            self.records.incoming = incoming;
            return Err(error);
        }
        let buffers = Rc::clone(&self.buffers);
        // Hardly more than was counted as it came: whoever goes on with it counts again.
        let _ = self.count(&buffers.borrow().memory);
        self.said |= !self.records.outgoing.is_empty();
        if self.side.is_handshaking() {
            return Ok(());
        }
        self.state = State::Open;
        let asked = self.sni.take().unwrap_or_default();
        self.facts = Some(Rc::new(match &self.side {
            Side::Server(conn) => TlsFacts::of(conn, Asked(asked)),
            Side::Client(conn) => TlsFacts::of(conn, Asked(asked)),
        }));
        Ok(())
    }

    /// Has this alert go out in place of the one that lies in wait. For a handshake of which nothing was answered yet: what goes
    /// out is not encrypted.
    pub(super) fn say_instead(&mut self, alert: AlertDescription) {
        if !self.said {
            // A record of an alert: its version, its length, fatal, which (RFC 8446 sections 5.1 and 6).
            self.records.outgoing = vec![21, 3, 3, 0, 2, 2, u8::from(alert)];
        }
    }

    /// Sends what lies in wait.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self
            .records
            .outgoing
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match ready!(self.socket.poll_send(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.sent += n,
            }
        }
        if self.sent > 0 {
            self.records.outgoing = Vec::new();
            self.sent = 0;
            self.share = None;
        }
        if self.state == State::Ending {
            self.state = State::Ended;
            self.socket.finish()?;
        }
        Poll::Ready(Ok(()))
    }

    /// Records are with the system from here on, or kept: `owed` plain bytes are told of once they are.
    fn keep(&mut self, records: &[u8], owed: usize, memory: &Memory) -> io::Result<()> {
        self.share = Some(memory.share(records.len())?);
        self.records.outgoing = records.to_vec();
        self.owed = owed;
        Ok(())
    }

    /// What was kept is out of the way; then what of it is to be told.
    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if !self.records.outgoing.is_empty() {
            ready!(self.poll_flush(cx))?;
        }
        Poll::Ready(Ok(std::mem::take(&mut self.owed)))
    }

    /// Sends records of `bytes`, with the end behind them if that is all of them and they are the `last`.
    fn poll_sealed(&mut self, cx: &mut Context<'_>, bytes: &[u8], last: bool) -> Poll<io::Result<usize>> {
        let owed = ready!(self.poll_owed(cx))?;
        if owed > 0 || bytes.is_empty() {
            return Poll::Ready(Ok(owed));
        }
        if self.state != State::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let buffers = Rc::clone(&self.buffers);
        let buffers = &mut *buffers.borrow_mut();
        let last = last && bytes.len() <= WRITE;
        let sealed = self
            .side
            .seal(&mut self.records, bytes, &mut buffers.write, 0, last);
        let (taken, end) = match sealed {
            Ok(sealed) => sealed,
            Err(error) => return Poll::Ready(Err(self.fail(cx, error))),
        };
        self.count(&buffers.memory)?;
        let records = buffers.write.get(..end).unwrap_or_default();
        let mut sent = 0;
        if last {
            self.state = State::Ended;
        }
        while let Some(rest) = records.get(sent..).filter(|rest| !rest.is_empty()) {
            let polled = match last && sent == 0 {
                true => self.socket.poll_send_last(cx, rest),
                false => self.socket.poll_send(cx, rest),
            };
            match polled {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => sent += n,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if last {
                        // What is not out yet must not be lost: the end is told again by `finish`.
                        self.state = State::Ending;
                    }
                    self.keep(rest, taken, &buffers.memory)?;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(taken))
    }

    /// After what has come was found to be broken: the alert that says so goes out as far as that goes without waiting.
    fn fail(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        self.state = State::Silent;
        let _ = self.poll_flush(cx);
        error
    }

    /// Ends this side's bytes; never waits. What could not be sent is sent by the next [`Self::poll_flush`].
    fn end(&mut self) -> io::Result<()> {
        match self.state {
            State::Open => {
                let mut record = vec![0; CLOSE_NOTIFY];
                let sealed = self.side.seal(&mut self.records, &[], &mut record, 0, true);
                let (_, end) = match sealed {
                    Ok(sealed) => sealed,
                    Err(error) => return Err(self.fail(&mut Context::from_waker(Waker::noop()), error)),
                };
                self.records
                    .outgoing
                    .extend_from_slice(record.get(..end).unwrap_or_default());
                self.state = State::Ending;
            }
            State::Ending => {}
            State::Ended => return Ok(()),
            State::Silent => {
                // An alert, it may be.
                self.state = State::Ending;
            }
        }
        match self.poll_flush(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }

    /// Whether the connection below has broken.
    pub(crate) fn is_broken(&self) -> bool {
        self.socket.is_broken()
    }

    /// Whether nothing has come that was not looked at.
    pub(crate) fn is_silent(&self) -> bool {
        self.records.plain.is_empty() && !self.records.ended && self.socket.is_silent()
    }

    /// The same, not even a part of a record.
    pub(crate) fn is_untouched(&self) -> bool {
        self.records.incoming.is_empty() && self.is_silent()
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl Drop for TlsStream {
    /// A connection that just ends says so (RFC 8446 section 6.1), as far as that goes without waiting.
    fn drop(&mut self) {
        if self.state == State::Open {
            let _ = self.end();
        }
    }
}

impl Stream for TlsStream {
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if !self.records.outgoing.is_empty() && self.owed == 0 {
            // Nobody else waits for it to go out.
            if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
                return Poll::Ready(Err(error));
            }
        }
        loop {
            if !self.records.plain.is_empty() {
                let taken = self.records.take_plain(buf);
                let buffers = Rc::clone(&self.buffers);
                self.count(&buffers.borrow().memory)?;
                return Poll::Ready(Ok(taken));
            }
            if self.records.ended {
                return Poll::Ready(Ok(0));
            }
            let have = self.records.incoming.len();
            let buffers = Rc::clone(&self.buffers);
            let buffers = &mut *buffers.borrow_mut();
            let mut read = 0;
            if !self.records.unread {
                // As much as is asked for, and the record that it ends in.
                let most = have + buf.len().clamp(RECORD, READ) + RECORD_MORE;
                if most > buffers.read.len() && have >= RECORD + RECORD_MORE {
                    // No record is so long.
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                let most = most.min(buffers.read.len());
                let room = buffers.read.get_mut(have..most).unwrap_or_default();
                read = ready!(self.socket.poll_recv(cx, room))?;
                if read == 0 {
                    // Without a word on it that is no end, but a cut (RFC 8446 section 6.1).
                    return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            let all = buffers.read.get_mut(..have + read).unwrap_or_default();
            if let (Some(to), from) = (all.get_mut(..have), &self.records.incoming) {
                to.copy_from_slice(from);
            }
            let got = match self.side.feed(&mut self.records, all, buf) {
                Ok(got) => got,
                Err(error) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, error);
                    return Poll::Ready(Err(self.fail(cx, error)));
                }
            };
            self.count(&buffers.memory)?;
            if !self.records.outgoing.is_empty() && self.owed == 0 && self.poll_flush(cx)?.is_pending() {
                // The next read goes on with it.
            }
            if got > 0 {
                return Poll::Ready(Ok(got));
            }
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_sealed(cx, buf, false)
    }

    fn poll_send_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut pieces = std::mem::take(&mut self.buffers.borrow_mut().pieces);
        pieces.clear();
        for piece in bufs {
            let room = WRITE - pieces.len().min(WRITE);
            pieces.extend_from_slice(piece.get(..piece.len().min(room)).unwrap_or_default());
        }
        let polled = self.poll_sealed(cx, &pieces, false);
        self.buffers.borrow_mut().pieces = pieces;
        polled
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_sealed(cx, buf, true)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.end()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end()?;
        self.poll_flush(cx)
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        self.socket.poll_left(cx)
    }

    fn reset_on_drop(&mut self) {
        self.state = State::Silent;
        self.socket.reset_on_drop();
    }
}
