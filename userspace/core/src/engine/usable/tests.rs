//! The backup rule, case by case.

use super::*;
use crate::{
    engine::fixture::pool,
    health::{Admin, State},
};

const UP: Word = Word {
    state: State::Up,
    admin: Admin::Ready,
};
const DRAIN: Word = Word {
    state: State::Up,
    admin: Admin::Drain,
};
const MAINT: Word = Word {
    state: State::Up,
    admin: Admin::Maint,
};
const DOWN: Word = Word {
    state: State::Down,
    admin: Admin::Ready,
};
const PROBATION: Word = Word {
    state: State::Probation,
    admin: Admin::Ready,
};
const PENDING: Word = Word::PENDING;

/// Backends as (weight, backup, word) → (weight, alive).
#[test]
fn cases() {
    type Row<'a> = (&'a str, &'a [(u16, bool, Word)], &'a [(u16, bool)]);
    let rows: &[Row<'_>] = &[
        (
            "all up",
            &[(1, false, UP), (7, false, UP)],
            &[(1, true), (7, true)],
        ),
        (
            "only up takes new",
            &[
                (5, false, PENDING),
                (5, false, DOWN),
                (5, false, PROBATION),
                (5, false, UP),
            ],
            &[(0, false), (0, false), (0, false), (5, true)],
        ),
        (
            "drain keeps, maint does not",
            &[(5, false, DRAIN), (5, false, MAINT)],
            &[(0, true), (0, false)],
        ),
        (
            "weight 0 keeps",
            &[(0, false, UP), (3, false, UP)],
            &[(0, true), (3, true)],
        ),
        (
            "backups rest",
            &[(1, false, UP), (9, true, UP)],
            &[(1, true), (0, true)],
        ),
        (
            "one primary is enough",
            &[(1, false, DOWN), (1, false, UP), (9, true, UP)],
            &[(0, false), (1, true), (0, true)],
        ),
        (
            "backups step in, all of them",
            &[(1, false, DOWN), (9, true, UP), (4, true, UP)],
            &[(0, false), (9, true), (4, true)],
        ),
        (
            "for primaries that drain",
            &[(1, false, DRAIN), (9, true, UP)],
            &[(0, true), (9, true)],
        ),
        (
            "for primaries that are pending",
            &[(1, false, PENDING), (9, true, UP)],
            &[(0, false), (9, true)],
        ),
        (
            "for primaries of weight 0",
            &[(0, false, UP), (9, true, UP)],
            &[(0, true), (9, true)],
        ),
        (
            "if they are up themselves",
            &[(1, false, DOWN), (9, true, DOWN), (2, true, DRAIN)],
            &[(0, false), (0, false), (0, true)],
        ),
        (
            "nothing but backups",
            &[(1, true, UP), (1, true, DOWN)],
            &[(1, true), (0, false)],
        ),
        ("all down", &[(1, false, DOWN)], &[(0, false)]),
    ];
    for (what, backends, expected) in rows {
        let mut pool = pool("p", backends.len(), None);
        for (backend, &(weight, backup, _)) in pool.backends.iter_mut().zip(*backends) {
            (backend.weight, backend.backup) = (weight, backup);
        }
        let words: Vec<_> = backends.iter().map(|b| b.2).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|&(weight, alive)| Usable { weight, alive })
            .collect();
        assert_eq!(usable(&pool, &words), expected, "{what}");
    }
}

#[test]
fn missing_words_count_as_pending_and_surplus_ones_not_at_all() {
    let pool = pool("p", 2, None);
    let (used, unused) = (
        Usable {
            weight: 1,
            alive: true,
        },
        Usable {
            weight: 0,
            alive: false,
        },
    );
    assert_eq!(usable(&pool, &[UP]), [used, unused]);
    assert_eq!(usable(&pool, &[]), [unused, unused]);
    assert_eq!(usable(&pool, &[UP, UP, UP]), [used, used]);
}
