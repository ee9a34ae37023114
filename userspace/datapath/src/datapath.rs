//! The open datapath: maps and programs of this process, from [`Datapath::open`] to [`Datapath::close`].
//!
//! Ties the other files together; the knowledge is theirs. After a crash the kernel goes on with what is pinned, and the
//! next `open` takes it over.

mod cookies;
mod counters;
mod explain;
mod lists;
mod load;
mod steer;
mod ways;

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use weir_abi::Settings;

use self::load::Loaded;
pub use self::{
    counters::{Counters, TableUse},
    lists::ListCounts,
    ways::NextHops,
};
use crate::{
    Options, Tunables, Wanted, assign,
    attach::{self, Attached, Links, Mode},
    capture::change_settings,
    changes::{self, Limits, State},
    error::{Error, MapError, OpenError},
    former,
    neighbors::NeighborEvents,
    nexthops::Held,
    object,
    pins::{self, Pins},
    routing::Net,
    sys, sysctl,
    tables::Tables,
};

/// The L4 plane of this box. One exists per pin directory.
#[derive(Debug)]
pub struct Datapath {
    options: Options,
    mode: Mode,
    pins: Pins,
    tables: Tables,
    xdp: OwnedFd,
    stages: Vec<(u32, OwnedFd)>,
    steer: OwnedFd,
    take: OwnedFd,
    /// Whether `take` is to be attached.
    takes: bool,
    /// `weir_arrive` and `weir_leave`.
    link_programs: [OwnedFd; 2],
    /// Whether they are to be attached.
    has_link_addresses: bool,
    links: Links,
    limits: Limits,
    /// What the maps hold; None after an operation failed, until they were read again.
    state: Option<State>,
    /// What the maps of ways hold; None before they were first written, and after an operation failed.
    held: Option<Held>,
    /// What `LISTS` holds; None before it was read, and after an operation failed.
    lists: Option<lists::InForce>,
    took_over: bool,
    steered: steer::Steered,
    /// What is this box's own, as far as it was told.
    own: BTreeSet<Net>,
    events: Option<NeighborEvents>,
}

/// What stays when the process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// Pins, links and state stay: the kernel goes on forwarding, a successor takes over.
    Keep,
    /// Everything weir added goes.
    Remove,
}

impl Datapath {
    /// Makes the maps, or takes them over from an earlier process, and loads the programs. Attaches nothing that is not
    /// attached already: call [`Self::reconcile`] and [`Self::steer`] first, then [`Self::attach`].
    ///
    /// # Errors
    /// When something is missing, in use, refused by the kernel, or pinned in another shape.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        let mode = Mode::of(options.mode).ok_or(OpenError::Off)?;
        let object = object::bytes()?;
        let pins = Pins::take(&options.pins, &options.state_dir)?;
        let found = pins.verify(|name| object::shape(name, &options.capacities))?;
        if let Err(e) = former::require_nothing_to_lose(&options.pins, options.discard_flows) {
            if found.is_empty() {
                pins.remove()?;
            }
            return Err(e);
        }

