//! `[services.NAME.rewrite]`, and the same in a rule: what becomes of a request's target and `Host`.
//!
//! Owns the keys, and what may stand in paths, queries and hosts, so that no rewriting can make a request that is none.

use weir_core::plan::{
    HostRewrite, PathPattern, PathRewrite, Replacement, Rewrite, Template, TemplatePart, Variable,
};

use crate::{
    check::is_host,
    keys,
    reader::{Cx, Table, Value},
    templates::{self, MAX_VALUE, Scope},
    words::quoted,
};

/// Reads the section. `prefix` says whether a prefix was matched, which `{match.rest}` then speaks of.
pub(super) fn read(cx: &mut Cx, value: &Value<'_>, prefix: bool) -> Option<Rewrite> {
    let table = value.table(cx, &keys::REWRITE)?;
    let path = read_path(cx, &table, prefix);
    let replace = table.get("replace").map(|value| read_replace(cx, &value));
    let query = table.get("query").map(|value| {
        let text = value.string(cx)?;
        read_part(cx, &value, text, Part::Query, prefix)
    });
    let host = table.get("host").map(|value| read_host(cx, &value));
    Some(Rewrite {
        path: path?,
        replace: replace.unwrap_or_else(|| Some(Vec::new()))?,
        query: match query {
            Some(query) => Some(query?),
            None => None,
        },
        host: host.unwrap_or(Some(HostRewrite::Keep))?,
    })
}

fn read_path(cx: &mut Cx, table: &Table<'_>, prefix: bool) -> Option<PathRewrite> {
    let (strip, add) = (table.get("strip_prefix"), table.get("add_prefix"));
    if let Some(value) = table.get("path") {
        if strip.is_some() || add.is_some() {
            cx.mistake(
                value.key_at,
                format!(
                    "{} says the whole path, beside strip_prefix or add_prefix",
                    value.path
                ),
                "remove it, or them",
            );
            return None;
        }
        return read_whole(cx, &value, prefix).map(PathRewrite::Whole);
    }
    if strip.is_none() && add.is_none() {
        return Some(PathRewrite::Keep);
    }
    let strip = strip.map(|value| read_pattern(cx, &value));
    let add = add.map(|value| read_added(cx, &value, prefix));
    let strip = strip.unwrap_or_else(|| Some(PathPattern::default()))?;
    let add = add.unwrap_or_else(|| Some(Template::default()))?;
    Some(PathRewrite::Prefix { strip, add })
}

fn read_whole(cx: &mut Cx, value: &Value<'_>, prefix: bool) -> Option<Template> {
    let text = value.string(cx)?;
    let template = read_part(cx, value, text, Part::Path, prefix)?;
    let begins = match template.parts.first() {
        Some(TemplatePart::Literal(text)) => text.starts_with('/'),
        Some(TemplatePart::Variable(variable)) => *variable == Variable::RequestPath,
        Some(
            TemplatePart::RequestField(_) | TemplatePart::ResponseField(_) | TemplatePart::ClientExtension(_),
        )
        | None => false,
    };
    if !begins {
        value.mistake(
            cx,
            format!("is {}, which does not begin a path", quoted(text)),
            "begin it with /, or with {request.path}",
        );
        return None;
    }
    Some(template)
}

fn read_added(cx: &mut Cx, value: &Value<'_>, prefix: bool) -> Option<Template> {
    let text = value.string(cx)?;
    let template = read_part(cx, value, text, Part::Path, prefix)?;
    let begins = matches!(template.parts.first(), Some(TemplatePart::Literal(text)) if text.starts_with('/'));
    let slash = matches!(template.parts.last(), Some(TemplatePart::Literal(text)) if text.ends_with('/'));
    if !begins || slash {
        value.mistake(
            cx,
            format!("is {}", quoted(text)),
            "begin it with / and end it without, as in /v2; what follows brings its own slash",
        );
        return None;
    }
    Some(template)
}

fn read_replace(cx: &mut Cx, value: &Value<'_>) -> Option<Vec<Replacement<String>>> {
    let mut all = Some(Vec::new());
    for item in value.array(cx)? {
        match (read_replacement(cx, &item), &mut all) {
            (Some(replacement), Some(list)) => list.push(replacement),
            (Some(_), None) => {}
            (None, _) => all = None,
        }
    }
    all
}

