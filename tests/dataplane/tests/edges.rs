//! The edges of forwarding: ICMP, fragments, and what XDP answers itself; in the kernel and on the host.

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

/// Types and codes of errors.
fn errors(v4: bool) -> &'static [[u8; 2]] {
    if v4 {
        &[[3, 3], [3, 4], [11, 0], [12, 0]]
    } else {
        &[[1, 4], [2, 0], [3, 0], [4, 1]]
    }
}

#[test]
fn errors_reach_the_other_end_translated() -> Result<()> {
    Both::run(&world(), |both| {
        for (client, vip, backend, n, tcp) in NAT {
            let v4 = addr(vip).is_ipv4();
            let ip = if v4 { 20 } else { 40 };
            let (router, inner_router) = if v4 {
                ("198.51.100.1", "10.9.0.200")
            } else {
                ("2001:db8:c::1", "2001:db8:9::200")
            };
            // Options in the quote, or a first fragment's header; a datagram without a checksum; quotes that end before, in
            // and behind TCP's.
            for (options, no_checksum, quoted) in [
                (0, false, 8),
                (0, false, 16),
                (0, false, 17),
                (0, false, 18),
                (0, false, 400),
                (0, true, 8),
                (12, false, 8),
                (40, false, 400),
            ] {
                let (options, extensions) = match (v4, options) {
                    (true, _) => (options, vec![]),
                    (false, 0) => (0, vec![]),
                    (false, _) => (0, vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])]),
                };
                let ip = ip + 8 * extensions.len();
                let change = |f: &mut Frame| {
                    f.options = vec![1; options];
                    f.extensions.clone_from(&extensions);
                    f.no_checksum = no_checksum && !tcp;
                    f.hops = 57;
                };
                let most = ip + options + quoted;
                // Half a checksum can't be mended.
                let translated = |about: &Frame, src: &str, dst: &str| {
                    let mut body = quote(&between(about, src, dst), most);
                    if quoted == 17 && tcp {
                        body[most - 1] = quote(about, most)[most - 1];
                    }
                    body
                };
                for kind in errors(v4) {
                    let about = packet(vip, client, tcp).with(change);
                    let error = Icmp::new(router, &addr(vip).ip().to_string(), *kind, &quote(&about, most))
                        .with(|f| f.rest = [0, 0, 5, 0x14]);
                    let expected = error
                        .clone()
                        .with(|f| {
                            f.dst = addr(backend).ip();
                            f.body = translated(&about, backend, client);
                        })
                        .leaves(lab::backend_mac(n), lab::LAN_MAC);
                    becomes(both, &error.build(), Reason::ForwardIcmp, &[], &expected.build());

                    let about = packet(client, backend, tcp).with(change);
                    for from in [inner_router, &addr(backend).ip().to_string()] {
                        let error =
                            Icmp::new(from, &addr(client).ip().to_string(), *kind, &quote(&about, most))
                                .with(|f| f.tags = vec![(0x8100, 9)]);
                        let expected = error
                            .clone()
                            .with(|f| {
                                f.src = addr(vip).ip();
                                f.body = translated(&about, client, vip);
                            })
                            .leaves(lab::GATEWAY_MAC, lab::WAN_MAC);
                        becomes(both, &error.build(), Reason::ReturnIcmp, &[], &expected.build());
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn errors_about_shared_backends_find_their_vip() -> Result<()> {
    Both::run(&world(), |both| {
        let about = Frame::tcp(CLIENT4, "10.9.0.6:8080", ACK);
        let error = Icmp::new("10.9.0.6", "198.51.100.7", [3, 4], &quote(&about, 60));
        both.stays(&error.build(), Reason::Icmp);
        for vip in ["192.0.2.10:84", "192.0.2.11:8084"] {
            let frame = Frame::tcp(CLIENT4, vip, ACK);
            let sent = to_backend(&frame, 6, "10.9.0.6:8080");
            both.becomes(&frame, Reason::ForwardNat, &[], &sent);
            let expected = error
                .clone()
                .with(|f| {
                    f.src = addr(vip).ip();
                    f.body = quote(&between(&about, CLIENT4, vip), 60);
                })
                .leaves(lab::GATEWAY_MAC, lab::WAN_MAC);
            becomes(both, &error.build(), Reason::ReturnIcmp, &[], &expected.build());
        }
        Ok(())
    })
}

#[test]
fn errors_for_dsr_and_ipip_go_as_they_are() -> Result<()> {
    let world = world();
    Both::run(&world, |both| {
        for (client, vip, router) in [
            (CLIENT4, "192.0.2.1", "198.51.100.1"),
            (CLIENT6, "[2001:db8:2::1", "2001:db8:c::1"),
        ] {
            let close = if vip.starts_with('[') { "]" } else { "" };
            for tcp in [true, false] {
                let port = if tcp { 80 } else { 53 };
                for mode in [2, 3] {
                    let vip = format!("{vip}{mode}{close}:{port}");
                    let about = packet(&vip, client, tcp);
                    let to = addr(&vip).ip().to_string();
                    let kind = errors(about.src.is_ipv4())[1];
                    let error = Icmp::new(router, &to, kind, &quote(&about, 200));
                    let sent = error.clone().leaves(lab::backend_mac(7), lab::LAN_MAC).build();
                    let expected = if mode == 2 {
                        sent
                    } else {
                        let tos = if about.src.is_ipv4() { 0xc0 } else { 0xba };
                        in_tunnel(&world.settings, &packet(client, &vip, tcp), &sent, 14, tos)
                    };
                    becomes(both, &error.build(), Reason::ForwardIcmp, &[], &expected);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn errors_about_nothing_of_ours_pass() -> Result<()> {
    Both::run(&world(), |both| {
        let about = Frame::tcp("192.0.2.10:80", CLIENT4, ACK);
        let error = Icmp::new("198.51.100.1", "192.0.2.10", [3, 4], &quote(&about, 28));
        for kind in [[5, 0], [4, 0], [13, 0], [0, 0]] {
            both.stays(&error.clone().with(|f| f.kind = kind).build(), Reason::Icmp);
        }
        for frame in [
            // Not sent by whom the error goes to.
            Frame::tcp("192.0.2.11:80", CLIENT4, ACK),
            // The relay's, nobody's, and not the protocol's.
            Frame::tcp("192.0.2.10:443", CLIENT4, ACK),
            Frame::tcp("192.0.2.10:79", CLIENT4, ACK),
            Frame::udp("192.0.2.10:80", CLIENT4),
            // A later fragment has no ports.
            about.clone().with(|f| f.fragment = 0x0010),
        ] {
            let error = error.clone().with(|f| f.body = quote(&frame, 28));
            both.stays(&error.build(), Reason::Icmp);
        }
        for body in [
            quote(&about, 27),
            vec![],
            vec![0x45; 10],
            [&[0x44], &quote(&about, 28)[1..]].concat(),
            [&[0x65], &quote(&about, 28)[1..]].concat(),
            [&quote(&about, 28)[..9], &[1], &quote(&about, 28)[10..]].concat(),
        ] {
            both.stays(&error.clone().with(|f| f.body = body).build(), Reason::Icmp);
        }
        let six = Frame::tcp("[2001:db8:2::10]:80", CLIENT6, ACK);
        let error6 = Icmp::new("2001:db8:c::1", "2001:db8:2::10", [1, 4], &quote(&six, 47));
        both.stays(&error6.build(), Reason::Icmp);
        let chain = six.with(|f| f.extensions = vec![(60, vec![0; 8])]);
        let error6 = error6.with(|f| f.body = quote(&chain, 56));
        both.stays(&error6.build(), Reason::Icmp);
        let later = chain.with(|f| f.extensions = vec![(44, vec![0, 0, 0, 8, 0, 0, 0, 9])]);
        both.stays(&error6.with(|f| f.body = quote(&later, 56)).build(), Reason::Icmp);
        // Not to be forwarded.
        both.stays(&error.clone().with(|f| f.hops = 1).build(), Reason::TtlExpired);
        let dead = Frame::tcp("192.0.2.10:95", CLIENT4, ACK);
        let error = error.with(|f| f.body = quote(&dead, 28));
        both.stays(&error.build(), Reason::NoBackend);
        // About connections of the box itself.
        let own = Frame::tcp("10.9.0.254:50000", "10.9.0.1:8080", ACK);
        let error = Icmp::new("10.9.0.1", "10.9.0.254", [3, 3], &quote(&own, 28));
        both.asks(&error.build(), Reason::ReturnLocal);
        Ok(())
    })
}

#[test]
fn fragments_follow_their_first() -> Result<()> {
    let world = world();
    Both::run(&world, |both| {
        let recorded = [Note::FragmentRecorded];
        for (client, vip, backend, n, tcp) in NAT {
            let [first, later] = pieces(&packet(client, vip, tcp), n);
            both.stays(&later.build(), Reason::Fragment);
            both.becomes(
                &first,
                Reason::ForwardNat,
                &recorded,
                &to_backend(&first, n, backend),
            );
            let ends = Some((client, backend));
            let expected = moved(&later, ends, lab::backend_mac(n), lab::LAN_MAC);
            for _ in 0..2 {
                becomes(both, &later.build(), Reason::ForwardNat, &[], &expected);
            }
            both.stays(&later.clone().with(|f| f.hops = 1).build(), Reason::TtlExpired);
            let [_, other] = pieces(&packet(client, vip, tcp), n + 10);
            if addr(vip).is_ipv6() {
                both.stays(&other.build(), Reason::Fragment);
            }

            let [first, later] = pieces(&packet(backend, client, tcp), n + 20);
            both.stays(&later.build(), Reason::Fragment);
            both.becomes(&first, Reason::ReturnNat, &recorded, &to_client(&first, vip));
            let ends = Some((vip, client));
            let expected = moved(&later, ends, lab::GATEWAY_MAC, lab::WAN_MAC);
            becomes(both, &later.build(), Reason::ReturnNat, &[], &expected);
        }
        for (client, vip) in [
            (CLIENT4, "192.0.2.12:80"),
            (CLIENT6, "[2001:db8:2::12]:80"),
            (CLIENT4, "192.0.2.12:53"),
            (CLIENT6, "[2001:db8:2::12]:53"),
        ] {
            let tcp = vip.ends_with("80");
            let [first, later] = pieces(&packet(client, vip, tcp), 50 + u8::from(tcp));
            for (frame, notes) in [(first, &recorded[..]), (later, &[])] {
                let expected = moved(&frame, None, lab::backend_mac(7), lab::LAN_MAC);
                becomes(both, &frame.build(), Reason::ForwardDsr, notes, &expected);
            }
        }
        for (client, vip) in [(CLIENT4, "192.0.2.13:53"), (CLIENT6, "[2001:db8:2::13]:53")] {
            let whole = Frame::udp(client, vip);
            let [first, later] = pieces(&whole, 5);
            let tos = if whole.src.is_ipv4() { 0 } else { 0xab };
            for (frame, notes) in [(first, &recorded[..]), (later, &[])] {
                let sent = frame.clone().with(|f| f.hops -= 1).build();
                let expected = in_tunnel(&world.settings, &whole, &sent, 14, tos);
                becomes(both, &frame.build(), Reason::ForwardIpip, notes, &expected);
            }
        }
        // The relay's and nobody's.
        for (to, reason) in [
            ("192.0.2.10:443", Reason::Relay),
            ("192.0.2.10:79", Reason::NoService),
        ] {
            let [first, later] = pieces(&Frame::tcp("198.51.100.8:7", to, ACK), 6);
            both.stays(&first.build(), reason);
            both.stays(&later.build(), Reason::Fragment);
        }
        let traffic = both.kernel.backend_traffic(3)?;
        ensure!((traffic.packets_in, traffic.packets_out) == (3, 2), "{traffic:?}");
        ensure!(both.memory.backend_traffic[&3] == traffic);
        Ok(())
    })
}

#[test]
fn a_record_of_a_fragment_is_used_for_what_it_says_and_for_a_while() -> Result<()> {
    Both::run(&world(), |both| {
        let later = Frame::udp(CLIENT4, "192.0.2.10:53").with(|f| f.fragment = 0x2010);
        let key = FragmentKey {
            src: later.src.ip().into(),
            dst: later.dst.ip().into(),
            id: u32::from_ne_bytes([0x12, 0x34, 0, 0]),
            proto: u32::from(UDP),
        };
        let record = |both: &mut Both, state: FragmentState, age: u32| -> Result<()> {
            let recorded = lab::now()?.saturating_sub(age);
            let state = FragmentState { recorded, ..state };
            both.memory.now = lab::now()?;
            both.memory.fragments.insert(key, state);
            both.kernel.record_fragment(key, state)
        };
        let source = addr("10.9.0.253:0").ip();
        let in_full = FragmentState {
            src: source.into(),
            dst: addr("10.9.0.3:0").ip().into(),
            service: 3,
            backend: 3,
            action: action::FULL_NAT,
            recorded: 0,
        };
        record(both, in_full, 5)?;
        let ends = Some(("10.9.0.253:0", "10.9.0.3:0"));
        let expected = moved(&later, ends, lab::backend_mac(3), lab::LAN_MAC);
        becomes(both, &later.build(), Reason::ForwardFullNat, &[], &expected);
        let out = FragmentState {
            src: addr("192.0.2.10:0").ip().into(),
            dst: addr(CLIENT4).ip().into(),
            action: action::FULL_NAT | fragment::OUT,
            ..in_full
        };
        record(both, out, 5)?;
        let ends = Some(("192.0.2.10:0", CLIENT4));
        let expected = moved(&later, ends, lab::GATEWAY_MAC, lab::WAN_MAC);
        becomes(both, &later.build(), Reason::ReturnFullNat, &[], &expected);
        // Too old; of a backend whose index is another's now; of no backend; of the other family.
        record(both, in_full, 35)?;
        both.stays(&later.build(), Reason::Fragment);
        record(
            both,
            FragmentState {
                backend: 1,
                ..in_full
            },
            5,
        )?;
        both.stays(&later.build(), Reason::Fragment);
        let nobody = FragmentState {
            backend: 60_000,
            ..in_full
        };
        record(both, nobody, 5)?;
        both.stays(&later.build(), Reason::Inconsistent);
        let six = FragmentState {
            src: addr(CLIENT6).ip().into(),
            ..in_full
        };
        record(both, six, 5)?;
        both.stays(&later.build(), Reason::Inconsistent);
        Ok(())
    })
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

/// A RST, with everything in its place.
fn rst(frame: &Frame, sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let mut tcp = [frame.dst.port().to_be_bytes(), frame.src.port().to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let mut out = [frame.from_mac, frame.to_mac].concat();
    for (ether_type, tci) in &frame.tags {
        out.extend(ether_type.to_be_bytes());
        out.extend(tci.to_be_bytes());
    }
    match (frame.dst.ip(), frame.src.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let addresses = [src.octets(), dst.octets()].concat();
            let check = checksum(&[&addresses, &[0, 6, 0, 20], &tcp]);
            tcp[16..18].copy_from_slice(&check.to_be_bytes());
            let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            ip.extend(&addresses);
            let check = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            out.extend([8, 0]);
            out.extend(ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let addresses = [src.octets(), dst.octets()].concat();
            let check = checksum(&[&addresses, &[0, 0, 0, 20, 0, 0, 0, 6], &tcp]);
            tcp[16..18].copy_from_slice(&check.to_be_bytes());
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            out.extend(&addresses);
        }
        _ => panic!("two families"),
    }
    out.extend(tcp);
    out
}

const SERVICES: [(&str, &str); 2] = [(CLIENT4, "192.0.2.20:80"), (CLIENT6, "[2001:db8:2::20]:80")];

/// Services of both families and protocols that reset; backends 1 and 2 of each family, and a slot.
fn resetting(slot: impl Fn(u16, u16) -> Slot, alive: bool) -> World {
    let mut world = World::new();
    world.settings = Settings {
        tcp_grace: 60,
        udp_grace: 120,
        horizon: 600,
        reply_limit: 100_000,
        ..world.settings
    };
    let dead = if alive { ALIVE } else { 0 };
    for (vip, old, new) in [
        (SERVICES[0].1, "10.9.0.1:8080", "10.9.0.2:8080"),
        (SERVICES[1].1, "[2001:db8:9::1]:8080", "[2001:db8:9::2]:8080"),
    ] {
        let (old, new) = (world.backend(old, dead), world.backend(new, ALIVE));
        for protocol in [TCP, UDP] {
            let id = world.nat(vip, protocol, &[slot(old, new)]);
            world.change(id, |s| s.flags |= service::RESET);
        }
    }
    world.resolve();
    world
}

/// From the old to the new backend, this many seconds ago.
fn changed(ago: u32) -> Result<impl Fn(u16, u16) -> Slot> {
    let changed = lab::now()?
        .checked_sub(ago)
        .context("up for less than two minutes")?;
    Ok(move |old, new| Slot {
        current: new,
        previous: old,
        changed,
    })
}

#[test]
fn flows_of_a_dead_backend_are_reset() -> Result<()> {
    let mut world = resetting(changed(4)?, false);
    for ((client, vip), backend) in SERVICES.into_iter().zip([1, 3]) {
        let state = FlowState {
            backend,
            recorded: 1,
            ..FlowState::default()
        };
        let key = flow_key(addr(client), addr(vip), TCP);
        world.flows.push((key, state));
    }
    let known = [Note::FlowLookup, Note::FlowHit];
    let closing = [Note::FlowLookup, Note::FlowHit, Note::FlowClosed];
    Both::run(&world, |both| {
        for (client, vip) in SERVICES {
            for (tags, payload) in [(vec![], 0), (vec![(0x8100, 7)], 1), (vec![(0x88a8, 1); 2], 1400)] {
                let frame = |flags| {
                    Frame::tcp(client, vip, flags).with(|f| {
                        f.tags = tags.clone();
                        f.payload = vec![7; payload];
                        f.tcp_options = vec![1; 12];
                    })
                };
                let acked = frame(ACK);
                let expected = rst(&acked, 0x0506_0708, 0, RST);
                // The first answer ends the flow.
                let notes: &[Note] = if tags.is_empty() { &closing } else { &known };
                becomes(both, &acked.build(), Reason::ResetSent, notes, &expected);
                let bare = frame(0);
                let next = 0x0102_0304 + payload as u32;
                let expected = rst(&bare, 0, next, RST | ACK);
                becomes(both, &bare.build(), Reason::ResetSent, &known, &expected);
            }
            let options = Frame::tcp(client, vip, ACK).with(|f| {
                if f.src.is_ipv4() {
                    f.options = vec![1; 40];
                } else {
                    f.extensions = vec![(60, vec![0; 8])];
                }
            });
            let expected = rst(&options, 0x0506_0708, 0, RST);
            becomes(both, &options.build(), Reason::ResetSent, &known, &expected);
            let end = Frame::tcp(client, vip, FIN).with(|f| f.payload.clear());
            let expected = rst(&end, 0, 0x0102_0305, RST | ACK);
            becomes(both, &end.build(), Reason::ResetSent, &known, &expected);
            // A RST is not answered.
            let reset = Frame::tcp(client, vip, RST).build();
            both.check(&reset, Reason::NoBackend, &known, None)?;

            for (port, payload) in (50_000..).zip([0, 1, 2, 3, 4, 5, 600, 1400]) {
                let frame = Frame::udp(client, vip).with(|f| {
                    f.src.set_port(port);
                    f.payload = vec![3; payload];
                });
                let key = flow_key(frame.src, frame.dst, UDP);
                let state = FlowState {
                    backend: if frame.src.is_ipv4() { 1 } else { 3 },
                    recorded: 1,
                    ..FlowState::default()
                };
                both.kernel.record_flow(key, state)?;
                both.memory.flows.insert(key, state);
                let v4 = frame.src.is_ipv4();
                let (kind, most) = if v4 { ([3, 3], 548) } else { ([1, 4], 1232) };
                let whole = frame.build().len() - 14;
                let answer = Icmp::answers(&frame, kind, [0; 4], most.min(whole) & !3);
                becomes(
                    both,
                    &frame.build(),
                    Reason::UnreachableSent,
                    &known,
                    &answer.build(),
                );
                // What comes next is a new try, and taken by the backend that there is now.
                let backend = if v4 {
                    "10.9.0.2:8080"
                } else {
                    "[2001:db8:9::2]:8080"
                };
                both.becomes(
                    &frame,
                    Reason::ForwardNat,
                    &known,
                    &to_backend(&frame, 2, backend),
                );
            }
        }
        Ok(())
    })
}

/// A backend dies under its flows, step by step as control writes it.
#[test]
fn resets_through_the_rings_changes() -> Result<()> {
    Both::run(&resetting(|old, _| stable(old), true), |both| {
        let known = [Note::FlowLookup, Note::FlowHit];
        let (recorded, unrecorded) = ("198.51.100.7:1", "198.51.100.7:2");
        let vip = SERVICES[0].1;
        let of = |client: &str, flags| Frame::tcp(client, vip, flags);
        let syn = of(recorded, SYN);
        let to_old = |frame: &Frame| to_backend(frame, 1, "10.9.0.1:8080");
        let to_new = |frame: &Frame| to_backend(frame, 2, "10.9.0.2:8080");
        both.becomes(&syn, Reason::ForwardNat, &[Note::FlowRecorded], &to_old(&syn));
        let set_alive = |both: &mut Both, alive: bool| -> Result<()> {
            let mut backend = both.memory.backends[1];
            backend.flags = if alive { ALIVE } else { 0 };
            both.memory.backends[1] = backend;
            both.kernel.backend(1, backend)
        };
        // Dead, and the ring does not say so yet: the packet is lost.
        set_alive(both, false)?;
        both.stays(&of(recorded, ACK).build(), Reason::NoBackend);
        // The ring says so.
        for (ago, in_grace) in [(4, true), (100, false)] {
            let slot = changed(ago)?(1, 2);
            both.kernel.ring(0, &[slot])?;
            both.memory.rings[0] = slot;
            both.memory.now = lab::now()?;
            let ack = of(recorded, ACK);
            let expected = rst(&ack, 0x0506_0708, 0, RST);
            // The first answer ends the flow, so that it counts no more.
            let notes = &[Note::FlowLookup, Note::FlowHit, Note::FlowClosed][..if in_grace { 3 } else { 2 }];
            becomes(both, &ack.build(), Reason::ResetSent, notes, &expected);
            let ack = of(unrecorded, ACK);
            let expected = rst(&ack, 0x0506_0708, 0, RST);
            if in_grace {
                becomes(both, &ack.build(), Reason::ResetSent, &known[..1], &expected);
            } else {
                both.becomes(&ack, Reason::ForwardNat, &known[..1], &to_new(&ack));
            }
        }
        // It comes back before the client has given up: the flow goes on.
        set_alive(both, true)?;
        let ack = of(recorded, ACK);
        both.becomes(&ack, Reason::ForwardNat, &known, &to_old(&ack));
        // The client tries anew, on the same tuple.
        set_alive(both, false)?;
        both.becomes(&syn, Reason::ForwardNat, &[Note::FlowRecorded], &to_new(&syn));
        both.becomes(&ack, Reason::ForwardNat, &known, &to_new(&ack));
        Ok(())
    })
}

#[test]
fn errors_follow_the_flow_rule_and_record_nothing() -> Result<()> {
    let mut world = resetting(changed(4)?, true);
    let (client, vip) = SERVICES[0];
    let (kept, fresh) = ("198.51.100.7:1", "198.51.100.7:2");
    let state = FlowState {
        backend: 2,
        recorded: 1,
        ..FlowState::default()
    };
    world.flows.push((flow_key(addr(kept), addr(vip), TCP), state));
    Both::run(&world, |both: &mut Both| {
        for (client, tcp, n, backend) in [
            (kept, true, 2, "10.9.0.2:8080"),
            (fresh, true, 1, "10.9.0.1:8080"),
            (client, false, 1, "10.9.0.1:8080"),
        ] {
            let about = packet(vip, client, tcp);
            let error = Icmp::new("198.51.100.1", "192.0.2.20", [3, 4], &quote(&about, 28));
            let expected = error
                .clone()
                .with(|f| {
                    f.dst = addr(backend).ip();
                    f.body = quote(&between(&about, backend, client), 28);
                })
                .leaves(lab::backend_mac(n), lab::LAN_MAC);
            becomes(both, &error.build(), Reason::ForwardIcmp, &[], &expected.build());
        }
        ensure!(both.kernel.flows()?.len() == 1 && both.memory.flows.len() == 1);
        Ok(())
    })
}
