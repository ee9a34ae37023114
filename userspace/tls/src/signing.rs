//! The process that has the keys: answers requests for signatures, one socket and one thread a worker that asks.
//!
//! Owns what is signed and what is refused, and the counts of both. Never gives a key out: there is no request for one.

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use crate::{
    key::{KeyId, PrivateKey},
    keys::LocalKeys,
    message::{MOST_REQUEST, Refusal, Request, encode_answer, is_of_a_handshake},
};

/// Keys that are signed with, and how often that was done.
#[derive(Debug, Default)]
pub struct Signing {
    keys: RwLock<Arc<LocalKeys>>,
    signed: AtomicU64,
    refused: AtomicU64,
}

impl Signing {
    /// Signs with these, too, from now on. How many keys there are then.
    pub fn add(&self, keys: impl IntoIterator<Item = PrivateKey>) -> usize {
        self.change(|all| keys.into_iter().for_each(|key| all.insert(key)))
    }

    /// Forgets all keys but these. How many there are then.
    pub fn retain(&self, keys: &BTreeSet<KeyId>) -> usize {
        self.change(|all| all.retain(keys))
    }

    fn change(&self, change: impl FnOnce(&mut LocalKeys)) -> usize {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let mut changed = LocalKeys::clone(&keys);
        change(&mut changed);
        let count = changed.len();
        *keys = Arc::new(changed);
        count
    }

    /// Signatures so far.
    pub fn signed(&self) -> u64 {
        self.signed.load(Ordering::Relaxed)
    }

    /// Requests that were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Answers what comes over a socket, until the other end is gone or sends what is no request. Blocks.
    ///
    /// # Errors
    /// The socket is none, or it breaks.
    pub fn serve(&self, socket: &OwnedFd) -> std::io::Result<()> {
        rustix::io::ioctl_fionbio(socket, false)?;
        // One more than the longest: what is cut off is not taken for something shorter.
        let mut packet = vec![0; MOST_REQUEST + 1];
        loop {
            let (_, length) =
                match rustix::io::retry_on_intr(|| recv(socket, &mut packet, RecvFlags::empty())) {
                    Ok(received) => received,
                    Err(Errno::CONNRESET) => return Ok(()),
                    Err(errno) => return Err(errno.into()),
                };
            if length == 0 {
                return Ok(());
            }
            let Some(answer) = self.answer(packet.get(..length).unwrap_or_default()) else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "no request"));
            };
            match rustix::io::retry_on_intr(|| send(socket, &answer, SendFlags::NOSIGNAL)) {
                Ok(_) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The answer to a packet. None: it is no request.
    pub(crate) fn answer(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let request = Request::decode(packet)?;
        let verdict = self.sign(&request);
        let counter = if verdict.is_ok() {
            &self.signed
        } else {
            &self.refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let verdict = verdict.as_ref().map(Vec::as_slice).map_err(|refusal| *refusal);
        Some(encode_answer(request.number, verdict))
    }

    fn sign(&self, request: &Request<'_>) -> Result<Vec<u8>, Refusal> {
        let keys = Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let key = keys.get(&request.key).ok_or(Refusal::NoKey)?;
        if !key.kind().schemes().contains(&request.scheme) {
            return Err(Refusal::Scheme);
        }
        if !is_of_a_handshake(request.message) {
            return Err(Refusal::Message);
        }
        let signer = key
            .signing_key()
            .choose_scheme(&[request.scheme])
            .ok_or(Refusal::Scheme)?;
        signer.sign(request.message).map_err(|_| Refusal::Failed)
    }
}

#[cfg(test)]
mod tests;
