//! Captures: what the filter takes comes out as it came in, with what became of it; nothing else does.

use anyhow::{Result, ensure};
use weir_abi::{Addr16, CaptureFilter, Note, Reason, Verdict, maps::settings};
use weir_dataplane_tests::{
    Frame, Kernel, Lab, World,
    frame::{ACK, SYN},
    lab,
    world::addr,
};

const CLIENT4: &str = "198.51.100.7:40000";
const CLIENT6: &str = "[2001:db8:c::7]:40000";

fn every(snap: u32) -> Result<CaptureFilter> {
    Ok(CaptureFilter {
        until: lab::now()? + 60,
        snap,
        ..CaptureFilter::default()
    })
}

fn run(test: impl FnOnce(&mut Kernel, &World) -> Result<()> + Send) -> Result<()> {
    Lab::run(|_| {
        let mut world = World::standard();
        world.settings.flags |= settings::CAPTURE;
        let mut kernel = Kernel::load()?;
        world.to_kernel(&mut kernel)?;
        test(&mut kernel, &world)
    })
}

/// Frames with a reason each: sent on, passed, dropped, of both families and of none.
fn frames() -> Vec<(Vec<u8>, Reason)> {
    let nat = Frame::tcp(CLIENT4, "192.0.2.10:80", SYN);
    let mut arp = vec![2; 60];
    arp[12..14].copy_from_slice(&0x0806_u16.to_be_bytes());
    vec![
        (nat.build(), Reason::ForwardNat),
        (
            Frame::tcp(CLIENT6, "[2001:db8:2::10]:80", ACK).build(),
            Reason::ForwardNat,
        ),
        (
            Frame::udp("10.9.0.3:5353", CLIENT4)
                .with(|f| f.tags = vec![(0x8100, 7)])
                .build(),
            Reason::ReturnNat,
        ),
        (arp, Reason::NotIp),
        (
            Frame::tcp(CLIENT4, "192.0.2.99:80", SYN).build(),
            Reason::NoService,
        ),
        (nat.with(|f| f.hops = 1).build(), Reason::ReplyLimited),
    ]
}

#[test]
fn frames_come_out_as_they_came_in_with_what_became_of_them() -> Result<()> {
    run(|kernel, _| {
        kernel.capture(every(2048)?)?;
        for (frame, reason) in frames() {
            kernel.run(&frame)?;
            let captured = kernel.captured()?;
            ensure!(
                captured.len() == 1,
                "{}: {} packets",
                reason.name(),
                captured.len()
            );
            let (record, bytes) = &captured[0];
            ensure!(*bytes == frame, "{}: {bytes:02x?}", reason.name());
            ensure!(record.reason == reason as u32, "{}: {record:?}", reason.name());
            ensure!(record.frame_len as usize == frame.len(), "{record:?}");
            ensure!(record.ifindex == 1, "came in by lo: {record:?}");
            let sent = reason.verdict() == Verdict::Forward;
            ensure!((record.egress != 0) == sent, "{}: {record:?}", reason.name());
            ensure!(record.time > 0, "{record:?}");
        }
        Ok(())
    })
}

#[test]
fn only_what_the_filter_takes() -> Result<()> {
    run(|kernel, _| {
        let any = every(2048)?;
        let v4 = |text: &str, mask: [u8; 4]| CaptureFilter {
            addr: addr(text).ip().into(),
            mask: Addr16::from_v6_words([!0, !0, !0, u32::from_ne_bytes(mask)]),
            ..any
        };
        for (name, filter, want) in [
            ("any", any, vec![0, 1, 2, 3, 4, 5]),
            ("client", v4("198.51.100.7:0", [255; 4]), vec![0, 2, 4, 5]),
            ("VIP", v4("192.0.2.10:0", [255; 4]), vec![0, 5]),
            ("network", v4("192.0.2.0:0", [255, 255, 255, 0]), vec![0, 4, 5]),
            (
                "IPv6",
                CaptureFilter {
                    addr: addr("[2001:db8:c::7]:0").ip().into(),
                    mask: Addr16::from_v6_words([!0; 4]),
                    ..any
                },
                vec![1],
            ),
            (
                "port",
                CaptureFilter {
                    port: 5353_u16.to_be().into(),
                    ..any
                },
                vec![2],
            ),
            ("protocol", CaptureFilter { proto: 17, ..any }, vec![2]),
            (
                "reason",
                CaptureFilter {
                    reason: Reason::NoService as u32 + 1,
                    ..any
                },
                vec![4],
            ),
            (
                "verdict",
                CaptureFilter {
                    verdict: Verdict::Pass as u32 + 1,
                    ..any
                },
                vec![3, 4],
            ),
            ("over", CaptureFilter { until: 1, ..any }, vec![]),
        ] {
            kernel.capture(filter)?;
            let frames = frames();
            for (frame, _) in &frames {
                kernel.run(frame)?;
            }
            let seen: Vec<_> = kernel.captured()?.into_iter().map(|(_, bytes)| bytes).collect();
            let want: Vec<_> = want.into_iter().map(|i: usize| frames[i].0.clone()).collect();
            ensure!(seen == want, "{name}: {} packets, not {}", seen.len(), want.len());
        }
        Ok(())
    })
}

#[test]
fn as_many_bytes_as_asked_for_and_none_while_it_is_off() -> Result<()> {
    run(|kernel, world| {
        let frame = Frame::udp(CLIENT4, "192.0.2.10:53")
            .with(|f| f.payload = vec![7; 1400])
            .build();
        for (snap, want) in [(1, 1), (64, 64), (2048, frame.len()), (5000, frame.len()), (0, 0)] {
            kernel.capture(every(snap)?)?;
            kernel.run(&frame)?;
            let captured = kernel.captured()?;
            let bytes = captured.first().map_or(0, |(_, bytes)| bytes.len());
            ensure!(bytes == want, "snap {snap}: {bytes} bytes, not {want}");
        }

        kernel.capture(every(2048)?)?;
        let mut off = world.settings;
        off.flags &= !settings::CAPTURE;
        kernel.settings(off)?;
        kernel.run(&frame)?;
        ensure!(kernel.captured()?.is_empty(), "captured while it is off");
        Ok(())
    })
}

#[test]
fn what_does_not_fit_is_counted() -> Result<()> {
    run(|kernel, _| {
        kernel.capture(every(2048)?)?;
        let frame = Frame::udp(CLIENT4, "192.0.2.10:53")
            .with(|f| f.payload = vec![7; 1400])
            .build();
        // The buffer holds 4 MiB.
        let runs = (4 << 20) / frame.len() + 100;
        for _ in 0..runs {
            kernel.run(&frame)?;
        }
        let lost = kernel.counters()?.note(Note::CaptureLost) as usize;
        let kept = kernel.captured()?.len();
        ensure!(lost > 0, "nothing lost of {runs}");
        ensure!(kept + lost == runs, "{kept} kept, {lost} lost, of {runs}");
        Ok(())
    })
}
