//! Virtual routers, as control sees them: what the plan asks of the thread that runs them, and what it tells.
//!
//! The machine decides and the thread acts (`weir-datapath`). Owned here: that groups keep their place from one
//! configuration and one process to the next, in which order addresses change hands, and the end. The start is `begin.rs`,
//! what speaks against this box `follow.rs`, what operators are shown `show.rs`, what control waits for `events.rs`, a thread
//! that has died `revive.rs`.

mod begin;
mod events;
mod follow;
mod hold;
mod memory;
mod revive;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, anyhow, bail};
use tokio::sync::mpsc;
use tracing::{info, warn};
use weir_core::{
    ids::GroupName,
    plan::{Plan, VirtualRouter, VrrpAuthentication, VrrpGroup},
    vrrp::{
        Family,
        auth::Sequence,
        demotion::Demotion,
        machine::{Config, Router, RouterKey, State, goes_on},
    },
};
use weir_datapath::vrrp::{
    Addresses, Counts, Driver, Group, Held, Link, Links, Report, Ring, Seen, Signing, Virtual, leases::Leases,
};

pub(super) use begin::LINKS_COME;

use self::{
    hold::Hold,
    memory::{GROUPS, Left, Legacy, Memory},
    revive::Deaths,
};
use super::{signing::Secrets, state::Control};

/// Reports that others can provoke wait for control, at most; those beyond are counted only.
const PROVOKED: usize = 256;
/// How long the thread may take for a new configuration, or to tell its state. It waits for nothing, so this is long.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Beyond the time in which another box takes over: for what is on its way.
const ON_ITS_WAY: Duration = Duration::from_millis(200);

/// What control knows of a group.
struct Known {
    /// Its place, which it keeps.
    id: usize,
    plan: Arc<VrrpGroup>,
    counts: Arc<Counts>,
    demotion: Demotion,
    /// What an operator demoted it by.
    operator: u32,
    state: State,
    since: Instant,
    /// Why it is in that state.
    cause: String,
    /// By what it became and why.
    transitions: BTreeMap<(&'static str, &'static str), u64>,
    rival: Option<IpAddr>,
    /// Why addresses are not as they should be.
    trouble: Option<String>,
    /// Why this box stays out of the group: the kernel's programs can't be told of its addresses.
    unfenced: Option<String>,
}

impl Known {
    /// Whether an operator means it by this name: a section's name is that of all its shares.
    fn is_called(&self, name: &str) -> bool {
        self.plan.name.as_str() == name || self.plan.section().as_str() == name
    }
}

/// While there are groups.
struct Running {
    driver: Driver,
    memory: Arc<Memory>,
    links: Links,
    leases: Leases,
}

/// See the module.
pub(super) struct Ha {
    socket: PathBuf,
    groups: BTreeMap<GroupName, Known>,
    running: Option<Running>,
    /// Those of groups that go on while programs are not loaded yet.
    leases: Option<Leases>,
    reports: mpsc::UnboundedReceiver<Report>,
    report: mpsc::UnboundedSender<Report>,
    /// Reports on their way that others have provoked.
    provoked: Arc<AtomicUsize>,
    /// Interfaces that are up, and watched files that are there.
    up: BTreeSet<String>,
    files: BTreeSet<Arc<str>>,
    is_starting: bool,
    /// It has begun without its peers' flows, and was not seen to hold them since.
    needs_flows: bool,
    is_stopping: bool,
    /// When it was last looked whether everything is in place, while it is starting.
    looked: Option<Instant>,
    /// What was said lately of adverts, so that it is not said with each.
    said: follow::Said,
    /// The groups as they were told last.
    seen: Vec<Seen>,
    deaths: Deaths,
}

/// What a plan asks for, ready to be put in force.
pub(super) struct Prepared(Vec<(Arc<VrrpGroup>, Group)>);

impl Ha {
    /// `leases`: those of groups that may go on while programs are not loaded yet.
    pub(super) fn new(socket: &Path, leases: Option<Leases>) -> Self {
        let (report, reports) = mpsc::unbounded_channel();
        Self {
            socket: socket.to_owned(),
            groups: BTreeMap::new(),
            running: None,
            leases,
            reports,
            report,
            provoked: Arc::default(),
            up: BTreeSet::new(),
            files: BTreeSet::new(),
            is_starting: true,
            needs_flows: true,
            is_stopping: false,
            looked: None,
            said: follow::Said::default(),
            seen: Vec::new(),
            deaths: Deaths::default(),
        }
    }

