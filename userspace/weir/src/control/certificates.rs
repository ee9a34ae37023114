//! Certificates as their files change: watched, judged, taken in, or kept as they were.
//!
//! Owns when a file is looked at and what becomes of it. A file is read once it has been the same for two looks, so that
//! one that is being written is not taken for a broken one. What does not hold is said once per change; what was served
//! before is served on.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tracing::{error, info};
use weir_core::plan::{BackendTls, Plan, Service, Tls, TlsCertificate};
use weir_tls::Certificate;

use super::state::Control;
use crate::{
    admin::api::{TlsFile, TlsList},
    tls,
};

/// How often files are looked at.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// What tells a file from the one that replaced it. All zeros: it is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stamp {
    changed: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Stamp {
    fn of(path: &Path) -> Self {
        std::fs::metadata(path).map_or_else(
            |_| Self::default(),
            |meta| Self {
                changed: meta.modified().ok(),
                length: meta.len(),
                inode: meta.ino(),
            },
        )
    }
}

type Stamps = BTreeMap<PathBuf, Stamp>;

/// What is known of the files.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    /// As they were when they were judged last.
    judged: Stamps,
    /// As they were at the last look.
    seen: Stamps,
    /// Why what stands in a file is not what is served.
    troubles: BTreeMap<PathBuf, String>,
    /// How often that came about.
    refused: BTreeMap<PathBuf, u64>,
}

/// Files that are judged together.
fn units(tls: &Tls) -> Vec<BTreeSet<&Path>> {
    let TlsParts {
        certificates,
        authority,
        ticket_keys,
    } = parts(tls);
    certificates
        .map(|one| paths(one).collect())
        .chain([authority, ticket_keys])
        .filter(|unit: &BTreeSet<_>| !unit.is_empty())
        .collect()
}

struct TlsParts<'a, I: Iterator<Item = &'a TlsCertificate>> {
    certificates: I,
    authority: BTreeSet<&'a Path>,
    ticket_keys: BTreeSet<&'a Path>,
}

fn parts(tls: &Tls) -> TlsParts<'_, impl Iterator<Item = &TlsCertificate>> {
    let authority = tls.clients.authority().into_iter();
    let files = authority.flat_map(|authority| [Some(&authority.ca), authority.crl.as_ref()]);
    TlsParts {
        certificates: tls.certificates.iter(),
        authority: files.flatten().map(|file| file.path.as_path()).collect(),
        ticket_keys: tls.ticket_keys.iter().map(|file| file.path.as_path()).collect(),
    }
}

fn paths(one: &TlsCertificate) -> impl Iterator<Item = &Path> {
    let staple = one.ocsp.as_ref().map(|file| file.path.as_path());
    [Some(one.chain.path.as_path()), Some(one.key.as_path()), staple]
        .into_iter()
        .flatten()
}

/// Files of a pool that are judged together.
fn units_of_pool(tls: &BackendTls) -> Vec<BTreeSet<&Path>> {
    let authorities = tls.trust.authorities().map(|file| file.path.as_path());
    let shown = { tls.certificate.iter() }.map(|one| paths(one).collect());
    shown
        .chain(authorities.map(|path| BTreeSet::from([path])))
        .collect()
}

/// Files of a plan that are judged together.
fn all_units(plan: &Plan) -> impl Iterator<Item = BTreeSet<&Path>> {
    let pools = plan.pools.iter().filter_map(|pool| pool.tls.as_deref());
    ending_tls(plan)
        .flat_map(|(_, tls)| units(tls))
        .chain(pools.flat_map(units_of_pool))
}

fn ending_tls(plan: &Plan) -> impl Iterator<Item = (&Service, &Tls)> {
    plan.services
        .iter()
        .filter_map(|service| Some((&**service, service.tls.as_ref()?)))
}

/// All files of a plan, as they are now.
fn look(plan: &Plan) -> Stamps {
    let all = all_units(plan).flatten();
    all.map(|path| (path.to_owned(), Stamp::of(path))).collect()
}

impl Certificates {
    /// The files of a plan that was just read are those that are served. `looked`: as they were before it was read.
    pub(super) fn taken(&mut self, plan: &Plan, looked: Option<Looked>) {
        self.judged = looked.map_or_else(|| look(plan), |looked| looked.0);
        // Files that the plan names first, or that were not looked at.
        for (path, stamp) in look(plan) {
            self.judged.entry(path).or_insert(stamp);
        }
        let named = look(plan);
        self.judged.retain(|path, _| named.contains_key(path));
        self.refused.retain(|path, _| named.contains_key(path));
        self.seen.clone_from(&self.judged);
        self.troubles.clear();
    }

    /// Files, how often the new content of each was refused, and whether what is served is not what it holds.
    pub(super) fn files(&self) -> impl Iterator<Item = (String, u64, bool)> {
        self.judged.keys().map(|path| {
            let refused = self.refused.get(path).copied().unwrap_or_default();
            (
                path.display().to_string(),
                refused,
                self.troubles.contains_key(path),
            )
        })
    }
}

