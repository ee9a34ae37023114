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
use weir_abi::{Addr16, Settings, maps::settings as flags, names};

use crate::{
    Options, Tunables, attach,
    capture::change_settings,
    error::OpenError,
    former,
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
    /// What goes into `STAGES`, by index.
    pub(super) stages: Vec<(u32, OwnedFd)>,
    pub(super) steer: OwnedFd,
    pub(super) take: OwnedFd,
    /// For link addresses: at ingress and egress.
    pub(super) link_programs: [OwnedFd; 2],
    pub(super) events: NeighborEvents,
    pub(super) hash_key: [u64; 2],
}

impl Loaded {
    /// Makes the maps or takes the pinned ones, loads the programs, sets the sysctls and writes the settings.
    pub(super) fn new(object: &[u8], options: &Options, pins: &Pins) -> Result<Self, OpenError> {
        let mut loaded = maps(object, options, pins)?;
        let xdp = program(&mut loaded, names::XDP_PROGRAM)?;
        let mut stages = Vec::with_capacity(names::STAGE_PROGRAMS.len());
        for (index, name) in names::STAGE_PROGRAMS {
            stages.push((index, program(&mut loaded, name)?));
        }
        let steer = match says_interface() {
            true => program(&mut loaded, names::STEER_PROGRAM)?,
            false => program(&mut loaded, names::STEER_ANY_PROGRAM)?,
        };
        let take = program(&mut loaded, names::TAKE_PROGRAM)?;
        let link_programs = [
            program(&mut loaded, names::ARRIVE_PROGRAM)?,
            program(&mut loaded, names::LEAVE_PROGRAM)?,
        ];
        let tables = Tables::new(&loaded)?;
        require_spec(&tables, options)?;
        let events = loaded
            .take_map(names::EVENTS)
            .ok_or_else(|| no_map(names::EVENTS))?;
        let events = RingBuf::try_from(events).map_err(|e| OpenError::Object(e.to_string()))?;
        sysctl::apply(&options.state_dir)?;
        let hash_key = write_settings(&tables, options, pins)?;
        Ok(Self {
            tables,
            xdp,
            stages,
            steer,
            take,
            link_programs,
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
    // Another version may forward, and go on once this one has failed.
    let settings = match former::forwards(&options.pins) {
        true => Ok(()),
        false => sysctl::restore(&options.state_dir),
    };
    let results = [attach::drop_unwanted(&pins.links(), &[]), settings, pins.remove()];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::warn!(%error, "something of a failed start is left");
    }
}

/// Writes the settings, with the hash key that is configured, kept, or drawn now. Returns the key.
fn write_settings(tables: &Tables, options: &Options, pins: &Pins) -> Result<[u64; 2], OpenError> {
    let before = tables.settings.get(&0)?.unwrap_or_default();
    let hash_key = match options.hash_key {
        Some(key) => key,
        None if before.hash_key != [0, 0] => before.hash_key,
        None => match former::hash_key(pins)? {
            Some(key) => key,
            None => random_key().map_err(|cause| OpenError::File {
                doing: "cannot read",
                path: "/dev/urandom".into(),
                cause,
            })?,
        },
    };
    if before.hash_key != [0, 0] && before.hash_key != hash_key {
        tracing::warn!("node.hash_key changed: flows that are not recorded are placed anew");
    }
    let lo = nix::net::if_::if_nametoindex("lo").map_err(|_| OpenError::NoInterface { name: "lo".into() })?;
    change_settings(&tables.settings, pins.maps_dir(), |before| {
        settings(&options.tunables, &before, hash_key, lo)
    })?;
    Ok(hash_key)
}

/// The settings that follow from the tunables. Flags that others set stay as before.
pub(super) fn settings(
    tunables: &Tunables,
    before: &Settings,
    hash_key: [u64; 2],
    fib_ifindex: u32,
) -> Settings {
    let Tunables {
        tcp_grace,
        udp_grace,
        horizon,
        record_limit,
        accounting,
        reply_limit,
        cookie_rate,
        nat_tcp_idle,
        nat_udp_idle,
        nat_time_wait,
        tunnel,
    } = *tunables;
    // Bits behind the prefix, as they lie in the last word of the address.
    let host = |prefix: u8, width: u32| {
        let bits = width.saturating_sub(prefix.into()).min(32);
        let mask = u32::MAX.checked_shr(32 - bits).unwrap_or(0);
        u32::from_ne_bytes(mask.to_be_bytes())
    };
    Settings {
        hash_key,
        flow_key: weir_fastpath::hash::expand(hash_key),
        tcp_grace,
        udp_grace,
        horizon,
        record_limit,
        fib_ifindex,
        flags: before.flags & !flags::ACCOUNTING | if accounting { flags::ACCOUNTING } else { 0 },
        cookie_rate,
        reply_limit,
        tunnel_v4: Addr16::from(tunnel.source_v4.addr()).v4_word(),
        tunnel_v4_host: host(tunnel.source_v4.prefix(), 32),
        tunnel_v6: Addr16::from(tunnel.source_v6.addr()).words,
        tunnel_v6_host: host(tunnel.source_v6.prefix(), 128),
        nat_tcp_idle,
        nat_udp_idle,
        nat_time_wait,
    }
}

/// Whether sk_lookup says which interface a connection comes in by. A kernel that hides its release is taken for a new one:
/// should it not be, it refuses the program, with words.
pub(super) fn says_interface() -> bool {
    crate::doctor::release().is_none_or(|release| release >= names::STEER_FLOOR)
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
    pins.put_stages_aside()?;
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
    macro_rules! load {
        ($kind:ty) => {{
            let program: &mut $kind = program
                .try_into()
                .map_err(|e: ProgramError| refused(&what(), &e))?;
            program.load().map_err(|e| refused(&what(), &e))?;
            let fd = program.fd().map_err(|e| refused(&what(), &e))?;
            fd.as_fd().try_clone_to_owned().map_err(|e| refused(&what(), &e))
        }};
    }
    match name {
        names::STEER_PROGRAM | names::STEER_ANY_PROGRAM => load!(aya::programs::SkLookup),
        names::TAKE_PROGRAM | names::ARRIVE_PROGRAM | names::LEAVE_PROGRAM => {
            load!(aya::programs::SchedClassifier)
        }
        _ => load!(aya::programs::Xdp),
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use weir_core::plan::{IpNet, Tunnel};

    use super::*;

    fn net(addr: &str, prefix: u8) -> IpNet {
        IpNet::new(addr.parse().unwrap(), prefix).unwrap()
    }

    #[test]
    fn the_hash_fills_what_is_behind_a_tunnels_prefix() {
        let cases = [
            (
                net("172.16.0.0", 16),
                net("100::", 64),
                [0, 0, 255, 255],
                [255; 4],
            ),
            (net("10.0.0.1", 32), net("2001:db8::1", 128), [0; 4], [0; 4]),
            (
                net("0.0.0.0", 0),
                net("2001:db8::", 104),
                [255; 4],
                [0, 255, 255, 255],
            ),
            (
                net("10.0.0.0", 12),
                net("2001:db8::", 96),
                [0, 15, 255, 255],
                [255; 4],
            ),
        ];
        for (source_v4, source_v6, v4, v6) in cases {
            let tunables = Tunables {
                tunnel: Tunnel { source_v4, source_v6 },
                ..Tunables::default()
            };
            let found = settings(&tunables, &Settings::default(), [1, 2], 1);
            assert_eq!(found.tunnel_v4_host.to_ne_bytes(), v4, "{source_v4}");
            assert_eq!(found.tunnel_v6_host.to_ne_bytes(), v6, "{source_v6}");
            let back = |words| Addr16::from_v6_words(words).to_ip();
            assert_eq!(IpAddr::from(found.tunnel_v4.to_ne_bytes()), source_v4.addr());
            assert_eq!(back(found.tunnel_v6), source_v6.addr());
        }
    }

    #[test]
    fn flags_of_others_stay() {
        let with = |accounting, flags| {
            let tunables = Tunables {
                accounting,
                ..Tunables::default()
            };
            let before = Settings {
                flags,
                ..Settings::default()
            };
            settings(&tunables, &before, [1, 2], 1).flags
        };
        assert_eq!(with(true, flags::CAPTURE), flags::CAPTURE | flags::ACCOUNTING);
        assert_eq!(with(false, flags::LISTS | flags::ACCOUNTING), flags::LISTS);
    }
}
