//! Rewriting by difference is writing anew: the frame that comes out is the one that would have been built so.

use std::{net::SocketAddr, vec::Vec};

use proptest::prelude::*;

use super::*;
use crate::{
    parse::{TCP, UDP, parse},
    testing::Frame,
};

fn rewritten(bytes: &[u8], change: impl FnOnce(&Headers<'_>)) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let window = Window::new(&mut out);
    let packet = parse(window).unwrap();
    change(&Headers::of(window, &packet).unwrap());
    out
}

fn addresses(v4: bool) -> impl Strategy<Value = [SocketAddr; 3]> {
    prop::array::uniform3((any::<u128>(), 1u16..)).prop_map(move |ends| {
        ends.map(|(ip, port)| match v4 {
            true => SocketAddr::from(((ip as u32).to_be_bytes(), port)),
            // Not a mapped address: those are refused.
            false => SocketAddr::from(((ip | 1 << 127).to_be_bytes(), port)),
        })
    })
}

proptest! {
    #[test]
    fn by_difference_and_anew_are_the_same(
        [src, dst, new] in any::<bool>().prop_flat_map(addresses),
        tcp: bool, flags: u8, hops in 2u8.., words in 0usize..=10,
        payload in prop::collection::vec(any::<u8>(), 0..80), keep_port: bool,
    ) {
        let mut frame = Frame {
            src, dst, protocol: if tcp { TCP } else { UDP }, flags, hops, options: std::vec![1; words * 4], payload,
        };
        if src.is_ipv6() {
            frame.options.clear();
        }
        let before = frame.build();
        let port = if keep_port { 0 } else { new.port().to_be() };
        let to = rewritten(&before, |headers| translate(headers, None, Some(End { addr: new.ip().into(), port })));
        let from = rewritten(&before, |headers| translate(headers, Some(End { addr: new.ip().into(), port }), None));
        frame.hops -= 1;
        frame.dst = SocketAddr::new(new.ip(), if keep_port { dst.port() } else { new.port() });
        prop_assert_eq!(to, frame.build());
        frame.dst = dst;
        frame.src = SocketAddr::new(new.ip(), if keep_port { src.port() } else { new.port() });
        prop_assert_eq!(from, frame.build());
    }

    #[test]
    fn there_and_back_is_where_it_was([src, dst, new] in any::<bool>().prop_flat_map(addresses), tcp: bool) {
        let frame = Frame {
            src, dst, protocol: if tcp { TCP } else { UDP }, flags: 0x10, hops: 64, options: Vec::new(),
            payload: b"there and back".to_vec(),
        };
        let before = frame.build();
        let there = rewritten(&before, |headers| translate(headers, None, Some(End { addr: new.ip().into(), port: new.port().to_be() })));
        let back = rewritten(&there, |headers| translate(headers, None, Some(End { addr: dst.ip().into(), port: dst.port().to_be() })));
        prop_assert_eq!(back, Frame { hops: 62, ..frame }.build());
    }
}

#[test]
fn udp_without_a_checksum_stays_without() {
    for (src, dst, new, check_at) in [
        ("198.51.100.7:1", "192.0.2.10:53", "10.0.0.1:53", 40),
        ("[2001:db8::7]:1", "[2001:db8::10]:53", "[fd00::1]:5353", 60),
    ] {
        let mut bytes = Frame::new(UDP, src, dst).build();
        bytes[check_at..check_at + 2].fill(0);
        let new: SocketAddr = new.parse().unwrap();
        let out = rewritten(&bytes, |headers| {
            translate(
                headers,
                None,
                Some(End {
                    addr: new.ip().into(),
                    port: new.port().to_be(),
                }),
            )
        });
        assert_eq!(out[check_at..check_at + 2], [0, 0]);
    }
}
