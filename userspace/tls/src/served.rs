//! Which certificate a client gets: by the name that it asks for, then by what it can verify.
//!
//! Owns the choice, and whether an OCSP response is still good to be stapled. Names are found by hashing, exact ones
//! before wildcards, whatever their number.

use std::{collections::HashMap, sync::Arc};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, SigningKey},
    time_provider::TimeProvider,
};

use crate::{
    certificate::Certificate,
    keys::KeySource,
    mistake::Mistake,
    names::{Pattern, below},
};

/// Certificates with what signs for them, by name.
#[derive(Debug)]
pub struct Served {
    exact: HashMap<String, Vec<Arc<Candidate>>>,
    wildcard: HashMap<String, Vec<Arc<Candidate>>>,
    /// Who asks for no name, or for none of these, gets one of them. Empty: is refused.
    others: Vec<Arc<Candidate>>,
    clock: Arc<dyn TimeProvider>,
}

/// A certificate as clients get it.
#[derive(Debug)]
struct Candidate {
    /// With its OCSP response, if there is one.
    whole: Arc<CertifiedKey>,
    /// Without, and since when that is the one: clients take a response whose time is over for an attack.
    bare: Option<(Arc<CertifiedKey>, i64)>,
}

impl Candidate {
    fn new(certificate: &Certificate, signing: Arc<dyn SigningKey>) -> Self {
        let bare = CertifiedKey::new(certificate.chain().to_vec(), signing);
        let mut whole = bare.clone();
        whole.ocsp = certificate.ocsp().map(<[u8]>::to_vec);
        let end = certificate.ocsp_end();
        Self {
            whole: Arc::new(whole),
            bare: end.map(|end| (Arc::new(bare), end)),
        }
    }

    fn at(&self, clock: &dyn TimeProvider) -> &Arc<CertifiedKey> {
        let Some((bare, end)) = &self.bare else {
            return &self.whole;
        };
        let now = clock.current_time().map(|now| i64::try_from(now.as_secs()));
        match now {
            Some(Ok(now)) if now <= *end => &self.whole,
            Some(Ok(_) | Err(_)) | None => bare,
        }
    }
}

impl Served {
    /// Puts certificates under their own names, or under those given with them if any are. The first one, and others
    /// that share a name with it, serve whoever asks for no name of these; unless `strict`.
    pub(crate) fn new(
        certificates: &[(Certificate, Vec<Pattern>)],
        keys: &dyn KeySource,
        strict: bool,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Self, Mistake> {
        let mut served = Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
            others: Vec::new(),
            clock,
        };
        let mut default_names: &[Pattern] = &[];
        for (at, (certificate, given)) in certificates.iter().enumerate() {
            let id = certificate.key();
            let signing = keys
                .signing_key(&id, certificate.kind())
                .ok_or(Mistake::NoKey(id))?;
            let certified = Arc::new(Candidate::new(certificate, signing));
            let names = if given.is_empty() {
                certificate.names()
            } else {
                given
            };
            for name in names {
                let (map, key) = match name {
                    Pattern::Exact(name) => (&mut served.exact, name),
                    Pattern::Wildcard(domain) => (&mut served.wildcard, domain),
                };
                let list = map.entry(key.clone()).or_default();
                // A name may stand twice in one certificate.
                if !list.iter().any(|other| Arc::ptr_eq(other, &certified)) {
                    list.push(Arc::clone(&certified));
                }
            }
            if at == 0 {
                default_names = names;
            }
            if !strict && (at == 0 || names.iter().any(|name| default_names.contains(name))) {
                served.others.push(certified);
            }
        }
        Ok(served)
    }

    /// Whether a client that asks for this name, or for none, is served. The name may be in any case.
    pub fn knows(&self, name: Option<&str>) -> bool {
        !self.candidates(name).is_empty()
    }

    fn candidates(&self, name: Option<&str>) -> &[Arc<Candidate>] {
        let by_name = name.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            match name.bytes().any(|b| b.is_ascii_uppercase()) {
                true => self.by_name(&name.to_ascii_lowercase()),
                false => self.by_name(name),
            }
        });
        by_name.unwrap_or(&self.others)
    }

    fn by_name(&self, name: &str) -> Option<&[Arc<Candidate>]> {
        let found = self
            .exact
            .get(name)
            .or_else(|| below(name).and_then(|domain| self.wildcard.get(domain)));
        found.map(Vec::as_slice)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let candidates = self.candidates(hello.server_name());
        let schemes = hello.signature_schemes();
        // One is the rule. rustls says what is wrong if the client can't verify it.
        let fits = |one: &&Arc<Candidate>| one.whole.key.choose_scheme(schemes).is_some();
        let chosen = candidates.iter().find(fits).or_else(|| candidates.first());
        chosen.map(|one| Arc::clone(one.at(&*self.clock)))
    }
}
