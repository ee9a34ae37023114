//! Replays the committed corpus of each fuzz target, and seeded mutations of it, on stable Rust.
//!
//! A panic is the failure; after it the input is printed as an escaped string, with the file it comes from.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use weir_abi::Reason;
use weir_fuzz::mutate::{Random, mutate};

/// Mutations of all inputs of a corpus together.
const MUTATIONS: usize = 4_000;

/// The committed inputs of a target: name and content, sorted.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let entries = fs::read_dir(&dir).expect("the corpus is committed").flatten();
    let read = |path: &Path| fs::read(path).expect("an input can be read");
    let mut inputs: Vec<_> = entries
        .map(|e| (e.path().display().to_string(), read(&e.path())))
        .collect();
    inputs.sort();
    assert!(
        inputs.len() >= 20,
        "{} has {} inputs: is it whole?",
        dir.display(),
        inputs.len()
    );
    inputs
}

fn replay(target: &str, check: fn(&[u8])) {
    let inputs = corpus(target);
    for (name, input) in &inputs {
        one(check, input, name);
    }
    let mut random = Random::new(0x7765_6972);
    for round in 0..MUTATIONS {
        let (name, input) = &inputs[round % inputs.len()];
        let (_, other) = &inputs[random.below(inputs.len())];
        let mutated = mutate(input, other, &mut random);
        one(check, &mutated, &format!("mutation {round} of {name}"));
    }
}

fn one(check: fn(&[u8]), input: &[u8], whence: &str) {
    if catch_unwind(AssertUnwindSafe(|| check(input))).is_err() {
        panic!("{whence} breaks it: b\"{}\"", input.escape_ascii());
    }
}

#[test]
fn packet() {
    replay("packet", weir_fuzz::packet::check);
}

/// What no packet brings about: the failure of a kernel helper, or a bug.
const ELSEWHERE: [Reason; 1] = [Reason::Internal];

/// A corpus that stops at the first check would find nothing behind it.
#[test]
fn packets_reach_every_reason() {
    let reached = corpus("packet")
        .iter()
        .map(|(_, frame)| weir_fuzz::packet::reason(frame).name())
        .collect();
    let expected: BTreeSet<_> = Reason::ALL
        .iter()
        .filter(|r| !ELSEWHERE.contains(r))
        .map(|r| r.name())
        .collect();
    assert_eq!(
        expected.difference(&reached).collect::<Vec<_>>(),
        [&""; 0],
        "no input reaches these"
    );
}

#[test]
fn http_head() {
    replay("http_head", weir_fuzz::http_head::check);
}

#[test]
fn http2_front() {
    replay("http2_front", weir_fuzz::http2_front::check);
}

/// As `packets_reach_every_reason`: most of the corpus is what gets through.
#[test]
fn requests_of_http2_reach_a_backend() {
    let passed: Vec<_> = corpus("http2_front")
        .into_iter()
        .filter(|(_, input)| weir_fuzz::http2_front::passed(input) > 0)
        .map(|(name, _)| name)
        .collect();
    assert!(passed.len() >= 25, "{passed:#?}");
}

#[test]
fn first_bytes() {
    replay("first_bytes", weir_fuzz::first_bytes::check);
}

/// As `packets_reach_every_reason`: every judgement on a PROXY header and on a ClientHello is met.
#[test]
fn first_bytes_reach_every_judgement() {
    let inputs = corpus("first_bytes");
    let reached: BTreeSet<_> = inputs
        .iter()
        .flat_map(|(_, input)| weir_fuzz::first_bytes::reached(input))
        .collect();
    let headers = weir_core::proxy::Malformed::ALL.map(|one| one.as_str());
    let hellos = weir_relay::hello::NoHello::ALL.map(|one| one.as_str());
    let whole = ["v1", "v2", "hello", "partial header", "partial hello"];
    let expected = headers
        .into_iter()
        .chain(hellos)
        .chain(whole)
        .collect::<BTreeSet<_>>();
    assert_eq!(
        expected.difference(&reached).collect::<Vec<_>>(),
        [&""; 0],
        "no input reaches these"
    );
}

#[test]
fn config() {
    replay("config", weir_fuzz::config::check);
}

#[test]
fn vrrp() {
    replay("vrrp", weir_fuzz::vrrp::check);
}

/// As `packets_reach_every_reason`. What depends on the window or on who else is configured is told elsewhere.
#[test]
fn adverts_reach_every_judgement() {
    let elsewhere = ["unknown-vrid", "replayed", "unsigned"];
    let inputs = corpus("vrrp");
    let reached: BTreeSet<_> = inputs
        .iter()
        .map(|(_, input)| weir_fuzz::vrrp::reached(input))
        .collect();
    let refused = weir_core::vrrp::accept::Refused::all().map(|one| one.name());
    let expected = refused
        .filter(|name| !elsewhere.contains(name))
        .chain(["v2", "v3"])
        .collect::<BTreeSet<_>>();
    assert_eq!(
        expected.difference(&reached).collect::<Vec<_>>(),
        [&""; 0],
        "no input reaches these"
    );
}

#[test]
fn sync() {
    replay("sync", weir_fuzz::sync::check);
}

/// As `packets_reach_every_reason`. What depends on who is a peer and what was heard before is told elsewhere.
#[test]
fn what_boxes_tell_reaches_every_kind() {
    let inputs = corpus("sync");
    let reached: BTreeSet<_> = inputs
        .iter()
        .map(|(_, input)| weir_fuzz::sync::reached(input))
        .collect();
    let expected = BTreeSet::from(["hello", "entries", "ask", "chunk", "malformed", "unknown-key"]);
    assert_eq!(
        expected.difference(&reached).collect::<Vec<_>>(),
        [&""; 0],
        "no input reaches these"
    );
}
