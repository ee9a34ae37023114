//! Control's talk with the keys process: which keys it holds, who asks it for signatures, whether it lives.
//!
//! Private keys pass through here on their way from a file to that process; none is kept. There is such a process only
//! while a service ends TLS, or a pool shows its backends a certificate.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::sync::mpsc;
use tracing::{error, info, warn};
use weir_core::plan::{Plan, TlsCertificate};
use weir_tls::{Certificate, KeyId, Mistake, Secret};

use super::{
    child::{Child, Found, Heard},
    state::Control,
};
use crate::{
    ipc::{self, FromKeys, ToKeys, ToRelay, borrow},
    tls,
};

/// How long it has to take keys in.
const HOLD: Duration = Duration::from_secs(5);
/// How long it has to end.
const END: Duration = Duration::from_secs(1);

/// The keys process, as control knows it.
pub(super) struct Keys {
    pub(super) child: Child<FromKeys>,
    pub(super) heard: mpsc::Receiver<Heard<FromKeys>>,
    next_id: u64,
    /// Counters asked for by the tick, to see that it lives.
    ping: Option<u64>,
    /// Signatures made, and requests refused, as last told.
    pub(super) signed: u64,
    pub(super) refused: u64,
    /// The keys that the present process holds.
    held: BTreeSet<KeyId>,
}

