//! Keys that another process holds: a signature is asked for over a socket, and waited for.
//!
//! Owns the asking end. A handshake waits for its signature in either case; to wait for another process costs two
//! switches more. While that process is not there, handshakes fail at once, so that connections that are established
//! are not held up.

use std::{
    cell::Cell,
    fmt,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send, sockopt},
};
use rustls::{
    Error, OtherError, SignatureAlgorithm, SignatureScheme,
    sign::{Signer, SigningKey},
};

use crate::{
    key::{KeyId, KeyKind},
    keys::KeySource,
    message::{MOST_ANSWER, Request, decode_answer},
};

/// How long a signature is waited for. RSA of 4096 bits takes some 5 ms.
const DEADLINE: Duration = Duration::from_secs(1);
/// How long it is waited for after one that did not come.
const SHORT_DEADLINE: Duration = Duration::from_millis(50);
/// How long a socket is left alone after a signature that did not come: a process that hangs must not hold up this one.
const REST: Duration = Duration::from_secs(1);

/// Why there was no signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum NoSignature {
    /// The keys process is not there.
    Away,
    /// It did not answer in time.
    Late,
    /// It answered what is no answer.
    Garbled,
    /// It refused, for the reason said.
    Refused(&'static str),
}

impl NoSignature {
    /// What it was, if a handshake failed by it.
    pub fn of(error: &Error) -> Option<Self> {
        let Error::Other(OtherError(error)) = error else {
            return None;
        };
        error.downcast_ref::<Self>().copied()
    }

    /// The words for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Away => "the keys process is not there",
            Self::Late => "the keys process did not sign in time",
            Self::Garbled => "the keys process can't be understood",
            Self::Refused(why) => why,
        }
    }
}

impl fmt::Display for NoSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for NoSignature {}

/// Keys of another process. Clones ask the same process.
#[derive(Clone)]
pub struct RemoteKeys(Arc<Inner>);

struct Inner {
    /// One a thread that shakes hands, so that none waits for another.
    lanes: Vec<Mutex<Lane>>,
    there: AtomicBool,
}

impl fmt::Debug for RemoteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKeys")
            .field("lanes", &self.0.lanes.len())
            .field("there", &self.is_there())
            .finish()
    }
}

#[derive(Default)]
struct Lane {
    /// None: the process is not there.
    socket: Option<OwnedFd>,
    number: u32,
    /// When it may be asked again, after it did not answer.
    rested: Option<Instant>,
}

impl RemoteKeys {
    /// For so many threads that shake hands. Nothing is signed before [`connect`](Self::connect).
    pub fn new(threads: usize) -> Self {
        let lanes = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner {
            lanes,
            there: AtomicBool::new(false),
        }))
    }

    /// Asks over these sockets from now on: connected ones of a type that keeps packets apart, one a thread. Those
    /// before are closed.
    ///
    /// # Errors
    /// Not as many as threads, or one that is no socket. Those before stay then.
    pub fn connect(&self, sockets: Vec<OwnedFd>) -> std::io::Result<()> {
        if sockets.len() != self.0.lanes.len() {
            let what = format!("{} sockets for {} threads", sockets.len(), self.0.lanes.len());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, what));
        }
        for socket in &sockets {
            rustix::io::ioctl_fionbio(socket, false)?;
            set_deadline(socket, DEADLINE)?;
        }
        for (lane, socket) in self.0.lanes.iter().zip(sockets) {
            let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
            lane.socket = Some(socket);
            lane.rested = None;
        }
        self.0.there.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether there is somebody to ask, as far as is known: handshakes may wait for that, without holding up others.
    pub fn is_there(&self) -> bool {
        self.0.there.load(Ordering::Acquire)
    }

    /// This thread's own; of more threads than lanes, some share one.
    fn lane(&self) -> Option<&Mutex<Lane>> {
        thread_local! {
            static OWN: Cell<Option<usize>> = const { Cell::new(None) };
        }
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let own = OWN.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed));
        OWN.set(Some(own));
        let lanes = &self.0.lanes;
        lanes.get(own.checked_rem(lanes.len())?)
    }

    fn sign(&self, key: KeyId, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, NoSignature> {
        let lane = self.lane().ok_or(NoSignature::Away)?;
        let mut lane = lane.lock().unwrap_or_else(PoisonError::into_inner);
        let signed = lane.sign(key, scheme, message);
        if lane.socket.is_none() {
            self.0.there.store(false, Ordering::Release);
        }
        signed
    }
}

