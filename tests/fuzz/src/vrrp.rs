//! Any bytes as an IP packet with a VRRP advert, and as what happens to a group of virtual routers.
//!
//! Holds: what reads well is written as the same; a signature is none if nobody signed; a machine never gives a lease but as
//! master, shuts before it gives its addresses away or lingers no longer than it may, and always wants to be called later than it was.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use weir_core::vrrp::{
    Centis, Family, Vrid,
    accept::{self, Refused, Rules, Senders, Signatures, V2},
    auth::{Keys, Mode, Window},
    machine::{Announce, Config, Heard, LINGER, Machine, Output, Preempt, Router, RouterKey, State},
    wire::{self, Message, Version},
};

/// Checks one byte string.
pub fn check(data: &[u8]) {
    advert(data);
    machine(data);
}

/// How far an input gets: `v2`, `v3`, `signed`, or why it is refused.
pub fn reached(data: &[u8]) -> &'static str {
    let packet = match wire::packet(data) {
        Ok(packet) => packet,
        Err(malformed) => return malformed.name(),
    };
    let advert = match wire::read(&packet) {
        Ok(advert) => advert,
        Err(malformed) => return malformed.name(),
    };
    match (judged(data, Mode::Enforce), advert.version) {
        (Some(Err(refused)), _) if refused != Refused::Unsigned(MISSING) => refused.name(),
        (_, Version::V2 { .. }) => "v2",
        (_, Version::V3) => "v3",
    }
}

const MISSING: weir_core::vrrp::auth::Unsigned = weir_core::vrrp::auth::Unsigned::Missing;

/// One key, 1, whose signatures nobody guesses: what stands in the input never is one.
struct Nobody;

impl Keys for Nobody {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; 32]> {
        let parts: usize = parts.iter().map(|part| part.len()).sum();
        (key == 1).then_some([parts as u8 ^ 0x5a; 32])
    }
}

fn judged(data: &[u8], mode: Mode) -> Option<Result<(), Refused>> {
    let packet = wire::packet(data).ok()?;
    let advert = wire::read(&packet).ok()?;
    let group = packet.ends.family().group();
    let own: IpAddr = match packet.ends.family() {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 2).into(),
        Family::V6 => "fe80::2".parse().ok()?,
    };
    let addresses: Vec<_> = match packet.ends.family() {
        Family::V4 => vec![Ipv4Addr::new(192, 0, 2, 10).into()],
        Family::V6 => vec!["fe80::10".parse().ok()?],
    };
    let peers: [IpAddr; 1] = [Ipv4Addr::new(192, 0, 2, 1).into()];
    let rules = Rules {
        own,
        addresses: &addresses,
        interval: Centis::new(100)?,
        senders: if packet.ends.destination() == group {
            Senders::Group
        } else {
            Senders::Peers(&peers)
        },
        v2: if advert.priority == 77 {
            V2::Refused
        } else {
            V2::Taken(None)
        },
    };
    let mut window = Window::default();
    let signatures = Signatures {
        keys: &Nobody,
        mode,
        window: &mut window,
    };
    Some(accept::judge(&rules, &packet.ends, &advert, Some(signatures)).map(drop))
}

fn advert(data: &[u8]) {
    let Ok(packet) = wire::packet(data) else {
        return;
    };
    let Ok(advert) = wire::read(&packet) else {
        return;
    };
    assert_eq!(advert.addresses.iter().count(), advert.addresses.len());
    assert!(!advert.addresses.is_empty());
    let addresses: Vec<_> = advert.addresses.iter().collect();
    let message = Message {
        vrid: advert.vrid,
        priority: advert.priority,
        interval: advert.interval,
        addresses: &addresses,
        checksum: advert.checksum,
    };
    let mut written = Vec::new();
    let is_written = wire::write(&mut written, &message, &packet.ends, None);
    assert_eq!(is_written, Ok(()));
    let again = wire::Packet {
        payload: &written,
        ..packet
    };
    let again = wire::read(&again).expect("what weir writes is read");
    assert_eq!((again.vrid, again.priority), (advert.vrid, advert.priority));
    assert_eq!(again.interval, advert.interval);
    assert!(again.addresses.iter().eq(addresses));
    assert_eq!((again.version, again.trailer), (Version::V3, None));
    // A pseudo-header may sum to nothing: then both checksums are one.
    if let (Version::V3, 0) = (advert.version, advert.message[4] >> 4) {
        assert_eq!(written, advert.message);
    }
    // The bytes behind the advert are no part of it.
    let longer = [data, b"\0\0\0"].concat();
    assert_eq!(wire::packet(&longer), Ok(packet));
    let _ = judged(data, Mode::Permissive);
    if let Some(Err(Refused::Unsigned(_))) = judged(data, Mode::Enforce) {
        assert_eq!(judged(data, Mode::Permissive), Some(Ok(())));
    }
}

