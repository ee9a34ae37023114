//! Another version of weir, whose tables have another layout, forwards flows: they are lost only if that is asked for.

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_dataplane_tests::foreign;
use weir_e2e_tests::{
    modes::{ECHO, ECHO_TOO, Farm, Mode},
    start, vip,
};
use weir_harness::{Weir, lab::Family, peer::echo, wait_until};

/// What the other version's pins lie under.
const OTHER: &str = "0123456789abcdef";
/// Connections of each family and mode.
const FLOWS: usize = 5;

/// Makes what this weir has left, control being gone, into another version's: pins under another hash, no state file that
/// this version reads, and tables of another layout with so many flows, those by `full-nat` beside the others. What
/// is attached keeps the tables that it has.
fn make_another_versions(weir: &Weir<'_>, plain: usize, translated: usize) -> Result<PathBuf> {
    let pins = weir.pins().context("pins")?;
    let mut versions = fs::read_dir(pins)?;
    let own = versions.next().context("nothing is pinned")??.path();
    ensure!(versions.next().is_none(), "one version");
    let other = pins.join(OTHER);
    fs::rename(&own, &other)?;
    fs::remove_file(weir.scratch().join("assignment.json")).context("the state file")?;
    for (table, flows) in [("FLOWS", plain), ("NAT_FLOWS", translated)] {
        foreign::replace(&other.join("maps").join(table), u32::try_from(flows)?)?;
    }
    Ok(other)
}

fn within(pinned: &[PathBuf], dir: &Path) -> bool {
    !pinned.is_empty() && pinned.iter().all(|path| path.starts_with(dir))
}

#[test]
fn a_start_is_refused_with_words_until_flows_may_be_discarded() -> Result<()> {
    let (nat, full_nat) = (Mode::Nat, Mode::FullNat);
    // One network serves both: `nat` needs a way back, by which `full-nat` is not disturbed.
    let farm = Farm::new(nat, 2)?;
    let client = &farm.lab.client;
    let both_pools = nat.pools(2, "") + &full_nat.pools(2, "").replace("[pools.farm", "[pools.hidden");
    let mut body = both_pools + &nat.services("plain", &[ECHO], "");
    body += &full_nat
        .services("hidden", &[ECHO_TOO], "")
        .replace("pool = \"farm", "pool = \"hidden");
    let mut weir = start(&farm.lab, body)?;
    let open = |port| -> Result<Vec<TcpStream>> {
        let mut open = Vec::new();
        for family in Family::ALL {
            for _ in 0..FLOWS {
                let mut stream = echo::connect(client, vip(family, port))?;
                echo::ping(&mut stream, b"hello")?;
                open.push(stream);
            }
        }
        Ok(open)
    };
    let (mut plain, mut hidden) = (weir.with_log(open(ECHO))?, weir.with_log(open(ECHO_TOO))?);
    weir.kill_control();
    let (each, all) = (2 * FLOWS, 4 * FLOWS);
    let other = make_another_versions(&weir, each, each)?;

    let refused = weir.start_again().err().context("it starts over the flows")?;
    let words = format!("{refused:#}");
    for part in [
        "has ended by itself",
        &other.display().to_string(),
        &format!("{all} recorded flows ({each} of them by full-nat) would be lost"),
        "go on with that version until they are over, or start this one with --discard-flows",
    ] {
        ensure!(words.contains(part), "{part:?} is not in: {words}");
    }
    // The other version goes on as if nothing had been tried.
    ensure!(within(&weir.pinned()?, &other), "{:?}", weir.pinned()?);
    for stream in plain.iter_mut().chain(&mut hidden) {
        weir.with_log(echo::ping(stream, b"still there"))?;
    }
    weir.with_log(open(ECHO).and_then(|_| open(ECHO_TOO)))?;

    weir.change(|config| config.args.push("--discard-flows"))?;
    weir.start_again()?;
    ensure!(
        !other.exists() && !weir.pinned()?.is_empty(),
        "{:?}",
        weir.pinned()?
    );
    weir.wait_log("flows recorded by another version are discarded, as --discard-flows says")?;
    // The hash key was kept, so the hash alone leads a flow to the backend it has.
    for stream in &mut plain {
        weir.with_log(echo::ping(stream, b"and on"))?;
    }
    // Those by `full-nat` are known by their entries alone.
    for stream in &mut hidden {
        stream.write_all(b"anybody there?")?;
    }
    let unknown = wait_until(Duration::from_secs(10), "packets of no flow are counted", || {
        let metrics = weir.metrics().map_err(|e| format!("{e:#}"))?;
        match metrics.sum("weir_xdp_packets_total", &[("reason", "nat-unknown")]) {
            Ok(count) if count >= hidden.len() as f64 => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    weir.with_log(unknown)?;
    weir.with_log(open(ECHO).and_then(|_| open(ECHO_TOO)))?;
    weir.stop()?;
    ensure!(weir.pinned()?.is_empty(), "{:?}", weir.pinned()?);
    Ok(())
}
