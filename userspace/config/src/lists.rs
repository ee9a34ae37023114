//! `[lists]`: networks that are let in or kept out, from weir.toml and from files of one network per line.
//!
//! Owns the keys, the syntax of those files, and what two entries may not say together. Never opens a file: whoever
//! loads hands over the texts ([`ListFiles`]), and hands them on with the rest of the configuration.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use weir_core::plan::{IpNet, Lists};

use crate::{
    keys,
    net::parse_network,
    node::read_path,
    reader::{Cx, Table, Value},
    report::{Draft, Lines, Mistake, place},
    words::plain,
};

/// Mistakes told of one file of networks: what has more is, as a rule, no such file.
const TOLD: usize = 16;

/// The texts of the files that `[lists]` names. None: none is named, or it was not read.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ListFiles {
    /// Of `allow_file`.
    pub allow: Option<String>,
    /// Of `ban_file`.
    pub ban: Option<String>,
}

/// One of the two lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Allow,
    Ban,
}

impl Kind {
    pub(crate) const BOTH: [Self; 2] = [Self::Allow, Self::Ban];

    const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ban => "ban",
        }
    }

    /// The key of its file.
    pub(crate) const fn file_key(self) -> &'static str {
        match self {
            Self::Allow => "allow_file",
            Self::Ban => "ban_file",
        }
    }
}

impl ListFiles {
    const fn text(&self, kind: Kind) -> Option<&String> {
        match kind {
            Kind::Allow => self.allow.as_ref(),
            Kind::Ban => self.ban.as_ref(),
        }
    }

    pub(crate) fn set(&mut self, kind: Kind, text: String) {
        match kind {
            Kind::Allow => self.allow = Some(text),
            Kind::Ban => self.ban = Some(text),
        }
    }
}

/// A file that `[lists]` names.
#[derive(Clone, Debug)]
pub(crate) struct NamedFile {
    pub(crate) path: PathBuf,
    /// Where its key's value stands.
    pub(crate) at: usize,
}

/// `[lists]` as it stands in weir.toml.
#[derive(Debug, Default)]
pub(crate) struct AskedLists {
    allow: Vec<(IpNet, usize)>,
    ban: Vec<(IpNet, usize)>,
    allow_file: Option<NamedFile>,
    ban_file: Option<NamedFile>,
    /// Where the section begins, if it says anything.
    pub(crate) at: Option<usize>,
}

impl AskedLists {
    fn inline(&self, kind: Kind) -> &[(IpNet, usize)] {
        match kind {
            Kind::Allow => &self.allow,
            Kind::Ban => &self.ban,
        }
    }

    /// The file that a list is read from.
    pub(crate) const fn file(&self, kind: Kind) -> Option<&NamedFile> {
        match kind {
            Kind::Allow => self.allow_file.as_ref(),
            Kind::Ban => self.ban_file.as_ref(),
        }
    }
}

/// Reads the section.
pub(crate) fn read(cx: &mut Cx, document: &Table<'_>) -> AskedLists {
    let Some(section) = document
        .get("lists")
        .and_then(|value| value.table(cx, &keys::LISTS))
    else {
        return AskedLists::default();
    };
    let mut networks = |key| {
        let items = section.get(key).and_then(|value| value.array(cx));
        let read = |item: &Value<'_>| Some((read_network(cx, item)?, item.at));
        items
            .unwrap_or_default()
            .iter()
            .filter_map(read)
            .collect::<Vec<_>>()
    };
    let (allow, ban) = (networks("allow"), networks("ban"));
    let mut file = |kind: Kind| {
        let value = section.get(kind.file_key())?;
        let path = read_path(cx, &value)?;
        Some(NamedFile { path, at: value.at })
    };
    let (allow_file, ban_file) = (file(Kind::Allow), file(Kind::Ban));
    let says = !(allow.is_empty() && ban.is_empty() && allow_file.is_none() && ban_file.is_none());
    AskedLists {
        allow,
        ban,
        allow_file,
        ban_file,
        at: says.then_some(section.at),
    }
}

fn read_network(cx: &mut Cx, item: &Value<'_>) -> Option<IpNet> {
    match parse_network(item.string(cx)?) {
        Ok(network) => Some(network),
        Err(trouble) => {
            item.trouble(cx, trouble);
            None
        }
    }
}

/// Where an entry stands.
#[derive(Clone, Copy)]
enum Stands {
    /// In weir.toml, at this offset.
    Inline(usize),
    /// In the file of its list, at this offset.
    File(usize),
}

/// What the lists say together, and what is wrong with it.
pub(crate) struct Merged {
    /// Each network once, those of weir.toml first, then in the file's order.
    pub(crate) lists: Lists,
    /// Mistakes that stand in weir.toml.
    pub(crate) drafts: Vec<Draft>,
    /// Mistakes that stand in the files.
    pub(crate) mistakes: Vec<Mistake>,
}

