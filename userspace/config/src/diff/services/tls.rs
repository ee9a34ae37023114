//! What changes of how a service ends TLS, and of how backends are spoken to over it, as it is shown.

use weir_core::plan::{
    BackendTls, BackendTrust, ClientAuthority, TextFile, Tls, TlsCertificate, TlsPolicy, TlsVersion,
    UnknownNames,
};

use crate::{
    diff::{Keys, list_or_none},
    words::plain,
};

pub(super) fn changed(keys: &mut Keys<'_>, old: Option<&Tls>, new: Option<&Tls>) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (old, new) => {
            return keys.compare("tls", &old.is_some(), &new.is_some(), |ends| match ends {
                true => "ends here".into(),
                false => "does not end here".into(),
            });
        }
    };
    let Tls {
        certificates,
        policy,
        versions,
        ciphers,
        groups,
        alpn,
        unknown_names,
        ticket_keys,
        clients,
    } = old;
    changed_certificates(keys, "tls.certificates", certificates, &new.certificates);
    changed_spoken(
        keys,
        (
            *policy,
            versions.as_deref(),
            ciphers.as_deref(),
            groups.as_deref(),
        ),
        (
            new.policy,
            new.versions.as_deref(),
            new.ciphers.as_deref(),
            new.groups.as_deref(),
        ),
    );
    keys.compare("tls.alpn", alpn, &new.alpn, |alpn| list_or_none(alpn));
    keys.compare(
        "tls.unknown_names",
        unknown_names,
        &new.unknown_names,
        |names: &UnknownNames| names.as_str().into(),
    );
    changed_file(
        keys,
        "tls.ticket_keys",
        ticket_keys.as_ref(),
        new.ticket_keys.as_ref(),
    );
    keys.compare(
        "tls.client_certificates",
        &clients.as_str(),
        &new.clients.as_str(),
        |word| (*word).into(),
    );
    let (old, new) = (clients.authority(), new.clients.authority());
    let ca = |authority: Option<&'_ ClientAuthority>| authority.map(|a| a.ca.clone());
    let crl = |authority: Option<&'_ ClientAuthority>| authority.and_then(|a| a.crl.clone());
    changed_file(keys, "tls.client_ca", ca(old).as_ref(), ca(new).as_ref());
    changed_file(keys, "tls.client_crl", crl(old).as_ref(), crl(new).as_ref());
}

/// Policy, versions, ciphers, groups.
type Spoken<'t> = (
    TlsPolicy,
    Option<&'t [TlsVersion]>,
    Option<&'t [&'static str]>,
    Option<&'t [&'static str]>,
);

fn changed_spoken(keys: &mut Keys<'_>, old: Spoken<'_>, new: Spoken<'_>) {
    keys.compare("tls.policy", &old.0, &new.0, |policy| policy.as_str().into());
    keys.compare("tls.versions", &old.1, &new.1, |versions| {
        by_policy(versions.map(|all| all.iter().map(|version| version.as_str())))
    });
    let names = |names: &Option<&[&'static str]>| by_policy(names.map(|names| names.iter().copied()));
    keys.compare("tls.ciphers", &old.2, &new.2, names);
    keys.compare("tls.groups", &old.3, &new.3, names);
}

/// Of `[pools.NAME.tls]`.
pub(in crate::diff) fn changed_of_pool(
    keys: &mut Keys<'_>,
    old: Option<&BackendTls>,
    new: Option<&BackendTls>,
) {
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old, new),
        (old, new) => {
            return keys.compare("tls", &old.is_some(), &new.is_some(), |on| {
                if *on { "on" } else { "off" }.into()
            });
        }
    };
    let BackendTls {
        trust,
        server_name,
        alpn,
        certificate,
        policy,
        versions,
        ciphers,
        groups,
    } = old;
    let verify = |trust: &BackendTrust| *trust != BackendTrust::Anybody;
    keys.compare(
        "tls.verify",
        &verify(trust),
        &verify(&new.trust),
        ToString::to_string,
    );
    changed_file(keys, "tls.ca", trust.authorities(), new.trust.authorities());
    keys.compare("tls.server_name", server_name, &new.server_name, |name| {
        name.as_ref()
            .map_or_else(|| "the backend's address".into(), |name| plain(name))
    });
    keys.compare("tls.alpn", alpn, &new.alpn, |alpn| list_or_none(alpn));
    let shown = |one: &Option<TlsCertificate>| one.clone().into_iter().collect::<Vec<_>>();
    changed_certificates(
        keys,
        "tls.certificate",
        &shown(certificate),
        &shown(&new.certificate),
    );
    changed_spoken(
        keys,
        (
            *policy,
            versions.as_deref(),
            ciphers.as_deref(),
            groups.as_deref(),
        ),
        (
            new.policy,
            new.versions.as_deref(),
            new.ciphers.as_deref(),
            new.groups.as_deref(),
        ),
    );
}

fn by_policy<'n>(names: Option<impl Iterator<Item = &'n str>>) -> String {
    names.map_or_else(
        || "by the policy".into(),
        |names| names.collect::<Vec<_>>().join(", "),
    )
}

fn changed_certificates(
    keys: &mut Keys<'_>,
    key: &'static str,
    old: &[TlsCertificate],
    new: &[TlsCertificate],
) {
    let show = |all: &[TlsCertificate]| list_or_none(&all.iter().map(|c| path(&c.chain)).collect::<Vec<_>>());
    let (before, after) = (show(old), show(new));
    if before != after {
        return keys.compare(key, &before, &after, String::clone);
    }
    if old != new {
        let anew: Vec<_> = old
            .iter()
            .zip(new)
            .filter(|(old, new)| old != new)
            .map(|(old, _)| path(&old.chain))
            .collect();
        let (before, after) = (
            list_or_none(&anew),
            format!("{} as it is now", list_or_none(&anew)),
        );
        keys.compare(key, &before, &after, String::clone);
    }
}

fn changed_file(keys: &mut Keys<'_>, key: &'static str, old: Option<&TextFile>, new: Option<&TextFile>) {
    let same_path = old.map(|f| &f.path) == new.map(|f| &f.path);
    let show = |file: Option<&TextFile>| file.map_or_else(|| "none".into(), path);
    let after = match same_path && old != new {
        true => format!("{} as it is now", show(new)),
        false => show(new),
    };
    keys.compare(key, &show(old), &after, String::clone);
}

fn path(file: &TextFile) -> String {
    plain(&file.path.to_string_lossy())
}
