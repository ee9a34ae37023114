//! No reason and no note without a test: whoever adds one adds a packet that it is counted for, in any file
//! beside this one or in a folder of it.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use weir_abi::{Note, Reason};

#[test]
fn every_reason_and_note_has_a_packet() -> Result<()> {
    let mut tests = String::new();
    read_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut tests)?;
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

/// Appends to `tests` every file of `dir` and of the folders in it.
fn read_all(dir: &Path, tests: &mut String) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            read_all(&path, tests)?;
        // What `agree` lists says only what its random packets reach.
        } else if !path.ends_with("coverage.rs") && !path.ends_with("agree.rs") {
            *tests += &fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}
