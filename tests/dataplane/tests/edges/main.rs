//! The edges of forwarding: ICMP, fragments, and what XDP answers itself; in the kernel and on the host.

mod errors;
mod resets;

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use weir_abi::{
    FlowState, FragmentKey, FragmentState, ListEntry, Note, Reason, Settings, Slot,
    maps::{action, backend::ALIVE, fragment, service},
};
use weir_dataplane_tests::{
    Both, Frame, Icmp, World,
    both::{to_backend, to_client},
    frame::{ACK, FIN, RST, SYN, checksum, moved, pieces},
    icmp::{between, quote},
    kernel::{flow_key, verdict},
    lab,
    world::{TCP, UDP, addr, stable},
};
use weir_fastpath::{handle, hash::flow_hash};

const CLIENT4: &str = "198.51.100.7:40000";
const CLIENT6: &str = "[2001:db8:c::7]:40000";
const TUNNEL: [u8; 4] = [10, 255, 0, 0];

/// The standard world; 192.0.2.12 and 2001:db8:2::12 by `dsr`, .13 and ::13 by `ipip`, and echo.
fn world() -> World {
    let mut world = World::standard();
    for (mode, backend, vip) in [
        (action::DSR, "10.9.0.7:0", "192.0.2.12"),
        (action::DSR, "[2001:db8:9::7]:0", "[2001:db8:2::12]"),
        (action::IPIP, "10.9.0.8:0", "192.0.2.13"),
        (action::IPIP, "10.9.0.8:0", "[2001:db8:2::13]"),
    ] {
        let index = world.backend(backend, ALIVE);
        for (port, protocol) in [(80, TCP), (53, UDP)] {
            world.service(mode, &format!("{vip}:{port}"), protocol, &[stable(index)]);
        }
    }
    for vip in ["192.0.2.10:0", "[2001:db8:2::10]:0"] {
        world.address(vip, true);
    }
    for vip in ["192.0.2.11:0", "[2001:db8:2::11]:0"] {
        world.address(vip, false);
    }
    world.settings.reply_limit = 100_000;
    world.settings.tunnel_v4 = u32::from_ne_bytes(TUNNEL);
    world.settings.tunnel_v4_host = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    world.resolve();
    world
}

/// [`Both::check`] that panics where it is called.
#[track_caller]
fn becomes(both: &mut Both, frame: &[u8], reason: Reason, notes: &[Note], expected: &[u8]) {
    both.check(frame, reason, notes, Some(expected))
        .unwrap_or_else(|e| panic!("{}: {e:#}\n{frame:02x?}", reason.name()));
}

/// A frame as it leaves for the backend 10.9.0.8 in a tunnel. `inner`: the frame, a hop taken off already.
fn in_tunnel(settings: &Settings, flow: &Frame, inner: &[u8], at: usize, tos: u8) -> Vec<u8> {
    let key = flow_key(flow.src, flow.dst, flow.protocol());
    let [a, b, _, _] = TUNNEL;
    let [_, _, c, d] = (flow_hash(&settings.flow_key, &key) as u32).to_ne_bytes();
    let protocol = if flow.src.is_ipv4() { 4 } else { 41 };
    let packet = &inner[at..];
    let [hi, lo] = (20 + packet.len() as u16).to_be_bytes();
    let mut ip = vec![
        0x45, tos, hi, lo, 0, 0, 0x40, 0, 64, protocol, 0, 0, a, b, c, d, 10, 9, 0, 8,
    ];
    let check = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let mut out = [lab::backend_mac(8), lab::LAN_MAC].concat();
    out.extend(&inner[12..at - 2]);
    out.extend([8, 0]);
    out.extend(ip);
    out.extend(packet);
    out
}

