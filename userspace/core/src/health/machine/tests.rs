//! The machine, as a table of every state and event, and as runs of results.

use super::*;

const P: Event = Event::Passed;
const F: Event = Event::Failed;
const U: Event = Event::Unchecked;

/// With `rise = 3, fall = 2`: state, run before (positive: successes, negative: failures), event, state after, run after.
const TABLE: &[(State, i32, Event, State, i32)] = &[
    (State::Pending, 0, P, State::Pending, 1),
    (State::Pending, 1, P, State::Pending, 2),
    (State::Pending, 2, P, State::Up, 3),
    (State::Pending, -1, P, State::Pending, 1),
    (State::Pending, 0, F, State::Pending, -1),
    (State::Pending, 2, F, State::Pending, -1),
    (State::Pending, -1, F, State::Down, -2),
    (State::Pending, 0, U, State::Up, 0),
    (State::Pending, -1, U, State::Up, 0),
    (State::Up, 0, P, State::Up, 1),
    (State::Up, 3, P, State::Up, 4),
    (State::Up, -1, P, State::Up, 1),
    (State::Up, 0, F, State::Up, -1),
    (State::Up, 9, F, State::Up, -1),
    (State::Up, -1, F, State::Down, -2),
    (State::Up, -1, U, State::Up, 0),
    (State::Down, -2, P, State::Probation, 1),
    (State::Down, 0, P, State::Probation, 1),
    (State::Down, 2, P, State::Up, 3),
    (State::Down, -2, F, State::Down, -3),
    (State::Down, 0, F, State::Down, -1),
    (State::Down, -2, U, State::Up, 0),
    (State::Probation, 1, P, State::Probation, 2),
    (State::Probation, 2, P, State::Up, 3),
    (State::Probation, 0, P, State::Probation, 1),
    (State::Probation, 1, F, State::Down, -1),
    (State::Probation, 0, F, State::Down, -1),
    (State::Probation, 1, U, State::Up, 0),
];

fn machine(state: State, run: i32) -> Machine {
    Machine {
        state,
        successes: run.max(0).unsigned_abs(),
        failures: run.min(0).unsigned_abs(),
    }
}

#[test]
fn every_pair_does_what_the_table_says() {
    let thresholds = Thresholds { rise: 3, fall: 2 };
    for &(state, run, event, next, next_run) in TABLE {
        let mut it = machine(state, run);
        let changed = it.handle(event, thresholds);
        let row = format!("{state} with a run of {run}, {event:?}");
        assert_eq!(it, machine(next, next_run), "{row}");
        assert_eq!(changed, (state != next).then_some(state), "{row}");
    }
}

#[test]
fn the_table_has_every_pair() {
    for state in State::ALL {
        for event in Event::ALL {
            assert!(
                TABLE.iter().any(|row| (row.0, row.2) == (state, event)),
                "{state} × {event:?} is missing"
            );
        }
    }
}

/// Results from a fresh machine on; the state after each.
fn run(thresholds: Thresholds, results: &str) -> Vec<&'static str> {
    let mut it = Machine::new(State::Pending);
    let mut step = |result| {
        it.handle(if result == '+' { P } else { F }, thresholds);
        it.state().as_str()
    };
    results.chars().map(&mut step).collect()
}

#[test]
fn runs_of_results() {
    for (rise, fall, results, states) in [
        (1, 1, "+-+", "up down up"),
        (2, 2, "++--++", "pending up up down probation up"),
        // Mixed results never add up.
        (2, 2, "+-+-", "pending pending pending pending"),
        (2, 2, "++-+-+-", "pending up up up up up up"),
        (2, 3, "---+-+", "pending pending down probation down probation"),
        // The success that leaves DOWN counts towards `rise`.
        (3, 1, "-+++", "down probation probation up"),
        (1, 2, "--+", "pending down up"),
    ] {
        let found = run(Thresholds { rise, fall }, results).join(" ");
        assert_eq!(found, states, "rise {rise}, fall {fall}: {results}");
    }
}

#[test]
fn long_runs_do_not_overflow() {
    let mut it = Machine {
        state: State::Up,
        successes: u32::MAX,
        failures: 0,
    };
    assert_eq!(it.handle(P, Thresholds { rise: 1, fall: 1 }), None);
    let mut it = Machine {
        state: State::Down,
        successes: 0,
        failures: u32::MAX,
    };
    assert_eq!(it.handle(F, Thresholds { rise: 1, fall: 1 }), None);
}

#[test]
fn forgetting_the_run_keeps_the_state() {
    let mut it = machine(State::Probation, 1);
    it.forget_run();
    assert_eq!(it, machine(State::Probation, 0));
    it.handle(P, Thresholds { rise: 2, fall: 2 });
    assert_eq!(
        it,
        machine(State::Probation, 1),
        "what another check said does not count"
    );
}

#[test]
fn causes_have_words_and_texts() {
    for (cause, word, text) in [
        (Cause::Added, "added", "new, not checked yet"),
        (Cause::Unchecked, "unchecked", "no check configured"),
        (Cause::Passed, "passed", "check passed"),
        (Cause::Failed(Failure::Status(503)), "status", "status 503"),
        (Cause::Operator, "operator", "set by the operator"),
        (Cause::Restored("check passed".into()), "restored", "check passed"),
    ] {
        assert_eq!((cause.word(), cause.to_string().as_str()), (word, text));
    }
}
