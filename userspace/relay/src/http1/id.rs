//! Ids of requests: made here, or taken over from a trusted proxy.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::request::Request;

/// The longest id that is taken over.
const LONGEST: usize = 128;

/// Bytes of a UUID.
const UUID: usize = 36;

/// The id of a request. None: empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestId(Text);

/// Every request holds one, so what is rare is elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Text {
    None,
    Uuid([u8; UUID]),
    Other(Box<[u8]>),
}

impl RequestId {
    /// No id.
    pub const NONE: Self = Self(Text::None);

    /// The text: visible ASCII.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::None => b"",
            Text::Uuid(text) => text,
            Text::Other(text) => text,
        }
    }

    /// The same, for records. None if there is no id.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(self.as_bytes())
            .ok()
            .filter(|id| !id.is_empty())
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= LONGEST).then(|| Self(Text::Other(bytes.into())))
    }

    /// The id that a request has in the field of that name, if it can be taken over: one field, of at most 128 visible
    /// ASCII characters without comma, quotes and backslash.
    pub fn sent(request: &Request<'_, '_>, name: &str) -> Option<Self> {
        let mut fields = (0..)
            .zip(request.fields)
            .filter(|(at, field)| field.name.eq_ignore_ascii_case(name) && !request.dropped.contains(*at));
        let (_, field) = fields.next()?;
        let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b'"' | b'\\');
        if fields.next().is_some() || field.value.is_empty() || !field.value.iter().all(plain) {
            return None;
        }
        Self::of(field.value)
    }
}

/// Makes ids: UUIDs of version 7 (RFC 9562 section 5.7), in order of time, from a generator of the worker's own. They
/// are unique, not secret.
#[derive(Debug)]
pub struct Ids {
    state: u64,
}

impl Ids {
    /// From a random number that no other worker has.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Random bytes.
    pub fn bytes(&mut self) -> [u8; 16] {
        (u128::from(self.random()) << 64 | u128::from(self.random())).to_be_bytes()
    }

    /// Another one.
    pub fn next(&mut self, now: SystemTime) -> RequestId {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let millis = u128::from(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)) & ((1 << 48) - 1);
        let (a, b) = (u128::from(self.random() >> 52), u128::from(self.random() >> 2));
        // 48 bits of time, the version, 12 random bits, the variant, 62 random bits.
        let bits = millis << 80 | 7 << 76 | a << 64 | 2 << 62 | b;
        let mut text = [b'-'; UUID];
        let mut at = 0;
        for digit in 0..32 {
            if matches!(digit, 8 | 12 | 16 | 20) {
                at += 1;
            }
            let nibble = (bits >> (124 - 4 * digit) & 15) as u8;
            if let Some(byte) = text.get_mut(at) {
                *byte = if nibble < 10 {
                    b'0' + nibble
                } else {
                    b'a' + nibble - 10
                };
            }
            at += 1;
        }
        RequestId(Text::Uuid(text))
    }

    /// SplitMix64: every state once in 2^64 steps.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_7() {
        let mut ids = Ids::new(1);
        let at = UNIX_EPOCH + Duration::from_millis(0x0192_3456_789a);
        let id = ids.next(at);
        let text = id.as_str().unwrap();
        assert_eq!(text.len(), 36);
        assert!(text.starts_with("01923456-789a-7"), "{text}");
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
        let dashes: Vec<_> = text.match_indices('-').map(|(at, _)| at).collect();
        assert_eq!(dashes, [8, 13, 18, 23]);
        assert!(
            text.chars()
                .all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
        );
    }

    #[test]
    fn ids_differ_and_come_in_order_of_time() {
        let mut ids = Ids::new(7);
        let mut seen = std::collections::HashSet::new();
        for i in 0..10_000 {
            let at = UNIX_EPOCH + Duration::from_millis(i / 100);
            assert!(seen.insert(ids.next(at).as_bytes().to_vec()));
        }
        let (early, late) = (
            ids.next(UNIX_EPOCH),
            ids.next(UNIX_EPOCH + Duration::from_secs(1)),
        );
        assert!(early.as_bytes() < late.as_bytes());
    }
}
