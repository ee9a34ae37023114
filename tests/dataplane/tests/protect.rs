//! Protection, in the kernel and on the host: limits per source, bans for overload, lists, SYN cookies.

use std::{fs, net::TcpListener};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use weir_abi::{
    ListEntry, Note, Reason, ServiceLimits,
    maps::{action, backend::ALIVE, flow, list, settings},
};
use weir_dataplane_tests::{
    Both, Frame, World,
    both::to_backend,
    frame::{ACK, FIN, RST, SYN},
    kernel::{flow_key, prefix, verdict},
    lab,
    world::{TCP, UDP, addr, stable},
};
use weir_fastpath::tables::Checked;

const VIP4: &str = "192.0.2.20:80";
const VIP6: &str = "[2001:db8:2::20]:80";
const RELAY4: &str = "192.0.2.20:443";

/// Networks of 24 and 48 bits.
const LIMITS: ServiceLimits = ServiceLimits {
    rate: 0,
    open: 0,
    ban: 0,
    mask_v4: u32::from_ne_bytes([255, 255, 255, 0]),
    mask_v6: [u32::MAX, u32::from_ne_bytes([255, 255, 0, 0]), 0, 0],
    prefixes: 24 | 48 << 16,
    reserved: 0,
};

/// A service by `nat` for each family, UDP beside it, and one of the relay, all with these limits.
fn world(limits: ServiceLimits) -> World {
    let mut world = World::new();
    let (hop4, hop6) = (
        world.next_hop(lab::backend_hop(1)),
        world.next_hop(lab::backend_hop(2)),
    );
    let v4 = world.backend_via("10.9.0.1:8080", ALIVE, hop4);
    let v6 = world.backend_via("[2001:db8:9::2]:8080", ALIVE, hop6);
    let gateway = world.next_hop(lab::gateway_hop());
    world.route("198.51.100.0/24", gateway);
    for (vip, protocol, backend) in [(VIP4, TCP, v4), (VIP6, TCP, v6), (VIP4, UDP, v4)] {
        let id = world.nat(vip, protocol, &[stable(backend)]);
        world.limit(id, limits);
    }
    world.answers("10.9.0.1:8080", TCP, VIP4, 1, v4, 0);
    let id = world.service(action::RELAY, RELAY4, TCP, &[]);
    world.limit(id, limits);
    world
}

/// Waits for the coarse clock to turn, so that what follows lies in one second; both sides have the same one then.
fn fresh_second(both: &mut Both) -> Result<()> {
    let now = || clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(|time| time.tv_sec());
    let before = now()?;
    while now()? == before {
        std::thread::yield_now();
    }
    both.memory.now = u32::try_from(now()?)?;
    Ok(())
}

fn v4(client: &str, flags: u8) -> Frame {
    Frame::tcp(client, VIP4, flags)
}

fn goes4(both: &mut Both, frame: &Frame, notes: &[Note]) {
    both.becomes(
        frame,
        Reason::ForwardNat,
        notes,
        &to_backend(frame, 1, "10.9.0.1:8080"),
    );
}

#[test]
fn a_network_begins_as_many_connections_a_second_as_it_may() -> Result<()> {
    let limits = ServiceLimits { rate: 3, ..LIMITS };
    Both::run(&world(limits), |both| {
        for turn in 0..2 {
            fresh_second(both)?;
            for host in 1..=3 {
                let frame = v4(&format!("198.51.100.{host}:{}", 1000 + turn), SYN);
                goes4(both, &frame, &[Note::FlowRecorded]);
            }
            both.stays(&v4("198.51.100.200:7", SYN).build(), Reason::SourceRate);
            // What is no SYN, another network, and UDP are free.
            goes4(both, &v4("198.51.100.1:1000", ACK), &[]);
            goes4(
                both,
                &v4(&format!("198.51.101.1:{turn}"), SYN),
                &[Note::FlowRecorded],
            );
            let udp = Frame::udp("198.51.100.1:1000", VIP4);
            both.becomes(
                &udp,
                Reason::ForwardNat,
                &[],
                &to_backend(&udp, 1, "10.9.0.1:8080"),
            );
        }
        fresh_second(both)?;
        for host in 1..=4 {
            let frame = Frame::tcp(&format!("[2001:db8:c:{host}::7]:40000"), VIP6, SYN);
            match host {
                4 => both.stays(&frame.build(), Reason::SourceRate),
                _ => both.becomes(
                    &frame,
                    Reason::ForwardNat,
                    &[Note::FlowRecorded],
                    &to_backend(&frame, 2, "[2001:db8:9::2]:8080"),
                ),
            }
        }
        Ok(())
    })
}

