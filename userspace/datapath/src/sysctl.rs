//! The kernel switches that weir sets, and sets back.
//!
//! XDP asks the kernel's routing tables by `bpf_fib_lookup`, which answers only when forwarding is on for the interface
//! the question is asked from. Weir asks from `lo` and switches forwarding on there alone: the box does not become a
//! router, `net.ipv4.ip_forward` stays as it is.
//!
//! Interfaces that listeners or pools name must let packets in whose way back leads by another: their `rp_filter` is made
//! loose if it is strict.
//!
//! What was there before is written to a file first, so that also a successor can set it back. /proc/sys/net shows the
//! network namespace of the calling thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use crate::{assign::write_atomically, error::OpenError};

/// What `rp_filter` is set to for interfaces that answers leave by whatever the routes say: any way back will do.
const LOOSE: &str = "2";

/// Dotted names (a dot is a slash in /proc/sys, and the other way round) and the values that weir needs.
const WANTED: [(&str, &str); 2] = [
    ("net.ipv4.conf.lo.forwarding", "1"),
    ("net.ipv6.conf.lo.forwarding", "1"),
];

/// Set only while SYN cookies are made (`datapath::cookies`): 2 makes the kernel answer every SYN with one.
const SYNCOOKIES: (&str, &str) = ("net.ipv4.tcp_syncookies", "2");

fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    });
    Path::new("/proc/sys").join(swapped.collect::<String>())
}

/// `rp_filter` of an interface.
fn rp_filter(interface: &str) -> String {
    format!("net.ipv4.conf.{}.rp_filter", interface.replace('.', "/"))
}

/// Whether a name is that of some interface's `rp_filter`.
fn is_rp_filter(name: &str) -> bool {
    name.starts_with("net.ipv4.conf.") && name.ends_with(".rp_filter")
}

/// Whether the kernel takes packets in by an interface only if the way back leads by it. None: the interface is not there.
pub(crate) fn is_strict(interface: &str) -> io::Result<Option<bool>> {
    let level = |name: &str| Ok::<_, io::Error>(read(name)?.and_then(|value| value.parse::<u8>().ok()));
    let Some(own) = level(&rp_filter(interface))? else {
        return Ok(None);
    };
    // The greater of the two counts.
    Ok(Some(own.max(level(&rp_filter("all"))?.unwrap_or(0)) == 1))
}

fn record(dir: &Path) -> PathBuf {
    dir.join("sysctl.json")
}

