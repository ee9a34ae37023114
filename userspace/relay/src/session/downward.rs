//! The response side of an exchange: head, interim heads, body; from the backend to the client.

use std::{
    rc::Rc,
    task::{Context, Poll},
};

use super::{
    Session,
    client::{Client, Part},
    exchange::{Exchange, Stage, Step},
    http, send,
};
use crate::{
    fault::Fault,
    http1::{
        body::Decoder,
        head::{self, HeadLimits, MAX_FIELDS, Malformed, field_store},
        response::{self, Response, ResponseBody},
        version::Version,
        write::{self, ClientConnection, ResponseShape},
    },
    scratch::{HEAD_MAX, HEADROOM, READ_START, Scratch},
    stream::Stream,
    tls,
    upstream::{Link, Upstream},
};

impl<C: Client> Session<C> {
    /// The response side: what is left over, then more of head or body.
    pub(super) fn step_down(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        if let Some(pending) = &mut x.down.pending {
            let mut sent = 0;
            let polled = pending.poll(cx, &mut self.client, &mut sent);
            x.bytes_out += sent;
            x.route.cell.bytes_out.add(sent);
            return match polled {
                Poll::Ready(Ok(())) => {
                    if let Some(pending) = x.down.pending.take() {
                        pending.recycle(scratch);
                    }
                    Ok(Step::On)
                }
                Poll::Ready(Err(_)) => Err(Fault::ClientClosed),
                Poll::Pending if sent > 0 => Ok(Step::On),
                Poll::Pending => Ok(Step::Waits),
            };
        }
        match x.down.stage {
            Stage::Head => self.read_head(cx, scratch, x),
            Stage::Body => self.read_response(cx, scratch, x),
            Stage::Done | Stage::Upgraded => Ok(Step::Rests),
        }
    }

    /// More of a response head, from the backend.
    fn read_head(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let route = Rc::clone(&x.route);
        let Some(http) = http(&route) else {
            return Err(Fault::Drained);
        };
        let limits = HeadLimits {
            bytes: (http.limits.head as usize).min(HEAD_MAX),
            fields: usize::from(http.limits.headers).min(MAX_FIELDS),
        };
        let frames = x.upstream.as_ref().is_some_and(Upstream::is_http2);
        let have = if frames {
            Self::receive_head_frames(cx, scratch, x)?
        } else {
            receive_head(cx, scratch, x)?
        };
        let Some(have) = have else {
            return Ok(Step::Waits);
        };
        let Some(bytes) = scratch.buf.get(HEADROOM..HEADROOM + have) else {
            return Err(Fault::Response(Malformed::TooLarge));
        };
        let mut store = field_store();
        let parsed = if x.down.is_worth_a_look(bytes, limits.bytes)? {
            match response::parse(bytes, &mut store, limits, x.method) {
                Ok(parsed) => parsed,
                Err(malformed) => {
                    if malformed == Malformed::Version && lower_version(scratch, have) {
                        x.down
                            .again(scratch.buf.get(HEADROOM..HEADROOM + have).unwrap_or_default());
                        return Ok(Step::On);
                    }
                    return Err(Fault::Response(malformed));
                }
            }
        } else {
            None
        };
        let Some(mut parsed) = parsed else {
            x.down.keep_part(bytes)?;
            scratch
                .account(&mut x.down.share, x.down.part.len())
                .map_err(|_| Fault::Memory)?;
            return Ok(Step::On);
        };
        if frames {
            parsed.version = Version::Http2;
        }
        let rest = bytes.get(parsed.head_len..).unwrap_or_default();
        if parsed.status < 200 && parsed.status != 101 {
            scratch.head.clear();
            // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
            if x.version.has_interim() {
                write::interim(&mut scratch.head, &parsed);
            }
            x.expect = false;
            x.down.after_interim(rest)?;
            return self.send_interim(cx, scratch, x);
        }
        if self.wants_another(x, parsed.status) {
            return Err(Fault::Status(parsed.status));
        }
        let connection = self.begin_response(x, &parsed)?;
        let chunked = x.down.chunked;
        let shape = ResponseShape { chunked, connection };
        scratch.head.clear();
        if let Err(malformed) = self.write_response(&mut scratch.head, x, &parsed, shape, http) {
            x.down.status = None;
            return Err(Fault::Response(malformed));
        }
        if parsed.status == 101 || parsed.tunnel {
            x.down.stage = Stage::Upgraded;
            x.down.keep_upstream = false;
            // What follows the head belongs to the other protocol already.
            let head = std::mem::take(&mut scratch.head);
            let switched = self.client.switch(parsed.status, head, rest);
            let (status, pending) = switched.map_err(|_| Fault::ClientClosed)?;
            x.down.status = Some(status);
            x.down.pending = Some(pending);
            return Ok(Step::On);
        }
        x.down.stage = Stage::Body;
        if frames {
            x.down.decoder = Decoder::FRAMES;
            return self.read_frames(cx, scratch, x, true);
        }
        let start = HEADROOM + parsed.head_len;
        self.send_body(cx, scratch, x, start, HEADROOM + have, true)
    }

