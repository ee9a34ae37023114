//! Values with variables: `{node.name}`, `{request.header.NAME}`, `{{` for a brace.
//!
//! Owns the syntax, and which variables have a meaning where. What they stand for is the relay's work.

use weir_core::plan::{ClientFact, Template, TemplatePart, Variable};

use crate::{
    headers::{belongs_to_connection, is_token_byte},
    reader::{Cx, Value},
    words::{listed, quoted},
};

/// Longest value: a head of the default size has room for it.
pub(crate) const MAX_VALUE: usize = 8192;

/// Variables that carry a field's name.
const REQUEST_FIELD: &str = "request.header.";
const RESPONSE_FIELD: &str = "response.header.";
/// And that of an extension.
const CLIENT_EXTENSION: &str = "tls.client.extension.";

/// What there is to speak of where a value stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    /// A response of a backend.
    pub(crate) response: bool,
    /// A backend that was chosen.
    pub(crate) backend: bool,
    /// A prefix that was matched.
    pub(crate) prefix: bool,
    /// Room for path and query together.
    pub(crate) target: bool,
}

impl Scope {
    /// A field of a request.
    pub(crate) const REQUEST: Self = Self {
        response: false,
        backend: true,
        prefix: false,
        target: true,
    };
    /// A field of a response.
    pub(crate) const RESPONSE: Self = Self {
        response: true,
        ..Self::REQUEST
    };
    /// What weir answers itself.
    pub(crate) const ANSWER: Self = Self {
        backend: false,
        ..Self::REQUEST
    };
    /// A path or a query.
    pub(crate) const PART: Self = Self {
        target: false,
        ..Self::REQUEST
    };

    /// Why a variable has no meaning here, and what to do.
    const fn refuses(self, variable: Variable) -> Option<(&'static str, &'static str)> {
        let of_backend = matches!(variable, Variable::BackendName | Variable::BackendAddress);
        if matches!(variable, Variable::ResponseStatus) && !self.response {
            Some(NO_RESPONSE)
        } else if of_backend && !self.backend {
            Some(("speaks of the backend, and no backend is asked", "remove it"))
        } else if matches!(variable, Variable::MatchRest) && !self.prefix {
            Some((
                "speaks of what follows a matched prefix, and none is matched here",
                "use it in a rule whose `match` has path_prefix, in `rewrite` or in `redirect.to`",
            ))
        } else if matches!(variable, Variable::RequestTarget) && !self.target {
            Some((
                "is path and query together",
                "write {request.path} or {request.query}",
            ))
        } else {
            None
        }
    }
}

const NO_RESPONSE: (&str, &str) = (
    "speaks of a backend's response, and there is none here",
    "use it in response_headers",
);

/// Literals and `{variables}`; `{{` and `}}` stand for braces.
pub(crate) fn read(cx: &mut Cx, value: &Value<'_>, text: &str, scope: Scope) -> Option<Template> {
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
            let variable = find_variable(cx, value, name, scope)?;
            if !literal.is_empty() {
                parts.push(TemplatePart::Literal(std::mem::take(&mut literal)));
            }
            parts.push(variable);
            rest = after;
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(TemplatePart::Literal(literal));
    }
    Some(Template { parts })
}

