//! Which versions, suites and groups a service speaks: named policies, or lists by the names of IANA's registries.
//!
//! Owns the names. What is not in rustls (CBC, RSA key exchange, TLS 1.1) can't be asked for.

use std::sync::Arc;

use rustls::{
    SupportedCipherSuite, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs, aws_lc_rs::kx_group},
    version,
};

use weir_core::plan::{BackendTls, Tls, TlsPolicy, TlsVersion};

use crate::mistake::Mistake;

/// Groups by their names in IANA's registry, in order of preference. The hybrid one is first: what is recorded today
/// stays secret when there are quantum computers, for some 1 KiB more in each direction of a handshake.
const GROUPS: [(&str, &dyn SupportedKxGroup); 6] = [
    ("X25519MLKEM768", kx_group::X25519MLKEM768),
    ("x25519", kx_group::X25519),
    ("secp256r1", kx_group::SECP256R1),
    ("secp384r1", kx_group::SECP384R1),
    ("SecP256r1MLKEM768", kx_group::SECP256R1MLKEM768),
    ("MLKEM768", kx_group::MLKEM768),
];
/// So many of them are spoken unless others are asked for.
const DEFAULT_GROUPS: usize = 4;

/// Versions by their usual names.
const VERSIONS: [(&str, &SupportedProtocolVersion); 2] =
    [("TLSv1.2", &version::TLS12), ("TLSv1.3", &version::TLS13)];

/// What a service speaks.
#[derive(Clone, Debug)]
pub struct Policy {
    versions: Vec<&'static SupportedProtocolVersion>,
    suites: Vec<SupportedCipherSuite>,
    groups: Vec<&'static dyn SupportedKxGroup>,
}

