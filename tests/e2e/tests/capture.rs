//! `weir capture`: real packets of both planes in a file that tshark opens, with what became of each.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_e2e_tests::{HTTP, L4, Site, ask, config, start, vip};
use weir_harness::{Cmd, Process, Weir, lab::Family};

const PATIENCE: Duration = Duration::from_secs(20);

/// A capture of this weir, with what it writes beside the weir's log.
fn command(weir: &Weir<'_>, site: &Site, name: &str, args: &[&str]) -> Result<Process> {
    let pins = weir.pins().context("pins")?;
    let cmd = Cmd::new(weir.binary())
        .args(["capture", "--pins"])
        .arg(pins)
        .args(args);
    Process::start(name, weir.scratch(), &cmd.inside(&site.lab.router))
}

/// The same, begun.
fn begin(weir: &Weir<'_>, site: &Site, name: &str, args: &[&str]) -> Result<Process> {
    let mut process = command(weir, site, name, args)?;
    let errors = weir.scratch().join(format!("{name}.err"));
    process.until(PATIENCE, "the capture begins", || {
        let text = std::fs::read_to_string(&errors).unwrap_or_default();
        if text.contains("capturing") {
            Ok(())
        } else {
            Err(text)
        }
    })?;
    Ok(process)
}

/// One line per packet, as tshark reads them: the fields, tab between them.
fn tshark(file: &Path, fields: &[&str]) -> Result<Vec<String>> {
    let mut cmd = Cmd::new("tshark").args(["-n", "-T", "fields", "-r"]).arg(file);
    for field in fields {
        cmd = cmd.args(["-e", field]);
    }
    Ok(cmd.check()?.lines().map(str::to_owned).collect())
}

#[test]
fn tshark_opens_what_was_captured_and_reads_the_comments() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let file = weir.scratch().join("all.pcapng");
    let name = file.to_str().context("a path")?;
    let client = Family::V4.client().to_string();
    let mut capture = begin(&weir, &site, "capture", &["-w", name, "--host", &client])?;
    ask(&site.lab.client, vip(Family::V4, L4), 5)?;
    ask(&site.lab.client, vip(Family::V4, HTTP), 5)?;
    ask(&site.lab.client, vip(Family::V6, L4), 1)?;
    capture.signal(Signal::SIGINT)?;
    let status = capture.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", capture.stderr());

    let fields = [
        "frame.comment",
        "frame.interface_name",
        "ip.src",
        "ip.dst",
        "tcp.dstport",
        "tcp.flags.syn",
    ];
    let lines = tshark(&file, &fields)?;
    let said = format!(" {} packets", lines.len());
    ensure!(capture.stderr().contains(&said), "{}: {said}", capture.stderr());
    let of = |reason: &str, what: &str| {
        let both = |line: &&String| line.contains(&format!("reason={reason}")) && line.contains(what);
        lines.iter().filter(both).count()
    };
    // Five connections on each plane: their SYNs, each with the port it was sent to, before any rewriting.
    let syns = |port: u16| {
        let is = |line: &&String| {
            let cells: Vec<_> = line.split('\t').collect();
            cells.get(2).is_some_and(|src| *src == client)
                && cells.get(4).is_some_and(|p| *p == port.to_string())
                && cells.get(5).is_some_and(|syn| *syn == "1" || *syn == "True")
        };
        lines.iter().filter(is).count()
    };
    let all = || lines.join("\n");
    ensure!(
        (syns(L4), syns(HTTP)) == (5, 5),
        "{} and {} SYNs:\n{}",
        syns(L4),
        syns(HTTP),
        all()
    );
    ensure!(of("forward-nat", "verdict=forward") >= 5 * 4, "{}", all());
    ensure!(of("return-nat", "egress=") >= 5 * 3, "{}", all());
    ensure!(of("relay", "verdict=pass") >= 5 * 4, "{}", all());
    // The filter names an IPv4 address: nothing else is in the file.
    ensure!(lines.iter().all(|line| line.contains(&client)), "{}", all());
    // Both directions are there, each by the interface it came in by.
    let names: std::collections::BTreeSet<_> =
        lines.iter().filter_map(|line| line.split('\t').nth(1)).collect();
    ensure!(names.len() == 2 && !names.contains(""), "{names:?}");
    // The forwarded leave by the interface that the replies came in by.
    for name in names {
        ensure!(all().contains(&format!("egress={name}")), "{name}");
    }
    Ok(())
}

#[test]
fn one_at_a_time_and_each_ends_as_asked() -> Result<()> {
    let site = Site::new(1)?;
    let mut weir = start(&site.lab, config(&[0]))?;
    let client = &site.lab.client;
    let target = vip(Family::V4, L4);

    // A first one, killed while it captures: it leaves no lock, and the file holds what it had written.
    let mut killed = begin(&weir, &site, "killed", &["-w", "-"])?;
    let mut second = command(&weir, &site, "second", &["-w", "-"])?;
    let status = second.wait(PATIENCE)?;
    ensure!(!status.success(), "a second capture: {status}");
    let words = second.stderr();
    ensure!(
        words.contains(&format!("another capture is going on (pid {})", killed.pid())),
        "{words}"
    );
    ensure!(second.stdout().is_empty(), "it wrote something");
    killed.kill();

    // By number, to standard output, cut short.
    let mut counted = begin(
        &weir,
        &site,
        "counted",
        &["-w", "-", "--proto", "tcp", "--count", "4", "--snap", "54"],
    )?;
    ask(client, target, 2)?;
    let status = counted.wait(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", counted.stderr());
    let lines = tshark(
        &weir.scratch().join("counted.out"),
        &["frame.cap_len", "frame.len"],
    )?;
    ensure!(lines.len() == 4, "{lines:?}");
    ensure!(lines.iter().all(|line| line.starts_with("54\t")), "{lines:?}");

    // By time.
    let file = weir.scratch().join("timed.pcapng");
    let name = file.to_str().context("a path")?;
    let args = [
        "-w",
        name,
        "--for",
        "500ms",
        "--reason",
        "no-service",
        "--port",
        "1",
    ];
    let mut timed = begin(&weir, &site, "timed", &args)?;
    ask(client, target, 1)?;
    ensure!(timed.wait(PATIENCE)?.success(), "{}", timed.stderr());
    ensure!(
        tshark(&file, &["frame.comment"])?.is_empty(),
        "the filter took what it should not"
    );

    // With the weir that it watches.
    let mut watching = begin(&weir, &site, "watching", &["-w", "-"])?;
    weir.stop()?;
    ensure!(watching.wait(PATIENCE)?.success(), "{}", watching.stderr());
    ensure!(
        watching.stderr().contains("weir has ended"),
        "{}",
        watching.stderr()
    );

    let mut none = command(&weir, &site, "none", &["-w", "-"])?;
    ensure!(!none.wait(PATIENCE)?.success(), "there is nothing to capture");
    ensure!(none.stderr().contains("weir run"), "{}", none.stderr());
    Ok(())
}
