//! What the kernel can't be asked to the second, or between two CPUs.

use std::{collections::HashSet, format, vec::Vec};

use weir_abi::{
    Addr16, Backend, FlowKey, NatFlow, NatReply, NatSource, Note, Reason, Service, ServiceKey, Settings,
    Slot,
    maps::{
        action,
        backend::ALIVE,
        nat::{ANSWERED, EMBRYONIC, FIN_IN, FIN_OUT, REFRESH, TOLD, TRIES},
        port_proto,
    },
};

use crate::{
    handle,
    memory::MemoryTables,
    parse::{TCP, UDP, parse},
    rewrite::Link,
    tables::Route,
    testing::Frame,
    window::Window,
};

const VIP: &str = "192.0.2.10:80";
const NOW: u32 = 100_000;
const TIME_WAIT: u32 = 60;
const TCP_IDLE: u32 = 7200;
const UDP_IDLE: u32 = 30;

const FIN: u8 = 0x11;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

fn addr(text: &str) -> Addr16 {
    let addr: core::net::IpAddr = text.parse().unwrap();
    addr.into()
}

/// Two backends, one service for both protocols, and for each CPU one block of `ports` ports of each of the sources.
fn tables(cpus: u32, sources: u32, ports: u32) -> MemoryTables {
    let mut tables = MemoryTables::default();
    for n in 1..=2 {
        tables.backends.push(Backend {
            addr: addr(&format!("10.9.0.{n}")),
            port: u32::from(8080u16.to_be()),
            flags: ALIVE,
            ..Backend::default()
        });
    }
    for cpu in 0..cpus {
        for n in 0..sources {
            tables.nat_sources.push(NatSource {
                addr: addr(&format!("10.9.1.{n}")),
                first: 1024 + cpu * ports,
                count: ports,
            });
        }
    }
    for protocol in [TCP, UDP] {
        let key = ServiceKey {
            addr: addr("192.0.2.10"),
            port_proto: port_proto(80u16.to_be(), protocol),
        };
        let service = Service {
            id: 1,
            action: action::FULL_NAT,
            ring_len: 1,
            source_count: sources,
            ..Service::default()
        };
        tables.services.insert(key, service);
    }
    tables.mark(&addr("192.0.2.10"));
    for n in 0..sources {
        tables.mark(&addr(&format!("10.9.1.{n}")));
    }
    tables.rings.push(Slot {
        current: 1,
        previous: 0,
        changed: 0,
    });
    tables.settings = Settings {
        nat_tcp_idle: TCP_IDLE,
        nat_udp_idle: UDP_IDLE,
        nat_time_wait: TIME_WAIT,
        fib_ifindex: 1,
        ..Settings::default()
    };
    tables.now = NOW;
    tables.routes = std::boxed::Box::new(|_| Route::Via {
        ifindex: 7,
        link: Link::default(),
    });
    tables
}

/// The flow of a packet as it comes out, or why it does not.
fn run(tables: &mut MemoryTables, protocol: u8, from: &str, to: &str, flags: u8) -> Result<FlowKey, Reason> {
    let mut frame = Frame::new(protocol, from, to);
    frame.flags = flags;
    let mut bytes = frame.build();
    let reason = handle(&mut bytes, tables).reason;
    if matches!(reason, Reason::ForwardFullNat | Reason::ReturnFullNat) {
        parse(Window::new(&mut bytes)).map(|packet| packet.flow)
    } else {
        Err(reason)
    }
}

/// From the `n`th client to the service: the source that it gets.
fn sent(tables: &mut MemoryTables, protocol: u8, n: usize, flags: u8) -> Result<(Addr16, u16), Reason> {
    run(tables, protocol, &client(n), VIP, flags).map(|flow| {
        let [a, b, _, _] = flow.ports.to_ne_bytes();
        (flow.src, u16::from_be_bytes([a, b]))
    })
}

fn client(n: usize) -> std::string::String {
    format!("198.51.100.{}:{}", 1 + n / 10_000, 1 + n % 10_000)
}