#[test]
fn echo_is_answered_while_a_service_is_up() -> Result<()> {
    Both::run(&world(), |both| {
        for (client, vip, request, reply) in [
            ("198.51.100.7", "192.0.2.10", [8, 0], [0, 0]),
            ("2001:db8:c::7", "2001:db8:2::10", [128, 0], [129, 0]),
        ] {
            for (body, tags, options) in [
                (&b""[..], vec![], 0),
                (b"odd", vec![(0x8100, 7)], 8),
                (&[0xff; 1400], vec![(0x88a8, 7), (0x8100, 8)], 40),
            ] {
                let ping = Icmp::new(client, vip, request, body).with(|f| {
                    f.rest = [0x12, 0x34, 0, 1];
                    f.hops = 3;
                    f.tags = tags;
                    f.options = vec![1; options];
                });
                let mut pong = ping.clone();
                pong.kind = reply;
                pong.hops = 64;
                (pong.src, pong.dst) = (ping.dst, ping.src);
                (pong.to_mac, pong.from_mac) = (ping.from_mac, ping.to_mac);
                becomes(both, &ping.build(), Reason::EchoReply, &[], &pong.build());
            }
            // The answer is nothing but zeros: its checksum is not.
            let ping = Icmp::new(client, vip, request, &[0; 4]);
            let mut pong = ping.clone();
            pong.kind = reply;
            (pong.src, pong.dst) = (ping.dst, ping.src);
            (pong.to_mac, pong.from_mac) = (ping.from_mac, ping.to_mac);
            becomes(both, &ping.build(), Reason::EchoReply, &[], &pong.build());
            let ping = Icmp::new(client, vip, request, b"x");
            both.stays(&ping.clone().with(|f| f.kind[1] = 1).build(), Reason::Icmp);
            both.stays(&ping.clone().with(|f| f.kind = reply).build(), Reason::Icmp);
            // To a group's link address, or not from a host.
            both.stays(&ping.clone().with(|f| f.to_mac[0] |= 1).build(), Reason::Icmp);
            let strange: &[&str] = if vip.contains(':') {
                &["::", "::1", "ff02::1"]
            } else {
                &["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"]
            };
            for src in strange {
                let src: IpAddr = src.parse()?;
                both.stays(&ping.clone().with(|f| f.src = src).build(), Reason::Icmp);
            }
        }
        for (client, vip, request) in [
            ("198.51.100.7", "192.0.2.11", [8, 0]),
            ("2001:db8:c::7", "2001:db8:2::11", [128, 0]),
        ] {
            both.stays(&Icmp::new(client, vip, request, b"x").build(), Reason::EchoDown);
        }
        // Addresses that are nobody's, and neighbor discovery.
        for (client, to, request) in [
            ("198.51.100.7", "192.0.2.1", [8, 0]),
            ("198.51.100.7", "192.0.2.12", [8, 0]),
            ("2001:db8:c::7", "2001:db8:2::1", [128, 0]),
            ("2001:db8:c::7", "2001:db8:2::10", [135, 0]),
            ("fe80::1", "ff02::1:ff00:10", [135, 0]),
        ] {
            both.stays(&Icmp::new(client, to, request, b"x").build(), Reason::Icmp);
        }
        // In pieces it is the stack's.
        let ping = Icmp::new("198.51.100.7", "192.0.2.10", [8, 0], b"12345678");
        both.stays(&ping.clone().with(|f| f.fragment = 0x2000).build(), Reason::Icmp);
        both.stays(
            &ping.clone().with(|f| f.fragment = 0x0001).build(),
            Reason::Fragment,
        );
        // Cut off inside the header.
        let mut short = ping.build();
        short[17] = 27;
        both.stays(&short, Reason::Truncated);
        Ok(())
    })
}

#[test]
fn who_is_banned_gets_no_echo() -> Result<()> {
    let mut world = world();
    world.list("198.51.100.0/25", ListEntry::default());
    Both::run(&world, |both| {
        let ping = Icmp::new("198.51.100.7", "192.0.2.10", [8, 0], b"x");
        both.stays(&ping.build(), Reason::Banned);
        let error = Icmp::new("198.51.100.7", "192.0.2.10", [3, 3], &[]);
        let about = Frame::udp("192.0.2.10:53", CLIENT4);
        both.stays(
            &error.with(|f| f.body = quote(&about, 28)).build(),
            Reason::Banned,
        );
        Ok(())
    })
}

