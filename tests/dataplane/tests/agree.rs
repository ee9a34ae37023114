//! Host and kernel agree: 10 000 random packets, valid and broken, through the same decision over the same tables.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Result, ensure};
use weir_abi::{
    Addr16, FlowKey, FlowState, FragmentKey, FragmentState, ListEntry, NatFlow, NatReply, NatSource, Note,
    REASON_COUNT, Reason, ReturnVip, Slot, Verdict,
    maps::{action, backend::ALIVE, service},
};
use weir_dataplane_tests::{
    Both, Frame, Icmp, World,
    frame::{ACK, FIN, RST, SYN},
    icmp::quote,
    kernel::{flow_key, verdict},
    lab,
    world::{TCP, UDP, addr, stable},
};
use weir_fastpath::handle;

/// SplitMix64 (Steele, Lea and Flood, 2014): the same packets in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const VIPS4: [&str; 3] = ["192.0.2.10", "192.0.2.11", "192.0.2.12"];
const VIPS6: [&str; 2] = ["[2001:db8:2::10]", "[2001:db8:2::11]"];

/// The standard world, and services with rings of many slots in all states over backends in all states.
fn world() -> Result<World> {
    let mut world = World::standard();
    world.settings.tcp_grace = 10;
    world.settings.udp_grace = 20;
    world.settings.horizon = 40;
    // Longer than the test takes, and never an end: those are to the second, which the two sides read apart.
    world.settings.nat_tcp_idle = 3600;
    world.settings.nat_udp_idle = 3600;
    world.settings.nat_time_wait = 3600;
    // Limits are a matter of the clock, which the two sides read apart; they have a test of their own.
    world.settings.record_limit = u32::MAX;
    world.settings.reply_limit = u32::MAX;
    world.settings.tunnel_v4 = u32::from_ne_bytes([10, 255, 0, 0]);
    world.settings.tunnel_v4_host = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    world.settings.tunnel_v6 = Addr16::from(addr("[2001:db8:ff::]:0").ip()).words;
    world.settings.tunnel_v6_host = u32::MAX;
    world.list("198.51.100.190/31", ListEntry::default());
    world.list("2001:db8:c::c0/124", ListEntry::default());
    // Some ways are resolved, for the others the kernel is asked: half of the clients, half of the backends.
    world.routes.clear();
    let gateway = world.next_hop(lab::gateway_hop());
    world.route("198.51.100.0/25", gateway);
    world.route("2001:db8:c::/122", gateway);
    let now = lab::now()?;
    // Two addresses are answered for, one of each family is not, and one is of no group.
    let far = (u64::from(now) + 3600) * 1_000_000_000;
    for (vip, until) in [
        ("192.0.2.10", far),
        ("192.0.2.12", 0),
        ("2001:db8:2::10", far),
        ("2001:db8:2::11", 1),
    ] {
        world.lease(vip, until);
    }
    world.hear("224.0.0.18");
    world.hear("ff02::12");
    let mut random = Random(7);
    for (family, vips) in [("4", &VIPS4[..]), ("6", &VIPS6[..])] {
        let backends: Vec<u16> = (1..=9)
            .map(|n| {
                let address = if family == "4" {
                    format!("10.9.0.{n}:9000")
                } else {
                    format!("[2001:db8:9::{n}]:9000")
                };
                let flags = if n % 4 == 0 { 0 } else { ALIVE };
                let index = if n % 2 == 0 {
                    world.backend(&address, flags)
                } else {
                    let hop = world.next_hop(lab::backend_hop(n));
                    world.backend_via(&address, flags, hop)
                };
                for protocol in [TCP, UDP] {
                    world.answers(&address, protocol, &format!("{}:1000", vips[0]), 10, index, 0);
                }
                index
            })
            .collect();
        for (protocol, vip) in [TCP, UDP]
            .into_iter()
            .flat_map(|p| vips.iter().map(move |vip| (p, vip)))
        {
            let slots: Vec<Slot> = (0..251)
                .map(|_| Slot {
                    current: if random.one_in(20) {
                        0
                    } else {
                        random.of(&backends)
                    },
                    previous: if random.one_in(10) {
                        0
                    } else {
                        random.of(&backends)
                    },
                    // Never, in grace, after it, beyond the horizon: away from the borders.
                    changed: random.of(&[0, 4, 14, 26, 50]),
                })
                .map(|slot| match slot.changed {
                    0 => slot,
                    ago => Slot {
                        changed: now.saturating_sub(ago).max(1),
                        ..slot
                    },
                })
                .collect();
            let id = world.nat(&format!("{vip}:1000"), protocol, &slots);
            let offset = world.rings.len() as u32 - slots.len() as u32;
            for (port, mode) in [(1001, action::NAT), (1002, action::DSR), (1003, action::IPIP)] {
                let listen = format!("{vip}:{port}");
                let id = world.service_on(mode, &listen, protocol, offset, slots.len() as u32);
                if mode == action::NAT {
                    world.change(id, |service| service.flags |= service::RESET);
                }
            }
            world.change(id, |service| service.flags |= 1400 << service::MSS_SHIFT);
        }
        for (n, vip) in vips.iter().enumerate() {
            world.address(&format!("{vip}:0"), n == 0);
        }
        full_nat(&mut world, family == "4", vips, &backends, &mut random);
        for n in 0..2400 {
            let vip = random.of(vips);
            let protocol = random.of(&[TCP, UDP]);
            let backend = u32::from(random.of(&backends));
            let key = flow_key(
                client(family == "4", n % 800),
                addr(&format!("{vip}:{}", random.of(&[1000, 1000, 1001, 1002]))),
                protocol,
            );
            world.flows.push((
                key,
                FlowState {
                    backend,
                    recorded: 1,
                    ..FlowState::default()
                },
            ));
        }
    }
    Ok(world)
}

