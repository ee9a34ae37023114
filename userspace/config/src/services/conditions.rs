//! `services.NAME.rules.match`: when a rule holds.
//!
//! Owns the keys of conditions and what makes one that could never hold. What follows from a rule is `rules.rs`.

use weir_core::plan::{Conditions, FieldCondition, FieldValue, VariableCondition};

use super::rewrite;
use crate::{
    check::{is_dns_name, read_method},
    headers::is_token_byte,
    keys,
    reader::{Cx, Table, Value},
    templates::{self, check_bytes, check_value},
    words::{listed, quoted},
};

/// Conditions on requests.
const OF_HTTP: [&str; 6] = ["host", "path", "path_prefix", "method", "header", "variable"];

pub(super) fn read_conditions(cx: &mut Cx, value: &Value<'_>) -> Option<Conditions> {
    let table = value.table(cx, &keys::MATCH)?;
    let why = "does not apply to an http service";
    table.refuse(
        cx,
        &["sni", "alpn"],
        why,
        "write `host`, or mode = \"tcp\" to pass TLS on",
    );
    if let (Some(_), Some(prefix)) = (table.get("path"), table.get("path_prefix")) {
        cx.mistake(
            prefix.key_at,
            format!("{} stands beside `path`, which says the whole", prefix.path),
            "remove one of the two, or write two rules",
        );
        return None;
    }
    let host = several(cx, &table, "host", read_host_pattern);
    let path = several(cx, &table, "path", rewrite::read_pattern);
    let path_prefix = several(cx, &table, "path_prefix", rewrite::read_pattern);
    let method = several(cx, &table, "method", read_method);
    let header = read_tables(
        cx,
        &table,
        "header",
        "{ name = \"X-Version\", value = \"2\" }",
        read_field,
    );
    let example = "{ name = \"tls.client.verify\", value = \"ok\" }";
    let variable = read_tables(cx, &table, "variable", example, read_variable);
    let conditions = Conditions {
        host: host?,
        path: path?,
        path_prefix: path_prefix?,
        method: method?,
        header: header?,
        variable: variable?,
    };
    if conditions == Conditions::default() {
        if table.entries().is_empty() {
            value.mistake(
                cx,
                "has no condition",
                format!("write {}, or remove it for every request", listed(&OF_HTTP, "or")),
            );
        }
        return None;
    }
    Some(conditions)
}

/// What something named must be like: one table, or an array of them. None if one could not be read.
fn read_tables<T>(
    cx: &mut Cx,
    table: &Table<'_>,
    key: &str,
    example: &str,
    read: impl Fn(&mut Cx, &Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(value) = table.get(key) else {
        return Some(Vec::new());
    };
    if value.is_table() {
        return Some(vec![read(cx, &value)?]);
    }
    let items = value.array(cx)?;
    if items.is_empty() {
        value.mistake(
            cx,
            "is empty, and says nothing",
            format!("write one as in {example}, or remove it"),
        );
        return None;
    }
    let all: Vec<_> = items.iter().filter_map(|item| read(cx, item)).collect();
    (all.len() == items.len()).then_some(all)
}

fn read_variable(cx: &mut Cx, value: &Value<'_>) -> Option<VariableCondition> {
    let table = value.table(cx, &keys::MATCH_VARIABLE)?;
    let named = table.require(
        cx,
        "name",
        "name the variable, as in name = \"tls.client.verify\"",
    )?;
    let variable = templates::read_of_tls(cx, &named)?;
    let value = read_value(cx, &table)?;
    Some(VariableCondition { variable, value })
}

fn read_field(cx: &mut Cx, value: &Value<'_>) -> Option<FieldCondition> {
    let table = value.table(cx, &keys::MATCH_HEADER)?;
    let named = table.require(cx, "name", "name the field, as in name = \"X-Version\"")?;
    let name = named.string(cx)?;
    if name.is_empty() || name.len() > 256 || !name.bytes().all(is_token_byte) {
        named.mistake(
            cx,
            format!("is {}, which is no header name", quoted(name)),
            "write letters, digits and hyphens, without colon and spaces",
        );
        return None;
    }
    if name.eq_ignore_ascii_case("host") {
        named.mistake(cx, "is Host", "write the condition `host` instead");
        return None;
    }
    let value = read_value(cx, &table)?;
    Some(FieldCondition {
        name: name.to_owned(),
        value,
    })
}

/// `value` or `prefix`. None if it could not be read.
fn read_value(cx: &mut Cx, table: &Table<'_>) -> Option<FieldValue> {
    if let (Some(_), Some(prefix)) = (table.get("value"), table.get("prefix")) {
        cx.mistake(
            prefix.key_at,
            format!("{} stands beside `value`, which says the whole", prefix.path),
            "remove one of the two, or write two rules",
        );
        return None;
    }
    let whole = |cx: &mut Cx, value: &Value<'_>| {
        let text = value.string(cx)?;
        check_value(cx, value, text).then(|| text.to_owned())
    };
    let start = |cx: &mut Cx, value: &Value<'_>| {
        let text = value.string(cx)?;
        if text.is_empty() {
            value.mistake(
                cx,
                "is empty, and every value begins so",
                "remove it: a name alone asks for it to be there",
            );
            return None;
        }
        let blank = text.starts_with([' ', '\t']);
        if blank {
            value.mistake(cx, "begins with a space, and no value does", "remove it");
        }
        (!blank && check_bytes(cx, value, text)).then(|| text.to_owned())
    };
    let values = several(cx, table, "value", whole)?;
    let prefixes = several(cx, table, "prefix", start)?;
    Some(match (values.is_empty(), prefixes.is_empty()) {
        (true, true) if table.meant("value") || table.meant("prefix") => return None,
        (true, true) => FieldValue::Any,
        (false, _) => FieldValue::OneOf(values),
        (true, false) => FieldValue::Prefix(prefixes),
    })
}

/// One value, or an array of several. None if one could not be read.
pub(super) fn several<T>(
    cx: &mut Cx,
    table: &Table<'_>,
    key: &str,
    read: impl Fn(&mut Cx, &Value<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(value) = table.get(key) else {
        return Some(Vec::new());
    };
    if value.as_string().is_some() {
        return Some(vec![read(cx, &value)?]);
    }
    let items = value.array(cx)?;
    if items.is_empty() {
        value.mistake(
            cx,
            "is empty, and would never hold",
            "write a value, or remove it",
        );
        return None;
    }
    let read: Vec<T> = items.iter().filter_map(|item| read(cx, item)).collect();
    (read.len() == items.len()).then_some(read)
}

pub(super) fn read_host_pattern(cx: &mut Cx, value: &Value<'_>) -> Option<String> {
    let text = value.string(cx)?;
    let name = text.strip_prefix("*.").unwrap_or(text);
    let address = |text: &str| {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        bare.map_or_else(
            || text.parse::<std::net::Ipv4Addr>().is_ok(),
            |v6| v6.parse::<std::net::Ipv6Addr>().is_ok(),
        )
    };
    if is_dns_name(name) || (name == text && address(text)) {
        return Some(text.to_ascii_lowercase());
    }
    let mend = match text.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("leave the port out: {}", quoted(name))
        }
        _ => "write a name as in www.example.org, or *.example.org for every name below it".into(),
    };
    value.mistake(cx, format!("is {}, which is no host", quoted(text)), mend);
    None
}
