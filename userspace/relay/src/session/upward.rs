//! The request side of an exchange: what was written, what is left over, more of the body; from the client to the
//! backend.

use std::task::{Context, Poll};

use super::{
    Session,
    client::{Client, Piece},
    exchange::{Exchange, Step},
    send,
};
use crate::{
    fault::Fault,
    scratch::Scratch,
    stream::Stream,
    upstream::{Link, Upstream},
};

impl<C: Client> Session<C> {
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
        let stream = match &mut upstream.link {
            Link::Http1(connection) => &mut connection.stream,
            Link::Http2(_) => return self.step_up_frames(cx, scratch, x),
        };
        let cell = &upstream.peer.cell;
        if let Some(rest) = x.out.get(x.sent..).filter(|rest| !rest.is_empty()) {
            return match stream.poll_send(cx, rest) {
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
            let polled = pending.poll(cx, stream, &mut sent);
            cell.bytes_out.add(sent);
            return match polled {
                Poll::Ready(Ok(())) => {
                    if let Some(pending) = x.up.pending.take() {
                        pending.recycle(scratch);
                    }
                    self.client.took_body();
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
        let Piece { start, end, read } = match self.client.poll_body(cx, scratch, x, usize::MAX) {
            Poll::Ready(piece) => piece?,
            Poll::Pending => return Ok(Step::Waits),
        };
        x.expect = false;
        x.up.beyond = true;
        let done = x.up.decoder.is_done();
        let Some(Upstream {
            link: Link::Http1(connection),
            peer,
            ..
        }) = &mut x.upstream
        else {
            return Ok(Step::Rests);
        };
        let pending = if x.up.chunked {
            let trailers = done.then(|| x.up.decoder.trailers());
            send::chunk(
                cx,
                scratch,
                &mut connection.stream,
                &[],
                start,
                end,
                trailers,
                false,
            )
        } else {
            send::range(cx, scratch, &mut connection.stream, start, end, false)
        };
        match pending {
            Ok(sent) => {
                peer.cell.bytes_out.add(sent.bytes);
                x.up.size.adapt(read, sent.pending.is_none());
                if sent.pending.is_none() {
                    self.client.took_body();
                }
                x.up.pending = sent.pending;
            }
            Err(error) if error.kind() == std::io::ErrorKind::OutOfMemory => return Err(Fault::Memory),
            Err(_) => x.up.abandoned = true,
        }
        Ok(Step::On)
    }
}