/// A reply of the first backend: whom it reaches.
fn answered(
    tables: &mut MemoryTables,
    protocol: u8,
    to: (Addr16, u16),
    flags: u8,
) -> Result<FlowKey, Reason> {
    let to = format!("{}:{}", to.0.to_ip(), to.1);
    run(tables, protocol, "10.9.0.1:8080", &to, flags)
}

#[test]
fn blocks_of_cpus_have_nothing_in_common_and_are_used_up_whole() {
    let mut tables = tables(4, 3, 50);
    let mut all = HashSet::new();
    for cpu in 0..4 {
        tables.cpu = cpu;
        // Each CPU counts for itself.
        tables.nat_cursors.clear();
        for n in 0..150 {
            let (addr, port) = sent(&mut tables, TCP, cpu as usize * 1000 + n, SYN).unwrap();
            assert!((1024 + cpu * 50..1024 + cpu * 50 + 50).contains(&u32::from(port)));
            assert!(all.insert((addr, port)), "{port} twice");
        }
        assert_eq!(sent(&mut tables, TCP, 100_000, SYN), Err(Reason::PortsExhausted));
    }
    assert_eq!(all.len(), 4 * 150);
    assert_eq!(tables.noted(Note::NatAllocated), 600);
    assert_eq!(tables.noted(Note::NatReused), 0);
    assert_eq!((tables.nat_flows.len(), tables.nat_replies.len()), (600, 600));
}

#[test]
fn a_port_comes_again_as_late_as_can_be() {
    let mut tables = tables(1, 3, 5);
    let mut seen = Vec::new();
    for n in 0..45 {
        tables.now += TIME_WAIT;
        let taken = sent(&mut tables, TCP, n, SYN).unwrap();
        sent(&mut tables, TCP, n, RST).unwrap();
        seen.push(taken);
    }
    for (n, taken) in seen.iter().enumerate() {
        let again = seen.iter().skip(n + 1).position(|other| other == taken);
        assert_eq!(again.unwrap_or(14), 14, "{taken:?}");
    }
    assert_eq!(tables.nat_replies.len(), 15);
    assert_eq!(tables.noted(Note::NatReused), 30);
}

#[test]
fn each_backend_has_all_ports_to_itself() {
    let mut tables = tables(1, 1, 4);
    let mut ports = [Vec::new(), Vec::new()];
    for n in 0..8 {
        tables.rings[0].current = 1 + (n / 4) as u16;
        ports[n / 4].push(sent(&mut tables, UDP, n, 0).unwrap());
    }
    assert_eq!(ports[0], ports[1]);
    assert_eq!(tables.nat_replies.len(), 8);
    // And each protocol.
    tables.rings[0].current = 1;
    assert_eq!(sent(&mut tables, TCP, 0, SYN), Ok(ports[0][0]));
}

/// One port, taken by the first client; `change` is made to its entry; whether the second client gets it.
fn is_free(protocol: u8, now: u32, change: impl Fn(&mut NatReply)) -> bool {
    let mut tables = tables(1, 1, 1);
    let first = sent(&mut tables, protocol, 0, SYN).unwrap();
    tables.nat_replies.values_mut().for_each(change);
    tables.now = now;
    match sent(&mut tables, protocol, 1, SYN) {
        Ok(taken) => {
            assert_eq!(taken, first);
            assert_eq!(tables.noted(Note::NatReused), 1);
            assert_eq!((tables.nat_flows.len(), tables.nat_replies.len()), (1, 1));
            let reply = tables.nat_replies.values().next().unwrap();
            assert_eq!(
                (reply.closed, reply.flags, reply.packets, reply.seen),
                (0, 0, 0, now)
            );
            true
        }
        Err(reason) => {
            assert_eq!(reason, Reason::PortsExhausted);
            assert_eq!((tables.nat_flows.len(), tables.nat_replies.len()), (1, 1));
            false
        }
    }
}

