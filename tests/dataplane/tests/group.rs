//! Link addresses of virtual routers: what is to one is as what is to the interface's own, while the lease holds; and where
//! several boxes have one, each serves its share of the clients. In the kernel and on the host.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use weir_abi::{
    Addr16, GroupLink, LinkKey, Reason, Service,
    maps::{action, backend::ALIVE, lease::SLOT_BITS, link::SHARES, settings},
};
use weir_dataplane_tests::{
    Both, Frame, Icmp, World,
    frame::{ACK, SYN},
    icmp::quote,
    kernel::service_key,
    lab,
    world::{TCP, UDP, addr, stable},
};
use weir_fastpath::{handle, hash::share_of, tables::Socket};

const VIRTUAL: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];
const SHARED: [u8; 6] = [3, 0, 0x5e, 0, 1, 51];
const OWN: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Words of `LEASES`: of both shares, of all, and of other boxes.
const FIRST: u32 = 1;
const SECOND: u32 = 2;
const WHOLE: u32 = 3;
const OTHERS: u32 = 4;
const NAT: u16 = 1;
const RELAY: u16 = 2;
const NOBODYS: u16 = 3;

struct Family {
    vip: &'static str,
    backend: &'static str,
    /// One that is nobody's.
    beyond: &'static str,
    /// Type and code of an error: too big.
    error: [u8; 2],
}

const FAMILIES: [Family; 2] = [
    Family {
        vip: "192.0.2.10",
        backend: "10.9.0.1",
        beyond: "203.0.113.9",
        error: [3, 4],
    },
    Family {
        vip: "2001:db8:2::10",
        backend: "2001:db8:9::1",
        beyond: "2001:db8:f::9",
        error: [2, 0],
    },
];

