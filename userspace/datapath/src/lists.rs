//! The lists of networks that are let in or kept out: whose entry is whose, and what a change writes.
//!
//! Pure but for [`load`] and [`store`]. Three write `LISTS`: the configuration, the operator at run time, and the
//! programs themselves, which ban networks that go beyond their limits. A reload replaces the first kind alone. The
//! operator's entries lie above the configuration's: where both name a network his counts, and when it ends the other is
//! there again. The programs' are told by [`list::OVERLOAD`]; they are in the map and nowhere else.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use weir_abi::{Addr16, ListEntry, Prefix, maps::list};
use weir_core::plan::{IpNet, Lists};

use crate::assign::write_atomically;

/// What is done with packets from a network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// They are let in, free of limits per source, whatever is said of a larger network.
    Allow,
    /// They are dropped.
    Ban,
}

/// Who listed a network.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Origin {
    /// `[lists]` of the configuration.
    Configuration,
    /// An operator, at run time.
    Operator,
    /// The programs: it went beyond the limits of a service.
    Overload,
}

/// A network that is listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed {
    /// The network.
    pub net: IpNet,
    /// What is done with its packets.
    pub rule: Rule,
    /// Who said so.
    pub origin: Origin,
    /// For how long still. None: for good.
    pub left: Option<Duration>,
}

/// One write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ListOp {
    Set(Prefix, ListEntry),
    Delete(Prefix),
}

/// All of IPv4, as `Addr16` has it: `::ffff:0:0/96`.
const IPV4: Prefix = Prefix {
    len: 96,
    addr: Addr16::from_v4_word(0),
};

/// An entry that ended long ago: for the programs it is none, and keeps them from looking further. It stands over all of
/// IPv4 while an IPv6 network is listed that the mapped addresses lie in: `::/0` is not `0.0.0.0/0`.
const GUARD: ListEntry = ListEntry { until: 1, flags: 0 };

/// The entries that control made, by whom.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Held {
    configured: HashMap<Prefix, ListEntry>,
    operators: HashMap<Prefix, ListEntry>,
}

/// The map's form of a network.
pub(crate) fn prefix(net: &IpNet) -> Prefix {
    let before = if net.addr().is_ipv4() { 96 } else { 0 };
    Prefix {
        len: u32::from(net.prefix()) + before,
        addr: Addr16::from(net.addr()),
    }
}

fn net(prefix: &Prefix) -> Option<IpNet> {
    let ip = prefix.addr.to_ip();
    let before = if ip.is_ipv4() { 96 } else { 0 };
    let len = prefix.len.checked_sub(before);
    // Less than IPv4 as a whole, though its address looks like one: it is IPv6.
    let (ip, len) = match (ip, len) {
        (IpAddr::V4(v4), None) => (IpAddr::V6(v4.to_ipv6_mapped()), prefix.len),
        (ip, Some(len)) => (ip, len),
        (IpAddr::V6(_), None) => return None,
    };
    IpNet::new(ip, u8::try_from(len).ok()?)
}

fn rule(entry: ListEntry) -> Rule {
    if entry.flags & list::ALLOW != 0 {
        Rule::Allow
    } else {
        Rule::Ban
    }
}

/// An entry that ends at `until`; 0: never.
pub(crate) fn entry(rule: Rule, until: u32) -> ListEntry {
    let flags = match rule {
        Rule::Allow => list::ALLOW,
        Rule::Ban => 0,
    };
    ListEntry { until, flags }
}

/// As the programs see it: the second of its end is its last.
fn has_ended(entry: ListEntry, now: u32) -> bool {
    entry.until != 0 && entry.until < now
}