    /// Whether a process before this one was master of some group a moment ago, and this one can go on as that.
    pub(super) fn may_resume(socket: &Path, plan: &Plan) -> bool {
        let legacy = Memory::legacy(socket);
        let now = Instant::now();
        let sent = |group: &VrrpGroup| legacy.groups.get(&group.name).and_then(|left| left.last_sent);
        { plan.vrrp.iter() }.any(|group| goes_on(sent(group), group.interval.duration(), now))
    }

    /// The leases that groups which go on hold already.
    pub(super) fn take_leases(&mut self) -> Option<Leases> {
        self.leases.take()
    }

    /// Opens what a plan's groups need and this one does not have yet.
    ///
    /// # Errors
    /// Something can't be opened or read: nothing has changed.
    pub(super) fn prepare(&self, plan: &Plan) -> anyhow::Result<Prepared> {
        self.prepare_with(plan, &Legacy::default())
    }

    fn prepare_with(&self, plan: &Plan, legacy: &Legacy) -> anyhow::Result<Prepared> {
        let mut taken: BTreeSet<usize> = BTreeSet::new();
        let known = |group: &VrrpGroup| self.groups.get(&group.name).map(|known| known.id);
        let left = |group: &VrrpGroup| legacy.groups.get(&group.name);
        for group in &plan.vrrp {
            taken.extend(known(group).or_else(|| left(group).map(|left| left.id)));
        }
        // One that goes now has its place until the thread has let it go.
        taken.extend(self.groups.values().map(|known| known.id));
        let shared: Vec<IpAddr> = plan.vrrp.iter().flat_map(|group| group.addresses()).collect();
        let mut prepared = Vec::new();
        for group in &plan.vrrp {
            let id = match known(group).or_else(|| left(group).map(|left| left.id)) {
                Some(id) => id,
                None => {
                    let free = (0..GROUPS).find(|id| !taken.contains(id));
                    free.ok_or_else(|| anyhow!("vrrp.{}: there are {GROUPS} groups already", group.name))?
                }
            };
            taken.insert(id);
            let ready = self.prepare_group(group, id, left(group), &shared);
            prepared.push((
                Arc::clone(group),
                ready.with_context(|| format!("vrrp.{}", group.name))?,
            ));
        }
        Ok(Prepared(prepared))
    }

    fn prepare_group(
        &self,
        group: &VrrpGroup,
        id: usize,
        left: Option<&Left>,
        shared: &[IpAddr],
    ) -> anyhow::Result<Group> {
        let known = self.groups.get(&group.name);
        // Links of a thread that has died went with it.
        let has_links = self.running.is_some() && !self.deaths.is_dead();
        let mut routers = Vec::new();
        let mut config = Vec::new();
        for router in &group.routers {
            let has = has_links
                && known.is_some_and(|known| known.plan.routers.iter().any(|old| is_same_link(old, router)));
            let link = match has {
                true => None,
                false => Some(Link::open(
                    &router.interface,
                    router.family(),
                    router.source,
                    shared,
                )?),
            };
            config.push(Router {
                key: RouterKey {
                    interface: Arc::clone(&router.interface),
                    vrid: router.id,
                    family: router.family(),
                },
                // The thread takes it from the link.
                own: link
                    .as_ref()
                    .map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), Link::own),
            });
            routers.push(Virtual {
                link,
                addresses: router.addresses.iter().map(|(address, _)| *address).collect(),
                peers: router.peers.clone(),
                checksum: router.checksum,
                v2: router.v2,
                mac: group.mac_of(router).map(|mac| (mac, group.sends_by_mac())),
                is_router: router.family() == Family::V6 && forwards_v6(&router.interface),
            });
        }
        let held = { group.routers.iter() }.flat_map(|router| {
            let mac = hold::mac_of(group, router);
            router.addresses.iter().map(move |(address, prefix)| Held {
                interface: router.interface.to_string(),
                address: *address,
                prefix: *prefix,
                mac,
            })
        });
        let signing = { group.authentication.as_ref() }.map(|it| signing(it, left.map(|left| left.sequence)));
        Ok(Group {
            id,
            config: Config {
                routers: config,
                priority: group.priority,
                interval: group.interval,
                preempt: group.preempt,
                lease: group.lease,
                announce: group.announce,
            },
            routers,
            held: held.collect(),
            keeps: group.share.is_some(),
            signing: signing.transpose()?,
            demotion: 0,
            last_sent: left.and_then(|left| left.last_sent),
            counts: known.map(|known| Arc::clone(&known.counts)).unwrap_or_default(),
        })
    }

    /// Whether to look if everything is in place: not with every event, since all backends are looked at.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self
            .looked
            .is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK_AGAIN);
        if is_due {
            self.looked = Some(now);
        }
        is_due
    }

    /// Whether this box is master of some group.
    pub(super) fn is_master(&self) -> bool {
        self.groups.values().any(|known| known.state == State::Master)
    }

    /// Whether this box is master of a group, or of a share of it.
    pub(super) fn is_master_of(&self, group: &str) -> bool {
        { self.groups.values() }.any(|known| known.is_called(group) && known.state == State::Master)
    }

    /// How long other boxes take at the most to take a group over that this one is demoted in.
    pub(super) fn takeover_of(&self, group: &str) -> Duration {
        let meant = { self.groups.values() }.filter(|known| known.is_called(group));
        let slowest = meant.map(|known| known.plan.interval.duration()).max();
        slowest.unwrap_or_default() + ON_ITS_WAY
    }

    /// Whether this box is master of the group that has an address; None: no group has it.
    pub(super) fn answers_for(&self, address: IpAddr) -> Option<bool> {
        let has = |known: &&Known| known.plan.addresses().any(|it| it == address);
        { self.groups.values() }
            .filter(has)
            .map(|known| known.state == State::Master)
            .reduce(|one, other| one || other)
    }

    /// Another process goes on with the groups: leases and addresses stay as they are.
    pub(super) fn hand_on(&mut self) {
        if let Some(Running { driver, .. }) = self.running.take() {
            driver.leave();
        }
    }

    fn tell(&self) -> impl Fn(Report) + Send + 'static {
        let (report, provoked) = (self.report.clone(), Arc::clone(&self.provoked));
        move |told: Report| {
            if told.what.is_provoked() {
                if provoked.load(Ordering::Relaxed) >= PROVOKED {
                    return;
                }
                provoked.fetch_add(1, Ordering::Relaxed);
            }
            // Control is about to end, if it does not listen.
            let _ = report.send(told);
        }
    }
}

