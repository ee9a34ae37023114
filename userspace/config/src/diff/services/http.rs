//! What changes of an HTTP service's rewriting, as it is shown.

use weir_core::plan::{
    ClientHttp2, Conditions, FieldCondition, FieldValue, Forwarded, HeaderAction, HeaderRule, HostRewrite,
    Http, PathPattern, PathRewrite, Relayed, Replacement, Rewrite, Rule, RuleAction, Template, TemplatePart,
    VariableCondition, WebSocket, Wire,
};

use crate::{
    diff::{Keys, list_or_none},
    units::show_size,
    words::plain,
};

pub(super) fn changed(keys: &mut Keys<'_>, old: &Http, new: &Http) {
    let Http {
        timeouts: _,
        limits: _,
        trusted_proxies,
        forwarded,
        forwarded_fields,
        wire:
            Wire {
                via,
                trace,
                connect,
                loop_limit,
            },
        websocket: WebSocket { strict, protocols },
        http2,
        request_id,
        rewrite,
        rules,
        request_headers,
        response_headers,
    } = old;
    keys.compare("trusted_proxies", trusted_proxies, &new.trusted_proxies, |list| {
        list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    keys.compare("forwarded", forwarded, &new.forwarded, |forwarded| {
        match forwarded {
            Forwarded::XForwardedFor => "x-forwarded-for",
            Forwarded::Rfc7239 => "forwarded",
            Forwarded::Both => "both",
            Forwarded::Off => "off",
        }
        .into()
    });
    keys.compare(
        "forwarded_fields",
        forwarded_fields,
        &new.forwarded_fields,
        |fields| {
            list_or_none(
                &fields
                    .iter()
                    .map(|f| f.name().to_ascii_lowercase())
                    .collect::<Vec<_>>(),
            )
        },
    );
    keys.compare("via", via, &new.wire.via, |via| via.as_str().into());
    keys.compare("allow_trace", trace, &new.wire.trace, ToString::to_string);
    keys.compare("allow_connect", connect, &new.wire.connect, ToString::to_string);
    keys.compare("loop_limit", loop_limit, &new.wire.loop_limit, |limit| {
        limit.map_or_else(|| "off".into(), |n| n.to_string())
    });
    keys.compare(
        "websocket.strict",
        strict,
        &new.websocket.strict,
        ToString::to_string,
    );
    keys.compare(
        "websocket.protocols",
        protocols,
        &new.websocket.protocols,
        |protocols| {
            protocols
                .as_ref()
                .map_or_else(|| "any".into(), |list| list_or_none(list))
        },
    );
    changed_http2(keys, http2, &new.http2);
    keys.compare("request_id", request_id, &new.request_id, |name| {
        name.clone().unwrap_or_else(|| "off".into())
    });
    keys.compare("rewrite", rewrite, &new.rewrite, show_rewrite);
    keys.compare("rules", rules, &new.rules, |rules| {
        list_or_none(&rules.iter().map(show_rule).collect::<Vec<_>>())
    });
    keys.compare("request_headers", request_headers, &new.request_headers, |list| {
        show_headers(list)
    });
    keys.compare(
        "response_headers",
        response_headers,
        &new.response_headers,
        |list| show_headers(list),
    );
}

fn changed_http2(keys: &mut Keys<'_>, old: &ClientHttp2, new: &ClientHttp2) {
    let ClientHttp2 {
        enabled,
        upgrade,
        streams,
        window,
        connection_window,
        offences,
    } = old;
    let size = |size: &u32| show_size(u64::from(*size));
    keys.compare("http2.enabled", enabled, &new.enabled, ToString::to_string);
    keys.compare("http2.upgrade", upgrade, &new.upgrade, ToString::to_string);
    keys.compare("http2.streams", streams, &new.streams, ToString::to_string);
    keys.compare("http2.window", window, &new.window, size);
    keys.compare(
        "http2.connection_window",
        connection_window,
        &new.connection_window,
        size,
    );
    keys.compare("http2.offences", offences, &new.offences, ToString::to_string);
}

fn show(template: &Template) -> String {
    template
        .parts
        .iter()
        .map(|part| match part {
            TemplatePart::Literal(text) => text.replace('{', "{{").replace('}', "}}"),
            TemplatePart::Variable(variable) => format!("{{{}}}", variable.name()),
            TemplatePart::RequestField(name) => format!("{{request.header.{name}}}"),
            TemplatePart::ClientExtension(oid) => format!("{{tls.client.extension.{oid}}}"),
            TemplatePart::ResponseField(name) => format!("{{response.header.{name}}}"),
        })
        .collect()
}

fn show_headers(rules: &[HeaderRule]) -> String {
    let one = |rule: &HeaderRule| match &rule.action {
        HeaderAction::Set(value) => format!("set {}: {}", rule.name, show(value)),
        HeaderAction::Append(value) => format!("append {}: {}", rule.name, show(value)),
        HeaderAction::Remove => format!("remove {}", rule.name),
        HeaderAction::Replace(Replacement { find, with }) => {
            format!("replace {find:?} in {} by {:?}", rule.name, show(with))
        }
    };
    list_or_none(&rules.iter().map(one).collect::<Vec<_>>())
}

fn show_rewrite(rewrite: &Rewrite) -> String {
    let Rewrite {
        path,
        replace,
        query,
        host,
    } = rewrite;
    let mut parts = Vec::new();
    match path {
        PathRewrite::Keep => {}
        PathRewrite::Prefix { strip, add } => {
            if !strip.as_str().is_empty() {
                parts.push(format!("strip {}", strip.as_str()));
            }
            if !add.parts.is_empty() {
                parts.push(format!("add {}", show(add)));
            }
        }
        PathRewrite::Whole(path) => parts.push(format!("path {}", show(path))),
    }
    parts.extend(
        replace
            .iter()
            .map(|r| format!("replace {} by {:?}", r.find, r.with)),
    );
    parts.extend(query.iter().map(|query| format!("query {:?}", show(query))));
    match host {
        HostRewrite::Keep => {}
        HostRewrite::Backend => parts.push("host of the backend".into()),
        HostRewrite::Set(host) => parts.push(format!("host {}", show(host))),
    }
    list_or_none(&parts)
}

fn show_condition(name: &str, value: &FieldValue) -> String {
    match value {
        FieldValue::Any => format!("{name}: …"),
        FieldValue::OneOf(values) => format!("{name}: {}", values.join("|")),
        FieldValue::Prefix(starts) => {
            let starts: Vec<_> = starts.iter().map(|start| format!("{start}…")).collect();
            format!("{name}: {}", starts.join("|"))
        }
    }
}

fn show_rule(rule: &Rule) -> String {
    let Conditions {
        host,
        path,
        path_prefix,
        method,
        header,
        variable,
    } = &rule.conditions;
    let mut parts = method.clone();
    parts.extend(host.iter().cloned());
    parts.extend(path.iter().map(|p| p.as_str().to_owned()));
    parts.extend(
        path_prefix
            .iter()
            .map(|p: &PathPattern| format!("{}…", p.as_str())),
    );
    parts.extend(
        header
            .iter()
            .map(|c: &FieldCondition| show_condition(&c.name, &c.value)),
    );
    parts.extend(variable.iter().map(|condition: &VariableCondition| {
        let name = show(&Template {
            parts: vec![condition.variable.clone()],
        });
        show_condition(&name, &condition.value)
    }));
    if parts.is_empty() {
        parts.push("all".into());
    }
    let action = match &rule.action {
        RuleAction::Relay(Relayed { pool, rewrite }) => {
            let pool = pool.iter().map(|pool| format!("pool {pool}"));
            let rewrite = rewrite
                .iter()
                .map(|rewrite| format!("rewrite {}", show_rewrite(rewrite)));
            pool.chain(rewrite).collect::<Vec<_>>().join(", ")
        }
        RuleAction::Redirect(redirect) => format!("{} to {}", redirect.status, show(&redirect.to)),
        RuleAction::Respond(respond) => format!(
            "{} {:?} of {} bytes",
            respond.status,
            plain(&respond.body),
            respond.body.len()
        ),
    };
    format!("{} → {action}", parts.join(" "))
}
