//! Header rules of HTTP services: names, values with variables, and the fields that are weir's own.
//!
//! Owns the syntax of a rule and which fields no rule may touch. Applying rules is the relay's work.

use weir_core::plan::{Forwarded, HeaderAction, HeaderRule, Template, TemplatePart, Variable};

use crate::{
    keys,
    reader::{Cx, Table, Value},
    words::{listed, quoted},
};

/// Longest value of a rule: a head of the default size has room for it.
const MAX_VALUE: usize = 8192;

/// Fields that belong to one connection or frame the message (RFC 9110 section 7.6.1, RFC 9112 section 6): a rule that
/// changed one would change where a message ends, or what the connection does.
const OWN: [&str; 10] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Which messages the rules are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// All rules that could be read.
pub(crate) fn read(
    cx: &mut Cx,
    value: &Value<'_>,
    direction: Direction,
    forwarded: Forwarded,
) -> Vec<HeaderRule> {
    let items = value.array(cx).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| read_rule(cx, item, direction, forwarded))
        .collect()
}

fn read_rule(
    cx: &mut Cx,
    item: &Value<'_>,
    direction: Direction,
    forwarded: Forwarded,
) -> Option<HeaderRule> {
    if !item.is_table() {
        item.mistake(
            cx,
            "has a rule that is no table",
            "write it as { set = \"X-Service\", value = \"www\" }",
        );
        return None;
    }
    let table = item.table(cx, &keys::HEADER_RULE)?;
    let actions: Vec<_> = ["set", "append", "remove"]
        .into_iter()
        .filter_map(|action| table.get(action).map(|value| (action, value)))
        .collect();
    if actions.is_empty()
        && ["set", "append", "remove"]
            .iter()
            .any(|action| table.meant(action))
    {
        return None;
    }
    let [(action, name_value)] = actions.as_slice() else {
        let has = if actions.is_empty() { "none" } else { "several" };
        cx.mistake(
            item.at,
            format!("a rule of {} has {has} of set, append and remove", item.path),
            "write one per rule, as in { set = \"X-Service\", value = \"www\" }",
        );
        return None;
    };
    let name = read_name(cx, name_value, action, direction, forwarded);
    let value = read_value(cx, &table, item, action);
    let (name, template) = (name?, value?);
    let action = match *action {
        "set" => HeaderAction::Set(template),
        "append" => HeaderAction::Append(template),
        _ => HeaderAction::Remove,
    };
    Some(HeaderRule { name, action })
}

fn read_name(
    cx: &mut Cx,
    value: &Value<'_>,
    action: &str,
    direction: Direction,
    forwarded: Forwarded,
) -> Option<String> {
    let name = value.string(cx)?;
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token_byte) {
        value.mistake(
            cx,
            format!("has {}, which is no header name", quoted(name)),
            "write letters, digits and hyphens, without colon and spaces",
        );
        return None;
    }
    let lower = name.to_ascii_lowercase();
    if OWN.contains(&lower.as_str()) {
        value.mistake(
            cx,
            format!("changes {name}, which belongs to one connection or marks where a message ends"),
            "remove the rule; weir writes this field itself",
        );
        return None;
    }
    if lower == "host" && (direction == Direction::Response || action != "set") {
        let why = match direction {
            Direction::Request => "but a request has exactly one Host",
            Direction::Response => "but responses have no Host",
        };
        value.mistake(
            cx,
            format!("is Host, {why}"),
            "use `set` in request_headers, or remove the rule",
        );
        return None;
    }
    let own = match forwarded {
        Forwarded::XForwardedFor => lower == "x-forwarded-for",
        Forwarded::Rfc7239 => lower == "forwarded",
        Forwarded::Both => lower == "x-forwarded-for" || lower == "forwarded",
        Forwarded::Off => false,
    };
    if own && direction == Direction::Request {
        value.mistake(
            cx,
            format!("changes {name}, which weir writes itself here"),
            "set `forwarded` to another value or \"off\", or remove the rule",
        );
        return None;
    }
    Some(name.to_owned())
}

/// The template of `value`; an empty one for `remove`, which has none.
fn read_value(cx: &mut Cx, table: &Table<'_>, item: &Value<'_>, action: &str) -> Option<Template> {
    match (table.get("value"), action) {
        (None, "remove") => Some(Template { parts: Vec::new() }),
        (Some(value), "remove") => {
            cx.mistake(
                value.key_at,
                format!("a rule of {} removes and has a value", item.path),
                "remove `value`",
            );
            None
        }
        (None, _) if table.meant("value") => None,
        (None, _) => {
            cx.mistake(
                item.at,
                format!("a rule of {} has no `value`", item.path),
                "write value = \"…\" beside it",
            );
            None
        }
        (Some(value), _) => {
            let text = value.string(cx)?;
            check_value(cx, &value, text)
                .then(|| read_template(cx, &value, text))
                .flatten()
        }
    }
}

/// Visible ASCII, spaces and tabs inside: RFC 9110 section 5.5 without obs-text.
fn check_value(cx: &mut Cx, value: &Value<'_>, text: &str) -> bool {
    if let Some(odd) = text.chars().find(|c| !matches!(c, '\t' | ' '..='~')) {
        let what = match odd {
            '\r' | '\n' => "has a line break in it, which would begin another header".into(),
            '\0' => "has a NUL in it".into(),
            odd => format!("has the character {} in it", quoted(&odd.to_string())),
        };
        value.mistake(cx, what, "write visible ASCII, spaces and tabs");
        return false;
    }
    if text.len() > MAX_VALUE {
        value.mistake(
            cx,
            format!("has {} bytes, more than {MAX_VALUE}", text.len()),
            "write a shorter one",
        );
        return false;
    }
    if text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']) {
        value.mistake(
            cx,
            "begins or ends with a space, which receivers drop",
            "remove it",
        );
        return false;
    }
    true
}

/// Literals and `{variables}`; `{{` and `}}` stand for braces.
fn read_template(cx: &mut Cx, value: &Value<'_>, text: &str) -> Option<Template> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(brace) = rest.find(['{', '}']) {
        let (before, from) = rest.split_at(brace);
        literal.push_str(before);
        if let Some(after) = from.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = from.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else {
            let Some((name, after)) = from.strip_prefix('{').and_then(|from| from.split_once('}')) else {
                let (what, brace) = if from.starts_with('{') {
                    ("opens", "{{")
                } else {
                    ("closes", "}}")
                };
                value.mistake(
                    cx,
                    format!(
                        "{what} a variable and never {}",
                        if what == "opens" { "closes it" } else { "opened it" }
                    ),
                    format!("write {brace} for a brace that stands for itself"),
                );
                return None;
            };
            let variable = find_variable(cx, value, name)?;
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
            }
            parts.push(TemplatePart::Variable(variable));
            rest = after;
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Some(Template { parts })
}

fn find_variable(cx: &mut Cx, value: &Value<'_>, name: &str) -> Option<Variable> {
    if let Some((_, variable)) = Variable::ALL.iter().find(|(known, _)| *known == name) {
        return Some(*variable);
    }
    let known = Variable::ALL.map(|(known, _)| known);
    let mend = match cx.guess(name, known) {
        Some(near) => format!("did you mean {{{near}}}?"),
        None => format!("there are {}; write {{{{ for a brace", listed(&known, "and")),
    };
    value.mistake(
        cx,
        format!("has the unknown variable {}", quoted(&format!("{{{name}}}"))),
        mend,
    );
    None
}

/// Bytes of a token (RFC 9110 section 5.6.2): methods and header names.
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
