//! The start of virtual routers: after a process that was master of some at once, with the tables and programs that it has left;
//! otherwise once everything else is in place.

use std::time::{Duration, Instant};

use anyhow::Context;
use tracing::warn;
use weir_datapath::vrrp::{Addresses, LinkError, leases::Leases};

use super::{LOOK_AGAIN, Legacy, Prepared, hold, memory::Memory, outside};
use crate::control::{kernel::Kernel, state::Control};

/// At the start interfaces may be a moment behind: an IPv6 address is not to be used before nobody else is found to have it.
pub(in crate::control) const LINKS_COME: Duration = Duration::from_secs(10);

/// The groups of a start, and what a process before has left of them.
pub(in crate::control) struct Ready {
    prepared: Prepared,
    legacy: Legacy,
}

impl Control {
    /// Gets ready for the plan's groups, before programs are attached: from then on they hold this box to leases. `patience`:
    /// how long interfaces may take to be as they are to be.
    ///
    /// # Errors
    /// Something that they need is not there.
    pub(in crate::control) async fn prepare_ha(
        &mut self,
        patience: Duration,
    ) -> anyhow::Result<Option<Ready>> {
        let plan = self.loaded.plan.clone();
        let legacy = Memory::legacy(&self.ha.socket);
        let Some(leases) = self.leases().cloned() else {
            return Ok(None);
        };
        if plan.vrrp.is_empty() {
            let gone = leases
                .settle()
                .context("leases that a weir before this one has left")?;
            hold::refuse(&gone)?;
            if !legacy.groups.is_empty() {
                outside(|| -> anyhow::Result<()> { Ok(Addresses::new()?.give_others(&[])?) })
                    .context("addresses that a weir before this one has left")?;
                Memory::discard(&self.ha.socket);
            }
            return Ok(None);
        }
        weir_datapath::vrrp::check_kernel()?;
        let until = Instant::now() + patience;
        let prepared = loop {
            match self.ha.prepare_with(&plan, &legacy) {
                Ok(prepared) => break prepared,
                Err(error) if is_late(&error) && Instant::now() < until => {
                    warn!(error = format!("{error:#}"), "waiting for it");
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        };
        for (_, group) in &prepared.0 {
            leases.register(group.id, &group.held).context("leases")?;
        }
        let gone = leases.settle().context("leases")?;
        hold::refuse(&gone)?;
        Ok(Some(Ready { prepared, legacy }))
    }

    /// Has groups go on that the process before this one was master of a moment ago, with the programs and tables that it
    /// has left. To verify programs takes the kernel seconds: if groups waited for that, others would have taken them over.
    pub(in crate::control) async fn resume_ha(&mut self) {
        let done = async {
            let ready = self.prepare_ha(Duration::ZERO).await?;
            self.begin_ha(ready, true).await
        };
        if let Err(error) = done.await {
            warn!(
                error = format!("{error:#}"),
                "virtual routers can't go on before programs are loaded; they begin anew then"
            );
            if self.ha.running.is_none() {
                self.ha.groups.clear();
            }
        }
    }

    pub(super) fn leases(&self) -> Option<&Leases> {
        self.kernel
            .as_ref()
            .map(Kernel::leases)
            .or(self.ha.leases.as_ref())
    }

    /// Begins with the plan's groups, once everything else is in place: as what the process before this one was, if it was
    /// there a moment ago. `resumes`: nothing else is in place yet.
    ///
    /// # Errors
    /// Something that they need is not there.
    pub(in crate::control) async fn begin_ha(
        &mut self,
        ready: Option<Ready>,
        resumes: bool,
    ) -> anyhow::Result<()> {
        let Some(Ready { prepared, legacy }) = ready else {
            return Ok(());
        };
        let held: Vec<_> = prepared
            .0
            .iter()
            .flat_map(|(_, group)| group.held.clone())
            .collect();
        outside(|| -> anyhow::Result<()> { Ok(Addresses::new()?.give_others(&held)?) })
            .context("addresses that a weir before this one has left")?;
        // A relay that is there serves what it served, be it that another one is to follow it. So this box is as good as it was.
        // Before it was looked for it is taken to be there.
        let relay_found =
            self.relay.link.as_ref().is_some_and(|link| link.adopted) || !self.retiring.is_empty();
        self.ha.is_starting = !(legacy.was_ready && (resumes || relay_found));
        // The flows of the control before this one are still in the kernel's tables.
        self.ha.needs_flows = self.ha.is_starting;
        self.take_in_ha(prepared, &legacy).await
    }
}

/// Whether time may mend it.
fn is_late(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<LinkError>() {
        Some(LinkError::NoAddress { .. } | LinkError::OtherAddress { .. }) => true,
        // An address that is not to be used yet.
        Some(LinkError::System { cause, .. }) => cause.kind() == std::io::ErrorKind::AddrNotAvailable,
        Some(_) | None => false,
    }
}
