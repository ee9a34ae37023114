//! The response side of an exchange: head, interim heads, body; from the backend to the client.

use std::{
    rc::Rc,
    task::{Context, Poll},
    time::SystemTime,
};

use super::{
    Session,
    exchange::{Exchange, Stage, Step},
    http, send,
};
use crate::{
    fault::Fault,
    http1::{
        body::Decoder,
        head::{HeadLimits, MAX_FIELDS, Malformed, field_store},
        response::{self, Response, ResponseBody},
        write::{self, ClientConnection, ResponseShape},
    },
    scratch::{HEAD_MAX, HEADROOM, Pending, READ_START, Scratch},
    stream::Stream,
};

impl Session {
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
        let Some(have) = receive_head(cx, scratch, x)? else {
            return Ok(Step::Waits);
        };
        let Some(bytes) = scratch.buf.get(HEADROOM..HEADROOM + have) else {
            return Err(Fault::Response(Malformed::TooLarge));
        };
        let mut store = field_store();
        let parsed = if x.down.is_worth_a_look(bytes, limits.bytes)? {
            response::parse(bytes, &mut store, limits, x.to_head).map_err(Fault::Response)?
        } else {
            None
        };
        let Some(parsed) = parsed else {
            x.down.keep_part(bytes)?;
            return Ok(Step::On);
        };
        let rest = bytes.get(parsed.head_len..).unwrap_or_default();
        if parsed.status < 200 && parsed.status != 101 {
            scratch.head.clear();
            // HTTP/1.0 knows no interim responses (RFC 9110 section 15.2).
            if x.minor > 0 {
                write::interim(&mut scratch.head, &parsed);
            }
            x.expect = false;
            x.down.after_interim(rest)?;
            return self.send_interim(cx, scratch, x);
        }
        let connection = self.begin_response(x, &parsed)?;
        let vars = self.variables(&route, x.backend, false);
        let chunked = x.down.chunked;
        let shape = ResponseShape { chunked, connection };
        scratch.head.clear();
        write::response(
            &mut scratch.head,
            &parsed,
            shape,
            &route.response_rules,
            &vars,
            SystemTime::now,
        );
        if parsed.status == 101 {
            x.down.stage = Stage::Upgraded;
            x.down.keep_upstream = false;
            // What follows the head belongs to the other protocol already.
            let mut all = std::mem::take(&mut scratch.head);
            all.extend_from_slice(rest);
            x.down.pending = Some(Pending::from_vec(all, 0));
            return Ok(Step::On);
        }
        x.down.stage = Stage::Body;
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
        let first_byte = x.started.elapsed();
        x.first_byte = Some(first_byte);
        x.route.cell.first_byte.observe(first_byte);
        x.down.part = Vec::new();
        x.down.status = Some(parsed.status);
        x.down.chunked = write::goes_chunked(parsed.body, x.minor);
        let (decoder, framed) = match parsed.body {
            ResponseBody::None => (Decoder::NONE, true),
            ResponseBody::Length(length) => (Decoder::Length(length), true),
            ResponseBody::Chunked => (Decoder::chunked(), x.down.chunked),
            ResponseBody::UntilClose => (Decoder::UntilClose, x.down.chunked),
        };
        x.down.decoder = decoder;
        x.down.close_delimited = !framed;
        x.down.keep_upstream = parsed.keep_alive;
        // A request that is still coming can't be told from the next one once its response is over.
        let ends = !framed || !x.keep_alive || !x.is_read() || self.is_ending();
        x.keep_alive = !ends;
        Ok(match (upgraded, ends, x.minor) {
            (true, _, _) => ClientConnection::Upgrades,
            (false, true, _) => ClientConnection::Ends,
            (false, false, 0) => ClientConnection::StaysAloud,
            (false, false, _) => ClientConnection::Stays,
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
        let sent = match self.client.poll_send(cx, &scratch.head) {
            Poll::Ready(Ok(n)) => n,
            Poll::Ready(Err(_)) => return Err(Fault::ClientClosed),
            Poll::Pending => 0,
        };
        x.bytes_out += sent as u64;
        x.route.cell.bytes_out.add(sent as u64);
        if sent < scratch.head.len() {
            x.down.pending = Some(Pending::from_vec(scratch.head.clone(), sent));
        }
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
        let want = x.down.decoder.at_most(x.down.size.get());
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match upstream.stream.poll_recv(cx, room) {
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
    fn send_body(
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
        }
        let last = done && self.may_announce_end(x);
        let head = if with_head {
            std::mem::take(&mut scratch.head)
        } else {
            Vec::new()
        };
        let (start, end) = (start + decoded.data.start, start + decoded.data.end);
        let sent = if x.down.chunked {
            let trailers = done.then(|| x.down.decoder.trailers());
            send::chunk(cx, scratch, &mut self.client, &head, start, end, trailers, last)
        } else {
            send::with_head(cx, scratch, &mut self.client, &head, start, end, last)
        };
        if with_head {
            scratch.head = head;
        }
        let sent = sent.map_err(|_| Fault::ClientClosed)?;
        x.bytes_out += sent.bytes;
        x.route.cell.bytes_out.add(sent.bytes);
        x.end_announced = last && sent.pending.is_none();
        x.down.pending = sent.pending;
        Ok(Step::On)
    }

    /// Whether the last bytes of the response may carry the end of the connection: the client asked for it, and nothing
    /// of what it sent is left unread.
    fn may_announce_end(&self, x: &Exchange) -> bool {
        x.wants_end && x.is_sent() && self.ahead.is_empty()
    }
}

/// Reads on behind the part of a head that has come. Answers with the bytes of it in the buffer; None if there is
/// nothing to read.
fn receive_head(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    x: &mut Exchange,
) -> Result<Option<usize>, Fault> {
    let Some(upstream) = &mut x.upstream else {
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
    match upstream
        .stream
        .poll_recv(cx, scratch.buf.get_mut(room).unwrap_or_default())
    {
        Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => Err(Fault::ClosedEarly),
        Poll::Ready(Ok(n)) => {
            upstream.peer.cell.bytes_in.add(n as u64);
            x.down.any = true;
            Ok(Some(have + n))
        }
        Poll::Pending => Ok(None),
    }
}
