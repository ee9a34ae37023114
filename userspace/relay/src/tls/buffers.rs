//! A worker's buffers for records, and how what rustls says gets into them.

use std::io;

use rustls::unbuffered::{EncodeError, EncryptError, InsufficientSizeError};

use crate::scratch::Memory;

/// Plain bytes of a record at the most (RFC 8446 section 5.1).
pub(super) const RECORD: usize = 16 << 10;
/// What a record has beside them, at the most.
pub(super) const RECORD_MORE: usize = 256 + 5;
/// Bytes that one read of records takes.
pub(super) const READ: usize = 4 * (RECORD + RECORD_MORE);
/// Plain bytes that one write of records takes.
pub(super) const WRITE: usize = 4 * RECORD;
/// Room for the end of a connection.
pub(super) const CLOSE_NOTIFY: usize = 64;

/// A worker's buffers for records.
pub(crate) struct Buffers {
    pub(super) read: Box<[u8]>,
    pub(super) write: Vec<u8>,
    /// What is sent in pieces is put together here.
    pub(super) pieces: Vec<u8>,
    pub(super) memory: Memory,
}

impl Buffers {
    pub(crate) fn new(memory: Memory) -> Self {
        Self {
            read: vec![0; READ].into_boxed_slice(),
            write: vec![0; WRITE + 4 * RECORD_MORE + CLOSE_NOTIFY],
            pieces: Vec::new(),
            memory,
        }
    }
}

/// Has a record of the handshake added to what is to be sent.
pub(super) fn encode(mut record: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>, to: &mut Vec<u8>) {
    let at = to.len();
    let mut size = 0;
    // The first try says how long it is.
    for _ in 0..2 {
        to.resize(at + size, 0);
        match record(to.get_mut(at..).unwrap_or_default()) {
            Ok(_) | Err(EncodeError::AlreadyEncoded) => return,
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => {
                size = required_size
            }
        }
    }
}

/// Has something written to `to[at..]`, which is made as long as that takes.
pub(super) fn fitting(
    to: &mut Vec<u8>,
    at: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<usize> {
    loop {
        match write(to.get_mut(at..).unwrap_or_default()) {
            Ok(n) => return Ok(n),
            Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => {
                to.resize(at + required_size, 0);
            }
            Err(EncryptError::EncryptExhausted) => return Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}