#[test]
fn an_ended_flow_s_port_rests_to_the_second() {
    for protocol in [TCP, UDP] {
        for (age, free) in [
            (0, false),
            (TIME_WAIT - 1, false),
            (TIME_WAIT, false),
            (TIME_WAIT + 1, true),
        ] {
            let closed = |reply: &mut NatReply| (reply.closed, reply.flags) = (NOW, ANSWERED);
            assert_eq!(is_free(protocol, NOW + age, closed), free, "after {age} s");
        }
        // A clock that lags.
        assert!(!is_free(protocol, NOW - 2, |reply| reply.closed = NOW));
    }
}

#[test]
fn a_silent_flow_gives_up_its_port() {
    let answered = |reply: &mut NatReply| reply.flags = ANSWERED;
    for (protocol, idle, state) in [
        (TCP, TCP_IDLE, ANSWERED),
        (TCP, EMBRYONIC, 0),
        (UDP, UDP_IDLE, 0),
        (UDP, UDP_IDLE, ANSWERED),
        (TCP, TCP_IDLE, ANSWERED | FIN_IN),
    ] {
        for (age, free) in [(idle + REFRESH, false), (idle + REFRESH + 1, true)] {
            let change = |reply: &mut NatReply| reply.flags = state;
            assert_eq!(
                is_free(protocol, NOW + age, change),
                free,
                "{protocol}: after {age} s"
            );
        }
    }
    assert!(!is_free(TCP, NOW + EMBRYONIC + REFRESH + 1, answered));
}

#[test]
fn times_are_written_every_few_seconds_by_both_directions() {
    let mut tables = tables(1, 1, 1);
    let source = sent(&mut tables, UDP, 0, 0).unwrap();
    for (age, flow, reply) in [
        (1, NOW, NOW),
        (REFRESH - 1, NOW, NOW),
        (REFRESH, NOW + REFRESH, NOW + REFRESH),
        (2 * REFRESH - 1, NOW + REFRESH, NOW + REFRESH),
    ] {
        tables.now = NOW + age;
        sent(&mut tables, UDP, 0, 0).unwrap();
        assert_eq!(
            tables.nat_flows.values().next().unwrap().seen,
            flow,
            "after {age} s"
        );
        assert_eq!(
            tables.nat_replies.values().next().unwrap().seen,
            reply,
            "after {age} s"
        );
    }
    tables.now = NOW + 3 * REFRESH;
    answered(&mut tables, UDP, source, 0).unwrap();
    let reply = tables.nat_replies.values().next().unwrap();
    assert_eq!(
        (reply.seen, reply.packets, reply.flags),
        (tables.now, 1, ANSWERED)
    );
    // The client's entry is its own packets' matter.
    assert_eq!(tables.nat_flows.values().next().unwrap().seen, NOW + REFRESH);
}

#[test]
fn both_fins_or_a_rst_end_a_flow() {
    for (steps, ends) in [
        (&[(true, FIN), (true, FIN)][..], false),
        (&[(false, FIN), (false, FIN)], false),
        (&[(true, FIN), (true, ACK), (false, FIN)], true),
        (&[(false, FIN), (true, FIN)], true),
        (&[(true, RST)], true),
        (&[(false, RST)], true),
        (&[(true, ACK), (false, ACK)], false),
    ] {
        let mut tables = tables(1, 1, 1);
        let source = sent(&mut tables, TCP, 0, SYN).unwrap();
        for (from_client, flags) in steps {
            tables.now += 1;
            if *from_client {
                assert_eq!(sent(&mut tables, TCP, 0, *flags), Ok(source));
            } else {
                answered(&mut tables, TCP, source, *flags).unwrap();
            }
        }
        let ended = tables.now;
        let reply = *tables.nat_replies.values().next().unwrap();
        assert_eq!(reply.closed, if ends { ended } else { 0 }, "{steps:?}");
        assert_eq!(tables.noted(Note::FlowClosed), u64::from(ends));
        assert_eq!(
            reply.flags & (FIN_IN | FIN_OUT) == FIN_IN | FIN_OUT,
            ends && steps.len() > 1
        );
        // What comes later does not put the end off.
        tables.now += 1;
        sent(&mut tables, TCP, 0, FIN).unwrap();
        answered(&mut tables, TCP, source, RST).unwrap();
        if ends {
            assert_eq!(tables.nat_replies.values().next().unwrap().closed, ended);
            assert_eq!(tables.noted(Note::FlowClosed), 1);
        }
    }
}

