//! The reasons of whole TCP and UDP packets by `nat`, and of packets for nobody: a packet in, verdict and packet out, in
//! the kernel and on the host.

use anyhow::{Context as _, Result, ensure};
use aya::EbpfLoader;
use weir_abi::{Note, Reason, Settings, Traffic, maps::limit, names};
use weir_dataplane_tests::{
    Both, Frame, Kernel, Lab, World,
    both::{to_backend, to_client},
    frame::{ACK, FIN, RST, SYN},
    kernel::{flow_key, verdict},
    lab,
    world::{TCP, addr},
};
use weir_fastpath::{Route, handle};

const CLIENT4: &str = "198.51.100.7:40000";
const CLIENT6: &str = "[2001:db8:c::7]:40000";

/// The standard world, but every way is the kernel's to find.
fn unresolved() -> World {
    let mut world = World::standard();
    for backend in &mut world.backends {
        backend.next_hop = 0;
    }
    world.routes.clear();
    world
}

#[test]
fn nat_both_ways_both_families_both_protocols() -> Result<()> {
    Both::run(&World::standard(), |both| {
        for (client, vip, backend, n) in [
            (CLIENT4, "192.0.2.10:80", "10.9.0.1:8080", 1),
            (CLIENT6, "[2001:db8:2::10]:80", "[2001:db8:9::2]:8080", 2),
        ] {
            for flags in [ACK, ACK | FIN, RST, SYN | ACK, 0] {
                let frame = Frame::tcp(client, vip, flags);
                both.becomes(&frame, Reason::ForwardNat, &[], &to_backend(&frame, n, backend));
            }
            let frame =
                Frame::tcp(client, vip, SYN).with(|f| f.tcp_options = vec![2, 4, 5, 0x50, 1, 3, 3, 7]);
            both.becomes(
                &frame,
                Reason::ForwardNat,
                &[Note::FlowRecorded],
                &to_backend(&frame, n, backend),
            );
            for flags in [SYN | ACK, ACK, RST] {
                let frame = Frame::tcp(backend, client, flags);
                let notes: &[Note] = if flags == RST { &[Note::FlowClosed] } else { &[] };
                both.becomes(&frame, Reason::ReturnNat, notes, &to_client(&frame, vip));
            }
        }
        for (client, vip, backend, n) in [
            (CLIENT4, "192.0.2.10:53", "10.9.0.3:5353", 3),
            (CLIENT6, "[2001:db8:2::10]:53", "[2001:db8:9::4]:5353", 4),
        ] {
            for payload in [&b""[..], b"odd", b"even"] {
                let frame = Frame::udp(client, vip).with(|f| f.payload = payload.to_vec());
                both.becomes(&frame, Reason::ForwardNat, &[], &to_backend(&frame, n, backend));
                let frame = Frame::udp(backend, client).with(|f| f.payload = payload.to_vec());
                both.becomes(&frame, Reason::ReturnNat, &[], &to_client(&frame, vip));
            }
            let frame = Frame::udp(client, vip).with(|f| f.no_checksum = true);
            both.becomes(&frame, Reason::ForwardNat, &[], &to_backend(&frame, n, backend));
        }
        Ok(())
    })
}

