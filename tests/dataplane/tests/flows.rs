//! The flow rule: which backend takes a packet, what is asked for it and what is remembered, in the kernel and on the
//! host.

use anyhow::{Context as _, Result, ensure};
use aya::EbpfLoader;
use weir_abi::{
    FlowState, Note, QuicKey, Reason, Settings, Slot,
    maps::{backend::ALIVE, service},
    names,
};
use weir_dataplane_tests::{
    Both, Frame, Kernel, Lab, World,
    both::to_backend,
    frame::{ACK, SYN},
    kernel::{Counters, flow_key},
    lab,
    world::{TCP, UDP, addr, stable},
};
use weir_fastpath::{handle, memory::Asked};

const CLIENT: &str = "198.51.100.7:40000";
const VIP: &str = "192.0.2.10:80";

/// Backends of the tests below: 1 is the old one, 2 the new one, 3 another one.
const OLD: u16 = 1;
const NEW: u16 = 2;
const OTHER: u16 = 3;

/// Three backends, and a slot for both protocols.
fn world(slot: Slot, alive: [bool; 3]) -> World {
    let mut world = World::new();
    world.settings = Settings {
        tcp_grace: 30,
        udp_grace: 60,
        horizon: 90,
        ..world.settings
    };
    for (n, alive) in (1..).zip(alive) {
        world.backend(&format!("10.9.0.{n}:8080"), if alive { ALIVE } else { 0 });
    }
    for protocol in [TCP, UDP] {
        world.nat(VIP, protocol, &[slot]);
    }
    world.resolve();
    world
}

/// A slot that went from the old backend to the new one this many seconds ago.
fn changed(ago: u32) -> Result<Slot> {
    let changed = lab::now()?
        .checked_sub(ago)
        .context("the machine has been up for less than a minute")?;
    Ok(Slot {
        current: NEW,
        previous: OLD,
        changed,
    })
}

fn packet(protocol: u8, flags: u8) -> Frame {
    if protocol == TCP {
        Frame::tcp(CLIENT, VIP, flags)
    } else {
        Frame::udp(CLIENT, VIP)
    }
}

/// One case: a packet, what the table knows of its flow, and who must take it.
struct Case {
    what: &'static str,
    protocol: u8,
    /// Flags of TCP.
    flags: u8,
    /// Seconds since the slot changed.
    ago: u32,
    /// Old, new, other.
    alive: [bool; 3],
    /// The backend that the flow table knows.
    recorded: Option<u16>,
    /// Who takes it. None: nobody, it is dropped.
    takes: Option<u16>,
    notes: &'static [Note],
    /// Whom the flow table knows afterwards.
    after: Option<u16>,
}

const ALL: [bool; 3] = [true; 3];

/// Seconds since the change, with a `tcp_grace` of 30, a `udp_grace` of 60 and a `horizon` of 90. They keep well away from
/// the borders, which are tested with the library: here time goes on.
const IN_GRACE: u32 = 10;
const AFTER_TCP_GRACE: u32 = 40;
const AFTER_UDP_GRACE: u32 = 70;
const BEYOND: u32 = 100;

