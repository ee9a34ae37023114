//! Source addresses and ports of a plan against what this box has: refuses what it can't give, before any of it is in force.

use weir_core::plan::Plan;
use weir_datapath::ports::{self, Listeners, LocalPorts};

use super::kernel::Kernel;

/// Checks a plan. `kernel` is there if weir adds addresses to the box.
pub(super) async fn check(plan: &Plan, kernel: Option<&Kernel>) -> anyhow::Result<()> {
    let sources: Vec<_> = { plan.pools.iter() }
        .filter_map(|pool| Some((pool, pool.source.as_ref()?)))
        .collect();
    if sources.is_empty() {
        return Ok(());
    }
    let local = LocalPorts::read()?;
    let listeners = Listeners::read()?;
    // From these the kernel gives ports to the relay, whoever has added them.
    let chosen = sources.iter().filter(|(_, source)| {
        let relay = source.relay.as_ref();
        relay.is_some_and(|relay| relay.ports.is_none())
    });
    let chosen: Vec<_> = chosen.flat_map(|(_, source)| source.addresses.clone()).collect();
    for (pool, source) in sources {
        if let (Some(nat), Some(kernel)) = (source.nat_pool(), kernel) {
            let mut foreign = kernel.foreign(&source.addresses).await?;
            foreign.extend_from_slice(&chosen);
            local.check(&pool.name, &nat, &foreign)?;
        }
        let Some(relay) = &source.relay else { continue };
        if kernel.is_none() {
            ports::check_present(&pool.name, &source.addresses)?;
        }
        if let Some(ports) = &relay.ports {
            local.check_relay(&pool.name, ports)?;
            listeners.check_relay(&pool.name, &source.addresses, ports)?;
        }
    }
    Ok(())
}
