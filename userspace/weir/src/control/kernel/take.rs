//! What is taken in for addresses that are not on this box: listeners, rules and routes, in their order.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use anyhow::Context;
use weir_core::{ids::ListenKey, plan::Plan};
use weir_datapath::intake::Families;

use super::Kernel;

/// The kernel's routes are read within this time, or something is wrong with netlink.
const ROUTES: Duration = Duration::from_secs(10);

/// Of which families packets to other addresses are taken in.
pub(super) fn families(plan: &Plan) -> Families {
    let (v4, v6) = plan.client_sources();
    let clients = Families { v4, v6 };
    clients.or(Families {
        v4: plan.transparent().any(|listen| listen.addr.is_ipv4()),
        v6: plan.transparent().any(|listen| listen.addr.is_ipv6()),
    })
}

impl Kernel {
    /// Has connections to addresses that are not on this box taken in as the plan says. `attached`: the programs are.
    pub(in crate::control) async fn take_in(
        &mut self,
        plan: &Plan,
        listeners: &BTreeMap<ListenKey, Vec<OwnedFd>>,
        attached: bool,
    ) -> anyhow::Result<()> {
        // What is taken in once stays so: connections are open still when their listener is gone.
        let families = families(plan).or(self.intake.present().await?);
        if families.any() {
            self.learn_own().await?;
        }
        let sockets: Vec<_> = { plan.transparent() }
            .filter_map(|listen| {
                let key = listen.keys().next()?;
                Some((*listen, listeners.get(&key)?.first()?.as_fd()))
            })
            .collect();
        let clients = plan.client_sources() != (false, false);
        let attach_due = self
            .datapath
            .take_in(&sockets, clients)
            .context("transparent listeners")?;
        self.intake.reconcile(families).await?;
        if attach_due && attached {
            self.attach()?;
        }
        Ok(())
    }

    /// Waits until this box's own addresses are known: a transparent listener must not get what is for them.
    async fn learn_own(&mut self) -> anyhow::Result<()> {
        let known = tokio::time::timeout(ROUTES, self.ways.wait_for(Option::is_some));
        let ways = known
            .await
            .context("the kernel's routes could not be read, so this box's own addresses are not known")?
            .context("the watch over the kernel's routes has ended")?;
        let own = ways.as_ref().map(|ways| ways.own.clone()).unwrap_or_default();
        anyhow::ensure!(
            !own.is_empty() || self.datapath.takes_in(),
            "this box's own addresses could not be read from the kernel's routes; is its loopback interface up? (`ip link set lo up`)"
        );
        drop(ways);
        // The next hops are still to be followed.
        self.ways.mark_changed();
        self.datapath.set_own(&own).context("transparent listeners")
    }
}
