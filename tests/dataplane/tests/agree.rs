//! Host and kernel agree: 10 000 random packets, valid and broken, through the same decision over the same tables.

use std::{collections::HashMap, net::SocketAddr};

use anyhow::{Result, ensure};
use weir_abi::{
    FlowKey, FlowState, Note, REASON_COUNT, Reason, ReturnVip, Slot, Verdict, maps::backend::ALIVE,
};
use weir_dataplane_tests::{
    Both, Frame, World,
    frame::{ACK, FIN, RST, SYN},
    kernel::{flow_key, verdict},
    lab,
    world::{TCP, UDP, addr},
};
use weir_fastpath::{Window, handle};

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
    // Limits are a matter of the clock, which the two sides read apart; they have a test of their own.
    world.settings.record_limit = u32::MAX;
    let now = lab::now()?;
    let mut random = Random(7);
    for (family, vips) in [("4", &VIPS4[..]), ("6", &VIPS6[..])] {
        let backends: Vec<u16> = (1..=9)
            .map(|n| {
                let address = if family == "4" {
                    format!("10.9.0.{n}:9000")
                } else {
                    format!("[2001:db8:9::{n}]:9000")
                };
                let index = world.backend(&address, if n % 4 == 0 { 0 } else { ALIVE });
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
            world.nat(&format!("{vip}:1000"), protocol, &slots);
        }
        for n in 0..2400 {
            let vip = random.of(vips);
            let protocol = random.of(&[TCP, UDP]);
            let backend = u32::from(random.of(&backends));
            let key = flow_key(
                client(family == "4", n % 800),
                addr(&format!("{vip}:1000")),
                protocol,
            );
            world.flows.push((key, FlowState { backend, recorded: 1 }));
        }
    }
    Ok(world)
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
        false => 1000,
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
    let (src, dst) = match random.below(8) {
        0..=4 => (client, service),
        5 | 6 => (backend, client),
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
    if random.one_in(6) {
        frame.tags =
            vec![(random.of(&[0x8100, 0x88a8]), random.next() as u16); 1 + usize::from(random.one_in(8))];
    }
    if random.one_in(8) {
        frame.options = vec![1; 4 * random.below(11)];
        frame.tcp_options = vec![1; 4 * random.below(11)];
    }
    if random.one_in(20) {
        frame.fragment = random.next() as u16;
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

/// All but the moment of recording, which two clocks tell.
fn placed(flows: &HashMap<FlowKey, FlowState>) -> HashMap<FlowKey, u32> {
    flows.iter().map(|(key, state)| (*key, state.backend)).collect()
}

#[test]
fn host_and_kernel_agree_on_ten_thousand_packets() -> Result<()> {
    Both::run(&World::new(), |both| {
        let world = world()?;
        world.to_kernel(&mut both.kernel)?;
        both.memory = world.to_memory(both.lab, lab::now()?);
        let mut random = Random(20_261_120);
        let mut seen = [0u64; REASON_COUNT];
        for n in 0..10_000 {
            let frame = packet(&mut random);
            both.memory.now = lab::now()?;
            let mut copy = frame.clone();
            let outcome = handle(Window::new(&mut copy), &mut both.memory);
            let run = both.kernel.run(&frame)?;
            let context = || format!("packet {n}, {}: {frame:02x?}", outcome.reason.name());
            let expected = match outcome.reason.verdict() {
                Verdict::Forward => verdict::REDIRECT,
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
        let replies: HashMap<FlowKey, ReturnVip> = both.kernel.return_flows()?;
        ensure!(
            replies == both.memory.return_flows,
            "the tables of shared backends' replies differ"
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
            // An Ethernet header is the least that the kernel runs on, and no helper fails here.
            let never = *reason == Reason::Internal;
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
        ] {
            ensure!(
                seen[note.index() as usize] > 20,
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
