//! Datagrams: what stands in one, and who may have sent it.
//!
//! ```text
//!   0       4     5      6       8                16               24               32
//!  +-------+-----+------+-------+----------------+----------------+----------------+
//!  | "wrS1"| key | kind |   0   | sender         | token          | number         |
//!  +-------+-----+------+-------+----------------+----------------+----------------+
//!  | body, at most 1 136 bytes                                                     |
//!  +-------------------------------------------------------------------------------+
//!  | HMAC-SHA-256 of all that stands before it                              32     |
//!  +-------------------------------------------------------------------------------+
//!
//!  hello    the sender's token for the receiver (8) | mark of the hash key (8)
//!  entries  entries
//!  ask      number of the transfer (8) | first chunk (4) | 0 (4) | which of it and the 63 behind it (8, bit 0 the first)
//!  chunk    number of the transfer (8) | its number (4) | how many there are (4) | entries
//! ```
//!
//! Numbers are big-endian. The last character of the first four is the version. *Sender* is drawn by each process when it
//! starts. *Token* is what the receiver told this sender; 0 in a hello from who was not told any. An ask that wants no chunk
//! says that all have come.

use super::entry::{self, Entries};
use crate::vrrp::auth::{Keys, MAC, same};

/// What a datagram begins with; the last byte is its version.
const MAGIC: [u8; 4] = *b"wrS1";

/// Bytes before the body.
pub const HEAD: usize = 32;

/// The longest datagram: with every header in front of it, it fits through any link that carries IPv6.
pub const LONGEST: usize = 1200;

/// The longest body.
pub const BODY: usize = LONGEST - HEAD - MAC;

/// What stands in a chunk before its entries.
pub(super) const CHUNK: usize = 16;

/// Chunks that one ask can be for.
pub(super) const ASKED: u32 = 64;

/// What is signed begins with this, so that a key that is used elsewhere too signs nothing that would do here.
const PURPOSE: &[u8] = b"weir flow sync 1\0";

const _: () = assert!(entry::LONGEST + CHUNK <= BODY);

/// Why a datagram is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Refused {
    /// It is not from an address of a peer.
    Peer,
    /// It is none of these, of another version, too long, or its body is not as it should be.
    Malformed,
    /// It is signed by a key that is not known here.
    Key,
    /// The signature is not of this key and this datagram.
    Signature,
    /// It was sent by this process itself.
    Own,
    /// It is for an earlier process, or of one.
    Stale,
    /// It came before, or so late that it can't be told.
    Replayed,
    /// The peer has another hash key: its flows are placed in another way.
    HashKey,
}

impl Refused {
    /// Every one.
    pub const ALL: [Self; 8] = [
        Self::Peer,
        Self::Malformed,
        Self::Key,
        Self::Signature,
        Self::Own,
        Self::Stale,
        Self::Replayed,
        Self::HashKey,
    ];

    /// Its name in counters and documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Peer => "unknown-peer",
            Self::Malformed => "malformed",
            Self::Key => "unknown-key",
            Self::Signature => "wrong-signature",
            Self::Own => "reflected",
            Self::Stale => "stale",
            Self::Replayed => "replayed",
            Self::HashKey => "other-hash-key",
        }
    }
}

/// A datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The process that sent it.
    pub sender: u64,
    /// Whom it is for.
    pub token: u64,
    /// Its place among the sender's.
    pub number: u64,
    /// What it says.
    pub body: Body<'a>,
}

/// What a datagram says.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// The sender lives.
    Hello {
        /// What the receiver is to put into its own.
        token: u64,
        /// Of the hash key.
        mark: u64,
    },
    /// Flows.
    Entries(Entries<'a>),
    /// Chunks are wanted.
    Ask(Ask),
    /// A part of all flows.
    Chunk {
        /// The asker's number of the transfer.
        transfer: u64,
        /// Its own number, from 0.
        index: u32,
        /// How many there are, at least 1.
        count: u32,
        /// The flows in it.
        entries: Entries<'a>,
    },
}

/// Which chunks are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ask {
    /// The asker's number of the transfer: with another one, the flows as they are then.
    pub transfer: u64,
    /// The first of those that [`Self::bits`] speaks of.
    pub first: u32,
    /// Which of it and those behind it, the lowest bit the first. 0: all have come.
    pub bits: u64,
}

impl Body<'_> {
    const HELLO: u8 = 1;
    const ENTRIES: u8 = 2;
    const ASK: u8 = 3;
    const CHUNK: u8 = 4;
}

/// Who writes datagrams: what stands in the head of each.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) keys: &'a dyn Keys,
    pub(super) key: u8,
    pub(super) sender: u64,
    pub(super) token: u64,
    pub(super) number: u64,
}

