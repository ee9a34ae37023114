//! Any bytes as what one box tells another of its flows, and as what happens between two of them.
//!
//! Holds: what reads well is written as the same; nobody without the key is heard; whatever a peer says, well signed, a box
//! always wants to be called later than it was, and sends nothing that is too long.

use std::time::{Duration, Instant};

use weir_core::{
    sync::{
        Entry, Output, Peer, Settings,
        entry::Entries,
        wire::{self, Body, LONGEST},
    },
    vrrp::auth::Keys,
};

/// Checks one byte string.
pub fn check(data: &[u8]) {
    entries(data);
    datagram(data);
    peer(data);
}

/// How far an input gets as a datagram whose signature is put right: what it is, or why it is refused.
pub fn reached(data: &[u8]) -> &'static str {
    let signed = sign(data);
    match wire::read(&signed, &Known) {
        Err(refused) => refused.name(),
        Ok(datagram) => match datagram.body {
            Body::Hello { .. } => "hello",
            Body::Entries(_) => "entries",
            Body::Ask(_) => "ask",
            Body::Chunk { .. } => "chunk",
        },
    }
}

/// One key, 1, that the input has no part in.
struct Nobody;

impl Keys for Nobody {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; 32]> {
        let parts: usize = parts.iter().map(|part| part.len()).sum();
        (key == 1).then_some([parts as u8 ^ 0x5a; 32])
    }
}

/// One key, 1, that whoever made the input has as well.
struct Known;

impl Keys for Known {
    fn mac(&self, key: u8, _parts: &[&[u8]]) -> Option<[u8; 32]> {
        (key == 1).then_some([0x11; 32])
    }
}

/// The input with a signature behind it.
fn sign(data: &[u8]) -> Vec<u8> {
    [data, &[0x11; 32]].concat()
}

fn entries(before: &[u8]) {
    let mut data = before;
    loop {
        let mut rest = data;
        let Ok(entry) = Entry::read(&mut rest) else {
            break;
        };
        let mut again = Vec::new();
        assert!(entry.write(&mut again), "what was read can be written: {entry:?}");
        assert_eq!(Entry::read(&mut &again[..]), Ok(entry));
        data = rest;
    }
    if data.is_empty() {
        let all = Entries::new(before).expect("each of them was read");
        let mut again = Vec::new();
        all.for_each(|entry| assert!(entry.write(&mut again)));
        assert_eq!(again, before, "there is one way to write entries");
    }
}

fn datagram(data: &[u8]) {
    let read = wire::read(data, &Nobody).map(|datagram| datagram.sender);
    let now = Instant::now();
    let mut peer = Peer::new(SETTINGS, 1, 2, now);
    let taken = peer.receive(data, &Nobody, now).map(Iterator::count);
    if let Err(refused) = read {
        assert_eq!(taken, Err(refused), "what is not well signed is not heard");
        assert_eq!(peer.status().counts.datagrams_received, 0);
    }
}

const SETTINGS: Settings = Settings {
    key: 1,
    rate: 100,
    mark: 42,
};

/// The input as a script: its bytes say what a peer does next.
fn peer(data: &[u8]) {
    let mut now = Instant::now();
    let mut one = Peer::new(SETTINGS, 1, 11, now);
    let mut two = Peer::new(SETTINGS, 2, 22, now);
    let mut air: Vec<Vec<u8>> = Vec::new();
    for (step, bytes) in data.chunks(3).take(200).enumerate() {
        let [kind, how, much] = [0, 1, 2].map(|i| bytes.get(i).copied().unwrap_or(0));
        match kind % 6 {
            // What either has to say reaches the other; or not; or late, in parts of it.
            0 | 1 => {
                air = outputs(&mut one, now);
                for datagram in air.iter().filter(|_| how % 4 != 0) {
                    let _ = two.receive(datagram, &Known, now);
                }
            }
            2 => {
                let said = outputs(&mut two, now);
                for datagram in said.iter().rev() {
                    let _ = one.receive(datagram, &Known, now);
                    let _ = one.receive(datagram, &Known, now);
                }
            }
            // A part of the input, well signed, to whom it is for by chance; and with what the last one had in its head.
            3 => {
                let part = data.get(usize::from(how)..).unwrap_or_default();
                let _ = one.receive(&sign(part), &Known, now);
                if let Some(head) = air.last().and_then(|last| last.get(..wire::HEAD)) {
                    let mut forged = [head, part].concat();
                    if let Some(kind) = forged.get_mut(5) {
                        *kind = 1 + much % 5;
                    }
                    let _ = two.receive(&sign(&forged), &Known, now);
                }
            }
            4 => {
                let mut rest = data.get(usize::from(how)..).unwrap_or_default();
                while let Ok(entry) = Entry::read(&mut rest) {
                    one.tell(&entry, now);
                    two.fill(&entry);
                }
                two.full();
            }
            _ => now += Duration::from_millis(u64::from(how) * u64::from(much)),
        }
        if step % 2 == 0 {
            one.handle_timeout(now);
            two.handle_timeout(now);
        }
    }
}

fn outputs(peer: &mut Peer, now: Instant) -> Vec<Vec<u8>> {
    peer.handle_timeout(now);
    let mut sent = Vec::new();
    let mut rounds = 0;
    while let Some(output) = peer.poll_output(&Known, now) {
        rounds += 1;
        assert!(rounds < 10_000, "it has always something to do");
        match output {
            Output::Send(bytes) => {
                assert!(bytes.len() <= LONGEST);
                sent.push(bytes);
            }
            Output::Everything => peer.full(),
            Output::Event(_) => {}
        }
    }
    assert!(peer.poll_timeout() > now, "it would be called for ever");
    sent
}
