//! Waiting on a condition with a deadline. The only place of the harness that sleeps.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::interrupt;

/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Deadlines are written for a machine that has time for the test. They only bound how long something broken is waited for,
/// so where others want the CPU too, or it is a slow one, there is so many times more.
const SLACK: u32 = 4;

/// Looks until `probe` gives a value, [for longer than `deadline`](SLACK) if it takes that.
///
/// `probe` answers `Err(observation)` for "not yet". `what` names the condition for the error, which also carries the
/// last observation.
///
/// # Errors
/// The deadline passed, or the run was interrupted.
pub fn wait_until<T, O: Display>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, O>,
) -> Result<T> {
    let start = Instant::now();
    let deadline = deadline * SLACK;
    loop {
        let observation = match probe() {
            Ok(value) => return Ok(value),
            Err(observation) => observation,
        };
        if interrupt::requested() {
            bail!("interrupted while waiting until {what}");
        }
        if start.elapsed() >= deadline {
            bail!(
                "waited {:.1} s in vain until {what}; last seen: {observation:#}",
                deadline.as_secs_f64()
            );
        }
        thread::sleep(PAUSE);
    }
}

/// Lets time pass, a span that belongs to a story told to people. Tests have no use for it: they wait on conditions.
///
/// # Errors
/// The run was interrupted.
pub fn pass_time(span: Duration) -> Result<()> {
    let start = Instant::now();
    while let Some(left) = span.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) {
        if interrupt::requested() {
            bail!("interrupted");
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// Looks until `observe` gives the same value for as long as `quiet`: for counters that something is still adding to.
///
/// # Errors
/// The value did not come to rest within the deadline, `observe` failed, or the run was interrupted.
pub fn settle<T: PartialEq + std::fmt::Debug>(
    deadline: Duration,
    quiet: Duration,
    what: &str,
    mut observe: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut last = observe()?;
    let mut since = Instant::now();
    wait_until(
        deadline,
        &format!("{what} comes to rest"),
        move || -> Result<T, String> {
            let now = observe().map_err(|e| format!("{e:#}"))?;
            if now != last {
                last = now;
                since = Instant::now();
            } else if since.elapsed() >= quiet {
                return Ok(now);
            }
            Err(format!("{last:?}"))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_once_it_is_there() {
        let mut looks = 0;
        let value = wait_until(Duration::from_secs(5), "the third look", || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(looks) }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn a_deadline_tells_what_was_seen_last() {
        let error =
            wait_until(Duration::ZERO, "pigs fly", || Err::<(), _>("a pig on the ground")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "waited 0.0 s in vain until pigs fly; last seen: a pig on the ground"
        );
    }
}
