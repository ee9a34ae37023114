//! Flows whose backend is dead are reset, whatever the rings have been through.

use super::*;

/// A RST, with everything in its place.
fn rst(frame: &Frame, sequence: u32, acknowledged: u32, flags: u8) -> Vec<u8> {
    let mut tcp = [frame.dst.port().to_be_bytes(), frame.src.port().to_be_bytes()].concat();
    tcp.extend(sequence.to_be_bytes());
    tcp.extend(acknowledged.to_be_bytes());
    tcp.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    let mut out = [frame.from_mac, frame.to_mac].concat();
    for (ether_type, tci) in &frame.tags {
        out.extend(ether_type.to_be_bytes());
        out.extend(tci.to_be_bytes());
    }
    match (frame.dst.ip(), frame.src.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let addresses = [src.octets(), dst.octets()].concat();
            let check = checksum(&[&addresses, &[0, 6, 0, 20], &tcp]);
            tcp[16..18].copy_from_slice(&check.to_be_bytes());
            let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            ip.extend(&addresses);
            let check = checksum(&[&ip]);
            ip[10..12].copy_from_slice(&check.to_be_bytes());
            out.extend([8, 0]);
            out.extend(ip);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let addresses = [src.octets(), dst.octets()].concat();
            let check = checksum(&[&addresses, &[0, 0, 0, 20, 0, 0, 0, 6], &tcp]);
            tcp[16..18].copy_from_slice(&check.to_be_bytes());
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
            out.extend(&addresses);
        }
        _ => panic!("two families"),
    }
    out.extend(tcp);
    out
}

const SERVICES: [(&str, &str); 2] = [(CLIENT4, "192.0.2.20:80"), (CLIENT6, "[2001:db8:2::20]:80")];

/// Services of both families and protocols that reset; backends 1 and 2 of each family, and a slot.
fn resetting(slot: impl Fn(u16, u16) -> Slot, alive: bool) -> World {
    let mut world = World::new();
    world.settings = Settings {
        tcp_grace: 60,
        udp_grace: 120,
        horizon: 600,
        reply_limit: 100_000,
        ..world.settings
    };
    let dead = if alive { ALIVE } else { 0 };
    for (vip, old, new) in [
        (SERVICES[0].1, "10.9.0.1:8080", "10.9.0.2:8080"),
        (SERVICES[1].1, "[2001:db8:9::1]:8080", "[2001:db8:9::2]:8080"),
    ] {
        let (old, new) = (world.backend(old, dead), world.backend(new, ALIVE));
        for protocol in [TCP, UDP] {
            let id = world.nat(vip, protocol, &[slot(old, new)]);
            world.change(id, |s| s.flags |= service::RESET);
        }
    }
    world.resolve();
    world
}

/// From the old to the new backend, this many seconds ago.
fn changed(ago: u32) -> Result<impl Fn(u16, u16) -> Slot> {
    let changed = lab::now()?
        .checked_sub(ago)
        .context("up for less than two minutes")?;
    Ok(move |old, new| Slot {
        current: new,
        previous: old,
        changed,
    })
}

#[test]
fn flows_of_a_dead_backend_are_reset() -> Result<()> {
    let mut world = resetting(changed(4)?, false);
    for ((client, vip), backend) in SERVICES.into_iter().zip([1, 3]) {
        let state = FlowState {
            backend,
            recorded: 1,
            ..FlowState::default()
        };
        let key = flow_key(addr(client), addr(vip), TCP);
        world.flows.push((key, state));
    }
    let known = [Note::FlowLookup, Note::FlowHit];
    let closing = [Note::FlowLookup, Note::FlowHit, Note::FlowClosed];
    Both::run(&world, |both| {
        for (client, vip) in SERVICES {
            for (tags, payload) in [(vec![], 0), (vec![(0x8100, 7)], 1), (vec![(0x88a8, 1); 2], 1400)] {
                let frame = |flags| {
                    Frame::tcp(client, vip, flags).with(|f| {
                        f.tags = tags.clone();
                        f.payload = vec![7; payload];
                        f.tcp_options = vec![1; 12];
                    })
                };
                let acked = frame(ACK);
                let expected = rst(&acked, 0x0506_0708, 0, RST);
                // The first answer ends the flow.
                let notes: &[Note] = if tags.is_empty() { &closing } else { &known };
                becomes(both, &acked.build(), Reason::ResetSent, notes, &expected);
                let bare = frame(0);
                let next = 0x0102_0304 + payload as u32;
                let expected = rst(&bare, 0, next, RST | ACK);
                becomes(both, &bare.build(), Reason::ResetSent, &known, &expected);
            }
            let options = Frame::tcp(client, vip, ACK).with(|f| {
                if f.src.is_ipv4() {
                    f.options = vec![1; 40];
                } else {
                    f.extensions = vec![(60, vec![0; 8])];
                }
            });
            let expected = rst(&options, 0x0506_0708, 0, RST);
            becomes(both, &options.build(), Reason::ResetSent, &known, &expected);
            let end = Frame::tcp(client, vip, FIN).with(|f| f.payload.clear());
            let expected = rst(&end, 0, 0x0102_0305, RST | ACK);
            becomes(both, &end.build(), Reason::ResetSent, &known, &expected);
            // A RST is not answered.
            let reset = Frame::tcp(client, vip, RST).build();
            both.check(&reset, Reason::NoBackend, &known, None)?;

            for (port, payload) in (50_000..).zip([0, 1, 2, 3, 4, 5, 600, 1400]) {
                let frame = Frame::udp(client, vip).with(|f| {
                    f.src.set_port(port);
                    f.payload = vec![3; payload];
                });
                let key = flow_key(frame.src, frame.dst, UDP);
                let state = FlowState {
                    backend: if frame.src.is_ipv4() { 1 } else { 3 },
                    recorded: 1,
                    ..FlowState::default()
                };
                both.kernel.record_flow(key, state)?;
                both.memory.flows.insert(key, state);
                let v4 = frame.src.is_ipv4();
                let (kind, most) = if v4 { ([3, 3], 548) } else { ([1, 4], 1232) };
                let whole = frame.build().len() - 14;
                let answer = Icmp::answers(&frame, kind, [0; 4], most.min(whole) & !3);
                becomes(
                    both,
                    &frame.build(),
                    Reason::UnreachableSent,
                    &known,
                    &answer.build(),
                );
                // What comes next is a new try, and taken by the backend that there is now.
                let backend = if v4 {
                    "10.9.0.2:8080"
                } else {
                    "[2001:db8:9::2]:8080"
                };
                both.becomes(
                    &frame,
                    Reason::ForwardNat,
                    &known,
                    &to_backend(&frame, 2, backend),
                );
            }
        }
        Ok(())
    })
}