/// Reads one switch; None if this kernel does not have it.
pub(crate) fn read(name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(path(name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn recorded(dir: &Path) -> BTreeMap<String, String> {
    let path = record(dir);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return BTreeMap::new(),
        Err(e) => {
            tracing::warn!(file = %path.display(), error = %e, "cannot read which sysctls were changed");
            return BTreeMap::new();
        }
    };
    serde_json::from_str(&text).unwrap_or_else(|e| {
        tracing::warn!(file = %path.display(), error = %e, "the record of changed sysctls makes no sense");
        BTreeMap::new()
    })
}

/// Sets what weir needs, after recording what was there. A switch that the kernel does not have (IPv6 off) is left out.
pub(crate) fn apply(dir: &Path) -> Result<(), OpenError> {
    set(dir, &WANTED)
}

/// Has the kernel answer every SYN with a cookie.
pub(crate) fn syncookies_on(dir: &Path) -> Result<(), OpenError> {
    set(dir, &[SYNCOOKIES])
}

/// Sets back what [`syncookies_on`] changed, unless somebody has changed it since.
pub(crate) fn syncookies_off(dir: &Path) -> Result<(), OpenError> {
    let mut before = recorded(dir);
    let (name, ours) = SYNCOOKIES;
    let Some(old) = before.remove(name) else {
        return Ok(());
    };
    set_back(name, ours, &old)?;
    if before.is_empty() {
        forget(dir)
    } else {
        store(dir, &before)
    }
}

/// Has packets come in by these interfaces, and no others of those that were asked for before, whatever way leads back. Those
/// whose `rp_filter` is not strict stay as they are.
pub(crate) fn loosen(dir: &Path, interfaces: &BTreeSet<&str>) -> Result<(), OpenError> {
    let mut strict = Vec::new();
    for interface in interfaces {
        let is_strict = is_strict(interface).map_err(|cause| OpenError::Sysctl {
            name: rp_filter(interface),
            doing: "read",
            cause,
        })?;
        if is_strict == Some(true) {
            strict.push((rp_filter(interface), LOOSE.to_owned()));
        }
    }
    let wanted: Vec<_> = strict
        .iter()
        .map(|(name, to)| (name.as_str(), to.as_str()))
        .collect();
    set(dir, &wanted)?;
    let mut before = recorded(dir);
    let kept: BTreeSet<String> = interfaces.iter().map(|interface| rp_filter(interface)).collect();
    let gone: Vec<_> = { before.keys() }
        .filter(|name| is_rp_filter(name) && !kept.contains(*name))
        .cloned()
        .collect();
    for name in &gone {
        if let Some(old) = before.remove(name) {
            set_back(name, LOOSE, &old)?;
        }
    }
    match (gone.is_empty(), before.is_empty()) {
        (true, _) => Ok(()),
        (false, true) => forget(dir),
        (false, false) => store(dir, &before),
    }
}

fn set(dir: &Path, wanted: &[(&str, &str)]) -> Result<(), OpenError> {
    let mut before = recorded(dir);
    let mut changes = Vec::new();
    for (name, wanted) in wanted {
        let fail = |cause| OpenError::Sysctl {
            name: (*name).into(),
            doing: "read",
            cause,
        };
        match read(name).map_err(fail)? {
            Some(value) if value != *wanted => {
                // A record from before a crash knows the older, the true value.
                before.entry((*name).into()).or_insert_with(|| value.clone());
                changes.push((*name, value, *wanted));
            }
            Some(_) | None => {}
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    store(dir, &before)?;
    for (name, old, new) in changes {
        fs::write(path(name), new).map_err(|cause| OpenError::Sysctl {
            name: name.into(),
            doing: "set",
            cause,
        })?;
        tracing::info!(sysctl = name, old, new, "sysctl changed");
    }
    Ok(())
}

fn store(dir: &Path, before: &BTreeMap<String, String>) -> Result<(), OpenError> {
    let file = record(dir);
    serde_json::to_vec_pretty(before)
        .map_err(io::Error::from)
        .and_then(|text| write_atomically(&file, &text))
        .map_err(|cause| OpenError::File {
            doing: "cannot write",
            path: file,
            cause,
        })
}

fn set_back(name: &str, ours: &str, old: &str) -> Result<(), OpenError> {
    let fail = |doing| {
        let name = name.to_owned();
        move |cause| OpenError::Sysctl { name, doing, cause }
    };
    if read(name).map_err(fail("read"))?.as_deref() == Some(ours) {
        fs::write(path(name), old).map_err(fail("set"))?;
        tracing::info!(sysctl = name, old = ours, new = old, "sysctl set back");
    }
    Ok(())
}

/// Sets back what was changed, unless somebody has changed it since, and forgets it.
pub(crate) fn restore(dir: &Path) -> Result<(), OpenError> {
    for (name, old) in recorded(dir) {
        let known = WANTED.iter().chain([&SYNCOOKIES]).copied();
        let known = known.chain(is_rp_filter(&name).then_some((name.as_str(), LOOSE)));
        if let Some((_, ours)) = { known }.find(|(known, _)| *known == name) {
            set_back(&name, ours, &old)?;
        }
    }
    forget(dir)
}

fn forget(dir: &Path) -> Result<(), OpenError> {
    let file = record(dir);
    match fs::remove_file(&file) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(OpenError::File {
            doing: "cannot remove",
            path: file,
            cause,
        }),
        _ => Ok(()),
    }
}
