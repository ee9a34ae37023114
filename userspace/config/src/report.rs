//! Located mistakes: what is wrong, where, and the mend.
//!
//! Owns how a mistake is counted (line, column), ordered and printed. Never decides what a mistake is: the readers do.

use std::{fmt, sync::Arc};

/// Everything that is wrong with a configuration, in file order. Never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    mistakes: Vec<Mistake>,
}

/// One mistake. Printed as `file:line:column: what; mend`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Where in the file. None when the file as a whole is meant (it can't be read).
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

/// A place in a text, both counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

impl From<Vec<Mistake>> for Report {
    /// Of at least one mistake.
    fn from(mistakes: Vec<Mistake>) -> Self {
        Self::new(mistakes)
    }
}

impl Report {
    /// The mistakes, in file order.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// Of at least one mistake.
    pub(crate) const fn new(mistakes: Vec<Mistake>) -> Self {
        Self { mistakes }
    }
}

impl fmt::Display for Report {
    /// One line per mistake, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.mistakes.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}; {}", self.what, self.mend)
    }
}

/// A mistake before its byte offset was turned into line and column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Draft {
    pub(crate) at: usize,
    pub(crate) what: String,
    pub(crate) mend: String,
}

/// Places the drafts in the text: sorted by offset, equal ones once. Linear in the text, however many there are.
pub(crate) fn place(file: &Arc<str>, text: &str, mut drafts: Vec<Draft>) -> Vec<Mistake> {
    drafts.sort_by_key(|d| d.at); // stable: at one place, in the order found
    drafts.dedup();
    let mut chars = text.char_indices().peekable();
    let (mut line, mut column) = (1, 1);
    let mut mistakes = Vec::with_capacity(drafts.len());
    for Draft { at, what, mend } in drafts {
        while let Some((_, c)) = chars.next_if(|&(i, _)| i < at) {
            if c == '\n' {
                line += 1;
                column = 1;
            } else {
                column += 1;
            }
        }
        mistakes.push(Mistake {
            file: file.clone(),
            place: Some(Place { line, column }),
            what,
            mend,
        });
    }
    mistakes
}

/// Offsets at which lines begin, to name another line inside a message.
#[derive(Debug)]
pub(crate) struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    pub(crate) fn of(text: &str) -> Self {
        let after_newline = text
            .bytes()
            .enumerate()
            .filter(|&(_, b)| b == b'\n')
            .map(|(i, _)| i + 1);
        Self {
            starts: std::iter::once(0).chain(after_newline).collect(),
        }
    }

    /// The line that the offset lies in, from 1.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|&start| start <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(at: usize, what: &str) -> Draft {
        Draft {
            at,
            what: what.into(),
            mend: "mend".into(),
        }
    }

    #[test]
    fn places_are_counted_in_lines_and_characters() {
        let text = "ä = 1\r\nöö = 2\n\nx";
        let at = |needle: &str| text.find(needle).unwrap();
        let drafts = vec![
            draft(text.len(), "end"),
            draft(at("2"), "two"),
            draft(0, "start"),
            draft(at("x"), "x"),
        ];
        let lines: Vec<_> = place(&"f".into(), text, drafts)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            lines,
            [
                "f:1:1: start; mend",
                "f:2:6: two; mend",
                "f:4:1: x; mend",
                "f:4:2: end; mend"
            ]
        );
        let lines = Lines::of(text);
        assert_eq!(
            (
                lines.line(0),
                lines.line(at("2")),
                lines.line(at("x")),
                lines.line(text.len())
            ),
            (1, 2, 4, 4)
        );
    }

    #[test]
    fn what_was_found_twice_is_said_once() {
        let drafts = vec![draft(3, "a"), draft(3, "b"), draft(3, "b")];
        let found = place(&"f".into(), "abcdef", drafts);
        assert_eq!(
            found.iter().map(|m| m.what.as_str()).collect::<Vec<_>>(),
            ["a", "b"]
        );
    }

    #[test]
    fn an_offset_past_the_end_is_the_end() {
        assert_eq!(
            place(&"f".into(), "ab", vec![draft(99, "a")])[0].place,
            Some(Place { line: 1, column: 3 })
        );
    }
}
