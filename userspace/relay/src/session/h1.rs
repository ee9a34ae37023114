//! A client of HTTP/1: its connection, and what came on it ahead of its time.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use super::{
    client::{Client, Part, Piece},
    exchange::Exchange,
    send::{self, Sent},
};
use crate::{
    fault::Fault,
    http1::{head::HeadScan, version::Version, write::ClientConnection},
    scratch::{HEADROOM, Pending, Scratch, Share},
    stream::{Socket, Stream},
    tls::TlsFacts,
    worker::Open,
};

/// A connection that speaks HTTP/1.
pub(crate) struct H1 {
    pub(super) socket: Socket,
    /// Bytes of the next request that came already: pipelined, or a head that is not whole.
    pub(super) ahead: Vec<u8>,
    /// `ahead` in the worker's memory. Boxed, for it is rare, and every connection has room for it.
    pub(super) share: Option<Box<Share>>,
    /// How far `ahead` was looked through for the end of a head.
    pub(super) scan: HeadScan,
    /// `ahead` up to here was parsed in vain.
    pub(super) parsed: usize,
    /// `ahead` was not looked at yet.
    pub(super) unread: bool,
    /// When the first byte of the present head came.
    pub(super) began: Option<Instant>,
    /// A request was begun on it.
    pub(super) asked: bool,
    /// None: the connection speaks another protocol by now.
    open: Option<Open>,
}

impl H1 {
    pub(super) fn new(socket: Socket, open: Open) -> Self {
        Self {
            socket,
            ahead: Vec::new(),
            share: None,
            scan: HeadScan::default(),
            parsed: 0,
            unread: false,
            began: None,
            asked: false,
            open: Some(open),
        }
    }

    /// The connection itself, for another protocol.
    pub(super) fn take_parts(&mut self) -> Option<(Socket, Open)> {
        let socket = std::mem::replace(&mut self.socket, Socket::Lost);
        self.open.take().map(|open| (socket, open))
    }
}

impl Client for H1 {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
        most: usize,
    ) -> Poll<Result<Piece, Fault>> {
        let want = x.up.decoder.at_most(scratch.read_size(x.up.size).min(most));
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match self.socket.poll_recv(cx, room) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(Fault::ClientClosed)),
            Poll::Ready(Err(error)) => {
                return Poll::Ready(Err(send::fault(&error, Fault::ClientClosed)));
            }
            Poll::Ready(Ok(n)) => n,
            Poll::Pending => return Poll::Pending,
        };
        x.bytes_in += n as u64;
        x.route.cell.bytes_in.add(n as u64);
        let read = room.get_mut(..n).unwrap_or_default();
        let decoded = match x.up.decode(read) {
            Ok(decoded) => decoded,
            Err(fault) => return Poll::Ready(Err(fault)),
        };
        let next = read.get(decoded.used..).unwrap_or_default();
        if !next.is_empty() {
            self.ahead.extend_from_slice(next);
            self.unread = true;
            x.bytes_in -= next.len() as u64;
            if scratch.account(&mut self.share, self.ahead.len()).is_err() {
                return Poll::Ready(Err(Fault::Memory));
            }
        }
        Poll::Ready(Ok(Piece {
            start: HEADROOM + decoded.data.start,
            end: HEADROOM + decoded.data.end,
            read: n,
        }))
    }

    #[inline]
    fn took_body(&mut self) {}

    /// The system holds it.
    #[inline]
    fn send_interim(&mut self, cx: &mut Context<'_>, scratch: &Scratch) -> io::Result<Sent> {
        let sent = match self.socket.poll_send(cx, &scratch.head) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => 0,
        };
        let left = sent < scratch.head.len();
        Ok(Sent {
            bytes: sent as u64,
            pending: left.then(|| Pending::from_vec(scratch.head.clone(), sent)),
        })
    }

    #[inline]
    fn send_part(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, part: Part<'_>) -> io::Result<Sent> {
        let Part {
            head,
            start,
            end,
            chunked,
            done,
            trailers,
            last,
        } = part;
        let to = &mut self.socket;
        if chunked {
            let trailers = done.then_some(trailers);
            send::chunk(cx, scratch, to, head, start, end, trailers, last)
        } else {
            send::with_head(cx, scratch, to, head, start, end, last)
        }
    }

    fn switch(&mut self, status: u16, mut head: Vec<u8>, rest: &[u8]) -> io::Result<(u16, Pending)> {
        head.extend_from_slice(rest);
        Ok((status, Pending::from_vec(head, 0)))
    }

    /// The client's handshake is its own.
    fn proves_switch(&self, _accept: Option<&[u8]>) -> bool {
        true
    }

    #[inline]
    fn asked_switch(&self) -> bool {
        false
    }

    #[inline]
    fn answers(_fault: Fault) -> bool {
        true
    }

    fn begin_own(&mut self, own: Vec<u8>) -> io::Result<Pending> {
        Ok(Pending::from_vec(own, 0))
    }

    fn break_off(&mut self, _fault: Fault, unframed: bool) {
        if unframed {
            self.socket.reset_on_drop();
        }
    }

    #[inline]
    fn told(keeps: bool, version: Version) -> ClientConnection {
        match (keeps, version) {
            (false, _) => ClientConnection::Ends,
            (true, Version::Http10) => ClientConnection::StaysAloud,
            (true, Version::Http11 | Version::Http2) => ClientConnection::Stays,
        }
    }

    fn take_ahead(&mut self) -> Vec<u8> {
        self.share = None;
        std::mem::take(&mut self.ahead)
    }

    #[inline]
    fn is_quiet(&self) -> bool {
        self.ahead.is_empty()
    }

    fn is_broken(&self) -> bool {
        self.socket.is_broken()
    }

    fn gone(&self) -> Fault {
        Fault::ClientClosed
    }

    fn tls(&self) -> Option<&Rc<TlsFacts>> {
        self.socket.tls()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

impl Stream for H1 {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(cx, buf)
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, buf)
    }

    fn poll_send_rest(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send_rest(cx, buf)
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket.poll_send_last(cx, buf)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.socket.finish()
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_finish(cx)
    }

    fn reset_on_drop(&mut self) {
        self.socket.reset_on_drop();
    }
}
