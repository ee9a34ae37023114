//! The transitions: what a state becomes by an event, and what is to be done.
//!
//! Owns the one table (RFC 9568 section 6.4, with what weir adds). What an advert is to the router, and what a reaction does
//! to timers and outputs, is [`super`]'s.

use std::fmt;

/// What a group of virtual routers is here. RFC 9568 calls them Initialize, Backup and Active.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// It does not take part: not started, stopped, or one of its links cannot be used.
    Init,
    /// Another box answers, or may; this one listens.
    Backup,
    /// This box answers.
    Master,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Init, Self::Backup, Self::Master];

    /// Its name in metrics, logs and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What happens to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Event {
    /// It may take part from now on.
    Ready,
    /// It may take part, and nobody may be master before it: it owns the addresses, or was master until now.
    Claim,
    /// It may no longer take part: a link is down, an address of its own is lost.
    Fault,
    /// It is to stop.
    Stop,
    /// An advert of one that is to be master, rather than this box.
    Better,
    /// An advert of one that is less than this box, but is left master by the preemption policy.
    Tolerated,
    /// An advert of one that is less than this box.
    Worse,
    /// An advert of one that is demoted more than this box.
    Demoted,
    /// An advert of a master that leaves.
    Leaving,
    /// The master has been silent on every link for as long as it takes.
    Due,
    /// This box slept: what it knows is old, and another may have taken over.
    Late,
}

impl Event {
    #[cfg(test)]
    pub(super) const ALL: [Self; 11] = [
        Self::Ready,
        Self::Claim,
        Self::Fault,
        Self::Stop,
        Self::Better,
        Self::Tolerated,
        Self::Worse,
        Self::Demoted,
        Self::Leaving,
        Self::Due,
        Self::Late,
    ];
}

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Reaction {
    /// Nothing.
    Nothing,
    /// Wait for a master on every link, from now on.
    Wait,
    /// The master lives: wait anew on its link.
    Follow,
    /// Wait no longer than the skew: whoever is the most preferred takes over first.
    Hurry,
    /// Listen for one more interval before anything is decided.
    Listen,
    /// Adverts, addresses, lease, announcements.
    Take,
    /// The lease is shut, adverts of priority 0 are sent, the addresses are given away; wait.
    Yield,
    /// The same, but what is under way is gone on with: another one answers already.
    HandOver,
    /// As [`Self::Yield`], without waiting.
    Leave,
    /// Adverts at once, and announcements: a rival is heard.
    Assert,
    /// An advert at once: others wait for who is the next master.
    Repeat,
}