impl Writer<'_> {
    pub(super) fn hello(&self, token: u64, mark: u64) -> Option<Vec<u8>> {
        self.sealed(Body::HELLO, &[&token.to_be_bytes(), &mark.to_be_bytes()])
    }

    /// `entries`: their bytes.
    pub(super) fn entries(&self, entries: &[u8]) -> Option<Vec<u8>> {
        self.sealed(Body::ENTRIES, &[entries])
    }

    pub(super) fn ask(&self, ask: Ask) -> Option<Vec<u8>> {
        let Ask {
            transfer,
            first,
            bits,
        } = ask;
        self.sealed(
            Body::ASK,
            &[
                &transfer.to_be_bytes(),
                &first.to_be_bytes(),
                &[0; 4],
                &bits.to_be_bytes(),
            ],
        )
    }

    pub(super) fn chunk(&self, transfer: u64, index: u32, count: u32, entries: &[u8]) -> Option<Vec<u8>> {
        self.sealed(
            Body::CHUNK,
            &[
                &transfer.to_be_bytes(),
                &index.to_be_bytes(),
                &count.to_be_bytes(),
                entries,
            ],
        )
    }

    /// `None`: there is no such key.
    fn sealed(&self, kind: u8, body: &[&[u8]]) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(LONGEST);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[self.key, kind, 0, 0]);
        for word in [self.sender, self.token, self.number] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        for part in body {
            out.extend_from_slice(part);
        }
        let mac = self.keys.mac(self.key, &[PURPOSE, &out])?;
        out.extend_from_slice(&mac);
        Some(out)
    }
}

/// Reads a datagram and verifies its signature. Bodies are looked at only behind a good one.
///
/// # Errors
/// It is none, or not signed by one of these keys.
pub fn read<'a>(bytes: &'a [u8], keys: &dyn Keys) -> Result<Datagram<'a>, Refused> {
    if bytes.len() > LONGEST {
        return Err(Refused::Malformed);
    }
    let (signed, mac) = bytes.split_last_chunk::<MAC>().ok_or(Refused::Malformed)?;
    let (head, body) = signed.split_first_chunk::<HEAD>().ok_or(Refused::Malformed)?;
    let (front, words) = head.split_first_chunk::<8>().ok_or(Refused::Malformed)?;
    let [a, b, c, d, key, kind, 0, 0] = *front else {
        return Err(Refused::Malformed);
    };
    if [a, b, c, d] != MAGIC {
        return Err(Refused::Malformed);
    }
    let right = keys.mac(key, &[PURPOSE, signed]).ok_or(Refused::Key)?;
    if !same(&right, mac) {
        return Err(Refused::Signature);
    }
    let mut words = words;
    let mut word = || number::<8>(&mut words).map(u64::from_be_bytes);
    let (sender, token, number) = (word()?, word()?, word()?);
    Ok(Datagram {
        sender,
        token,
        number,
        body: read_body(kind, body)?,
    })
}

fn read_body(kind: u8, mut bytes: &[u8]) -> Result<Body<'_>, Refused> {
    let rest = &mut bytes;
    let body = match kind {
        Body::HELLO => Body::Hello {
            token: u64::from_be_bytes(number(rest)?),
            mark: u64::from_be_bytes(number(rest)?),
        },
        Body::ENTRIES => return Ok(Body::Entries(entries(rest)?)),
        Body::ASK => {
            let transfer = u64::from_be_bytes(number(rest)?);
            let first = u32::from_be_bytes(number(rest)?);
            let [0, 0, 0, 0] = number(rest)? else {
                return Err(Refused::Malformed);
            };
            Body::Ask(Ask {
                transfer,
                first,
                bits: u64::from_be_bytes(number(rest)?),
            })
        }
        Body::CHUNK => {
            let transfer = u64::from_be_bytes(number(rest)?);
            let index = u32::from_be_bytes(number(rest)?);
            let count = u32::from_be_bytes(number(rest)?);
            if index >= count {
                return Err(Refused::Malformed);
            }
            return Ok(Body::Chunk {
                transfer,
                index,
                count,
                entries: entries(rest)?,
            });
        }
        _ => return Err(Refused::Malformed),
    };
    match rest.is_empty() {
        true => Ok(body),
        false => Err(Refused::Malformed),
    }
}

fn number<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N], Refused> {
    let (first, rest) = bytes.split_first_chunk::<N>().ok_or(Refused::Malformed)?;
    *bytes = rest;
    Ok(*first)
}

fn entries(bytes: &[u8]) -> Result<Entries<'_>, Refused> {
    Entries::new(bytes).map_err(|_| Refused::Malformed)
}

/// Which numbers of a sender were taken: the newest, and those shortly before it. Datagrams overtake each other.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Window {
    newest: u64,
    /// Bit `n`: the `n`th before the newest was taken.
    taken: u128,
}