const CASES: &[Case] = &[
    Case {
        what: "a SYN takes the current one and is recorded",
        protocol: TCP,
        flags: SYN,
        ago: IN_GRACE,
        alive: ALL,
        recorded: None,
        takes: Some(NEW),
        notes: &[Note::FlowRecorded],
        after: Some(NEW),
    },
    Case {
        what: "a SYN replaces the record of an older flow of the same address",
        protocol: TCP,
        flags: SYN,
        ago: IN_GRACE,
        alive: ALL,
        recorded: Some(OLD),
        takes: Some(NEW),
        notes: &[Note::FlowRecorded],
        after: Some(NEW),
    },
    Case {
        what: "a SYN does not go to a dead one",
        protocol: TCP,
        flags: SYN,
        ago: IN_GRACE,
        alive: [true, false, true],
        recorded: None,
        takes: None,
        notes: &[],
        after: None,
    },
    Case {
        what: "a recorded flow stays",
        protocol: TCP,
        flags: ACK,
        ago: IN_GRACE,
        alive: ALL,
        recorded: Some(OLD),
        takes: Some(OLD),
        notes: &[Note::FlowLookup, Note::FlowHit],
        after: Some(OLD),
    },
    Case {
        what: "… after the grace",
        protocol: TCP,
        flags: ACK,
        ago: AFTER_UDP_GRACE,
        alive: ALL,
        recorded: Some(OLD),
        takes: Some(OLD),
        notes: &[Note::FlowLookup, Note::FlowHit],
        after: Some(OLD),
    },
    Case {
        what: "… with one that is neither previous nor current",
        protocol: TCP,
        flags: ACK,
        ago: IN_GRACE,
        alive: ALL,
        recorded: Some(OTHER),
        takes: Some(OTHER),
        notes: &[Note::FlowLookup, Note::FlowHit],
        after: Some(OTHER),
    },
    Case {
        what: "a dead one's flow goes to the current one, and is remembered there",
        protocol: TCP,
        flags: ACK,
        ago: IN_GRACE,
        alive: [false, true, true],
        recorded: Some(OLD),
        takes: Some(NEW),
        notes: &[Note::FlowLookup, Note::FlowHit, Note::FlowRemapped],
        after: Some(NEW),
    },
    Case {
        what: "a dead one's flow with nobody to take it",
        protocol: TCP,
        flags: ACK,
        ago: IN_GRACE,
        alive: [false, false, true],
        recorded: Some(OLD),
        takes: None,
        notes: &[Note::FlowLookup, Note::FlowHit],
        after: Some(OLD),
    },
    Case {
        what: "an unrecorded flow is taken for an older one for a while",
        protocol: TCP,
        flags: ACK,
        ago: IN_GRACE,
        alive: ALL,
        recorded: None,
        takes: Some(OLD),
        notes: &[Note::FlowLookup],
        after: None,
    },
    Case {
        what: "… and then no more",
        protocol: TCP,
        flags: ACK,
        ago: AFTER_TCP_GRACE,
        alive: ALL,
        recorded: None,
        takes: Some(NEW),
        notes: &[Note::FlowLookup],
        after: None,
    },
    Case {
        what: "… nor if the older one is dead",
        protocol: TCP,
        flags: ACK,
        ago: IN_GRACE,
        alive: [false, true, true],
        recorded: None,
        takes: Some(NEW),
        notes: &[Note::FlowLookup],
        after: None,
    },
    Case {
        what: "beyond the horizon the ring alone decides",
        protocol: TCP,
        flags: ACK,
        ago: BEYOND,
        alive: ALL,
        recorded: Some(OLD),
        takes: Some(NEW),
        notes: &[],
        after: Some(OLD),
    },
    Case {
        what: "UDP: a recorded flow stays",
        protocol: UDP,
        flags: 0,
        ago: AFTER_UDP_GRACE,
        alive: ALL,
        recorded: Some(OLD),
        takes: Some(OLD),
        notes: &[Note::FlowLookup, Note::FlowHit],
        after: Some(OLD),
    },
    Case {
        what: "UDP: a dead one's flow goes to the current one",
        protocol: UDP,
        flags: 0,
        ago: AFTER_UDP_GRACE,
        alive: [false, true, true],
        recorded: Some(OLD),
        takes: Some(NEW),
        notes: &[Note::FlowLookup, Note::FlowHit, Note::FlowRemapped],
        after: Some(NEW),
    },
    Case {
        what: "UDP: an unrecorded flow is taken for an older one, and from then on is one",
        protocol: UDP,
        flags: 0,
        ago: AFTER_TCP_GRACE,
        alive: ALL,
        recorded: None,
        takes: Some(OLD),
        notes: &[Note::FlowLookup, Note::FlowRecorded],
        after: Some(OLD),
    },
    Case {
        what: "UDP: … and then no more",
        protocol: UDP,
        flags: 0,
        ago: AFTER_UDP_GRACE,
        alive: ALL,
        recorded: None,
        takes: Some(NEW),
        notes: &[Note::FlowLookup],
        after: None,
    },
    Case {
        what: "UDP: … nor if the older one is dead",
        protocol: UDP,
        flags: 0,
        ago: AFTER_TCP_GRACE,
        alive: [false, true, true],
        recorded: None,
        takes: Some(NEW),
        notes: &[Note::FlowLookup],
        after: None,
    },
    Case {
        what: "UDP: beyond the horizon the ring alone decides",
        protocol: UDP,
        flags: 0,
        ago: BEYOND,
        alive: ALL,
        recorded: Some(OLD),
        takes: Some(NEW),
        notes: &[],
        after: Some(OLD),
    },
];

