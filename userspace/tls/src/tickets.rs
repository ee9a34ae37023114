//! Session tickets (RFC 5077; RFC 8446, 4.6.1): sealed by keys that rotate, or that several boxes share.
//!
//! Owns the keys of tickets and their form. A ticket holds the whole session, so whoever has its key can read what the
//! session protected (TLS 1.2) or resume it: keys of this process live in memory only, and not longer than two
//! lifetimes. Never reads a file or a clock.
//!
//! A ticket is `name (16) || salt (32) || AES-256-GCM of the session`. Name and key of a ticket are derived from the
//! secret (HKDF-SHA256), the key with the ticket's own salt and with the context: two services, or one service before
//! and after a change of whom it trusts, do not open each other's tickets. A client's certificate is not verified again
//! when a session is resumed, so that must not be a way around another's authorities.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, KeyType, Prk, Salt},
    rand::{SecureRandom, SystemRandom},
};
use rustls::{pki_types::UnixTime, server::ProducesTickets};

use crate::{key::sha256, mistake::Mistake};

/// Shortest secret, in bytes.
const LEAST: usize = 32;
/// Longest secret, in bytes: what other software's files hold is 48 or 80.
const MOST: usize = 256;
/// Most secrets in one file. Each is tried by name, so this is no matter of speed.
const MOST_KEYS: usize = 32;
const NAME: usize = 16;
const SALT: usize = 32;
/// Of AES-256-GCM.
const TAG: usize = 16;

/// A secret that seals tickets.
#[derive(Clone)]
struct Secret {
    name: [u8; NAME],
    prk: Prk,
}

impl Secret {
    fn new(bytes: &[u8]) -> Result<Self, Mistake> {
        let prk = Salt::new(HKDF_SHA256, b"weir session tickets 1").extract(bytes);
        let mut name = [0; NAME];
        prk.expand(&[b"name"], Length(NAME))
            .and_then(|okm| okm.fill(&mut name))
            .map_err(|_| Mistake::TicketKeys("the name of a key can't be derived".to_owned()))?;
        Ok(Self { name, prk })
    }

    fn random() -> Option<Self> {
        let mut bytes = [0; 48];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let secret = Self::new(&bytes).ok();
        bytes.fill(0);
        secret
    }

