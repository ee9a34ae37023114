//! Memory per entry and the time of an update, with a million flows: what the datapath's test of scale measures on its way.
//!
//! Owns the call of that test and the look of its figures. What is asserted about them is the test's matter.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{shell, workspace::Workspace};

/// Milliseconds that the update of one pool's ring may take.
const TARGET: f64 = 50.0;

pub(super) fn run(workspace: &Workspace) -> Result<Value> {
    super::figures(workspace, |file| {
        let mut cargo = workspace.cargo();
        cargo
            .args([
                "test",
                "--release",
                "--package",
                "weir-datapath",
                "--test",
                "kernel",
                "scale::",
            ])
            .env("WEIR_EBPF_OBJECT", workspace.object())
            .env("WEIR_SCALE_FIGURES", file);
        shell::run(&mut cargo).context("the test of scale")
    })
}

pub(super) fn show(figures: &Value, markdown: bool) {
    let number = |pointer: &str| {
        figures
            .pointer(pointer)
            .and_then(Value::as_f64)
            .unwrap_or(f64::NAN)
    };
    let [min, median, max] = ["min", "median", "max"].map(|of| number(&format!("/update_ms/{of}")));
    shell::note(&format!(
        "{} flows, {} backends, {} services, {} bans",
        number("/flows"),
        number("/backends"),
        number("/services"),
        number("/bans")
    ));
    shell::note(&format!(
        "a change in a pool of {} backends, ring of {} slots: {min:.1} / {median:.1} / {max:.1} ms least, median, most \
         (target {TARGET}: {})",
        number("/pool"),
        number("/ring_slots"),
        if median < TARGET { "met" } else { "not met" }
    ));
    let maps = figures.get("maps").and_then(Value::as_array);
    let rows = maps.into_iter().flatten().filter_map(|map| {
        let (name, entries, bytes) = (
            map.get("name")?.as_str()?,
            map.get("entries")?.as_f64()?,
            map.get("bytes")?.as_f64()?,
        );
        // Single values are not worth a line.
        (entries > 1.0).then(|| (name.to_owned(), entries, bytes))
    });
    if markdown {
        shell::say("| map | entries | MiB | bytes per entry |\n|---|---|---|---|");
    } else {
        shell::note(&format!(
            "{:<18}{:>10}{:>10}{:>18}",
            "map", "entries", "MiB", "bytes per entry"
        ));
    }
    for (name, entries, bytes) in rows {
        let (mib, each) = (bytes / f64::from(1 << 20), bytes / entries);
        if markdown {
            shell::say(&format!("| `{name}` | {entries} | {mib:.1} | {each:.0} |"));
        } else {
            shell::note(&format!("{name:<18}{entries:>10}{mib:>10.1}{each:>18.0}"));
        }
    }
}
