//! What `weir_xdp` costs per packet, over a program that only returns `XDP_TX`.
//!
//! ```text
//! cargo run --release -p weir-dataplane-tests --example xdp_cost [-- --json]
//! ```
//!
//! Time is the thread's CPU time, which on a busy machine repeats where wall time does not. Every run gets a fresh frame
//! from a program in front, of a flow drawn at random; the floor is the same program with two instructions behind it. Each
//! round measures the floor and the case one after the other; a figure is the least or the median of the rounds.

use std::{os::fd::AsFd as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use weir_abi::{Reason, maps::backend::ALIVE};
use weir_dataplane_tests::{
    Frame, Kernel, Lab, World,
    floor::{Refill, bare},
    frame::{ACK, SYN},
    world::{TCP, UDP, stable},
};

/// Runs of a round.
const RUNS: u32 = 200_000;
const ROUNDS: usize = 7;

/// What is measured.
struct Case {
    name: &'static str,
    frame: Frame,
    flows: u32,
    reason: Reason,
}

/// Rings of the default size in both families over nine backends.
fn world() -> World {
    let mut world = World::new();
    world.settings.record_limit = u32::MAX;
    for (vip, lan) in [
        ("192.0.2.10:80", "10.9.0."),
        ("[2001:db8:2::10]:80", "2001:db8:9::"),
    ] {
        let backends: Vec<u16> = (1..=9)
            .map(|n| {
                let text = if lan.contains(':') {
                    format!("[{lan}{n}]:8080")
                } else {
                    format!("{lan}{n}:8080")
                };
                let index = world.backend(&text, ALIVE);
                for protocol in [TCP, UDP] {
                    world.answers(&text, protocol, vip, 1, index, 0);
                }
                index
            })
            .collect();
        for protocol in [TCP, UDP] {
            let slots: Vec<_> = (0..65_537)
                .map(|n| stable(backends[n % backends.len()]))
                .collect();
            world.nat(vip, protocol, &slots);
        }
    }
    world
}

fn cases() -> Vec<Case> {
    let (client4, client6) = ("198.51.100.7:40000", "[2001:db8:c::7]:40000");
    let (vip4, vip6) = ("192.0.2.10:80", "[2001:db8:2::10]:80");
    let case = |name, frame, flows, reason| Case {
        name,
        frame,
        flows,
        reason,
    };
    let forward = Reason::ForwardNat;
    vec![
        case("tcp4, 1 flow", Frame::tcp(client4, vip4, ACK), 1, forward),
        case("tcp4, 1k flows", Frame::tcp(client4, vip4, ACK), 1 << 10, forward),
        case(
            "tcp4, 512k flows",
            Frame::tcp(client4, vip4, ACK),
            1 << 19,
            forward,
        ),
        case(
            "tcp4 SYN, 512k flows",
            Frame::tcp(client4, vip4, SYN),
            1 << 19,
            forward,
        ),
        case("udp4, 512k flows", Frame::udp(client4, vip4), 1 << 19, forward),
        case(
            "tcp4 return",
            Frame::tcp("10.9.0.1:8080", client4, ACK),
            1,
            Reason::ReturnNat,
        ),
        case("tcp6, 1 flow", Frame::tcp(client6, vip6, ACK), 1, forward),
        case(
            "tcp6, 512k flows",
            Frame::tcp(client6, vip6, ACK),
            1 << 19,
            forward,
        ),
        case(
            "tcp6 SYN, 512k flows",
            Frame::tcp(client6, vip6, SYN),
            1 << 19,
            forward,
        ),
        case("udp6, 512k flows", Frame::udp(client6, vip6), 1 << 19, forward),
        case(
            "tcp6 return",
            Frame::tcp("[2001:db8:9::1]:8080", client6, ACK),
            1,
            Reason::ReturnNat,
        ),
        case(
            "tcp4 for nobody",
            Frame::tcp(client4, "192.0.2.10:81", ACK),
            1,
            Reason::NoService,
        ),
        case(
            "tcp6 for nobody",
            Frame::tcp(client6, "[2001:db8:2::10]:81", ACK),
            1,
            Reason::NoService,
        ),
    ]
}

/// CPU time of this thread.
fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Nanoseconds per run, of one round.
fn round(program: &Refill) -> Result<f64> {
    let start = cpu_time()?;
    program.run(RUNS)?;
    Ok((cpu_time()? - start).as_nanos() as f64 / f64::from(RUNS))
}

/// The least and the median.
fn summary(mut rounds: Vec<f64>) -> (f64, f64) {
    rounds.sort_by(f64::total_cmp);
    (rounds[0], rounds[rounds.len() / 2])
}

fn main() -> Result<()> {
    let json = std::env::args().any(|arg| arg == "--json");
    Lab::run(|_| {
        // With the maps' default sizes: a table that fills the cache is part of what is measured.
        let mut kernel = Kernel::load_with(&mut aya::EbpfLoader::new())?;
        world().to_kernel(&mut kernel)?;
        let floor = bare()?;
        let mut rows = Vec::new();
        if !json {
            println!(
                "{:<22} {:>8} {:>8} {:>8} {:>8} {:>7}",
                "ns per packet", "bare", "min", "median", "over", "ratio"
            );
        }
        for Case {
            name,
            frame,
            flows,
            reason,
        } in cases()
        {
            let (port_at, address_at) = match frame.src.is_ipv4() {
                true => (34, 29),
                false => (54, 37),
            };
            let vary = (flows > 1).then_some((port_at, address_at, flows));
            // Long enough for all headers to be written anew.
            let frame = frame.with(|f| f.payload.resize(64, 0)).build();
            let bare = Refill::load(floor.as_fd(), &frame, vary)?;
            let case = Refill::load(kernel.xdp()?.fd()?.as_fd(), &frame, vary)?;
            round(&case)?;
            kernel.clear_counters()?;
            let (mut floors, mut costs) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                floors.push(round(&bare)?);
                costs.push(round(&case)?);
            }
            // Every single run went the way that is measured.
            let counters = kernel.counters()?;
            ensure!(
                counters.reason(reason) == u64::from(RUNS) * ROUNDS as u64,
                "{name}: {counters:?}"
            );
            let ((_, floor), (min, median)) = (summary(floors), summary(costs));
            let (over, ratio) = (median - floor, median / floor);
            if !json {
                println!("{name:<22} {floor:>8.1} {min:>8.1} {median:>8.1} {over:>8.1} {ratio:>7.2}");
            }
            rows.push(format!(
                r#"{{"case":"{name}","bare_ns":{floor:.2},"min_ns":{min:.2},"median_ns":{median:.2},"ratio":{ratio:.2}}}"#
            ));
        }
        if json {
            println!("[{}]", rows.join(",\n "));
        } else {
            let instructions = kernel
                .xdp()?
                .info()?
                .size_translated()
                .context("the program's size")?
                / 8;
            println!("weir_xdp: {instructions} instructions");
        }
        Ok(())
    })
}
