//! `policy`, `versions`, `ciphers` and `groups`: what of TLS is spoken, with clients as with backends.
//!
//! Owns the keys and what of them fits together.

use weir_core::plan::{TLS_CIPHERS, TLS_GROUPS, TlsPolicy, TlsVersion};
use weir_tls::{Mistake, Policy};

use crate::{
    reader::{Cx, Table, Value},
    words::quoted,
};

/// What of TLS is spoken.
pub(crate) struct Spoken {
    pub(crate) policy: TlsPolicy,
    pub(crate) versions: Option<Vec<TlsVersion>>,
    pub(crate) ciphers: Option<Vec<&'static str>>,
    pub(crate) groups: Option<Vec<&'static str>>,
}

/// The keys; and `groups`, which is to be judged once all is known.
pub(crate) fn read<'d>(cx: &mut Cx, table: &Table<'d>) -> (Spoken, Option<Value<'d>>) {
    let policy = table.get("policy").and_then(|value| {
        let words = [TlsPolicy::Intermediate, TlsPolicy::Modern].map(|policy| (policy.as_str(), policy));
        value.choice(cx, &words, &["old"])
    });
    let policy = policy.unwrap_or_default();
    let versions = table.get("versions").and_then(|value| read_versions(cx, &value));
    let effective = versions.as_deref().unwrap_or_else(|| policy.versions());
    let ciphers = table
        .get("ciphers")
        .and_then(|value| read_ciphers(cx, &value, effective));
    let groups_value = table.get("groups");
    let groups = groups_value.as_ref().and_then(|value| {
        let words = TLS_GROUPS.map(|name| (name, name));
        read_list(cx, value, &words, "for the groups of the policy")
    });
    let spoken = Spoken {
        policy,
        versions,
        ciphers,
        groups,
    };
    (spoken, groups_value)
}

/// Groups that do not go with the versions. `judged` is what comes of all but the ciphers.
pub(crate) fn judge_groups(cx: &mut Cx, groups: Option<&Value<'_>>, judged: Result<Policy, Mistake>) {
    if let (Some(value), Err(mistake)) = (groups, judged) {
        let mistake = mistake.to_string();
        let (what, mend) = mistake
            .split_once("; ")
            .unwrap_or((&mistake, "name other groups"));
        value.mistake(cx, format!("does not do: {what}"), mend);
    }
}

fn read_versions(cx: &mut Cx, value: &Value<'_>) -> Option<Vec<TlsVersion>> {
    let words = [TlsVersion::Tls12, TlsVersion::Tls13].map(|version| (version.as_str(), version));
    let mut versions = read_list(cx, value, &words, "for the versions of the policy")?;
    versions.sort_unstable();
    Some(versions)
}

fn read_ciphers(cx: &mut Cx, value: &Value<'_>, versions: &[TlsVersion]) -> Option<Vec<&'static str>> {
    let words = TLS_CIPHERS.map(|(name, version)| (name, (name, version)));
    let read = read_list(cx, value, &words, "for the cipher suites of the policy")?;
    for version in versions {
        if !read.iter().any(|(_, of)| of == version) {
            value.mistake(
                cx,
                format!("has none of TLS {}", version.as_str()),
                "add one, or leave that version out of `versions`",
            );
        }
    }
    if let Some((name, version)) = read.iter().find(|(_, of)| !versions.contains(of)) {
        value.mistake(
            cx,
            format!("has {name}, which is of TLS {}", version.as_str()),
            "remove it, or add that version to `versions`",
        );
    }
    Some(read.into_iter().map(|(name, _)| name).collect())
}

/// A list of words, each once. None: it is not as it was meant.
fn read_list<T: Copy + PartialEq>(
    cx: &mut Cx,
    value: &Value<'_>,
    words: &[(&str, T)],
    without: &str,
) -> Option<Vec<T>> {
    let items = value.array(cx)?;
    if items.is_empty() {
        value.mistake(cx, "is empty", format!("remove it {without}"));
        return None;
    }
    let mut list = Vec::new();
    for item in &items {
        let word = item.choice(cx, words, &[])?;
        if list.contains(&word) {
            let word = item.as_string().unwrap_or_default();
            item.mistake(cx, format!("has {} twice", quoted(word)), "remove one of them");
        } else {
            list.push(word);
        }
    }
    Some(list)
}