#[test]
fn answers_are_limited() -> Result<()> {
    let mut world = world();
    world.settings.reply_limit = 50;
    Both::run(&world, |both| {
        const PINGS: u64 = 400;
        let ping = Icmp::new("198.51.100.7", "192.0.2.10", [8, 0], b"x").build();
        let before = lab::now()?;
        for _ in 0..PINGS {
            both.kernel.run(&ping)?;
            handle(&mut ping.clone(), &mut both.memory);
        }
        let seconds = u64::from(lab::now()? - before) + 1;
        let counters = both.kernel.counters()?;
        let answered = counters.reason(Reason::EchoReply);
        ensure!(answered + counters.reason(Reason::ReplyLimited) == PINGS);
        ensure!((50..=50 * (seconds + 1)).contains(&answered), "{answered}");
        ensure!(both.memory.reason(Reason::EchoReply) == 50);
        ensure!(both.memory.reason(Reason::ReplyLimited) == PINGS - 50);
        Ok(())
    })
}

/// Client, VIP, backend and its number, of each family and protocol, by `nat`.
const NAT: [(&str, &str, &str, u8, bool); 4] = [
    (CLIENT4, "192.0.2.10:80", "10.9.0.1:8080", 1, true),
    (CLIENT6, "[2001:db8:2::10]:80", "[2001:db8:9::2]:8080", 2, true),
    (CLIENT4, "192.0.2.10:53", "10.9.0.3:5353", 3, false),
    (CLIENT6, "[2001:db8:2::10]:53", "[2001:db8:9::4]:5353", 4, false),
];

fn packet(src: &str, dst: &str, tcp: bool) -> Frame {
    if tcp {
        Frame::tcp(src, dst, ACK)
    } else {
        Frame::udp(src, dst)
    }
}

#[test]
fn what_is_too_big_is_answered() -> Result<()> {
    let world = world();
    Both::run(&world, |both| {
        let kind = |v4| if v4 { [3, 4] } else { [2, 0] };
        let mut cases = Vec::new();
        for (client, vip, backend, _, tcp) in NAT {
            cases.push((packet(client, vip, tcp), 1500));
            cases.push((packet(backend, client, tcp), 1500));
        }
        cases.push((Frame::udp(CLIENT4, "192.0.2.12:53"), 1500));
        cases.push((Frame::udp(CLIENT4, "192.0.2.13:53"), 1480));
        cases.push((Frame::udp(CLIENT6, "[2001:db8:2::13]:53"), 1480));
        for (frame, mtu) in cases {
            let v4 = frame.src.is_ipv4();
            for (tags, options) in [(vec![], 0), (vec![(0x8100, 7)], 12)] {
                let options = if v4 { options } else { 0 };
                let mut frame = frame.clone().with(|f| {
                    f.tags = tags;
                    f.options = vec![1; options];
                    f.payload = vec![0x5a; 4];
                });
                let fixed = frame.build().len() - frame.network_at() - 4;
                frame.payload = (0..mtu - fixed).map(|n| n as u8).collect();
                ensure!(both.kernel.run(&frame.build())?.verdict == verdict::REDIRECT);
                for more in [1, 2, 3, 7000] {
                    let frame = frame.clone().with(|f| f.payload.extend(vec![9; more]));
                    let quoted = if v4 { 548 } else { 1232 };
                    let [a, b] = (mtu as u16).to_be_bytes();
                    let answer = Icmp::answers(&frame, kind(v4), [0, 0, a, b], quoted);
                    let bytes = frame.build();
                    becomes(both, &bytes, Reason::TooBigSent, &[], &answer.build());
                }
                // A first fragment is answered as well: its sender cuts smaller pieces.
                if v4 {
                    let first = frame.with(|f| {
                        f.payload.push(1);
                        f.fragment = 0x2000;
                    });
                    let [a, b] = (mtu as u16).to_be_bytes();
                    let answer = Icmp::answers(&first, [3, 4], [0, 0, a, b], 548);
                    let bytes = first.build();
                    becomes(both, &bytes, Reason::TooBigSent, &[], &answer.build());
                }
            }
        }
        // An error is not.
        let about = Frame::tcp("192.0.2.10:80", CLIENT4, ACK).with(|f| f.payload = vec![1; 1480]);
        let error = Icmp::new("198.51.100.1", "192.0.2.10", [3, 3], &quote(&about, 1500));
        both.stays(&error.build(), Reason::TooBig);
        Ok(())
    })
}

