//! Entries that wait to be sent, packed into datagrams, in bounded room.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::sync::{entry::Entry, wire::BODY};

/// A datagram that is not full waits so long for more.
const FILLS: Duration = Duration::from_millis(50);

/// Datagrams that wait at most: 9 MiB.
const MOST: usize = 8192;

#[derive(Debug)]
struct Packed {
    bytes: Vec<u8>,
    entries: u64,
    since: Instant,
}

/// The queue.
#[derive(Default, Debug)]
pub(super) struct Queue(VecDeque<Packed>);

impl Queue {
    /// False: there is no room, or the entry can't be written.
    pub(super) fn push(&mut self, entry: &Entry, now: Instant) -> bool {
        let mut bytes = Vec::with_capacity(BODY);
        if !entry.write(&mut bytes) {
            return false;
        }
        let room = self.0.len() < MOST;
        match self.0.back_mut() {
            Some(last) if last.bytes.len() + bytes.len() <= BODY => {
                last.bytes.extend_from_slice(&bytes);
                last.entries += 1;
            }
            _ if room => self.0.push_back(Packed {
                bytes,
                entries: 1,
                since: now,
            }),
            _ => return false,
        }
        true
    }

    /// Since when the oldest entry waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.0.front().map(|first| first.since)
    }

    /// From when on there is something to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        let first = self.0.front()?;
        Some(match self.0.len() {
            1 => first.since + FILLS,
            _ => first.since,
        })
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| due <= now)
    }

    /// The next datagram's entries, and how many.
    pub(super) fn pop(&mut self) -> Option<(Vec<u8>, u64)> {
        self.0.pop_front().map(|packed| (packed.bytes, packed.entries))
    }
}
