//! A typed reader over the TOML document that keeps every place and reports every mistake.
//!
//! Owns the words for what goes wrong with keys and types in general: unknown keys, wrong types, values out of range.
//! Serde's derive would stop at the first mistake and lose the place of what it has read. What a key means belongs to
//! the section that reads it (`node.rs`, `pools.rs`, `services.rs`).

use std::{ops::RangeInclusive, time::Duration};

use toml::de::{DeTable, DeValue};

use crate::{
    keys::{self, Section},
    report::{Draft, Lines},
    units::{Trouble, parse_duration, parse_size, show_duration, show_size},
    words::{Guesser, listed, plain, quoted},
};

/// What the reading of one text gathers.
#[derive(Debug)]
pub(crate) struct Cx {
    drafts: Vec<Draft>,
    lines: Lines,
    guesser: Guesser,
    /// Whether the service that is being read ends TLS.
    pub(crate) ends_tls: bool,
    /// Whether it asks its clients for certificates.
    pub(crate) asks_clients: bool,
}

impl Cx {
    pub(crate) fn new(text: &str) -> Self {
        Self {
            drafts: Vec::new(),
            lines: Lines::of(text),
            guesser: Guesser::new(),
            ends_tls: false,
            asks_clients: false,
        }
    }

    /// Notes a mistake at a byte offset.
    pub(crate) fn mistake(&mut self, at: usize, what: impl Into<String>, mend: impl Into<String>) {
        self.drafts.push(Draft {
            at,
            what: what.into(),
            mend: mend.into(),
        });
    }

    /// The line, from 1, of a byte offset: for messages that point at a second place.
    pub(crate) fn line(&self, at: usize) -> usize {
        self.lines.line(at)
    }

    pub(crate) fn guess<'c>(
        &mut self,
        word: &str,
        known: impl IntoIterator<Item = &'c str>,
    ) -> Option<&'c str> {
        self.guesser.guess(word, known)
    }

    pub(crate) fn into_drafts(self) -> Vec<Draft> {
        self.drafts
    }
}

/// A table whose keys were checked against its section's.
#[derive(Debug)]
pub(crate) struct Table<'d> {
    /// Dotted path, as in `pools.web.check`. Empty for the document.
    pub(crate) path: String,
    /// Where it begins.
    pub(crate) at: usize,
    table: &'d DeTable<'d>,
    /// Keys that an unknown key was taken for: they count as written, and wrong.
    meant: Vec<&'static str>,
}

/// A value with its place and the name it has in messages.
#[derive(Clone, Debug)]
pub(crate) struct Value<'d> {
    /// Dotted path, as in `pools.web.check.interval`.
    pub(crate) path: String,
    /// Where its key stands.
    pub(crate) key_at: usize,
    /// Where it begins.
    pub(crate) at: usize,
    value: &'d DeValue<'d>,
}

impl<'d> Table<'d> {
    /// The document itself.
    pub(crate) fn document(cx: &mut Cx, table: &'d DeTable<'d>) -> Self {
        let mut document = Self {
            path: String::new(),
            at: 0,
            table,
            meant: Vec::new(),
        };
        document.refuse_unknown(cx, &keys::DOCUMENT);
        document
    }