#[test]
fn tags_options_and_extension_headers_stay() -> Result<()> {
    Both::run(&World::standard(), |both| {
        for tag in [(0x8100, 0x2064), (0x88a8, 7)] {
            let frame = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).with(|f| f.tags = vec![tag]);
            both.becomes(
                &frame,
                Reason::ForwardNat,
                &[],
                &to_backend(&frame, 1, "10.9.0.1:8080"),
            );
            let frame = Frame::udp("[2001:db8:9::4]:5353", CLIENT6).with(|f| f.tags = vec![tag]);
            both.becomes(
                &frame,
                Reason::ReturnNat,
                &[],
                &to_client(&frame, "[2001:db8:2::10]:53"),
            );
            let frame = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).with(|f| f.tags = vec![tag; 2]);
            both.becomes(
                &frame,
                Reason::ForwardNat,
                &[],
                &to_backend(&frame, 1, "10.9.0.1:8080"),
            );
            let frame = frame.with(|f| f.tags = vec![tag; 3]);
            both.stays(&frame.build(), Reason::VlanStacked);
        }
        for options in [4, 12, 40] {
            let frame = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).with(|f| f.options = vec![1; options]);
            both.becomes(
                &frame,
                Reason::ForwardNat,
                &[],
                &to_backend(&frame, 1, "10.9.0.1:8080"),
            );
        }
        let padding = |len: usize| {
            let mut bytes = vec![0; len];
            bytes[1] = (len / 8 - 1) as u8;
            bytes
        };
        for extensions in [
            vec![(0, padding(8))],
            vec![(60, padding(64))],
            vec![(43, padding(24))],
            // An atomic fragment (RFC 6946): whole.
            vec![(44, vec![0, 0, 0, 0, 1, 2, 3, 4])],
            vec![
                (0, padding(8)),
                (60, padding(16)),
                (43, padding(8)),
                (60, padding(8)),
            ],
        ] {
            let frame = Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK).with(|f| f.extensions = extensions);
            both.becomes(
                &frame,
                Reason::ForwardNat,
                &[],
                &to_backend(&frame, 2, "[2001:db8:9::2]:8080"),
            );
        }
        Ok(())
    })
}

#[test]
fn port_zero_keeps_the_clients_port() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let frame = Frame::tcp(CLIENT4, "192.0.2.10:83", ACK);
        both.becomes(
            &frame,
            Reason::ForwardNat,
            &[],
            &to_backend(&frame, 5, "10.9.0.5:83"),
        );
        let frame = Frame::tcp("10.9.0.5:83", CLIENT4, ACK);
        both.becomes(
            &frame,
            Reason::ReturnNat,
            &[],
            &to_client(&frame, "192.0.2.10:83"),
        );
        Ok(())
    })
}

#[test]
fn padded_frames_are_fine() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let frame = Frame::udp(CLIENT4, "192.0.2.10:53").with(|f| f.payload = vec![1]);
        let pad = |frame: &Frame| {
            let mut bytes = frame.build();
            bytes.resize(60, 0xee);
            bytes
        };
        let expected = pad(&to_backend(&frame, 3, "10.9.0.3:5353"));
        both.check(&pad(&frame), Reason::ForwardNat, &[], Some(&expected))
    })
}

#[test]
fn a_shared_backend_answers_each_vip() -> Result<()> {
    Both::run(&World::standard(), |both| {
        for (client, vips, backend) in [
            (CLIENT4, ["192.0.2.10:84", "192.0.2.11:8084"], "10.9.0.6:8080"),
            (
                CLIENT6,
                ["[2001:db8:2::10]:84", "[2001:db8:2::11]:8084"],
                "[2001:db8:9::6]:8080",
            ),
        ] {
            // Before the client has spoken nobody knows which VIP it means.
            both.stays(&Frame::tcp(backend, client, ACK).build(), Reason::NoService);
            for vip in vips {
                let frame = Frame::tcp(client, vip, ACK);
                both.becomes(&frame, Reason::ForwardNat, &[], &to_backend(&frame, 6, backend));
                let frame = Frame::tcp(backend, client, ACK);
                both.becomes(&frame, Reason::ReturnNat, &[], &to_client(&frame, vip));
                let reply = flow_key(addr(backend), addr(client), TCP);
                let known = both
                    .kernel
                    .return_flow(reply)?
                    .context("the kernel remembers the reply")?;
                ensure!(
                    known.vip.to_ip() == addr(vip).ip() && known.port == u32::from(addr(vip).port().to_be())
                );
                ensure!(both.memory.return_flows.get(&reply) == Some(&known));
            }
        }
        Ok(())
    })
}

