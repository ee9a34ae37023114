//! The request side of an exchange: what was written, what is left over, more of the body; from the client to the
//! backend.

use std::task::{Context, Poll};

use super::{
    Session,
    exchange::{Exchange, Step},
    send,
};
use crate::{
    fault::Fault,
    scratch::{HEADROOM, Scratch},
    stream::Stream,
};

impl Session {
    /// The request side: what was written, then what is left over, then more of the body.
    pub(super) fn step_up(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        if x.up.abandoned {
            return Ok(Step::Rests);
        }
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let cell = &upstream.peer.cell;
        if let Some(rest) = x.out.get(x.sent..).filter(|rest| !rest.is_empty()) {
            return match upstream.stream.poll_send(cx, rest) {
                Poll::Ready(Ok(n)) => {
                    x.sent += n;
                    cell.bytes_out.add(n as u64);
                    Ok(Step::On)
                }
                // The backend may have answered before it hung up: its answer counts.
                Poll::Ready(Err(_)) => {
                    x.up.abandoned = true;
                    Ok(Step::On)
                }
                Poll::Pending => Ok(Step::Waits),
            };
        }
        if let Some(pending) = &mut x.up.pending {
            let mut sent = 0;
            let polled = pending.poll(cx, &mut upstream.stream, &mut sent);
            cell.bytes_out.add(sent);
            return match polled {
                Poll::Ready(Ok(())) => {
                    if let Some(pending) = x.up.pending.take() {
                        pending.recycle(scratch);
                    }
                    Ok(Step::On)
                }
                Poll::Ready(Err(_)) => {
                    x.up.pending = None;
                    x.up.abandoned = true;
                    Ok(Step::On)
                }
                Poll::Pending if sent > 0 => Ok(Step::On),
                Poll::Pending => Ok(Step::Waits),
            };
        }
        if x.up.decoder.is_done() {
            return Ok(Step::Rests);
        }
        self.read_body(cx, scratch, x)
    }

    /// More of the request body, from the client to the backend.
    fn read_body(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        x: &mut Exchange,
    ) -> Result<Step, Fault> {
        let want = x.up.decoder.at_most(x.up.size.get());
        let room = scratch.buf.get_mut(HEADROOM..HEADROOM + want).unwrap_or_default();
        let n = match self.client.poll_recv(cx, room) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Fault::ClientClosed),
            Poll::Ready(Ok(n)) => n,
            Poll::Pending => return Ok(Step::Waits),
        };
        x.expect = false;
        x.up.beyond = true;
        x.bytes_in += n as u64;
        x.route.cell.bytes_in.add(n as u64);
        let read = room.get_mut(..n).unwrap_or_default();
        let decoded = x.up.decode(read)?;
        let next = read.get(decoded.used..).unwrap_or_default();
        if !next.is_empty() {
            self.ahead.extend_from_slice(next);
            self.unread = true;
            x.bytes_in -= next.len() as u64;
        }
        let done = x.up.decoder.is_done();
        let (start, end) = (HEADROOM + decoded.data.start, HEADROOM + decoded.data.end);
        let Some(upstream) = &mut x.upstream else {
            return Ok(Step::Rests);
        };
        let pending = if x.up.chunked {
            let trailers = done.then(|| x.up.decoder.trailers());
            send::chunk(
                cx,
                scratch,
                &mut upstream.stream,
                &[],
                start,
                end,
                trailers,
                false,
            )
        } else {
            send::range(cx, scratch, &mut upstream.stream, start, end, false)
        };
        match pending {
            Ok(sent) => {
                upstream.peer.cell.bytes_out.add(sent.bytes);
                x.up.size.adapt(n, sent.pending.is_none());
                x.up.pending = sent.pending;
            }
            Err(_) => x.up.abandoned = true,
        }
        Ok(Step::On)
    }
}
