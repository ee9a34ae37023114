//! Frames of every shape: VLAN tags kept and translated, jumbo frames, and the MSS of SYNs; in the kernel and on the host.

use anyhow::{Result, ensure};
use weir_abi::{
    NextHop, Note, Reason,
    maps::{action, backend::ALIVE, next_hop, service},
};
use weir_dataplane_tests::{
    Both, Frame, World,
    both::{to_backend, to_client},
    frame::{ACK, SYN, checksum},
    kernel::verdict,
    lab,
    world::{TCP, UDP, stable},
};

const CLIENT: &str = "198.51.100.7:40000";
const VIP: &str = "192.0.2.30:80";
const TAGS: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 0x2007)], &[(0x88a8, 0x0064), (0x8100, 0x0008)]];

fn tag(tag: Option<&(u16, u16)>) -> u32 {
    tag.map_or(0, |(kind, id)| {
        let ([a, b], [c, d]) = (kind.to_be_bytes(), id.to_be_bytes());
        u32::from_ne_bytes([a, b, c, d])
    })
}

/// A way that sets these tags.
fn tagged(hop: NextHop, tags: &[(u16, u16)]) -> NextHop {
    NextHop {
        flags: hop.flags | next_hop::SET_TAGS,
        outer_tag: tag(tags.first()),
        inner_tag: tag(tags.get(1)),
        ..hop
    }
}

/// One service of a mode whose ways, there and back, set `tags`; a backend on 10.9.0.1:8080.
fn world(mode: u32, tags: &[(u16, u16)]) -> World {
    let mut world = World::new();
    world.settings.tunnel_v4 = u32::from_ne_bytes([10, 255, 0, 0]);
    let out = world.next_hop(tagged(lab::backend_hop(1), tags));
    let back = world.next_hop(tagged(lab::gateway_hop(), tags));
    let index = world.backend_via("10.9.0.1:8080", ALIVE, out);
    let id = world.service(mode, VIP, TCP, &[stable(index)]);
    world.answers("10.9.0.1:8080", TCP, VIP, id, index, 0);
    world.route("198.51.100.0/24", back);
    world
}