fn at(address: &str, port: u16) -> String {
    match address.parse() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

fn client(family: &Family, n: u8) -> String {
    match family.vip.contains(':') {
        true => format!("2001:db8:c::{n:x}"),
        false => format!("198.51.100.{n}"),
    }
}

fn world(family: &Family) -> World {
    let mut world = World::new();
    let index = world.backend(&at(family.backend, 0), ALIVE);
    for protocol in [TCP, UDP] {
        world.service(action::NAT, &at(family.vip, NAT), protocol, &[stable(index)]);
        world.answers(
            &at(family.backend, NAT),
            protocol,
            &at(family.vip, NAT),
            0,
            index,
            0,
        );
        let relay = Service {
            id: 400,
            action: action::RELAY,
            ..Service::default()
        };
        let key = service_key(addr(&at(family.vip, RELAY)), protocol);
        world.services.push((key, relay));
    }
    world.settings.flags |= settings::LEASES;
    world.resolve();
    world
}

fn words(mac: [u8; 6]) -> [u16; 3] {
    let [a, b, c, d, e, f] = mac;
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

/// Gives the VIP a link address, on both sides.
fn link(both: &mut Both, family: &Family, mac: [u8; 6], shares: u32) -> Result<()> {
    let mut slots = [0; SHARES];
    slots[0] = FIRST;
    slots[1] = if shares > 1 { SECOND } else { 0 };
    let entry = GroupLink {
        ifindex: 1,
        flags: 0,
        mac: words(mac),
        own: words(OWN),
        shares,
        others: if shares > 1 { OTHERS } else { 0 },
        slots,
    };
    let key = LinkKey {
        mac: words(mac),
        reserved: 0,
        ifindex: 1,
    };
    let vip = Addr16::from(addr(&at(family.vip, 0)).ip());
    let value = if shares > 1 { WHOLE } else { FIRST } | 1 << SLOT_BITS;
    both.memory.linked.insert(key.mac, 1);
    both.memory.links.insert(1, entry);
    both.memory.leased.insert(vip, value);
    both.kernel.linked(key, 1)?;
    both.kernel.group_link(1, entry)?;
    both.kernel.leased(vip, value)
}

fn set(both: &mut Both, slot: u32, until: u64) -> Result<()> {
    both.memory.leases.insert(slot, until);
    both.kernel.lease(slot, until)
}

fn open() -> Result<u64> {
    Ok((u64::from(lab::now()?) + 3600) * 1_000_000_000)
}

fn to(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

/// A question where the VIP is.
fn question(family: &Family, asker: &str, mac: [u8; 6]) -> Vec<u8> {
    let octets = |text: &str| Addr16::from(addr(&at(text, 0)).ip()).octets();
    if family.vip.contains(':') {
        let mut body = octets(family.vip).to_vec();
        body.extend([1, 1, 2, 0, 0, 0, 0, 1]);
        let frame = Icmp::new(asker, family.vip, [135, 0], &body).with(|f| f.hops = 255);
        return to(mac, frame.build());
    }
    let mut frame = mac.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
    frame.extend(&octets(asker)[12..]);
    frame.extend([0; 6]);
    frame.extend(&octets(family.vip)[12..]);
    frame
}

/// It goes up, for the stack to answer.
fn answered(family: &Family) -> Reason {
    if family.vip.contains(':') {
        Reason::Icmp
    } else {
        Reason::NotIp
    }
}

#[test]
fn a_virtual_link_address_is_as_the_own_one_while_the_lease_holds() -> Result<()> {
    for family in &FAMILIES {
        Both::run(&world(family), |both| {
            link(both, family, VIRTUAL, 1)?;
            let from = at(&client(family, 7), 40_000);
            let mut frames = Vec::new();
            for port in [NAT, RELAY, NOBODYS] {
                for frame in [
                    Frame::tcp(&from, &at(family.vip, port), SYN),
                    Frame::tcp(&from, &at(family.vip, port), ACK),
                    Frame::udp(&from, &at(family.vip, port)),
                ] {
                    frames.push(frame.build());
                }
            }
            frames.push(Frame::tcp(&at(family.backend, NAT), &from, ACK).build());
            frames.push(Frame::udp(&from, &at(family.beyond, 9)).build());
            set(both, FIRST, open()?)?;
            for frame in &frames {
                let own = both.verdict(&to(OWN, frame.clone()))?;
                let mut expected = to(OWN, frame.clone());
                handle(&mut expected, &mut both.memory);
                let through = both.verdict(&to(VIRTUAL, frame.clone()))?;
                ensure!(through == own, "{} and {}", through.name(), own.name());
                let mut out = to(VIRTUAL, frame.clone());
                handle(&mut out, &mut both.memory);
                ensure!(out == expected, "{out:02x?} instead of {expected:02x?}");
            }
            let asker = client(family, 7);
            for mac in [[0xff; 6], VIRTUAL] {
                let reason = both.verdict(&question(family, &asker, mac))?;
                ensure!(reason == answered(family), "{}", reason.name());
            }
            // Another virtual router's: not this box's matter.
            let other = to([0, 0, 0x5e, 0, 1, 52], frames[4].clone());
            both.stays(&other, Reason::Relay);
            set(both, FIRST, 1)?;
            for frame in &frames {
                both.stays(&to(VIRTUAL, frame.clone()), Reason::NotMaster);
            }
            for mac in [[0xff; 6], VIRTUAL] {
                both.stays(&question(family, &asker, mac), Reason::NotMaster);
            }
            Ok(())
        })
        .with_context(|| family.vip)?;
    }
    Ok(())
}

#[test]
fn each_box_keeps_its_share() -> Result<()> {
    for family in &FAMILIES {
        let world = world(family);
        let key = world.settings.flow_key;
        Both::run(&world, |both| {
            link(both, family, SHARED, 2)?;
            for slot in [FIRST, WHOLE] {
                set(both, slot, open()?)?;
            }
            let mut counted = [0; 2];
            for n in 1..=40 {
                let name = client(family, n);
                let share = share_of(&key, &addr(&at(&name, 0)).ip().into(), 2);
                counted[share as usize] += 1;
                let is_ours = share == 0;
                let from = at(&name, 40_000);
                let expect = |both: &mut Both, what: &str, frame: Vec<u8>, mine: Reason, theirs: Reason| {
                    let reason = if is_ours { mine } else { theirs };
                    let found = both.verdict(&to(SHARED, frame)).context("they differ")?;
                    ensure!(
                        found == reason,
                        "{what} of {name}: {} instead of {}",
                        found.name(),
                        reason.name()
                    );
                    Ok(())
                };
                let other = Reason::OtherShare;
                for (port, reason) in [(NAT, Reason::ForwardNat), (RELAY, Reason::Relay)] {
                    let syn = Frame::tcp(&from, &at(family.vip, port), SYN);
                    expect(both, "a SYN", syn.build(), reason, other)?;
                    let datagram = Frame::udp(&from, &at(family.vip, port));
                    expect(both, "a datagram", datagram.build(), reason, other)?;
                }
                let ack = |port| Frame::tcp(&from, &at(family.vip, port), ACK);
                expect(both, "an ACK", ack(NAT).build(), Reason::ForwardNat, other)?;
                let answer = Frame::tcp(&at(family.backend, NAT), &from, SYN | ACK);
                expect(both, "an answer", answer.build(), Reason::ReturnNat, other)?;
                // Whoever has the connection may be the other one, as long as that lives.
                set(both, OTHERS, u64::MAX)?;
                expect(both, "an ACK", ack(RELAY).build(), other, other)?;
                expect(both, "an ACK", ack(NAT).build(), Reason::ForwardNat, other)?;
                both.memory.sockets = Box::new(|_| Socket::Connected);
                for slot in [open()?, 0] {
                    both.memory.leases.insert(FIRST, slot);
                    let mut kept = to(SHARED, ack(RELAY).build());
                    let outcome = handle(&mut kept, &mut both.memory);
                    ensure!(outcome.reason == Reason::Relay, "{}", outcome.reason.name());
                    ensure!(kept == to(OWN, ack(RELAY).build()), "{kept:02x?}");
                }
                both.memory.leases.insert(FIRST, open()?);
                both.memory.sockets = Box::new(|_| Socket::None);
                set(both, OTHERS, 0)?;
                expect(both, "an ACK", ack(RELAY).build(), Reason::Relay, other)?;
                // An error about what went to a client, from a router on the way: the client says whose it is, and any box may
                // have the connection.
                let sent = Frame::tcp(&at(family.vip, RELAY), &from, ACK);
                let error = Icmp::new(family.beyond, family.vip, family.error, &quote(&sent, 60));
                expect(both, "an error", error.build(), Reason::Icmp, Reason::Icmp)?;
                for mac in [[0xff; 6], SHARED] {
                    let reason = if is_ours { answered(family) } else { other };
                    let found = both.verdict(&question(family, &name, mac))?;
                    ensure!(found == reason, "a question by {name}: {}", found.name());
                }
                // What comes to one box alone is that box's.
                let alone = Frame::udp(&from, &at(family.vip, RELAY)).build();
                both.check(&alone, Reason::Relay, &[], None)?;
            }
            ensure!(counted.iter().all(|count| *count >= 8), "{counted:?}");
            Ok(())
        })
        .with_context(|| family.vip)?;
    }
    Ok(())
}