#[test]
fn what_is_not_for_us_passes_untouched() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let good = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).build();
        let mut arp = good.clone();
        arp[12..14].copy_from_slice(&0x0806u16.to_be_bytes());
        both.stays(&arp, Reason::NotIp);
        let mut lldp_in_vlan = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK)
            .with(|f| f.tags = vec![(0x8100, 1)])
            .build();
        lldp_in_vlan[16..18].copy_from_slice(&0x88ccu16.to_be_bytes());
        both.stays(&lldp_in_vlan, Reason::NotIp);
        // ICMPv6 in IPv4 is no ICMP.
        for protocol in [112, 50, 58] {
            let mut other = good.clone();
            other[23] = protocol;
            both.stays(&other, Reason::OtherProtocol);
        }
        for protocol in [112, 50, 1, 59] {
            let mut other = Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK).build();
            other[20] = protocol;
            both.stays(&other, Reason::OtherProtocol);
        }
        for frame in [
            Frame::tcp(CLIENT4, "192.0.2.10:79", ACK),
            Frame::udp(CLIENT4, "192.0.2.10:80"),
            Frame::tcp(CLIENT4, "192.0.2.99:80", SYN),
            Frame::tcp(CLIENT6, "[2001:db8:2::10]:53", ACK),
            Frame::tcp("10.9.0.1:8081", CLIENT4, ACK),
        ] {
            both.stays(&frame.build(), Reason::NoService);
        }
        let syn = Frame::tcp(CLIENT4, "192.0.2.10:443", SYN).build();
        both.check(&syn, Reason::Relay, &[Note::SynRelay], None)?;
        both.stays(
            &Frame::tcp(CLIENT4, "192.0.2.10:443", ACK)
                .with(|f| f.hops = 1)
                .build(),
            Reason::Relay,
        );
        // From a backend to the box itself, or to where no route leads: the stack's business, whatever the hop limit.
        for (from, to) in [
            ("10.9.0.1:8080", "10.9.0.254:50000"),
            ("10.9.0.1:8080", "192.0.2.1:50000"),
            ("[2001:db8:9::2]:8080", "[2001:db8:9::fe]:50000"),
            ("10.9.0.1:8080", "172.20.0.1:50000"),
            ("10.9.0.6:8080", "10.9.0.254:50000"),
        ] {
            for hops in [1, 64] {
                both.asks(
                    &Frame::tcp(from, to, ACK).with(|f| f.hops = hops).build(),
                    Reason::ReturnLocal,
                );
            }
        }
        Ok(())
    })
}

#[test]
fn fragments_without_a_first_are_left_to_the_stack() -> Result<()> {
    Both::run(&World::standard(), |both| {
        for fragment in [0x2001, 0x0001, 0x1fff] {
            let frame = Frame::udp(CLIENT4, "192.0.2.10:53").with(|f| f.fragment = fragment);
            both.stays(&frame.build(), Reason::Fragment);
        }
        for fragment in [[0, 8], [0xff, 0xf8], [0, 9]] {
            let [a, b] = fragment;
            let frame = Frame::udp(CLIENT6, "[2001:db8:2::10]:53")
                .with(|f| f.extensions = vec![(44, vec![0, 0, a, b, 1, 2, 3, 4])]);
            both.stays(&frame.build(), Reason::Fragment);
        }
        Ok(())
    })
}

#[test]
fn chains_that_hide_the_transport_are_left_to_the_stack() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let short = vec![0; 8];
        let long = [vec![0, 7], vec![0; 62]].concat();
        let routed = vec![0, 0, 0, 1, 0, 0, 0, 0];
        for extensions in [
            vec![(51, short.clone())],
            vec![(135, short.clone())],
            vec![(139, short.clone())],
            vec![(140, short.clone())],
            // Hop-by-hop anywhere but first.
            vec![(60, short.clone()), (0, short.clone())],
            // Segments left.
            vec![(43, routed)],
            vec![(60, short.clone()); 7],
            vec![(60, long); 8],
        ] {
            let frame = Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK).with(|f| f.extensions = extensions);
            both.stays(&frame.build(), Reason::ExtensionHeaders);
        }
        Ok(())
    })
}

