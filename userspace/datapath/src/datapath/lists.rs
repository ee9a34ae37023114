//! The lists in the map: the configuration's, the operators', and what the programs added.
//!
//! Carries out what `lists` says, and keeps the flag by which the programs ask at all.

use std::{net::IpAddr, time::Duration};

use weir_abi::{
    ListEntry, Prefix,
    maps::{list, settings},
};
use weir_core::plan::{IpNet, Lists};

use super::Datapath;
use crate::{
    error::{Error, MapError},
    lists::{self, Held, ListOp, Listed, Rule},
    sys,
    tables::Tables,
};

/// What `LISTS` holds, as far as control must know.
#[derive(Debug)]
pub(super) struct InForce {
    held: Held,
    /// Whether the programs may have made entries.
    overload: bool,
    /// How many they had when they were looked at last.
    overloaded: usize,
}

/// How many networks are listed.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ListCounts {
    /// Let in, by the configuration and operators.
    pub allow: usize,
    /// Kept out, by the configuration and operators.
    pub ban: usize,
    /// Kept out by the programs, when [`Datapath::expire_lists`] looked last.
    pub overload: usize,
}

/// Everything in the map.
fn entries(tables: &Tables) -> Result<Vec<(Prefix, ListEntry)>, MapError> {
    let mut entries = Vec::new();
    tables.lists.each(|key, entry| entries.push((*key, *entry)))?;
    Ok(entries)
}

fn perform(tables: &Tables, ops: &[ListOp]) -> Result<(), MapError> {
    for op in ops {
        match op {
            ListOp::Set(key, entry) => tables.lists.set(key, entry)?,
            ListOp::Delete(key) => drop(tables.lists.delete(key)?),
        }
    }
    Ok(())
}

impl Datapath {
    /// Makes the configuration's lists those in force. What operators and the programs listed stays.
    ///
    /// # Errors
    /// When they do not fit, or the map cannot be read or written. The same call made again carries on.
    pub fn set_lists(&mut self, lists: &Lists) -> Result<(), Error> {
        self.change_lists(|held| held.configure(lists))
    }

    /// Keeps networks out, for a while or for good, whatever the configuration says of them.
    ///
    /// # Errors
    /// When they do not fit, or map or file cannot be written.
    pub fn ban(&mut self, nets: &[IpNet], time: Option<Duration>) -> Result<(), Error> {
        self.list(nets, Rule::Ban, time)
    }

    /// Lets networks in, for a while or for good, whatever is said of them or of larger ones.
    ///
    /// # Errors
    /// When they do not fit, or map or file cannot be written.
    pub fn allow(&mut self, nets: &[IpNet], time: Option<Duration>) -> Result<(), Error> {
        self.list(nets, Rule::Allow, time)
    }