#[test]
fn the_rule_case_by_case() -> Result<()> {
    Both::run(&World::new(), |both| {
        for case in CASES {
            // First: it may take a while, and the case's times begin with its world.
            both.kernel = Kernel::load()?;
            let mut world = world(changed(case.ago)?, case.alive);
            let key = flow_key(addr(CLIENT), addr(VIP), case.protocol);
            if let Some(backend) = case.recorded {
                world.flows.push((
                    key,
                    FlowState {
                        backend: u32::from(backend),
                        recorded: 1,
                        ..FlowState::default()
                    },
                ));
            }
            world.to_kernel(&mut both.kernel)?;
            both.memory = world.to_memory(both.lab, lab::now()?);

            let frame = packet(case.protocol, case.flags);
            let sent = case
                .takes
                .map(|n| to_backend(&frame, n as u8, &format!("10.9.0.{n}:8080")).build());
            let reason = if sent.is_some() {
                Reason::ForwardNat
            } else {
                Reason::NoBackend
            };
            both.check(&frame.build(), reason, case.notes, sent.as_deref())
                .context(case.what)?;

            let after = case.after.map(u32::from);
            let known = both.kernel.flow(key)?;
            ensure!(
                known.map(|state| state.backend) == after,
                "{}: the kernel knows {known:?}",
                case.what
            );
            let known = both.memory.flows.get(&key);
            ensure!(
                known.map(|state| state.backend) == after,
                "{}: the host knows {known:?}",
                case.what
            );
        }
        Ok(())
    })
}

/// What the whole design rests on: towards a backend, a flow whose slot is stable costs neither a clock nor a flow table.
#[test]
fn a_stable_ring_asks_neither_clock_nor_flow_table() -> Result<()> {
    let world = world(stable(NEW), ALL);
    Both::run(&world, |both| {
        // A record that says otherwise: it must not be seen.
        for protocol in [TCP, UDP] {
            let (key, state) = (
                flow_key(addr(CLIENT), addr(VIP), protocol),
                FlowState {
                    backend: u32::from(OLD),
                    recorded: 1,
                    ..FlowState::default()
                },
            );
            both.kernel.record_flow(key, state)?;
            both.memory.flows.insert(key, state);
            let frame = packet(protocol, ACK);
            for _ in 0..3 {
                both.becomes(
                    &frame,
                    Reason::ForwardNat,
                    &[],
                    &to_backend(&frame, 2, "10.9.0.2:8080"),
                );
            }
            ensure!(both.kernel.flow(key)? == Some(state), "the record is as it was");
        }
        ensure!(
            both.memory.asked.clock == 0 && both.memory.asked.flows == 0,
            "{:?}",
            both.memory.asked
        );
        Ok(())
    })
}

#[test]
fn a_syn_reads_the_clock_and_writes_one_record() -> Result<()> {
    Both::run(&world(stable(NEW), ALL), |both| {
        let frame = packet(TCP, SYN);
        let before = lab::now()?;
        both.becomes(
            &frame,
            Reason::ForwardNat,
            &[Note::FlowRecorded],
            &to_backend(&frame, 2, "10.9.0.2:8080"),
        );
        let flow = both
            .kernel
            .flow(flow_key(addr(CLIENT), addr(VIP), TCP))?
            .context("recorded")?;
        ensure!(
            (before.saturating_sub(1)..=lab::now()?).contains(&flow.recorded),
            "{flow:?}, now {before}"
        );
        ensure!(
            both.memory.asked
                == Asked {
                    clock: 1,
                    exact_clock: 0,
                    // A tuple that is used again is written in place.
                    flows: 1,
                    slots: 1,
                    last_slot: Some(0)
                }
        );
        Ok(())
    })
}

