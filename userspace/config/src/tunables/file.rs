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
        mistakes.extend(
            files
                .iter()
                .flat_map(|path| self.read_file(path))
                .collect::<Vec<_>>(),
        );
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
        for line in lines(text) {
            match line.assignment {
                None => drafts.push(no_assignment(&line)),
                Some((name, value)) => {
                    let origin = Origin::File {
                        file: file.clone(),
                        line: line.number,
                    };
                    if let Err(SetError { what, mend }) = self.set(name, value, origin)
                        && !line.lenient
                    {
                        drafts.push(Draft {
                            at: line.at,
                            what,
                            mend,
                        });
                    }
                }
            }
        }
        place(&file, text, drafts)
    }
}

/// The `(name, value)` pairs of a text in sysctl.conf(5) syntax, in order, all of them good.
///
/// # Errors
/// All mistakes of the text.
pub fn assignments(file: &str, text: &str) -> Result<Vec<(String, String)>, Report> {
    let mut tunables = Tunables::default();
    tunables.load_text(file, text)?;
    let good = |line: Line<'_>| {
        let (name, value) = line.assignment?;
        // What a lenient line could not set is skipped.
        tunables.set(name, value, Origin::Runtime).ok()?;
        Some((name.to_owned(), value.to_owned()))
    };
    Ok(lines(text).filter_map(good).collect())
}

/// A line that is neither blank nor a comment.
struct Line<'t> {
    /// From 1.
    number: usize,
    /// Where its first character stands.
    at: usize,
    text: &'t str,
    /// Prefixed with `-`: what can't be set is skipped.
    lenient: bool,
    /// Name and value. None: there is no `=`.
    assignment: Option<(&'t str, &'t str)>,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    let mut start = 0;
    text.split('\n').enumerate().filter_map(move |(index, raw)| {
        let at = start + (raw.len() - raw.trim_start().len());
        start += raw.len() + 1;
        let text = raw.trim();
        if text.is_empty() || text.starts_with(['#', ';']) {
            return None;
        }
        let lenient = text.strip_prefix('-');
        let assignment = lenient
            .unwrap_or(text)
            .split_once('=')
            .map(|(name, value)| (name.trim(), value.trim()));
        Some(Line {
            number: index + 1,
            at,
            text,
            lenient: lenient.is_some(),
            assignment,
        })
    })
}

fn no_assignment(line: &Line<'_>) -> Draft {
    Draft {
        at: line.at,
        what: format!("{} is no `name = value`", quoted(line.text)),
        mend: "write a tunable's name, =, and its value, or begin the line with #".into(),
    }
}

fn report(mistakes: Vec<Mistake>) -> Result<(), Report> {
    if mistakes.is_empty() {
        Ok(())
    } else {
        Err(Report::new(mistakes))
    }
}
