//! Routes for a routing daemon, kept after what the services of this box can do.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use tracing::{error, info};
use weir_core::{export, plan::Export};
use weir_datapath::export::Exports;

use super::state::Control;
use crate::admin::api::Exported;

/// How far this weir is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not everything is in place: what a predecessor has left stays as it is.
    Starting,
    Serving,
    /// It is about to end: there are to be no routes.
    Leaving,
}

/// What control knows of the routes.
pub(super) struct Exporting {
    routes: Exports,
    /// What they were last made to be.
    addresses: BTreeSet<IpAddr>,
    phase: Phase,
}

impl Exporting {
    /// # Errors
    /// No netlink socket can be opened.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            routes: Exports::new()?,
            addresses: BTreeSet::new(),
            phase: Phase::Starting,
        })
    }
}

impl Control {
    /// Makes the routes follow the services. What could not be done is tried again by the tick.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) async fn export(&mut self) -> anyhow::Result<()> {
        let plan = &self.loaded.plan;
        let wanted = match self.exporting.phase {
            Phase::Starting => return Ok(()),
            Phase::Serving => {
                let mut served = export::exported(plan, |service| self.engine.serves(service));
                // One that another box answers for is that box's to announce.
                served.retain(|address| self.ha.answers_for(*address) != Some(false));
                served
            }
            Phase::Leaving => BTreeSet::new(),
        };
        let table = plan.export.unwrap_or(Export::DEFAULT).table;
        self.exporting.routes.reconcile(&wanted, table).await?;
        self.exporting.addresses = wanted;
        Ok(())
    }

    /// Begins with it, once everything is in place.
    ///
    /// # Errors
    /// As [`Self::export`].
    pub(super) async fn begin_export(&mut self) -> anyhow::Result<()> {
        self.exporting.phase = Phase::Serving;
        self.export().await
    }

    /// As [`Self::export`], where nobody waits for how it went.
    pub(super) async fn export_or_tell(&mut self) {
        if let Err(error) = self.export().await {
            error!(
                error = format!("{error:#}"),
                "exported routes can't be kept as they should be"
            );
        }
    }

    /// As [`Self::export_or_tell`], with what is there read anew.
    pub(super) async fn export_anew(&mut self) {
        self.exporting.routes.look_again();
        self.export_or_tell().await;
    }

    /// Takes the routes back because weir is about to end.
    pub(super) async fn take_back_exports(&mut self) {
        self.exporting.phase = Phase::Leaving;
        self.export_or_tell().await;
    }

    /// The same. Answers with how long weir is to serve on, until routers have heard of it; None: there were no routes.
    pub(super) async fn give_notice(&mut self) -> Option<Duration> {
        let had = !self.exporting.addresses.is_empty();
        self.take_back_exports().await;
        let notice = self.loaded.plan.export.map(|export| export.notice);
        let notice = notice.filter(|notice| had && !notice.is_zero())?;
        info!(
            notice_ms = notice.as_millis(),
            "exported routes are withdrawn; serving on until routers have heard of it"
        );
        Some(notice)
    }

    /// Virtual addresses, and whether there is a route of each. Empty without `[export]`.
    pub(super) fn exports(&self) -> Vec<Exported> {
        let plan = &self.loaded.plan;
        if plan.export.is_none() {
            return Vec::new();
        }
        // Each address, as if all services were up.
        let exported = |address: IpAddr| Exported {
            address: address.to_string(),
            exported: self.exporting.addresses.contains(&address),
        };
        export::exported(plan, |_| true)
            .into_iter()
            .map(exported)
            .collect()
    }
}