#[test]
fn frames_that_end_too_soon() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let frames = [
            Frame::tcp(CLIENT4, "192.0.2.10:80", ACK),
            Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK),
            Frame::udp(CLIENT4, "192.0.2.10:53").with(|f| f.tags = vec![(0x8100, 1)]),
        ];
        for frame in frames {
            let whole = frame.build();
            let ip_header = if frame.src.is_ipv4() { 20 } else { 40 };
            for len in 0..frame.network_at() + ip_header {
                both.stays(&whole[..len], Reason::Truncated);
            }
        }
        // Inside the options.
        let whole = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK)
            .with(|f| f.options = vec![1; 8])
            .build();
        for len in 34..42 {
            both.stays(&whole[..len], Reason::Truncated);
        }
        // The packet, by its own length, ends inside the transport header.
        for (frame, header) in [
            (Frame::tcp(CLIENT4, "192.0.2.10:80", ACK), 20),
            (Frame::udp(CLIENT4, "192.0.2.10:53"), 8),
            (Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK), 20),
            (Frame::udp(CLIENT6, "[2001:db8:2::10]:53"), 8),
        ] {
            for len in [0, 1, header - 1] {
                let mut bytes = frame.build();
                if frame.src.is_ipv4() {
                    bytes[16..18].copy_from_slice(&(20 + len as u16).to_be_bytes());
                } else {
                    bytes[18..20].copy_from_slice(&(len as u16).to_be_bytes());
                }
                both.stays(&bytes, Reason::Truncated);
            }
        }
        // Inside an extension header: none left, half of one, and one that claims more than there is.
        let chain =
            Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK).with(|f| f.extensions = vec![(60, vec![0; 8])]);
        for (at, value) in [(19, 0), (19, 4), (55, 30)] {
            let mut bytes = chain.build();
            bytes[at] = value;
            both.stays(&bytes, Reason::Truncated);
        }
        Ok(())
    })
}

#[test]
fn headers_that_lie() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let v4 = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).build();
        let v6 = Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK).build();
        let changed = |frame: &[u8], at: usize, bytes: &[u8]| {
            let mut frame = frame.to_vec();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            frame
        };
        let longer = (v4.len() as u16 - 14 + 1).to_be_bytes();
        for frame in [
            changed(&v4, 14, &[0x65]),
            changed(&v4, 14, &[0x44]),
            changed(&v4, 14, &[0x40]),
            changed(&v4, 16, &longer),
            changed(&v4, 16, &[0, 19]),
            changed(&v4, 16, &[0xff, 0xff]),
            v4[..v4.len() - 1].to_vec(),
            v4[..34].to_vec(),
            changed(&v6, 14, &[0x45]),
            changed(&v6, 18, &(v6.len() as u16 - 54 + 1).to_be_bytes()),
            changed(&v6, 18, &[0xff, 0xff]),
            v6[..v6.len() - 1].to_vec(),
            // IPv4 in disguise: source, then destination.
            changed(
                &v6,
                22,
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7],
            ),
            changed(
                &v6,
                38,
                &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 10],
            ),
        ] {
            both.stays(&frame, Reason::MalformedIp);
        }
        let udp = Frame::udp(CLIENT4, "192.0.2.10:53").build();
        let too_long = (udp.len() as u16 - 34 + 1).to_be_bytes();
        for frame in [
            changed(&v4, 46, &[0x40]),
            changed(&v4, 46, &[0]),
            changed(&v4, 46, &[0xf0]),
            changed(&v6, 66, &[0x40]),
            changed(&udp, 38, &[0, 7]),
            changed(&udp, 38, &[0, 0]),
            changed(&udp, 38, &too_long),
        ] {
            both.stays(&frame, Reason::MalformedTransport);
        }
        Ok(())
    })
}

