//! What becomes of packets: sizes, hops, fragments, errors, headers.

use super::*;

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
