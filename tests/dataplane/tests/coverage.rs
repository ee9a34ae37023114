//! No reason and no note without a test: whoever adds one adds a packet that it is counted for, in any file beside this one.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use weir_abi::{Note, Reason};

#[test]
fn every_reason_and_note_has_a_packet() -> Result<()> {
    let mut tests = String::new();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        // What `agree` lists says only what its random packets reach.
        if path.ends_with("coverage.rs") || path.ends_with("agree.rs") {
            continue;
        }
        tests += &fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    }
    let named = |name: &str| {
        tests
            .match_indices(name)
            .any(|(at, _)| !tests[at + name.len()..].starts_with(|c: char| c.is_alphanumeric()))
    };
    let reasons = Reason::ALL.iter().map(|reason| format!("Reason::{reason:?}"));
    let notes = Note::ALL.iter().map(|note| format!("Note::{note:?}"));
    let mut missing = Vec::new();
    for name in reasons.chain(notes) {
        if !named(&name) {
            missing.push(name);
        }
    }
    ensure!(missing.is_empty(), "no packet for {missing:?}");
    Ok(())
}