/// The bytes as what happens: four of them each, what, two arguments, and how much later.
fn machine(data: &[u8]) {
    let interval = Centis::new(10).expect("100 ms");
    let router = |vrid, own: [u8; 4]| Router {
        key: RouterKey {
            interface: "eth0".into(),
            vrid: Vrid::new(vrid).expect("not 0"),
            family: Family::V4,
        },
        own: IpAddr::from(own),
    };
    let config = |first: u8| Config {
        routers: vec![router(1, [192, 0, 2, 2]), router(2, [192, 0, 2, 66])],
        priority: first.max(10),
        interval,
        preempt: match first % 3 {
            0 => Preempt::Never,
            1 => Preempt::Always,
            _ => Preempt::Delayed(Duration::from_millis(250)),
        },
        lease: Duration::from_millis(150),
        announce: Announce {
            count: u32::from(first % 4),
            spacing: Duration::from_millis(30),
            refresh: first.is_multiple_of(5).then_some(Duration::from_millis(500)),
        },
    };
    let mut now = Instant::now();
    let mut it = Machine::new(config(data.first().copied().unwrap_or(100)), now);
    let mut is_open = false;
    let mut is_mute = false;
    for op in data.as_chunks::<4>().0.iter().take(200) {
        let [kind, a, b, later] = *op;
        now += Duration::from_millis(u64::from(later));
        for _ in 0..400 {
            let Some(due) = it.deadline().filter(|due| *due <= now) else {
                break;
            };
            it.handle_timeout(due);
            drain(&mut it, &mut is_open, is_mute, due);
            assert!(
                it.deadline().is_none_or(|next| next > due),
                "it wants to be called at once again"
            );
        }
        let router = usize::from(a & 1);
        match kind % 10 {
            0 => it.start((b & 1 == 0).then_some(now), now),
            1..=4 => {
                let heard = Heard {
                    source: Ipv4Addr::new(192, 0, 2, a).into(),
                    priority: b,
                    interval: Centis::new(u16::from(a >> 1).max(1)).expect("not 0"),
                    arrived: now,
                };
                it.handle_advert(router, &heard, now);
            }
            5 => it.set_usable(router, b & 1 == 0, now),
            6 => it.set_demotion(u32::from(b), now),
            7 => it.stop(now),
            8 => is_mute = b & 1 == 0,
            _ => it.set_config(config(b), now),
        }
        drain(&mut it, &mut is_open, is_mute, now);
    }
}

fn drain(it: &mut Machine, is_open: &mut bool, is_mute: bool, now: Instant) {
    while let Some(output) = it.poll_output() {
        match output {
            Output::Advert { router, .. } => it.sent(router, !is_mute, now),
            Output::Lease(until) => {
                assert!(it.state() == State::Master && until > now);
                *is_open = true;
            }
            Output::Shut => *is_open = false,
            Output::Linger(until) => {
                assert!(*is_open && until > now && until <= now + LINGER);
                *is_open = false;
            }
            Output::Give => assert!(!*is_open, "the addresses go before the lease is shut"),
            Output::Announce => assert!(*is_open, "announced, but not answered for"),
            Output::Changed(change) => assert_eq!(change.to, it.state()),
            Output::Take | Output::Rival(_) | Output::Late(_) => {}
        }
    }
    assert!(!*is_open || it.state() == State::Master);
}
