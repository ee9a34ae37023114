//! ICMP errors about flows, and fragments: whom they reach, and how they are translated.

use super::*;

/// Types and codes of errors.
fn errors(v4: bool) -> &'static [[u8; 2]] {
    if v4 {
        &[[3, 3], [3, 4], [11, 0], [12, 0]]
    } else {
        &[[1, 4], [2, 0], [3, 0], [4, 1]]
    }
}

#[test]
fn errors_reach_the_other_end_translated() -> Result<()> {
    Both::run(&world(), |both| {
        for (client, vip, backend, n, tcp) in NAT {
            let v4 = addr(vip).is_ipv4();
            let ip = if v4 { 20 } else { 40 };
            let (router, inner_router) = if v4 {
                ("198.51.100.1", "10.9.0.200")
            } else {
                ("2001:db8:c::1", "2001:db8:9::200")
            };
            // Options in the quote, or a first fragment's header; a datagram without a checksum; quotes that end before, in
            // and behind TCP's.
            for (options, no_checksum, quoted) in [
                (0, false, 8),
                (0, false, 16),
                (0, false, 17),
                (0, false, 18),
                (0, false, 400),
                (0, true, 8),
                (12, false, 8),
                (40, false, 400),
            ] {
                let (options, extensions) = match (v4, options) {
                    (true, _) => (options, vec![]),
                    (false, 0) => (0, vec![]),
                    (false, _) => (0, vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])]),
                };
                let ip = ip + 8 * extensions.len();
                let change = |f: &mut Frame| {
                    f.options = vec![1; options];
                    f.extensions.clone_from(&extensions);
                    f.no_checksum = no_checksum && !tcp;
                    f.hops = 57;
                };
                let most = ip + options + quoted;
                // Half a checksum can't be mended.
                let translated = |about: &Frame, src: &str, dst: &str| {
                    let mut body = quote(&between(about, src, dst), most);
                    if quoted == 17 && tcp {
                        body[most - 1] = quote(about, most)[most - 1];
                    }
                    body
                };
                for kind in errors(v4) {
                    let about = packet(vip, client, tcp).with(change);
                    let error = Icmp::new(router, &addr(vip).ip().to_string(), *kind, &quote(&about, most))
                        .with(|f| f.rest = [0, 0, 5, 0x14]);
                    let expected = error
                        .clone()
                        .with(|f| {
                            f.dst = addr(backend).ip();
                            f.body = translated(&about, backend, client);
                        })
                        .leaves(lab::backend_mac(n), lab::LAN_MAC);
                    becomes(both, &error.build(), Reason::ForwardIcmp, &[], &expected.build());

                    let about = packet(client, backend, tcp).with(change);
                    for from in [inner_router, &addr(backend).ip().to_string()] {
                        let error =
                            Icmp::new(from, &addr(client).ip().to_string(), *kind, &quote(&about, most))
                                .with(|f| f.tags = vec![(0x8100, 9)]);
                        let expected = error
                            .clone()
                            .with(|f| {
                                f.src = addr(vip).ip();
                                f.body = translated(&about, client, vip);
                            })
                            .leaves(lab::GATEWAY_MAC, lab::WAN_MAC);
                        becomes(both, &error.build(), Reason::ReturnIcmp, &[], &expected.build());
                    }
                }
            }
        }
        Ok(())
    })
}

#[test]
fn errors_about_shared_backends_find_their_vip() -> Result<()> {
    Both::run(&world(), |both| {
        let about = Frame::tcp(CLIENT4, "10.9.0.6:8080", ACK);
        let error = Icmp::new("10.9.0.6", "198.51.100.7", [3, 4], &quote(&about, 60));
        both.stays(&error.build(), Reason::Icmp);
        for vip in ["192.0.2.10:84", "192.0.2.11:8084"] {
            let frame = Frame::tcp(CLIENT4, vip, ACK);
            let sent = to_backend(&frame, 6, "10.9.0.6:8080");
            both.becomes(&frame, Reason::ForwardNat, &[], &sent);
            let expected = error
                .clone()
                .with(|f| {
                    f.src = addr(vip).ip();
                    f.body = quote(&between(&about, CLIENT4, vip), 60);
                })
                .leaves(lab::GATEWAY_MAC, lab::WAN_MAC);
            becomes(both, &error.build(), Reason::ReturnIcmp, &[], &expected.build());
        }
        Ok(())
    })
}