    fn list(&mut self, nets: &[IpNet], rule: Rule, time: Option<Duration>) -> Result<(), Error> {
        let until = time.map_or(0, |time| {
            // At least a second: 0 would be for good.
            let seconds = u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1);
            sys::monotonic_seconds().saturating_add(seconds)
        });
        let entry = lists::entry(rule, until);
        let changes: Vec<_> = nets.iter().map(|net| (lists::prefix(net), Some(entry))).collect();
        self.change_lists(|held| held.operate(&changes))
    }

    /// Takes away what an operator or the programs said of this network; false if they said nothing. What the
    /// configuration says of it counts again.
    ///
    /// # Errors
    /// When the configuration alone has it, or map or file cannot be written.
    pub fn unlist(&mut self, net: &IpNet) -> Result<bool, Error> {
        let key = lists::prefix(net);
        let InForce { held, .. } = self.in_force()?;
        if held.operators().contains_key(&key) {
            self.change_lists(|held| held.operate(&[(key, None)]))?;
            return Ok(true);
        }
        if held.is_configured(&key) {
            return Err(Error::Configured { net: *net });
        }
        Ok(self.tables.lists.delete(&key)?)
    }

    /// All networks that are listed now.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lists(&mut self) -> Result<Vec<Listed>, Error> {
        let now = sys::monotonic_seconds();
        let entries = entries(&self.tables)?;
        let InForce { held, .. } = self.in_force()?;
        let mut listed: Vec<_> = entries
            .into_iter()
            .filter_map(|(key, entry)| held.listed(&key, entry, now))
            .collect();
        listed.sort_unstable_by_key(|l| (l.net.addr(), l.net.prefix()));
        Ok(listed)
    }

    /// Whether what comes from an address is kept out now.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn is_banned(&self, source: IpAddr) -> Result<bool, MapError> {
        let key = Prefix {
            len: 128,
            addr: source.to_canonical().into(),
        };
        let now = sys::monotonic_seconds();
        Ok(self
            .tables
            .lists
            .get(&key)?
            .is_some_and(|entry| entry.flags & list::ALLOW == 0 && (entry.until == 0 || now <= entry.until)))
    }

    /// How many networks are listed, without a look at the map.
    pub fn list_counts(&self) -> ListCounts {
        self.lists.as_ref().map_or_else(ListCounts::default, |lists| {
            let (allow, ban) = lists.held.counts();
            ListCounts {
                allow,
                ban,
                overload: lists.overloaded,
            }
        })
    }

    /// Takes away what has ended; how many entries. The programs take no notice of it in any case, but until then it
    /// takes room, and hides what is said of a larger network.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn expire_lists(&mut self) -> Result<usize, Error> {
        let now = sys::monotonic_seconds();
        let mut ended = 0;
        if self.in_force()?.held.has_ended(now) {
            self.change_lists(|held| {
                let before = held.operators().len();
                let ops = held.expire(now);
                ended = before - held.operators().len();
                ops
            })?;
        }
        if self.in_force()?.overload {
            let (keys, left) = lists::overload_ended(entries(&self.tables)?, now);
            for key in &keys {
                ended += usize::from(self.tables.lists.delete(key)?);
            }
            let lists = self.in_force()?;
            lists.overload = left != 0;
            lists.overloaded = left;
            self.flag_lists()?;
        }
        Ok(ended)
    }

    /// Has the programs ask the lists if there is anything in them, or may be.
    pub(super) fn flag_lists(&mut self) -> Result<(), Error> {
        let bans = self
            .state
            .as_ref()
            .is_some_and(|state| state.limits.values().any(|limits| limits.ban != 0));
        let lists = self.in_force()?;
        // Until a look at the map says otherwise.
        lists.overload |= bans;
        let any = lists.overload || lists.held.len() != 0;
        Ok(self.set_flag(settings::LISTS, any)?)
    }

    /// What is in the map, read anew after an operation has failed.
    fn in_force(&mut self) -> Result<&mut InForce, MapError> {
        if self.lists.is_none() {
            let dir = &self.options.state_dir;
            let operators = lists::load(dir).unwrap_or_else(|error| {
                tracing::warn!(
                    directory = %dir.display(), %error,
                    "the file of networks listed at run time cannot be used: they are forgotten"
                );
                None
            });
            let (held, ops, overload) = Held::read(entries(&self.tables)?, operators.unwrap_or_default());
            perform(&self.tables, &ops)?;
            self.lists = Some(InForce {
                held,
                overload,
                overloaded: 0,
            });
        }
        self.lists.as_mut().ok_or_else(|| MapError {
            map: weir_abi::names::LISTS,
            doing: "read",
            cause: std::io::ErrorKind::NotFound.into(),
        })
    }

    /// Changes the entries, refuses if they do not fit, and writes: the file first, so that a successor knows whose an
    /// entry is.
    fn change_lists(&mut self, change: impl FnOnce(&mut Held) -> Vec<ListOp>) -> Result<(), Error> {
        self.in_force()?;
        let Some(InForce {
            held: old,
            overload,
            overloaded,
        }) = self.lists.take()
        else {
            return Ok(());
        };
        let mut held = old.clone();
        let ops = change(&mut held);
        let ready = self.prepare(&old, &held);
        if ops.is_empty() || ready.is_err() {
            let held = if ready.is_err() { old } else { held };
            self.lists = Some(InForce {
                held,
                overload,
                overloaded,
            });
            ready?;
            return self.flag_lists();
        }
        // From here on it is not known until it is done: after a failure what was written of it is read again.
        if old.len() + held.len() > self.options.capacities.lists as usize {
            // Where old and new do not fit together the old ones go first.
            let (gone, set): (Vec<_>, Vec<_>) = ops.iter().partition(|op| matches!(op, ListOp::Delete(_)));
            perform(&self.tables, &gone)?;
            perform(&self.tables, &set)?;
        } else {
            perform(&self.tables, &ops)?;
        }
        self.lists = Some(InForce {
            held,
            overload,
            overloaded,
        });
        self.flag_lists()
    }

    /// What may be refused, before anything is written; and the file, before the map.
    fn prepare(&self, old: &Held, next: &Held) -> Result<(), Error> {
        let (need, room) = (next.len() as u64, u64::from(self.options.capacities.lists));
        if need > room {
            return Err(Error::Full {
                what: "listed networks",
                need,
                room,
                mend: "list fewer, or raise weir.l4.lists.entries",
            });
        }
        if next.operators() != old.operators() {
            let stored = lists::store(&self.options.state_dir, next.operators());
            stored.map_err(|(path, cause)| Error::State { path, cause })?;
        }
        Ok(())
    }
}
