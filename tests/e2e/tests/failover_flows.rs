//! Established flows by L4 when the box that they come through is killed, with virtual routers and boxes that tell each other:
//! none is reset, none goes unanswered. `cargo xtask bench failover` does the same with ten thousand.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Result, ensure};
use weir_harness::{
    Pair, Scratch, Weir,
    pair::{
        backend,
        flows::{Flows, Forward, Tally, config, wait_held, wait_joined},
    },
    peer::nginx::Nginx,
};

const FLOWS: usize = 100;
const BACKENDS: usize = 2;

#[test]
fn no_flow_is_reset_when_its_box_dies() -> Result<()> {
    let pair = Pair::new(1, BACKENDS)?;
    let scratch = Scratch::new()?;
    let key = scratch.write("boxes.key", "5f0c1d2e3b4a59687786a5b4c3d2e1f0\n")?;
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    let mut servers = Vec::new();
    for (i, netns) in pair.backends.iter().enumerate() {
        servers.push(Nginx::start(netns, &format!("b{i}"), &[(backend(i), 80).into()])?);
    }
    // So slow that a busy machine moves nothing before the fault.
    let start = |node: usize| Weir::start(&pair.boxes[node], config(node, BACKENDS, "500ms", &key));
    let one = start(0)?;
    one.wait_group("edge", "master")?;
    let two = start(1)?;
    two.wait_all_up()?;
    wait_joined(&two)?;
    two.wait_group("edge", "backup")?;
    let mut all = Vec::new();
    for forward in Forward::ALL {
        all.push(Flows::open(&pair.clients[0], forward.address(), FLOWS)?);
    }
    wait_held(&two, Forward::FullNat, FLOWS as u64)?;
    pair.boxes[0].kill_processes()?;
    for flows in &mut all {
        flows.ask();
    }
    for (flows, forward) in all.iter_mut().zip(Forward::ALL) {
        let tally = flows.hear();
        let expected = Tally {
            answered: FLOWS,
            ..Tally::default()
        };
        two.with_log((|| {
            ensure!(tally == expected, "by {}: {tally:?}", forward.name());
            Ok(())
        })())?;
    }
    let group = two.wait_group("edge", "master")?;
    ensure!(group.cause == "no master was heard", "{group:?}");
    Ok(())
}