impl Window {
    /// Whether a number is taken for the first time; it is from now on.
    pub(super) const fn take(&mut self, number: u64) -> bool {
        if number > self.newest {
            let ahead = number - self.newest;
            self.taken = if ahead < 128 { self.taken << ahead | 1 } else { 1 };
            self.newest = number;
            return true;
        }
        let back = self.newest - number;
        if back >= 128 || self.taken >> back & 1 != 0 || number == 0 {
            return false;
        }
        self.taken |= 1 << back;
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{sync::entry::tests::entries, vrrp::testing::Stand};

    const WRITER: Writer<'static> = Writer {
        keys: &Stand,
        key: 1,
        sender: 7,
        token: 8,
        number: 9,
    };

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let bytes = WRITER.hello(0x0102, 0x0304).unwrap();
        assert_eq!(bytes.len(), HEAD + 16 + MAC);
        let read_back = read(&bytes, &Stand).unwrap();
        assert_eq!((read_back.sender, read_back.token, read_back.number), (7, 8, 9));
        assert!(matches!(
            read_back.body,
            Body::Hello {
                token: 0x0102,
                mark: 0x0304
            }
        ));
        let ask = Ask {
            transfer: 3,
            first: 64,
            bits: u64::MAX,
        };
        let bytes = WRITER.ask(ask).unwrap();
        assert!(matches!(read(&bytes, &Stand).unwrap().body, Body::Ask(it) if it == ask));
        let bytes = WRITER.chunk(3, 4, 5, &[]).unwrap();
        let body = read(&bytes, &Stand).unwrap().body;
        assert!(matches!(
            body,
            Body::Chunk {
                transfer: 3,
                index: 4,
                count: 5,
                ..
            }
        ));
    }

    proptest! {
        #[test]
        fn entries_of_a_datagram(all in proptest::collection::vec(entries(), 0..10)) {
            let mut bytes = Vec::new();
            for entry in &all {
                entry.write(&mut bytes);
            }
            let datagram = WRITER.chunk(1, 0, 1, &bytes).unwrap();
            let Body::Chunk { entries, .. } = read(&datagram, &Stand).unwrap().body else {
                panic!("a chunk");
            };
            prop_assert_eq!(entries.collect::<Vec<_>>(), all.clone());
            let datagram = WRITER.entries(&bytes).unwrap();
            let Body::Entries(entries) = read(&datagram, &Stand).unwrap().body else {
                panic!("entries");
            };
            prop_assert_eq!(entries.collect::<Vec<_>>(), all);
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..6_u8) {
            prop_assert!(read(&bytes, &Stand).is_err());
            // And as the body of one that is well signed.
            let _ = read(&WRITER.sealed(kind, &[&bytes]).unwrap(), &Stand);
        }

        #[test]
        fn a_number_is_taken_once(numbers in proptest::collection::vec(1..400_u64, 1..600)) {
            let mut window = Window::default();
            let mut taken = std::collections::BTreeSet::new();
            for number in numbers {
                let newest = taken.last().copied().unwrap_or(0);
                let expected = number > newest || (newest - number < 128 && !taken.contains(&number));
                prop_assert_eq!(window.take(number), expected);
                if expected {
                    taken.insert(number);
                }
            }
        }
    }

    #[test]
    fn every_bit_is_covered() {
        let bytes = WRITER.hello(1, 2).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let refused = read(&flipped, &Stand).unwrap_err();
            assert!(
                matches!(refused, Refused::Malformed | Refused::Key | Refused::Signature),
                "bit {bit}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_is_no_datagram() {
        let whole = WRITER.chunk(1, 0, 1, &[]).unwrap();
        for len in 0..whole.len() {
            assert!(read(&whole[..len], &Stand).is_err(), "{len} bytes");
        }
        let refused = |bytes: Option<Vec<u8>>| read(&bytes.unwrap(), &Stand).unwrap_err();
        assert_eq!(
            refused(WRITER.chunk(1, 1, 1, &[])),
            Refused::Malformed,
            "one too many"
        );
        assert_eq!(refused(WRITER.entries(&[0; 7])), Refused::Malformed, "no entry");
        assert_eq!(
            refused(WRITER.sealed(1, &[&[0; 17]])),
            Refused::Malformed,
            "longer"
        );
        assert_eq!(refused(WRITER.sealed(9, &[])), Refused::Malformed, "of no kind");
        assert_eq!(
            refused(Some(vec![0; LONGEST + 1])),
            Refused::Malformed,
            "too long"
        );
        assert!(Writer { key: 9, ..WRITER }.hello(1, 1).is_none(), "no such key");
        let mut other = WRITER.hello(1, 2).unwrap();
        other[4] = 9;
        assert_eq!(read(&other, &Stand).unwrap_err(), Refused::Key);
    }
}