#[test]
fn a_network_has_as_many_connections_open_as_it_may() -> Result<()> {
    let limits = ServiceLimits { open: 2, ..LIMITS };
    let (a, b, c, d) = (
        "198.51.100.1:1",
        "198.51.100.2:2",
        "198.51.100.3:3",
        "198.51.100.4:4",
    );
    Both::run(&world(limits), |both| {
        for client in [a, b] {
            goes4(both, &v4(client, SYN), &[Note::FlowRecorded]);
        }
        // Sent again it is the same connection.
        goes4(both, &v4(a, SYN), &[Note::FlowRecorded]);
        both.stays(&v4(c, SYN).build(), Reason::SourceConnections);
        goes4(both, &v4(a, FIN | ACK), &[Note::FlowClosed]);
        goes4(both, &v4(a, FIN | ACK), &[]);
        goes4(both, &v4(c, SYN), &[Note::FlowRecorded]);
        both.stays(&v4(d, SYN).build(), Reason::SourceConnections);
        // The backend breaks one off.
        let rst = Frame::tcp("10.9.0.1:8080", b, RST);
        both.becomes(
            &rst,
            Reason::ReturnNat,
            &[Note::FlowClosed],
            &weir_dataplane_tests::both::to_client(&rst, VIP4),
        );
        goes4(both, &v4(d, SYN), &[Note::FlowRecorded]);
        both.stays(&v4(a, SYN).build(), Reason::SourceConnections);
        let known = both.kernel.flow(flow_key(addr(d), addr(VIP4), TCP))?;
        ensure!(known.is_some_and(|state| state.service == 1 | flow::COUNTED));
        Ok(())
    })
}

#[test]
fn what_can_not_be_recorded_is_not_counted() -> Result<()> {
    let mut world = world(ServiceLimits { open: 1, ..LIMITS });
    world.settings.record_limit = 0;
    Both::run(&world, |both| {
        for host in 1..4 {
            let frame = v4(&format!("198.51.100.{host}:1"), SYN);
            goes4(both, &frame, &[Note::SourceUncounted, Note::FlowRecordLimited]);
        }
        Ok(())
    })
}

#[test]
fn connections_of_the_relay_are_counted_too() -> Result<()> {
    Both::run(&world(ServiceLimits { open: 1, ..LIMITS }), |both| {
        let frame = |client, flags| Frame::tcp(client, RELAY4, flags).build();
        let (a, b) = ("198.51.100.1:1", "198.51.100.2:2");
        let passes =
            |both: &mut Both, frame: &[u8], reason, notes: &[Note]| both.check(frame, reason, notes, None);
        passes(
            both,
            &frame(a, SYN),
            Reason::Relay,
            &[Note::SynRelay, Note::FlowRecorded],
        )?;
        passes(both, &frame(b, SYN), Reason::SourceConnections, &[Note::SynRelay])?;
        passes(both, &frame(a, ACK), Reason::Relay, &[])?;
        passes(both, &frame(a, FIN | ACK), Reason::Relay, &[Note::FlowClosed])?;
        passes(
            both,
            &frame(b, SYN),
            Reason::Relay,
            &[Note::SynRelay, Note::FlowRecorded],
        )
    })
}

