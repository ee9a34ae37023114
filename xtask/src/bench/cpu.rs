//! CPU time of a process and all its descendants, from /proc.
//!
//! Only reads; which processes are meant is the caller's knowledge.

use std::{collections::BTreeMap, fs, process::Command};

use anyhow::{Context as _, Result};

use crate::shell;

/// What `/proc/PID/stat` says of a process, as far as it is needed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stat {
    parent: u32,
    /// User and system time, in clock ticks.
    ticks: u64,
}

/// Seconds of CPU, user and system, that `root` and all its descendants have used so far.
pub(super) fn seconds(root: u32) -> Result<f64> {
    let per_second: f64 = shell::output(Command::new("getconf").arg("CLK_TCK"))?
        .trim()
        .parse()
        .context("CLK_TCK")?;
    Ok(ticks_of(root, &processes()?) as f64 / per_second)
}

fn ticks_of(root: u32, processes: &BTreeMap<u32, Stat>) -> u64 {
    let mut open = vec![root];
    let mut sum = 0;
    while let Some(pid) = open.pop() {
        sum += processes.get(&pid).map_or(0, |stat| stat.ticks);
        open.extend(
            processes
                .iter()
                .filter(|(p, stat)| stat.parent == pid && **p != pid)
                .map(|(p, _)| *p),
        );
    }
    sum
}

fn processes() -> Result<BTreeMap<u32, Stat>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").context("reading /proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // It may have ended since it was listed.
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        all.extend(stat(&text).map(|stat| (pid, stat)));
    }
    Ok(all)
}

/// Reads proc_pid_stat(5). The name in parentheses may hold anything, so fields are counted from its end.
fn stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text
        .get(text.rfind(')')? + 1..)?
        .split_ascii_whitespace()
        .collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some(Stat {
        parent: u32::try_from(number(1)?).ok()?,
        ticks: number(11)? + number(12)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything() {
        let text = "42 (a b) c) S 7 42 42 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 100 1 1";
        assert_eq!(stat(text), Some(Stat { parent: 7, ticks: 42 }));
        assert_eq!(stat("42 (a"), None);
    }

    #[test]
    fn descendants_count_and_others_do_not() {
        let of = |parent, ticks| Stat { parent, ticks };
        let all = BTreeMap::from([
            (1, of(0, 1000)),
            (5, of(1, 1)),
            (6, of(5, 10)),
            (7, of(6, 100)),
            (8, of(1, 5)),
        ]);
        assert_eq!(ticks_of(5, &all), 111);
        assert_eq!(ticks_of(99, &all), 0);
    }

    #[test]
    fn this_process_uses_time() {
        let begin = seconds(std::process::id()).expect("of this process");
        let mut x = 0u64;
        while seconds(std::process::id()).expect("of this process") - begin < 0.02 {
            x = std::hint::black_box(x.wrapping_mul(31) + 1);
        }
    }
}
