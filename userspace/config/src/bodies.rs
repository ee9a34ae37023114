//! Bodies of responses that stand in files of their own.
//!
//! Owns what is handed on with the configuration of them. Which rule names which file is `services/rules.rs`'s; whoever
//! loads reads them, so that every process answers with the same text.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{file, report::Draft, words};

/// Longest file, in bytes.
const LONGEST: usize = 1 << 20;

/// The texts of the files that rules answer with, by path. One that is not here was not read, and counts as empty.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Bodies(BTreeMap<PathBuf, String>);

impl Bodies {
    pub(crate) fn get(&self, path: &Path) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The mistake of the key that names it.
    pub(crate) fn read(&mut self, named: &BodyFile) -> Result<(), Draft> {
        let trouble = |what: String, mend: &str| Draft {
            at: named.at,
            what: format!("{} names {}, which {what}", named.key, shown(&named.path)),
            mend: mend.into(),
        };
        if self.0.contains_key(&named.path) {
            return Ok(());
        }
        match file::read_text(&named.path) {
            Ok(text) if text.len() > LONGEST => {
                Err(trouble("is larger than 1 MiB".into(), "have a backend serve it"))
            }
            Ok(text) => {
                self.0.insert(named.path.clone(), text);
                Ok(())
            }
            Err(mistake) if mistake.place.is_some() => {
                Err(trouble("is not UTF-8".into(), "name a text in UTF-8"))
            }
            Err(mistake) => Err(trouble(mistake.what, "name a file that weir may read")),
        }
    }
}

/// A file that a rule names.
#[derive(Clone, Debug)]
pub(crate) struct BodyFile {
    pub(crate) path: PathBuf,
    /// Where its key's value stands.
    pub(crate) at: usize,
    /// The key's name, for messages.
    pub(crate) key: String,
}

fn shown(path: &Path) -> String {
    words::plain(&path.to_string_lossy())
}
