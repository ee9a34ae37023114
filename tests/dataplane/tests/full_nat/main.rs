//! Flows by `full-nat`: begun, gone on with, ended, in the kernel and on the host.

mod backends;
mod packets;

use anyhow::{Context as _, Result, ensure};
use aya::EbpfLoader;
use weir_abi::{
    Backend, FlowKey, NatFlow, NatReply, NatSource, Note, Reason, Settings, Traffic,
    maps::{
        action,
        backend::ALIVE,
        nat::{ANSWERED, BY_RST, FIN_IN, FIN_OUT},
        service,
    },
    names,
};
use weir_dataplane_tests::{
    Both, Frame, Kernel, Lab, World,
    frame::{ACK, FIN, RST, SYN},
    icmp::{Icmp, quote},
    kernel::flow_key,
    lab,
    world::{TCP, UDP, addr, stable},
};

/// One family's addresses.
struct Family {
    client: &'static str,
    vip: &'static str,
    backend: &'static str,
    second: &'static str,
    source: &'static str,
    clients: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "198.51.100.7:40000",
        vip: "192.0.2.10:80",
        backend: "10.9.0.1:8080",
        second: "10.9.0.2:8080",
        source: "10.9.0.200:20000",
        clients: "198.51.100.0/24",
    },
    Family {
        client: "[2001:db8:c::7]:40000",
        vip: "[2001:db8:2::10]:80",
        backend: "[2001:db8:9::1]:8080",
        second: "[2001:db8:9::2]:8080",
        source: "[2001:db8:9::200]:20000",
        clients: "2001:db8:c::/64",
    },
];

/// The service of the family, and the backends' indices.
struct Numbers {
    id: u32,
    first: u16,
    second: u16,
}

/// A service for TCP and UDP with ports from the family's source on; `resolved`: ways are known in advance.
fn world(family: &Family, protocol: u8, ports: u32, resolved: bool) -> (World, Numbers) {
    let mut world = World::new();
    world.settings = Settings {
        nat_tcp_idle: 3600,
        nat_udp_idle: 30,
        nat_time_wait: 60,
        reply_limit: 1000,
        ..world.settings
    };
    let mut hops = [0; 2];
    if resolved {
        hops = [1, 2].map(|n| world.next_hop(lab::backend_hop(n)));
        let gateway = world.next_hop(lab::gateway_hop());
        world.route(family.clients, gateway);
    }
    let first = world.backend_via(family.backend, ALIVE, hops[0]);
    let second = world.backend_via(family.second, ALIVE, hops[1]);
    let id = world.service(action::FULL_NAT, family.vip, protocol, &[stable(first)]);
    let source = addr(family.source);
    world.sources(
        id,
        1,
        &[NatSource {
            addr: source.ip().into(),
            first: u32::from(source.port()),
            count: ports,
        }],
    );
    (world, Numbers { id, first, second })
}

fn packet(protocol: u8, from: &str, to: &str, flags: u8) -> Frame {
    match protocol {
        TCP => Frame::tcp(from, to, flags),
        _ => Frame::udp(from, to),
    }
}

/// The family's source with a port further on.
fn source(family: &Family, more: u16) -> String {
    let mut source = addr(family.source);
    source.set_port(source.port() + more);
    source.to_string()
}

/// A frame as it leaves for backend N from a source.
fn towards(frame: &Frame, n: u8, from: &str, to: &str) -> Frame {
    weir_dataplane_tests::both::to_backend(frame, n, to).with(|f| f.src = addr(from))
}

/// A reply as it leaves for the client.
fn back(frame: &Frame, vip: &str, client: &str) -> Frame {
    weir_dataplane_tests::both::to_client(frame, vip).with(|f| f.dst = addr(client))
}

/// What both tables hold.
type Held = (Vec<(FlowKey, NatFlow)>, Vec<(FlowKey, NatReply)>);

/// Both sides' tables are alike; what they hold.
fn tables(both: &Both) -> Result<Held> {
    let flows = both.kernel.nat_flows()?;
    let replies = both.kernel.nat_replies()?;
    ensure!(
        flows == both.memory.nat_flows,
        "flows {flows:?} are not {:?}",
        both.memory.nat_flows
    );
    ensure!(
        replies == both.memory.nat_replies,
        "replies {replies:?} are not {:?}",
        both.memory.nat_replies
    );
    Ok((flows.into_iter().collect(), replies.into_iter().collect()))
}

