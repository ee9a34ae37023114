//! CPU time and memory of a process and all its descendants, from /proc.
//!
//! Only reads; which processes are meant is the caller's knowledge.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use weir_harness::wait_until;

/// How long a process may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process with all its descendants, as they were when it was looked for.
pub(super) struct Tree(Vec<u32>);

/// What a tree holds of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Held {
    /// Bytes resident.
    pub(super) resident: u64,
    /// Descriptors open.
    pub(super) descriptors: u64,
}

impl Tree {
    /// `root` and its descendants now.
    pub(super) fn of(root: u32) -> Result<Self> {
        Ok(Self(tree(root, &parents()?)))
    }

    /// Their ids.
    pub(super) fn ids(&self) -> &[u32] {
        &self.0
    }

    /// Seconds of CPU, user and system, that its threads have used so far; to the nanosecond. Threads that have ended are
    /// forgotten.
    pub(super) fn seconds(&self) -> f64 {
        let of = |pid: &u32| -> u64 {
            let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
                return 0;
            };
            tasks.flatten().map(|task| run_time(&task.path())).sum()
        };
        self.0.iter().map(of).sum::<u64>() as f64 / 1e9
    }

    /// Waits until none of them runs any more; who is left for a parent to take note of does not.
    pub(super) fn wait_for_end(&self, patience: Duration) -> Result<()> {
        wait_until(patience, "all of its processes end", || {
            let runs =
                |pid: &&u32| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty());
            match self.0.iter().find(runs) {
                Some(pid) => Err(format!("process {pid} runs")),
                None => Ok(()),
            }
        })
    }

    /// Memory and descriptors now.
    pub(super) fn held(&self) -> Held {
        let mut held = Held {
            resident: 0,
            descriptors: 0,
        };
        for pid in &self.0 {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            held.resident += resident(&status).unwrap_or(0);
            held.descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count) as u64;
        }
        held
    }
}

/// What a proxy holds once it has noticed all ends.
pub(super) fn settled(tree: &Tree) -> Result<Held> {
    let mut last = tree.held();
    let mut same = 0;
    wait_until(PATIENCE, "all connections that have ended are closed", || {
        let now = tree.held();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same >= 20).then_some(now).ok_or_else(|| format!("{now:?}"))
    })
}

/// Nanoseconds that a thread has run: the first number of its schedstat.
fn run_time(task: &Path) -> u64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    let first = text.split_ascii_whitespace().next();
    first.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Bytes resident, by proc_pid_status(5).
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn tree(root: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let mut open = vec![root];
    let mut all = Vec::new();
    while let Some(pid) = open.pop() {
        all.push(pid);
        let children = parents.iter().filter(|(p, parent)| **parent == pid && **p != pid);
        open.extend(children.map(|(p, _)| *p));
    }
    all
}

fn parents() -> Result<BTreeMap<u32, u32>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since it was listed.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        all.extend(parent(&text).map(|parent| (pid, parent)));
    }
    Ok(all)
}

/// Reads proc_pid_stat(5). The name in parentheses may hold anything, so fields are counted from its end.
fn parent(text: &str) -> Option<u32> {
    let fields = text.get(text.rfind(')')? + 1..)?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let text = "42 (a b) c) S 7 42 42 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 100 1 1";
        assert_eq!(parent(text), Some(7));
        assert_eq!(parent("42 (a"), None);
    }

    #[test]
    fn descendants_count_and_others_do_not() {
        let all = BTreeMap::from([(1, 0), (5, 1), (6, 5), (7, 6), (8, 1)]);
        let mut found = tree(5, &all);
        found.sort_unstable();
        assert_eq!(found, [5, 6, 7]);
        assert_eq!(tree(99, &all), [99]);
    }

    #[test]
    fn memory_is_read() {
        let status = "Name:\tx\nVmHWM:\t     900 kB\nVmRSS:\t    1234 kB\nRssAnon:\t  1 kB\n";
        assert_eq!(resident(status), Some(1234 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let tree = Tree::of(std::process::id()).expect("of this process");
        let begin = tree.seconds();
        let mut x = 0u64;
        while tree.seconds() - begin < 0.02 {
            x = std::hint::black_box(x.wrapping_mul(31) + 1);
        }
        let held = tree.held();
        assert!(held.resident > 1 << 20 && held.descriptors > 2, "{held:?}");
    }
}