/// Files before they are read.
pub(super) struct Looked(Stamps);

impl Looked {
    pub(super) fn at(plan: &Plan) -> Self {
        Self(look(plan))
    }
}

impl Control {
    /// Looks at the files, and takes in those that have changed and hold.
    pub(super) async fn watch_certificates(&mut self) {
        // A configuration on its way is not overtaken, nor a successor that may have read the files already.
        if self.pending_reload.is_some() || self.upgrade.is_some() {
            return;
        }
        let plan = self.loaded.plan.clone();
        let now = look(&plan);
        let before = std::mem::replace(&mut self.certificates.seen, now);
        let settled = |path: &Path| before.get(path) == self.certificates.seen.get(path);
        let changed = |path: &Path| self.certificates.judged.get(path) != self.certificates.seen.get(path);
        let due: Vec<BTreeSet<PathBuf>> = all_units(&plan)
            .filter(|unit| unit.iter().any(|path| changed(path)) && unit.iter().all(|path| settled(path)))
            .map(|unit| unit.into_iter().map(Path::to_owned).collect())
            .collect();
        if due.is_empty() {
            return;
        }
        let mut loaded = self.loaded.clone();
        for unit in &due {
            match loaded.source.with_tls_files_anew(unit) {
                Ok(next) => {
                    loaded = next;
                    self.certificates.judge(unit, None);
                }
                Err(report) => self.certificates.judge(unit, Some(report.to_string())),
            }
        }
        // The same again, or nothing that holds.
        if loaded.source.tls == self.loaded.source.tls {
            return;
        }
        info!("certificates have changed");
        let error_before = self.reload_error.clone();
        let result = self.put_in_force(loaded, &mut None).await;
        // It is about weir.toml, which was not read again.
        self.reload_error = error_before;
        if let Err(error) = result {
            let why = format!("{error:#}");
            for unit in &due {
                self.certificates.judge(unit, Some(why.clone()));
            }
        }
    }

    /// What the status shows of certificates, and what metrics do.
    pub(super) fn tls_files(&self) -> (Vec<TlsFile>, Vec<TlsList>) {
        let (mut files, mut lists) = (Vec::new(), Vec::new());
        for (service, of) in ending_tls(&self.loaded.plan) {
            for one in &of.certificates {
                if let Ok(read) = tls::certificate(one) {
                    files.push(TlsFile {
                        service: service.name.to_string(),
                        ..self.tls_file(one, &read)
                    });
                }
            }
            let Ok(Some(clients)) = tls::clients(&of.clients) else {
                continue;
            };
            if let (Some(end), Some(authority)) = (clients.lists_end(), of.clients.authority())
                && let Some(file) = &authority.crl
            {
                lists.push(TlsList {
                    service: service.name.to_string(),
                    file: file.path.display().to_string(),
                    next_update: end,
                });
            }
        }
        for pool in &self.loaded.plan.pools {
            let shown = pool.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
            if let Some(one) = shown
                && let Ok(read) = tls::certificate_for_backends(one)
            {
                files.push(TlsFile {
                    pool: pool.name.to_string(),
                    ..self.tls_file(one, &read)
                });
            }
        }
        (files, lists)
    }

    fn tls_file(&self, one: &TlsCertificate, read: &Certificate) -> TlsFile {
        let trouble = paths(one).find_map(|path| self.certificates.troubles.get(path));
        TlsFile {
            service: String::new(),
            pool: String::new(),
            file: one.chain.path.display().to_string(),
            subject: read.subject().to_owned(),
            names: read.names().iter().map(ToString::to_string).collect(),
            key: read.kind().to_string(),
            not_before: read.not_before(),
            not_after: read.not_after(),
            trouble: trouble.cloned(),
        }
    }

    /// Files whose content is not what is served, and why.
    pub(super) fn tls_troubles(&self) -> Vec<(String, String)> {
        let troubles = self.certificates.troubles.iter();
        troubles
            .map(|(path, why)| (path.display().to_string(), why.clone()))
            .collect()
    }
}

impl Certificates {
    fn judge(&mut self, unit: &BTreeSet<PathBuf>, why: Option<String>) {
        for path in unit {
            let stamp = self.seen.get(path).copied().unwrap_or_default();
            let changed = self.judged.insert(path.clone(), stamp) != Some(stamp);
            match &why {
                None => drop(self.troubles.remove(path)),
                Some(why) => {
                    self.troubles.insert(path.clone(), why.clone());
                    if changed {
                        *self.refused.entry(path.clone()).or_default() += 1;
                    }
                }
            }
        }
        if let Some(why) = why {
            error!(
                why,
                "a file of TLS has changed and does not hold; what was served before is served on"
            );
        }
    }
}