/// Puts the section and its files together. Linear in their texts. `room`: entries that the kernel's table has.
pub(crate) fn merge(asked: &AskedLists, files: &ListFiles, toml: &str, room: u32) -> Merged {
    let mut drafts = Vec::new();
    let mut in_files: [Vec<Draft>; 2] = Default::default();
    let mut known: HashMap<IpNet, (Kind, Stands)> = HashMap::new();
    let mut lists = Lists::default();
    let allow_lines = Lines::of(files.text(Kind::Allow).map_or("", String::as_str));
    let toml_lines = Lines::of(toml);
    for (kind, told) in Kind::BOTH.into_iter().zip(&mut in_files) {
        let inline = asked
            .inline(kind)
            .iter()
            .map(|&(net, at)| (net, Stands::Inline(at)));
        let text = files.text(kind).map_or("", String::as_str);
        let from_file = read_lines(text, told);
        let from_file = from_file.into_iter().map(|(net, at)| (net, Stands::File(at)));
        for (network, stands) in inline.chain(from_file) {
            let first = *known.entry(network).or_insert((kind, stands));
            if first.0 == kind {
                // Said twice is said once; whether this is the first time shows by its place.
                if same(first.1, stands) {
                    match kind {
                        Kind::Allow => lists.allow.push(network),
                        Kind::Ban => lists.ban.push(network),
                    }
                }
                continue;
            }
            let place = match (first.1, asked.file(first.0)) {
                (Stands::File(at), Some(file)) => {
                    format!("{}:{}", plain(&file.path.to_string_lossy()), allow_lines.line(at))
                }
                (Stands::File(at) | Stands::Inline(at), _) => {
                    format!("lists.{}, line {}", first.0.word(), toml_lines.line(at))
                }
            };
            let draft = |at, subject: &str| Draft {
                at,
                what: format!("{subject}{network}, which is allowed too ({place})"),
                mend: "remove it from one of the two".into(),
            };
            match stands {
                Stands::Inline(at) => drafts.push(draft(at, "lists.ban has ")),
                Stands::File(at) => told.push(draft(at, "this line has ")),
            }
        }
    }
    let entries = lists.allow.len() + lists.ban.len();
    if entries > room as usize {
        drafts.push(Draft {
            at: asked.at.unwrap_or(0),
            what: format!("[lists] has {entries} networks, and weir.l4.lists.entries makes room for {room}"),
            mend: "raise that tunable, and leave room for bans at run time".into(),
        });
    }
    let mistakes = Kind::BOTH.into_iter().zip(in_files).flat_map(|(kind, told)| {
        let path = asked.file(kind).map_or_else(|| Path::new(""), |file| &file.path);
        let file: Arc<str> = path.to_string_lossy().into();
        place(
            &file,
            files.text(kind).map_or("", String::as_str),
            shortened(told),
        )
    });
    Merged {
        lists,
        drafts,
        mistakes: mistakes.collect(),
    }
}

const fn same(a: Stands, b: Stands) -> bool {
    match (a, b) {
        (Stands::Inline(a), Stands::Inline(b)) | (Stands::File(a), Stands::File(b)) => a == b,
        (Stands::Inline(_), Stands::File(_)) | (Stands::File(_), Stands::Inline(_)) => false,
    }
}

/// The networks of a file, each with its offset. `#` and `;` begin a comment, at a line's beginning or behind a network.
fn read_lines(text: &str, told: &mut Vec<Draft>) -> Vec<(IpNet, usize)> {
    let mut networks = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let begins = at;
        at += line.len();
        // A byte order mark is no part of the first line.
        let (mark, line) = match line.strip_prefix('\u{feff}') {
            Some(rest) if begins == 0 => (line.len() - rest.len(), rest),
            Some(_) | None => (0, line),
        };
        let code = line.split(['#', ';']).next().unwrap_or_default();
        let network = code.trim();
        if network.is_empty() {
            continue;
        }
        let at = begins + mark + (code.len() - code.trim_start().len());
        match parse_network(network) {
            Ok(network) => networks.push((network, at)),
            Err(trouble) => told.push(Draft {
                at,
                what: format!("this line {}", trouble.what),
                mend: trouble.mend,
            }),
        }
    }
    networks
}

/// The first mistakes of a file, and a word on how many there are.
fn shortened(mut told: Vec<Draft>) -> Vec<Draft> {
    told.sort_by_key(|draft| draft.at);
    let more = told.len().saturating_sub(TOLD);
    if more > 0 {
        told.truncate(TOLD);
        if let Some(last) = told.last_mut() {
            last.mend.push_str(&format!(" (and {more} more lines are wrong)"));
        }
    }
    told
}