#[test]
fn senders_are_told_that_their_packets_hops_are_used_up() -> Result<()> {
    Both::run(&world(), |both| {
        let mut frames = Vec::new();
        for (client, vip, backend, _, tcp) in NAT {
            frames.push(packet(client, vip, tcp));
            frames.push(packet(backend, client, tcp));
        }
        for (client, vip) in [(CLIENT4, "192.0.2.1"), (CLIENT6, "[2001:db8:2::1")] {
            let close = if vip.starts_with('[') { "]" } else { "" };
            for mode in [2, 3] {
                frames.push(Frame::udp(client, &format!("{vip}{mode}{close}:53")));
                frames.push(Frame::tcp(client, &format!("{vip}{mode}{close}:80"), SYN));
            }
        }
        for frame in frames {
            let v4 = frame.src.is_ipv4();
            let (kind, most) = if v4 { ([11, 0], 548) } else { ([3, 0], 1232) };
            let told = |both: &mut Both, frame: &Frame| {
                let bytes = frame.build();
                let quoted = most.min((bytes.len() - frame.network_at()) & !3);
                let answer = Icmp::answers(frame, kind, [0; 4], quoted);
                becomes(both, &bytes, Reason::TtlExpiredSent, &[], &answer.build());
            };
            for (hops, payload, tags, options) in [
                (1, 0, vec![], 0),
                (0, 3, vec![], 0),
                (1, 8, vec![(0x8100, 7)], 12),
                (1, 1300, vec![(0x88a8, 7), (0x8100, 8)], 40),
                // Larger than the MTU, too: one answer is enough.
                (1, 7000, vec![], 0),
            ] {
                let frame = frame.clone().with(|f| {
                    f.hops = hops;
                    f.payload = (0..payload).map(|n: usize| n as u8).collect();
                    f.tags = tags;
                    f.options = vec![1; if v4 { options } else { 0 }];
                });
                // A reply goes by its way first: it may be for this box. Then its size is seen before its TTL.
                if payload < 7000 || frame.dst.port() < 1024 {
                    told(both, &frame);
                }
            }
            let last = frame.with(|f| f.hops = 1);
            // With one hop more it goes on.
            let two = last.clone().with(|f| f.hops = 2);
            ensure!(both.kernel.run(&two.build())?.verdict == verdict::REDIRECT);
            // A first fragment, which has what the sender knows its packet by.
            told(
                both,
                &last.clone().with(|f| {
                    if v4 {
                        f.fragment = 0x2000;
                    } else {
                        f.extensions = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])];
                    }
                }),
            );
            // Nobody who could be told, or too many.
            let group = last.clone().with(|f| f.to_mac[0] |= 1);
            both.stays(&group.build(), Reason::TtlExpired);
            let strange: &[&str] = if v4 {
                &[
                    "0.0.0.0",
                    "127.0.0.1",
                    "224.0.0.1",
                    "240.0.0.1",
                    "255.255.255.255",
                ]
            } else {
                &["::", "::1", "ff02::1"]
            };
            // (A reply from elsewhere is none.)
            for src in strange.iter().filter(|_| last.dst.port() < 1024) {
                let src: IpAddr = src.parse()?;
                let frame = last.clone().with(|f| f.src.set_ip(src));
                both.stays(&frame.build(), Reason::TtlExpired);
            }
        }
        Ok(())
    })
}

#[test]
fn what_the_kernels_routes_call_too_big_is_answered_too() -> Result<()> {
    let mut world = world();
    for backend in &mut world.backends {
        backend.next_hop = 0;
    }
    Both::run(&world, |both| {
        for (vip, mtu) in [("192.0.2.10:53", 1500u16), ("192.0.2.13:53", 1480)] {
            let frame = Frame::udp(CLIENT4, vip).with(|f| f.payload = vec![1; 1473]);
            let [a, b] = mtu.to_be_bytes();
            let answer = Icmp::answers(&frame, [3, 4], [0, 0, a, b], 548);
            let asked = [Note::RouteAsked];
            becomes(both, &frame.build(), Reason::TooBigSent, &asked, &answer.build());
        }
        Ok(())
    })
}