/// Services by `full-nat` at port 2000, with fewer ports than there are flows, and one that answers dead backends' flows.
fn full_nat(world: &mut World, v4: bool, vips: &[&str], backends: &[u16], random: &mut Random) {
    for (n, (protocol, vip)) in [TCP, UDP]
        .into_iter()
        .flat_map(|p| vips.iter().map(move |vip| (p, vip)))
        .enumerate()
    {
        let slots: Vec<Slot> = (0..31).map(|_| stable(random.of(backends))).collect();
        let id = world.service(action::FULL_NAT, &format!("{vip}:2000"), protocol, &slots);
        let sources = nat_sources(v4).map(|source| NatSource {
            addr: source.ip().into(),
            first: u32::from(source.port()),
            count: NAT_PORTS,
        });
        world.sources(id, 2, &sources);
        if n % 3 == 2 {
            world.change(id, |service| service.flags |= service::RESET);
        }
    }
}

/// Ports of each of [`nat_sources`].
const NAT_PORTS: u32 = 6;

/// Source addresses of `full-nat`, and the first ports of their blocks.
fn nat_sources(v4: bool) -> [SocketAddr; 2] {
    if v4 {
        ["10.9.0.201:20000", "10.9.0.202:20003"].map(addr)
    } else {
        ["[2001:db8:9::201]:20000", "[2001:db8:9::202]:20003"].map(addr)
    }
}

fn client(v4: bool, n: usize) -> SocketAddr {
    match v4 {
        true => addr(&format!("198.51.100.{}:{}", 1 + n % 200, 2000 + n)),
        false => addr(&format!("[2001:db8:c::{:x}]:{}", 1 + n % 200, 2000 + n)),
    }
}