#[test]
fn errors_for_dsr_and_ipip_go_as_they_are() -> Result<()> {
    let world = world();
    Both::run(&world, |both| {
        for (client, vip, router) in [
            (CLIENT4, "192.0.2.1", "198.51.100.1"),
            (CLIENT6, "[2001:db8:2::1", "2001:db8:c::1"),
        ] {
            let close = if vip.starts_with('[') { "]" } else { "" };
            for tcp in [true, false] {
                let port = if tcp { 80 } else { 53 };
                for mode in [2, 3] {
                    let vip = format!("{vip}{mode}{close}:{port}");
                    let about = packet(&vip, client, tcp);
                    let to = addr(&vip).ip().to_string();
                    let kind = errors(about.src.is_ipv4())[1];
                    let error = Icmp::new(router, &to, kind, &quote(&about, 200));
                    let sent = error.clone().leaves(lab::backend_mac(7), lab::LAN_MAC).build();
                    let expected = if mode == 2 {
                        sent
                    } else {
                        let tos = if about.src.is_ipv4() { 0xc0 } else { 0xba };
                        in_tunnel(&world.settings, &packet(client, &vip, tcp), &sent, 14, tos)
                    };
                    becomes(both, &error.build(), Reason::ForwardIcmp, &[], &expected);
                }
            }
        }
        Ok(())
    })
}

#[test]
fn errors_about_nothing_of_ours_pass() -> Result<()> {
    Both::run(&world(), |both| {
        let about = Frame::tcp("192.0.2.10:80", CLIENT4, ACK);
        let error = Icmp::new("198.51.100.1", "192.0.2.10", [3, 4], &quote(&about, 28));
        for kind in [[5, 0], [4, 0], [13, 0], [0, 0]] {
            both.stays(&error.clone().with(|f| f.kind = kind).build(), Reason::Icmp);
        }
        for frame in [
            // Not sent by whom the error goes to.
            Frame::tcp("192.0.2.11:80", CLIENT4, ACK),
            // The relay's, nobody's, and not the protocol's.
            Frame::tcp("192.0.2.10:443", CLIENT4, ACK),
            Frame::tcp("192.0.2.10:79", CLIENT4, ACK),
            Frame::udp("192.0.2.10:80", CLIENT4),
            // A later fragment has no ports.
            about.clone().with(|f| f.fragment = 0x0010),
        ] {
            let error = error.clone().with(|f| f.body = quote(&frame, 28));
            both.stays(&error.build(), Reason::Icmp);
        }
        for body in [
            quote(&about, 27),
            vec![],
            vec![0x45; 10],
            [&[0x44], &quote(&about, 28)[1..]].concat(),
            [&[0x65], &quote(&about, 28)[1..]].concat(),
            [&quote(&about, 28)[..9], &[1], &quote(&about, 28)[10..]].concat(),
        ] {
            both.stays(&error.clone().with(|f| f.body = body).build(), Reason::Icmp);
        }
        let six = Frame::tcp("[2001:db8:2::10]:80", CLIENT6, ACK);
        let error6 = Icmp::new("2001:db8:c::1", "2001:db8:2::10", [1, 4], &quote(&six, 47));
        both.stays(&error6.build(), Reason::Icmp);
        let chain = six.with(|f| f.extensions = vec![(60, vec![0; 8])]);
        let error6 = error6.with(|f| f.body = quote(&chain, 56));
        both.stays(&error6.build(), Reason::Icmp);
        let later = chain.with(|f| f.extensions = vec![(44, vec![0, 0, 0, 8, 0, 0, 0, 9])]);
        both.stays(&error6.with(|f| f.body = quote(&later, 56)).build(), Reason::Icmp);
        // Not to be forwarded.
        both.stays(&error.clone().with(|f| f.hops = 1).build(), Reason::TtlExpired);
        let dead = Frame::tcp("192.0.2.10:95", CLIENT4, ACK);
        let error = error.with(|f| f.body = quote(&dead, 28));
        both.stays(&error.build(), Reason::NoBackend);
        // About connections of the box itself.
        let own = Frame::tcp("10.9.0.254:50000", "10.9.0.1:8080", ACK);
        let error = Icmp::new("10.9.0.1", "10.9.0.254", [3, 3], &quote(&own, 28));
        both.asks(&error.build(), Reason::ReturnLocal);
        Ok(())
    })
}