impl Held {
    /// Whose is what in the map. `operators` is what the file says; what is neither theirs nor the programs' was
    /// configured, once. Also the writes that the file asks for and the map lacks, and whether the programs have entries.
    pub(crate) fn read(
        map: impl IntoIterator<Item = (Prefix, ListEntry)>,
        operators: HashMap<Prefix, ListEntry>,
    ) -> (Self, Vec<ListOp>, bool) {
        let mut configured = HashMap::new();
        let (mut seen, mut overload) = (HashSet::new(), false);
        for (key, entry) in map {
            if entry.flags & list::OVERLOAD != 0 {
                overload = true;
            } else if operators.get(&key) == Some(&entry) {
                seen.insert(key);
            } else if (key, entry) != (IPV4, GUARD) {
                configured.insert(key, entry);
            }
        }
        let missing = operators.iter().filter(|(key, _)| !seen.contains(*key));
        let ops = missing.map(|(key, entry)| ListOp::Set(*key, *entry)).collect();
        let held = Self {
            configured,
            operators,
        };
        (held, ops, overload)
    }

    /// Networks listed, those that both have counted once.
    pub(crate) fn len(&self) -> usize {
        let both = self
            .operators
            .keys()
            .filter(|key| self.configured.contains_key(key));
        self.configured.len() + self.operators.len() - both.count()
    }

    /// Networks that are let in, and that are kept out. Where both have one the operators' counts.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let configured = self
            .configured
            .iter()
            .filter(|(key, _)| !self.operators.contains_key(*key));
        let all = self.operators.iter().chain(configured);
        let allowed = all.filter(|(_, entry)| rule(**entry) == Rule::Allow).count();
        (allowed, self.len() - allowed)
    }

    /// The operators' entries.
    pub(crate) fn operators(&self) -> &HashMap<Prefix, ListEntry> {
        &self.operators
    }

    pub(crate) fn is_configured(&self, key: &Prefix) -> bool {
        self.configured.contains_key(key)
    }

    /// Says who listed what is in the map. None for what is no entry of anybody.
    pub(crate) fn listed(&self, key: &Prefix, entry: ListEntry, now: u32) -> Option<Listed> {
        if (*key, entry) == (IPV4, GUARD) || has_ended(entry, now) {
            return None;
        }
        let origin = if entry.flags & list::OVERLOAD != 0 {
            Origin::Overload
        } else if self.operators.contains_key(key) {
            Origin::Operator
        } else {
            Origin::Configuration
        };
        let left = |until: u32| Duration::from_secs(until.saturating_sub(now).into());
        Some(Listed {
            net: net(key)?,
            rule: rule(entry),
            origin,
            left: (entry.until != 0).then(|| left(entry.until)),
        })
    }

    /// Takes the configuration's lists instead of those of before.
    pub(crate) fn configure(&mut self, lists: &Lists) -> Vec<ListOp> {
        let bans = lists.ban.iter().map(|net| (prefix(net), entry(Rule::Ban, 0)));
        let allows = lists.allow.iter().map(|net| (prefix(net), entry(Rule::Allow, 0)));
        let next: HashMap<_, _> = bans.chain(allows).collect();
        if next == self.configured {
            return Vec::new();
        }
        let touched = self.configured.keys().chain(next.keys()).copied().collect();
        self.change(touched, |held| held.configured = next)
    }

    /// Adds operators' entries, or takes them away (None).
    pub(crate) fn operate(&mut self, changes: &[(Prefix, Option<ListEntry>)]) -> Vec<ListOp> {
        let touched = changes.iter().map(|(key, _)| *key).collect();
        self.change(touched, |held| {
            for (key, entry) in changes {
                match entry {
                    Some(entry) => held.operators.insert(*key, *entry),
                    None => held.operators.remove(key),
                };
            }
        })
    }

    /// Whether an operator's entry has ended.
    pub(crate) fn has_ended(&self, now: u32) -> bool {
        self.operators.values().any(|entry| has_ended(*entry, now))
    }

    /// Takes away operators' entries that have ended.
    pub(crate) fn expire(&mut self, now: u32) -> Vec<ListOp> {
        let ended = self.operators.iter().filter(|(_, entry)| has_ended(**entry, now));
        let ended: Vec<_> = ended.map(|(key, _)| (*key, None)).collect();
        self.operate(&ended)
    }

    fn effective(&self, key: &Prefix) -> Option<ListEntry> {
        let entry = self.operators.get(key).or_else(|| self.configured.get(key));
        let guard = || (*key == IPV4 && self.covers_ipv4()).then_some(GUARD);
        entry.copied().or_else(guard)
    }

    /// Whether an IPv6 network is listed that the mapped addresses lie in.
    fn covers_ipv4(&self) -> bool {
        let mapped = u128::from(Ipv6Addr::from_octets(IPV4.addr.octets()));
        (0..96).any(|len| {
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            let key = Prefix {
                len,
                addr: Addr16::from(IpAddr::from(Ipv6Addr::from(mapped & mask))),
            };
            self.operators.contains_key(&key) || self.configured.contains_key(&key)
        })
    }

    /// What a change to the entries of `touched` writes: first what is added, then what goes.
    fn change(&mut self, touched: HashSet<Prefix>, change: impl FnOnce(&mut Self)) -> Vec<ListOp> {
        let touched: Vec<_> = touched
            .into_iter()
            .filter(|key| *key != IPV4)
            .chain([IPV4])
            .collect();
        let before: Vec<_> = touched.iter().map(|key| self.effective(key)).collect();
        change(self);
        let (mut ops, mut gone) = (Vec::new(), Vec::new());
        // The guard is the last of them: it must be there first, and go last.
        for (key, before) in touched.iter().zip(before).rev() {
            match self.effective(key) {
                Some(entry) if before != Some(entry) => ops.push(ListOp::Set(*key, entry)),
                None if before.is_some() => gone.push(ListOp::Delete(*key)),
                Some(_) | None => {}
            }
        }
        gone.reverse();
        ops.extend(gone);
        ops
    }
}