/// A packet: to a service, from a backend or to nobody; with options, tags and chains; and often enough broken.
fn packet(random: &mut Random) -> Vec<u8> {
    let v4 = random.one_in(2);
    let client = client(v4, random.below(800));
    let vip = if v4 { random.of(&VIPS4) } else { random.of(&VIPS6) };
    // Most packets go to the services with many slots, the others to those where something is wrong.
    let port = match random.one_in(3) {
        true => random.of(&[80, 53, 443, 81, 82, 83, 84, 85, 86, 89, 90, 91, 92, 93, 94, 95]),
        false => random.of(&[1000, 1000, 1000, 1001, 1002, 1003, 2000, 2000]),
    };
    // Few of them, so that they come again.
    let client = if port == 2000 {
        self::client(v4, client.port() as usize % 60)
    } else {
        client
    };
    let service = addr(&format!("{vip}:{port}"));
    let backend = match v4 {
        true => addr(&format!(
            "10.9.0.{}:{}",
            random.below(10),
            random.of(&[9000, 9000, 9000, 9000, 8080, 5353])
        )),
        false => addr(&format!(
            "[2001:db8:9::{:x}]:{}",
            1 + random.below(9),
            random.of(&[9000, 9000, 9000, 9000, 8080, 5353])
        )),
    };
    let elsewhere = if v4 {
        random.of(&[
            "203.0.113.9:7",
            "10.9.0.254:7",
            "10.66.0.9:7",
            "172.16.5.5:7",
            "192.0.2.1:7",
            "10.9.0.200:7",
        ])
    } else {
        random.of(&[
            "[2001:db8:d::9]:7",
            "[2001:db8:9::fe]:7",
            "[2001:db8:66::9]:7",
            "[fd00::5]:7",
            "[2001:db8:9::200]:7",
        ])
    };
    let mut source = random.of(&nat_sources(v4));
    source.set_port(source.port() + random.below(NAT_PORTS as usize) as u16);
    let (src, dst) = match random.below(9) {
        0..=4 => (client, service),
        5 | 6 => (backend, client),
        7 => (backend, source),
        _ => (backend, addr(elsewhere)),
    };
    let mut frame = match random.one_in(2) {
        true => Frame::tcp(
            &src.to_string(),
            &dst.to_string(),
            random.of(&[SYN, ACK, ACK, SYN | ACK, FIN | ACK, RST, 0xff]),
        ),
        false => Frame::udp(&src.to_string(), &dst.to_string()),
    };
    frame.hops = random.of(&[64, 64, 64, 64, 64, 64, 64, 64, 255, 2, 1, 0]);
    frame.payload = (0..random.of(&[0, 1, 7, 64, 1400, 1500]))
        .map(|_| random.next() as u8)
        .collect();
    frame.no_checksum = frame.tcp.is_none() && random.one_in(8);
    if random.one_in(20) {
        // To a group: nothing is answered then.
        frame.to_mac[0] |= 1;
    }
    if random.one_in(6) {
        frame.tags =
            vec![(random.of(&[0x8100, 0x88a8]), random.next() as u16); random.of(&[1, 1, 1, 1, 2, 2, 3])];
    }
    if random.one_in(8) {
        frame.options = vec![1; 4 * random.below(11)];
        frame.tcp_options = vec![1; 4 * random.below(11)];
    } else if random.one_in(2) {
        let at = random.below(5);
        frame.tcp_options = vec![1; 8];
        frame.tcp_options[at..at + 4].copy_from_slice(&[2, 4, 5, 0xb4]);
    }
    if random.one_in(8) {
        let any = random.next() as u16;
        frame.fragment = random.of(&[0x2000, 0x2010, any]);
    }
    if random.one_in(8) {
        return icmp(random, &frame);
    }
    if !v4 && random.one_in(3) {
        for _ in 0..random.below(9) {
            let kind = random.of(&[0, 43, 44, 60, 60, 60, 51, 135]);
            let longest = if random.one_in(10) { 20 } else { 2 };
            let mut bytes = vec![0; 8 * (1 + random.below(longest))];
            if kind == 44 {
                bytes.truncate(8);
                bytes[3] = random.of(&[0, 0, 0, 1, 8, 6]);
            } else {
                bytes[1] = (bytes.len() / 8 - 1) as u8;
                bytes[3] = u8::from(random.one_in(4));
            }
            frame.extensions.push((kind, bytes));
        }
    }
    let mut bytes = frame.build();
    match random.below(9) {
        // Cut off, or followed by padding.
        0 => bytes.truncate(14 + random.below(bytes.len() - 13)),
        1 => bytes.resize(bytes.len() + random.below(64), 0xaa),
        // A few bytes of the headers changed.
        2 => {
            for _ in 0..1 + random.below(3) {
                let at = 12 + random.below((bytes.len() - 12).min(80));
                bytes[at] = random.next() as u8;
            }
        }
        // Noise behind the link header.
        3 if random.one_in(4) => bytes[14..]
            .iter_mut()
            .for_each(|byte| *byte = random.next() as u8),
        _ => {}
    }
    bytes
}

