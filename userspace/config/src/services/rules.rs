//! `[[services.NAME.rules]]`: what becomes of requests, by host, path, method and header.
//!
//! Owns the keys of redirects and responses, and which rules could never do anything. The first rule that
//! holds decides; that is what the relay goes by, and what a message here relies on.

use std::sync::Arc;

use weir_core::ids::PoolName;
use weir_core::plan::{
    Conditions, PathPattern, PathRewrite, Redirect, Relayed, Respond, Rewrite, Rule, RuleAction, Template,
    TemplatePart, Variable,
};

use super::{
    AskedPool, Files,
    conditions::read_conditions,
    rewrite::{self, begins_with},
};
use crate::{
    bodies::BodyFile,
    headers::{belongs_to_connection, check_name},
    keys,
    node::read_path,
    reader::{Cx, Table, Value},
    templates::{self, Scope, check_value},
    words::{listed, quoted},
};

/// Rules of a service: each request goes through them in turn.
const MOST: usize = 512;
/// Longest body that is written into weir.toml, in bytes.
const MAX_BODY: usize = 64 << 10;
const ACTIONS: [&str; 4] = ["redirect", "respond", "rewrite", "pool"];
const TEXT: &str = "text/plain; charset=utf-8";

/// All rules that could be read.
pub(super) fn read(cx: &mut Cx, value: &Value<'_>, files: &mut Files<'_>) -> Vec<Rule> {
    let items = value.array(cx).unwrap_or_default();
    if are_too_many(cx, value, items.len()) {
        return Vec::new();
    }
    let mut rules: Vec<Rule> = Vec::new();
    let mut places: Vec<usize> = Vec::new();
    let mut takes_all: Option<usize> = None;
    for item in &items {
        let Some(rule) = read_rule(cx, item, &rules, files) else {
            continue;
        };
        if let Some(at) = takes_all {
            cx.mistake(
                item.at,
                format!(
                    "this rule of {} never holds: the one in line {} takes every request",
                    item.path,
                    cx.line(at)
                ),
                "move that one to the end, or give it a `match`",
            );
        } else if rule.conditions.hold_always() {
            takes_all = Some(item.at);
        } else if let Some(same) = rules.iter().position(|known| known.conditions == rule.conditions) {
            let line = places.get(same).map_or(0, |at| cx.line(*at));
            cx.mistake(
                item.at,
                format!(
                    "this rule of {} never holds: the one in line {line} has the same conditions",
                    item.path
                ),
                "remove one of the two",
            );
        }
        rules.push(rule);
        places.push(item.at);
    }
    rules
}

/// Whether there are more than each request could go through.
pub(super) fn are_too_many(cx: &mut Cx, value: &Value<'_>, rules: usize) -> bool {
    if rules > MOST {
        value.mistake(
            cx,
            format!("has {rules} rules, more than {MOST}"),
            "put what follows from another condition into another service",
        );
    }
    rules > MOST
}

fn read_rule(cx: &mut Cx, item: &Value<'_>, earlier: &[Rule], files: &mut Files<'_>) -> Option<Rule> {
    let table = item.table(cx, &keys::RULE)?;
    let conditions = match table.get("match") {
        Some(value) => read_conditions(cx, &value),
        None if table.meant("match") => None,
        None => Some(Conditions::default()),
    };
    let prefix = table
        .get("match")
        .and_then(|value| value.names(cx))
        .is_some_and(|conditions| conditions.get("path_prefix").is_some());
    let actions: Vec<_> = ACTIONS
        .into_iter()
        .filter_map(|action| table.get(action).map(|value| (action, value)))
        .collect();
    if actions.is_empty() && ACTIONS.iter().any(|action| table.meant(action)) {
        return None;
    }
    let action = match actions.as_slice() {
        [("rewrite", rewrite), ("pool", pool)] => {
            let rewrite = read_rewrite(cx, rewrite, prefix, conditions.as_ref());
            let pool = read_pool(cx, pool, files);
            Some(RuleAction::Relay(Relayed {
                rewrite: Some(rewrite?),
                pool: Some(pool?),
            }))
        }
        [("pool", pool)] => read_pool(cx, pool, files).map(|pool| {
            RuleAction::Relay(Relayed {
                pool: Some(pool),
                rewrite: None,
            })
        }),
        [("rewrite", value)] => read_rewrite(cx, value, prefix, conditions.as_ref()).map(|rewrite| {
            RuleAction::Relay(Relayed {
                pool: None,
                rewrite: Some(rewrite),
            })
        }),
        [("redirect", value)] => {
            let redirect = read_redirect(cx, value, prefix);
            if let (Some((redirect, at)), Some(conditions)) = (&redirect, &conditions)
                && leads_back(&redirect.to, conditions, earlier)
            {
                cx.mistake(
                    *at,
                    format!(
                        "{}.to leads to where this rule holds again, without end",
                        value.path
                    ),
                    "lead to another path, or to a host that the rule does not hold for",
                );
            }
            redirect.map(|(redirect, _)| RuleAction::Redirect(redirect))
        }
        [("respond", value)] => read_respond(cx, value, files).map(RuleAction::Respond),
        _ => {
            let has = if actions.is_empty() { "none" } else { "several" };
            cx.mistake(
                item.at,
                format!(
                    "a rule of {} has {has} of redirect, respond, rewrite and pool",
                    item.path
                ),
                "write one per rule, as in pool = \"web\"; only `rewrite` and `pool` go together",
            );
            return None;
        }
    };
    Some(Rule {
        conditions: conditions?,
        action: action?,
    })
}

