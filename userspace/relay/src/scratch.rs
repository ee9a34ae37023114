//! One buffer per worker that all its connections read into, and what may outlive a poll.
//!
//! No connection owns a buffer while it is idle. A poll fills the worker's buffer and empties it again before it
//! returns. Only an unsent remainder is kept, in a buffer of its own size. What all connections of a worker keep together
//! is bounded: past half of the bound reads are small, past the bound a connection that would keep more is closed.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use crate::{stats::WorkerCell, stream::Stream};

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
    memory: Memory,
}

/// What a worker's connections may keep together, and what they do.
#[derive(Clone)]
pub(crate) struct Memory {
    most: Arc<AtomicU64>,
    cell: Arc<WorkerCell>,
}

/// A part of what is kept; given back when it is dropped.
pub(crate) struct Share {
    bytes: u64,
    cell: Arc<WorkerCell>,
}

impl Memory {
    pub(crate) fn new(most: Arc<AtomicU64>, cell: Arc<WorkerCell>) -> Self {
        Self { most, cell }
    }

    pub(crate) fn cell(&self) -> &Arc<WorkerCell> {
        &self.cell
    }

    /// A part of what may be kept.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`]: as much is kept already as may be.
    pub(crate) fn share(&self, bytes: usize) -> io::Result<Share> {
        let bytes = bytes as u64;
        if self.cell.held.get().saturating_add(bytes) > self.most.load(Relaxed) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.cell.held.add(bytes);
        Ok(Share {
            bytes,
            cell: Arc::clone(&self.cell),
        })
    }
}

impl Share {
    /// How much it stands for.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// That many bytes of it are held no longer.
    pub(crate) fn lower(&mut self, bytes: usize) {
        let bytes = self.bytes.min(bytes as u64);
        self.bytes -= bytes;
        self.cell.held.sub(bytes);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.cell.held.sub(self.bytes);
    }
}

impl Scratch {
    pub(crate) fn new(memory: Memory) -> Self {
        Self {
            buf: zeroed(),
            head: Vec::with_capacity(4096),
            spare: Vec::new(),
            memory,
        }
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
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

    /// Makes `share` stand for this much, in place of what it stood for.
    ///
    /// # Errors
    /// As [`Self::keep`]; then it stands for nothing.
    pub(crate) fn account(&self, share: &mut Option<Box<Share>>, bytes: usize) -> io::Result<()> {
        *share = None;
        if bytes > 0 {
            *share = Some(Box::new(self.memory.share(bytes)?));
        }
        Ok(())
    }

    /// How much the next read may take: as much as its two sides are good for, or little while much is kept.
    #[inline]
    pub(crate) fn read_size(&self, size: ReadSize) -> usize {
        let most = self.memory.most.load(Relaxed);
        if self.memory.cell.held.get() > most / 2 {
            return READ_MIN;
        }
        // No one connection takes much of a small bound.
        let share = usize::try_from(most / 8).unwrap_or(usize::MAX);
        size.get().min(share.max(READ_MIN))
    }

    /// Keeps a part of the buffer beyond this poll.
    ///
    /// # Errors
    /// [`io::ErrorKind::OutOfMemory`]: as much is kept already as may be.
    pub(crate) fn keep(&mut self, start: usize, end: usize) -> io::Result<Pending> {
        if end - start < READ_MAX / 4 {
            let share = self.memory.share(end - start)?;
            let mut vec = self.vec();
            vec.extend_from_slice(self.buf.get(start..end).unwrap_or_default());
            return Ok(Pending {
                bytes: Kept::Vec(vec),
                start: 0,
                end: end - start,
                _share: Some(share),
            });
        }
        let share = self.memory.share(self.buf.len())?;
        Ok(Pending {
            bytes: Kept::Whole(std::mem::replace(&mut self.buf, zeroed())),
            start,
            end,
            _share: Some(share),
        })
    }

    /// Keeps a vector from `start` on. Errors as [`Self::keep`].
    pub(crate) fn keep_vec(&self, vec: Vec<u8>, start: usize) -> io::Result<Pending> {
        let share = self.memory.share(vec.capacity())?;
        Ok(Pending {
            _share: Some(share),
            ..Pending::from_vec(vec, start)
        })
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
    _share: Option<Share>,
}

enum Kept {
    Vec(Vec<u8>),
    Whole(Box<[u8]>),
}

impl Pending {
    /// A vector from `start` on: a head, which has its own bound, or a part of one.
    pub(crate) fn from_vec(vec: Vec<u8>, start: usize) -> Self {
        let end = vec.len();
        Self {
            bytes: Kept::Vec(vec),
            start,
            end,
            _share: None,
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
            match to.poll_send_rest(cx, rest) {
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
