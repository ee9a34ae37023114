//! Leases of virtual routers: what is for an address whose lease has run out is dropped, whatever it is, and answers do not
//! carry it out; while it holds, or where there is none, everything is as ever. In the kernel and on the host.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use weir_abi::{
    Addr16, NatSource, Note, Reason, ReturnVip, Service,
    maps::{action, backend::ALIVE, backend::SHARED, returns, settings},
};
use weir_dataplane_tests::{
    Both, Frame, Icmp, Kernel, World,
    frame::{ACK, SYN, pieces},
    icmp::quote,
    kernel::{flow_key, service_key},
    lab,
    world::{LAG, TCP, UDP, addr, stable},
};

/// One family's addresses, without ports.
struct Family {
    client: &'static str,
    vip: &'static str,
    /// Another virtual address, of no group.
    other: &'static str,
    /// Backends: by `nat`, `nat` and shared, `full-nat`, `dsr`, `ipip`.
    backends: [&'static str; 5],
    source: &'static str,
    echo: [u8; 2],
    /// Type and code of an error: port unreachable.
    error: [u8; 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "198.51.100.7",
        vip: "192.0.2.10",
        other: "192.0.2.11",
        backends: ["10.9.0.1", "10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5"],
        source: "10.9.0.200",
        echo: [8, 0],
        error: [3, 3],
    },
    Family {
        client: "2001:db8:c::7",
        vip: "2001:db8:2::10",
        other: "2001:db8:2::11",
        backends: [
            "2001:db8:9::1",
            "2001:db8:9::2",
            "2001:db8:9::3",
            "2001:db8:9::4",
            "2001:db8:9::5",
        ],
        source: "2001:db8:9::200",
        echo: [128, 0],
        error: [1, 4],
    },
];

/// An address with a port.
fn at(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// Ports of services by mode, of TCP and UDP alike.
const NAT: u16 = 1;
const SHARING: u16 = 2;
const FULL_NAT: u16 = 3;
// `dsr` and `ipip`: 4 and 5.
const RELAY: u16 = 6;
const NOBODYS: u16 = 7;

/// Every mode at both virtual addresses.
fn world(family: &Family) -> World {
    let mut world = World::new();
    world.settings.reply_limit = 100_000;
    world.settings.nat_tcp_idle = 3600;
    world.settings.nat_udp_idle = 3600;
    world.settings.nat_time_wait = 60;
    for (n, mode) in [
        action::NAT,
        action::NAT,
        action::FULL_NAT,
        action::DSR,
        action::IPIP,
    ]
    .into_iter()
    .enumerate()
    {
        let port = NAT + n as u16;
        let shares = port == SHARING;
        let flags = if shares { ALIVE | SHARED } else { ALIVE };
        let index = world.backend(&at(family.backends[n], 0), flags);
        for protocol in [TCP, UDP] {
            for vip in [family.vip, family.other] {
                let id = world.service(mode, &at(vip, port), protocol, &[stable(index)]);
                if mode == action::FULL_NAT {
                    let first = 20_000 + 100 * id;
                    let addr = addr(&at(family.source, 0)).ip().into();
                    world.sources(
                        id,
                        1,
                        &[NatSource {
                            addr,
                            first,
                            count: 20,
                        }],
                    );
                }
            }
            if mode == action::NAT {
                let flags = if shares { returns::SHARED } else { 0 };
                let (from, vip) = (at(family.backends[n], port), at(family.vip, port));
                world.answers(&from, protocol, &vip, u32::from(port), index, flags);
            }
        }
    }
    for vip in [family.vip, family.other] {
        world.address(&at(vip, 0), true);
        for protocol in [TCP, UDP] {
            let relay = Service {
                id: 400,
                action: action::RELAY,
                ..Service::default()
            };
            let key = service_key(addr(&at(vip, RELAY)), protocol);
            world.services.push((key, relay));
        }
    }
    world.resolve();
    world
}

/// A neighbor solicitation for an address, to another. `option`: behind destination options.
fn solicitation(family: &Family, to: &str, target: &str, option: bool) -> Vec<u8> {
    let target = Addr16::from(addr(&at(target, 0)).ip()).octets();
    let mut body = target.to_vec();
    body.extend([1, 1, 2, 0, 0, 0, 0, 1]);
    let mut frame = Icmp::new(family.client, to, [135, 0], &body)
        .with(|f| f.hops = 255)
        .build();
    if option {
        // A header of padding, before the message: its checksum stays.
        let [hi, lo] = (frame.len() as u16 - 54 + 8).to_be_bytes();
        frame[18..21].copy_from_slice(&[hi, lo, 60]);
        frame.splice(54..54, [58, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame
}

/// ARP: operation, sender and target.
fn arp(operation: u8, sender: &str, target: &str, tags: usize) -> Vec<u8> {
    let ip = |text: &str| Addr16::from(addr(&at(text, 0)).ip()).v4_word().to_ne_bytes();
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    for _ in 0..tags {
        frame.extend([0x81, 0, 0, 7]);
    }
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1]);
    frame.extend(ip(sender));
    frame.extend([0; 6]);
    frame.extend(ip(target));
    frame
}

/// The group that a neighbor solicitation for an address goes to (RFC 4291 section 2.7.1).
fn solicited(address: &str) -> String {
    let octets = Addr16::from(addr(&at(address, 0)).ip()).octets();
    format!(
        "ff02::1:ff{:02x}:{:02x}{:02x}",
        octets[13], octets[14], octets[15]
    )
}

/// Whatever may be answered for an address, with names.
fn requests(family: &Family, vip: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let client = at(family.client, 40_000);
    for port in NAT..=NOBODYS {
        let to = at(vip, port);
        let tcp = |flags| Frame::tcp(&client, &to, flags);
        all.push((format!("SYN to {to}"), tcp(SYN).build()));
        all.push((format!("ACK to {to}"), tcp(ACK).build()));
        let udp = Frame::udp(&client, &to);
        all.push((format!("datagram to {to}"), udp.build()));
        for tags in [vec![(0x8100, 7)], vec![(0x88a8, 7), (0x8100, 8)]] {
            let tagged = udp.clone().with(|f| f.tags = tags.clone());
            all.push((format!("to {to} with tags {tags:?}"), tagged.build()));
        }
        for (piece, name) in pieces(&udp, port as u8).iter().zip(["first", "later"]) {
            all.push((format!("{name} fragment to {to}"), piece.build()));
        }
        if family.client.contains(':') {
            let options = tcp(SYN).with(|f| f.extensions.push((60, vec![0, 0, 1, 4, 0, 0, 0, 0])));
            all.push((format!("SYN with extension header to {to}"), options.build()));
        } else {
            let options = tcp(SYN).with(|f| f.options = vec![1; 4]);
            all.push((format!("SYN with options to {to}"), options.build()));
        }
        // What the VIP sent and did not arrive.
        let sent = Frame::udp(&to, &client);
        let error = Icmp::new(family.client, vip, family.error, &quote(&sent, 100));
        all.push((format!("error about {to}"), error.build()));
    }
    let echo = Icmp::new(family.client, vip, family.echo, b"ping");
    all.push(("echo request".into(), echo.build()));
    let mut other = echo.with(|f| f.kind = [13, 0]);
    all.push(("another request".into(), other.build()));
    other.tags = vec![(0x8100, 7)];
    all.push(("the same with a tag".into(), other.build()));
    if family.client.contains(':') {
        for (to, name) in [
            (solicited(vip), "group"),
            (vip.into(), "address"),
            ("fe80::1".into(), "another address"),
        ] {
            for option in [false, true] {
                let name = format!("solicitation to the {name}, option: {option}");
                all.push((name, solicitation(family, &to, vip, option)));
            }
        }
    } else {
        for tags in 0..3 {
            let name = |what| format!("ARP {what} with {tags} tags");
            all.push((name("request"), arp(1, family.client, vip, tags)));
            all.push((name("probe"), arp(1, "0.0.0.0", vip, tags)));
        }
    }
    all
}

/// What is not for the address, or is another's word about it, with the reason it has in any case.
fn others(family: &Family) -> Vec<(&'static str, Vec<u8>, Reason)> {
    let (client, vip) = (at(family.client, 40_000), at(family.vip, 40_000));
    let from = Frame::udp(&vip, &client).build();
    let mut advert = Frame::udp(&client, &vip).build();
    let protocol_at = if family.client.contains(':') { 20 } else { 23 };
    advert[protocol_at] = 112;
    let mut all = vec![("from the new master", from, Reason::NoService)];
    if family.client.contains(':') {
        let announced = Icmp::new(family.vip, "ff02::1", [136, 0], &[0; 24]).build();
        all.push(("an announcement", announced, Reason::Icmp));
        let other = solicitation(family, "ff02::1:ff00:fe", "2001:db8:2::fe", true);
        all.push(("a solicitation for another", other, Reason::NoService));
        all.push(("an advert", advert, Reason::OtherProtocol));
    } else {
        let (client, vip) = (family.client, family.vip);
        all.push(("an announcement", arp(1, vip, vip, 0), Reason::NotIp));
        all.push(("an answer", arp(2, vip, vip, 0), Reason::NotIp));
        all.push(("an answer to it", arp(2, client, vip, 0), Reason::NotIp));
        all.push(("for another", arp(1, client, family.other, 1), Reason::NotIp));
        all.push((
            "half of ARP",
            arp(1, client, vip, 0)[..40].to_vec(),
            Reason::NotIp,
        ));
        all.push(("an advert", advert, Reason::OtherProtocol));
    }
    all
}

/// What became of frames, with both sides in agreement.
fn become_of(both: &mut Both, frames: &[(String, Vec<u8>)]) -> Result<Vec<Reason>> {
    let verdicts = frames.iter().map(|(name, frame)| {
        both.verdict(frame)
            .with_context(|| format!("{name}: {frame:02x?}"))
    });
    verdicts.collect()
}

/// An hour from now, and a nanosecond after the clock began.
fn open() -> Result<u64> {
    Ok((u64::from(lab::now()?) + 3600) * 1_000_000_000)
}

const LAPSED: [u64; 2] = [0, 1];

#[test]
fn nothing_is_answered_for_an_address_whose_lease_has_run_out() -> Result<()> {
    for family in &FAMILIES {
        let requests = requests(family, family.vip);
        let elsewhere = self::requests(family, family.other);
        let mut world = world(family);
        world.lease(family.vip, open()?);
        let with_groups = world.settings;
        // At first no group is known of: the programs do not ask.
        world.settings.flags &= !settings::LEASES;
        Both::run(&world, |both| {
            let without = become_of(both, &requests)?;
            for reason in [
                Reason::ForwardNat,
                Reason::ForwardFullNat,
                Reason::ForwardDsr,
                Reason::ForwardIpip,
                Reason::ForwardIcmp,
                Reason::Relay,
                Reason::NoService,
                Reason::EchoReply,
            ] {
                ensure!(
                    without.contains(&reason),
                    "no {} among the requests",
                    reason.name()
                );
            }

            both.memory.settings = with_groups;
            both.kernel.settings(with_groups)?;
            let with = become_of(both, &requests)?;
            for ((name, _), (with, without)) in requests.iter().zip(with.iter().zip(&without)) {
                ensure!(with == without, "{name}: {} under a lease", with.name());
            }

            for until in LAPSED {
                set(both, until)?;
                both.memory.asked.exact_clock = 0;
                for (name, frame) in &requests {
                    both.check(frame, Reason::NotMaster, &[], None)
                        .with_context(|| format!("{name}: {frame:02x?}"))?;
                }
                for (name, frame, reason) in others(family) {
                    both.check(&frame, reason, &[], None)
                        .with_context(|| format!("{name}: {frame:02x?}"))?;
                }
                // The address beside it is as if there was none.
                let beside = become_of(both, &elsewhere)?;
                ensure!(!beside.contains(&Reason::NotMaster), "{}", family.other);
                let asked = both.memory.asked.exact_clock;
                ensure!((asked == 0) == (until == 0), "{asked} looks at the clock");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Sets the lease of a world's only group, on both sides.
fn set(both: &mut Both, until: u64) -> Result<()> {
    both.memory.leases.insert(1, until);
    both.kernel.lease(1, until)
}

#[test]
fn answers_of_backends_do_not_carry_the_address_out() -> Result<()> {
    for family in &FAMILIES {
        let mut world = world(family);
        world.lease(family.vip, open()?);
        Both::run(&world, |both| {
            let client = at(family.client, 40_000);
            let [nat, shared, full_nat, ..] = family.backends;
            // What was begun while the lease held.
            for port in [NAT, SHARING, FULL_NAT] {
                for frame in [
                    Frame::tcp(&client, &at(family.vip, port), SYN),
                    Frame::udp(&client, &at(family.vip, port)),
                ] {
                    let reason = both.verdict(&frame.build())?;
                    ensure!(
                        reason == Reason::ForwardNat || reason == Reason::ForwardFullNat,
                        "{frame:?}"
                    );
                }
            }
            let mut replies = Vec::new();
            for (from, port, to) in [(nat, NAT, &client), (shared, SHARING, &client)] {
                let from = at(from, port);
                replies.push((Frame::tcp(&from, to, SYN | ACK), Reason::ReturnNat));
                replies.push((Frame::udp(&from, to), Reason::ReturnNat));
            }
            let translated = both.memory.nat_replies.clone();
            ensure!(translated.len() == 2, "two flows by full-nat");
            for key in translated.keys() {
                let [.., d0, d1] = key.ports.to_ne_bytes();
                let to = at(family.source, u16::from_be_bytes([d0, d1]));
                let from = at(full_nat, FULL_NAT);
                let reply = match key.proto as u8 {
                    TCP => Frame::tcp(&from, &to, SYN | ACK),
                    _ => Frame::udp(&from, &to),
                };
                replies.push((reply, Reason::ReturnFullNat));
            }
            // Whole; in pieces, with and without tags; and errors about what the client has sent there.
            let mut frames = Vec::new();
            for (n, (reply, reason)) in (10..).zip(&replies) {
                frames.push((reply.build(), *reason));
                let tagged = reply.clone().with(|f| f.tags = vec![(0x8100, 9)]);
                frames.push((tagged.build(), *reason));
                if reply.tcp.is_none() {
                    frames.extend(pieces(reply, n).map(|piece| (piece.build(), *reason)));
                }
                let received = reply.clone().with(|f| std::mem::swap(&mut f.src, &mut f.dst));
                let (src, dst) = (reply.src.ip().to_string(), reply.dst.ip().to_string());
                let error = Icmp::new(&src, &dst, family.error, &quote(&received, 100));
                frames.push((error.build(), Reason::ReturnIcmp));
            }
            let check = |both: &mut Both, is_open: bool| -> Result<()> {
                for (frame, reason) in &frames {
                    let found = both.verdict(frame)?;
                    let expected = if is_open { *reason } else { Reason::NotMaster };
                    ensure!(
                        found == expected,
                        "{} instead of {}: {frame:02x?}",
                        found.name(),
                        expected.name()
                    );
                }
                Ok(())
            };
            check(both, true)?;
            for until in LAPSED {
                set(both, until)?;
                check(both, false)?;
            }
            set(both, open()?)?;
            check(both, true)?;
            // What is for the box itself passes whatever the lease.
            set(both, 0)?;
            let own = if family.client.contains(':') {
                "2001:db8:2::1"
            } else {
                "192.0.2.1"
            };
            let check = Frame::tcp(&at(nat, NAT), &at(own, 40_001), ACK);
            both.asks(&check.build(), Reason::ReturnLocal);
            Ok(())
        })?;
    }
    Ok(())
}

/// The exact clock decides near the end, where the coarse one cannot tell: a moment before it is open, a moment after not.
#[test]
fn a_lease_ends_when_it_says() -> Result<()> {
    let family = &FAMILIES[0];
    let mut world = world(family);
    world.lease(family.vip, 0);
    let ping = Icmp::new(family.client, family.vip, family.echo, b"ping").build();
    Both::run(&world, |both| {
        let until = 1_000 * LAG;
        both.memory.leases.insert(1, until);
        for (clock, behind, reason, exact) in [
            (until - LAG - 1, 0, Reason::EchoReply, 0),
            (until - LAG, 0, Reason::EchoReply, 1),
            (until - 1, 0, Reason::EchoReply, 1),
            (until, 0, Reason::NotMaster, 1),
            (until + 1, 0, Reason::NotMaster, 1),
            (u64::MAX - LAG, 0, Reason::NotMaster, 1),
            // However late the coarse clock is.
            (until - 1, LAG, Reason::EchoReply, 0),
            (until, LAG, Reason::NotMaster, 1),
        ] {
            both.memory.clock = clock;
            both.memory.coarse_behind = behind;
            both.memory.asked.exact_clock = 0;
            let outcome = weir_fastpath::handle(&mut ping.clone(), &mut both.memory);
            ensure!(outcome.reason == reason, "{} at {clock}", outcome.reason.name());
            let asked = both.memory.asked.exact_clock;
            ensure!(
                asked == exact,
                "the exact clock was asked {asked} times at {clock}"
            );
        }
        // In the kernel: open as long as it was surely so, shut once it surely was.
        let clock = || -> Result<u64> {
            let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
            Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
        };
        let until = clock()? + LAG;
        both.kernel.lease(1, until)?;
        let answers = |kernel: &Kernel| -> Result<u64> {
            kernel.run(&ping)?;
            Ok(kernel.counters()?.reason(Reason::EchoReply))
        };
        both.kernel.clear_counters()?;
        for run in 0.. {
            let before = clock()?;
            let answered = answers(&both.kernel)?;
            let after = clock()?;
            ensure!(
                answered == run + 1 || after >= until,
                "shut {} ns early",
                until - after
            );
            if answered == run {
                break;
            }
            ensure!(before < until, "answered {} ns late", before - until);
        }
        let shut = both.kernel.counters()?;
        ensure!(shut.reason(Reason::NotMaster) == 1, "{shut:?}");
        Ok(())
    })
}

#[test]
fn adverts_are_handed_out_where_control_listens() -> Result<()> {
    for (client, group, own) in [
        ("192.0.2.7", "224.0.0.18", "192.0.2.1"),
        ("fe80::7", "ff02::12", "fe80::1"),
    ] {
        let mut world = World::new();
        world.hear(group);
        world.hear(own);
        // Hearing has nothing to do with the lease.
        world.lease(own, 0);
        let advert = |to: &str, tags: usize| {
            let mut frame = Frame::udp(&at(client, 1), &at(to, 2)).with(|f| {
                f.tags = vec![(0x8100, 3); tags];
                f.hops = 255;
            });
            frame.payload = vec![0x31; 40];
            let (at, mut frame) = (frame.network_at(), frame.build());
            frame[at + if client.contains(':') { 6 } else { 9 }] = 112;
            frame
        };
        Both::run(&world, |both| {
            for to in [group, own] {
                let frame = advert(to, 0);
                both.stays(&frame, Reason::Advert);
                let handed = both.kernel.adverts()?;
                ensure!(handed.len() == 1, "{} adverts", handed.len());
                let (record, bytes) = &handed[0];
                ensure!(*bytes == frame, "{bytes:02x?}");
                let ago = u64::from(lab::now()?) - record.time / 1_000_000_000;
                ensure!(ago <= 5 && record.ifindex == 1, "{record:?}");
                // Another interface's, which has the tag.
                let passes = both.verdict(&advert(to, 1))?;
                ensure!(passes.verdict() == weir_abi::Verdict::Pass, "{}", passes.name());
            }
            let other = if client.contains(':') {
                "fe80::9"
            } else {
                "192.0.2.9"
            };
            let passes = both.verdict(&advert(other, 0))?;
            ensure!(passes.verdict() == weir_abi::Verdict::Pass, "{}", passes.name());
            ensure!(both.kernel.adverts()?.is_empty());
            let elsewhere = both.kernel.run_from(&advert(group, 0), Some(lab::LAN))?;
            ensure!(
                elsewhere.verdict == 2,
                "handed out of an interface where nobody listens"
            );

            // Nobody fetches them: what has no room goes up to the stack.
            both.kernel.clear_counters()?;
            let mut run = 0;
            while both.kernel.counters()?.note(Note::AdvertLost) == 0 {
                both.kernel.run(&advert(group, 0))?;
                run += 1;
                ensure!(run < 10_000, "no end of room");
            }
            let room = both.kernel.counters()?.reason(Reason::Advert);
            ensure!(room == run - 1 && room > 500, "{room} of {run}");
            both.memory.room_for_adverts = 0;
            both.check(
                &advert(group, 0),
                Reason::OtherProtocol,
                &[Note::AdvertLost],
                None,
            )?;
            ensure!(both.kernel.adverts()?.len() as u64 == room);
            Ok(())
        })?;
    }
    Ok(())
}

/// A flow whose VIP cannot be told is nobody's, before its lease is asked for.
#[test]
fn an_answer_of_a_shared_backend_has_the_lease_of_its_flow() -> Result<()> {
    let family = &FAMILIES[0];
    let mut world = world(family);
    world.lease(family.vip, 0);
    Both::run(&world, |both| {
        let client = at(family.client, 40_000);
        let reply = Frame::tcp(&at(family.backends[1], SHARING), &client, ACK);
        both.stays(&reply.build(), Reason::NoService);
        let key = flow_key(reply.src, reply.dst, TCP);
        for (vip, reason) in [(family.other, Reason::ReturnNat), (family.vip, Reason::NotMaster)] {
            let vip = ReturnVip {
                vip: addr(&at(vip, 0)).ip().into(),
                ..ReturnVip::default()
            };
            both.memory.return_flows.insert(key, vip);
            both.kernel.record_return_flow(key, vip)?;
            let found = both.verdict(&reply.build())?;
            ensure!(found == reason, "{}", found.name());
        }
        Ok(())
    })
}