#[test]
fn what_can_not_be_sent_is_dropped_with_its_reason() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let to = |port: u16| Frame::tcp(CLIENT4, &format!("192.0.2.10:{port}"), ACK).build();
        let to6 = |port: u16| Frame::tcp(CLIENT6, &format!("[2001:db8:2::10]:{port}"), ACK).build();
        for port in [81, 82, 95] {
            both.stays(&to(port), Reason::NoBackend);
        }
        // An index past the end is a backend that does not live.
        both.stays(&to(93), Reason::NoBackend);
        for port in [91, 92, 94] {
            both.stays(&to(port), Reason::Inconsistent);
        }
        both.stays(&to6(91), Reason::Inconsistent);
        both.stays(
            &Frame::tcp("10.9.0.8:80", CLIENT4, ACK).build(),
            Reason::Inconsistent,
        );
        for port in [86, 87, 88, 89, 90] {
            both.asks(&to(port), Reason::NoRoute);
        }
        for port in [86, 89] {
            both.asks(&to6(port), Reason::NoRoute);
        }
        both.asks(
            &Frame::tcp("10.9.0.1:8080", "10.66.0.5:1", ACK).build(),
            Reason::NoRoute,
        );
        for hops in [0, 1] {
            for frame in [
                Frame::tcp(CLIENT4, "192.0.2.10:80", ACK),
                Frame::udp(CLIENT6, "[2001:db8:2::10]:53"),
                Frame::tcp("10.9.0.1:8080", CLIENT4, ACK),
                Frame::udp("[2001:db8:9::4]:5353", CLIENT6),
            ] {
                // This box gives no answers.
                both.stays(&frame.with(|f| f.hops = hops).build(), Reason::ReplyLimited);
            }
        }
        for (client, vip, from) in [
            (CLIENT4, "192.0.2.10:53", "10.9.0.3:5353"),
            (CLIENT6, "[2001:db8:2::10]:53", "[2001:db8:9::4]:5353"),
        ] {
            let headers = if vip.starts_with('[') { 48 } else { 28 };
            for (size, reason) in [
                (1500 - headers, None),
                (1501 - headers, Some(Reason::ReplyLimited)),
            ] {
                for frame in [Frame::udp(client, vip), Frame::udp(from, client)] {
                    let frame = frame.with(|f| f.payload = vec![0x55; size]).build();
                    match reason {
                        Some(reason) => both.stays(&frame, reason),
                        None => ensure!(both.kernel.run(&frame)?.verdict == verdict::REDIRECT),
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn an_unknown_next_hop_is_asked_for_once() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let (lan, wan) = (both.lab.lan, both.lab.wan);
        for (frame, next_hop, ifindex) in [
            (Frame::tcp(CLIENT4, "192.0.2.10:85", ACK), "10.9.0.77:0", lan),
            (
                Frame::tcp(CLIENT6, "[2001:db8:2::10]:85", ACK),
                "[2001:db8:9::77]:0",
                lan,
            ),
            // By a gateway: it is the gateway that is unknown.
            (
                Frame::tcp("10.9.0.1:8080", "203.0.113.5:1", ACK),
                "192.0.2.99:0",
                wan,
            ),
            (
                Frame::tcp("[2001:db8:9::2]:8080", "[2001:db8:d::5]:1", ACK),
                "[2001:db8:2::99]:0",
                wan,
            ),
        ] {
            let frame = frame.build();
            both.asks(&frame, Reason::NoNeighbor);
            // A flood of them is one event a second, or two if the second turns.
            for _ in 0..500 {
                both.kernel.run(&frame)?;
            }
            let events = both.kernel.events()?;
            ensure!((1..=2).contains(&events.len()), "{} events", events.len());
            for event in events {
                ensure!(
                    event.addr.to_ip() == addr(next_hop).ip() && event.ifindex == ifindex,
                    "{event:?}"
                );
            }
            let event = both.memory.events.pop().context("the host asks, too")?;
            ensure!(
                event.addr.to_ip() == addr(next_hop).ip() && event.ifindex == ifindex,
                "{event:?}"
            );
        }
        Ok(())
    })
}

/// Thousands of next hops at once: what is asked for is bounded, and what is not asked for is counted.
#[test]
fn a_flood_of_unknown_next_hops_is_bounded() -> Result<()> {
    const HOPS: u64 = 3000;
    Both::run(&World::standard(), |both| {
        let before = lab::now()?;
        for hop in 0..HOPS {
            let to = format!("[2001:db8:2::1:{hop:x}]:7");
            let frame = Frame::tcp("[2001:db8:9::2]:8080", &to, ACK).build();
            ensure!(both.kernel.run(&frame)?.verdict == verdict::DROP);
        }
        let seconds = u64::from(lab::now()? - before) + 1;
        let events = both.kernel.events()?.len() as u64;
        let counters = both.kernel.counters()?;
        ensure!(counters.reason(Reason::NoNeighbor) == HOPS);
        ensure!(
            events + counters.note(Note::EventLost) == HOPS,
            "{events} events, {counters:?}"
        );
        let limit = u64::from(limit::NEIGHBOR_EVENTS);
        // For each second that the test lasted, the first and the last included.
        ensure!(
            (limit..=limit * (seconds + 1)).contains(&events),
            "{events} events"
        );
        Ok(())
    })
}

#[test]
fn a_full_queue_of_events_is_counted() -> Result<()> {
    Lab::run(|_| {
        // One page: 128 events of 32 bytes.
        let mut loader = EbpfLoader::new();
        let mut kernel = Kernel::load_with(loader.map_max_entries(names::EVENTS, 4096))?;
        World::standard().to_kernel(&mut kernel)?;
        for hop in 0..200 {
            let to = format!("[2001:db8:2::1:{hop:x}]:7");
            kernel.run(&Frame::tcp("[2001:db8:9::2]:8080", &to, ACK).build())?;
        }
        let (events, counters) = (kernel.events()?.len() as u64, kernel.counters()?);
        ensure!((100..=128).contains(&events), "{events} events");
        ensure!(events + counters.note(Note::EventLost) == 200, "{counters:?}");
        Ok(())
    })
}

#[test]
fn out_where_it_came_in_is_tx() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let frame = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK);
        let expected = to_backend(&frame, 1, "10.9.0.1:8080").build();
        for (ifindex, expected_verdict) in [(both.lab.lan, verdict::TX), (both.lab.wan, verdict::REDIRECT)] {
            let run = both.kernel.run_from(&frame.build(), Some(ifindex))?;
            ensure!(
                run.verdict == expected_verdict && run.frame == expected,
                "{run:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn without_the_forwarding_switch_of_lo_nothing_is_sent() -> Result<()> {
    Both::run(&unresolved(), |both| {
        lab::forwarding(false)?;
        both.memory.routes = Box::new(|_| Route::Disabled);
        for frame in [
            Frame::tcp(CLIENT4, "192.0.2.10:80", ACK),
            Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK),
        ] {
            both.asks(&frame.build(), Reason::NoRoute);
        }
        // The box's own connections to its backends live on.
        for frame in [
            Frame::tcp("10.9.0.1:8080", "10.9.0.254:5", ACK),
            Frame::tcp("[2001:db8:9::2]:8080", CLIENT6, ACK),
        ] {
            both.asks(&frame.build(), Reason::ReturnLocal);
        }
        Ok(())
    })
}