    pub(crate) fn get(&self, key: &str) -> Option<Value<'d>> {
        let (key, value) = self.table.get_key_value(key)?;
        Some(self.value(
            key.get_ref(),
            key.span().start,
            value.span().start,
            value.get_ref(),
        ))
    }

    /// All entries in file order, for tables whose keys are names.
    pub(crate) fn entries(&self) -> Vec<(&'d str, Value<'d>)> {
        let mut entries: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let name: &'d str = key.get_ref();
                (
                    name,
                    self.value(name, key.span().start, value.span().start, value.get_ref()),
                )
            })
            .collect();
        entries.sort_by_key(|(_, value)| value.key_at);
        entries
    }

    /// The value of a key that must be there.
    pub(crate) fn require(&self, cx: &mut Cx, key: &str, mend: &str) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() && !self.meant(key) {
            cx.mistake(self.at, format!("[{}] has no `{key}`", self.path), mend);
        }
        value
    }

    /// Whether an unknown key was taken for this one: it is then neither there nor missing.
    pub(crate) fn meant(&self, key: &str) -> bool {
        self.meant.contains(&key)
    }

    /// Refuses keys that do not apply here, each with the reason.
    pub(crate) fn refuse(&self, cx: &mut Cx, keys: &[&str], why: &str, mend: &str) {
        for key in keys {
            if let Some(value) = self.get(key) {
                cx.mistake(value.key_at, format!("{} {why}", value.path), mend);
            }
        }
    }

    fn value(&self, name: &str, key_at: usize, at: usize, value: &'d DeValue<'d>) -> Value<'d> {
        // Shortened like all foreign text: paths are copied into every value below.
        let name = if is_bare(name) {
            plain(name)
        } else {
            format!("\"{}\"", plain(name))
        };
        let path = if self.path.is_empty() {
            name
        } else {
            format!("{}.{name}", self.path)
        };
        Value {
            path,
            key_at,
            at,
            value,
        }
    }

    fn refuse_unknown(&mut self, cx: &mut Cx, section: &'static Section) {
        for (key, value) in self.table.iter() {
            let name: &str = key.get_ref();
            if section.keys.contains(&name) {
                continue;
            }
            let at = key.span().start;
            if let Some((_, has)) = section.later.iter().find(|(later, _)| *later == name) {
                cx.mistake(
                    at,
                    format!("this version has no {} {}", quoted(name), self.inside()),
                    *has,
                );
                continue;
            }
            let noun = if value.get_ref().is_table() && self.path.is_empty() {
                "section"
            } else {
                "key"
            };
            // What is no table is no slip for a section: all that stands at the top are sections.
            let outside = self.path.is_empty() && noun == "key";
            let elsewhere = keys::elsewhere(section, name).filter(|_| outside);
            let guess = match elsewhere {
                Some(_) => None,
                None => cx.guess(name, section.keys.iter().copied()),
            };
            let mend = match guess {
                Some(near) => {
                    self.meant.push(near);
                    format!("did you mean `{near}`?")
                }
                None => match keys::elsewhere(section, name) {
                    Some(other) => format!("`{name}` belongs in {other}"),
                    None => format!("it has {}", listed(section.keys, "and")),
                },
            };
            cx.mistake(
                at,
                format!("unknown {noun} {} {}", quoted(name), self.inside()),
                mend,
            );
        }
    }

    fn inside(&self) -> String {
        match self.path.as_str() {
            "" => "at the top of the file".into(),
            path => format!("in [{path}]"),
        }
    }
}

impl<'d> Value<'d> {
    /// Notes a mistake with this value.
    pub(crate) fn mistake(&self, cx: &mut Cx, what: impl AsRef<str>, mend: impl Into<String>) {
        cx.mistake(self.at, format!("{} {}", self.path, what.as_ref()), mend);
    }

    /// Notes a trouble found in this value.
    pub(crate) fn trouble(&self, cx: &mut Cx, trouble: Trouble) {
        self.mistake(cx, trouble.what, trouble.mend);
    }

    /// A table of a section, its keys checked.
    pub(crate) fn table(&self, cx: &mut Cx, section: &'static Section) -> Option<Table<'d>> {
        let mut table = self.names(cx)?;
        table.refuse_unknown(cx, section);
        Some(table)
    }

    /// A table whose keys are names that the caller checks.
    pub(crate) fn names(&self, cx: &mut Cx) -> Option<Table<'d>> {
        match self.value.as_table() {
            Some(table) => Some(Table {
                path: self.path.clone(),
                at: self.at,
                table,
                meant: Vec::new(),
            }),
            None => {
                self.wrong_type(
                    cx,
                    "a table",
                    "write it as [section] with keys, or as { key = value }",
                );
                None
            }
        }
    }

