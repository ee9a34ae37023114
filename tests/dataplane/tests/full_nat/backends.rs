//! Backends that drain, die, and are used by other ways as well.

use super::*;

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
