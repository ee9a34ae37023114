//! The open datapath: maps and programs of this process, from [`Datapath::open`] to [`Datapath::close`].
//!
//! Ties the other files together; the knowledge is theirs. After a crash the kernel goes on with what is pinned, and the
//! next `open` takes it over.

mod counters;
mod steer;

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{Ebpf, EbpfLoader, maps::RingBuf, programs::ProgramError};
use weir_abi::{Settings, names};

pub use self::counters::{Counters, TableUse};
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
        let shapes = object::shapes(object, &options.capacities)?;
        let pins = Pins::take(&options.pins, &options.state_dir)?;
        let found = pins.verify(|name| shapes.get(name).copied())?;

        let mut loaded = load(object, &options, &pins)?;
        let xdp = program(&mut loaded, names::XDP_PROGRAM)?;
        let steer = program(&mut loaded, names::STEER_PROGRAM)?;
        let tables = Tables::new(&loaded)?;
        let events = loaded
            .take_map(names::EVENTS)
            .ok_or_else(|| no_map(names::EVENTS))?;
        let events = RingBuf::try_from(events).map_err(|e| OpenError::Object(e.to_string()))?;

        sysctl::apply(&options.state_dir)?;
        let capacities = options.capacities;
        let hash_key = write_settings(&tables, &options)?;
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
            steered,
            events: Some(NeighborEvents::new(events)),
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
        self.tables
            .settings
            .set(&0, &settings(&tunables, before.hash_key, before.fib_ifindex))
    }

    /// The key of the flow hash in use: configured, kept, or drawn when the maps were made.
    pub fn hash_key(&self) -> [u64; 2] {
        self.limits.hash_key
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

/// Writes the settings, with the hash key that is configured, kept, or drawn now. Returns the key.
fn write_settings(tables: &Tables, options: &Options) -> Result<[u64; 2], OpenError> {
    let before = tables.settings.get(&0)?.unwrap_or_default();
    let hash_key = match options.hash_key {
        Some(key) => key,
        None if before.hash_key != [0, 0] => before.hash_key,
        None => random_key().map_err(|cause| OpenError::File {
            doing: "cannot read",
            path: "/dev/urandom".into(),
            cause,
        })?,
    };
    if before.hash_key != [0, 0] && before.hash_key != hash_key {
        tracing::warn!("node.hash_key changed: flows that are not recorded are placed anew");
    }
    let lo = nix::net::if_::if_nametoindex("lo").map_err(|_| OpenError::NoInterface { name: "lo".into() })?;
    tables
        .settings
        .set(&0, &settings(&options.tunables, hash_key, lo))?;
    Ok(hash_key)
}

fn settings(tunables: &Tunables, hash_key: [u64; 2], fib_ifindex: u32) -> Settings {
    let Tunables {
        tcp_grace,
        udp_grace,
        horizon,
        record_limit,
    } = *tunables;
    Settings {
        hash_key,
        tcp_grace,
        udp_grace,
        horizon,
        record_limit,
        fib_ifindex,
        reserved: [0; 3],
    }
}

fn random_key() -> io::Result<[u64; 2]> {
    let mut bytes = [0; 16];
    fs::File::open(Path::new("/dev/urandom"))?.read_exact(&mut bytes)?;
    let [a @ .., b1, b2, b3, b4, b5, b6, b7, b8] = bytes;
    Ok([
        u64::from_le_bytes(a),
        u64::from_le_bytes([b1, b2, b3, b4, b5, b6, b7, b8]),
    ])
}

fn no_map(name: &str) -> OpenError {
    OpenError::Object(format!("it has no map {name}"))
}

/// Loads the object: maps that are pinned are used again (they were verified), others made and pinned.
fn load(object: &[u8], options: &Options, pins: &Pins) -> Result<Ebpf, OpenError> {
    let dir = pins.maps();
    let mut loader = EbpfLoader::new();
    for (name, entries) in object::max_entries(&options.capacities) {
        loader.map_max_entries(name, entries);
    }
    for name in names::PINNED {
        loader.map_pin_path(name, dir.join(name));
    }
    loader.load(object).map_err(|e| refused("the maps", &e))
}

/// Loads one program into the kernel.
fn program(loaded: &mut Ebpf, name: &'static str) -> Result<OwnedFd, OpenError> {
    let program = loaded
        .program_mut(name)
        .ok_or_else(|| OpenError::Object(format!("it has no program {name}")))?;
    let what = || format!("the program {name}");
    if name == names::XDP_PROGRAM {
        let program: &mut aya::programs::Xdp = program
            .try_into()
            .map_err(|e: ProgramError| refused(&what(), &e))?;
        program.load().map_err(|e| refused(&what(), &e))?;
        let fd = program.fd().map_err(|e| refused(&what(), &e))?;
        fd.as_fd().try_clone_to_owned().map_err(|e| refused(&what(), &e))
    } else {
        let program: &mut aya::programs::SkLookup = program
            .try_into()
            .map_err(|e: ProgramError| refused(&what(), &e))?;
        program.load().map_err(|e| refused(&what(), &e))?;
        let fd = program.fd().map_err(|e| refused(&what(), &e))?;
        fd.as_fd().try_clone_to_owned().map_err(|e| refused(&what(), &e))
    }
}

/// The kernel's refusal with all its causes, and the mend where the number is known.
fn refused(what: &str, error: &(dyn std::error::Error + 'static)) -> OpenError {
    let mut cause = error.to_string();
    let mut errno = None;
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        if let Some(io) = e.downcast_ref::<io::Error>() {
            errno = io.raw_os_error();
        }
        let text = e.to_string();
        if !cause.contains(&text) {
            cause.push_str(": ");
            cause.push_str(&text);
        }
        next = e.source();
    }
    let mend = match errno {
        Some(libc::EPERM) => {
            "; weir needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or node.xdp = \"off\""
        }
        Some(libc::ENOMEM | libc::E2BIG) => "; the maps are too large for this box: lower the capacities",
        _ => "",
    };
    OpenError::Load {
        what: what.to_owned(),
        cause,
        mend,
    }
}