impl Keys {
    pub(super) fn new(child: Child<FromKeys>, heard: mpsc::Receiver<Heard<FromKeys>>) -> Self {
        Self {
            child,
            heard,
            next_id: 0,
            ping: None,
            signed: 0,
            refused: 0,
            held: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Every certificate of a plan, and how it is read: those of services, and those that backends are shown.
fn certificates(plan: &Plan) -> impl Iterator<Item = (&TlsCertificate, Read)> {
    let services = plan.services.iter().filter_map(|service| service.tls.as_ref());
    let pools = plan.pools.iter().filter_map(|pool| pool.tls.as_ref());
    let of_services = services.flat_map(|tls| &tls.certificates);
    let of_pools = pools.filter_map(|tls| tls.certificate.as_ref());
    of_services
        .map(|one| (one, tls::certificate as Read))
        .chain(of_pools.map(|one| (one, tls::certificate_for_backends as Read)))
}

/// Reads a certificate as what it is for.
type Read = fn(&TlsCertificate) -> Result<Certificate, Mistake>;

/// Whether a plan needs a keys process.
pub(super) fn wanted(plan: &Plan) -> bool {
    certificates(plan).next().is_some()
}

/// What names the keys of a plan.
fn names(plan: &Plan) -> BTreeSet<KeyId> {
    let read = certificates(plan).filter_map(|(one, read)| read(one).ok());
    read.map(|read| read.key()).collect()
}

/// The private keys of a plan, and what is wrong with some.
#[derive(Default)]
struct Gathered {
    keys: BTreeMap<KeyId, Secret>,
    troubles: Vec<String>,
}

impl Gathered {
    /// All that are not `held`: of those, the files may hold something else by now.
    fn from(plan: &Plan, held: &BTreeSet<KeyId>) -> Self {
        let mut gathered = Self::default();
        for (one, read) in certificates(plan) {
            if let Err(trouble) = gathered.take(one, read, held) {
                gathered.troubles.push(trouble);
            }
        }
        gathered
    }

    fn take(&mut self, one: &TlsCertificate, read: Read, held: &BTreeSet<KeyId>) -> Result<(), String> {
        let at = |path: &PathBuf, what: &dyn std::fmt::Display| format!("{} {what}", path.display());
        let read = read(one).map_err(|m| at(&one.chain.path, &m))?;
        if held.contains(&read.key()) || self.keys.contains_key(&read.key()) {
            return Ok(());
        }
        let (key, secret) = tls::private_key(&one.key)
            .map_err(|e| at(&one.key, &format!("cannot be read: {e}")))?
            .map_err(|m| at(&one.key, &m))?;
        read.check_key(&key).map_err(|m| at(&one.key, &m))?;
        self.keys.insert(key.id(), secret);
        Ok(())
    }
}

impl Control {
    /// Has a keys process running, if the plan wants one, that holds its keys. `takes_back`: they were served a moment ago,
    /// whatever their files hold by now.
    ///
    /// # Errors
    /// It can't be started, or a key can't be handed over.
    pub(super) async fn adopt_or_start_keys(&mut self, takes_back: bool) -> anyhow::Result<()> {
        let plan = self.loaded.plan.clone();
        match self.keys.child.find(Instant::now()).await? {
            // One that is not wanted any more ends when the relay does without it.
            Some(Found::AsWanted) => {}
            Some(Found::Different) => {
                // The relay asks it until it has sockets to the next one; a relay that has to go asks it until its end.
                self.keys.child.tell(&ToKeys::Retire, &[]).await;
                self.keys.child.set_aside();
            }
            None => {}
        }
        if takes_back {
            self.mind_keys(Instant::now()).await;
        } else {
            self.hold_keys(&plan).await?;
        }
        Ok(())
    }

    /// Has the keys process hold the keys of this plan beside those that it holds, and starts it if it is missing: then
    /// the answer is true, and nobody can ask it yet.
    ///
    /// # Errors
    /// One of the keys can't be had, or the process can't be started.
    pub(super) async fn hold_keys(&mut self, plan: &Plan) -> anyhow::Result<bool> {
        if !wanted(plan) {
            return Ok(false);
        }
        let missing = self.keys.child.link.is_none();
        if missing {
            self.keys.held.clear();
        }
        let gathered = Gathered::from(plan, &self.keys.held);
        if let Some(trouble) = gathered.troubles.first() {
            bail!("{trouble}");
        }
        if missing {
            self.keys.child.start(Instant::now()).await?;
        }
        let given = self.give(gathered).await;
        if given.is_err() && missing {
            // With the process left there, nobody would connect the relay with it the next time.
            self.lose_keys();
        }
        given.map(|()| missing)
    }

    /// Hands keys over and waits until they are held.
    async fn give(&mut self, gathered: Gathered) -> anyhow::Result<()> {
        if gathered.keys.is_empty() {
            return Ok(());
        }
        let id = self.keys.next();
        let file = ipc::secret(
            "weir-keys",
            &Secret::concat(gathered.keys.values().map(Secret::bytes)),
        )?;
        let told = ToKeys::Keys { id };
        self.keys.child.tell(&told, &[file.as_fd()]).await;
        self.wait_for_keys(id).await?;
        self.keys.held.extend(gathered.keys.into_keys());
        Ok(())
    }

    async fn wait_for_keys(&mut self, id: u64) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + HOLD;
        loop {
            let heard = tokio::time::timeout_at(deadline, self.keys.heard.recv())
                .await
                .context("the keys process does not take its keys in")?
                .context("the messages of the keys process ended")?;
            if let Heard::Message {
                message: FromKeys::Holds { id: of, keys, error },
                ..
            } = &heard
                && *of == id
            {
                return match error {
                    None => {
                        info!(keys, "private keys are held");
                        Ok(())
                    }
                    Some(error) => bail!("the keys process refuses its keys: {error}"),
                };
            }
            let current = self.keys.child.link.as_ref().map(|l| l.id);
            let gone = matches!(&heard, Heard::Gone { link, .. } if Some(*link) == current);
            self.hear_keys(heard);
            if gone {
                bail!("the keys process is gone");
            }
        }
    }

    /// Connects each worker of the relay with the keys process. What connected them before is closed.
    ///
    /// # Errors
    /// No more descriptors.
    pub(super) async fn connect_signers(&self) -> anyhow::Result<()> {
        if self.keys.child.link.is_none() || self.relay.link.is_none() {
            return Ok(());
        }
        let pairs: Result<Vec<_>, _> = (0..self.workers.max(1)).map(|_| pair()).collect();
        let (near, far): (Vec<_>, Vec<_>) = pairs
            .context("sockets between the relay and the keys process")?
            .into_iter()
            .unzip();
        self.keys.child.tell(&ToKeys::Signers, &borrow(&far)).await;
        self.relay.tell(&ToRelay::Signers, &borrow(&near)).await;
        Ok(())
    }

    /// The relay serves the present plan: its keys are all that is needed from now on.
    pub(super) async fn settle_keys(&mut self) {
        if self.keys.child.link.is_none() {
            return;
        }
        let names = names(&self.loaded.plan);
        if names.is_empty() {
            info!("no private key is needed any more: the keys process ends");
            self.end_keys().await;
            self.keys.child.clean_up();
            return;
        }
        if self.keys.held.is_subset(&names) {
            return;
        }
        let id = self.keys.next();
        let lines: String = names.iter().map(|name| format!("{name}\n")).collect();
        let done = match ipc::text("weir-keys", lines.as_bytes()) {
            Ok(text) => {
                let told = ToKeys::Retain { id };
                self.keys.child.tell(&told, &[text.as_fd()]).await;
                self.wait_for_keys(id).await
            }
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => self.keys.held.retain(|name| names.contains(name)),
            Err(error) => warn!(
                error = format!("{error:#}"),
                "a key that is not used any more is held on"
            ),
        }
    }

    /// Starts it if it is wanted and missing. A key that can't be had then costs the certificate that it belongs to, not
    /// the others.
    pub(super) async fn mind_keys(&mut self, now: Instant) {
        let plan = self.loaded.plan.clone();
        if self.keys.child.link.is_some() || !wanted(&plan) || self.keys.child.retry_at > now {
            return;
        }
        self.keys.held.clear();
        let gathered = Gathered::from(&plan, &self.keys.held);
        for trouble in &gathered.troubles {
            error!(
                trouble,
                "a private key can't be handed to the keys process; handshakes with its certificate fail"
            );
        }
        let mut up = self.keys.child.start(now).await;
        if up.is_ok() {
            up = self.give(gathered).await;
        }
        if up.is_ok() {
            up = self.connect_signers().await;
        }
        if let Err(error) = up {
            error!(
                error = format!("{error:#}"),
                "the keys process can't be brought up"
            );
            self.lose_keys();
        }
    }

    fn lose_keys(&mut self) {
        if let Some(link) = &self.keys.child.link {
            link.kill();
        }
        self.keys.ping = None;
        self.keys.child.lost(Instant::now());
    }

    /// When [`mind_keys`](Self::mind_keys) has something to do.
    pub(super) fn keys_due(&self) -> Option<Instant> {
        let missing = self.keys.child.link.is_none() && wanted(&self.loaded.plan);
        missing.then_some(self.keys.child.retry_at)
    }

    pub(super) fn hear_keys(&mut self, heard: Heard<FromKeys>) {
        let current = self.keys.child.link.as_ref().map(|l| l.id);
        match heard {
            Heard::Message { link, message, .. } if Some(link) == current => match message {
                FromKeys::Stats { id, signed, refused } => {
                    if refused > self.keys.refused {
                        warn!(refused, "the keys process has refused to sign something");
                    }
                    (self.keys.signed, self.keys.refused) = (signed, refused);
                    self.keys.ping.take_if(|asked| *asked == id);
                }
                FromKeys::Hello { .. } | FromKeys::Holds { .. } => {
                    warn!("the keys process said what was not asked");
                }
            },
            Heard::Gone { link, why } if Some(link) == current => {
                warn!(
                    why,
                    "the keys process is gone, another starts; new handshakes fail meanwhile"
                );
                self.keys.ping = None;
                self.keys.child.lost(Instant::now());
            }
            Heard::Message { .. } | Heard::Gone { .. } => {}
        }
    }

    /// Asks for counters to see that it lives. One that has not answered since the last time is stuck.
    pub(super) async fn ping_keys(&mut self) {
        let Some(link) = &self.keys.child.link else { return };
        if self.keys.ping.is_some() {
            error!(pid = link.pid, "the keys process answers no more, is killed");
            self.lose_keys();
            return;
        }
        let id = self.keys.next();
        self.keys.ping = Some(id);
        self.keys.child.tell(&ToKeys::Stats { id }, &[]).await;
    }

    /// Ends it.
    pub(super) async fn end_keys(&mut self) {
        self.keys.child.tell(&ToKeys::Stop, &[]).await;
        let gone = async {
            while let Some(heard) = self.keys.heard.recv().await {
                if matches!(heard, Heard::Gone { .. }) {
                    return;
                }
            }
        };
        if self.keys.child.link.is_some() && tokio::time::timeout(END, gone).await.is_err() {
            warn!("the keys process did not end in time, is killed");
            if let Some(link) = &self.keys.child.link {
                link.kill();
            }
        }
        self.keys.child.set_aside();
        self.keys.ping = None;
    }
}

fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
}
