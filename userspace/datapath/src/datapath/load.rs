//! Loading: from the object's bytes to typed maps and loaded programs.
//!
//! Verification of what is pinned comes before and is `pins`'s; attaching comes after and is `attach`'s.

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use aya::{Ebpf, EbpfLoader, maps::RingBuf, programs::ProgramError};
use weir_abi::{Settings, names};

use crate::{
    Options, Tunables, attach,
    error::OpenError,
    neighbors::NeighborEvents,
    object,
    pins::{self, Pins},
    sysctl,
    tables::Tables,
};

/// What loading gives.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) tables: Tables,
    pub(super) xdp: OwnedFd,
    pub(super) steer: OwnedFd,
    pub(super) events: NeighborEvents,
    pub(super) hash_key: [u64; 2],
}

impl Loaded {
    /// Makes the maps or takes the pinned ones, loads the programs, sets the sysctls and writes the settings.
    pub(super) fn new(object: &[u8], options: &Options, pins: &Pins) -> Result<Self, OpenError> {
        let mut loaded = maps(object, options, pins)?;
        let xdp = program(&mut loaded, names::XDP_PROGRAM)?;
        let steer = program(&mut loaded, names::STEER_PROGRAM)?;
        let tables = Tables::new(&loaded)?;
        require_spec(&tables, options)?;
        let events = loaded
            .take_map(names::EVENTS)
            .ok_or_else(|| no_map(names::EVENTS))?;
        let events = RingBuf::try_from(events).map_err(|e| OpenError::Object(e.to_string()))?;
        sysctl::apply(&options.state_dir)?;
        let hash_key = write_settings(&tables, options)?;
        Ok(Self {
            tables,
            xdp,
            steer,
            events: NeighborEvents::new(events),
            hash_key,
        })
    }
}

/// Compares what was loaded with what this binary was built for: `WEIR_EBPF_OBJECT` may name any object.
fn require_spec(tables: &Tables, options: &Options) -> Result<(), OpenError> {
    for handle in tables.handles() {
        let must = object::shape(handle.name, &options.capacities).ok_or_else(|| no_map(handle.name))?;
        if let Some((what, found, expected)) = pins::difference(handle.shape, &must) {
            let text = format!("map {} has {what} {found}, not {expected}", handle.name);
            return Err(OpenError::Object(text));
        }
    }
    Ok(())
}

/// Takes back what a failed first attempt has made. Links of other versions are not in its directory.
pub(super) fn abandon(options: &Options, pins: Pins) {
    let results = [
        attach::drop_unwanted(&pins.links(), &[]),
        sysctl::restore(&options.state_dir),
        pins.remove(),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "something of a failed start is left");
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

pub(super) fn settings(tunables: &Tunables, hash_key: [u64; 2], fib_ifindex: u32) -> Settings {
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
fn maps(object: &[u8], options: &Options, pins: &Pins) -> Result<Ebpf, OpenError> {
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