#[test]
fn the_slower_of_two_cpus_goes_by_the_faster_one_s_entry() {
    for (protocol, sources) in [(UDP, 2), (TCP, 2), (UDP, 1)] {
        let mut tables = tables(2, sources, 8);
        // CPU 1 has taken a port of its own, and written what its replies become.
        let rival = (addr("10.9.1.0"), 1024 + 8u16);
        let key = FlowKey {
            src: addr("10.9.0.1"),
            dst: rival.0,
            ports: super::two_ports(8080u16.to_be(), rival.1.to_be()),
            proto: u32::from(protocol),
        };
        let of_rival = NatReply {
            client: addr("198.51.100.1"),
            vip: addr("192.0.2.10"),
            ports: super::two_ports(80u16.to_be(), 1u16.to_be()),
            service: 1,
            backend: 1,
            seen: NOW,
            ..NatReply::default()
        };
        tables.nat_replies.insert(key, of_rival);
        tables.nat_rival = Some(NatFlow {
            source: rival.0,
            port: u32::from(rival.1.to_be()),
            backend: 1,
            recorded: NOW,
            seen: NOW,
        });
        assert_eq!(sent(&mut tables, protocol, 0, SYN), Ok(rival));
        assert_eq!((tables.nat_flows.len(), tables.nat_replies.len()), (1, 1));
        assert_eq!(tables.service_traffic[&1].flows, 0, "the faster one counts it");
        assert_eq!(
            answered(&mut tables, protocol, rival, ACK).unwrap().dst,
            addr("198.51.100.1")
        );
        assert_eq!(sent(&mut tables, protocol, 0, ACK), Ok(rival));
    }
}

#[test]
fn a_full_table_refuses_what_is_new_and_nothing_else() {
    for protocol in [TCP, UDP] {
        let mut tables = tables(1, 1, 64);
        tables.nat_capacity = 3;
        let taken: Vec<_> = (0..3)
            .map(|n| sent(&mut tables, protocol, n, SYN).unwrap())
            .collect();
        assert_eq!(sent(&mut tables, protocol, 3, SYN), Err(Reason::NatTableFull));
        for (n, source) in taken.iter().enumerate() {
            assert_eq!(sent(&mut tables, protocol, n, ACK), Ok(*source));
            answered(&mut tables, protocol, *source, ACK).unwrap();
        }
        assert_eq!((tables.nat_flows.len(), tables.nat_replies.len()), (3, 3));
    }
}

#[test]
fn a_search_ends() {
    let mut tables = tables(1, 1, 40);
    for n in 0..40 {
        sent(&mut tables, UDP, n, 0).unwrap();
    }
    let cursor = tables.nat_cursors[&1];
    assert_eq!(sent(&mut tables, UDP, 40, 0), Err(Reason::PortsExhausted));
    assert_eq!(tables.nat_cursors[&1], cursor + u64::from(TRIES));
    // The next one searches on, and finds the one that is free.
    let free = |reply: &mut NatReply| reply.closed = 1;
    let of_port = |key: &FlowKey| u16::from_be(super::ports::source(key) as u16);
    let at = tables
        .nat_replies
        .iter_mut()
        .find(|(key, _)| of_port(key) == 1024 + 20);
    free(at.unwrap().1);
    assert_eq!(sent(&mut tables, UDP, 40, 0).map(|(_, port)| port), Ok(1024 + 20));
}

#[test]
fn a_block_without_ports_is_passed_over() {
    let mut tables = tables(1, 3, 2);
    tables.nat_sources[1].count = 0;
    let all: HashSet<_> = (0..4).map(|n| sent(&mut tables, TCP, n, SYN).unwrap()).collect();
    assert_eq!(all.len(), 4);
    assert_eq!(sent(&mut tables, TCP, 4, SYN), Err(Reason::PortsExhausted));
}

