//! The open datapath: maps and programs of this process, from [`Datapath::open`] to [`Datapath::close`].
//!
//! Ties the other files together; the knowledge is theirs. After a crash the kernel goes on with what is pinned, and the
//! next `open` takes it over.

mod counters;
mod load;
mod steer;

use std::os::fd::{AsFd, OwnedFd};

pub use self::counters::{Counters, TableUse};
use self::load::Loaded;
use crate::{
    Options, Tunables, Wanted, assign,
    attach::{self, Attached, Links, Mode},
    changes::{self, Limits, State},
    error::{Error, MapError, OpenError},
    neighbors::NeighborEvents,
    object,
    pins::Pins,
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
    steer: OwnedFd,
    links: Links,
    limits: Limits,
    /// What the maps hold; None after an operation failed, until they were read again.
    state: Option<State>,
    took_over: bool,
    steered: steer::Steered,
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
            steer,
            events,
            hash_key,
        } = loaded;
        let capacities = options.capacities;
        let limits = Limits {
            service_keys: capacities.service_keys,
            services: capacities.services,
            backends: tables.backends.shape().max_entries,
            ring_slots: capacities.ring_slots,
            returns: capacities.returns,
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
            steer,
            links: Links::default(),
            limits,
            state: None,
            took_over: !found.is_empty(),
            steered,
            events: Some(events),
        };
        datapath.state = Some(datapath.take_over(!found.is_empty())?);
        Ok(datapath)
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
        Ok(())
    }

    /// Attaches the programs to the interfaces and the network namespace of the calling thread, takes over what an
    /// earlier process left attached, and detaches from interfaces that are not in the list any more. Also after
    /// [`Self::set_interfaces`].
    ///
    /// # Errors
    /// When an interface does not exist or refuses. What was attached by then stays attached.
    pub fn attach(&mut self) -> Result<Vec<Attached>, OpenError> {
        let (links, attached) = attach::attach(
            &self.pins,
            &self.options.interfaces,
            self.mode,
            self.xdp.as_fd(),
            self.steer.as_fd(),
        )?;
        self.links = links;
        Ok(attached)
    }

    /// Changes the list of interfaces; [`Self::attach`] makes it so.
    pub fn set_interfaces(&mut self, interfaces: Vec<String>) {
        self.options.interfaces = interfaces;
    }

    /// Changes what may change while the maps live.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn tune(&mut self, tunables: Tunables) -> Result<(), MapError> {
        self.options.tunables = tunables;
        self.limits.horizon = tunables.horizon;
        let before = self.tables.settings.get(&0)?.unwrap_or_default();
        self.tables.settings.set(
            &0,
            &load::settings(&tunables, before.hash_key, before.fib_ifindex),
        )
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
                    steer,
                    ..
                } = self;
                let detached = attach::drop_unwanted(&pins.links(), &[]);
                drop((links, xdp, steer, tables));
                let restored = sysctl::restore(&options.state_dir);
                let forgotten = assign::remove(&options.state_dir).map_err(|cause| OpenError::File {
                    doing: "cannot remove the state in",
                    path: options.state_dir.clone(),
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
        if let Some(state) = self.tables.read(assignment.unwrap_or_default())? {
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