/// The pool that a rule sends requests to; whether there is one is asked later.
pub(super) fn read_pool(cx: &mut Cx, value: &Value<'_>, files: &mut Files<'_>) -> Option<PoolName> {
    let name = value.string(cx)?;
    files.pools.push(AskedPool {
        name: name.to_owned(),
        at: value.at,
        key: value.path.clone(),
    });
    Some(PoolName::new(name))
}

fn read_rewrite(
    cx: &mut Cx,
    value: &Value<'_>,
    prefix: bool,
    conditions: Option<&Conditions>,
) -> Option<Rewrite> {
    let rewrite = rewrite::read(cx, value, prefix)?;
    if rewrite == Rewrite::default() && !says_keep(cx, value) {
        value.mistake(
            cx,
            "changes nothing",
            format!("write {}", listed(keys::REWRITE.keys, "or")),
        );
        return None;
    }
    if let (Some(conditions), PathRewrite::Prefix { strip, .. }) = (conditions, &rewrite.path) {
        let mut paths = conditions.path.iter().chain(&conditions.path_prefix);
        if let Some(other) = paths.find(|path| !begins_with(path.as_str(), strip)) {
            value.mistake(
                cx,
                format!(
                    "takes {} off, and no path under {} begins so",
                    quoted(strip.as_str()),
                    quoted(other.as_str())
                ),
                "write a prefix that the paths of `match` have",
            );
            return None;
        }
    }
    Some(rewrite)
}

/// `host = "keep"` alone says that the service's own rewriting does not count here.
fn says_keep(cx: &mut Cx, value: &Value<'_>) -> bool {
    value.names(cx).is_some_and(|table| table.get("host").is_some())
}

/// A redirect, and the place of where it leads.
fn read_redirect(cx: &mut Cx, value: &Value<'_>, prefix: bool) -> Option<(Redirect, usize)> {
    let table = value.table(cx, &keys::REDIRECT)?;
    let to = table.require(cx, "to", "write to = \"https://www.example.org{request.target}\"");
    let to = to.and_then(|value| Some((read_location(cx, &value, prefix)?, value.at)));
    let status = match table.get("status") {
        None => Some(307),
        Some(value) => value.integer(cx, 0..=999).and_then(|status| match status {
            301 | 302 | 303 | 307 | 308 => u16::try_from(status).ok(),
            _ => {
                value.mistake(
                    cx,
                    format!("is {status}, which is no redirect"),
                    "write 307 (temporary), 308 (permanent), 303 (see other), or 301 or 302 for clients that know no better",
                );
                None
            }
        }),
    };
    let ((to, at), status) = (to?, status?);
    Some((Redirect { to, status }, at))
}

fn read_location(cx: &mut Cx, value: &Value<'_>, prefix: bool) -> Option<Template> {
    let text = value.string(cx)?;
    let scope = Scope {
        prefix,
        ..Scope::ANSWER
    };
    if let Some(odd) = text
        .chars()
        .find(|c| !c.is_ascii_graphic() || "\"<>\\^`|".contains(*c))
    {
        value.mistake(
            cx,
            format!(
                "has the character {}, which a URL can't have",
                quoted(&odd.to_string())
            ),
            "percent-encode it, as in %20 for a space, or remove it",
        );
        return None;
    }
    let template = templates::read(cx, value, text, scope)?;
    let begins = match template.parts.as_slice() {
        [TemplatePart::Literal(text), rest @ ..] => match text.split_once("://") {
            Some(("http" | "https", "")) => !rest.is_empty(),
            Some(("http" | "https", host)) => !host.starts_with(['/', '?', '#', ':', '@']),
            Some(_) | None => text.starts_with('/') && !text.starts_with("//"),
        },
        [
            TemplatePart::Variable(Variable::RequestPath | Variable::RequestTarget),
            ..,
        ] => true,
        _ => false,
    };
    if !begins {
        value.mistake(
            cx,
            format!("is {}, which leads nowhere", quoted(text)),
            "begin it with https:// or http:// and a host, or with a single /",
        );
        return None;
    }
    Some(template)
}