fn read_replacement(cx: &mut Cx, item: &Value<'_>) -> Option<Replacement<String>> {
    let table = item.table(cx, &keys::PATH_REPLACE)?;
    let mut text = |key, mend| {
        let value = table.require(cx, key, mend)?;
        let text = value.string(cx)?;
        if key == "find" && text.is_empty() {
            value.mistake(cx, "is empty", mend);
            return None;
        }
        check_part(cx, &value, text, Part::Path).then(|| text.to_owned())
    };
    let find = text("find", "write find = \"…\", the text in the path to be replaced");
    let with = text(
        "with",
        "write with = \"…\", what comes in its place; \"\" takes it out",
    );
    Some(Replacement {
        find: find?,
        with: with?,
    })
}

fn read_host(cx: &mut Cx, value: &Value<'_>) -> Option<HostRewrite> {
    match value.string(cx)? {
        "keep" => Some(HostRewrite::Keep),
        "backend" => Some(HostRewrite::Backend),
        text => {
            let template = templates::read(cx, value, text, Scope::REQUEST)?;
            // What variables make of it is known when the request is there.
            if template.as_literal().is_some_and(|host| !is_host(host)) {
                value.mistake(
                    cx,
                    format!("is {}, which is no Host header", quoted(text)),
                    "write \"keep\", \"backend\", or a name or address with a port if need be, as in www.example.org:8080",
                );
                return None;
            }
            Some(HostRewrite::Set(template))
        }
    }
}

/// What of a target a text is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Path,
    Query,
}

fn read_part(cx: &mut Cx, value: &Value<'_>, text: &str, part: Part, prefix: bool) -> Option<Template> {
    let scope = Scope {
        prefix,
        ..Scope::PART
    };
    let template = templates::read(cx, value, text, scope)?;
    let sound = template.parts.iter().all(|p| match p {
        TemplatePart::Literal(text) => check_part(cx, value, text, part),
        TemplatePart::Variable(_)
        | TemplatePart::RequestField(_)
        | TemplatePart::ResponseField(_)
        | TemplatePart::ClientExtension(_) => true,
    });
    sound.then_some(template)
}

/// Whether a text may be a part of a path or a query as it stands.
fn check_part(cx: &mut Cx, value: &Value<'_>, text: &str, part: Part) -> bool {
    let odd = text
        .chars()
        .find(|c| !c.is_ascii_graphic() || "\"#<>\\^`{|}".contains(*c) || (*c == '?' && part == Part::Path));
    match odd {
        Some('?') => value.mistake(
            cx,
            "has a question mark, where the path ends",
            "write the query into `query`",
        ),
        Some(odd) => value.mistake(
            cx,
            format!(
                "has the character {}, which a request target can't have",
                quoted(&odd.to_string())
            ),
            "percent-encode it, as in %20 for a space, or remove it",
        ),
        None if text.len() > MAX_VALUE => value.mistake(
            cx,
            format!("has {} bytes, more than {MAX_VALUE}", text.len()),
            "write a shorter one",
        ),
        None if !escapes_are_whole(text) => value.mistake(
            cx,
            "has a % without two hexadecimal digits",
            "write %25 for a percent sign",
        ),
        None => return true,
    }
    false
}

fn escapes_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit))
    })
}

/// A path to compare with, in its normal form.
pub(super) fn read_pattern(cx: &mut Cx, value: &Value<'_>) -> Option<PathPattern> {
    let text = value.string(cx)?;
    if !text.starts_with('/') {
        value.mistake(cx, format!("is {}", quoted(text)), "begin it with /, as in /docs");
        return None;
    }
    if !check_part(cx, value, text, Part::Path) {
        return None;
    }
    let normal = normal(text);
    if normal.contains("//") {
        value.mistake(
            cx,
            "has two slashes in a row, which are compared as one",
            "write one",
        );
        return None;
    }
    if normal.split('/').any(|segment| matches!(segment, "." | "..")) {
        value.mistake(
            cx,
            "has a segment `.` or `..`, and requests with such are refused",
            "write the path without it",
        );
        return None;
    }
    Some(PathPattern::new(normal))
}

/// Unreserved characters decoded, hexadecimal digits in capitals (RFC 3986 section 6.2.2).
fn normal(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
        match u8::from_str_radix(digits, 16).map(char::from) {
            Ok(c) if c.is_ascii_alphanumeric() || "-._~".contains(c) => out.push(c),
            Ok(_) | Err(_) => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        out.push_str(rest);
    }
    out
}

/// Whether a path in normal form begins with a pattern, in whole segments.
pub(super) fn begins_with(path: &str, prefix: &PathPattern) -> bool {
    let rest = path.strip_prefix(prefix.as_str());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.as_str().ends_with('/'))
}