/// Whether two are on the same link, by the same address.
fn is_same_link(old: &VirtualRouter, new: &VirtualRouter) -> bool {
    (&old.interface, old.id, old.family(), old.source) == (&new.interface, new.id, new.family(), new.source)
}

/// Whether hosts may have taken the box for their router.
fn forwards_v6(interface: &str) -> bool {
    let path = Path::new("/proc/sys/net/ipv6/conf")
        .join(interface)
        .join("forwarding");
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

fn signing(asked: &VrrpAuthentication, kept: Option<u64>) -> anyhow::Result<Signing> {
    let mut keys = Vec::new();
    for (id, file) in &asked.keys {
        let bytes = weir_config::secrets::read(file)
            .map_err(|(what, mend)| anyhow!("{}, which is to be key {id}, {what}; {mend}", file.display()))?;
        keys.push((*id, bytes));
    }
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
    Ok(Signing {
        keys: Box::new(Secrets::new(keys)),
        key: asked.sign_with,
        mode: asked.mode,
        sequence: Sequence::new(micros, kept),
    })
}

/// Does something on a thread of its own: hands on addresses wait, which this loop may not.
fn outside<T: Send, E: Send + From<std::io::Error>>(
    work: impl FnOnce() -> Result<T, E> + Send,
) -> Result<T, E> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(done) => done,
        Err(_) => Err(std::io::Error::other("the thread for it ended early").into()),
    })
}

impl Control {
    /// Puts a plan's groups in force. What could not be done, in words.
    pub(super) async fn follow_ha_plan(&mut self, prepared: Prepared) -> Option<String> {
        let done = self.take_in_ha(prepared, &Legacy::default()).await;
        done.err().map(|error| format!("{error:#}"))
    }

    async fn take_in_ha(&mut self, Prepared(prepared): Prepared, legacy: &Legacy) -> anyhow::Result<()> {
        let before = std::mem::take(&mut self.ha.groups);
        let now = Instant::now();
        let mut groups = Vec::new();
        let mut fresh = Vec::new();
        let mut old = before;
        for (plan, group) in prepared {
            let known = match old.remove(&plan.name) {
                Some(known) => Known {
                    plan: Arc::clone(&plan),
                    ..known
                },
                None => {
                    fresh.push((group.id, plan.name.clone()));
                    Known {
                        id: group.id,
                        plan: Arc::clone(&plan),
                        counts: Arc::clone(&group.counts),
                        demotion: Demotion::NONE,
                        operator: legacy.groups.get(&plan.name).map_or(0, |left| left.operator),
                        state: State::Init,
                        since: now,
                        cause: "not started".into(),
                        transitions: BTreeMap::new(),
                        rival: None,
                        trouble: None,
                        unfenced: None,
                    }
                }
            };
            self.ha.groups.insert(plan.name.clone(), known);
            groups.push(group);
        }
        self.look_at_inputs();
        self.weigh_ha();
        self.set_demotions(&mut groups);
        match &self.ha.running {
            None if groups.is_empty() => return Ok(()),
            None => self.start_ha(groups, legacy)?,
            Some(running) => {
                for (id, name) in &fresh {
                    running
                        .memory
                        .name(*id, name)
                        .context("the state of virtual routers")?;
                }
                let done = running.driver.configure(groups);
                if tokio::time::timeout(PATIENCE, done).await.is_err() {
                    bail!("the thread of virtual routers does not answer");
                }
                // Addresses that no group has any more are nobody's to be silenced for.
                let gone = running.leases.settle().context("leases")?;
                hold::refuse(&gone)?;
                for gone in old.values() {
                    running
                        .memory
                        .forget(gone.id)
                        .context("the state of virtual routers")?;
                }
            }
        }
        if self.ha.groups.is_empty() {
            self.end_ha();
        }
        Ok(())
    }