#[test]
fn the_old_flow_of_a_port_goes_only_if_it_still_has_it() {
    let mut tables = tables(1, 1, 2);
    let first = sent(&mut tables, TCP, 0, SYN).unwrap();
    sent(&mut tables, TCP, 0, RST).unwrap();
    // The same client begins anew by another port.
    let second = sent(&mut tables, TCP, 0, SYN).unwrap();
    assert_ne!(first, second);
    // The first port goes to another client: the first one's flow stays where it is.
    tables.now += TIME_WAIT + 1;
    answered(&mut tables, TCP, second, ACK).unwrap();
    assert_eq!(sent(&mut tables, TCP, 1, SYN), Ok(first));
    assert_eq!(sent(&mut tables, TCP, 0, ACK), Ok(second));
    assert_eq!((tables.nat_flows.len(), tables.nat_replies.len()), (2, 2));
}

#[test]
fn a_flow_is_asked_for_its_entry_and_no_ring() {
    for protocol in [TCP, UDP] {
        let mut tables = tables(1, 1, 2);
        let source = sent(&mut tables, protocol, 0, SYN).unwrap();
        let slots = tables.asked.slots;
        tables.rings[0].current = 2;
        for _ in 0..3 {
            assert_eq!(sent(&mut tables, protocol, 0, ACK), Ok(source));
        }
        assert_eq!((tables.asked.slots, tables.asked.flows), (slots, 0));
        assert!(tables.flows.is_empty(), "the table of `nat` is not this one's");
    }
}

/// RFC 5961: a RST outside of the window ends nothing, and weir does not know the window.
#[test]
fn what_goes_on_after_a_rst_has_not_ended() {
    let mut tables = tables(1, 1, 1);
    let source = sent(&mut tables, TCP, 0, SYN).unwrap();
    let closed = |tables: &MemoryTables| tables.nat_replies.values().next().unwrap().closed;
    answered(&mut tables, TCP, source, ACK).unwrap();
    sent(&mut tables, TCP, 0, RST).unwrap();
    // What was under way says nothing, nor does another RST.
    tables.now += REFRESH;
    answered(&mut tables, TCP, source, ACK).unwrap();
    tables.now += 1;
    answered(&mut tables, TCP, source, RST).unwrap();
    assert_eq!(closed(&tables), NOW);
    answered(&mut tables, TCP, source, ACK).unwrap();
    assert_eq!(closed(&tables), 0);
    tables.now += TIME_WAIT + 1;
    assert_eq!(sent(&mut tables, TCP, 1, SYN), Err(Reason::PortsExhausted));
    assert_eq!(sent(&mut tables, TCP, 0, ACK), Ok(source));
    // Both FINs end it for good.
    sent(&mut tables, TCP, 0, FIN).unwrap();
    answered(&mut tables, TCP, source, FIN).unwrap();
    let end = tables.now;
    tables.now += REFRESH + 1;
    answered(&mut tables, TCP, source, ACK).unwrap();
    assert_eq!(closed(&tables), end);
}

#[test]
fn what_another_box_told_is_this_ones_own_from_its_first_packet() {
    for from_client in [true, false] {
        let mut tables = tables(1, 1, 10);
        let source = sent(&mut tables, TCP, 1, SYN).unwrap();
        for reply in tables.nat_replies.values_mut() {
            reply.flags |= TOLD | ANSWERED;
        }
        // As long ago as it takes for the client's packets to be looked at.
        tables.now += REFRESH;
        if from_client {
            assert_eq!(sent(&mut tables, TCP, 1, ACK), Ok(source));
        } else {
            answered(&mut tables, TCP, source, ACK).unwrap();
        }
        let flags: Vec<_> = tables.nat_replies.values().map(|reply| reply.flags).collect();
        assert_eq!(flags, [ANSWERED], "from the client: {from_client}");
    }
}
