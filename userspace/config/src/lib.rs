//! weir.toml: file to validated plan, with located errors; reload differences; tunables.
//!
//! Owns the language of the configuration: every key, its type, range, default and the words for every mistake.
//! Resolving is pure: the same text, tunables and facts give the same plan on whatever machine and in whatever
//! process. Never opens anything but the files that it is told to read, never applies anything; the plan's types and
//! what they promise are `weir_core::plan`.
//!
//! [`load`] is what starts and checks weir; a [`Source`] is what one process hands to another, which resolves it
//! again.
#![forbid(unsafe_code)]

mod check;
mod cross;
pub mod diff;
mod file;
mod headers;
pub mod keys;
mod net;
mod node;
mod pools;
mod primes;
mod reader;
mod report;
mod services;
pub mod tunables;
mod units;
mod words;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;
use weir_core::plan::Plan;

pub use diff::{Change, diff};
pub use report::{Mistake, Place, Report};
pub use tunables::Tunables;

use crate::{
    check::CaFile,
    reader::{Cx, Table},
    report::{Draft, place},
};

/// What a plan takes from the machine that it is made on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The host name: the default of `node.name`.
    pub hostname: String,
    /// Where a weir of this user keeps its sockets: `admin.socket` is `control.sock` in it by default. `/run/weir` for
    /// root; else `weir` in the user's runtime directory, or, without one, `/tmp/weir-UID`.
    pub runtime_dir: PathBuf,
}

impl Facts {
    /// The facts of this machine.
    pub fn of_this_machine() -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        // A process's directory in /proc belongs to its effective user.
        let uid = std::fs::metadata("/proc/self").map_or(0, |m| std::os::unix::fs::MetadataExt::uid(&m));
        let runtime_dir = match std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
            _ if uid == 0 => PathBuf::from("/run/weir"),
            Some(dir) if dir.is_absolute() => dir.join("weir"),
            Some(_) | None => PathBuf::from(format!("/tmp/weir-{uid}")),
        };
        Self {
            hostname: hostname.trim_end().to_owned(),
            runtime_dir,
        }
    }
}

/// Everything that a plan follows from. Small enough to hand to another process, which then resolves the same plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Source {
    /// The file's name, as it stands in messages.
    pub name: String,
    /// The text of weir.toml.
    pub text: String,
    /// The tunables: defaults of what the text leaves open.
    pub tunables: Tunables,
    /// What is taken from the machine.
    pub facts: Facts,
}

impl Source {
    /// The plan that follows.
    ///
    /// # Errors
    /// All mistakes of the text, in file order.
    pub fn resolve(&self) -> Result<Plan, Report> {
        parse(&self.name, &self.text, &self.tunables, &self.facts)
    }
}

/// A configuration that was read and resolved.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub plan: Arc<Plan>,
    /// What it was resolved from.
    pub source: Source,
}

/// Reads weir.toml, and `tunables.d/*.conf` beside it, and resolves them.
///
/// # Errors
/// All mistakes of all files; among them certificates that can't be read.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let directory = path.parent().unwrap_or_else(|| Path::new(""));
    let mut tunables = Tunables::default();
    let mut mistakes = tunables.read_dir(&directory.join("tunables.d"));
    let text = match file::read_text(path) {
        Ok(text) => text,
        Err(mistake) => {
            mistakes.push(*mistake);
            return Err(Report::new(mistakes));
        }
    };
    let source = Source {
        name: path.to_string_lossy().into_owned(),
        text,
        tunables,
        facts: Facts::of_this_machine(),
    };
    let (plan, mut drafts, ca_files) = resolve(&source.text, &source.tunables, &source.facts);
    drafts.extend(ca_files.iter().filter_map(unreadable));
    mistakes.extend(place(&source.name.as_str().into(), &source.text, drafts));
    match plan {
        Some(plan) if mistakes.is_empty() => Ok(Loaded {
            plan: Arc::new(plan),
            source,
        }),
        Some(_) | None => Err(Report::new(mistakes)),
    }
}