/// Which of the programs' entries have ended, and how many are left.
pub(crate) fn overload_ended(
    map: impl IntoIterator<Item = (Prefix, ListEntry)>,
    now: u32,
) -> (Vec<Prefix>, usize) {
    let (mut ended, mut left) = (Vec::new(), 0);
    for (key, entry) in map {
        if entry.flags & list::OVERLOAD == 0 {
            continue;
        }
        if has_ended(entry, now) {
            ended.push(key);
        } else {
            left += 1;
        }
    }
    (ended, left)
}

/// The file's form of an operator's entry.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    address: IpAddr,
    prefix: u8,
    allow: bool,
    /// Seconds of CLOCK_MONOTONIC; 0: never.
    until: u32,
}

fn file(dir: &Path) -> PathBuf {
    dir.join("lists.json")
}

/// Reads the operators' entries. None when there is no file.
pub(crate) fn load(dir: &Path) -> io::Result<Option<HashMap<Prefix, ListEntry>>> {
    let text = match fs::read_to_string(file(dir)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let stored: Vec<Stored> = serde_json::from_str(&text)?;
    let entries = stored.into_iter().map(|stored| {
        let net = IpNet::new(stored.address, stored.prefix)?;
        let rule = if stored.allow { Rule::Allow } else { Rule::Ban };
        Some((prefix(&net), entry(rule, stored.until)))
    });
    let entries: Option<HashMap<_, _>> = entries.collect();
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "a network in it is none");
    entries.map(Some).ok_or_else(strange)
}

/// Writes the operators' entries; without any there is no file. Returns its path with an error.
pub(crate) fn store(dir: &Path, operators: &HashMap<Prefix, ListEntry>) -> Result<(), (PathBuf, io::Error)> {
    let stored = operators.iter().filter_map(|(key, entry)| {
        let net = net(key)?;
        Some(Stored {
            address: net.addr(),
            prefix: net.prefix(),
            allow: rule(*entry) == Rule::Allow,
            until: entry.until,
        })
    });
    let stored: Vec<_> = stored.collect();
    let path = file(dir);
    let write = || -> io::Result<()> {
        if stored.is_empty() {
            return remove(dir);
        }
        write_atomically(&path, &serde_json::to_vec(&stored)?)
    };
    write().map_err(|cause| (path.clone(), cause))
}

/// Removes the file, if it is there.
pub(crate) fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_file(file(dir)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
