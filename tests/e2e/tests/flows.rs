//! `weir flows` and the sweeps: what the kernel remembers is shown as it is, and goes when it has ended.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_e2e_tests::{L4, Site, ask, config, pool_of, start, vip};
use weir_harness::{Weir, lab::Family, wait_until};

fn flows(weir: &Weir<'_>, args: &[&str]) -> Result<(u64, Vec<Vec<String>>)> {
    let mut command = vec!["flows"];
    command.extend(args);
    let text = weir.ask(&command)?;
    let mut lines: Vec<&str> = text.lines().collect();
    let last = lines.pop().context("no last line")?;
    // "3 shown of 7 that match, of 9 in all"
    let words: Vec<&str> = last.split_whitespace().collect();
    let matched = words.get(3).context("a number")?.parse()?;
    let cells = |line: &&str| line.split_whitespace().map(str::to_owned).collect();
    let rows = lines
        .iter()
        .skip(1)
        .filter(|l| !l.is_empty())
        .map(cells)
        .collect();
    Ok((matched, rows))
}

#[test]
fn flows_are_listed_filtered_and_swept() -> Result<()> {
    let site = Site::new(2)?;
    let weir = start(&site.lab, config(&[0, 1]))?;
    let client = &site.lab.client;
    ask(client, vip(Family::V4, L4), 6)?;
    ask(client, vip(Family::V6, L4), 3)?;

    let (matched, rows) = flows(&weir, &[])?;
    ensure!(matched == 9 && rows.len() == 9, "{matched}: {rows:?}");
    let service = pool_of(Family::V4, "packets");
    let (matched, rows) = flows(&weir, &["--service", &service, "--limit", "4"])?;
    ensure!(matched == 6 && rows.len() == 4, "{matched}: {rows:?}");
    let address = vip(Family::V4, L4).to_string();
    for row in &rows {
        ensure!(row[0].starts_with(&Family::V4.client().to_string()), "{row:?}");
        ensure!(
            row[1] == address && row[2] == "tcp" && row[3] == service,
            "{row:?}"
        );
        ensure!(row[4].starts_with("web/"), "{row:?}");
    }
    let network = format!("{}/128", Family::V6.client());
    ensure!(flows(&weir, &["--source", &network])?.0 == 3);
    ensure!(flows(&weir, &["--destination", "192.0.2.255/32"])?.0 == 0);

    // Each connection goes to one of two, and none to both.
    let mut to = 0;
    for backend in &weir
        .pools()?
        .pools
        .iter()
        .find(|p| p.name == "web")
        .context("web")?
        .backends
    {
        to += flows(&weir, &["--backend", &format!("web/{}", backend.address)])?.0;
    }
    ensure!(to == 6, "{to} flows to the backends of web");

    for (args, words) in [
        (["flows", "--service", "nobody"], "there is no service nobody"),
        (["flows", "--backend", "web/10.0.0.99:1"], "there is no backend"),
        (["flows", "--source", "10.0.0.1/8"], "write 10.0.0.0/8"),
    ] {
        let output = weir.cli(&args)?;
        ensure!(!output.status.success(), "{args:?}");
        ensure!(
            output.complaint().contains(words),
            "{args:?}: {}",
            output.complaint()
        );
    }

    // The sweep counts what is there.
    wait_until(Duration::from_secs(60), "the metrics count the flows", || {
        let metrics = weir.metrics().map_err(|e| format!("{e:#}"))?;
        let of = |name| {
            metrics
                .sum(name, &[("table", "flows")])
                .map_err(|e| format!("{e:#}"))
        };
        let (entries, capacity) = (of("weir_xdp_flow_entries")?, of("weir_xdp_flow_capacity")?);
        if entries == 9.0 && capacity > 9.0 {
            Ok(())
        } else {
            Err(format!("{entries} of {capacity}"))
        }
    })?;
    Ok(())
}
