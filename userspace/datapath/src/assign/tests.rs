//! Numbers and the state file: who gets which number, and what survives a restart.

use super::*;

fn numbers_of(names: &[&str]) -> Numbers<String> {
    let mut numbers = Numbers::starting_at(1);
    for name in names {
        numbers.give(&(*name).to_owned(), 100, 0, 60);
    }
    numbers
}

fn name(text: &str) -> String {
    text.to_owned()
}

#[test]
fn a_name_keeps_its_number() {
    let mut numbers = numbers_of(&["a", "b", "c"]);
    assert_eq!(
        numbers.give(&name("b"), 100, 5, 60),
        Some(Given {
            number: 2,
            reused: false
        })
    );
    assert_eq!(numbers.live().map(|(_, n)| n).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_name_that_comes_back_gets_its_number_back_at_once() {
    let mut numbers = numbers_of(&["a", "b"]);
    numbers.rest(10, |n| n == "b");
    assert_eq!(numbers.get(&name("a")), None);
    assert_eq!(numbers.all().count(), 2);
    assert_eq!(
        numbers.give(&name("c"), 100, 11, 60),
        Some(Given {
            number: 3,
            reused: false
        })
    );
    assert_eq!(
        numbers.give(&name("a"), 100, 12, 60),
        Some(Given {
            number: 1,
            reused: false
        })
    );
}

#[test]
fn fresh_numbers_go_first_and_rested_ones_only_after_the_horizon() {
    let mut numbers = numbers_of(&["a", "b"]);
    numbers.rest(10, |n| n == "b");
    numbers.rest(20, |_| false);
    // One fresh number is left below 4; then the one that rested longest, once it has rested long enough.
    assert_eq!(
        numbers.give(&name("c"), 4, 1000, 60),
        Some(Given {
            number: 3,
            reused: false
        })
    );
    assert_eq!(numbers.give(&name("d"), 4, 70, 60), None);
    assert_eq!(
        numbers.give(&name("d"), 4, 71, 60),
        Some(Given {
            number: 1,
            reused: true
        })
    );
    assert_eq!(numbers.give(&name("e"), 4, 80, 60), None);
    assert_eq!(
        numbers.give(&name("e"), 4, 81, 60),
        Some(Given {
            number: 2,
            reused: true
        })
    );
    assert_eq!(numbers.give(&name("f"), 4, 9999, 60), None, "all are in use");
    // Whose number went to somebody else gets another.
    numbers.rest(100, |n| n != "c");
    assert_eq!(
        numbers.give(&name("a"), 4, 161, 60),
        Some(Given {
            number: 3,
            reused: true
        })
    );
}

fn backend(text: &str) -> BackendKey {
    let (pool, address) = text.split_once('/').unwrap();
    BackendKey {
        pool: PoolName::new(pool),
        address: address.parse().unwrap(),
    }
}

fn sample() -> Assignment {
    let mut assignment = Assignment::default();
    for service in ["www", "dns", "old"] {
        assignment.services.give(&ServiceName::new(service), 100, 0, 60);
    }
    for text in ["web/10.0.0.1:80", "web/[2001:db8::1]:80", "old/10.0.0.9:0"] {
        assignment.backends.give(&backend(text), 100, 0, 60);
    }
    assignment.services.rest(7, |name| name.as_str() != "old");
    assignment.backends.rest(8, |key| key.pool.as_str() != "old");
    assignment
}

#[test]
fn the_state_file_gives_back_what_was_stored() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(load(dir.path()).unwrap(), None);
    store(dir.path(), &sample()).unwrap();
    assert_eq!(load(dir.path()).unwrap(), Some(sample()));
    let files: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(files, ["assignment.json"], "no half-written file is left");
    remove(dir.path()).unwrap();
    remove(dir.path()).unwrap();
    assert_eq!(load(dir.path()).unwrap(), None);
}

#[test]
fn a_state_file_that_makes_no_sense_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    store(dir.path(), &sample()).unwrap();
    let good = fs::read_to_string(file(dir.path())).unwrap();
    let cases = [
        ("\"index\": 2", "\"index\": 1", "a number twice"),
        ("\"index\": 2", "\"index\": 0", "below the first"),
        ("\"index\": 2", "\"index\": 4", "never given"),
        ("\"name\": \"dns\"", "\"name\": \"www\"", "a name twice"),
        ("\"services\"", "\"service\"", "an unknown key"),
        ("{", "", "no JSON"),
    ];
    for (from, to, why) in cases {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good, "{why}");
        fs::write(file(dir.path()), bad).unwrap();
        assert!(load(dir.path()).is_err(), "{why}");
    }
    // Numbers of another layout mean nothing: that is no error.
    fs::write(file(dir.path()), good.replace(&abi(), "0000000000000000")).unwrap();
    assert_eq!(load(dir.path()).unwrap(), None);
}
