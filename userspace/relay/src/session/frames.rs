//! The two sides of an exchange towards a backend that speaks HTTP/2: the same steps as `upward` and `downward`, with
//! frames of a stream in place of bytes of a connection.
//!
//! Heads have the relay's own form, HTTP/1.1 text, on this side of the stream: so what is rewritten, judged and written
//! is the same whatever the backend speaks. Bodies are never framed twice. The client's body is read only as far as the
//! stream has room, and the stream only as far as the client takes it.

use std::{
    io,
    task::{Context, Poll},
};

use super::{
    Session,
    client::{Client, Piece},
    exchange::{Exchange, Step},
};
use crate::{
    fault::Fault,
    http1::{head::Malformed, response::Asked},
    scratch::{HEAD_MAX, HEADROOM, Scratch},
    upstream::{
        Link,
        http2::{Frames, message},
    },
};

/// The stream of an exchange, if it goes over one.
fn frames(x: &mut Exchange) -> Option<&mut Frames> {
    match &mut x.upstream.as_mut()?.link {
        Link::Http1(_) => None,
        Link::Http2(frames) => Some(frames),
    }
}

impl<C: Client> Session<C> {
    /// The request side: its head, what came of the body along with it, then more of the body.
    pub(super) fn step_up_frames(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let read = x.is_read();
        let (head, len, sent) = (x.head_out, x.out.len(), x.sent);
        let trailers = read && !x.up.decoder.trailers().is_empty();
        // Its success makes a tunnel of what would be the body.
        let open = x.method == Asked::Connect || x.asked.is_some();
        let want = scratch.read_size(x.up.size);
        let secure = x.upstream.as_ref().is_some_and(|u| u.peer.is_secure());
        if !frames(x).is_some_and(|stream| stream.has_begun()) {
            let end = read && len <= head && !trailers && !open;
            let head = x.out.get(..head).unwrap_or_default();
            let request = match x.asked {
                Some(_) => message::websocket(head, secure),
                None => message::request(head, secure),
            };
            let request = request.map_err(Fault::Request)?;
            let Some(stream) = frames(x) else {
                return Ok(Step::Rests);
            };
            stream.begin(request, end)?;
            x.sent = x.head_out;
            return Ok(Step::On);
        }
        let Some(stream) = frames(x) else {
            return Ok(Step::Rests);
        };
        if sent < len {
            let room = match stream.poll_room(cx, len - sent) {
                Poll::Ready(Some(room)) => room,
                Poll::Ready(None) => return Ok(abandon(x)),
                Poll::Pending => return Ok(Step::Waits),
            };
            x.sent += room;
            let out = std::mem::take(&mut x.out);
            let step = hand_over(scratch, x, out.get(sent..sent + room).unwrap_or_default());
            x.out = out;
            return step;
        }
        if read {
            return match open || stream.has_ended() {
                true => Ok(Step::Rests),
                // Nothing but trailers.
                false => hand_over(scratch, x, b""),
            };
        }
        let room = match stream.poll_room(cx, want) {
            Poll::Ready(Some(room)) => room,
            Poll::Ready(None) => return Ok(abandon(x)),
            Poll::Pending => return Ok(Step::Waits),
        };
        let Piece { start, end, read } = match self.client.poll_body(cx, scratch, x, room) {
            Poll::Ready(piece) => piece?,
            Poll::Pending => {
                // Room that is kept for what does not come is room that others lack.
                if let Some(stream) = frames(x) {
                    stream.give_room_back();
                }
                return Ok(Step::Waits);
            }
        };
        x.expect = false;
        x.up.beyond = true;
        x.up.size.adapt(read, true);
        let step = hand_over(scratch, x, scratch.buf.get(start..end).unwrap_or_default())?;
        self.client.took_body();
        Ok(step)
    }

    /// What has come of a head, as text behind `HEADROOM`: always a whole one. None: nothing has come.
    pub(super) fn receive_head_frames(
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Option<usize>, Fault> {
        let asked = x.method;
        let Some(stream) = frames(x) else {
            return Ok(None);
        };
        let head = match stream.poll_head(cx) {
            Poll::Ready(Ok(head)) => head,
            Poll::Ready(Err(fault)) => return Err(fault),
            Poll::Pending => return Ok(None),
        };
        x.down.any = true;
        let mut text = scratch.vec();
        // Success opens the WebSocket that was asked for by extended CONNECT.
        let written = match x.asked.is_some() && head.status.is_success() {
            true => message::switched(
                &mut text,
                &head.fields,
                x.out.get(..x.head_out).unwrap_or_default(),
            ),
            false => message::response(&mut text, head.status, &head.fields, asked, head.ended),
        };
        let len = text.len();
        let written = written.and_then(|()| match scratch.buf.get_mut(HEADROOM..HEADROOM + len) {
            Some(room) if len <= HEAD_MAX => {
                room.copy_from_slice(&text);
                Ok(Some(len))
            }
            Some(_) | None => Err(Malformed::TooLarge),
        });
        scratch.give_back(text);
        written.map_err(Fault::Response)
    }

    /// More of a response body, from the stream to the client; behind a head in `scratch.head` if there is one.
    pub(super) fn read_frames(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
        with_head: bool,
    ) -> Result<Step, Fault> {
        let want = scratch.read_size(x.down.size);
        let Some(stream) = frames(x) else {
            return Ok(Step::Rests);
        };
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match stream.poll_data(cx, room) {
            Poll::Ready(Ok(taken)) => {
                if let Some(trailers) = taken.end {
                    x.down.decoder.end(trailers);
                }
                taken.bytes
            }
            Poll::Ready(Err(fault)) => {
                if with_head {
                    x.down.status = None;
                }
                return Err(fault);
            }
            Poll::Pending if with_head => 0,
            Poll::Pending => return Ok(Step::Waits),
        };
        if n > 0 && !x.down.has_body {
            x.down.status = x.down.status.filter(|_| !with_head);
            return Err(Fault::Response(Malformed::Message));
        }
        let step = self.send_body(cx, scratch, x, HEADROOM, HEADROOM + n, with_head)?;
        let sent = x.down.pending.is_none();
        x.down.size.adapt(n, sent);
        if !sent && let Some(stream) = frames(x) {
            stream.stall(scratch.memory())?;
        }
        Ok(step)
    }
}

/// Hands bytes of the request's body to the stream, and its end if they are the last.
fn hand_over(scratch: &Scratch, x: &mut Exchange, bytes: &[u8]) -> Result<Step, Fault> {
    let last = x.is_read() && x.sent >= x.out.len();
    let trailers = match x.up.decoder.trailers() {
        lines if last && !lines.is_empty() => Some(message::trailer_map(lines).map_err(Fault::Request)?),
        _ => None,
    };
    let Some(stream) = frames(x) else {
        return Ok(Step::Rests);
    };
    let sent = stream
        .send(bytes, last && trailers.is_none(), scratch.memory())
        .and_then(|()| trailers.map_or(Ok(()), |trailers| stream.send_trailers(trailers)));
    match sent {
        Ok(()) => Ok(Step::On),
        Err(error) if error.kind() == io::ErrorKind::OutOfMemory => Err(Fault::Memory),
        Err(_) => Ok(abandon(x)),
    }
}

/// The backend takes no more of the request; what it answers counts.
fn abandon(x: &mut Exchange) -> Step {
    x.up.abandoned = true;
    Step::On
}
