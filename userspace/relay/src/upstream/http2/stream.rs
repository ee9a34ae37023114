//! One request and its response on an HTTP/2 connection.
//!
//! Owns the stream's two halves, its flow control, and what an error of the `h2` crate means for the request. What is
//! sent is never more than the backend has room for; what has come is not taken before it is asked for.

use std::{
    future::Future,
    io,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream, client::ResponseFuture};
use http::{HeaderMap, Request, StatusCode};

use super::{Place, message};
use crate::{
    fault::Fault,
    http1::head::Malformed,
    reason::{Cause, Trouble},
    scratch::{Memory, Share},
    stream::Stream,
    tls,
};

/// Bytes of a request's body on their way, and their share of what the worker may hold.
pub(super) struct Chunk {
    bytes: Bytes,
    _share: Option<Share>,
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

/// A stream: before its request went out, and from then on.
pub(crate) struct Frames {
    send: Option<SendStream<Chunk>>,
    receive: Receive,
    /// The request has ended.
    sent_end: bool,
    /// Data that had no room.
    left: Bytes,
    /// What the backend may still send for a client that does not read.
    stalled: Option<Share>,
    /// Last: the place is given up when the stream has ended.
    place: Place,
}

enum Receive {
    Nothing,
    Head(ResponseFuture),
    Body(RecvStream),
    /// All was received.
    End,
}

/// A head that came.
pub(crate) struct Message {
    pub(crate) status: StatusCode,
    pub(crate) fields: HeaderMap,
    /// Nothing follows it.
    pub(crate) ended: bool,
}

/// What was taken of a body.
pub(crate) struct Taken {
    pub(crate) bytes: usize,
    /// The body is whole, with these trailers.
    pub(crate) end: Option<Vec<u8>>,
}

impl Frames {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            send: None,
            receive: Receive::Nothing,
            sent_end: false,
            left: Bytes::new(),
            stalled: None,
            place,
        }
    }

    /// Whether the request went out, as far as its head goes.
    pub(crate) fn has_begun(&self) -> bool {
        self.send.is_some()
    }

    /// Whether the whole request was handed over.
    pub(crate) fn has_ended(&self) -> bool {
        self.sent_end
    }

    /// Sends the request's head; `end` if that is all of it.
    ///
    /// # Errors
    /// [`Fault::Unprocessed`]: the connection takes no more streams. An extended CONNECT to a backend that has not said that
    /// it knows it (RFC 8441 section 3) is not sent.
    pub(crate) fn begin(&mut self, request: Request<()>, end: bool) -> Result<(), Fault> {
        let conn = &self.place.conn;
        let extended = request.extensions().get::<h2::ext::Protocol>().is_some();
        let begun = match &mut *conn.sender.borrow_mut() {
            Some(sender) if extended && !sender.is_extended_connect_protocol_enabled() => {
                return Err(Fault::Request(Malformed::WebSocketOverHttp2));
            }
            Some(sender) => sender.send_request(request, end).map_err(|error| {
                // Else it is only full for the moment: streams that were reset count until that has gone out.
                error.is_go_away() || error.is_io()
            }),
            None => Err(true),
        };
        let (response, send) = match begun {
            Ok(begun) => begun,
            Err(is_over) => {
                if is_over {
                    conn.leave();
                }
                return Err(Fault::Unprocessed);
            }
        };
        conn.begun.set(conn.begun.get() + 1);
        conn.used.set(true);
        self.place.begun = true;
        self.send = Some(send);
        self.receive = Receive::Head(response);
        self.sent_end = end;
        Ok(())
    }

    /// How much of `want` bytes may be sent now. `Ready(None)`: the backend takes no more.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>, want: usize) -> Poll<Option<usize>> {
        let Some(send) = self.send.as_mut().filter(|_| !self.sent_end) else {
            return Poll::Ready(None);
        };
        send.reserve_capacity(want.max(1));
        loop {
            let room = send.capacity();
            if room > 0 {
                return Poll::Ready(Some(room.min(want)));
            }
            match send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Nothing is to be sent for now: the connection's window is for others.
    pub(crate) fn give_room_back(&mut self) {
        if let Some(send) = &mut self.send {
            send.reserve_capacity(0);
        }
    }

    /// Sends bytes of the body, for which there is room; with `end` the last.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`]: as much is held as may be; else the backend takes no more.
    pub(crate) fn send(&mut self, bytes: &[u8], end: bool, memory: &Memory) -> io::Result<()> {
        let Some(send) = &mut self.send else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if bytes.is_empty() && !end {
            return Ok(());
        }
        let share = match bytes.is_empty() {
            true => None,
            false => Some(memory.share(bytes.len())?),
        };
        let chunk = Chunk {
            bytes: Bytes::copy_from_slice(bytes),
            _share: share,
        };
        self.sent_end |= end;
        send.send_data(chunk, end)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Ends the request with trailers.
    ///
    /// # Errors
    /// The backend takes no more.
    pub(crate) fn send_trailers(&mut self, trailers: HeaderMap) -> io::Result<()> {
        let Some(send) = &mut self.send else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.sent_end = true;
        send.send_trailers(trailers)
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// The next head, be it an interim one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Fault>> {
        let Receive::Head(response) = &mut self.receive else {
            return Poll::Ready(Err(Fault::ClosedEarly));
        };
        match response.poll_informational(cx) {
            Poll::Ready(Some(Ok(interim))) => {
                let (parts, ()) = interim.into_parts();
                return Poll::Ready(Ok(Message {
                    status: parts.status,
                    fields: parts.headers,
                    ended: false,
                }));
            }
            // The response itself says what is wrong.
            Poll::Ready(Some(Err(_)) | None) | Poll::Pending => {}
        }
        match std::pin::Pin::new(response).poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.fault(&error, false))),
            Poll::Ready(Ok(response)) => {
                let (parts, body) = response.into_parts();
                let ended = body.is_end_stream();
                self.receive = if ended { Receive::End } else { Receive::Body(body) };
                Poll::Ready(Ok(Message {
                    status: parts.status,
                    fields: parts.headers,
                    ended,
                }))
            }
        }
    }

    /// More of the body into `room`. Ready with nothing: there was nothing, and this is the end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<Result<Taken, Fault>> {
        self.stalled = None;
        let mut taken = Taken { bytes: 0, end: None };
        loop {
            let space = room.get_mut(taken.bytes..).unwrap_or_default();
            let fits = self.left.len().min(space.len());
            if let Some(space) = space.get_mut(..fits) {
                space.copy_from_slice(&self.left.split_to(fits));
            }
            taken.bytes += fits;
            let body = match &mut self.receive {
                Receive::Body(body) => {
                    // What was taken may be sent anew.
                    let _ = body.flow_control().release_capacity(fits);
                    body
                }
                Receive::End => {
                    taken.end = Some(Vec::new());
                    return Poll::Ready(Ok(taken));
                }
                Receive::Nothing | Receive::Head(_) => return Poll::Pending,
            };
            if !self.left.is_empty() || taken.bytes == room.len() {
                return Poll::Ready(Ok(taken));
            }
            match body.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.left = data,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(self.fault(&error, true))),
                Poll::Ready(None) => match body.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        self.receive = Receive::End;
                        let lines = trailers.map_or(Ok(Vec::new()), |all| message::trailers(&all));
                        taken.end = Some(lines.map_err(Fault::Response)?);
                        return Poll::Ready(Ok(taken));
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(self.fault(&error, true))),
                    Poll::Pending if taken.bytes > 0 => return Poll::Ready(Ok(taken)),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Pending if taken.bytes > 0 => return Poll::Ready(Ok(taken)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The client does not take what came: what the backend may still send until then counts as held.
    ///
    /// # Errors
    /// [`Fault::Memory`]: as much is held as may be.
    pub(crate) fn stall(&mut self, memory: &Memory) -> Result<(), Fault> {
        if self.stalled.is_none() && matches!(self.receive, Receive::Body(_)) {
            let window = self.place.conn.window as usize;
            self.stalled = Some(memory.share(window).map_err(|_| Fault::Memory)?);
        }
        Ok(())
    }

    /// What an error means; `answered` if the response's head had come.
    fn fault(&self, error: &h2::Error, answered: bool) -> Fault {
        let reason = error.reason().unwrap_or(h2::Reason::NO_ERROR);
        if error.is_remote() {
            // A GOAWAY only ends streams above the last that it names (RFC 9113 section 6.8).
            return match error.is_go_away() || reason == h2::Reason::REFUSED_STREAM {
                true if !answered => Fault::Unprocessed,
                true | false => Fault::Reset(reason),
            };
        }
        if error.is_library() {
            return Fault::Response(match error.is_go_away() {
                true => Malformed::Frame,
                false => Malformed::Message,
            });
        }
        match (self.place.conn.silent.get(), answered) {
            (true, false) => Fault::ResponseTimeout,
            (true, true) => Fault::BackendTimeout,
            (false, false) => Fault::ClosedEarly,
            (false, true) => Fault::Cut,
        }
    }
}