#[test]
fn a_lookup_that_fails_is_our_fault() -> Result<()> {
    Both::run(&unresolved(), |both| {
        let settings = Settings {
            fib_ifindex: 9999,
            ..World::standard().settings
        };
        both.kernel.settings(settings)?;
        both.memory.routes = Box::new(|_| Route::Failed);
        both.asks(
            &Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).build(),
            Reason::Internal,
        );
        both.asks(
            &Frame::tcp("10.9.0.1:8080", CLIENT4, ACK).build(),
            Reason::Internal,
        );
        Ok(())
    })
}

#[test]
fn traffic_is_counted_for_service_and_backend() -> Result<()> {
    Both::run(&World::standard(), |both| {
        let syn = Frame::tcp(CLIENT4, "192.0.2.10:80", SYN).build();
        let ack = Frame::tcp(CLIENT4, "192.0.2.10:80", ACK).build();
        let reply = Frame::tcp("10.9.0.1:8080", CLIENT4, ACK)
            .with(|f| f.payload = vec![1; 900])
            .build();
        for frame in [&syn, &ack, &ack, &reply] {
            both.kernel.run(frame)?;
            handle(&mut frame.clone(), &mut both.memory);
        }
        let expected = Traffic {
            packets_in: 3,
            bytes_in: 3 * syn.len() as u64,
            packets_out: 1,
            bytes_out: reply.len() as u64,
            flows: 1,
        };
        ensure!(
            both.kernel.service_traffic(1)? == expected,
            "{:?}",
            both.kernel.service_traffic(1)?
        );
        ensure!(both.kernel.backend_traffic(1)? == expected);
        ensure!(both.memory.service_traffic[&1] == expected && both.memory.backend_traffic[&1] == expected);
        Ok(())
    })
}