/// Resolves a text. Pure: equal arguments give an equal plan.
///
/// # Errors
/// All mistakes, in file order; of a text that is no TOML, the first.
pub fn parse(name: &str, text: &str, tunables: &Tunables, facts: &Facts) -> Result<Plan, Report> {
    let (plan, drafts, _) = resolve(text, tunables, facts);
    plan.ok_or_else(|| Report::new(place(&name.into(), text, drafts)))
}

/// The plan if there is no mistake, else the mistakes; and the files that the plan names.
fn resolve(text: &str, tunables: &Tunables, facts: &Facts) -> (Option<Plan>, Vec<Draft>, Vec<CaFile>) {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return (None, syntax(text, &errors), Vec::new());
    }
    let defaults = tunables.values();
    let mut cx = Cx::new(text);
    let mut ca_files = Vec::new();
    let document = Table::document(&mut cx, document.get_ref());
    let node = node::read_node(&mut cx, &document, facts);
    let admin = node::read_admin(&mut cx, &document, facts);
    let pools = pools::read_pools(&mut cx, &document, defaults, &mut ca_files);
    let services = services::read_services(&mut cx, &document, defaults);
    cross::check(&mut cx, &node, &admin, &pools, &services);
    let drafts = cx.into_drafts();
    if !drafts.is_empty() {
        return (None, drafts, ca_files);
    }
    let services: Option<Vec<_>> = services
        .into_iter()
        .map(|asked| asked.resolve().map(Arc::new))
        .collect();
    let plan = services.map(|services| Plan {
        node: node.node,
        admin: admin.admin,
        pools: pools
            .pools
            .into_iter()
            .map(|asked| Arc::new(asked.pool))
            .collect(),
        services,
    });
    (plan, drafts, ca_files)
}

/// What is no TOML. Every key that stands twice is told, and of the rest the first: what follows it is guesswork.
fn syntax(text: &str, errors: &[toml::de::Error]) -> Vec<Draft> {
    let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
    let (twice, mut rest): (Vec<_>, Vec<_>) = errors
        .iter()
        .partition(|error| error.message() == "duplicate key");
    rest.sort_by_key(|error| at(error));
    let twice = twice.into_iter().map(|error| {
        let key = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        Draft {
            at: at(error),
            what: format!("{} stands twice", words::quoted(key)),
            mend: "remove one of them, or join the two".into(),
        }
    });
    let first = rest.first().map(|error| {
        let found = error.span().and_then(|span| text.get(span)).unwrap_or_default();
        let (what, mend) = match error.message().split_once(", expected ") {
            Some(("string values must be quoted", _)) if found.is_empty() => (
                "there is no value".into(),
                "write one behind the equals sign".into(),
            ),
            Some(("string values must be quoted", _)) => (
                format!("{} is no value", words::quoted(found)),
                "put it in double quotes".into(),
            ),
            Some((what, "nothing")) => (what.into(), "remove it".into()),
            Some((what, expected)) => (what.into(), format!("TOML expects {expected} here")),
            None => (
                error.message().into(),
                "see https://toml.io for the syntax".into(),
            ),
        };
        Draft {
            at: at(error),
            what: format!("not TOML: {what}"),
            mend,
        }
    });
    twice.chain(first).collect()
}

fn unreadable(file: &CaFile) -> Option<Draft> {
    let trouble = |what: String, mend: &str| {
        Some(Draft {
            at: file.at,
            what: format!("{} {what}", file.key),
            mend: mend.into(),
        })
    };
    match file::read_text(&file.path) {
        Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => None,
        Ok(_) => trouble(
            format!("names {}, which holds no certificate", file.path.display()),
            "name a file of certificates in PEM form",
        ),
        Err(mistake) => trouble(
            format!("names {}, which {}", file.path.display(), mistake.what),
            "name a file that weir may read",
        ),
    }
}