/// Why a connection could not be had, by what came instead of SETTINGS.
pub(super) fn trouble(error: &h2::Error) -> Trouble {
    match error.get_io() {
        // A client that TLS 1.3 refuses learns it by its first read.
        Some(error) => tls::alert(error).map_or_else(|| Cause::Closed.into(), Trouble::tls),
        None if error.is_remote() => Cause::Reset.into(),
        None => Cause::BadResponse.into(),
    }
}

/// The bytes of a tunnel: `CONNECT` (RFC 9113 section 8.5).
impl Stream for Tunneled {
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        match self.frames.poll_data(cx, buf) {
            Poll::Ready(Ok(taken)) => Poll::Ready(Ok(taken.bytes)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let frames = &mut self.frames;
        match frames.poll_room(cx, buf.len()) {
            Poll::Ready(Some(room)) => {
                let bytes = buf.get(..room).unwrap_or(buf);
                Poll::Ready(frames.send(bytes, false, &self.memory).map(|()| bytes.len()))
            }
            Poll::Ready(None) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.frames.send(b"", true, &self.memory)
    }

    fn reset_on_drop(&mut self) {
        if let Some(send) = &mut self.frames.send {
            send.send_reset(h2::Reason::CONNECT_ERROR);
        }
    }
}

/// A stream that became a tunnel.
pub(crate) struct Tunneled {
    pub(crate) frames: Box<Frames>,
    pub(crate) memory: Memory,
}