/// Forgets on both sides when things happened: the two read their clocks apart. What ended stays so.
fn settle(both: &mut Both) -> Result<()> {
    let now = lab::now()?;
    both.memory.now = now;
    for (key, flow) in both.kernel.nat_flows()? {
        ensure!(flow.recorded.abs_diff(now) <= 5 && flow.seen.abs_diff(now) <= 5);
        let flow = NatFlow {
            recorded: now,
            seen: now,
            ..flow
        };
        both.kernel.record_nat_flow(key, flow)?;
        if let Some(flow) = both.memory.nat_flows.get_mut(&key) {
            (flow.recorded, flow.seen) = (now, now);
        }
    }
    for (key, reply) in both.kernel.nat_replies()? {
        ensure!(reply.seen.abs_diff(now) <= 5);
        let closed = if reply.closed == 0 { 0 } else { now };
        let reply = NatReply {
            seen: now,
            closed,
            ..reply
        };
        both.kernel.record_nat_reply(key, reply)?;
        if let Some(reply) = both.memory.nat_replies.get_mut(&key) {
            reply.seen = now;
            reply.closed = if reply.closed == 0 { 0 } else { now };
        }
    }
    Ok(())
}

/// Changes every entry of replies on both sides.
fn change(both: &mut Both, change: impl Fn(&mut NatReply)) -> Result<()> {
    for (key, mut reply) in both.kernel.nat_replies()? {
        change(&mut reply);
        both.kernel.record_nat_reply(key, reply)?;
    }
    both.memory.nat_replies.values_mut().for_each(change);
    Ok(())
}

/// Replaces a backend on both sides.
fn replace(both: &mut Both, index: u16, change: impl Fn(&mut Backend)) -> Result<()> {
    let backend = &mut both.memory.backends[usize::from(index)];
    change(backend);
    let backend = *backend;
    both.kernel.backend(u32::from(index), backend)
}

