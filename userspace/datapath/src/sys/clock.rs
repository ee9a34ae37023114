//! The clock that the programs stamp with, and compare with.

use std::io;

/// Seconds of CLOCK_MONOTONIC, the clock that the programs stamp with; at least 1.
pub(crate) fn monotonic_seconds() -> u32 {
    u32::try_from(monotonic().tv_sec).unwrap_or(u32::MAX).max(1)
}

/// The same in nanoseconds.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = monotonic();
    (now.tv_sec.cast_unsigned() * 1_000_000_000).wrapping_add(now.tv_nsec.cast_unsigned())
}

/// Nanoseconds by which CLOCK_MONOTONIC_COARSE goes on at once: the kernel's tick.
pub(crate) fn coarse_tick() -> io::Result<u64> {
    let mut tick = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec to `tick`.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &mut tick) } == 0 {
        Ok((tick.tv_sec.cast_unsigned() * 1_000_000_000).wrapping_add(tick.tv_nsec.cast_unsigned()))
    } else {
        Err(io::Error::last_os_error())
    }
}

fn monotonic() -> libc::timespec {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec to `now`. CLOCK_MONOTONIC always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now
}
