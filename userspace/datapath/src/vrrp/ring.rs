//! Adverts that the kernel's programs hand out, with the time at which they arrived.
//!
//! Owns the ring buffer `ADVERTS`, and where the programs listen for it. On a link that a program is attached to, an advert
//! comes this way and no other; what the programs do not see (VLAN devices, bridges, links without a program) or have no room
//! for comes by the sockets ([`super::Link`]), so nobody has to know which it is. Like there, what arrives is not believed
//! yet.
//!
//! What it is good for: the time is that of the clock that never jumps, taken before anything of the stack was done, and an
//! advert is neither held up nor dropped by what the stack is busy with.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Map, MapData, RingBuf};
use weir_abi::{AdvertRecord, maps::advert::MOST, names};

use super::leases::{LeaseError, Leases};
use crate::{error::MapError, sys};

/// Bytes of Ethernet's header; what has tags is not handed out.
const ETHERNET: usize = 14;

/// The programs' adverts.
pub struct Ring {
    ring: RingBuf<MapData>,
    leases: Leases,
}

/// An advert that has arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrived {
    /// Index of the interface.
    pub(super) ifindex: u32,
    /// When.
    pub(super) at: Instant,
    /// Bytes of the IP packet.
    pub(super) len: usize,
}

impl Ring {
    /// Opens the pinned ring buffer under `pins`. What a process before has left in it is let go.
    ///
    /// # Errors
    /// As [`Leases::open`], which `leases` comes from.
    pub fn open(pins: &Path, leases: Leases) -> Result<Self, LeaseError> {
        super::leases::open_pinned(pins, names::ADVERTS)?;
        let path = super::leases::maps_of(pins).join(names::ADVERTS);
        let mut ring = MapData::from_pin(path)
            .and_then(|data| RingBuf::try_from(Map::RingBuf(data)))
            .map_err(|e| MapError {
                map: names::ADVERTS,
                doing: "map into memory",
                cause: io::Error::other(e),
            })?;
        while ring.next().is_some() {}
        Ok(Self { ring, leases })
    }

    /// Listens for what arrives for these addresses on these interfaces (by index), and for nothing else.
    pub(super) fn hear(&self, places: &[(u32, IpAddr)]) -> Result<(), LeaseError> {
        self.leases.hear(places)
    }

    /// The next packet with an advert, copied to the buffer. None when there is none now. One that does not fit is let go.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Option<Arrived> {
        while let Some(item) = self.ring.next() {
            if let Some(arrived) = decode(&item, buffer) {
                return Some(arrived);
            }
        }
        None
    }

    /// Readable when something has arrived.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // What is handed out to nobody would be lost until the buffer is full.
        if let Err(error) = self.hear(&[]) {
            tracing::warn!(%error, "adverts of virtual routers are still handed out");
        }
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

/// An advert as it lies in the ring buffer: the record, then the frame.
fn decode(item: &[u8], buffer: &mut [u8]) -> Option<Arrived> {
    const { assert!(size_of::<AdvertRecord>() == 16 && MOST as usize > ETHERNET) };
    let (time, rest) = item.split_first_chunk::<8>()?;
    let (ifindex, rest) = rest.split_first_chunk::<4>()?;
    let (len, frame) = rest.split_first_chunk::<4>()?;
    let frame = frame.get(..u32::from_ne_bytes(*len) as usize)?;
    let packet = frame.get(ETHERNET..)?;
    buffer.get_mut(..packet.len())?.copy_from_slice(packet);
    Some(Arrived {
        ifindex: u32::from_ne_bytes(*ifindex),
        at: instant(u64::from_ne_bytes(*time)),
        len: packet.len(),
    })
}

/// When a time of the programs' clock was. A thread that is stopped between the two readings takes it for later, never for
/// earlier: nobody is thought silent for longer than it was.
fn instant(time: u64) -> Instant {
    let ago = Duration::from_nanos(sys::monotonic_nanoseconds().saturating_sub(time));
    let now = Instant::now();
    now.checked_sub(ago).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(time: u64, len: u32, frame: &[u8]) -> Vec<u8> {
        let mut item = time.to_ne_bytes().to_vec();
        item.extend(7_u32.to_ne_bytes());
        item.extend(len.to_ne_bytes());
        item.extend(frame);
        item
    }

    #[test]
    fn an_advert_is_read_as_it_was_written() {
        let frame: Vec<u8> = (0..50).collect();
        let mut buffer = [0; 64];
        let before = Instant::now();
        let time = sys::monotonic_nanoseconds() - 5_000_000;
        // The kernel rounds the length of what is in its buffer up.
        let mut written = item(time, 50, &frame);
        written.extend([0xff; 6]);
        let arrived = decode(&written, &mut buffer).unwrap();
        assert_eq!((arrived.ifindex, arrived.len), (7, 36));
        assert_eq!(buffer[..36], frame[14..]);
        // What passes between two readings makes it later, by no more than passed in all.
        let ago = Duration::from_millis(5);
        assert!(arrived.at + ago >= before);
        assert!(arrived.at + ago <= before + before.elapsed());
    }

    #[test]
    fn what_is_no_advert_is_none() {
        let mut buffer = [0; 64];
        assert_eq!(
            decode(&item(1, 51, &[0; 50]), &mut buffer),
            None,
            "shorter than it says"
        );
        assert_eq!(
            decode(&item(1, 13, &[0; 50]), &mut buffer),
            None,
            "no Ethernet header"
        );
        assert_eq!(decode(&item(1, 90, &[0; 90]), &mut buffer), None, "no room");
        assert_eq!(decode(&[0; 15], &mut buffer), None, "half a record");
    }
}