#[test]
fn a_network_that_goes_beyond_is_banned() -> Result<()> {
    let mut world = world(ServiceLimits {
        rate: 1,
        ban: 60,
        ..LIMITS
    });
    world.list(
        "198.51.100.77/32",
        ListEntry {
            until: 0,
            flags: list::ALLOW,
        },
    );
    Both::run(&world, |both| {
        fresh_second(both)?;
        goes4(both, &v4("198.51.100.1:1", SYN), &[Note::FlowRecorded]);
        let second = v4("198.51.100.2:1", SYN).build();
        both.check(&second, Reason::SourceRate, &[Note::SourceBanned], None)?;
        for flags in [SYN, ACK] {
            both.stays(&v4("198.51.100.3:1", flags).build(), Reason::Banned);
        }
        both.stays(&Frame::tcp("198.51.100.3:1", RELAY4, SYN).build(), Reason::Banned);
        // Whoever is let in by name is neither banned nor limited.
        for port in 1..5 {
            goes4(
                both,
                &v4(&format!("198.51.100.77:{port}"), SYN),
                &[Note::FlowRecorded],
            );
        }
        let now = lab::now()?;
        let key = prefix("198.51.100.0/24");
        let lists = both.kernel.lists()?;
        let (_, entry) = lists.iter().find(|(net, _)| **net == key).context("the ban")?;
        ensure!(entry.flags == list::OVERLOAD && (now + 50..now + 61).contains(&entry.until));
        ensure!(both.memory.lists.contains_key(&key));
        Ok(())
    })
}

#[test]
fn bans_end_and_the_longest_prefix_counts() -> Result<()> {
    let mut world = world(LIMITS);
    let now = lab::now()?;
    let (ban, allow) = (0, list::ALLOW);
    for (net, until, flags) in [
        ("198.51.100.0/24", 0, ban),
        ("198.51.100.64/26", 0, allow),
        ("198.51.100.65/32", now + 600, ban),
        ("198.51.101.0/24", now.saturating_sub(5).max(1), ban),
        ("2001:db8:c::/48", 0, ban),
        ("2001:db8:c:1::/64", now + 600, allow),
    ] {
        world.list(net, ListEntry { until, flags });
    }
    Both::run(&world, |both| {
        for (client, banned) in [
            ("198.51.100.1:1", true),
            ("198.51.100.64:1", false),
            ("198.51.100.65:1", true),
            ("198.51.101.1:1", false),
        ] {
            match banned {
                true => both.stays(&v4(client, ACK).build(), Reason::Banned),
                false => goes4(both, &v4(client, ACK), &[]),
            }
        }
        both.stays(
            &Frame::tcp("[2001:db8:c::7]:1", VIP6, ACK).build(),
            Reason::Banned,
        );
        let frame = Frame::tcp("[2001:db8:c:1::7]:1", VIP6, ACK);
        both.becomes(
            &frame,
            Reason::ForwardNat,
            &[],
            &to_backend(&frame, 2, "[2001:db8:9::2]:8080"),
        );
        both.stays(&Frame::udp("198.51.100.1:1", VIP4).build(), Reason::Banned);
        Ok(())
    })
}

