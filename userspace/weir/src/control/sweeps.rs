//! Sweeps of the kernel's tables of flows: when the next one is due, and what the last one said.
//!
//! Owns the schedule and the sums for metrics. A sweep runs on another thread than the control loop's, one at a time; which
//! entries go is `weir-datapath`'s.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tracing::{debug, warn};
use weir_datapath::{
    Datapath, MapError,
    sweep::{PortUse, Swept, pause},
};

/// How soon it is looked whether a sweep that runs is done.
const LOOK: Duration = Duration::from_millis(200);
/// After a sweep that failed.
const AGAIN: Duration = Duration::from_secs(30);

/// What metrics say of the tables of flows.
#[derive(Debug, Clone, Default)]
pub(crate) struct FlowTables {
    pub(crate) tables: Vec<FlowTable>,
    pub(crate) ports: Vec<PortForecast>,
}

/// A table.
#[derive(Debug, Clone)]
pub(crate) struct FlowTable {
    pub(crate) name: &'static str,
    pub(crate) capacity: u64,
    pub(crate) entries: u64,
    /// Entries that had ended, since control started.
    pub(crate) ended: u64,
    /// Entries that had to make room, since control started.
    pub(crate) evicted: u64,
}

/// The ports of a source address, and in how many seconds none will be free. None: they do not get fewer.
#[derive(Debug, Clone)]
pub(crate) struct PortForecast {
    pub(crate) ports: PortUse,
    pub(crate) exhausted_in: Option<f64>,
}

/// The schedule.
#[derive(Default)]
pub(super) struct Sweeps {
    running: Option<JoinHandle<Result<Swept, MapError>>>,
    /// None: at once.
    due: Option<Instant>,
    last: Option<(Instant, Vec<PortUse>)>,
    seen: FlowTables,
}

impl Sweeps {
    /// When [`Self::on_time`] wants to be called; None: now.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Takes a sweep's result, or begins the next one.
    pub(super) async fn on_time(&mut self, datapath: &Datapath) {
        let now = Instant::now();
        if self.due.is_some_and(|due| due > now) {
            return;
        }
        let Some(running) = self.running.take() else {
            self.begin(datapath, now);
            return;
        };
        if !running.is_finished() {
            self.running = Some(running);
            self.due = Some(now + LOOK);
            return;
        }
        // It has ended: this waits for nothing.
        let wait = match running.await {
            Ok(Ok(swept)) => {
                let wait = pause(swept.took);
                self.take(swept, now);
                wait
            }
            Ok(Err(error)) => {
                warn!(%error, "the tables of flows can't be swept");
                AGAIN
            }
            Err(error) => {
                warn!(%error, "a sweep of the tables of flows broke off");
                AGAIN
            }
        };
        self.due = Some(now + wait);
    }

    fn begin(&mut self, datapath: &Datapath, now: Instant) {
        self.due = Some(match datapath.sweeper() {
            Ok(Some(sweeper)) => {
                self.running = Some(tokio::task::spawn_blocking(move || sweeper.sweep()));
                now + LOOK
            }
            Ok(None) => now + AGAIN,
            Err(error) => {
                warn!(%error, "the tables of flows can't be swept");
                now + AGAIN
            }
        });
    }

    fn take(&mut self, swept: Swept, now: Instant) {
        let Swept {
            tables,
            ports,
            recounted,
            took,
        } = swept;
        let gone: u64 = tables.iter().map(|table| table.ended + table.evicted).sum();
        debug!(
            gone,
            recounted,
            took_ms = took.as_millis() as u64,
            "tables of flows swept"
        );
        let before = std::mem::take(&mut self.seen.tables);
        let sums = |name| {
            before
                .iter()
                .find(|table| table.name == name)
                .map_or((0, 0), |t| (t.ended, t.evicted))
        };
        self.seen.tables = tables
            .into_iter()
            .map(|table| {
                let (ended, evicted) = sums(table.name);
                FlowTable {
                    name: table.name,
                    capacity: table.capacity,
                    entries: table.entries,
                    ended: ended + table.ended,
                    evicted: evicted + table.evicted,
                }
            })
            .collect();
        let exhausted_in = |ports: &PortUse| {
            let (then, before) = self.last.as_ref()?;
            ports.exhausted_in(before, now.saturating_duration_since(*then))
        };
        self.seen.ports = ports
            .iter()
            .map(|ports| PortForecast {
                ports: *ports,
                exhausted_in: exhausted_in(ports),
            })
            .collect();
        self.last = Some((now, ports));
    }

    /// What metrics say.
    pub(super) fn seen(&self) -> FlowTables {
        self.seen.clone()
    }
}

#[cfg(test)]
mod tests {
    use weir_datapath::sweep::{Ports, SweptTable};

    use super::*;

    fn swept(entries: u64, ended: u64, free: u64) -> Swept {
        let table = SweptTable {
            name: "FLOWS",
            capacity: 1000,
            entries,
            ended,
            evicted: 1,
        };
        let ports = PortUse {
            source: "10.0.0.1".parse().unwrap(),
            ports: Ports {
                free,
                ..Ports::default()
            },
        };
        Swept {
            tables: vec![table],
            ports: vec![ports],
            ..Swept::default()
        }
    }

    #[test]
    fn sums_grow_and_gauges_follow() {
        let mut sweeps = Sweeps::default();
        assert!(sweeps.due().is_none() && sweeps.seen().tables.is_empty());
        let now = Instant::now();
        sweeps.take(swept(500, 10, 200), now);
        let seen = sweeps.seen();
        assert_eq!(seen.ports[0].exhausted_in, None, "nothing to compare with");
        sweeps.take(swept(400, 5, 100), now + Duration::from_secs(10));
        let seen = sweeps.seen();
        let table = &seen.tables[0];
        assert_eq!((table.entries, table.ended, table.evicted), (400, 15, 2));
        assert_eq!(seen.ports[0].exhausted_in, Some(10.0));
    }
}
