//! Tunables from files: sysctl.conf(5) syntax, `tunables.d/*.conf` in the order of their names.
//!
//! Owns the syntax and the directory. Types and ranges are `tunables.rs`.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Origin, SetError, Tunables};
use crate::{
    file::read_text,
    report::{Draft, Mistake, Report, place},
    words::quoted,
};

impl Tunables {
    /// Defaults, then every `*.conf` file of the directory. A directory that is not there is an empty one.
    ///
    /// # Errors
    /// All mistakes of all files.
    pub fn load_dir(dir: &Path) -> Result<Self, Report> {
        let mut tunables = Self::default();
        report(tunables.read_dir(dir))?;
        Ok(tunables)
    }

    /// Reads one file over the present values.
    ///
    /// # Errors
    /// All mistakes of the file. The lines without mistake are applied none the less.
    pub fn load_file(&mut self, path: &Path) -> Result<(), Report> {
        report(self.read_file(path))
    }

    /// Reads one text over the present values: see sysctl.conf(5). A value set by a line prefixed with `-` is skipped
    /// silently when it can't be set.
    ///
    /// # Errors
    /// All mistakes of the text. The lines without mistake are applied none the less.
    pub fn load_text(&mut self, file: &str, text: &str) -> Result<(), Report> {
        report(self.read_text(file, text))
    }

    pub(crate) fn read_dir(&mut self, dir: &Path) -> Vec<Mistake> {
        let unreadable = |error: &std::io::Error| Mistake {
            file: dir.to_string_lossy().into(),
            place: None,
            what: format!("cannot be read: {error}"),
            mend: "make it readable for weir, or remove it".into(),
        };
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
            Err(error) => return vec![unreadable(&error)],
        };
        let mut mistakes = Vec::new();
        let mut files: Vec<PathBuf> = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => files.push(entry.path()),
                Err(error) => mistakes.push(unreadable(&error)),
            }
        }
        files.retain(|path| path.extension().is_some_and(|e| e == "conf"));
        files.sort();
        mistakes.extend(files.iter().flat_map(|path| self.read_file(path)).collect::<Vec<_>>());
        mistakes
    }

    fn read_file(&mut self, path: &Path) -> Vec<Mistake> {
        match read_text(path) {
            Ok(text) => self.read_text(&path.to_string_lossy(), &text),
            Err(mistake) => vec![*mistake],
        }
    }

    fn read_text(&mut self, file: &str, text: &str) -> Vec<Mistake> {
        let file: Arc<str> = file.into();
        let mut drafts = Vec::new();
        let mut start = 0;
        for (index, raw) in text.split('\n').enumerate() {
            let at = start + (raw.len() - raw.trim_start().len());
            start += raw.len() + 1;
            let line = raw.trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            let (lenient, assignment) = match line.strip_prefix('-') {
                Some(rest) => (true, rest.trim_start()),
                None => (false, line),
            };
            let Some((name, value)) = assignment.split_once('=') else {
                drafts.push(Draft {
                    at,
                    what: format!("{} is no `name = value`", quoted(line)),
                    mend: "write a tunable's name, =, and its value, or begin the line with #".into(),
                });
                continue;
            };
            let origin = Origin::File { file: file.clone(), line: index + 1 };
            if let Err(SetError { what, mend }) = self.set(name.trim(), value.trim(), origin)
                && !lenient
            {
                drafts.push(Draft { at, what, mend });
            }
        }
        place(&file, text, drafts)
    }
}

fn report(mistakes: Vec<Mistake>) -> Result<(), Report> {
    if mistakes.is_empty() { Ok(()) } else { Err(Report::new(mistakes)) }
}