    pub(crate) fn string(&self, cx: &mut Cx) -> Option<&'d str> {
        let string = self.value.as_str();
        if string.is_none() {
            self.wrong_type(cx, "a string", "put it in double quotes");
        }
        string
    }

    /// The string if it is one; for keys that take more than one type.
    pub(crate) fn as_string(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// A key of a table, for those that look only where it stands. None if this is no table, or has no such key.
    pub(crate) fn peek(&self, key: &str) -> Option<Self> {
        let table = Table {
            path: self.path.clone(),
            at: self.at,
            table: self.value.as_table()?,
            meant: Vec::new(),
        };
        table.get(key)
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// How many elements it has; None if it is no array.
    pub(crate) fn elements(&self) -> Option<usize> {
        Some(self.value.as_array()?.len())
    }

    pub(crate) fn boolean(&self, cx: &mut Cx) -> Option<bool> {
        let boolean = self.value.as_bool();
        if boolean.is_none() {
            self.wrong_type(cx, "a boolean", "write true or false, without quotes");
        }
        boolean
    }

    /// The elements of an array, each under this value's name.
    pub(crate) fn array(&self, cx: &mut Cx) -> Option<Vec<Self>> {
        match self.value.as_array() {
            Some(array) => Some(
                array
                    .iter()
                    .map(|item| Value {
                        path: self.path.clone(),
                        key_at: item.span().start,
                        at: item.span().start,
                        value: item.get_ref(),
                    })
                    .collect(),
            ),
            None => {
                self.wrong_type(cx, "an array", "put it in square brackets");
                None
            }
        }
    }

    /// An integer within the range.
    pub(crate) fn integer(&self, cx: &mut Cx, range: RangeInclusive<u32>) -> Option<u32> {
        let (min, max) = range.into_inner();
        let Some(integer) = self.value.as_integer() else {
            self.wrong_type(cx, "an integer", "write a number without quotes or fraction");
            return None;
        };
        let value = i128::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(i128::MAX);
        let out = |how: &str, bound: u32| format!("is {}, {how} than {bound}", plain(integer.as_str()));
        if value < i128::from(min) {
            self.mistake(
                cx,
                out("less", min),
                format!("write a number from {min} to {max}"),
            );
            return None;
        }
        match u32::try_from(value) {
            Ok(value) if value <= max => Some(value),
            Ok(_) | Err(_) => {
                self.mistake(
                    cx,
                    out("more", max),
                    format!("write a number from {min} to {max}"),
                );
                None
            }
        }
    }

    /// A duration within the range.
    pub(crate) fn duration(&self, cx: &mut Cx, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (min, max) = range.into_inner();
        if let Some(integer) = self.value.as_integer() {
            let n = plain(integer.as_str());
            self.mistake(
                cx,
                format!("is a number without unit ({n})"),
                format!("write \"{n}s\" for seconds, or \"{n}ms\" for milliseconds"),
            );
            return None;
        }
        let text = self.string(cx)?;
        match parse_duration(text) {
            Err(trouble) => self.trouble(cx, trouble),
            Ok(value) if value.is_zero() && !min.is_zero() => {
                self.mistake(
                    cx,
                    "is zero",
                    format!("write at least \"{}\"", show_duration(min)),
                );
            }
            Ok(value) if value < min => self.mistake(
                cx,
                format!("is {}, less than {}", plain(text), show_duration(min)),
                format!("write at least \"{}\"", show_duration(min)),
            ),
            Ok(value) if value > max => self.mistake(
                cx,
                format!("is {}, more than {}", plain(text), show_duration(max)),
                format!("write at most \"{}\"", show_duration(max)),
            ),
            Ok(value) => return Some(value),
        }
        None
    }

    /// A size in bytes within the range.
    pub(crate) fn size(&self, cx: &mut Cx, range: RangeInclusive<u64>) -> Option<u64> {
        let (min, max) = range.into_inner();
        if let Some(integer) = self.value.as_integer() {
            let bytes = u64::from_str_radix(integer.as_str(), integer.radix()).unwrap_or(min);
            self.mistake(
                cx,
                format!("is a number without unit ({})", plain(integer.as_str())),
                format!("write it as \"{}\"", show_size(bytes)),
            );
            return None;
        }
        let text = self.string(cx)?;
        match parse_size(text) {
            Err(trouble) => self.trouble(cx, trouble),
            Ok(value) if value < min => self.mistake(
                cx,
                format!("is {}, less than {}", plain(text), show_size(min)),
                format!("write at least \"{}\"", show_size(min)),
            ),
            Ok(value) if value > max => self.mistake(
                cx,
                format!("is {}, more than {}", plain(text), show_size(max)),
                format!("write at most \"{}\"", show_size(max)),
            ),
            Ok(value) => return Some(value),
        }
        None
    }

    /// One of a few words. `later` are words that other versions have: they are refused by name.
    pub(crate) fn choice<T: Copy>(&self, cx: &mut Cx, words: &[(&str, T)], later: &[&str]) -> Option<T> {
        let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let Some(text) = self.value.as_str() else {
            self.wrong_type(cx, "a string", &format!("write {}", listed(&known, "or")));
            return None;
        };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        if later.contains(&text) {
            self.mistake(
                cx,
                format!("is {}, which this version does not have", quoted(text)),
                format!("it has {}", listed(&known, "and")),
            );
            return None;
        }
        let mend = match cx.guess(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write {}", listed(&known, "or")),
        };
        self.mistake(
            cx,
            format!("is {}, which is none of its values", quoted(text)),
            mend,
        );
        None
    }

    fn wrong_type(&self, cx: &mut Cx, wanted: &str, mend: &str) {
        let has = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.mistake(cx, format!("is {has}, not {wanted}"), mend);
    }
}

/// Whether TOML lets the key stand without quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