        let loaded = match Loaded::new(object, &options, &pins) {
            Ok(loaded) => loaded,
            Err(e) => {
                // What this attempt has made goes again; what was there before stays.
                if found.is_empty() {
                    load::abandon(&options, pins);
                }
                return Err(e);
            }
        };
        let Loaded {
            tables,
            xdp,
            stages,
            steer,
            take,
            link_programs,
            events,
            hash_key,
        } = loaded;
        let cpus = tables.cpus();
        let capacities = options.capacities;
        let limits = Limits {
            service_keys: capacities.service_keys,
            services: capacities.services,
            backends: tables.backends.shape().max_entries,
            ring_slots: capacities.ring_slots,
            returns: capacities.returns,
            quic_ids: tables.quic_ids.shape().max_entries,
            sources: tables.nat_sources.shape().max_entries,
            cpus,
            present: crate::ports::present_cpus()?.clamp(1, cpus.max(1)),
            horizon: options.tunables.horizon,
            hash_key,
        };
        let steered = steer::Steered::read(&tables)?;
        let mut datapath = Self {
            options,
            mode,
            pins,
            tables,
            xdp,
            stages,
            steer,
            take,
            takes: steered.took,
            link_programs,
            has_link_addresses: false,
            links: Links::default(),
            limits,
            state: None,
            held: None,
            lists: None,
            took_over: !found.is_empty(),
            steered,
            own: BTreeSet::new(),
            events: Some(events),
        };
        datapath.state = Some(datapath.take_over(!found.is_empty())?);
        Ok(datapath)
    }

    /// Whether [`Self::open`] could go on with what a process that still runs has pinned, as far as can be told beside it.
    /// Changes nothing.
    ///
    /// # Errors
    /// What `open` would say of it.
    pub fn check_predecessor(options: &Options) -> Result<(), OpenError> {
        object::bytes()?;
        if !options.pins.exists() {
            return Ok(());
        }
        pins::verify(&pins::own_of(&options.pins), |name| {
            object::shape(name, &options.capacities)
        })?;
        former::require_nothing_to_lose(&options.pins, options.discard_flows)
    }

    /// Puts a desired state into the maps. Writes only what changed; see `changes` for the order.
    ///
    /// # Errors
    /// When it cannot be carried out. What was refused as a whole has changed nothing; after a failed map operation
    /// the maps are read again by the next call, which carries on.
    pub fn reconcile(&mut self, wanted: &Wanted) -> Result<(), Error> {
        let state = match self.state.take() {
            Some(state) => state,
            None => self.take_over(true)?,
        };
        let ring = |area: crate::rings::Area| self.tables.rings.read(area.offset, area.len);
        let plan = match changes::plan(&state, wanted, &self.limits, ring, sys::monotonic_seconds()) {
            Ok(plan) => plan,
            Err(e) => {
                self.state = Some(state);
                return Err(e);
            }
        };
        if plan.next.assignment != state.assignment
            && let Err((path, cause)) = assign::store(&self.options.state_dir, &plan.next.assignment)
        {
            self.state = Some(state);
            return Err(Error::State { path, cause });
        }
        for op in &plan.ops {
            self.tables.perform(op)?;
        }
        if !plan.ops.is_empty() {
            tracing::debug!(
                operations = plan.ops.len(),
                listen_addresses = plan.next.services.len(),
                backends = plan.next.backends.len(),
                "L4 tables changed"
            );
        }
        self.state = Some(plan.next);
        self.flag_lists()
    }

    /// Attaches the programs to the interfaces and the network namespace of the calling thread, takes over what an
    /// earlier process left attached, and detaches from interfaces that are not in the list any more. Also after
    /// [`Self::set_interfaces`].
    ///
    /// # Errors
    /// When an interface does not exist or refuses. What was attached by then stays attached.
    pub fn attach(&mut self) -> Result<Vec<Attached>, OpenError> {
        // First what the new program goes on with. Until its turn comes the old one goes on with stages of its own, since a
        // program and its stages hand packets to each other in a map that only they have. The pin keeps each: an unpinned
        // map of programs is emptied when the last process lets go of it.
        for (index, program) in &self.stages {
            self.tables
                .stages
                .set(index, &program.as_raw_fd().cast_unsigned())?;
        }
        let (links, attached) = attach::attach(
            &self.pins,
            &self.options.interfaces,
            self.mode,
            &attach::Programs {
                xdp: self.xdp.as_fd(),
                steer: self.steer.as_fd(),
                take: self.takes.then(|| self.take.as_fd()),
                links: { self.has_link_addresses }.then(|| self.link_programs.each_ref().map(OwnedFd::as_fd)),
            },
        )?;
        self.links = links;
        self.pins.drop_old_stages()?;
        Ok(attached)
    }

    /// Changes the list of interfaces; [`Self::attach`] makes it so.
    pub fn set_interfaces(&mut self, interfaces: Vec<String>) {
        self.options.interfaces = interfaces;
    }

    /// Says whether virtual routers have link addresses of their own, which what leaves in their name has to bear. True if
    /// [`Self::attach`] is due for that.
    pub fn set_link_addresses(&mut self, any: bool) -> bool {
        std::mem::replace(&mut self.has_link_addresses, any) != any
    }

    /// Changes what may change while the maps live.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn tune(&mut self, tunables: Tunables) -> Result<(), MapError> {
        self.options.tunables = tunables;
        self.limits.horizon = tunables.horizon;
        change_settings(&self.tables.settings, self.pins.maps_dir(), |before| {
            load::settings(&tunables, &before, before.hash_key, before.fib_ifindex)
        })
    }

    /// The flags of [`weir_abi::maps::settings`] that are set.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn flags(&self) -> Result<u32, MapError> {
        Ok(self.tables.settings.get(&0)?.unwrap_or_default().flags)
    }

    /// Sets or clears a flag of [`weir_abi::maps::settings`].
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn set_flag(&mut self, flag: u32, on: bool) -> Result<(), MapError> {
        change_settings(&self.tables.settings, self.pins.maps_dir(), |before| Settings {
            flags: if on {
                before.flags | flag
            } else {
                before.flags & !flag
            },
            ..before
        })
    }

    /// The key of the flow hash in use: configured, kept, or drawn when the maps were made.
    pub fn hash_key(&self) -> [u64; 2] {
        self.limits.hash_key
    }

    /// Whether maps of an earlier process were found pinned when this was opened.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// The events that `neighbors` waits for; once.
    pub fn take_events(&mut self) -> Option<NeighborEvents> {
        self.events.take()
    }

    /// Ends this process's part.
    ///
    /// # Errors
    /// With [`Close::Remove`], when something could not be removed or set back; the rest is tried all the same.
    pub fn close(self, what: Close) -> Result<(), OpenError> {
        match what {
            Close::Keep => Ok(()),
            Close::Remove => {
                let Self {
                    options,
                    pins,
                    tables,
                    links,
                    xdp,
                    stages,
                    steer,
                    take,
                    link_programs,
                    ..
                } = self;
                let detached = attach::drop_unwanted(&pins.links(), &[]);
                drop((links, xdp, stages, steer, take, link_programs, tables));
                let restored = sysctl::restore(&options.state_dir);
                let dir = &options.state_dir;
                let unlisted = crate::lists::remove(dir);
                let forgotten = assign::remove(dir)
                    .and(unlisted)
                    .map_err(|cause| OpenError::File {
                        doing: "cannot remove the state in",
                        path: dir.clone(),
                        cause,
                    });
                let removed = pins.remove();
                detached.and(restored).and(forgotten).and(removed)
            }
        }
    }

    /// What the maps hold, by way of the state file. Empties them if the two do not belong together.
    fn take_over(&self, may_hold_something: bool) -> Result<State, MapError> {
        if !may_hold_something {
            return Ok(State::default());
        }
        let dir = &self.options.state_dir;
        let assignment = assign::load(dir).unwrap_or_else(|error| {
            tracing::warn!(directory = %dir.display(), %error, "the state file cannot be used");
            None
        });
        let known = assignment.is_some();
        if let Some(state) = self
            .tables
            .read(assignment.unwrap_or_default(), self.limits.cpus)?
        {
            tracing::info!(
                listen_addresses = state.services.len(),
                backends = state.backends.len(),
                "pinned maps taken over"
            );
            return Ok(state);
        }
        tracing::warn!(
            directory = %dir.display(),
            state_file = known,
            "the pinned maps do not match the state file: they are emptied, flows are placed anew"
        );
        self.tables.clear()?;
        Ok(State::default())
    }
}