#[test]
fn a_flow_of_each_family_and_protocol_by_each_way() -> Result<()> {
    for (family, protocol, resolved) in FAMILIES
        .iter()
        .flat_map(|f| [(f, TCP, true), (f, TCP, false), (f, UDP, true), (f, UDP, false)])
    {
        let (world, numbers) = world(family, protocol, 4, resolved);
        Both::run(&world, |both| {
            let asked: &[Note] = if resolved { &[] } else { &[Note::RouteAsked] };
            let begun = [&[Note::NatAllocated], asked].concat();
            let Family {
                client, vip, backend, ..
            } = *family;
            let from = source(family, 0);
            let first = packet(protocol, client, vip, SYN);
            both.becomes(
                &first,
                Reason::ForwardFullNat,
                &begun,
                &towards(&first, 1, &from, backend),
            );
            let answer = packet(protocol, backend, &from, SYN | ACK);
            both.becomes(&answer, Reason::ReturnFullNat, asked, &back(&answer, vip, client));
            for payload in [&b"odd"[..], b"even", b""] {
                let next = packet(protocol, client, vip, ACK).with(|f| f.payload = payload.to_vec());
                both.becomes(
                    &next,
                    Reason::ForwardFullNat,
                    asked,
                    &towards(&next, 1, &from, backend),
                );
                let answer = packet(protocol, backend, &from, ACK).with(|f| f.payload = payload.to_vec());
                both.becomes(&answer, Reason::ReturnFullNat, asked, &back(&answer, vip, client));
            }
            settle(both)?;
            let (flows, replies) = tables(both)?;
            let [(flow, to)] = flows[..] else {
                panic!("{flows:?}")
            };
            assert_eq!(flow, flow_key(addr(client), addr(vip), protocol));
            assert_eq!(
                (to.source.to_ip(), to.port, to.backend),
                (
                    addr(&from).ip(),
                    u32::from(addr(&from).port().to_be()),
                    u32::from(numbers.first)
                )
            );
            let [(reply, to)] = replies[..] else {
                panic!("{replies:?}")
            };
            assert_eq!(reply, flow_key(addr(backend), addr(&from), protocol));
            assert_eq!(
                (to.client.to_ip(), to.vip.to_ip(), to.packets, to.flags, to.closed),
                (addr(client).ip(), addr(vip).ip(), 4, ANSWERED, 0)
            );
            let traffic = both.kernel.service_traffic(numbers.id)?;
            let expected = Traffic {
                packets_in: 4,
                packets_out: 4,
                flows: 1,
                ..traffic
            };
            assert_eq!(traffic, expected);
            assert_eq!(both.kernel.backend_traffic(u32::from(numbers.first))?, traffic);
            assert_eq!(both.memory.service_traffic[&numbers.id], traffic);
            assert_eq!(to.bytes, traffic.bytes_out);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn tcp_that_is_not_known_is_dropped_and_udp_begins() -> Result<()> {
    for family in &FAMILIES {
        let (world, _) = world(family, TCP, 4, true);
        Both::run(&world, |both| {
            for flags in [ACK, FIN | ACK, RST, SYN | ACK, 0] {
                let frame = Frame::tcp(family.client, family.vip, flags);
                both.stays(&frame.build(), Reason::NatUnknown);
            }
            // A reply that nobody waits for may be for the box itself, which has the address.
            let frame = Frame::tcp(family.backend, family.source, ACK);
            both.stays(&frame.build(), Reason::NoService);
            let frame = Frame::tcp(family.client, family.vip, SYN).with(|f| f.hops = 1);
            told(both, &frame)?;
            tables(both).map(|(flows, replies)| assert!(flows.is_empty() && replies.is_empty()))
        })?;
    }
    Ok(())
}

#[test]
fn a_port_comes_again_when_all_others_were_taken() -> Result<()> {
    for (family, protocol) in FAMILIES.iter().flat_map(|f| [(f, TCP), (f, UDP)]) {
        let (world, _) = world(family, protocol, 3, true);
        Both::run(&world, |both| {
            let now = lab::now()?;
            both.memory.now = now;
            let client = |n: u16| {
                let mut client = addr(family.client);
                client.set_port(1000 + n);
                client.to_string()
            };
            for n in 0..3 {
                let frame = packet(protocol, &client(n), family.vip, SYN);
                let expected = towards(&frame, 1, &source(family, n), family.backend);
                both.becomes(&frame, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
            }
            let fourth = packet(protocol, &client(3), family.vip, SYN);
            both.stays(&fourth.build(), Reason::PortsExhausted);
            // TIME_WAIT is over for all three: the one that is the longest free comes first.
            change(both, |reply| reply.closed = now.saturating_sub(100))?;
            let cursor = 3 + u16::try_from(weir_abi::maps::nat::TRIES)?;
            let expected = towards(&fourth, 1, &source(family, cursor % 3), family.backend);
            both.becomes(
                &fourth,
                Reason::ForwardFullNat,
                &[Note::NatAllocated, Note::NatReused],
                &expected,
            );
            settle_all(both, now)?;
            let (flows, replies) = tables(both)?;
            assert_eq!((flows.len(), replies.len()), (3, 3), "the old flow is gone");
            let gone = flow_key(addr(&client(cursor % 3)), addr(family.vip), protocol);
            assert!(flows.iter().all(|(key, _)| *key != gone));
            Ok(())
        })?;
    }
    Ok(())
}

/// Writes one time into everything, so that the tables can be compared.
fn settle_all(both: &mut Both, now: u32) -> Result<()> {
    change(both, |reply| (reply.seen, reply.closed) = (now, 0))?;
    for (key, mut flow) in both.kernel.nat_flows()? {
        (flow.recorded, flow.seen) = (now, now);
        both.kernel.record_nat_flow(key, flow)?;
    }
    for flow in both.memory.nat_flows.values_mut() {
        (flow.recorded, flow.seen) = (now, now);
    }
    Ok(())
}

#[test]
fn an_ended_flow_rests_and_its_client_begins_anew() -> Result<()> {
    for family in &FAMILIES {
        let Family {
            client, vip, backend, ..
        } = *family;
        for end in ["fins", "reset by the client", "reset by the backend"] {
            let (world, _) = world(family, TCP, 4, true);
            Both::run(&world, |both| {
                let from = source(family, 0);
                let to = |flags: u8| {
                    let frame = Frame::tcp(client, vip, flags);
                    (frame.clone(), towards(&frame, 1, &from, backend))
                };
                let answer = |flags: u8| {
                    let frame = Frame::tcp(backend, &from, flags);
                    (frame.clone(), back(&frame, vip, client))
                };
                let (frame, expected) = to(SYN);
                both.becomes(&frame, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
                // Sent again, before the answer and after it: the same port.
                both.becomes(&frame, Reason::ForwardFullNat, &[], &expected);
                let (accepted, accepting) = answer(SYN | ACK);
                both.becomes(&accepted, Reason::ReturnFullNat, &[], &accepting);
                both.becomes(&frame, Reason::ForwardFullNat, &[], &expected);
                let closed = &[Note::FlowClosed][..];
                match end {
                    "fins" => {
                        let (fin, expected) = answer(FIN | ACK);
                        both.becomes(&fin, Reason::ReturnFullNat, &[], &expected);
                        let (fin, expected) = to(FIN | ACK);
                        both.becomes(&fin, Reason::ForwardFullNat, closed, &expected);
                        // Sent again, it ends nothing.
                        both.becomes(&fin, Reason::ForwardFullNat, &[], &expected);
                    }
                    "reset by the client" => {
                        let (rst, expected) = to(RST);
                        both.becomes(&rst, Reason::ForwardFullNat, closed, &expected);
                    }
                    _ => {
                        let (rst, expected) = answer(RST);
                        both.becomes(&rst, Reason::ReturnFullNat, closed, &expected);
                    }
                }
                // What is still under way passes.
                let (late, expected) = answer(ACK);
                both.becomes(&late, Reason::ReturnFullNat, &[], &expected);
                settle(both)?;
                let (_, replies) = tables(both)?;
                let [(_, reply)] = replies[..] else {
                    panic!("{replies:?}")
                };
                assert!(reply.closed != 0);
                assert_eq!(
                    reply.flags,
                    ANSWERED | if end == "fins" { FIN_IN | FIN_OUT } else { BY_RST }
                );
                let (again, _) = to(SYN);
                let expected = towards(&again, 1, &source(family, 1), backend);
                both.becomes(&again, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
                settle(both)?;
                let (flows, replies) = tables(both)?;
                assert_eq!((flows.len(), replies.len()), (1, 2));
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// A frame whose hops are used up: its sender is told so.
fn told(both: &mut Both, frame: &Frame) -> Result<()> {
    let kind = if frame.src.is_ipv4() { [11, 0] } else { [3, 0] };
    let bytes = frame.build();
    let quoted = (bytes.len() - frame.network_at()) & !3;
    let answer = Icmp::answers(frame, kind, [0; 4], quoted).build();
    both.check(&bytes, Reason::TtlExpiredSent, &[], Some(&answer))
}

#[test]
fn a_full_table_says_so() -> Result<()> {
    let family = &FAMILIES[0];
    let (world, _) = world(family, TCP, 64, true);
    Lab::run(|_| {
        for (flows, replies) in [(4, 64), (64, 4)] {
            let mut loader = EbpfLoader::new();
            loader
                .map_max_entries(names::RINGS, 4096)
                .map_max_entries(names::NAT_FLOWS, flows)
                .map_max_entries(names::NAT_REPLIES, replies);
            let mut kernel = Kernel::load_with(&mut loader)?;
            world.to_kernel(&mut kernel)?;
            for n in 0..10 {
                kernel.run(&Frame::tcp(&format!("198.51.100.7:{}", 1 + n), family.vip, SYN).build())?;
            }
            let counters = kernel.counters()?;
            ensure!(counters.reason(Reason::ForwardFullNat) == 4);
            ensure!(counters.reason(Reason::NatTableFull) == 6);
            // What was taken for a flow that did not begin is given back.
            ensure!(kernel.nat_flows()?.len() == 4 && kernel.nat_replies()?.len() == 4);
        }
        Ok(())
    })
}

#[test]
fn a_flow_whose_port_was_given_away_is_not_known_any_more() -> Result<()> {
    for (family, protocol) in FAMILIES.iter().flat_map(|f| [(f, TCP), (f, UDP)]) {
        let (world, _) = world(family, protocol, 4, true);
        Both::run(&world, |both| {
            let first = packet(protocol, family.client, family.vip, SYN);
            let expected = towards(&first, 1, &source(family, 0), family.backend);
            both.becomes(&first, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
            // Another client has it, and the flow was silent for a while.
            change(both, |reply| reply.client.words[3] ^= 1)?;
            for (key, mut flow) in both.kernel.nat_flows()? {
                flow.seen = flow.seen.saturating_sub(10);
                both.kernel.record_nat_flow(key, flow)?;
            }
            for flow in both.memory.nat_flows.values_mut() {
                flow.seen = flow.seen.saturating_sub(10);
            }
            let next = packet(protocol, family.client, family.vip, ACK);
            if protocol == TCP {
                both.stays(&next.build(), Reason::NatUnknown);
                assert!(tables(both)?.0.is_empty());
            } else {
                let expected = towards(&next, 1, &source(family, 1), family.backend);
                both.becomes(&next, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
            }
            Ok(())
        })?;
    }
    Ok(())
}
