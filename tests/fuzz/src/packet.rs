//! Any frame through the parser and the decision, as the kernel program takes it.
//!
//! Holds: one verdict with one reason is counted; a frame that is neither sent on nor answered is not touched; one that is sent
//! on keeps its payload, loses one hop, and its checksums are right if they were right before, by a plain computation over
//! the whole packet; in a tunnel the same is so of what is inside. An answer goes back where the frame came from, with right
//! checksums, and quotes it. The same frame gives the same outcome again.
//!
//! The lowest bit of a frame's first source octet chooses the box ([`world`]): set, as in no host's address, it is pressed.

mod world;

use weir_abi::{GroupLink, Reason, Verdict};
use weir_fastpath::{
    Window, handle,
    memory::MemoryTables,
    parse::{Fragment, ICMP, ICMPV6, Packet, UDP, parse},
};

/// The box that a frame comes to.
fn tables(data: &[u8]) -> MemoryTables {
    world::tables(data.get(6).is_some_and(|first| first & 1 != 0))
}

/// The link address of virtual routers that a frame is to.
fn linked<'t>(data: &[u8], tables: &'t MemoryTables) -> Option<&'t GroupLink> {
    let &[a, b, c, d, e, f] = data.first_chunk::<6>()?;
    let mac = [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
    tables.links.get(tables.linked.get(&mac)?)
}

/// Checks one frame.
pub fn check(data: &[u8]) {
    let mut frame = data.to_vec();
    let before = parse(Window::new(&mut frame));
    assert_eq!(frame, data, "the parser changes nothing");

    let mut tables = tables(data);
    let outcome = handle(&mut frame, &mut tables);
    assert_eq!(tables.reason(outcome.reason), 1, "the verdict is counted, once");
    let verdicts = Reason::ALL.iter().map(|r| tables.reason(*r)).sum::<u64>();
    assert_eq!(verdicts, 1, "and no other");
    match outcome.reason.verdict() {
        Verdict::Pass | Verdict::Drop => {
            let mut expected = data.to_vec();
            // What is to a link address of virtual routers gets the interface's own.
            if let Some(held) = linked(data, &tables)
                && frame.get(..6) != data.get(..6)
                && let Some(to) = expected.first_chunk_mut::<6>()
            {
                let [a, b, c] = held.own.map(u16::to_ne_bytes);
                *to = [a[0], a[1], b[0], b[1], c[0], c[1]];
            }
            assert_eq!(
                frame,
                expected,
                "{} must not touch the frame",
                outcome.reason.name()
            );
            assert_eq!(outcome.egress, 0);
        }
        Verdict::Reply => {
            let before = before.expect("what is answered can be taken apart");
            assert_eq!(outcome.egress, 0, "back where it came from");
            answered(outcome.reason, data, &before, &frame);
        }
        Verdict::Forward => {
            let before = before.expect("what is forwarded can be taken apart");
            assert_ne!(outcome.egress, 0, "a way out");
            // Errors go the way of the flow that they are about.
            let tunnel = outcome.reason == Reason::ForwardIpip
                || outcome.reason == Reason::ForwardIcmp && frame.len() > data.len();
            let inside = if tunnel {
                taken_out(&before, &frame)
            } else {
                frame.clone()
            };
            forwarded(data, &before, &inside);
        }
    }

    let mut again = data.to_vec();
    let repeated = handle(&mut again, &mut self::tables(data));
    assert_eq!(
        (repeated.reason, repeated.egress, again),
        (outcome.reason, outcome.egress, frame)
    );
}

/// The reason that a frame's verdict has.
pub fn reason(data: &[u8]) -> Reason {
    handle(&mut data.to_vec(), &mut tables(data)).reason
}