fn find_variable(cx: &mut Cx, value: &Value<'_>, name: &str, scope: Scope) -> Option<TemplatePart> {
    let refuse = |cx: &mut Cx, (why, mend): (&str, &str)| {
        value.mistake(
            cx,
            format!("has {}, which {why}", quoted(&format!("{{{name}}}"))),
            mend,
        );
    };
    if let Some((_, variable)) = Variable::ALL.iter().find(|(known, _)| *known == name) {
        if let Some(why) = scope.refuses(*variable) {
            refuse(cx, why);
            return None;
        }
        if let Some(why) = of_tls(cx, *variable) {
            refuse(cx, why);
            return None;
        }
        return Some(TemplatePart::Variable(*variable));
    }
    if let Some(oid) = name.strip_prefix(CLIENT_EXTENSION) {
        if let Some(why) = of_tls(cx, Variable::TlsClient(ClientFact::Certificate)) {
            refuse(cx, why);
            return None;
        }
        if !weir_tls::is_oid(oid) {
            let mend = "write the dotted numbers of the OID, as in {tls.client.extension.2.5.29.17}";
            refuse(cx, ("names no extension", mend));
            return None;
        }
        return Some(TemplatePart::ClientExtension(oid.to_owned()));
    }
    let (of_response, field) = match (
        name.strip_prefix(REQUEST_FIELD),
        name.strip_prefix(RESPONSE_FIELD),
    ) {
        (Some(field), _) => (false, field),
        (None, Some(field)) => (true, field),
        (None, None) => {
            unknown(cx, value, name, scope);
            return None;
        }
    };
    if field.is_empty() || field.len() > 256 || !field.bytes().all(is_token_byte) {
        refuse(
            cx,
            (
                "names no header",
                "write the name behind the last dot, as in {request.header.User-Agent}",
            ),
        );
        return None;
    }
    if belongs_to_connection(field) {
        refuse(
            cx,
            (
                "belongs to one connection or marks where a message ends",
                "remove it; what it says is no business of the other side",
            ),
        );
        return None;
    }
    if of_response && !scope.response {
        refuse(cx, NO_RESPONSE);
        return None;
    }
    Some(if of_response {
        TemplatePart::ResponseField(field.to_owned())
    } else {
        TemplatePart::RequestField(field.to_owned())
    })
}

/// Why a variable has no meaning for the service's TLS, and what to do.
fn of_tls(cx: &Cx, variable: Variable) -> Option<(&'static str, &'static str)> {
    if !variable.is_of_tls() {
        None
    } else if !cx.ends_tls {
        Some((
            "speaks of TLS, which the service does not end",
            "write [services.NAME.tls], or remove it",
        ))
    } else if matches!(variable, Variable::TlsClient(_)) && !cx.asks_clients {
        Some((
            "speaks of clients' certificates, which the service does not ask for",
            "write client_certificates = \"optional\" or \"required\" in its section tls, or remove it",
        ))
    } else {
        None
    }
}

/// A variable of TLS by its name, without braces, for a condition.
pub(crate) fn read_of_tls(cx: &mut Cx, value: &Value<'_>) -> Option<TemplatePart> {
    let name = value.string(cx)?;
    let is_of_tls = name.starts_with("tls.");
    if !is_of_tls {
        value.mistake(
            cx,
            format!("is {}, which is no variable of TLS", quoted(name)),
            "write one as in \"tls.client.verify\", without braces",
        );
        return None;
    }
    find_variable(cx, value, name, Scope::ANSWER)
}

fn unknown(cx: &mut Cx, value: &Value<'_>, name: &str, scope: Scope) {
    let mut known: Vec<&str> = Variable::ALL
        .iter()
        .filter(|(_, variable)| scope.refuses(*variable).is_none())
        .filter(|(_, variable)| of_tls(cx, *variable).is_none())
        .map(|(known, _)| *known)
        .collect();
    let mend = match cx.guess(name, known.iter().copied()) {
        Some(near) => format!("did you mean {{{near}}}?"),
        None => {
            known.push("request.header.NAME");
            if scope.response {
                known.push("response.header.NAME");
            }
            format!("there are {}; write {{{{ for a brace", listed(&known, "and"))
        }
    };
    value.mistake(
        cx,
        format!("has the unknown variable {}", quoted(&format!("{{{name}}}"))),
        mend,
    );
}

/// Visible ASCII, spaces and tabs inside: RFC 9110 section 5.5 without obs-text.
pub(crate) fn check_value(cx: &mut Cx, value: &Value<'_>, text: &str) -> bool {
    if !check_bytes(cx, value, text) {
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

/// The same for a part of a value, which may begin and end with spaces.
pub(crate) fn check_bytes(cx: &mut Cx, value: &Value<'_>, text: &str) -> bool {
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
    true
}
