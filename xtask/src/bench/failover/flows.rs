//! Connections that are open when the master is killed: how many of them it costs.
//!
//! Owns the figures that are asked for. Each flow asks at the moment of the fault, so that what is under way meets the box that
//! dies, the time without one, and the box that takes over. `full-nat` begins once the other box was told of all flows: what
//! has begun within the last second before a fault is not yet, and is lost (docs/flow-sync.md).

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use weir_harness::{
    Pair, Scratch, Weir,
    pair::{
        backend,
        flows::{Flows, Forward, Tally, config, wait_held, wait_joined},
    },
    peer::nginx::Nginx,
};

use super::{super::peers::go_on, Row, Verdict};
use crate::shell;

/// Flows at once, by one mode after the other: no process may have more descriptors than 20 000.
const FLOWS: usize = 10_000;
const BACKENDS: usize = 2;

pub(super) fn run(binary: &Path, rounds: u32) -> Result<Vec<Row>> {
    let pair = Pair::new(1, BACKENDS)?;
    // Each round leaves its ports in TIME_WAIT.
    pair.clients[0].sysctl("ipv4/ip_local_port_range", "1024 65535")?;
    pair.clients[0].sysctl("ipv4/tcp_tw_reuse", "1")?;
    let scratch = Scratch::new()?;
    let key = scratch.write("boxes.key", "5f0c1d2e3b4a59687786a5b4c3d2e1f0\n")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut servers = Vec::new();
    for (i, netns) in pair.backends.iter().enumerate() {
        netns.sysctl("core/somaxconn", "4096")?;
        servers.push(Nginx::start(netns, &format!("b{i}"), &[(backend(i), 80).into()])?);
    }
    let start = |node: usize| {
        let mut config = config(node, BACKENDS, "10ms", &key);
        config.binary = Some(binary.to_path_buf());
        Weir::start(&pair.boxes[node], config).with_context(|| format!("weir on box {node}"))
    };
    let mut boxes = [start(0)?, start(1)?];
    let mut master = 0;
    boxes[master].wait_group("edge", "master")?;
    let mut rows = Vec::new();
    for forward in Forward::ALL {
        let mut tallies = Vec::new();
        for _ in 0..rounds {
            go_on()?;
            let other = 1 - master;
            boxes[other].wait_all_up()?;
            wait_joined(&boxes[other])?;
            boxes[other].wait_group("edge", "backup")?;
            let mut flows = Flows::open(&pair.clients[0], forward.address(), FLOWS)?;
            if forward == Forward::FullNat {
                wait_held(&boxes[other], forward, FLOWS as u64)?;
            }
            pair.boxes[master].kill_processes()?;
            flows.ask();
            let tally = flows.hear();
            boxes[other].wait_group("edge", "master")?;
            shell::note(&format!("flows by {:<8} {tally:?}", forward.name()));
            tallies.push(tally);
            drop(flows);
            boxes[master].kill_control();
            boxes[master].start_again()?;
            master = other;
        }
        rows.push(row(forward, &tallies));
    }
    Ok(rows)
}

fn row(forward: Forward, tallies: &[Tally]) -> Row {
    let sum = |of: fn(&Tally) -> usize| tallies.iter().map(of).sum::<usize>();
    let (reset, broken) = (sum(|tally| tally.reset), sum(|tally| tally.broken));
    let silent = sum(|tally| tally.silent);
    let told = match forward {
        Forward::Nat => "",
        Forward::FullNat => ", the other box told of all",
    };
    Row {
        part: format!("flows, {}", forward.name()),
        setup: "weir, 10 ms",
        figures: format!(
            "{reset} reset, {broken} broken, {silent} silent of {} x {FLOWS}{told}",
            tallies.len()
        ),
        target: "0 reset, broken, silent".to_owned(),
        verdict: Verdict::of(reset + broken + silent == 0),
        report: tallies.iter().map(report).collect(),
    }
}

fn report(tally: &Tally) -> Value {
    json!({ "answered": tally.answered, "reset": tally.reset, "broken": tally.broken, "silent": tally.silent })
}