    /// A final head has come: what follows it, and what becomes of the connections.
    fn begin_response(&self, x: &mut Exchange, parsed: &Response<'_, '_>) -> Result<ClientConnection, Fault> {
        let upgraded = parsed.status == 101;
        let asked = x.asked.as_deref().unwrap_or_default();
        if upgraded
            && !parsed
                .upgrade
                .is_some_and(|switched| response::is_asked_for(switched, asked))
        {
            return Err(Fault::Response(Malformed::Switch));
        }
        if let Some(handshake) = x.handshake.as_ref().filter(|_| upgraded) {
            handshake.is_answered_by(parsed).map_err(Fault::Response)?;
        }
        if upgraded && !self.client.proves_switch(parsed.value("sec-websocket-accept")) {
            return Err(Fault::Response(Malformed::WebSocket));
        }
        if !upgraded && (200..300).contains(&parsed.status) && self.client.asked_switch() {
            return Err(Fault::Response(Malformed::WebSocket));
        }
        let (first_byte, response) = x.phases.answered(self.worker.clock.now());
        x.route.cell.first_byte.observe(first_byte);
        if let Some(response) = response {
            x.route.pool.cell.response.observe(response);
        }
        x.down.part = Vec::new();
        x.down.share = None;
        x.down.status = Some(parsed.status);
        x.down.chunked = write::goes_chunked(parsed.body, x.version);
        // What HTTP/2 sends is framed whatever it is.
        let frames = x.down.chunked || x.version == Version::Http2;
        let (decoder, framed) = match parsed.body {
            ResponseBody::None => (Decoder::NONE, true),
            ResponseBody::Length(length) => (Decoder::Length(length), true),
            ResponseBody::Chunked => (Decoder::chunked(), frames),
            ResponseBody::UntilClose => (Decoder::UntilClose, frames),
        };
        x.down.decoder = decoder;
        x.down.close_delimited = !framed;
        x.down.has_body = parsed.body != ResponseBody::None;
        x.down.keep_upstream = parsed.keep_alive;
        // A request that is still coming can't be told from the next one once its response is over.
        let ends = !framed || !x.keep_alive || !x.is_read() || self.is_ending();
        x.keep_alive = !ends;
        Ok(if upgraded {
            ClientConnection::Upgrades
        } else if parsed.tunnel {
            ClientConnection::Tunnel
        } else {
            C::told(!ends, x.version)
        })
    }

    fn send_interim(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        if scratch.head.is_empty() {
            return Ok(Step::On);
        }
        let sent = self.client.send_interim(cx, scratch);
        let sent = sent.map_err(|_| Fault::ClientClosed)?;
        x.bytes_out += sent.bytes;
        x.route.cell.bytes_out.add(sent.bytes);
        x.down.pending = sent.pending;
        Ok(Step::On)
    }