/// A backend drains: its slots go to others, its flows stay until they end.
#[test]
fn draining_keeps_flows_and_takes_no_new_ones() -> Result<()> {
    Both::run(&world(stable(OLD), ALL), |both| {
        let syn = packet(TCP, SYN);
        both.becomes(
            &syn,
            Reason::ForwardNat,
            &[Note::FlowRecorded],
            &to_backend(&syn, 1, "10.9.0.1:8080"),
        );
        let slot = changed(IN_GRACE)?;
        both.kernel.ring(0, &[slot])?;
        both.memory.rings[0] = slot;
        let ack = packet(TCP, ACK);
        let kept = [Note::FlowLookup, Note::FlowHit];
        both.becomes(
            &ack,
            Reason::ForwardNat,
            &kept,
            &to_backend(&ack, 1, "10.9.0.1:8080"),
        );
        let fresh = Frame::tcp("198.51.100.8:1", VIP, SYN);
        both.becomes(
            &fresh,
            Reason::ForwardNat,
            &[Note::FlowRecorded],
            &to_backend(&fresh, 2, "10.9.0.2:8080"),
        );
        // All drain: nobody takes new flows, the old ones go on.
        let slot = Slot {
            current: 0,
            previous: NEW,
            changed: slot.changed,
        };
        both.kernel.ring(0, &[slot])?;
        both.memory.rings[0] = slot;
        both.stays(&Frame::tcp("198.51.100.9:1", VIP, SYN).build(), Reason::NoBackend);
        both.becomes(
            &ack,
            Reason::ForwardNat,
            &kept,
            &to_backend(&ack, 1, "10.9.0.1:8080"),
        );
        Ok(())
    })
}

#[test]
fn beyond_the_limit_flows_are_forwarded_unrecorded() -> Result<()> {
    let mut world = world(stable(NEW), ALL);
    world.settings.record_limit = 50;
    Both::run(&world, |both| {
        const SYNS: u64 = 400;
        let before = lab::now()?;
        for n in 0..SYNS {
            let frame = Frame::tcp(&format!("198.51.100.7:{}", 1000 + n), VIP, SYN);
            let run = both.kernel.run(&frame.build())?;
            ensure!(run.frame == to_backend(&frame, 2, "10.9.0.2:8080").build());
            handle(&mut frame.build(), &mut both.memory);
        }
        let seconds = u64::from(lab::now()? - before) + 1;
        let Counters(counters) = both.kernel.counters()?;
        let count = |note: Note| counters[note.index() as usize];
        ensure!(count(Note::FlowRecorded) + count(Note::FlowRecordLimited) == SYNS);
        // The limit holds for each second that the test lasted, the first and the last included.
        ensure!(
            (50..=50 * (seconds + 1)).contains(&count(Note::FlowRecorded)),
            "{}",
            count(Note::FlowRecorded)
        );
        ensure!(both.kernel.flows()?.len() as u64 == count(Note::FlowRecorded));
        ensure!(
            both.memory.noted(Note::FlowRecorded) == 50
                && both.memory.noted(Note::FlowRecordLimited) == SYNS - 50
        );
        Ok(())
    })
}