/// The table.
///
/// ```text
///                ready                    due
///     ┌──────┐──────────▶┌────────┐──────────────▶┌────────┐
///     │ INIT │           │ BACKUP │               │ MASTER │
///     └──────┘◀──────────└────────┘◀──────────────└────────┘
///         │   fault, stop            better, late    │  ▲
///         │                                          │  │
///         │◀─────────────────────────────────────────┘  │
///         │                fault, stop                  │
///         └─────────────────────────────────────────────┘
///                            claim
/// ```
pub(super) const fn transition(state: State, event: Event) -> (State, Reaction) {
    match (state, event) {
        (State::Init, Event::Ready) => (State::Backup, Reaction::Wait),
        (State::Init, Event::Claim) => (State::Master, Reaction::Take),
        (State::Init, Event::Fault | Event::Stop) => (State::Init, Reaction::Nothing),
        (State::Init, Event::Better | Event::Tolerated | Event::Worse) => (State::Init, Reaction::Nothing),
        (State::Init, Event::Demoted | Event::Leaving) => (State::Init, Reaction::Nothing),
        (State::Init, Event::Due | Event::Late) => (State::Init, Reaction::Nothing),
        (State::Backup, Event::Ready | Event::Claim) => (State::Backup, Reaction::Nothing),
        (State::Backup, Event::Fault | Event::Stop) => (State::Init, Reaction::Nothing),
        (State::Backup, Event::Better | Event::Tolerated) => (State::Backup, Reaction::Follow),
        (State::Backup, Event::Worse) => (State::Backup, Reaction::Nothing),
        (State::Backup, Event::Demoted | Event::Leaving) => (State::Backup, Reaction::Hurry),
        (State::Backup, Event::Due) => (State::Master, Reaction::Take),
        (State::Backup, Event::Late) => (State::Backup, Reaction::Listen),
        (State::Master, Event::Ready | Event::Claim) => (State::Master, Reaction::Nothing),
        (State::Master, Event::Fault | Event::Stop) => (State::Init, Reaction::Leave),
        (State::Master, Event::Better) => (State::Backup, Reaction::HandOver),
        (State::Master, Event::Late) => (State::Backup, Reaction::Yield),
        (State::Master, Event::Tolerated | Event::Worse | Event::Demoted) => {
            (State::Master, Reaction::Assert)
        }
        (State::Master, Event::Leaving) => (State::Master, Reaction::Repeat),
        (State::Master, Event::Due) => (State::Master, Reaction::Nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::{Event as E, Reaction as R, State as S, *};

    const TABLE: &[(S, E, S, R)] = &[
        (S::Init, E::Ready, S::Backup, R::Wait),
        (S::Init, E::Claim, S::Master, R::Take),
        (S::Init, E::Fault, S::Init, R::Nothing),
        (S::Init, E::Stop, S::Init, R::Nothing),
        (S::Init, E::Better, S::Init, R::Nothing),
        (S::Init, E::Tolerated, S::Init, R::Nothing),
        (S::Init, E::Worse, S::Init, R::Nothing),
        (S::Init, E::Demoted, S::Init, R::Nothing),
        (S::Init, E::Leaving, S::Init, R::Nothing),
        (S::Init, E::Due, S::Init, R::Nothing),
        (S::Init, E::Late, S::Init, R::Nothing),
        (S::Backup, E::Ready, S::Backup, R::Nothing),
        (S::Backup, E::Claim, S::Backup, R::Nothing),
        (S::Backup, E::Fault, S::Init, R::Nothing),
        (S::Backup, E::Stop, S::Init, R::Nothing),
        (S::Backup, E::Better, S::Backup, R::Follow),
        (S::Backup, E::Tolerated, S::Backup, R::Follow),
        (S::Backup, E::Worse, S::Backup, R::Nothing),
        (S::Backup, E::Demoted, S::Backup, R::Hurry),
        (S::Backup, E::Leaving, S::Backup, R::Hurry),
        (S::Backup, E::Due, S::Master, R::Take),
        (S::Backup, E::Late, S::Backup, R::Listen),
        (S::Master, E::Ready, S::Master, R::Nothing),
        (S::Master, E::Claim, S::Master, R::Nothing),
        (S::Master, E::Fault, S::Init, R::Leave),
        (S::Master, E::Stop, S::Init, R::Leave),
        (S::Master, E::Better, S::Backup, R::HandOver),
        (S::Master, E::Tolerated, S::Master, R::Assert),
        (S::Master, E::Worse, S::Master, R::Assert),
        (S::Master, E::Demoted, S::Master, R::Assert),
        (S::Master, E::Leaving, S::Master, R::Repeat),
        (S::Master, E::Due, S::Master, R::Nothing),
        (S::Master, E::Late, S::Backup, R::Yield),
    ];

    #[test]
    fn every_pair_does_what_the_table_says() {
        for &(state, event, next, reaction) in TABLE {
            assert_eq!(transition(state, event), (next, reaction), "{state} × {event:?}");
        }
        for state in State::ALL {
            for event in Event::ALL {
                let rows = TABLE.iter().filter(|row| (row.0, row.1) == (state, event));
                assert_eq!(rows.count(), 1, "{state} × {event:?}");
            }
        }
    }

    /// Whoever stops being master gives everything away; whoever becomes it takes everything.
    #[test]
    fn nothing_is_taken_or_kept_by_the_way() {
        for state in State::ALL {
            for event in Event::ALL {
                let (next, reaction) = transition(state, event);
                let leaves = state == S::Master && next != S::Master;
                assert_eq!(
                    leaves,
                    matches!(reaction, R::Yield | R::HandOver | R::Leave),
                    "{state} × {event:?}"
                );
                let enters = state != S::Master && next == S::Master;
                assert_eq!(enters, reaction == R::Take, "{state} × {event:?}");
            }
        }
    }
}