    /// More of a response body, from the backend to the client.
    fn read_response(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let stream = match &mut upstream.link {
            Link::Http1(connection) => &mut connection.stream,
            Link::Http2(_) => return self.read_frames(cx, scratch, x, false),
        };
        let want = x.down.decoder.at_most(scratch.read_size(x.down.size));
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match stream.poll_recv(cx, room) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Err(Fault::Cut),
            Poll::Pending => return Ok(Step::Waits),
        };
        upstream.peer.cell.bytes_in.add(n as u64);
        if n == 0 {
            if x.down.decoder != Decoder::UntilClose {
                return Err(Fault::Cut);
            }
            // The end of the connection is the end of the body.
            x.down.decoder = Decoder::NONE;
        }
        let step = self.send_body(cx, scratch, x, HEADROOM, HEADROOM + n, false)?;
        let sent = x.down.pending.is_none();
        x.down.size.adapt(n, sent);
        Ok(step)
    }

    /// Decodes what lies in the buffer, writes it as the client shall have it, and sends it; behind a head in
    /// `scratch.head` if there is one.
    pub(super) fn send_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
        start: usize,
        end: usize,
        with_head: bool,
    ) -> Result<Step, Fault> {
        let rest = scratch.buf.get_mut(start..end).unwrap_or_default();
        let decoded = x.down.decoder.decode(rest).map_err(|malformed| {
            if with_head {
                x.down.status = None
            }
            Fault::Response(malformed)
        })?;
        // More than the response: the connection is not to be trusted with another request.
        if decoded.used < rest.len() {
            x.down.keep_upstream = false;
        }
        let done = x.down.decoder.is_done();
        if done {
            x.down.stage = Stage::Done;
            x.phases.last();
        }
        let last = done && self.may_announce_end(x);
        let head = if with_head {
            std::mem::take(&mut scratch.head)
        } else {
            Vec::new()
        };
        let part = Part {
            head: &head,
            start: start + decoded.data.start,
            end: start + decoded.data.end,
            chunked: x.down.chunked,
            done,
            trailers: x.down.decoder.trailers(),
            last,
        };
        let sent = self.client.send_part(cx, scratch, part);
        if with_head {
            scratch.head = head;
        }
        let sent = sent.map_err(|error| send::fault(&error, Fault::ClientClosed))?;
        x.bytes_out += sent.bytes;
        x.route.cell.bytes_out.add(sent.bytes);
        x.end_announced = last && sent.pending.is_none();
        x.down.pending = sent.pending;
        Ok(Step::On)
    }

    /// Whether the last bytes of the response may carry the end of the connection: the client asked for it, and nothing
    /// of what it sent is left unread.
    fn may_announce_end(&self, x: &Exchange) -> bool {
        x.wants_end && x.is_sent() && self.client.is_quiet()
    }
}

/// Takes a head of HTTP/1.2 and above, in the buffer, for one of HTTP/1.1.
#[cold]
fn lower_version(scratch: &mut Scratch, have: usize) -> bool {
    let head = scratch.buf.get_mut(HEADROOM..HEADROOM + have);
    head.is_some_and(head::lower_version)
}

/// Reads on behind the part of a head that has come. Answers with the bytes of it in the buffer; None if there is
/// nothing to read.
fn receive_head(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    x: &mut Exchange,
) -> Result<Option<usize>, Fault> {
    let Some(Upstream {
        link: Link::Http1(connection),
        peer,
        ..
    }) = &mut x.upstream
    else {
        return Ok(None);
    };
    let have = x.down.part.len();
    if have > 0
        && let Some(room) = scratch.buf.get_mut(HEADROOM..HEADROOM + have)
    {
        room.copy_from_slice(&x.down.part);
    }
    if std::mem::take(&mut x.down.unread) {
        return Ok(Some(have));
    }
    let room = HEADROOM + have..HEADROOM + have + READ_START;
    match connection
        .stream
        .poll_recv(cx, scratch.buf.get_mut(room).unwrap_or_default())
    {
        Poll::Ready(Ok(0)) => Err(Fault::ClosedEarly),
        Poll::Ready(Err(error)) => Err(tls::alert(&error).map_or(Fault::ClosedEarly, Fault::BackendAlert)),
        Poll::Ready(Ok(n)) => {
            peer.cell.bytes_in.add(n as u64);
            x.down.any = true;
            Ok(Some(have + n))
        }
        Poll::Pending => Ok(None),
    }
}
