//! What any bytes may do to the parser: be taken apart rightly, or refused with a reason. That each reason has its packet,
//! here and in the kernel, is tested with the programs.

use std::{vec, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{rewrite::Headers, testing::Frame};

fn parsed(bytes: &[u8]) -> Result<Packet, Reason> {
    parse(Window::new(&mut bytes.to_vec()))
}

#[test]
fn fields_are_where_the_protocols_put_them() {
    let mut frame = Frame::new(TCP, "198.51.100.7:40000", "192.0.2.10:80").syn();
    frame.options = vec![1; 8];
    let bytes = frame.build();
    let packet = parsed(&bytes).unwrap();
    assert_eq!((packet.network_at, packet.transport_at), (14, 42));
    assert_eq!(
        (packet.v4, packet.tcp, packet.syn(), packet.hop_limit),
        (true, true, true, 64)
    );
    assert_eq!(packet.frame_len as usize, bytes.len());
    assert_eq!(packet.total_len as usize, bytes.len() - 14);
    assert_eq!(
        (packet.source_port(), packet.destination_port()),
        (40000u16.to_be(), 80u16.to_be())
    );
    assert_eq!(packet.flow.src.to_ip(), frame.src.ip());
    assert_eq!(packet.flow.dst.to_ip(), frame.dst.ip());
    assert_eq!((packet.flow.proto, packet.protocol()), (6, TCP));

    let frame = Frame::new(UDP, "[2001:db8::7]:5000", "[2001:db8::10]:53");
    let mut bytes = frame.build();
    bytes[14..18].copy_from_slice(&[0x6a, 0xb1, 0x23, 0x45]);
    let packet = parsed(&bytes).unwrap();
    assert_eq!((packet.network_at, packet.transport_at), (14, 54));
    assert_eq!((packet.v4, packet.tcp, packet.syn()), (false, false, false));
    assert_eq!(packet.traffic_class.to_ne_bytes(), [0x0a, 0xb1, 0x23, 0x45]);
    assert_eq!(packet.flow.src.to_ip(), frame.src.ip());
}

#[test]
fn only_a_syn_without_ack_opens() {
    for flags in 0..=255u8 {
        let mut frame = Frame::new(TCP, "198.51.100.7:40000", "192.0.2.10:80");
        frame.flags = flags;
        assert_eq!(
            parsed(&frame.build()).unwrap().syn(),
            flags & 0x12 == 0x02,
            "{flags:#x}"
        );
    }
}

/// What holds of every packet that was taken apart, whatever the bytes.
fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut copy = bytes.to_vec();
    let frame = Window::new(&mut copy);
    let Ok(packet) = parse(frame) else { return Ok(()) };
    prop_assert!(Headers::of(frame, &packet).is_some(), "headers lie in the frame");
    prop_assert_eq!(packet.frame_len as usize, bytes.len());
    let end = packet.network_at as usize + packet.total_len as usize;
    let header = match packet.fragment {
        Fragment::Later => 0,
        _ if packet.tcp => 20,
        Fragment::Whole | Fragment::First => 8,
    };
    prop_assert!(packet.transport_at as usize + header <= end && end <= bytes.len());
    prop_assert_eq!(packet.v4, packet.flow.src.is_v4());
    prop_assert_eq!(packet.v4, packet.flow.dst.is_v4());
    prop_assert_eq!(&copy, bytes, "parsing changes nothing");
    Ok(())
}