/// The frame of the packet in a tunnel, whose outer header must be right.
fn taken_out(before: &Packet, frame: &[u8]) -> Vec<u8> {
    let at = before.network_at as usize;
    let v4 = frame[at] >> 4 == 4;
    let (outer, protocol, hops) = if v4 { (20, 9, 8) } else { (40, 6, 7) };
    assert_eq!(frame[at + protocol], if before.v4 { 4 } else { 41 });
    assert_eq!(frame[at + hops], 64, "hops of the outer header");
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    if v4 {
        assert_eq!(
            sum(&[&frame[at..at + 20]]),
            0xffff,
            "checksum of the outer header"
        );
        assert_eq!(word(at + 2), before.total_len + 20);
    } else {
        assert_eq!(word(at + 4), before.total_len);
    }
    let mut inside = frame[..at].to_vec();
    inside[at - 2..].copy_from_slice(if before.v4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
    inside.extend(&frame[at + outer..]);
    inside
}

fn forwarded(data: &[u8], before: &Packet, frame: &[u8]) {
    assert_eq!(frame.len(), data.len());
    let after = parse(Window::new(&mut frame.to_vec())).expect("what leaves can be taken apart");
    assert_eq!(after.hop_limit, before.hop_limit - 1, "one hop less");
    assert_eq!(
        (after.network_at, after.transport_at),
        (before.network_at, before.transport_at)
    );
    assert_eq!(
        (after.v4, after.protocol(), after.total_len, after.fragment),
        (before.v4, before.protocol(), before.total_len, before.fragment)
    );
    if before.v4 {
        assert_eq!(
            network_is_right(frame, &after),
            network_is_right(data, before),
            "IPv4 checksum"
        );
    }
    if is_icmp(before) {
        // What it quotes is translated; the rest of it stays.
        let rest = before.transport_at as usize;
        assert_eq!(frame[rest..rest + 2], data[rest..rest + 2], "type and code");
    } else {
        let payload = match before.fragment {
            Fragment::Later if before.v4 => {
                before.network_at as usize + usize::from(data[before.network_at as usize] & 0xf) * 4
            }
            Fragment::Later => before.network_at as usize + 40,
            Fragment::Whole | Fragment::First if before.tcp => before.transport_at as usize + 20,
            Fragment::Whole | Fragment::First => before.transport_at as usize + 8,
        };
        assert_eq!(frame[payload..], data[payload..], "the payload is as it was");
    }
    if before.fragment != Fragment::Later {
        assert_eq!(
            transport_is_right(frame, &after),
            transport_is_right(data, before),
            "checksum of TCP, UDP or ICMP"
        );
    }
}

fn answered(reason: Reason, data: &[u8], before: &Packet, frame: &[u8]) {
    let after = parse(Window::new(&mut frame.to_vec())).expect("an answer can be taken apart");
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&data[6..12], &data[..6]),
        "link addresses"
    );
    assert_eq!(
        (after.flow.src, after.flow.dst),
        (before.flow.dst, before.flow.src)
    );
    assert_eq!(after.hop_limit, 64);
    assert_eq!(data[0] & 1, 0, "groups are not answered");
    assert_ne!(before.fragment, Fragment::Later, "nor later fragments");
    if reason == Reason::EchoReply {
        assert_eq!(frame.len(), data.len());
        assert_eq!(
            transport_is_right(frame, &after),
            transport_is_right(data, before),
            "checksum of ICMP"
        );
        let body = before.transport_at as usize + 4;
        assert_eq!(frame[body..], data[body..], "the body is as it was");
        return;
    }
    assert_eq!(transport_is_right(frame, &after), Some(true), "checksum");
    if after.v4 {
        assert!(network_is_right(frame, &after), "IPv4 checksum");
    }
    assert_eq!(
        frame.len(),
        after.network_at as usize + usize::from(after.total_len),
        "nothing behind it"
    );
    assert!(!is_icmp(before), "errors are not answered");
    if is_icmp(&after) {
        let quote = &frame[after.transport_at as usize + 8..];
        assert!(data[before.network_at as usize..].starts_with(quote), "the quote");
        assert!(after.total_len <= if after.v4 { 576 } else { 1280 });
        assert!(quote.len() + 3 >= usize::from(before.total_len).min(548));
    } else {
        assert_eq!(
            (after.source_port(), after.destination_port()),
            (before.destination_port(), before.source_port())
        );
        assert!(before.tcp && !before.rst() && after.tcp);
    }
}

fn is_icmp(packet: &Packet) -> bool {
    [ICMP, ICMPV6].contains(&packet.protocol())
}

/// The one's complement sum of RFC 1071, all of it.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for two in part.chunks(2) {
            sum += u64::from(two[0]) << 8 | two.get(1).copied().map_or(0, u64::from);
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn network_is_right(frame: &[u8], packet: &Packet) -> bool {
    let at = packet.network_at as usize;
    let len = usize::from(frame[at] & 0xf) * 4;
    sum(&[&frame[at..at + len]]) == 0xffff
}

/// Whether the checksum over pseudo header and segment is right; `None` for a UDP packet without one.
fn transport_is_right(frame: &[u8], packet: &Packet) -> Option<bool> {
    let at = packet.transport_at as usize;
    let end = packet.network_at as usize + usize::from(packet.total_len);
    let mut segment = &frame[at..end];
    if packet.protocol() == UDP {
        if segment[6..8] == [0, 0] {
            return None;
        }
        let len = usize::from(u16::from_be_bytes([segment[4], segment[5]]));
        // Of a first fragment there is less.
        segment = segment.get(..len).unwrap_or(segment);
    }
    if packet.protocol() == ICMP {
        return Some(sum(&[segment]) == 0xffff);
    }
    let (src, dst) = (packet.flow.src.octets(), packet.flow.dst.octets());
    // A mapped IPv4 address adds ::ffff twice, which is nothing in this arithmetic.
    let length = (segment.len() as u32).to_be_bytes();
    Some(sum(&[&src, &dst, &length, &[0, packet.protocol()], segment]) == 0xffff)
}