impl Policy {
    /// The names of the named policies. Their suites are in the order of what they cost, for all are good: AES with keys of 128
    /// bits, then of 256, then ChaCha20, which few clients are faster with.
    pub const NAMES: [&'static str; 2] = ["modern", "intermediate"];

    /// TLS 1.3 only.
    pub fn modern() -> Self {
        Self::of(vec![&version::TLS13])
    }

    /// TLS 1.3 and 1.2, the latter with ephemeral keys and authenticated ciphers only. The default.
    pub fn intermediate() -> Self {
        Self::of(vec![&version::TLS13, &version::TLS12])
    }

    /// What a plan asks for. Versions that are named are those whose suites there are, whatever the policy has.
    ///
    /// # Errors
    /// A version for which no suite, or no group, is left.
    pub fn asked(tls: &Tls) -> Result<Self, Mistake> {
        let (versions, ciphers, groups) = (&tls.versions, &tls.ciphers, &tls.groups);
        Self::spoken(
            tls.policy,
            versions.as_deref(),
            ciphers.as_deref(),
            groups.as_deref(),
        )
    }

    /// The same towards backends.
    ///
    /// # Errors
    /// As [`asked`](Self::asked).
    pub fn asked_of_backends(tls: &BackendTls) -> Result<Self, Mistake> {
        let (versions, ciphers, groups) = (&tls.versions, &tls.ciphers, &tls.groups);
        Self::spoken(
            tls.policy,
            versions.as_deref(),
            ciphers.as_deref(),
            groups.as_deref(),
        )
    }

    fn spoken(
        policy: TlsPolicy,
        versions: Option<&[TlsVersion]>,
        ciphers: Option<&[&'static str]>,
        groups: Option<&[&'static str]>,
    ) -> Result<Self, Mistake> {
        let mut policy = match (versions, policy) {
            (Some(versions), _) => {
                let versions = versions.iter().map(|version| match version {
                    TlsVersion::Tls12 => &version::TLS12,
                    TlsVersion::Tls13 => &version::TLS13,
                });
                Self::of(versions.collect())
            }
            (None, TlsPolicy::Modern) => Self::modern(),
            (None, TlsPolicy::Intermediate) => Self::intermediate(),
        };
        if let Some(ciphers) = ciphers {
            policy = policy.with_suites(ciphers.iter().copied())?;
        }
        match groups {
            Some(groups) => policy.with_groups(groups.iter().copied()),
            None => Ok(policy),
        }
    }

    /// The policy of a name. None: there is none such.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "modern" => Some(Self::modern()),
            "intermediate" => Some(Self::intermediate()),
            _ => None,
        }
    }

    fn of(versions: Vec<&'static SupportedProtocolVersion>) -> Self {
        let mut suites = aws_lc_rs::DEFAULT_CIPHER_SUITES.to_vec();
        suites.retain(|suite| versions.contains(&suite.version()));
        suites.sort_by_key(|suite| {
            let name = suite_name(suite);
            ["AES_128", "AES_256"]
                .iter()
                .position(|part| name.contains(part))
                .unwrap_or(2)
        });
        suites.sort_by_key(|suite| versions.iter().position(|version| *version == suite.version()));
        Self {
            versions,
            suites,
            groups: GROUPS
                .iter()
                .take(DEFAULT_GROUPS)
                .map(|(_, group)| *group)
                .collect(),
        }
    }

    /// Speaks these versions only: `TLSv1.2`, `TLSv1.3`. Suites of others are dropped.
    ///
    /// # Errors
    /// A name that is none, or no suite left.
    pub fn with_versions<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, Mistake> {
        let known = || VERSIONS.map(|(name, _)| name).join(", ");
        self.versions = lookup("version", names, known, |name| {
            let mut versions = VERSIONS.iter();
            versions
                .find(|(known, _)| *known == name)
                .map(|(_, version)| *version)
        })?;
        self.suites
            .retain(|suite| self.versions.contains(&suite.version()));
        self.checked()
    }

    /// Speaks these suites only, in this order of preference, by their names in IANA's registry, as
    /// `TLS_AES_128_GCM_SHA256`.
    ///
    /// # Errors
    /// A name that is none, or a suite of no version that is spoken, or a version without a suite.
    pub fn with_suites<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, Mistake> {
        let suites = aws_lc_rs::ALL_CIPHER_SUITES;
        let known = || suites.iter().map(suite_name).collect::<Vec<_>>().join(", ");
        self.suites = lookup("cipher suite", names, known, |name| {
            suites.iter().find(|suite| suite_name(suite) == name).copied()
        })?;
        self.checked()
    }

    /// Agrees on keys by these groups only, by their names in IANA's registry. Which of them is the client's choice.
    ///
    /// # Errors
    /// A name that is none.
    pub fn with_groups<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Result<Self, Mistake> {
        let known = || GROUPS.map(|(name, _)| name).join(", ");
        self.groups = lookup("key exchange group", names, known, |name| {
            let mut groups = GROUPS.iter();
            groups.find(|(known, _)| *known == name).map(|(_, group)| *group)
        })?;
        self.checked()
    }

    fn checked(self) -> Result<Self, Mistake> {
        for suite in &self.suites {
            if !self.versions.contains(&suite.version()) {
                let name = suite_name(suite);
                return Err(Mistake::Policy(format!(
                    "cipher suite {name} is not one of the versions that are spoken; add its version, or leave it out"
                )));
            }
        }
        for (name, version) in VERSIONS {
            if self.versions.contains(&version) && !self.suites.iter().any(|s| s.version() == version) {
                return Err(Mistake::Policy(format!(
                    "no cipher suite is left for {name}; name one, or leave the version out"
                )));
            }
        }
        let post_quantum_only = self.groups.iter().all(|g| g.name() == kx_group::MLKEM768.name());
        let old = self.versions.contains(&&version::TLS12);
        if old
            && (post_quantum_only
                || self
                    .groups
                    .iter()
                    .all(|g| !g.usable_for_version(rustls::ProtocolVersion::TLSv1_2)))
        {
            return Err(Mistake::Policy(
                "no key exchange group is left for TLSv1.2; add x25519 or secp256r1, or leave the version out".to_owned(),
            ));
        }
        Ok(self)
    }

    /// The versions, for a configuration.
    pub(crate) fn versions(&self) -> &[&'static SupportedProtocolVersion] {
        &self.versions
    }

    /// The cryptography of the policy.
    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::new(CryptoProvider {
            cipher_suites: self.suites.clone(),
            kx_groups: self.groups.clone(),
            ..crate::provider()
        })
    }
}

fn lookup<'a, T>(
    what: &'static str,
    names: impl IntoIterator<Item = &'a str>,
    known: impl Fn() -> String,
    find: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Mistake> {
    let found: Vec<_> = names
        .into_iter()
        .map(|name| {
            find(name).ok_or_else(|| Mistake::Unknown {
                what,
                name: name.to_owned(),
                known: known(),
            })
        })
        .collect::<Result<_, _>>()?;
    match found.is_empty() {
        true => Err(Mistake::Policy(format!(
            "an empty list: name at least one {what}"
        ))),
        false => Ok(found),
    }
}

/// A suite's name in IANA's registry. rustls writes TLS 1.3's with a prefix of its own.
fn suite_name(suite: &SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.strip_prefix("TLS13_")
        .map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
}

#[cfg(test)]
mod tests;
