//! A client of HTTP/2: one stream of its connection, which is one request and its response.
//!
//! ```text
//!   HTTP/1 head reader ── preface, or Upgrade: h2c ──▶ connection ── spawns ──▶ one task per stream: Session<H2>
//!                                                          └── io ── watch: what frames are counted for
//! ```
//!
//! Data is taken from the connection only as the backend takes it, and given to it only as the client has room: so both
//! windows carry the pressure on. What the `h2` crate holds of either counts as held by the worker.

mod connection;
mod io;

use std::{
    io::{Error, ErrorKind, Result as IoResult},
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::HeaderMap;

use self::connection::{Conn, Unsent};
pub(super) use self::connection::{Start, serve};
use super::{
    Session,
    client::{Client, Part, Piece},
    exchange::Exchange,
    send::Sent,
};
use crate::{
    fault::Fault,
    http1::{head::Malformed, version::Version, websocket, write::ClientConnection},
    http2::{request, response},
    scratch::{HEADROOM, Memory, Pending, Scratch, Share},
    stream::Stream,
    tls::TlsFacts,
};

/// Bytes on their way to a client, and their share of what the worker may hold.
pub(super) struct Chunk {
    bytes: Bytes,
    _share: Option<Share>,
    _unsent: Option<Unsent>,
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

/// One stream.
pub(super) struct H2 {
    conn: Rc<Conn>,
    memory: Memory,
    respond: SendResponse<Chunk>,
    /// The response's data, once its head is sent.
    send: Option<SendStream<Chunk>>,
    body: RecvStream,
    /// Data that came and had no room yet.
    left: Bytes,
    /// Bytes that were taken and that the client was not told of.
    owed: usize,
    /// What follows the response's last byte, once it is known.
    end: Option<Option<HeaderMap>>,
    /// The response was sent whole, or was broken off.
    over: bool,
    /// What the backend was sent to prove that it speaks WebSocket.
    key: Option<String>,
}

impl H2 {
    fn new(
        conn: &Rc<Conn>,
        memory: Memory,
        body: RecvStream,
        respond: SendResponse<Chunk>,
        key: Option<String>,
    ) -> Self {
        Self {
            conn: Rc::clone(conn),
            memory,
            respond,
            send: None,
            body,
            left: Bytes::new(),
            owed: 0,
            end: None,
            over: false,
            key,
        }
    }

    /// Tells the client that it may send as much again as was taken.
    fn release(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if owed > 0 {
            // A stream that is gone has no window.
            let _ = self.body.flow_control().release_capacity(owed);
            self.conn.holds_less(owed);
        }
    }

    /// More data into `room`. `Ready(Ok(0))`: it has ended, but for trailers.
    fn poll_data(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<usize, Fault>> {
        let mut have = 0;
        loop {
            let space = room.get_mut(have..).unwrap_or_default();
            let fits = self.left.len().min(space.len());
            if let Some(space) = space.get_mut(..fits) {
                space.copy_from_slice(&self.left.split_to(fits));
            }
            have += fits;
            self.owed += fits;
            if have == room.len() {
                return Poll::Ready(Ok(have));
            }
            match self.body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.left = data,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.fault(&error))),
                Poll::Ready(None) => return Poll::Ready(Ok(have)),
                Poll::Pending if have > 0 => return Poll::Ready(Ok(have)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What an error of the connection means for this request.
    fn fault(&self, error: &h2::Error) -> Fault {
        match self.conn.ended() {
            Some(fault) => fault,
            // The client's data broke a rule of HTTP/2, and the stream was reset for it.
            None if error.is_library() => {
                self.conn.blame(self.respond.stream_id());
                Fault::Request(Malformed::Message)
            }
            None => Fault::ClientClosed,
        }
    }

    /// Ends the response, if all of its bytes went out.
    fn finish_response(&mut self) -> IoResult<()> {
        let (Some(end), Some(send)) = (self.end.take(), &mut self.send) else {
            return Ok(());
        };
        self.over = true;
        match end {
            Some(trailers) => send.send_trailers(trailers),
            None => send.send_data(empty(), true),
        }
        .map_err(broken)
    }

    fn send_head(&mut self, head: http::Response<()>, ended: bool) -> IoResult<()> {
        let send = self.respond.send_response(head, ended).map_err(broken)?;
        self.send = Some(send);
        self.over = ended;
        Ok(())
    }
}

fn empty() -> Chunk {
    Chunk {
        bytes: Bytes::new(),
        _share: None,
        _unsent: None,
    }
}

/// The client takes no more.
fn broken(_: h2::Error) -> Error {
    ErrorKind::BrokenPipe.into()
}

fn invalid(_: Malformed) -> Error {
    ErrorKind::InvalidData.into()
}

impl Client for H2 {
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
        most: usize,
    ) -> Poll<Result<Piece, Fault>> {
        self.release();
        let want = scratch.read_size(x.up.size).min(most);
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let read = match self.poll_data(cx, room) {
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
            Poll::Pending => return Poll::Pending,
        };
        if self.left.is_empty() {
            match self.body.is_end_stream() {
                true => x.up.decoder.end(Vec::new()),
                // Only then it says so.
                false if read == 0 => match self.body.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        let lines = trailers.map_or(Ok(Vec::new()), |all| request::trailers(&all));
                        x.up.decoder.end(lines.map_err(Fault::Request)?);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(self.fault(&error))),
                    Poll::Pending => return Poll::Pending,
                },
                false => {}
            }
        }
        x.bytes_in += read as u64;
        x.route.cell.bytes_in.add(read as u64);
        Poll::Ready(x.up.count(read as u64).map(|()| Piece {
            start: HEADROOM,
            end: HEADROOM + read,
            read,
        }))
    }

    fn took_body(&mut self) {
        self.release();
    }

    fn send_interim(&mut self, _cx: &mut Context<'_>, scratch: &Scratch) -> IoResult<Sent> {
        let head = response::head(&scratch.head, None, &[]).map_err(invalid)?;
        self.respond.send_informational(head).map_err(broken)?;
        Ok(Sent {
            bytes: scratch.head.len() as u64,
            pending: None,
        })
    }

    fn send_part(&mut self, cx: &mut Context<'_>, scratch: &mut Scratch, part: Part<'_>) -> IoResult<Sent> {
        let Part {
            head,
            start,
            end,
            done,
            trailers,
            chunked: _,
            last: _,
        } = part;
        if done {
            let trailers = match trailers {
                [] => None,
                lines => Some(response::trailers(lines).map_err(invalid)?),
            };
            self.end = Some(trailers);
        }
        let mut bytes = head.len() as u64;
        if !head.is_empty() {
            let head = response::head(head, None, &[]).map_err(invalid)?;
            let ended = start == end && matches!(self.end, Some(None));
            self.send_head(head, ended)?;
            if ended {
                self.end = None;
            }
        }
        if start == end {
            self.finish_response()?;
            return Ok(Sent { bytes, pending: None });
        }
        let data = scratch.buf.get(start..end).unwrap_or_default();
        let sent = match self.poll_send(cx, data) {
            Poll::Ready(sent) => sent?,
            Poll::Pending => 0,
        };
        bytes += sent as u64;
        let pending = match sent < end - start {
            true => Some(scratch.keep(start + sent, end)?),
            false => None,
        };
        Ok(Sent { bytes, pending })
    }

    fn switch(&mut self, status: u16, head: Vec<u8>, rest: &[u8]) -> IoResult<(u16, Pending)> {
        // A switch is a success here, and needs no proof: the stream itself is one (RFC 8441 section 5).
        let (status, without): (u16, &[&str]) = match status {
            101 => (200, &["sec-websocket-accept"]),
            other => (other, &[]),
        };
        let head = response::head(&head, Some(status), without).map_err(invalid)?;
        self.send_head(head, false)?;
        Ok((status, Pending::from_vec(rest.to_vec(), 0)))
    }

    fn proves_switch(&self, accept: Option<&[u8]>) -> bool {
        let key = self.key.as_ref();
        key.is_none_or(|key| accept == Some(websocket::accept(key.as_bytes()).as_bytes()))
    }

    /// A success means to it that its WebSocket is open (RFC 8441 section 5).
    fn asked_switch(&self) -> bool {
        self.key.is_some()
    }

    /// Malformed requests are no requests (RFC 9113 section 8.1.1).
    fn answers(fault: Fault) -> bool {
        !matches!(fault, Fault::Request(Malformed::Message | Malformed::Trailer))
    }

    fn begin_own(&mut self, own: Vec<u8>) -> IoResult<Pending> {
        let start = response::body_start(&own);
        let head = response::head(&own, None, &[]).map_err(invalid)?;
        let ended = start >= own.len();
        self.send_head(head, ended)?;
        self.end = (!ended).then_some(None);
        Ok(Pending::from_vec(own, start))
    }

    fn break_off(&mut self, fault: Fault, _unframed: bool) {
        if self.over {
            return;
        }
        self.over = true;
        let reason = match fault {
            Fault::Request(_) => Reason::PROTOCOL_ERROR,
            Fault::Flood => Reason::ENHANCE_YOUR_CALM,
            Fault::ClientClosed
            | Fault::ClientTimeout
            | Fault::HeadTimeout
            | Fault::TunnelTimeout
            | Fault::Drained => Reason::CANCEL,
            Fault::BodyTooLarge
            | Fault::Proxy(_)
            | Fault::ProxyCut
            | Fault::ProxyTimeout
            | Fault::ProxyUnexpected
            | Fault::Hello(_)
            | Fault::HelloCut
            | Fault::HelloTimeout
            | Fault::HelloUnrouted
            | Fault::Tls(..)
            | Fault::Limit
            | Fault::LimitTotal
            | Fault::Loop
            | Fault::Memory
            | Fault::NoBackend
            | Fault::QueueFull
            | Fault::QueueTimeout
            | Fault::Connect(..)
            | Fault::BackendAlert(_)
            | Fault::ResponseTimeout
            | Fault::BackendTimeout
            | Fault::ClosedEarly
            | Fault::Cut
            | Fault::Unprocessed
            | Fault::Reset(_)
            | Fault::Response(_)
            | Fault::Status(_) => Reason::INTERNAL_ERROR,
        };
        if reason == Reason::PROTOCOL_ERROR {
            self.conn.blame(self.respond.stream_id());
        }
        self.respond.send_reset(reason);
    }

    fn told(_keeps: bool, _version: Version) -> ClientConnection {
        ClientConnection::Unsaid
    }

    fn take_ahead(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn is_broken(&self) -> bool {
        self.conn.has_lost(self.respond.stream_id())
    }

    fn gone(&self) -> Fault {
        self.conn.ended().unwrap_or(Fault::ClientClosed)
    }

    fn tls(&self) -> Option<&Rc<TlsFacts>> {
        self.conn.tls.as_ref()
    }

    fn local_addr(&self) -> IoResult<SocketAddr> {
        self.conn.local.ok_or_else(|| ErrorKind::NotConnected.into())
    }
}

/// What is left of a response's body, and the bytes of a tunnel.
impl Stream for H2 {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.send {
            Some(send) => send.poll_reset(cx).is_ready(),
            None => self.respond.poll_reset(cx).is_ready(),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<IoResult<usize>> {
        self.release();
        match self.poll_data(cx, buf) {
            Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<IoResult<usize>> {
        let Some(send) = &mut self.send else {
            return Poll::Ready(Err(ErrorKind::NotConnected.into()));
        };
        send.reserve_capacity(buf.len());
        let room = loop {
            match send.capacity() {
                0 => {}
                room => break room.min(buf.len()),
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
                Poll::Pending => return Poll::Pending,
            }
        };
        let chunk = Chunk {
            _share: Some(self.memory.share(room)?),
            _unsent: Some(Unsent::new(&self.conn)),
            bytes: Bytes::copy_from_slice(buf.get(..room).unwrap_or_default()),
        };
        let last = room == buf.len();
        let ends = last && matches!(self.end, Some(None));
        send.send_data(chunk, ends).map_err(broken)?;
        if ends {
            self.end = None;
            self.over = true;
        } else if last {
            self.finish_response()?;
        }
        Poll::Ready(Ok(room))
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<IoResult<usize>> {
        self.poll_send(cx, buf)
    }

    fn finish(&mut self) -> IoResult<()> {
        if !std::mem::replace(&mut self.over, true)
            && let Some(send) = &mut self.send
        {
            send.send_data(empty(), true).map_err(broken)?;
        }
        Ok(())
    }

    fn reset_on_drop(&mut self) {
        self.over = true;
        self.respond.send_reset(Reason::CANCEL);
    }
}