/// Beyond the limit, in a slot that changed a short while ago: the handshake's last packet comes to the same backend as its
/// first.
#[test]
fn what_is_not_recorded_goes_where_the_next_packet_will() -> Result<()> {
    for (alive, recorded, takes, notes) in [
        (ALL, None, OLD, &[][..]),
        ([false, true, true], None, NEW, &[]),
        (ALL, Some(OTHER), OTHER, &[Note::FlowHit]),
        (
            [true, true, false],
            Some(OTHER),
            NEW,
            &[Note::FlowHit, Note::FlowRemapped],
        ),
    ] {
        let mut world = world(changed(IN_GRACE)?, alive);
        world.settings.record_limit = 0;
        // Loading the programs may take a while.
        (world.settings.tcp_grace, world.settings.horizon) = (3600, 3600);
        world.flows.extend(recorded.map(|backend: u16| {
            let state = FlowState {
                backend: u32::from(backend),
                recorded: 1,
                ..FlowState::default()
            };
            (flow_key(addr(CLIENT), addr(VIP), TCP), state)
        }));
        Both::run(&world, |both| {
            let (syn, ack) = (packet(TCP, SYN), packet(TCP, ACK));
            let sent = |frame: &Frame| to_backend(frame, takes as u8, &format!("10.9.0.{takes}:8080"));
            let mut counted = vec![Note::FlowRecordLimited, Note::FlowLookup];
            counted.extend(notes);
            both.becomes(&syn, Reason::ForwardNat, &counted, &sent(&syn));
            let mut counted = vec![Note::FlowLookup];
            counted.extend(recorded.map(|_| Note::FlowHit));
            both.becomes(&ack, Reason::ForwardNat, &counted, &sent(&ack));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_new_second_is_a_new_limit() -> Result<()> {
    let mut world = world(stable(NEW), ALL);
    world.settings.record_limit = 2;
    Both::run(&world, |both| {
        for (now, recorded) in [(100, 2), (101, 4), (101, 4), (103, 6)] {
            both.memory.now = now;
            for _ in 0..3 {
                handle(&mut packet(TCP, SYN).build(), &mut both.memory);
            }
            ensure!(both.memory.noted(Note::FlowRecorded) == recorded, "at {now}");
        }
        Ok(())
    })
}

#[test]
fn a_limit_of_nothing_records_nothing() -> Result<()> {
    let mut world = world(stable(NEW), ALL);
    world.settings.record_limit = 0;
    Both::run(&world, |both| {
        let frame = packet(TCP, SYN);
        both.becomes(
            &frame,
            Reason::ForwardNat,
            &[Note::FlowRecordLimited],
            &to_backend(&frame, 2, "10.9.0.2:8080"),
        );
        ensure!(both.kernel.flows()?.is_empty() && both.memory.flows.is_empty());
        Ok(())
    })
}

/// A full table is no fault: the flow is forwarded, and follows its slot from then on.
#[test]
fn a_full_table_records_no_more() -> Result<()> {
    Lab::run(|_| {
        let mut loader = EbpfLoader::new();
        let mut kernel = Kernel::load_with(loader.map_max_entries(names::FLOWS, 8))?;
        world(stable(NEW), ALL).to_kernel(&mut kernel)?;
        for port in 1..=100 {
            let syn = Frame::tcp(&format!("198.51.100.7:{port}"), VIP, SYN);
            let run = kernel.run(&syn.build())?;
            ensure!(run.frame == to_backend(&syn, 2, "10.9.0.2:8080").build());
        }
        let counters = kernel.counters()?;
        let (recorded, failed) = (
            counters.note(Note::FlowRecorded),
            counters.note(Note::FlowRecordFailed),
        );
        ensure!(
            recorded == kernel.flows()?.len() as u64 && recorded >= 8,
            "{counters:?}"
        );
        ensure!(recorded + failed == 100 && failed > 50, "{counters:?}");
        Ok(())
    })
}

#[test]
fn a_quic_connection_goes_where_its_id_says() -> Result<()> {
    let mut world = world(stable(NEW), [true, true, false]);
    let id = world.services[1].1.id;
    world.change(id, |service| {
        service.flags |= service::HASH_QUIC | 2 << service::QUIC_LEN_SHIFT;
    });
    let other_family = world.backend("[2001:db8:9::9]:8080", ALIVE);
    for (server, backend) in [(0xbbaa, OLD), (0xddcc, OTHER), (0xffee, other_family)] {
        let key = QuicKey {
            id: server,
            service: id,
            len: 2,
        };
        world.quic_ids.push((key, u32::from(backend)));
    }
    Both::run(&world, |both| {
        let short = |server: [u8; 2]| [&[0x40, 0x07], &server[..], &[9; 20]].concat();
        for (payload, backend, note) in [
            (short([0xaa, 0xbb]), OLD, Note::QuicId),
            // Of a backend that is dead, of one that can't be reached by IPv4, of nobody, and no QUIC at all.
            (short([0xcc, 0xdd]), NEW, Note::QuicFallback),
            (short([0xee, 0xff]), NEW, Note::QuicFallback),
            (short([1, 2]), NEW, Note::QuicFallback),
            (
                vec![0xc0, 0, 0, 0, 1, 8, 7, 0xaa, 0xbb, 9, 9, 9, 9, 9, 9, 9],
                NEW,
                Note::QuicFallback,
            ),
            (vec![0x40], NEW, Note::QuicFallback),
        ] {
            let frame = packet(UDP, 0).with(|f| f.payload = payload);
            let to = to_backend(&frame, backend as u8, &format!("10.9.0.{backend}:8080"));
            both.becomes(&frame, Reason::ForwardNat, &[note], &to);
        }
        Ok(())
    })
}
