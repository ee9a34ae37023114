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

mod access;
pub mod args;
mod bodies;
mod check;
mod cross;
pub mod diff;
mod export;
mod file;
mod headers;
pub mod keys;
mod lists;
mod net;
mod node;
mod pools;
mod primes;
mod reader;
mod report;
pub mod secrets;
mod services;
mod spoken;
mod sync;
mod templates;
mod tls_files;
pub mod tunables;
mod units;
mod vrrp;
mod words;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use toml::de::DeTable;
use weir_core::{
    ids::ServiceName,
    plan::{Plan, Service},
};

pub use bodies::Bodies;
pub use diff::{Change, diff};
pub use lists::ListFiles;
pub use report::{Mistake, Place, Report};
pub use tls_files::TlsFiles;
pub use tunables::Tunables;

use crate::{
    bodies::BodyFile,
    check::CaFile,
    lists::AskedLists,
    reader::{Cx, Table},
    report::{Draft, place},
    services::Files,
    tls_files::{Judged, TlsFile},
    vrrp::{AskedGroup, KeyFile},
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
    /// The texts of the lists' files.
    #[serde(default)]
    pub lists: ListFiles,
    /// The texts of the files that rules answer with.
    #[serde(default)]
    pub bodies: Bodies,
    /// What of the files of `[services.NAME.tls]` is handed on; among it no private key.
    #[serde(default)]
    pub tls: TlsFiles,
}

impl Source {
    /// The plan that follows.
    ///
    /// # Errors
    /// All mistakes of the text, in file order.
    pub fn resolve(&self) -> Result<Plan, Report> {
        self.read().finish(self, Vec::new())
    }

    /// The same with the files of `[services.NAME.tls]` at these paths read anew, and judged as [`load`] does, by their time as
    /// well: what was served before is served on instead. The text
    /// and all other files stay as they are.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn with_tls_files_anew(&self, paths: &BTreeSet<PathBuf>) -> Result<Loaded, Report> {
        let mut source = self.clone();
        for path in paths {
            source.tls.forget(path);
        }
        let mut resolved = source.read();
        let mut files = std::mem::take(&mut resolved.tls_files);
        files.retain(|file| paths.contains(&file.path));
        let unread: Vec<_> = files
            .iter()
            .filter_map(|file| source.tls.read(file).err())
            .collect();
        resolved = source.read();
        let judged = std::mem::take(&mut resolved.judged);
        if unread.is_empty() {
            let asked = |judged: &&Judged| files.iter().any(|file| judged.is_at(file.at));
            let wrong = judged.iter().filter(asked).filter_map(|judged| {
                let mistake = judged.mistake(&source.tls);
                mistake.or_else(|| judged.untimely(&source.tls).map(|(_, draft)| draft))
            });
            resolved.drafts.extend(wrong);
        }
        resolved.drafts.extend(unread);
        let plan = Arc::new(resolved.finish(&source, Vec::new())?);
        Ok(Loaded {
            plan,
            source,
            untimely: Vec::new(),
        })
    }

    fn read(&self) -> Resolved {
        resolve(&self.text, &self.tunables, &self.facts, &self.bodies, &self.tls)
    }
}

/// A configuration that was read and resolved.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says.
    pub plan: Arc<Plan>,
    /// What it was resolved from.
    pub source: Source,
    /// Files of certificates whose time has not come or is over, and where they are named. They can be served, and that clients
    /// refuse them is no reason to serve nothing: whoever starts with them says so loudly.
    pub untimely: Vec<(PathBuf, Mistake)>,
}