fn set_deadline(socket: &OwnedFd, deadline: Duration) -> std::io::Result<()> {
    for way in [sockopt::Timeout::Recv, sockopt::Timeout::Send] {
        sockopt::set_socket_timeout(socket, way, Some(deadline))?;
    }
    Ok(())
}

impl Lane {
    fn sign(&mut self, key: KeyId, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, NoSignature> {
        let socket = self.socket.as_ref().ok_or(NoSignature::Away)?;
        let tired = self.rested.is_some();
        if self.rested.is_some_and(|rested| Instant::now() < rested) {
            return Err(NoSignature::Late);
        }
        self.number = self.number.wrapping_add(1);
        let request = Request {
            number: self.number,
            key,
            scheme,
            message,
        };
        match ask(socket, &request) {
            Ok(signature) => {
                if tired {
                    let _ = set_deadline(socket, DEADLINE);
                    self.rested = None;
                }
                Ok(signature)
            }
            Err(NoSignature::Late) => {
                let _ = set_deadline(socket, SHORT_DEADLINE);
                self.rested = Some(Instant::now() + REST);
                Err(NoSignature::Late)
            }
            Err(refused @ NoSignature::Refused(_)) => Err(refused),
            Err(broken @ (NoSignature::Away | NoSignature::Garbled)) => {
                self.socket = None;
                Err(broken)
            }
        }
    }
}

fn ask(socket: &OwnedFd, request: &Request<'_>) -> Result<Vec<u8>, NoSignature> {
    let failed = |errno| match errno {
        // A socket's own timeout (SO_RCVTIMEO in socket(7)).
        Errno::AGAIN => NoSignature::Late,
        _ => NoSignature::Away,
    };
    let packet = request
        .encode()
        .ok_or(NoSignature::Refused("more than a handshake signs"))?;
    let mut answer = [0; MOST_ANSWER + 1];
    // Answers that came too late for who asked: after a long hang there are many.
    while let Ok((_, length @ 1..)) = recv(socket, &mut answer, RecvFlags::DONTWAIT) {
        let packet = answer.get(..length).unwrap_or_default();
        if decode_answer(packet).is_none() {
            return Err(NoSignature::Garbled);
        }
    }
    rustix::io::retry_on_intr(|| send(socket, &packet, SendFlags::NOSIGNAL)).map_err(failed)?;
    let begun = Instant::now();
    // Each wait has the deadline of the socket; all together end within twice that.
    while begun.elapsed() < DEADLINE {
        let (_, length) =
            rustix::io::retry_on_intr(|| recv(socket, &mut answer, RecvFlags::empty())).map_err(failed)?;
        if length == 0 {
            return Err(NoSignature::Away);
        }
        let packet = answer.get(..length).unwrap_or_default();
        let (number, verdict) = decode_answer(packet).ok_or(NoSignature::Garbled)?;
        if number == request.number {
            return match verdict {
                Ok(signature) => Ok(signature.to_vec()),
                Err(refusal) => Err(NoSignature::Refused(refusal.as_str())),
            };
        }
    }
    Err(NoSignature::Late)
}

impl KeySource for RemoteKeys {
    fn signing_key(&self, id: &KeyId, kind: KeyKind) -> Option<Arc<dyn SigningKey>> {
        Some(Arc::new(RemoteKey {
            keys: self.clone(),
            id: *id,
            kind,
        }))
    }
}

#[derive(Clone, Debug)]
struct RemoteKey {
    keys: RemoteKeys,
    id: KeyId,
    kind: KeyKind,
}

impl SigningKey for RemoteKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = self
            .kind
            .schemes()
            .iter()
            .find(|scheme| offered.contains(scheme))?;
        Some(Box::new(RemoteSigner {
            key: self.clone(),
            scheme: *scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.kind {
            KeyKind::Rsa(_) => SignatureAlgorithm::RSA,
            KeyKind::P256 | KeyKind::P384 | KeyKind::P521 => SignatureAlgorithm::ECDSA,
            KeyKind::Ed25519 => SignatureAlgorithm::ED25519,
        }
    }
}

#[derive(Debug)]
struct RemoteSigner {
    key: RemoteKey,
    scheme: SignatureScheme,
}

impl Signer for RemoteSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let RemoteKey { keys, id, .. } = &self.key;
        let signed = keys.sign(*id, self.scheme, message);
        signed.map_err(|why| Error::Other(OtherError(Arc::new(why))))
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

#[cfg(test)]
mod tests;