    /// What speaks against this box, as it was weighed last.
    fn set_demotions(&self, groups: &mut [Group]) {
        for group in groups {
            let known = self.ha.groups.values().find(|known| known.id == group.id);
            group.demotion = known.map_or(0, |known| known.demotion.total());
        }
    }

    fn start_ha(&mut self, groups: Vec<Group>, legacy: &Legacy) -> anyhow::Result<()> {
        let names = { self.ha.groups.iter() }.map(|(name, known)| {
            let left = legacy.groups.get(name).cloned();
            let left = left.unwrap_or(Left {
                id: known.id,
                last_sent: None,
                sequence: 0,
                operator: known.operator,
            });
            (name.clone(), left)
        });
        let memory = Memory::begin(&self.ha.socket, &names.collect());
        let memory = Arc::new(memory.context("the state of virtual routers")?);
        if !self.ha.is_starting {
            memory.ready().context("the state of virtual routers")?;
        }
        let links = Links::new().context("a netlink socket for virtual routers")?;
        let Some(leases) = self.leases().cloned() else {
            bail!("virtual routers need XDP");
        };
        let adverts = Ring::open(&self.loaded.plan.node.pins, leases.clone()).context("adverts by XDP")?;
        let hands = Hold {
            leases: leases.clone(),
            addresses: outside(Addresses::new).context("a netlink socket for virtual routers")?,
            memory: Arc::clone(&memory),
            taken: BTreeMap::new(),
        };
        let driver = Driver::start_with(groups, hands, self.ha.tell(), Some(adverts))
            .context("a thread for virtual routers")?;
        match driver.is_real_time() {
            Ok(()) => info!(groups = self.ha.groups.len(), "virtual routers take part"),
            Err(error) => warn!(
                %error,
                "virtual routers take part, but not in real time: a busy box will give its addresses away; see `weir doctor`"
            ),
        }
        self.ha.running = Some(Running {
            driver,
            memory,
            links,
            leases,
        });
        Ok(())
    }

    /// Compares the addresses that are there with those that should be, now that others have changed theirs.
    pub(super) fn check_ha(&self) {
        if let Some(running) = &self.ha.running {
            running.driver.check();
        }
    }

    /// This box is about to end: another one is to take its groups over. How long to wait for that; None: this box is master
    /// of none.
    pub(super) fn leave_ha(&mut self) -> Option<Duration> {
        self.ha.is_stopping = true;
        self.follow_ha();
        let masters = { self.ha.groups.values() }.filter(|known| known.state == State::Master);
        // The others take over within the skew, which is less than an interval.
        let slowest = masters.map(|known| known.plan.interval.duration()).max()?;
        info!("virtual routers: other boxes are asked to take over");
        Some(slowest + ON_ITS_WAY)
    }

    /// The end: masters say that they leave, and their addresses are given back.
    pub(super) fn end_ha(&mut self) {
        let Some(Running {
            driver,
            memory,
            leases,
            links: _,
        }) = self.ha.running.take()
        else {
            return;
        };
        let alone = { self.ha.groups.values() }.filter(|known| known.state == State::Master);
        for known in alone {
            warn!(
                group = %known.plan.name,
                "no other box has taken this group over; its addresses go with this one"
            );
        }
        drop(driver);
        self.give_for_the_dead();
        let removed = leases.remove().map_err(anyhow::Error::from);
        if let Err(error) = removed.and_then(|gone| hold::refuse(&gone)) {
            warn!(
                error = format!("{error:#}"),
                "something of virtual routers stays in the kernel"
            );
        }
        memory.remove();
    }
}