/// Reads weir.toml, and `tunables.d/*.conf` beside it, and resolves them.
///
/// # Errors
/// All mistakes of all files; among them certificates that can't be read, but not those whose time is over.
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
    let mut source = Source {
        name: path.to_string_lossy().into_owned(),
        text,
        tunables,
        facts: Facts::of_this_machine(),
        lists: ListFiles::default(),
        bodies: Bodies::default(),
        tls: TlsFiles::default(),
    };
    let mut resolved = source.read();
    let mut untimely = Vec::new();
    if !resolved.body_files.is_empty() || !resolved.tls_files.is_empty() {
        let bodies = resolved.body_files.iter();
        let mut unread: Vec<_> = bodies.filter_map(|file| source.bodies.read(file).err()).collect();
        let files = resolved.tls_files.iter();
        unread.extend(files.filter_map(|file| source.tls.read(file).err()));
        resolved = source.read();
        let judge = |judged: &Judged| judged.mistake(&source.tls);
        let read = |judged: &&Judged| !unread.iter().any(|draft| judged.is_at(draft.at));
        let wrong: Vec<_> = resolved.judged.iter().filter(read).filter_map(judge).collect();
        resolved.drafts.extend(unread);
        resolved.drafts.extend(wrong);
        let name: Arc<str> = source.name.as_str().into();
        for judged in &resolved.judged {
            let Some((path, draft)) = judged.untimely(&source.tls) else {
                continue;
            };
            let placed = place(&name, &source.text, vec![draft]);
            untimely.extend(placed.into_iter().map(|mistake| (path.clone(), mistake)));
        }
    }
    resolved
        .drafts
        .extend(resolved.ca_files.iter().filter_map(unreadable));
    let no_key = |file: &KeyFile| {
        let (what, mend) = secrets::read(&file.path).err()?;
        Some(Draft {
            at: file.at,
            what: format!("{} names {}, which {what}", file.key, file.path.display()),
            mend: mend.into(),
        })
    };
    resolved
        .drafts
        .extend(resolved.key_files.iter().filter_map(no_key));
    mistakes.extend(read_lists(&mut resolved, &mut source.lists));
    let plan = resolved.finish(&source, mistakes)?;
    Ok(Loaded {
        plan: Arc::new(plan),
        source,
        untimely,
    })
}

/// Reads the files that `[lists]` names. What is wrong with a file as a text is returned; one that can't be opened is
/// the mistake of the key that names it.
fn read_lists(resolved: &mut Resolved, files: &mut ListFiles) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for kind in lists::Kind::BOTH {
        let Some(file) = resolved.lists.file(kind) else {
            continue;
        };
        match file::read_text(&file.path) {
            Ok(text) => files.set(kind, text),
            Err(mistake) if mistake.place.is_some() => mistakes.push(*mistake),
            Err(mistake) => resolved.drafts.push(Draft {
                at: file.at,
                what: format!(
                    "lists.{} names {}, which {}",
                    kind.file_key(),
                    words::plain(&file.path.to_string_lossy()),
                    mistake.what
                ),
                mend: "name a file of networks that weir may read, an empty one if there are none".into(),
            }),
        }
    }
    mistakes
}

/// Resolves a text. Pure: equal arguments give an equal plan. Files that the text names are not looked at: the lists are
/// what stands in the text itself.
///
/// # Errors
/// All mistakes, in file order; of a text that is no TOML, the first.
pub fn parse(name: &str, text: &str, tunables: &Tunables, facts: &Facts) -> Result<Plan, Report> {
    let source = Source {
        name: name.to_owned(),
        text: text.to_owned(),
        tunables: tunables.clone(),
        facts: facts.clone(),
        lists: ListFiles::default(),
        bodies: Bodies::default(),
        tls: TlsFiles::default(),
    };
    source.resolve()
}

/// What a text says, before the files that it names are looked at.
struct Resolved {
    /// None if there is a mistake.
    plan: Option<Plan>,
    drafts: Vec<Draft>,
    ca_files: Vec<CaFile>,
    body_files: Vec<BodyFile>,
    tls_files: Vec<TlsFile>,
    judged: Vec<Judged>,
    lists: AskedLists,
    /// Files of keys that boxes share.
    key_files: Vec<KeyFile>,
}

