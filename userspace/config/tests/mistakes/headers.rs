//! Header rules.

use crate::http;

#[test]
fn each_has_its_line() {
    http(
        r#"request_headers = [{ set = "X-A" }]
"#,
        &[r#"5:20: a rule of services.www.request_headers has no `value`; write value = "…" beside it"#],
    );
    http(
        r#"request_headers = [{ value = "x" }]
"#,
        &[
            r#"5:20: a rule of services.www.request_headers has none of set, append, remove and replace; write one per rule, as in { set = "X-Service", value = "www" }"#,
        ],
    );
    http(
        r"request_headers = [{}]
",
        &[
            r#"5:20: a rule of services.www.request_headers has none of set, append, remove and replace; write one per rule, as in { set = "X-Service", value = "www" }"#,
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", append = "X-B", value = "x" }]
"#,
        &[
            r#"5:20: a rule of services.www.request_headers has several of set, append, remove and replace; write one per rule, as in { set = "X-Service", value = "www" }"#,
        ],
    );
    http(
        r#"request_headers = [{ remove = "X-A", value = "x" }]
"#,
        &[r"5:38: a rule of services.www.request_headers removes and has a value; remove `value`"],
    );
    http(
        r#"request_headers = ["X-A: b"]
"#,
        &[
            r#"5:20: services.www.request_headers has a rule that is no table; write it as { set = "X-Service", value = "www" }"#,
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = 5 }]
"#,
        &[r"5:43: services.www.request_headers.value is an integer, not a string; put it in double quotes"],
    );
    http(
        r#"request_headers = [{ set = "X A", value = "x" }]
"#,
        &[
            r"5:28: services.www.request_headers.set has `X A`, which is no header name; write letters, digits and hyphens, without colon and spaces",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A:", value = "x" }]
"#,
        &[
            r"5:28: services.www.request_headers.set has `X-A:`, which is no header name; write letters, digits and hyphens, without colon and spaces",
        ],
    );
    http(
        r#"request_headers = [{ set = "", value = "x" }]
"#,
        &[
            r"5:28: services.www.request_headers.set has ``, which is no header name; write letters, digits and hyphens, without colon and spaces",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "a\r\nB: c" }]
"#,
        &[
            r"5:43: services.www.request_headers.value has a line break in it, which would begin another header; write visible ASCII, spaces and tabs",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "a\u0000" }]
"#,
        &[r"5:43: services.www.request_headers.value has a NUL in it; write visible ASCII, spaces and tabs"],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "ä" }]
"#,
        &[
            r"5:43: services.www.request_headers.value has the character `ä` in it; write visible ASCII, spaces and tabs",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = " a" }]
"#,
        &[
            r"5:43: services.www.request_headers.value begins or ends with a space, which receivers drop; remove it",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{node.nam}" }]
"#,
        &[
            r"5:43: services.www.request_headers.value has the unknown variable `{node.nam}`; did you mean {node.name}?",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{time}" }]
"#,
        &[
            r"5:43: services.www.request_headers.value has the unknown variable `{time}`; there are node.name, service.name, pool.name, client.address, client.port, client.real_address, server.address, server.port, backend.name, backend.address, request.id, request.method, request.scheme, request.host, request.authority, request.target, request.path, request.query, request.version and request.header.NAME; write {{ for a brace",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{node.name" }]
"#,
        &[
            r"5:43: services.www.request_headers.value opens a variable and never closes it; write {{ for a brace that stands for itself",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "a}b" }]
"#,
        &[
            r"5:43: services.www.request_headers.value closes a variable and never opened it; write }} for a brace that stands for itself",
        ],
    );
    http(
        r#"request_headers = [{ set = "Connection", value = "close" }, { remove = "transfer-encoding" }, { append = "Content-Length", value = "5" }, { remove = "Upgrade" }]
"#,
        &[
            r"5:28: services.www.request_headers.set changes Connection, which belongs to one connection or marks where a message ends; remove the rule; weir writes this field itself",
            r"5:72: services.www.request_headers.remove changes transfer-encoding, which belongs to one connection or marks where a message ends; remove the rule; weir writes this field itself",
            r"5:106: services.www.request_headers.append changes Content-Length, which belongs to one connection or marks where a message ends; remove the rule; weir writes this field itself",
            r"5:150: services.www.request_headers.remove changes Upgrade, which belongs to one connection or marks where a message ends; remove the rule; weir writes this field itself",
        ],
    );
    http(
        r#"request_headers = [{ remove = "Host" }]
"#,
        &[
            r"5:31: services.www.request_headers.remove is Host, but a request has exactly one Host; use `set` in request_headers, or remove the rule",
        ],
    );
    http(
        r#"response_headers = [{ set = "Host", value = "a" }]
"#,
        &[
            r"5:29: services.www.response_headers.set is Host, but responses have no Host; use `set` in request_headers, or remove the rule",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-Forwarded-For", value = "a" }]
"#,
        &[
            r#"5:28: services.www.request_headers.set changes X-Forwarded-For, which weir writes itself here; set `forwarded` to another value or "off", or remove the rule"#,
        ],
    );
    http(
        r#"forwarded = "both"
request_headers = [{ set = "Forwarded", value = "a" }, { remove = "X-Forwarded-For" }]
"#,
        &[
            r#"6:28: services.www.request_headers.set changes Forwarded, which weir writes itself here; set `forwarded` to another value or "off", or remove the rule"#,
            r#"6:67: services.www.request_headers.remove changes X-Forwarded-For, which weir writes itself here; set `forwarded` to another value or "off", or remove the rule"#,
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", vlaue = "x" }]
"#,
        &[r"5:35: unknown key `vlaue` in [services.www.request_headers]; did you mean `value`?"],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "x", if = "y" }]
"#,
        &[
            r"5:48: this version has no `if` in [services.www.request_headers]; rules apply to every message of the service",
        ],
    );
    http(
        r#"request_headers = { set = "X-A", value = "x" }
"#,
        &[r"5:19: services.www.request_headers is a table, not an array; put it in square brackets"],
    );
}

#[test]
fn values_have_a_longest_length() {
    let lines = |n| {
        format!(
            "request_headers = [{{ set = \"X-A\", value = \"{}\" }}]\n",
            "a".repeat(n)
        )
    };
    http(
        &lines(8193),
        &["5:43: services.www.request_headers.value has 8193 bytes, more than 8192; write a shorter one"],
    );
}