/// What virtual routers are about: ARP, neighbor discovery, adverts; broken likewise.
fn of_routers(random: &mut Random) -> Vec<u8> {
    let octets = |text: &str| Addr16::from(addr(&format!("{text}:0")).ip()).octets();
    let mut frame = vec![random.of(&[2, 0xff]), 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    for _ in 0..random.of(&[0, 0, 0, 1, 2, 3]) {
        frame.extend([0x81, 0, 0, 7]);
    }
    if random.one_in(2) {
        let target = octets(random.of(&["192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.1"]));
        if random.one_in(3) {
            let to = if random.one_in(2) {
                [224, 0, 0, 18]
            } else {
                [192, 0, 2, 12]
            };
            frame.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 255, 112, 0, 0, 192, 0, 2, 9]);
            frame.extend(to);
            frame.extend([0x31, 9, 100, 1, 0, 100, 0, 0, 192, 0, 2, 10]);
        } else {
            let sender = random.of(&[[192, 0, 2, 254], [0; 4], [192, 0, 2, 12]]);
            let operation = random.of(&[1, 1, 1, 2]);
            frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1]);
            frame.extend(sender);
            frame.extend([0; 6]);
            frame.extend(&target[12..]);
        }
    } else {
        let vips = ["[2001:db8:2::10]", "[2001:db8:2::11]", "[2001:db8:2::1]"];
        let to = octets(random.of(&["[ff02::12]", "[ff02::1:ff00:11]", "[2001:db8:2::11]", "[fe80::1]"]));
        let target = octets(random.of(&vips));
        let options: &[u8] = if random.one_in(3) {
            &[58, 0, 1, 4, 0, 0, 0, 0]
        } else {
            &[]
        };
        let next = if options.is_empty() {
            random.of(&[58, 58, 112, 17])
        } else {
            60
        };
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 24 + options.len() as u8, next, 255]);
        frame.extend(octets("[fe80::7]"));
        frame.extend(to);
        frame.extend(options);
        frame.extend([random.of(&[135, 135, 136, 128]), 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(target);
    }
    match random.below(5) {
        0 => frame.truncate(14 + random.below(frame.len() - 13)),
        1 => {
            let at = 12 + random.below(frame.len() - 12);
            frame[at] = random.next() as u8;
        }
        _ => {}
    }
    frame
}

/// The tables of `full-nat`, but for the moments, which two clocks tell.
fn translated(
    flows: &HashMap<FlowKey, NatFlow>,
    replies: &HashMap<FlowKey, NatReply>,
) -> (HashMap<FlowKey, NatFlow>, HashMap<FlowKey, NatReply>) {
    let flows = flows.iter().map(|(key, flow)| {
        let flow = NatFlow {
            recorded: 0,
            seen: 0,
            ..*flow
        };
        (*key, flow)
    });
    let replies = replies.iter().map(|(key, reply)| {
        let reply = NatReply {
            seen: 0,
            closed: u32::from(reply.closed != 0),
            ..*reply
        };
        (*key, reply)
    });
    (flows.collect(), replies.collect())
}

/// An echo request along the frame's way, or an error that quotes it or what answers it.
fn icmp(random: &mut Random, frame: &Frame) -> Vec<u8> {
    let v4 = frame.src.is_ipv4();
    let (src, dst) = (frame.src.ip().to_string(), frame.dst.ip().to_string());
    let mut icmp = if random.one_in(3) {
        let kind = if v4 { [8, 0] } else { [128, 0] };
        Icmp::new(&src, &dst, kind, b"ping")
    } else {
        let answered = frame.clone().with(|f| {
            (f.src, f.dst) = (frame.dst, frame.src);
            f.fragment = 0x4000;
            f.extensions.clear();
        });
        let kind = match v4 {
            true => random.of(&[[3, 3], [3, 4], [11, 0], [12, 0], [5, 0]]),
            false => random.of(&[[1, 4], [2, 0], [3, 0], [4, 0], [135, 0]]),
        };
        Icmp::new(
            &src,
            &dst,
            kind,
            &quote(&answered, random.of(&[27, 28, 48, 60, 100, 540])),
        )
    };
    icmp.hops = frame.hops;
    icmp.tags = frame.tags.clone();
    icmp.build()
}

/// All but the moment of recording, which two clocks tell.
fn placed(flows: &HashMap<FlowKey, FlowState>) -> HashMap<FlowKey, u32> {
    flows.iter().map(|(key, state)| (*key, state.backend)).collect()
}

/// What these packets do not reach: no helper fails, limits are a matter of the clock, the tables of `full-nat` have more
/// room than its ports can fill, these services have neither limits per source nor cookies, and no address has shares (on
/// those both sides agree in `group.rs`).
const NEVER: [Reason; 8] = [
    Reason::Internal,
    Reason::ReplyLimited,
    Reason::NatTableFull,
    Reason::SourceRate,
    Reason::SourceConnections,
    Reason::SynCookie,
    Reason::CookieInvalid,
    Reason::OtherShare,
];

