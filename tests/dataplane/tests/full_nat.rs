//! Flows by `full-nat`: begun, gone on with, ended, in the kernel and on the host.

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

#[test]
fn flows_stay_with_a_draining_backend_and_leave_a_dead_one() -> Result<()> {
    for (family, protocol, reset) in FAMILIES
        .iter()
        .flat_map(|f| [(f, TCP, false), (f, TCP, true), (f, UDP, false), (f, UDP, true)])
    {
        let (mut world, numbers) = world(family, protocol, 4, true);
        if reset {
            world.change(numbers.id, |service| service.flags |= service::RESET);
        }
        Both::run(&world, |both| {
            let Family {
                client,
                vip,
                backend,
                second,
                ..
            } = *family;
            let from = source(family, 0);
            let begin = packet(protocol, client, vip, SYN);
            let expected = towards(&begin, 1, &from, backend);
            both.becomes(&begin, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);

            // Draining: the ring has another, the backend keeps what it has.
            let slot = stable(numbers.second);
            both.kernel.ring(0, &[slot])?;
            both.memory.rings[0] = slot;
            let next = packet(protocol, client, vip, ACK);
            let expected = towards(&next, 1, &from, backend);
            both.becomes(&next, Reason::ForwardFullNat, &[], &expected);
            // A SYN that was not answered yet, too.
            if protocol == TCP {
                let expected = towards(&begin, 1, &from, backend);
                both.becomes(&begin, Reason::ForwardFullNat, &[], &expected);
            }

            replace(both, numbers.first, |backend| backend.flags = 0)?;
            if reset {
                let outcome = both.verdict(&next.build())?;
                let expected = match protocol {
                    TCP => Reason::ResetSent,
                    _ => Reason::UnreachableSent,
                };
                assert_eq!(outcome, expected);
                settle(both)?;
                let (_, replies) = tables(both)?;
                assert!(replies.iter().all(|(_, reply)| reply.closed != 0));
                return Ok(());
            }
            let expected = towards(&next, 2, &source(family, 1), second);
            both.becomes(
                &next,
                Reason::ForwardFullNat,
                &[Note::FlowClosed, Note::NatAllocated, Note::FlowRemapped],
                &expected,
            );
            both.becomes(&next, Reason::ForwardFullNat, &[], &expected);
            settle(both)?;
            let (flows, _) = tables(both)?;
            let [(_, flow)] = flows[..] else {
                panic!("{flows:?}")
            };
            assert_eq!(flow.backend, u32::from(numbers.second));
            assert_eq!(both.kernel.service_traffic(numbers.id)?.flows, 1);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_answered_flow_with_a_draining_backend_gives_way_to_a_syn() -> Result<()> {
    let family = &FAMILIES[0];
    let (world, numbers) = world(family, TCP, 4, true);
    Both::run(&world, |both| {
        let from = source(family, 0);
        let syn = Frame::tcp(family.client, family.vip, SYN);
        let expected = towards(&syn, 1, &from, family.backend);
        both.becomes(&syn, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
        let answer = Frame::tcp(family.backend, &from, SYN | ACK);
        let expected = back(&answer, family.vip, family.client);
        both.becomes(&answer, Reason::ReturnFullNat, &[], &expected);
        let slot = stable(numbers.second);
        both.kernel.ring(0, &[slot])?;
        both.memory.rings[0] = slot;
        let expected = towards(&syn, 2, &source(family, 1), family.second);
        let notes = [Note::FlowClosed, Note::NatAllocated];
        both.becomes(&syn, Reason::ForwardFullNat, &notes, &expected);
        // The old connection's last words still arrive.
        let expected = back(&answer, family.vip, family.client);
        both.becomes(&answer, Reason::ReturnFullNat, &[], &expected);
        Ok(())
    })
}

#[test]
fn without_backends_known_flows_go_on() -> Result<()> {
    let family = &FAMILIES[0];
    for protocol in [TCP, UDP] {
        let (world, numbers) = world(family, protocol, 4, true);
        Both::run(&world, |both| {
            let frame = packet(protocol, family.client, family.vip, SYN);
            let expected = towards(&frame, 1, &source(family, 0), family.backend);
            both.becomes(&frame, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
            for (key, mut service) in world.services.clone() {
                if service.id == numbers.id {
                    service.ring_len = 0;
                    both.kernel.service(key, service)?;
                    both.memory.services.insert(key, service);
                }
            }
            let next = packet(protocol, family.client, family.vip, ACK);
            let expected = towards(&next, 1, &source(family, 0), family.backend);
            both.becomes(&next, Reason::ForwardFullNat, &[], &expected);
            let other = packet(protocol, "198.51.100.8:1", family.vip, SYN);
            both.stays(&other.build(), Reason::NoBackend);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn sizes_and_segment_sizes_are_those_of_the_way() -> Result<()> {
    for family in &FAMILIES {
        let (mut world, numbers) = world(family, TCP, 4, true);
        world.change(numbers.id, |service| service.flags |= 1300 << service::MSS_SHIFT);
        world.next_hops[3].mtu = 1400;
        Both::run(&world, |both| {
            let mss = |mss: u16| {
                let [a, b] = mss.to_be_bytes();
                vec![1, 1, 2, 4, a, b, 0, 0]
            };
            let from = source(family, 0);
            let syn = Frame::tcp(family.client, family.vip, SYN).with(|f| f.tcp_options = mss(1460));
            let expected = towards(&syn, 1, &from, family.backend).with(|f| f.tcp_options = mss(1300));
            let notes = [Note::NatAllocated, Note::MssClamped];
            both.becomes(&syn, Reason::ForwardFullNat, &notes, &expected);
            let answer = Frame::tcp(family.backend, &from, SYN | ACK).with(|f| f.tcp_options = mss(1460));
            let expected = back(&answer, family.vip, family.client).with(|f| f.tcp_options = mss(1300));
            both.becomes(&answer, Reason::ReturnFullNat, &[Note::MssClamped], &expected);
            let large = Frame::tcp(family.client, family.vip, ACK).with(|f| f.payload = vec![7; 1490]);
            let outcome = both.verdict(&large.build())?;
            assert_eq!(outcome, Reason::TooBigSent);
            Ok(())
        })?;
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
fn hops_that_are_used_up_change_nothing_of_a_flow() -> Result<()> {
    for (family, resolved) in FAMILIES
        .iter()
        .flat_map(|family| [(family, true), (family, false)])
    {
        let (world, _) = world(family, TCP, 4, resolved);
        Both::run(&world, |both| {
            let from = source(family, 0);
            let last = |f: &mut Frame| f.hops = 1;
            let first = Frame::tcp(family.client, family.vip, SYN);
            both.verdict(&first.build())?;
            // Neither does the end count, of either side.
            for flags in [ACK, ACK | FIN, RST] {
                told(both, &Frame::tcp(family.client, family.vip, flags).with(last))?;
                told(both, &Frame::tcp(family.backend, &from, flags).with(last))?;
            }
            let asked: &[Note] = if resolved { &[] } else { &[Note::RouteAsked] };
            let frame = Frame::tcp(family.client, family.vip, ACK);
            let expected = towards(&frame, 1, &from, family.backend);
            both.becomes(&frame, Reason::ForwardFullNat, asked, &expected);
            let (_, replies) = tables(both)?;
            assert!(
                replies
                    .iter()
                    .all(|(_, reply)| reply.closed == 0 && reply.flags & (FIN_IN | FIN_OUT) == 0)
            );
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn the_client_s_port_is_kept_for_a_backend_that_names_none() -> Result<()> {
    let family = &FAMILIES[0];
    let (mut world, numbers) = world(family, UDP, 4, true);
    world.backends[usize::from(numbers.first)].port = 0;
    Both::run(&world, |both| {
        let frame = Frame::udp(family.client, family.vip);
        let from = source(family, 0);
        let expected = towards(&frame, 1, &from, "10.9.0.1:80");
        both.becomes(&frame, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
        let answer = Frame::udp("10.9.0.1:80", &from);
        let expected = back(&answer, family.vip, family.client);
        both.becomes(&answer, Reason::ReturnFullNat, &[], &expected);
        Ok(())
    })
}

#[test]
fn a_backend_that_also_answers_to_nat_is_told_apart() -> Result<()> {
    let family = &FAMILIES[0];
    let (mut world, _) = world(family, TCP, 4, true);
    let index = world.backend(family.backend, ALIVE);
    let id = world.nat("192.0.2.10:81", TCP, &[stable(index)]);
    world.answers(family.backend, TCP, "192.0.2.10:81", id, index, 0);
    Both::run(&world, |both| {
        let from = source(family, 0);
        let syn = Frame::tcp(family.client, family.vip, SYN);
        let expected = towards(&syn, 1, &from, family.backend);
        both.becomes(&syn, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
        let answer = Frame::tcp(family.backend, &from, SYN | ACK);
        let expected = back(&answer, family.vip, family.client);
        both.becomes(&answer, Reason::ReturnFullNat, &[], &expected);
        let answer = Frame::tcp(family.backend, family.client, ACK);
        let expected = weir_dataplane_tests::both::to_client(&answer, "192.0.2.10:81");
        both.becomes(&answer, Reason::ReturnNat, &[], &expected);
        Ok(())
    })
}

#[test]
fn what_can_not_be_sent() -> Result<()> {
    let family = &FAMILIES[0];
    let (mut world, _) = world(family, TCP, 64, false);
    for (port, to) in [
        (85, "10.9.0.77:80"),
        (86, "10.66.0.1:80"),
        (89, "172.16.0.1:80"),
        (91, "[2001:db8:9::1]:80"),
    ] {
        let index = world.backend(to, ALIVE);
        let vip = format!("192.0.2.10:{port}");
        let id = world.service(action::FULL_NAT, &vip, TCP, &[stable(index)]);
        let sources = world.nat_sources.clone();
        world.sources(id, 1, &sources[..1]);
    }
    let index = world.backend("10.9.0.1:80", ALIVE);
    let none = world.service(action::FULL_NAT, "192.0.2.10:92", TCP, &[stable(index)]);
    world.change(none, |service| service.source_count = 0);
    let six = world.service(action::FULL_NAT, "192.0.2.10:93", TCP, &[stable(index)]);
    world.sources(
        six,
        1,
        &[NatSource {
            addr: addr("[::1]:0").ip().into(),
            first: 1,
            count: 1,
        }],
    );
    Both::run(&world, |both| {
        for (port, reason, notes) in [
            (
                85,
                Reason::NoNeighbor,
                &[Note::NatAllocated, Note::RouteAsked][..],
            ),
            (86, Reason::NoRoute, &[Note::NatAllocated, Note::RouteAsked]),
            (89, Reason::NoRoute, &[Note::NatAllocated, Note::RouteAsked]),
            (91, Reason::Inconsistent, &[]),
            (92, Reason::PortsExhausted, &[]),
            (93, Reason::Inconsistent, &[]),
        ] {
            let frame = Frame::tcp(family.client, &format!("192.0.2.10:{port}"), SYN);
            both.check(&frame.build(), reason, notes, None)
                .with_context(|| format!("port {port}"))?;
        }
        // A client that no route leads to: nothing of it is for the stack.
        let frame = Frame::tcp("172.16.9.9:9", family.vip, SYN);
        let outcome = both.verdict(&frame.build())?;
        assert_eq!(outcome, Reason::ForwardFullNat);
        let flow = both
            .kernel
            .nat_flow(flow_key(addr("172.16.9.9:9"), addr(family.vip), TCP))?;
        let port = u16::from_be(flow.context("the flow")?.port as u16);
        let mut from = addr(family.source);
        from.set_port(port);
        let answer = Frame::tcp(family.backend, &from.to_string(), SYN | ACK);
        both.check(&answer.build(), Reason::NoRoute, &[Note::RouteAsked], None)
    })
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

#[test]
fn pools_of_addresses_with_tags_options_and_extension_headers() -> Result<()> {
    for family in &FAMILIES {
        let (mut world, numbers) = world(family, UDP, 2, true);
        let mut other = world.nat_sources[0];
        other.addr.words[3] ^= u32::from_be(1);
        let first = world.nat_sources[0];
        world.sources(numbers.id, 2, &[first, other]);
        Both::run(&world, |both| {
            let mut second = addr(family.source);
            second.set_ip(other.addr.to_ip());
            let second = second.to_string();
            let mut next = addr(&second);
            next.set_port(next.port() + 1);
            let froms = [source(family, 0), second, source(family, 1), next.to_string()];
            for (n, from) in froms.iter().enumerate() {
                let mut client = addr(family.client);
                client.set_port(client.port() + n as u16);
                let frame = Frame::udp(&client.to_string(), family.vip).with(|f| match n {
                    1 => f.tags = vec![(0x8100, 0x2064)],
                    2 if f.src.is_ipv4() => f.options = vec![1; 12],
                    2 => f.extensions = vec![(60, vec![0; 8])],
                    3 => f.no_checksum = true,
                    _ => {}
                });
                let expected = towards(&frame, 1, from, family.backend);
                both.becomes(&frame, Reason::ForwardFullNat, &[Note::NatAllocated], &expected);
                let answer = Frame::udp(family.backend, from);
                let expected = back(&answer, family.vip, &client.to_string());
                both.becomes(&answer, Reason::ReturnFullNat, &[], &expected);
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn fragments_follow_the_first() -> Result<()> {
    let family = &FAMILIES[0];
    let (world, _) = world(family, UDP, 4, true);
    // Behind the IP header of a later fragment nothing changes.
    let later = |frame: &Frame, expected: &Frame| {
        let (frame, header) = (frame.build(), expected.build());
        let expected = [&header[..34], &frame[34..]].concat();
        (frame, expected)
    };
    Both::run(&world, |both| {
        let from = source(family, 0);
        let Family {
            client, vip, backend, ..
        } = *family;
        let piece = |from: &str, to: &str, fragment: u16| {
            Frame::udp(from, to).with(|f| (f.fragment, f.payload) = (fragment, vec![7; 64]))
        };
        let frame = piece(client, vip, 9);
        both.stays(&frame.build(), Reason::Fragment);
        let frame = piece(client, vip, 0x2000);
        let expected = towards(&frame, 1, &from, backend);
        let notes = [Note::NatAllocated, Note::FragmentRecorded];
        both.becomes(&frame, Reason::ForwardFullNat, &notes, &expected);
        let frame = piece(client, vip, 9);
        let (frame, expected) = later(&frame, &towards(&frame, 1, &from, backend));
        both.check(&frame, Reason::ForwardFullNat, &[], Some(&expected))?;

        let frame = piece(backend, &from, 0x2000);
        let expected = back(&frame, vip, client);
        both.becomes(
            &frame,
            Reason::ReturnFullNat,
            &[Note::FragmentRecorded],
            &expected,
        );
        let frame = piece(backend, &from, 0x2009);
        let (frame, expected) = later(&frame, &back(&frame, vip, client));
        both.check(&frame, Reason::ReturnFullNat, &[], Some(&expected))
    })
}

#[test]
fn errors_reach_the_other_end() -> Result<()> {
    for (family, protocol, resolved) in FAMILIES
        .iter()
        .flat_map(|f| [(f, TCP, true), (f, UDP, false), (f, UDP, true)])
    {
        let (world, numbers) = world(family, protocol, 4, resolved);
        Both::run(&world, |both| {
            let Family {
                client, vip, backend, ..
            } = *family;
            let asked: &[Note] = if resolved { &[] } else { &[Note::RouteAsked] };
            let from = source(family, 0);
            let ip = |text: &str| addr(text).ip().to_string();
            let (kind, router, far) = match addr(vip).is_ipv4() {
                true => ([3, 1], "10.9.0.3", "198.51.100.99"),
                false => ([1, 3], "2001:db8:9::3", "2001:db8:c::99"),
            };
            // The IP header and the 8 bytes that hold the ports.
            let quoted = |from: &str, to: &str| {
                let frame = packet(protocol, from, to, ACK);
                quote(&frame, frame.transport_at() - frame.network_at() + 8)
            };
            let to_client = Icmp::new(router, &ip(&from), kind, &quoted(&from, backend));
            let to_backend = Icmp::new(far, &ip(vip), kind, &quoted(vip, client));
            // About nothing that is known.
            both.stays(&to_client.build(), Reason::Icmp);

            let first = packet(protocol, client, vip, SYN);
            let expected = towards(&first, 1, &from, backend);
            let notes = [&[Note::NatAllocated], asked].concat();
            both.becomes(&first, Reason::ForwardFullNat, &notes, &expected);
            let expected = Icmp::new(&ip(vip), &ip(client), kind, &quoted(client, vip))
                .leaves(lab::GATEWAY_MAC, lab::WAN_MAC);
            both.check(
                &to_client.build(),
                Reason::ReturnIcmp,
                asked,
                Some(&expected.build()),
            )?;
            let expected = Icmp::new(&ip(&from), &ip(backend), kind, &quoted(backend, &from))
                .leaves(lab::backend_mac(1), lab::LAN_MAC);
            both.check(
                &to_backend.build(),
                Reason::ForwardIcmp,
                asked,
                Some(&expected.build()),
            )?;
            let last = to_client.with(|icmp| icmp.hops = 1);
            both.stays(&last.build(), Reason::TtlExpired);
            // A backend that is dead is told nothing.
            replace(both, numbers.first, |backend| backend.flags = 0)?;
            both.stays(&to_backend.build(), Reason::NoBackend);
            Ok(())
        })?;
    }
    Ok(())
}