#[test]
fn fragments_follow_their_first() -> Result<()> {
    let world = world();
    Both::run(&world, |both| {
        let recorded = [Note::FragmentRecorded];
        for (client, vip, backend, n, tcp) in NAT {
            let [first, later] = pieces(&packet(client, vip, tcp), n);
            both.stays(&later.build(), Reason::Fragment);
            both.becomes(
                &first,
                Reason::ForwardNat,
                &recorded,
                &to_backend(&first, n, backend),
            );
            let ends = Some((client, backend));
            let expected = moved(&later, ends, lab::backend_mac(n), lab::LAN_MAC);
            for _ in 0..2 {
                becomes(both, &later.build(), Reason::ForwardNat, &[], &expected);
            }
            both.stays(&later.clone().with(|f| f.hops = 1).build(), Reason::TtlExpired);
            let [_, other] = pieces(&packet(client, vip, tcp), n + 10);
            if addr(vip).is_ipv6() {
                both.stays(&other.build(), Reason::Fragment);
            }

            let [first, later] = pieces(&packet(backend, client, tcp), n + 20);
            both.stays(&later.build(), Reason::Fragment);
            both.becomes(&first, Reason::ReturnNat, &recorded, &to_client(&first, vip));
            let ends = Some((vip, client));
            let expected = moved(&later, ends, lab::GATEWAY_MAC, lab::WAN_MAC);
            becomes(both, &later.build(), Reason::ReturnNat, &[], &expected);
        }
        for (client, vip) in [
            (CLIENT4, "192.0.2.12:80"),
            (CLIENT6, "[2001:db8:2::12]:80"),
            (CLIENT4, "192.0.2.12:53"),
            (CLIENT6, "[2001:db8:2::12]:53"),
        ] {
            let tcp = vip.ends_with("80");
            let [first, later] = pieces(&packet(client, vip, tcp), 50 + u8::from(tcp));
            for (frame, notes) in [(first, &recorded[..]), (later, &[])] {
                let expected = moved(&frame, None, lab::backend_mac(7), lab::LAN_MAC);
                becomes(both, &frame.build(), Reason::ForwardDsr, notes, &expected);
            }
        }
        for (client, vip) in [(CLIENT4, "192.0.2.13:53"), (CLIENT6, "[2001:db8:2::13]:53")] {
            let whole = Frame::udp(client, vip);
            let [first, later] = pieces(&whole, 5);
            let tos = if whole.src.is_ipv4() { 0 } else { 0xab };
            for (frame, notes) in [(first, &recorded[..]), (later, &[])] {
                let sent = frame.clone().with(|f| f.hops -= 1).build();
                let expected = in_tunnel(&world.settings, &whole, &sent, 14, tos);
                becomes(both, &frame.build(), Reason::ForwardIpip, notes, &expected);
            }
        }
        // The relay's and nobody's.
        for (to, reason) in [
            ("192.0.2.10:443", Reason::Relay),
            ("192.0.2.10:79", Reason::NoService),
        ] {
            let [first, later] = pieces(&Frame::tcp("198.51.100.8:7", to, ACK), 6);
            both.stays(&first.build(), reason);
            both.stays(&later.build(), Reason::Fragment);
        }
        let traffic = both.kernel.backend_traffic(3)?;
        ensure!((traffic.packets_in, traffic.packets_out) == (3, 2), "{traffic:?}");
        ensure!(both.memory.backend_traffic[&3] == traffic);
        Ok(())
    })
}

#[test]
fn a_record_of_a_fragment_is_used_for_what_it_says_and_for_a_while() -> Result<()> {
    Both::run(&world(), |both| {
        let later = Frame::udp(CLIENT4, "192.0.2.10:53").with(|f| f.fragment = 0x2010);
        let key = FragmentKey {
            src: later.src.ip().into(),
            dst: later.dst.ip().into(),
            id: u32::from_ne_bytes([0x12, 0x34, 0, 0]),
            proto: u32::from(UDP),
        };
        let record = |both: &mut Both, state: FragmentState, age: u32| -> Result<()> {
            let recorded = lab::now()?.saturating_sub(age);
            let state = FragmentState { recorded, ..state };
            both.memory.now = lab::now()?;
            both.memory.fragments.insert(key, state);
            both.kernel.record_fragment(key, state)
        };
        let source = addr("10.9.0.253:0").ip();
        let in_full = FragmentState {
            src: source.into(),
            dst: addr("10.9.0.3:0").ip().into(),
            service: 3,
            backend: 3,
            action: action::FULL_NAT,
            recorded: 0,
        };
        record(both, in_full, 5)?;
        let ends = Some(("10.9.0.253:0", "10.9.0.3:0"));
        let expected = moved(&later, ends, lab::backend_mac(3), lab::LAN_MAC);
        becomes(both, &later.build(), Reason::ForwardFullNat, &[], &expected);
        let out = FragmentState {
            src: addr("192.0.2.10:0").ip().into(),
            dst: addr(CLIENT4).ip().into(),
            action: action::FULL_NAT | fragment::OUT,
            ..in_full
        };
        record(both, out, 5)?;
        let ends = Some(("192.0.2.10:0", CLIENT4));
        let expected = moved(&later, ends, lab::GATEWAY_MAC, lab::WAN_MAC);
        becomes(both, &later.build(), Reason::ReturnFullNat, &[], &expected);
        // Too old; of a backend whose index is another's now; of no backend; of the other family.
        record(both, in_full, 35)?;
        both.stays(&later.build(), Reason::Fragment);
        record(
            both,
            FragmentState {
                backend: 1,
                ..in_full
            },
            5,
        )?;
        both.stays(&later.build(), Reason::Fragment);
        let nobody = FragmentState {
            backend: 60_000,
            ..in_full
        };
        record(both, nobody, 5)?;
        both.stays(&later.build(), Reason::Inconsistent);
        let six = FragmentState {
            src: addr(CLIENT6).ip().into(),
            ..in_full
        };
        record(both, six, 5)?;
        both.stays(&later.build(), Reason::Inconsistent);
        Ok(())
    })
}
