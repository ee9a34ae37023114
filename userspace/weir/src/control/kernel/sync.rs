//! What other boxes are told of flows, and tell: the thread, its socket and keys, after the plan.
//!
//! A change prepares what can fail, the socket and the keys, before it is in force; then another thread takes the place of
//! the one before. The socket stays where its address does: a peer's datagrams find it all the while.

use std::{io, net::UdpSocket, sync::Arc};

use anyhow::Context;
use aws_lc_rs::{hmac, rand};
use weir_core::{
    plan::{Plan, Sync},
    sync::Settings,
};
use weir_datapath::{
    Wanted,
    sync::{
        View,
        driver::{Driver, Report, Setup},
    },
};

use super::{super::signing::Secrets, Kernel};

/// What is there now.
#[derive(Default)]
pub(super) struct Syncing {
    plan: Option<Arc<Sync>>,
    socket: Option<UdpSocket>,
    driver: Option<Driver>,
    view: View,
    /// The peers' flows were held once, by this process.
    finished: bool,
}

/// A change that nothing is in the way of.
pub(in crate::control) enum Change {
    /// There is none.
    Nothing,
    /// There are to be no peers.
    End,
    Begin(Box<Prepared>),
}

pub(in crate::control) struct Prepared {
    plan: Arc<Sync>,
    socket: UdpSocket,
    secrets: Secrets,
}

fn bind(sync: &Sync) -> anyhow::Result<UdpSocket> {
    UdpSocket::bind(sync.local).with_context(|| {
        format!(
            "sync.local {}: the socket can't be bound; write an address that this box has, and a port that is free",
            sync.local
        )
    })
}

impl Syncing {
    fn prepare(&self, plan: &Plan) -> anyhow::Result<Change> {
        let Some(sync) = &plan.sync else {
            return Ok(match self.plan {
                Some(_) => Change::End,
                None => Change::Nothing,
            });
        };
        if self.plan.as_ref() == Some(sync) {
            return Ok(Change::Nothing);
        }
        let mut secrets = Vec::new();
        for (id, file) in &sync.keys {
            let key = weir_config::secrets::read(file).map_err(|(what, mend)| {
                anyhow::anyhow!("sync.keys names {}, which {what}; {mend}", file.display())
            })?;
            secrets.push((*id, key));
        }
        let stays = self.socket.as_ref().filter(|socket| {
            let bound = socket.local_addr();
            bound.is_ok_and(|bound| bound == sync.local)
        });
        let socket = match stays {
            Some(socket) => socket.try_clone().context("flow sync")?,
            None => bind(sync)?,
        };
        Ok(Change::Begin(Box::new(Prepared {
            plan: Arc::clone(sync),
            socket,
            secrets: Secrets::new(secrets),
        })))
    }
}

/// Says of a hash key whether it is the same, and nothing else.
fn mark(hash_key: [u64; 2]) -> u64 {
    let [a, b] = hash_key.map(u64::to_be_bytes);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[a, b].concat());
    let tag = hmac::sign(&key, b"weir flow sync hash key");
    let first = tag.as_ref().first_chunk::<8>();
    first.map_or(0, |first| u64::from_be_bytes(*first))
}

fn drawn() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    rand::fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(u64::from_be_bytes(bytes))
}

impl Kernel {
    /// Finds out what a plan changes in what other boxes are told, and whether that can be done. Changes nothing.
    pub(in crate::control) fn check_sync(&self, plan: &Plan) -> anyhow::Result<Change> {
        self.syncing.prepare(plan)
    }

    /// Carries a change out, once the tables are what the plan wants.
    pub(in crate::control) fn change_sync(&mut self, change: Change) -> anyhow::Result<()> {
        let prepared = match change {
            Change::Nothing => return Ok(()),
            Change::End => {
                let finished = self.syncing.finished;
                self.syncing = Syncing {
                    finished,
                    ..Syncing::default()
                };
                return Ok(());
            }
            Change::Begin(prepared) => *prepared,
        };
        let Prepared {
            plan,
            socket,
            secrets,
        } = prepared;
        self.syncing.finished |= self.syncing.driver.is_some() && !self.sync_unfinished();
        // One after the other: both would take what comes to the socket.
        self.syncing.driver = None;
        let driver = Driver::start(Setup {
            socket: socket.try_clone().context("flow sync")?,
            peers: plan.peers.clone(),
            settings: Settings {
                key: plan.sign_with,
                rate: plan.rate,
                mark: mark(self.datapath.hash_key()),
            },
            keys: Box::new(secrets),
            seed: drawn()?,
            tables: self.datapath.sync_tables().context("the tables of flows")?,
            view: self.syncing.view.clone(),
        })
        .context("flow sync")?;
        self.syncing.driver = Some(driver);
        self.syncing.socket = Some(socket);
        self.syncing.plan = Some(plan);
        Ok(())
    }

    /// Has the thread know what the tables were made of.
    pub(super) fn follow_sync(&mut self, wanted: &Wanted) {
        let Some(view) = self.datapath.sync_view(wanted) else {
            return;
        };
        if view == self.syncing.view {
            return;
        }
        if let Some(driver) = &self.syncing.driver {
            driver.follow(view.clone());
        }
        self.syncing.view = view;
    }

    /// How it stands with the peers; None: there are none.
    pub(in crate::control) fn sync_report(&self) -> Option<Report> {
        self.syncing.driver.as_ref().map(Driver::report)
    }

    /// Whether a peer may have flows that this box does not know of yet, since it has started.
    pub(in crate::control) fn sync_unfinished(&self) -> bool {
        !self.syncing.finished && self.sync_report().is_some_and(|report| report.is_unfinished())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_hash_keys_apart() {
        assert_eq!(mark([1, 2]), mark([1, 2]));
        assert_ne!(mark([1, 2]), mark([2, 1]));
        assert_ne!(mark([1, 2]), 1);
    }
}