/// The sum of RFC 1071 over a TCP header and its pseudo header: all ones if the checksum is right.
fn tcp_sum(frame: &[u8], network_at: usize, header: usize) -> u32 {
    let addresses = match header {
        20 => &frame[network_at + 12..network_at + 20],
        _ => &frame[network_at + 8..network_at + 40],
    };
    let tcp = &frame[network_at + header..];
    let mut sum = 6 + tcp.len() as u32;
    for pair in addresses.chunks(2).chain(tcp.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

/// Sockets of this box that listen; a client's whole handshake, in both families.
#[test]
fn syns_are_answered_by_cookies_and_acks_are_checked() -> Result<()> {
    let vips = [
        ("192.0.2.1:443", "198.51.100.7:40000"),
        ("[2001:db8:2::1]:443", "[2001:db8:c::7]:40000"),
    ];
    let mut world = World::new();
    for (vip, _) in vips {
        world.service(action::RELAY, vip, TCP, &[]);
    }
    world.settings.flags |= settings::COOKIES;
    Both::run(&world, |both| {
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?;
        for (vip, client) in vips {
            let _listener = TcpListener::bind(vip)?;
            // What nobody may answer is left to the stack, which does not either.
            let group = Frame::tcp(client, vip, SYN).with(|f| f.to_mac[0] |= 1);
            let from = if addr(vip).is_ipv4() {
                "224.0.0.5:9"
            } else {
                "[ff02::5]:9"
            };
            for syn in [group, Frame::tcp(from, vip, SYN)] {
                both.memory.cookies = Box::new(|_| 536 << 32 | 1);
                both.check(&syn.build(), Reason::Relay, &[Note::SynRelay], None)?;
            }
            let header = if addr(vip).is_ipv4() { 20 } else { 40 };
            for (options, mss, tags) in [
                (vec![2, 4, 5, 0xb4, 1, 3, 3, 7], true, vec![]),
                (vec![2, 4, 5, 0xb4], true, vec![(0x8100, 5)]),
                (vec![], false, vec![]),
            ] {
                let syn = Frame::tcp(client, vip, SYN).with(|f| {
                    f.tcp_options = options;
                    f.tags = tags;
                    f.payload = vec![];
                });
                let (at, syn) = (syn.network_at(), syn.build());
                let tcp_at = at + header;
                let run = both.kernel.run(&syn)?;
                ensure!(run.verdict == verdict::TX, "{run:?}");
                let answer = run.frame;
                ensure!(
                    answer.len() == tcp_at + if mss { 24 } else { 20 },
                    "{answer:02x?}"
                );
                ensure!(tcp_sum(&answer, at, header) == 0xffff, "{answer:02x?}");
                ensure!(answer[tcp_at + 13] == SYN | ACK);
                ensure!(!mss || answer[tcp_at + 20..tcp_at + 22] == [2, 4]);
                let word = |frame: &[u8], at: usize| {
                    u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
                };
                let isn = word(&syn, tcp_at + 4);
                ensure!(word(&answer, tcp_at + 8) == isn + 1);
                let cookie = word(&answer, tcp_at + 4);
                let offered = match mss {
                    true => u64::from(word(&answer, tcp_at + 20) & 0xffff),
                    false => 536,
                };
                // The same on the host, given the same cookie. The kernel's changes once a minute at most.
                both.memory.cookies = Box::new(move |_| offered << 32 | u64::from(cookie));
                both.check(&syn, Reason::SynCookie, &[Note::SynRelay], Some(&answer))?;

                let ack = Frame::tcp(client, vip, ACK).with(|f| f.payload = vec![]);
                let tcp_at = ack.network_at() + header;
                let mut ack = ack.build();
                ack[tcp_at + 4..tcp_at + 8].copy_from_slice(&(isn + 1).to_be_bytes());
                for (number, checked, reason) in [
                    (cookie.wrapping_add(1), Checked::Valid, Reason::Relay),
                    // Not its neighbour: the lowest bits say which MSS.
                    (cookie ^ 0x55_5555, Checked::Invalid, Reason::CookieInvalid),
                ] {
                    ack[tcp_at + 8..tcp_at + 12].copy_from_slice(&number.to_be_bytes());
                    both.memory.checks = Box::new(move |_| checked);
                    both.check(&ack, reason, &[], None)?;
                }
            }
        }
        // Nobody listens: the stack refuses.
        both.memory.cookies = Box::new(|_| 0);
        both.memory.checks = Box::new(|_| Checked::Other);
        for (vip, client) in vips {
            both.check(
                &Frame::tcp(client, vip, SYN).build(),
                Reason::Relay,
                &[Note::SynRelay],
                None,
            )?;
            both.stays(&Frame::tcp(client, vip, ACK).build(), Reason::Relay);
        }
        Ok(())
    })
}

#[test]
fn as_many_syns_as_the_rate_allows_are_left_to_the_stack() -> Result<()> {
    let mut world = World::new();
    world.service(action::RELAY, "192.0.2.1:443", TCP, &[]);
    world.settings.flags |= settings::COOKIES;
    world.settings.cookie_rate = 2;
    Both::run(&world, |both| {
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?;
        let _listener = TcpListener::bind("192.0.2.1:443")?;
        let syn = Frame::tcp("198.51.100.7:1", "192.0.2.1:443", SYN).build();
        for _ in 0..2 {
            fresh_second(both)?;
            for _ in 0..2 {
                both.check(&syn, Reason::Relay, &[Note::SynRelay], None)?;
            }
            ensure!(both.kernel.run(&syn)?.verdict == verdict::TX);
        }
        Ok(())
    })
}