    /// What seals one ticket.
    fn key(&self, salt: &[u8], context: &[u8; 32]) -> Option<LessSafeKey> {
        let info = [b"ticket".as_slice(), salt, context];
        let okm = self.prk.expand(&info, &AES_256_GCM).ok()?;
        Some(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// The secrets of tickets: the first seals, all open. Shared by all services of a process.
pub struct TicketKeys {
    ring: RwLock<Ring>,
    /// Seconds between two rotations; None: they come from a file.
    rotation: Option<u64>,
}

struct Ring {
    secrets: Vec<Secret>,
    /// When the first was made, in seconds since 1970. Of no meaning for those of a file.
    since: u64,
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("rotation", &self.rotation)
            .finish_non_exhaustive()
    }
}

impl TicketKeys {
    /// Random ones of this process, made anew every so many seconds: see [`rotate`](Self::rotate). A ticket lives as
    /// long as its key is known: one to two rotations.
    ///
    /// # Errors
    /// No randomness.
    pub fn random(rotation: u64, now: UnixTime) -> Result<Self, Mistake> {
        let secret = Secret::random().ok_or_else(|| Mistake::TicketKeys("no randomness".to_owned()))?;
        Ok(Self {
            ring: RwLock::new(Ring {
                secrets: vec![secret],
                since: now.as_secs(),
            }),
            rotation: Some(rotation.max(1)),
        })
    }

    /// Those of a file that several boxes share: each line is a secret in base64, 32 to 256 bytes of it (`openssl rand
    /// -base64 48`), the first seals, all open. Empty lines and those that begin with `#` are passed over.
    ///
    /// # Errors
    /// No key, too many, one that is too short or no base64, one twice.
    pub fn shared(text: &[u8]) -> Result<Self, Mistake> {
        Ok(Self {
            ring: RwLock::new(Ring {
                secrets: parse(text)?,
                since: 0,
            }),
            rotation: None,
        })
    }

    /// Takes the secrets of the file's new text.
    ///
    /// # Errors
    /// As [`shared`](Self::shared); those before stay then.
    pub fn replace(&self, text: &[u8]) -> Result<(), Mistake> {
        let secrets = parse(text)?;
        self.ring.write().unwrap_or_else(PoisonError::into_inner).secrets = secrets;
        Ok(())
    }

    /// Makes a new secret if it is time. The one before opens still, those before it are forgotten. To be called now and
    /// then; keys of a file are left alone.
    pub fn rotate(&self, now: UnixTime) {
        let Some(rotation) = self.rotation else { return };
        let now = now.as_secs();
        let due = |ring: &Ring| now >= ring.since.saturating_add(rotation);
        if !due(&self.ring.read().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        // Without randomness the old one goes on: worse than a new one, better than none.
        let Some(secret) = Secret::random() else { return };
        let mut ring = self.ring.write().unwrap_or_else(PoisonError::into_inner);
        if due(&ring) {
            let forgotten = now >= ring.since.saturating_add(rotation.saturating_mul(2));
            ring.secrets.truncate(usize::from(!forgotten));
            ring.secrets.insert(0, secret);
            ring.since = now;
        }
    }

    fn seal(&self, context: &[u8; 32], plain: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = vec![0; NAME + SALT];
        let salt = ticket.get_mut(NAME..)?;
        SystemRandom::new().fill(salt).ok()?;
        let (name, key) = {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            let secret = ring.secrets.first()?;
            (secret.name, secret.key(salt, context)?)
        };
        ticket.get_mut(..NAME)?.copy_from_slice(&name);
        ticket.extend_from_slice(plain);
        let (_, sealed) = ticket.split_at_mut_checked(NAME + SALT)?;
        // Each key seals one ticket: there is no other nonce to differ from.
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, context: &[u8; 32], ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME)?;
        let (salt, sealed) = rest.split_at_checked(SALT)?;
        let key = {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            // Names are no secret: they stand in every ticket.
            ring.secrets.iter().find(|s| s.name == name)?.key(salt, context)?
        };
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        let length = key.open_in_place(nonce, Aad::empty(), &mut sealed).ok()?.len();
        debug_assert_eq!(length + TAG, sealed.len());
        sealed.truncate(length);
        Some(sealed)
    }
}

fn parse(text: &[u8]) -> Result<Vec<Secret>, Mistake> {
    let bad = |line: usize, why: &str| Mistake::TicketKeys(format!("line {line}: {why}"));
    let mut secrets: Vec<Secret> = Vec::new();
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let mut bytes =
            base64(line).ok_or_else(|| bad(at + 1, "no base64; make one with `openssl rand -base64 48`"))?;
        let length = bytes.len();
        let secret = Secret::new(&bytes);
        bytes.fill(0);
        if !(LEAST..=MOST).contains(&length) {
            return Err(bad(
                at + 1,
                &format!(
                    "a key of {length} bytes; it must have {LEAST} to {MOST}, as `openssl rand -base64 48` makes"
                ),
            ));
        }
        let secret = secret?;
        if secrets.iter().any(|s| s.name == secret.name) {
            return Err(bad(at + 1, "this key stands there twice"));
        }
        secrets.push(secret);
    }
    match secrets.len() {
        0 => Err(Mistake::TicketKeys(
            "there is none in it; write one a line, made with `openssl rand -base64 48`".to_owned(),
        )),
        1..=MOST_KEYS => Ok(secrets),
        many => Err(Mistake::TicketKeys(format!(
            "{many} keys; keep at most {MOST_KEYS}"
        ))),
    }
}

/// RFC 4648, 4, with padding or without. None: it is not.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |at| at + 1);
    let text = text.get(..end)?;
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut held, mut bits) = (0_u32, 0);
    for byte in text {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6) | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (bits < 6 && held == 0).then_some(bytes)
}

/// The tickets of one service.
#[derive(Clone, Debug)]
pub struct Tickets {
    keys: Arc<TicketKeys>,
    context: [u8; 32],
    /// In seconds, as clients are told.
    lifetime: u32,
}

impl Tickets {
    /// Of keys, for what `context` describes: who has the same keys and context opens each other's tickets. Clients are
    /// told that a ticket lives so many seconds; RFC 8446 lets it be 7 days at most.
    pub fn new(keys: Arc<TicketKeys>, context: &[u8], lifetime: u32) -> Self {
        Self {
            keys,
            context: sha256(context),
            lifetime: lifetime.min(7 * 86_400),
        }
    }

    /// The same tickets for a narrower context.
    pub(crate) fn within(&self, more: &[u8; 32]) -> Self {
        let both = [self.context, *more].concat();
        Self {
            context: sha256(&both),
            ..self.clone()
        }
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.lifetime
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.seal(&self.context, plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.keys.open(&self.context, cipher)
    }
}

#[cfg(test)]
mod tests;