#[test]
fn host_and_kernel_agree_on_ten_thousand_packets() -> Result<()> {
    Both::run(&World::new(), |both| {
        let world = world()?;
        world.to_kernel(&mut both.kernel)?;
        both.memory = world.to_memory(both.lab, lab::now()?);
        let (mut random, mut routers) = (Random(20_261_120), Random(20_261_130));
        let mut seen = [0u64; REASON_COUNT];
        for n in 0..10_000 {
            let frame = if n % 8 == 7 {
                of_routers(&mut routers)
            } else {
                packet(&mut random)
            };
            both.memory.now = lab::now()?;
            if n % 500 == 0 {
                // There is room again.
                both.kernel.adverts()?;
            }
            let mut copy = frame.clone();
            let outcome = handle(&mut copy, &mut both.memory);
            let run = both.kernel.run(&frame)?;
            let context = || format!("packet {n}, {}: {frame:02x?}", outcome.reason.name());
            let expected = match outcome.reason.verdict() {
                Verdict::Forward => verdict::REDIRECT,
                Verdict::Reply => verdict::TX,
                Verdict::Pass => verdict::PASS,
                Verdict::Drop => verdict::DROP,
            };
            ensure!(
                run.verdict == expected,
                "kernel says {} to {}",
                run.verdict,
                context()
            );
            ensure!(
                run.frame == copy,
                "kernel sends\n{:02x?}\nhost sends\n{copy:02x?}\nof {}",
                run.frame,
                context()
            );
            let mut kernel = both.kernel.counters()?.0;
            // Repeats of an event may be left out.
            kernel[Note::EventLost.index() as usize] = 0;
            ensure!(kernel == both.memory.reasons, "counters differ by {}", context());
            seen = kernel;
        }

        let flows = both.kernel.flows()?;
        ensure!(
            placed(&flows) == placed(&both.memory.flows),
            "the flow tables differ"
        );
        for (key, state) in &flows {
            let apart = both.memory.flows[key].recorded.abs_diff(state.recorded);
            ensure!(apart <= 1, "{key:?}: recorded {apart} s apart");
        }
        let ways = |fragments: &HashMap<FragmentKey, FragmentState>| -> HashMap<_, _> {
            let way = |state: &FragmentState| FragmentState {
                recorded: 0,
                ..*state
            };
            fragments.iter().map(|(key, state)| (*key, way(state))).collect()
        };
        ensure!(
            ways(&both.kernel.fragments()?) == ways(&both.memory.fragments),
            "the tables of fragments differ"
        );
        let replies: HashMap<FlowKey, ReturnVip> = both.kernel.return_flows()?;
        ensure!(
            replies == both.memory.return_flows,
            "the tables of shared backends' replies differ"
        );
        ensure!(
            translated(&both.kernel.nat_flows()?, &both.kernel.nat_replies()?)
                == translated(&both.memory.nat_flows, &both.memory.nat_replies),
            "the tables of full-nat differ"
        );
        for (id, traffic) in &both.memory.service_traffic {
            ensure!(
                both.kernel.service_traffic(*id)? == *traffic,
                "traffic of service {id}"
            );
        }
        for (index, traffic) in &both.memory.backend_traffic {
            ensure!(
                both.kernel.backend_traffic(*index)? == *traffic,
                "traffic of backend {index}"
            );
        }

        // The packets reach into every corner, or the agreement means little.
        for reason in Reason::ALL {
            let never = NEVER.contains(reason);
            ensure!(
                never == (seen[*reason as usize] == 0),
                "{}: {}",
                reason.name(),
                seen[*reason as usize]
            );
        }
        for note in [
            Note::FlowLookup,
            Note::FlowHit,
            Note::FlowRecorded,
            Note::FlowRemapped,
            Note::FlowClosed,
            Note::NatAllocated,
            Note::FragmentRecorded,
            Note::MssClamped,
            Note::RouteAsked,
        ] {
            ensure!(
                seen[note.index() as usize] > 5,
                "{}: {}",
                note.name(),
                seen[note.index() as usize]
            );
        }
        for (reason, count) in Reason::ALL.iter().zip(seen) {
            println!("{:>22} {count}", reason.name());
        }
        Ok(())
    })
}