/// Whether a redirect without a host certainly leads to where the rule holds again: no `earlier` one can hold there.
fn leads_back(to: &Template, conditions: &Conditions, earlier: &[Rule]) -> bool {
    if !conditions.method.is_empty() || !conditions.header.is_empty() {
        return false;
    }
    match to.parts.as_slice() {
        // The path stays what it is.
        [TemplatePart::Variable(Variable::RequestPath | Variable::RequestTarget)] => true,
        [TemplatePart::Literal(text), rest @ ..] if text.starts_with('/') => {
            let path = text.split(['?', '#']).next().unwrap_or_default();
            // Else it goes on, and may end in any way.
            let whole = rest.is_empty() || path.len() < text.len();
            let is = |wanted: &PathPattern| whole && wanted.as_str() == path;
            let under = |prefix: &PathPattern| {
                begins_with(path, prefix) && (whole || path.len() > prefix.as_str().len())
            };
            let holds = conditions.hold_always()
                || conditions.path.iter().any(is)
                || conditions.path_prefix.iter().any(under);
            holds
                && !earlier
                    .iter()
                    .any(|rule| !whole || reaches(&rule.conditions, path))
        }
        _ => false,
    }
}

/// Whether conditions can hold for a path, on some host and by some method.
fn reaches(conditions: &Conditions, path: &str) -> bool {
    (conditions.path.is_empty() || conditions.path.iter().any(|wanted| wanted.as_str() == path))
        && (conditions.path_prefix.is_empty()
            || conditions
                .path_prefix
                .iter()
                .any(|prefix| begins_with(path, prefix)))
}

fn read_respond(cx: &mut Cx, value: &Value<'_>, files: &mut Files<'_>) -> Option<Respond> {
    let table = value.table(cx, &keys::RESPOND)?;
    let status = match table.get("status") {
        None => Some(200),
        Some(value) => value.integer(cx, 200..=599).and_then(|s| u16::try_from(s).ok()),
    };
    let body = read_body(cx, &table, files);
    let content_type = table.get("content_type").map(|value| {
        let text = value.string(cx)?;
        if !text.contains('/') || text.contains(['{', '}']) {
            value.mistake(
                cx,
                format!("is {}, which is no media type", quoted(text)),
                "write one as in text/html; charset=utf-8",
            );
            return None;
        }
        check_value(cx, &value, text).then(|| text.to_owned())
    });
    let headers = table.get("headers").map(|value| read_headers(cx, &value));
    let (status, (body, has_body)) = (status?, body?);
    let content_type = match content_type {
        Some(media) => Some(media?),
        None => None,
    };
    if has_body && matches!(status, 204 | 205 | 304) {
        value.mistake(
            cx,
            format!("has a body, and a response of status {status} has none"),
            "remove the body, or write another status",
        );
        return None;
    }
    if content_type.is_some() && !has_body {
        value.mistake(
            cx,
            "has a content_type and no body",
            "write `body` or `file`, or remove content_type",
        );
        return None;
    }
    Some(Respond {
        status,
        body,
        content_type: has_body.then(|| content_type.unwrap_or_else(|| TEXT.into())),
        headers: headers.unwrap_or_else(|| Some(Vec::new()))?,
    })
}

/// The body, and whether there is one.
fn read_body(cx: &mut Cx, table: &Table<'_>, files: &mut Files<'_>) -> Option<(Arc<str>, bool)> {
    match (table.get("body"), table.get("file")) {
        (Some(_), Some(file)) => {
            cx.mistake(
                file.key_at,
                format!("{} stands beside `body`", file.path),
                "remove one of the two",
            );
            None
        }
        (Some(value), None) => {
            let text = value.string(cx)?;
            if text.len() > MAX_BODY {
                value.mistake(
                    cx,
                    format!("has {} bytes, more than {MAX_BODY}", text.len()),
                    "put it into a file and name that by `file`",
                );
                return None;
            }
            Some((text.into(), !text.is_empty()))
        }
        (None, Some(value)) => {
            let path = read_path(cx, &value)?;
            let text = files.bodies.get(&path).unwrap_or_default();
            files.named.push(BodyFile {
                path,
                at: value.at,
                key: value.path,
            });
            Some((text.into(), true))
        }
        (None, None) => Some(("".into(), false)),
    }
}

fn read_headers(cx: &mut Cx, value: &Value<'_>) -> Option<Vec<(String, Template)>> {
    let mut all = Some(Vec::new());
    for (name, value) in value.names(cx)?.entries() {
        let own = match name.to_ascii_lowercase().as_str() {
            "content-type" => Some("write `content_type`"),
            "host" => Some("remove it; responses have no Host"),
            "date" => Some("remove it; weir writes this field itself"),
            lower if belongs_to_connection(lower) => Some("remove it; weir writes this field itself"),
            _ => None,
        };
        let read = match own {
            Some(mend) => {
                cx.mistake(
                    value.key_at,
                    format!("{} stands beside weir's own", value.path),
                    mend,
                );
                None
            }
            None if !check_name(cx, &value, name) => None,
            None => value.string(cx).and_then(|text| {
                let sound = check_value(cx, &value, text);
                sound
                    .then(|| templates::read(cx, &value, text, Scope::ANSWER))
                    .flatten()
            }),
        };
        match (read, &mut all) {
            (Some(template), Some(list)) => list.push((name.to_owned(), template)),
            (Some(_), None) => {}
            (None, _) => all = None,
        }
    }
    all
}
