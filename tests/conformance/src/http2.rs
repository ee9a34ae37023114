//! HTTP/2 on the wire, case by case: frames from the client, what must come back.
//!
//! Equivalent to h2spec, which can't be fetched everywhere: each of its cases is here, by what the RFCs say, and more
//! beside them. The origin behind a front only answers; what matters is between client and front.

pub mod case;
pub mod cases;
pub mod deviations;
pub mod drive;
pub mod frames;
pub mod origin;

pub use case::Case;
pub use drive::{Front, Link, Rigor, play};
pub use origin::Origin;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use crate::drive::Deviation;

/// Cases to play at once where they do not disturb each other. Most of their time is waiting.
pub const AT_ONCE: usize = 8;

/// Plays all cases, so many at once, against fronts that `front` hands out, one for each; answers with those that went
/// otherwise.
pub fn play_all<F: Front>(
    front: impl Fn() -> F + Sync,
    rigor: Rigor,
    at_once: usize,
) -> BTreeMap<&'static str, Deviation> {
    let cases = cases::all();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                    if let Err(deviation) = play(case, &front(), rigor) {
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .insert(case.id, deviation);
                    }
                }
            });
        }
    });
    failures.into_inner().unwrap_or_else(PoisonError::into_inner)
}