fn valid() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for (src, dst) in [
        ("198.51.100.7:40000", "192.0.2.10:80"),
        ("[2001:db8::7]:40000", "[2001:db8::10]:80"),
    ] {
        for protocol in [TCP, UDP] {
            let plain = Frame::new(protocol, src, dst).build();
            let mut tagged = plain.clone();
            tagged.splice(12..12, [0x81, 0x00, 0x20, 0x64]);
            frames.extend([plain, tagged]);
        }
    }
    // Hop-by-hop, destination options of 16 bytes, an atomic fragment, routing without segments left.
    let mut chained = Frame::new(TCP, "[2001:db8::7]:40000", "[2001:db8::10]:80").build();
    let chain = [
        [60, 0, 1, 4, 0, 0, 0, 0],
        [44, 1, 1, 4, 0, 0, 0, 0],
        [1, 4, 0, 0, 0, 0, 1, 0],
        [43, 0, 0, 0, 1, 2, 3, 4],
        [6, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let len = u16::from_be_bytes([chained[18], chained[19]]) + chain.len() as u16;
    chained[18..20].copy_from_slice(&len.to_be_bytes());
    chained[20] = 0;
    chained.splice(54..54, chain);
    frames.push(chained);
    frames
}

#[test]
fn a_frame_that_is_cut_off_is_never_taken() {
    for frame in valid() {
        assert!(parsed(&frame).is_ok(), "{frame:02x?}");
        for len in 0..frame.len() {
            let reason = parsed(&frame[..len]).unwrap_err();
            assert!(
                matches!(reason, Reason::Truncated | Reason::MalformedIp),
                "{reason:?} at {len}"
            );
        }
    }
}

#[test]
fn any_byte_may_have_any_value() {
    for frame in valid() {
        for at in 12..frame.len().min(110) {
            for value in 0..=255 {
                let mut changed = frame.clone();
                changed[at] = value;
                check(&changed).unwrap();
            }
        }
    }
}

proptest! {
    #[test]
    fn noise_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        check(&bytes)?;
    }

    #[test]
    fn noise_behind_an_ip_header_is_survived(
        at in 0usize..9, tail in prop::collection::vec(any::<u8>(), 0..600), keep in 14usize..60, next: u8
    ) {
        let mut bytes = valid().swap_remove(at);
        bytes.truncate(keep);
        bytes.extend(tail);
        // The length of the packet is that of the frame, so that the noise is looked at.
        let ip_at = if bytes[12] == 0x81 { 18 } else { 14 };
        if bytes.len() >= ip_at + 40 {
            let len = bytes.len() - ip_at;
            let (at, len) = if bytes[ip_at] >> 4 == 4 { (ip_at + 2, len) } else { (ip_at + 4, len - 40) };
            bytes[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
            if bytes[ip_at] >> 4 == 6 {
                bytes[ip_at + 6] = [0, 6, 17, 43, 44, 60, next][usize::from(next % 7)];
            }
        }
        check(&bytes)?;
    }
}

/// The refusals that lie on a border, by the frame and the bytes that are changed in it.
#[test]
fn borders() {
    let v4 = Frame::new(TCP, "198.51.100.7:40000", "192.0.2.10:80").build();
    let udp = Frame::new(UDP, "198.51.100.7:40000", "192.0.2.10:53").build();
    let chained = valid().pop().unwrap();
    let payload = 7;
    for (frame, at, value, expected) in [
        // TCP's data offset: to the end of the packet (20 + 4 of 27 bytes), and past it.
        (&v4, 46, 0x60, None),
        (&v4, 46, 0x70, Some(Reason::MalformedTransport)),
        (&v4, 46, 0x40, Some(Reason::MalformedTransport)),
        (&udp, 39, 8 + payload, None),
        (&udp, 39, 8 + payload + 1, Some(Reason::MalformedTransport)),
        (&udp, 39, 7, Some(Reason::MalformedTransport)),
        // IPv4: "more fragments", an offset, "don't fragment" and the reserved bit.
        (&v4, 20, 0x20, None),
        (&v4, 21, 1, None),
        (&v4, 20, 0xc0, None),
        // IPv6: the same in the fragment header; its reserved bits say nothing.
        (&chained, 81, 1, None),
        (&chained, 81, 8, None),
        (&chained, 81, 6, None),
        // Hop-by-hop options anywhere but first, segments left, a header that may not be followed.
        (&chained, 54, 0, Some(Reason::ExtensionHeaders)),
        (&chained, 89, 1, Some(Reason::ExtensionHeaders)),
        (&chained, 54, 51, Some(Reason::ExtensionHeaders)),
        (&chained, 54, 59, Some(Reason::OtherProtocol)),
    ] {
        let mut changed = frame.clone();
        changed[at] = value;
        assert_eq!(
            parsed(&changed).err(),
            expected,
            "byte {at} is {value:#x} in {frame:02x?}"
        );
    }
}

#[test]
fn pieces_of_a_datagram_are_told_apart() {
    let v4 = Frame::new(UDP, "198.51.100.7:40000", "192.0.2.10:53").build();
    let chained = valid().pop().unwrap();
    for (frame, at, value, fragment) in [
        (&v4, 20, 0x00, Fragment::Whole),
        (&v4, 20, 0x20, Fragment::First),
        (&v4, 21, 1, Fragment::Later),
        (&chained, 81, 0, Fragment::Whole),
        (&chained, 81, 1, Fragment::First),
        (&chained, 81, 8, Fragment::Later),
    ] {
        let mut changed = frame.clone();
        changed[at] = value;
        let packet = parsed(&changed).unwrap();
        assert_eq!(packet.fragment, fragment, "byte {at} is {value:#x}");
        assert_eq!(packet.flow.ports == 0, fragment == Fragment::Later);
        let short = network(Window::new(&mut changed.clone()), || 0)
            .map_err(Stop::from)
            .and_then(|network| transport::<false>(Window::new(&mut changed), &network));
        let whole_v4 = frame == &v4 && fragment == Fragment::Whole;
        assert_eq!(short.err(), (!whole_v4).then_some(Stop::Stage(stage::EDGE)));
    }
}

#[test]
fn a_chain_is_followed_so_far_and_no_further() {
    let with = |headers: usize| {
        let mut frame = Frame::new(UDP, "[2001:db8::7]:5000", "[2001:db8::10]:53").build();
        let chain: Vec<u8> = (1..=headers)
            .flat_map(|n| [if n == headers { UDP } else { 60 }, 0, 1, 4, 0, 0, 0, 0])
            .collect();
        let len = u16::from_be_bytes([frame[18], frame[19]]) + chain.len() as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        frame[20] = 60;
        frame.splice(54..54, chain);
        parsed(&frame).map(|packet| packet.transport_at)
    };
    for headers in 1..=ipv6::MAX_HEADERS {
        assert_eq!(with(headers), Ok(54 + 8 * headers as u32));
    }
    assert_eq!(with(ipv6::MAX_HEADERS + 1), Err(Reason::ExtensionHeaders));
}
