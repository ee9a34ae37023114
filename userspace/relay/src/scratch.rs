//! One buffer per worker that all its connections read into, and what may outlive a poll.
//!
//! No connection owns a buffer while it is idle. A poll fills the worker's buffer and empties it again before it
//! returns. Only an unsent remainder is kept, in a buffer of its own size.

use std::{
    io,
    task::{Context, Poll},
};

use crate::stream::Stream;

/// Room in front of what is read: a rewritten head or a chunk's size line goes there, so that head and body leave in
/// one send.
pub(crate) const HEADROOM: usize = 2048;

/// Room behind what is read: a chunk's end, and the last chunk.
pub(crate) const TAILROOM: usize = 16;

/// Least and first, and most, that one read may take.
pub(crate) const READ_MIN: usize = 16 << 10;
pub(crate) const READ_START: usize = 64 << 10;
pub(crate) const READ_MAX: usize = 1 << 20;

/// Bytes that a head may have at the very most, whatever the service's limit says: it is put together in the buffer.
pub(crate) const HEAD_MAX: usize = READ_MAX;

/// Small vectors kept for the next head or remainder.
const SPARE: usize = 64;

/// A spare vector larger than this is given back to the system.
const SPARE_BYTES: usize = 16 << 10;

/// A worker's buffers.
pub(crate) struct Scratch {
    /// `HEADROOM`, then what is read (behind what there is of a head already), then `TAILROOM`. Zero pages until they
    /// are read into.
    pub(crate) buf: Box<[u8]>,
    /// Heads are written here.
    pub(crate) head: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            buf: zeroed(),
            head: Vec::with_capacity(4096),
            spare: Vec::new(),
        }
    }

    /// An empty vector.
    #[inline]
    pub(crate) fn vec(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a vector back.
    #[inline]
    pub(crate) fn give_back(&mut self, mut vec: Vec<u8>) {
        if vec.capacity() > 0 && vec.capacity() <= SPARE_BYTES && self.spare.len() < SPARE {
            vec.clear();
            self.spare.push(vec);
        }
    }

    /// Keeps a part of the buffer beyond this poll.
    pub(crate) fn keep(&mut self, start: usize, end: usize) -> Pending {
        if end - start < READ_MAX / 4 {
            let mut vec = self.vec();
            vec.extend_from_slice(self.buf.get(start..end).unwrap_or_default());
            return Pending {
                bytes: Kept::Vec(vec),
                start: 0,
                end: end - start,
            };
        }
        Pending {
            bytes: Kept::Whole(std::mem::replace(&mut self.buf, zeroed())),
            start,
            end,
        }
    }
}

fn zeroed() -> Box<[u8]> {
    vec![0; HEADROOM + HEAD_MAX + READ_START + TAILROOM].into_boxed_slice()
}

/// Bytes that could not be sent yet.
pub(crate) struct Pending {
    bytes: Kept,
    start: usize,
    end: usize,
}

enum Kept {
    Vec(Vec<u8>),
    Whole(Box<[u8]>),
}

impl Pending {
    /// A vector from `start` on.
    pub(crate) fn from_vec(vec: Vec<u8>, start: usize) -> Self {
        let end = vec.len();
        Self {
            bytes: Kept::Vec(vec),
            start,
            end,
        }
    }

    /// Sends on, and adds what went out to `sent`. `Ready(Ok(()))`: nothing is left.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut impl Stream,
        sent: &mut u64,
    ) -> Poll<io::Result<()>> {
        let all: &[u8] = match &self.bytes {
            Kept::Vec(vec) => vec,
            Kept::Whole(whole) => whole,
        };
        while let Some(rest) = all.get(self.start..self.end).filter(|rest| !rest.is_empty()) {
            match to.poll_send(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.start += n;
                    *sent += n as u64;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What is left of it, for the next one.
    pub(crate) fn recycle(self, scratch: &mut Scratch) {
        match self.bytes {
            Kept::Vec(vec) => scratch.give_back(vec),
            Kept::Whole(_) => {}
        }
    }
}

/// How much one read of a body takes: grows while both sides keep up, falls when the receiver does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadSize(usize);

impl ReadSize {
    pub(crate) const START: Self = Self(READ_START);

    #[inline]
    pub(crate) fn get(self) -> usize {
        self.0
    }

    /// After a read of `read` bytes, of which all (`sent`) went out at once or not.
    #[inline]
    pub(crate) fn adapt(&mut self, read: usize, sent: bool) {
        if !sent {
            self.0 = (self.0 / 4).max(READ_MIN);
        } else if read >= self.0 {
            self.0 = (self.0 * 2).min(READ_MAX);
        }
    }
}