/// A backend dies under its flows, step by step as control writes it.
#[test]
fn resets_through_the_rings_changes() -> Result<()> {
    Both::run(&resetting(|old, _| stable(old), true), |both| {
        let known = [Note::FlowLookup, Note::FlowHit];
        let (recorded, unrecorded) = ("198.51.100.7:1", "198.51.100.7:2");
        let vip = SERVICES[0].1;
        let of = |client: &str, flags| Frame::tcp(client, vip, flags);
        let syn = of(recorded, SYN);
        let to_old = |frame: &Frame| to_backend(frame, 1, "10.9.0.1:8080");
        let to_new = |frame: &Frame| to_backend(frame, 2, "10.9.0.2:8080");
        both.becomes(&syn, Reason::ForwardNat, &[Note::FlowRecorded], &to_old(&syn));
        let set_alive = |both: &mut Both, alive: bool| -> Result<()> {
            let mut backend = both.memory.backends[1];
            backend.flags = if alive { ALIVE } else { 0 };
            both.memory.backends[1] = backend;
            both.kernel.backend(1, backend)
        };
        // Dead, and the ring does not say so yet: the packet is lost.
        set_alive(both, false)?;
        both.stays(&of(recorded, ACK).build(), Reason::NoBackend);
        // The ring says so.
        for (ago, in_grace) in [(4, true), (100, false)] {
            let slot = changed(ago)?(1, 2);
            both.kernel.ring(0, &[slot])?;
            both.memory.rings[0] = slot;
            both.memory.now = lab::now()?;
            let ack = of(recorded, ACK);
            let expected = rst(&ack, 0x0506_0708, 0, RST);
            // The first answer ends the flow, so that it counts no more.
            let notes = &[Note::FlowLookup, Note::FlowHit, Note::FlowClosed][..if in_grace { 3 } else { 2 }];
            becomes(both, &ack.build(), Reason::ResetSent, notes, &expected);
            let ack = of(unrecorded, ACK);
            let expected = rst(&ack, 0x0506_0708, 0, RST);
            if in_grace {
                becomes(both, &ack.build(), Reason::ResetSent, &known[..1], &expected);
            } else {
                both.becomes(&ack, Reason::ForwardNat, &known[..1], &to_new(&ack));
            }
        }
        // It comes back before the client has given up: the flow goes on.
        set_alive(both, true)?;
        let ack = of(recorded, ACK);
        both.becomes(&ack, Reason::ForwardNat, &known, &to_old(&ack));
        // The client tries anew, on the same tuple.
        set_alive(both, false)?;
        both.becomes(&syn, Reason::ForwardNat, &[Note::FlowRecorded], &to_new(&syn));
        both.becomes(&ack, Reason::ForwardNat, &known, &to_new(&ack));
        Ok(())
    })
}

#[test]
fn errors_follow_the_flow_rule_and_record_nothing() -> Result<()> {
    let mut world = resetting(changed(4)?, true);
    let (client, vip) = SERVICES[0];
    let (kept, fresh) = ("198.51.100.7:1", "198.51.100.7:2");
    let state = FlowState {
        backend: 2,
        recorded: 1,
        ..FlowState::default()
    };
    world.flows.push((flow_key(addr(kept), addr(vip), TCP), state));
    Both::run(&world, |both: &mut Both| {
        for (client, tcp, n, backend) in [
            (kept, true, 2, "10.9.0.2:8080"),
            (fresh, true, 1, "10.9.0.1:8080"),
            (client, false, 1, "10.9.0.1:8080"),
        ] {
            let about = packet(vip, client, tcp);
            let error = Icmp::new("198.51.100.1", "192.0.2.20", [3, 4], &quote(&about, 28));
            let expected = error
                .clone()
                .with(|f| {
                    f.dst = addr(backend).ip();
                    f.body = quote(&between(&about, backend, client), 28);
                })
                .leaves(lab::backend_mac(n), lab::LAN_MAC);
            becomes(both, &error.build(), Reason::ForwardIcmp, &[], &expected.build());
        }
        ensure!(both.kernel.flows()?.len() == 1 && both.memory.flows.len() == 1);
        Ok(())
    })
}