impl Resolved {
    /// Completes the plan with the lists. `mistakes` are those found in other files.
    fn finish(mut self, source: &Source, mut mistakes: Vec<Mistake>) -> Result<Plan, Report> {
        let room = source.tunables.values().l4_lists_entries;
        let merged = lists::merge(&self.lists, &source.lists, &source.text, room);
        self.drafts.extend(merged.drafts);
        let name = source.name.as_str().into();
        mistakes.extend(place(&name, &source.text, self.drafts));
        mistakes.extend(merged.mistakes);
        match self.plan {
            Some(plan) if mistakes.is_empty() => Ok(Plan {
                lists: merged.lists,
                ..plan
            }),
            Some(_) | None => Err(Report::new(mistakes)),
        }
    }
}

fn resolve(text: &str, tunables: &Tunables, facts: &Facts, bodies: &Bodies, tls: &TlsFiles) -> Resolved {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Resolved {
            plan: None,
            drafts: syntax(text, &errors),
            ca_files: Vec::new(),
            body_files: Vec::new(),
            tls_files: Vec::new(),
            judged: Vec::new(),
            lists: AskedLists::default(),
            key_files: Vec::new(),
        };
    }
    let defaults = tunables.values();
    let mut cx = Cx::new(text);
    let mut ca_files = Vec::new();
    let document = Table::document(&mut cx, document.get_ref());
    let node = node::read_node(&mut cx, &document, facts);
    let admin = node::read_admin(&mut cx, &document, facts);
    let access_log = access::read_access_log(&mut cx, &document);
    let lists = lists::read(&mut cx, &document);
    let export = export::read(&mut cx, &document);
    let mut key_files = Vec::new();
    let sync = sync::read(&mut cx, &document, &node, &mut key_files);
    let vrrp = vrrp::read_groups(&mut cx, &document);
    let mut files = Files::new(bodies, tls);
    let mut pools = pools::read_pools(&mut cx, &document, defaults, &mut ca_files, &mut files);
    let (services, services_complete) = services::read_services(&mut cx, &document, defaults, &mut files);
    pools::original::add(&mut cx, &mut pools, &services, defaults);
    let Files {
        named: body_files,
        tls_named: tls_files,
        judged,
        ..
    } = files;
    let asked = cross::Asked {
        node: &node,
        admin: &admin,
        lists: &lists,
        pools: &pools,
        services: &services,
        services_complete,
        vrrp: &vrrp,
        tunables: defaults,
    };
    let sources = cross::check(&mut cx, &asked);
    key_files.extend({ vrrp.groups.iter() }.flat_map(|group| group.key_files.iter().cloned()));
    let drafts = cx.into_drafts();
    if !drafts.is_empty() {
        return Resolved {
            plan: None,
            drafts,
            ca_files,
            body_files,
            tls_files,
            judged,
            lists,
            key_files,
        };
    }
    let quic_len = pools.quic_lengths();
    for (asked, source) in pools.pools.iter_mut().zip(sources) {
        asked.pool.source = source;
    }
    let services: Option<Vec<_>> = services
        .into_iter()
        .map(|asked| asked.resolve(&quic_len).map(Arc::new))
        .collect();
    let plan = services.map(|services| Plan {
        vrrp: { vrrp.groups.into_iter() }
            .flat_map(|group| {
                let reached = reached(&group, &services);
                group.resolve(reached).into_iter().map(Arc::new)
            })
            .collect(),
        node: node.node,
        admin: admin.admin,
        access_log,
        pools: pools
            .pools
            .into_iter()
            .map(|asked| Arc::new(asked.pool))
            .collect(),
        services,
        lists: weir_core::plan::Lists::default(),
        export,
        sync: sync.map(Arc::new),
    });
    Resolved {
        plan,
        drafts,
        ca_files,
        body_files,
        tls_files,
        judged,
        lists,
        key_files,
    }
}

/// The services that have an address of a group.
fn reached(group: &AskedGroup, services: &[Arc<Service>]) -> Vec<ServiceName> {
    let has = |address: IpAddr| {
        let mut all = { group.routers.iter() }.flat_map(|asked| &asked.router.addresses);
        all.any(|(it, _)| *it == address)
    };
    let reached = { services.iter() }.filter(|service| service.listen.iter().any(|listen| has(listen.addr)));
    reached.map(|service| service.name.clone()).collect()
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
