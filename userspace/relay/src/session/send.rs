//! Sending what lies in the worker's buffer: a part of it, behind a head, in a chunk's frame, each in one go.

use std::{
    io,
    task::{Context, Poll},
};

use crate::{
    fault::Fault,
    http1::body::{self, CHUNK_END, LAST_CHUNK, SizeLine},
    scratch::{Pending, Scratch},
    stream::Stream,
};

/// What went out, and what did not.
pub(super) struct Sent {
    pub(super) bytes: u64,
    pub(super) pending: Option<Pending>,
}

/// What an error of this module's functions means, where one of the other side means `broken`.
pub(super) fn fault(error: &io::Error, broken: Fault) -> Fault {
    if error.kind() == io::ErrorKind::OutOfMemory {
        Fault::Memory
    } else {
        broken
    }
}

/// Sends a part of the buffer.
pub(super) fn range(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    to: &mut impl Stream,
    start: usize,
    end: usize,
    last: bool,
) -> io::Result<Sent> {
    let bytes = scratch.buf.get(start..end).unwrap_or_default();
    if bytes.is_empty() {
        return Ok(Sent {
            bytes: 0,
            pending: None,
        });
    }
    let polled = if last {
        to.poll_send_last(cx, bytes)
    } else {
        to.poll_send(cx, bytes)
    };
    let n = match polled {
        Poll::Ready(Ok(n)) => n,
        Poll::Ready(Err(error)) => return Err(error),
        Poll::Pending => 0,
    };
    let pending = match n < end - start {
        true => Some(scratch.keep(start + n, end)?),
        false => None,
    };
    Ok(Sent {
        bytes: n as u64,
        pending,
    })
}

/// Sends a vector.
fn vec(cx: &mut Context<'_>, scratch: &Scratch, to: &mut impl Stream, all: Vec<u8>) -> io::Result<Sent> {
    let n = match to.poll_send(cx, &all) {
        Poll::Ready(Ok(n)) => n,
        Poll::Ready(Err(error)) => return Err(error),
        Poll::Pending => 0,
    };
    let (bytes, left) = (n as u64, n < all.len());
    let pending = match left {
        true => Some(scratch.keep_vec(all, n)?),
        false => None,
    };
    Ok(Sent { bytes, pending })
}

/// Sends a head and a part of the buffer in one go: the head is put in front of the part.
pub(super) fn with_head(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    to: &mut impl Stream,
    head: &[u8],
    start: usize,
    end: usize,
    last: bool,
) -> io::Result<Sent> {
    if head.is_empty() {
        return range(cx, scratch, to, start, end, last);
    }
    let front = start.checked_sub(head.len());
    match front.and_then(|front| Some((front, scratch.buf.get_mut(front..start)?))) {
        Some((front, room)) => {
            room.copy_from_slice(head);
            range(cx, scratch, to, front, end, last)
        }
        None => {
            let mut all = head.to_vec();
            all.extend_from_slice(scratch.buf.get(start..end).unwrap_or_default());
            vec(cx, scratch, to, all)
        }
    }
}

/// Sends a part of the buffer as a chunk, behind a head if there is one, and the last chunk after it if `trailers` is
/// given. The chunk's frame is put around the part where it lies.
#[expect(
    clippy::too_many_arguments,
    reason = "the parts of one message, in their order"
)]
pub(super) fn chunk(
    cx: &mut Context<'_>,
    scratch: &mut Scratch,
    to: &mut impl Stream,
    head: &[u8],
    start: usize,
    end: usize,
    trailers: Option<&[u8]>,
    last: bool,
) -> io::Result<Sent> {
    let (mut front, mut back) = (start, end);
    if trailers.is_some_and(|t| !t.is_empty()) {
        let mut all = head.to_vec();
        body::write_chunk(
            &mut all,
            scratch.buf.get(start..end).unwrap_or_default(),
            trailers,
        );
        return vec(cx, scratch, to, all);
    }
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(room) = scratch.buf.get_mut(at..at + bytes.len()) {
            room.copy_from_slice(bytes);
        }
    };
    if start < end {
        let size = SizeLine::new(end - start);
        front -= size.as_bytes().len();
        put(front, size.as_bytes());
        put(back, CHUNK_END);
        back += CHUNK_END.len();
    }
    if trailers.is_some() {
        put(back, LAST_CHUNK);
        back += LAST_CHUNK.len();
    }
    with_head(cx, scratch, to, head, front, back, last)
}