#[test]
fn tags_are_translated_between_interfaces() -> Result<()> {
    for set in TAGS {
        Both::run(&world(action::NAT, set), |both| {
            for has in TAGS {
                let frame = Frame::tcp(CLIENT, VIP, ACK).with(|f| f.tags = has.to_vec());
                let expected = to_backend(&frame, 1, "10.9.0.1:8080").with(|f| f.tags = set.to_vec());
                both.becomes(&frame, Reason::ForwardNat, &[], &expected);
                let frame = Frame::tcp("10.9.0.1:8080", CLIENT, ACK).with(|f| f.tags = has.to_vec());
                let expected = to_client(&frame, VIP).with(|f| f.tags = set.to_vec());
                both.becomes(&frame, Reason::ReturnNat, &[], &expected);
            }
            Ok(())
        })?;
        let world = world(action::IPIP, set);
        Both::run(&world, |both| {
            for has in TAGS {
                let frame = Frame::tcp(CLIENT, VIP, ACK).with(|f| f.tags = has.to_vec());
                let inner = frame.clone().with(|f| f.hops -= 1);
                let packet = &inner.build()[inner.network_at()..];
                let [hi, lo] = (20 + packet.len() as u16).to_be_bytes();
                let mut ip = vec![0x45, 0, hi, lo, 0, 0, 0x40, 0, 64, 4, 0, 0];
                ip.extend([10, 255, 0, 0, 10, 9, 0, 1]);
                let check = checksum(&[&ip]);
                ip[10..12].copy_from_slice(&check.to_be_bytes());
                let link = to_backend(&frame, 1, "10.9.0.1:8080").with(|f| f.tags = set.to_vec());
                let mut expected = link.build()[..link.network_at()].to_vec();
                expected.extend(ip);
                expected.extend(packet);
                both.check(&frame.build(), Reason::ForwardIpip, &[], Some(&expected))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// More than a page: the kernel hands the frame over in several buffers.
#[test]
fn jumbo_frames_are_forwarded_whole() -> Result<()> {
    let mut world = World::new();
    world.settings.tunnel_v4 = u32::from_ne_bytes([10, 255, 0, 0]);
    let hop = world.next_hop(NextHop {
        mtu: 9000,
        ..lab::backend_hop(1)
    });
    let back = world.next_hop(NextHop {
        mtu: 9000,
        ..lab::gateway_hop()
    });
    let index = world.backend_via("10.9.0.1:8080", ALIVE, hop);
    for (mode, vip) in [
        (action::NAT, "192.0.2.30:53"),
        (action::DSR, "192.0.2.31:53"),
        (action::IPIP, "192.0.2.32:53"),
    ] {
        world.service(mode, vip, UDP, &[stable(index)]);
    }
    world.answers("10.9.0.1:8080", UDP, "192.0.2.30:53", 1, index, 0);
    world.route("198.51.100.0/24", back);
    world.settings.reply_limit = 1000;
    Both::run(&world, |both| {
        for size in [4000, 4096, 8000, 8972] {
            let payload: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
            let frame = |src: &str, dst: &str| Frame::udp(src, dst).with(|f| f.payload.clone_from(&payload));
            let there = frame(CLIENT, "192.0.2.30:53");
            both.becomes(
                &there,
                Reason::ForwardNat,
                &[],
                &to_backend(&there, 1, "10.9.0.1:8080"),
            );
            let back = frame("10.9.0.1:8080", CLIENT);
            both.becomes(&back, Reason::ReturnNat, &[], &to_client(&back, "192.0.2.30:53"));
            let as_is = frame(CLIENT, "192.0.2.31:53");
            both.becomes(
                &as_is,
                Reason::ForwardDsr,
                &[],
                &to_backend(&as_is, 1, "192.0.2.31:53"),
            );
            if size < 8950 {
                let run = both.kernel.run(&frame(CLIENT, "192.0.2.32:53").build())?;
                ensure!(run.verdict == verdict::REDIRECT && run.frame.len() == 14 + 20 + 28 + size as usize);
                ensure!(run.frame[62..] == payload, "what is inside stays");
            }
        }
        Ok(())
    })
}

/// Services with what their MSS is lowered to: by the MTU of the way, by hand, and inside a tunnel.
#[test]
fn the_mss_is_lowered_on_both_ways() -> Result<()> {
    let mut world = World::standard();
    world.settings.tunnel_v4 = u32::from_ne_bytes([10, 255, 0, 0]);
    let low = world.next_hop(NextHop {
        mtu: 1400,
        ..lab::backend_hop(1)
    });
    for backend in &mut world.backends[1..3] {
        backend.next_hop = low;
    }
    let index = world.backend("10.9.0.7:80", ALIVE);
    let id = world.nat("192.0.2.30:80", TCP, &[stable(index)]);
    world.change(id, |s| s.flags |= 1000 << service::MSS_SHIFT);
    world.answers("10.9.0.7:80", TCP, "192.0.2.30:80", id, index, 0);
    if let Some((_, target)) = world.returns.last_mut() {
        target.port |= 1000 << 16;
    }
    world.service(action::IPIP, "192.0.2.31:80", TCP, &[stable(index)]);
    world.service(action::DSR, "192.0.2.32:80", TCP, &[stable(index)]);
    world.resolve();
    // `resolve` has given these two their own ways back.
    for backend in &mut world.backends[1..3] {
        backend.next_hop = low;
    }
    let option = |mss: u16| [[2, 4], mss.to_be_bytes()].concat();
    let shapes = |mss: u16| -> Vec<Vec<u8>> {
        let option = option(mss);
        vec![
            [&option[..], &[1, 3, 3, 7]].concat(),
            // Behind others, at an even and at odd places.
            [&[1, 1], &option[..], &[1, 1]].concat(),
            [&[1], &option[..], &[1, 1, 1]].concat(),
            [&[3, 3, 7], &option[..], &[1]].concat(),
            [&[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2], &option[..]].concat(),
        ]
    };
    let client6 = "[2001:db8:c::7]:40000";
    Both::run(&world, |both| {
        let (mut port, clamped) = (1000, [Note::FlowRecorded, Note::MssClamped]);
        for (client, vip, backend, n, most) in [
            (CLIENT, "192.0.2.10:80", "10.9.0.1:8080", 1, 1360),
            (client6, "[2001:db8:2::10]:80", "[2001:db8:9::2]:8080", 1, 1340),
            (CLIENT, "192.0.2.30:80", "10.9.0.7:80", 7, 1000),
            (CLIENT, "192.0.2.32:80", "192.0.2.32:80", 7, 1460),
        ] {
            for offered in [most - 1, most, most + 1, 8960] {
                for (before, after) in shapes(offered).into_iter().zip(shapes(offered.min(most))) {
                    port += 1;
                    let frame = Frame::tcp(client, vip, SYN).with(|f| {
                        f.src.set_port(port);
                        f.tcp_options = before;
                    });
                    let expected = to_backend(&frame, n, backend).with(|f| f.tcp_options = after);
                    let notes = &clamped[..1 + usize::from(offered > most)];
                    let reason = match vip {
                        "192.0.2.32:80" => Reason::ForwardDsr,
                        _ => Reason::ForwardNat,
                    };
                    both.becomes(&frame, reason, notes, &expected);
                }
            }
        }
        // SYN-ACKs, by the narrower of both ways, and by hand.
        for (backend, client, vip, most) in [
            ("10.9.0.1:8080", CLIENT, "192.0.2.10:80", 1360),
            ("[2001:db8:9::2]:8080", client6, "[2001:db8:2::10]:80", 1340),
            ("10.9.0.7:80", CLIENT, "192.0.2.30:80", 1000),
        ] {
            for offered in [536, most, most + 1, 65535] {
                for (before, after) in shapes(offered).into_iter().zip(shapes(offered.min(most))) {
                    let frame = Frame::tcp(backend, client, SYN | ACK).with(|f| f.tcp_options = before);
                    let expected = to_client(&frame, vip).with(|f| f.tcp_options = after);
                    let notes = &clamped[1..1 + usize::from(offered > most)];
                    both.becomes(&frame, Reason::ReturnNat, notes, &expected);
                }
            }
        }
        // Inside a tunnel: what the outer header leaves.
        for (before, after) in shapes(1460).into_iter().zip(shapes(1440)) {
            let frame = Frame::tcp(CLIENT, "192.0.2.31:80", SYN).with(|f| f.tcp_options = before);
            let inner = frame.clone().with(|f| {
                f.tcp_options = after;
                f.hops -= 1;
            });
            let run = both.kernel.run(&frame.build())?;
            ensure!(run.verdict == verdict::REDIRECT && run.frame[34..] == inner.build()[14..]);
        }
        // Not in what opens nothing; options that lie are the receiver's to judge.
        for (flags, options, notes) in [
            (ACK, option(9000), &[][..]),
            (SYN, vec![2, 3, 0xff, 0], &clamped[..1]),
            (SYN, vec![5, 0, 0, 0, 2, 4, 0xff, 0xff], &clamped[..1]),
            (SYN, vec![0, 0, 0, 0, 2, 4, 0xff, 0xff], &clamped[..1]),
            (SYN, vec![8, 10, 2, 4], &clamped[..1]),
        ] {
            let frame = Frame::tcp(CLIENT, "192.0.2.10:80", flags).with(|f| {
                f.src.set_port(9);
                f.tcp_options = options;
            });
            let expected = to_backend(&frame, 1, "10.9.0.1:8080");
            both.becomes(&frame, Reason::ForwardNat, notes, &expected);
        }
        Ok(())
    })
}
