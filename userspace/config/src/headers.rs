//! Header rules of HTTP services, and the fields that are weir's own.
//!
//! Owns the syntax of a rule and which fields no rule may touch. Applying rules is the relay's work.

use weir_core::plan::{HeaderAction, HeaderRule, Replacement, Template};

use crate::{
    keys,
    reader::{Cx, Table, Value},
    templates::{self, Scope, check_bytes, check_value},
    words::quoted,
};

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

/// Fields that weir writes itself in one direction, in lower case, each with what to do for a rule to have it.
pub(crate) type Written = Vec<(String, &'static str)>;

/// All rules that could be read.
pub(crate) fn read(
    cx: &mut Cx,
    value: &Value<'_>,
    direction: Direction,
    written: &Written,
) -> Vec<HeaderRule> {
    let items = value.array(cx).unwrap_or_default();
    items
        .iter()
        .filter_map(|item| read_rule(cx, item, direction, written))
        .collect()
}

const ACTIONS: [&str; 4] = ["set", "append", "remove", "replace"];

fn read_rule(cx: &mut Cx, item: &Value<'_>, direction: Direction, written: &Written) -> Option<HeaderRule> {
    if !item.is_table() {
        item.mistake(
            cx,
            "has a rule that is no table",
            "write it as { set = \"X-Service\", value = \"www\" }",
        );
        return None;
    }
    let table = item.table(cx, &keys::HEADER_RULE)?;
    let actions: Vec<_> = ACTIONS
        .into_iter()
        .filter_map(|action| table.get(action).map(|value| (action, value)))
        .collect();
    if actions.is_empty() && ACTIONS.iter().any(|action| table.meant(action)) {
        return None;
    }
    let [(action, name_value)] = actions.as_slice() else {
        let has = if actions.is_empty() { "none" } else { "several" };
        cx.mistake(
            item.at,
            format!(
                "a rule of {} has {has} of set, append, remove and replace",
                item.path
            ),
            "write one per rule, as in { set = \"X-Service\", value = \"www\" }",
        );
        return None;
    };
    let name = read_name(cx, name_value, action, direction, written);
    let scope = match direction {
        Direction::Request => Scope::REQUEST,
        Direction::Response => Scope::RESPONSE,
    };
    let find = read_find(cx, &table, item, action);
    let value = read_value(cx, &table, item, action, scope);
    let (name, template) = (name?, value?);
    let action = match *action {
        "set" => HeaderAction::Set(template),
        "append" => HeaderAction::Append(template),
        "remove" => HeaderAction::Remove,
        _ => HeaderAction::Replace(Replacement {
            find: find?,
            with: template,
        }),
    };
    Some(HeaderRule { name, action })
}

fn read_name(
    cx: &mut Cx,
    value: &Value<'_>,
    action: &str,
    direction: Direction,
    written: &Written,
) -> Option<String> {
    let name = value.string(cx)?;
    if !check_name(cx, value, name) {
        return None;
    }
    let lower = name.to_ascii_lowercase();
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
    if let Some((_, mend)) = written.iter().find(|(own, _)| *own == lower) {
        value.mistake(
            cx,
            format!("changes {name}, which weir writes itself here"),
            *mend,
        );
        return None;
    }
    Some(name.to_owned())
}

/// Whether it is a field's name, of one that rules may touch.
pub(crate) fn check_name(cx: &mut Cx, value: &Value<'_>, name: &str) -> bool {
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token_byte) {
        value.mistake(
            cx,
            format!("has {}, which is no header name", quoted(name)),
            "write letters, digits and hyphens, without colon and spaces",
        );
        return false;
    }
    if belongs_to_connection(name) {
        value.mistake(
            cx,
            format!("changes {name}, which belongs to one connection or marks where a message ends"),
            "remove the rule; weir writes this field itself",
        );
        return false;
    }
    true
}

/// Whether the field is weir's own on every connection.
pub(crate) fn belongs_to_connection(name: &str) -> bool {
    OWN.iter().any(|own| own.eq_ignore_ascii_case(name))
}

/// What a `replace` looks for; none for the others, which have no `find`.
fn read_find(cx: &mut Cx, table: &Table<'_>, item: &Value<'_>, action: &str) -> Option<String> {
    match (table.get("find"), action) {
        (None, "replace") => {
            if !table.meant("find") {
                cx.mistake(
                    item.at,
                    format!("a rule of {} replaces and has no `find`", item.path),
                    "write find = \"…\" beside it, the text to be replaced",
                );
            }
            None
        }
        (None, _) => None,
        (Some(value), "replace") => {
            let text = value.string(cx)?;
            if text.is_empty() {
                value.mistake(cx, "is empty", "write the text to be replaced");
                return None;
            }
            check_bytes(cx, &value, text).then(|| text.to_owned())
        }
        (Some(value), _) => {
            cx.mistake(
                value.key_at,
                format!("a rule of {} has `find` and does not replace", item.path),
                "remove `find`, or write `replace`",
            );
            None
        }
    }
}

/// The template of `value`; an empty one for `remove`, which has none.
fn read_value(
    cx: &mut Cx,
    table: &Table<'_>,
    item: &Value<'_>,
    action: &str,
    scope: Scope,
) -> Option<Template> {
    match (table.get("value"), action) {
        (None, "remove") => Some(Template::default()),
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
        (Some(value), action) => {
            let text = value.string(cx)?;
            // A part of a value may begin and end with spaces.
            let sound = match action {
                "replace" => check_bytes(cx, &value, text),
                _ => check_value(cx, &value, text),
            };
            sound.then(|| templates::read(cx, &value, text, scope)).flatten()
        }
    }
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
