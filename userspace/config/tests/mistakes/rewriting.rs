//! Rewriting, redirects and responses by rule, ids, and what weir writes into messages by itself.

use weir_config::{Facts, Tunables, parse};

use crate::http;

#[test]
fn header_rules() {
    http(
        r#"request_headers = [{ replace = "X-A", value = "x" }]
"#,
        &[
            r#"5:20: a rule of services.www.request_headers replaces and has no `find`; write find = "…" beside it, the text to be replaced"#,
        ],
    );
    http(
        r#"request_headers = [{ replace = "X-A", find = "", value = "x" }]
"#,
        &["5:46: services.www.request_headers.find is empty; write the text to be replaced"],
    );
    http(
        r#"request_headers = [{ set = "X-A", find = "a", value = "x" }]
"#,
        &[
            "5:35: a rule of services.www.request_headers has `find` and does not replace; remove `find`, or write `replace`",
        ],
    );
    http(
        r#"request_headers = [{ replace = "Host", find = "a", value = "x" }]
"#,
        &[
            "5:32: services.www.request_headers.replace is Host, but a request has exactly one Host; use `set` in request_headers, or remove the rule",
        ],
    );
    http(
        r#"request_headers = [{ replace = "X-A", find = "a\nb", value = "x" }]
"#,
        &[
            "5:46: services.www.request_headers.find has a line break in it, which would begin another header; write visible ASCII, spaces and tabs",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{response.status}" }, { set = "X-B", value = "{response.header.X}" }]
"#,
        &[
            "5:43: services.www.request_headers.value has `{response.status}`, which speaks of a backend's response, and there is none here; use it in response_headers",
            "5:89: services.www.request_headers.value has `{response.header.X}`, which speaks of a backend's response, and there is none here; use it in response_headers",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{request.header.}" }, { set = "X-A", value = "{request.header.A B}" }]
"#,
        &[
            "5:43: services.www.request_headers.value has `{request.header.}`, which names no header; write the name behind the last dot, as in {request.header.User-Agent}",
            "5:89: services.www.request_headers.value has `{request.header.A B}`, which names no header; write the name behind the last dot, as in {request.header.User-Agent}",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{request.header.Connection}" }]
"#,
        &[
            "5:43: services.www.request_headers.value has `{request.header.Connection}`, which belongs to one connection or marks where a message ends; remove it; what it says is no business of the other side",
        ],
    );
    http(
        r#"request_headers = [{ set = "X-A", value = "{request.paht}" }]
"#,
        &[
            "5:43: services.www.request_headers.value has the unknown variable `{request.paht}`; did you mean {request.path}?",
        ],
    );
    http(
        r#"response_headers = [{ set = "X-A", value = "{match.rest}" }]
"#,
        &[
            "5:44: services.www.response_headers.value has `{match.rest}`, which speaks of what follows a matched prefix, and none is matched here; use it in a rule whose `match` has path_prefix, in `rewrite` or in `redirect.to`",
        ],
    );
    http(
        r#"response_headers = [{ set = "X-A", value = "{time}" }]
"#,
        &[
            "5:44: services.www.response_headers.value has the unknown variable `{time}`; there are node.name, service.name, pool.name, client.address, client.port, client.real_address, server.address, server.port, backend.name, backend.address, request.id, request.method, request.scheme, request.host, request.authority, request.target, request.path, request.query, request.version, response.status, request.header.NAME and response.header.NAME; write {{ for a brace",
        ],
    );
    http(
        r#"request_headers = [{ append = "Via", value = "1.1 x" }]
"#,
        &[
            r#"5:31: services.www.request_headers.append changes Via, which weir writes itself here; write via = "off", or remove the rule"#,
        ],
    );
}

#[test]
fn what_weir_writes_itself() {
    http(
        r#"via = "both"
response_headers = [{ remove = "Via" }]
"#,
        &[
            r#"6:32: services.www.response_headers.remove changes Via, which weir writes itself here; write via = "requests" or "off", or remove the rule"#,
        ],
    );
    http(
        r#"via = "yes"
"#,
        &[
            r#"5:7: services.www.via is `yes`, which is none of its values; write "requests", "both" or "off""#,
        ],
    );
    http(
        r#"request_id = "X-Request-Id"
request_headers = [{ remove = "x-request-id" }]
"#,
        &[
            "6:31: services.www.request_headers.remove changes x-request-id, which weir writes itself here; name another field in request_id, or remove the rule",
        ],
    );
    http(
        r#"request_id = "Connection"
"#,
        &[
            r#"5:14: services.www.request_id is Connection, which has another meaning; write "X-Request-Id", or "off""#,
        ],
    );
    http(
        r#"request_id = "traceparent"
"#,
        &[
            r#"5:14: services.www.request_id is traceparent, which has another meaning; write "X-Request-Id", or "off""#,
        ],
    );
    http(
        r#"request_id = "X Id"
"#,
        &[
            "5:14: services.www.request_id has `X Id`, which is no header name; write letters, digits and hyphens, without colon and spaces",
        ],
    );
    http(
        r#"forwarded_fields = ["x-real-ip"]
request_headers = [{ set = "X-Real-IP", value = "{client.address}" }]
"#,
        &[
            "6:28: services.www.request_headers.set changes X-Real-IP, which weir writes itself here; take it out of forwarded_fields, or remove the rule",
        ],
    );
    http(
        r#"forwarded_fields = ["x-forwarded-for"]
"#,
        &[
            r#"5:21: services.www.forwarded_fields is `x-forwarded-for`, which is none of its values; did you mean "x-forwarded-port"?"#,
        ],
    );
    http(
        r#"forwarded_fields = ["x-real-ip", "x-real-ip"]
"#,
        &["5:34: services.www.forwarded_fields has a field twice; remove one of them"],
    );
    http(
        r#"rewrite = { host = "backend" }
request_headers = [{ set = "Host", value = "a" }]
"#,
        &[
            "6:28: services.www.request_headers.set changes Host, which weir writes itself here; remove rewrite.host, or the rule",
        ],
    );
}

#[test]
fn rewriting() {
    http(
        r#"rewrite = { host = "a b" }
"#,
        &[
            r#"5:20: services.www.rewrite.host is `a b`, which is no Host header; write "keep", "backend", or a name or address with a port if need be, as in www.example.org:8080"#,
        ],
    );
    http(
        r#"rewrite = { host = "http://a" }
"#,
        &[
            r#"5:20: services.www.rewrite.host is `http://a`, which is no Host header; write "keep", "backend", or a name or address with a port if need be, as in www.example.org:8080"#,
        ],
    );
    http(
        r#"rewrite = { host = "{match.rest}" }
"#,
        &[
            "5:20: services.www.rewrite.host has `{match.rest}`, which speaks of what follows a matched prefix, and none is matched here; use it in a rule whose `match` has path_prefix, in `rewrite` or in `redirect.to`",
        ],
    );
    http(
        r#"rewrite = { strip_prefix = "app" }
"#,
        &["5:28: services.www.rewrite.strip_prefix is `app`; begin it with /, as in /docs"],
    );
    http(
        r#"rewrite = { strip_prefix = "/a//b" }
"#,
        &[
            "5:28: services.www.rewrite.strip_prefix has two slashes in a row, which are compared as one; write one",
        ],
    );
    http(
        r#"rewrite = { strip_prefix = "/a/../b" }
"#,
        &[
            "5:28: services.www.rewrite.strip_prefix has a segment `.` or `..`, and requests with such are refused; write the path without it",
        ],
    );
    http(
        r#"rewrite = { strip_prefix = "/a/%2e%2E" }
"#,
        &[
            "5:28: services.www.rewrite.strip_prefix has a segment `.` or `..`, and requests with such are refused; write the path without it",
        ],
    );
    http(
        r#"rewrite = { strip_prefix = "/a?b" }
"#,
        &[
            "5:28: services.www.rewrite.strip_prefix has a question mark, where the path ends; write the query into `query`",
        ],
    );
    http(
        r#"rewrite = { strip_prefix = "/a#b" }
"#,
        &[
            "5:28: services.www.rewrite.strip_prefix has the character `#`, which a request target can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    http(
        r#"rewrite = { strip_prefix = "/a%2" }
"#,
        &[
            "5:28: services.www.rewrite.strip_prefix has a % without two hexadecimal digits; write %25 for a percent sign",
        ],
    );
    http(
        r#"rewrite = { add_prefix = "v2" }
"#,
        &[
            "5:26: services.www.rewrite.add_prefix is `v2`; begin it with / and end it without, as in /v2; what follows brings its own slash",
        ],
    );
    http(
        r#"rewrite = { add_prefix = "/v2/" }
"#,
        &[
            "5:26: services.www.rewrite.add_prefix is `/v2/`; begin it with / and end it without, as in /v2; what follows brings its own slash",
        ],
    );
    http(
        r#"rewrite = { add_prefix = "" }
"#,
        &[
            "5:26: services.www.rewrite.add_prefix is ``; begin it with / and end it without, as in /v2; what follows brings its own slash",
        ],
    );
    http(
        r#"rewrite = { path = "/x", add_prefix = "/y" }
"#,
        &[
            "5:13: services.www.rewrite.path says the whole path, beside strip_prefix or add_prefix; remove it, or them",
        ],
    );
    http(
        r#"rewrite = { path = "x" }
"#,
        &[
            "5:20: services.www.rewrite.path is `x`, which does not begin a path; begin it with /, or with {request.path}",
        ],
    );
    http(
        r#"rewrite = { path = "{request.host}/x" }
"#,
        &[
            "5:20: services.www.rewrite.path is `{request.host}/x`, which does not begin a path; begin it with /, or with {request.path}",
        ],
    );
    http(
        r#"rewrite = { path = "/x?y" }
"#,
        &[
            "5:20: services.www.rewrite.path has a question mark, where the path ends; write the query into `query`",
        ],
    );
    http(
        r#"rewrite = { path = "/x{request.target}" }
"#,
        &[
            "5:20: services.www.rewrite.path has `{request.target}`, which is path and query together; write {request.path} or {request.query}",
        ],
    );
    http(
        r#"rewrite = { path = "/x{match.rest}" }
"#,
        &[
            "5:20: services.www.rewrite.path has `{match.rest}`, which speaks of what follows a matched prefix, and none is matched here; use it in a rule whose `match` has path_prefix, in `rewrite` or in `redirect.to`",
        ],
    );
    http(
        r#"rewrite = { query = "a#b" }
"#,
        &[
            "5:21: services.www.rewrite.query has the character `#`, which a request target can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    http(
        r#"rewrite = { query = "a b" }
"#,
        &[
            "5:21: services.www.rewrite.query has the character ` `, which a request target can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    http(
        r"rewrite = { query = 5 }
",
        &["5:21: services.www.rewrite.query is an integer, not a string; put it in double quotes"],
    );
    http(
        r#"rewrite = { replace = [{ find = "", with = "a" }, { find = "a" }, { with = "b" }, { find = "?", with = "ä" }] }
"#,
        &[
            r#"5:33: services.www.rewrite.replace.find is empty; write find = "…", the text in the path to be replaced"#,
            r#"5:51: [services.www.rewrite.replace] has no `with`; write with = "…", what comes in its place; "" takes it out"#,
            r#"5:67: [services.www.rewrite.replace] has no `find`; write find = "…", the text in the path to be replaced"#,
            "5:92: services.www.rewrite.replace.find has a question mark, where the path ends; write the query into `query`",
            "5:104: services.www.rewrite.replace.with has the character `ä`, which a request target can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    http(
        r#"rewrite = { replace = { find = "a", with = "b" } }
"#,
        &["5:23: services.www.rewrite.replace is a table, not an array; put it in square brackets"],
    );
    http(
        r#"rewrite = { regex = "a" }
"#,
        &[
            "5:13: this version has no `regex` in [services.www.rewrite]; write strip_prefix and add_prefix, or `path` with variables",
        ],
    );
    http(
        r#"rewrite = { strip_prefx = "/a" }
"#,
        &["5:13: unknown key `strip_prefx` in [services.www.rewrite]; did you mean `strip_prefix`?"],
    );
}

#[test]
fn loop_limits() {
    http(
        "loop_limit = 101\n",
        &["5:14: services.www.loop_limit is 101, more than 100; write a number from 0 to 100"],
    );
    http(
        "loop_limit = \"none\"\n",
        &["5:14: services.www.loop_limit is `none`; write a number from 0 to 100, or \"off\""],
    );
}

#[test]
fn websocket() {
    http(
        "websocket = { strict = 1, protocols = [\"a\", \"a b\", \"\", \"a\"] }\n",
        &[
            "5:24: services.www.websocket.strict is an integer, not a boolean; write true or false, without quotes",
            "5:45: services.www.websocket.protocols has `a b`, which is no subprotocol; write names as in graphql-transport-ws, without spaces and commas",
            "5:52: services.www.websocket.protocols has ``, which is no subprotocol; write names as in graphql-transport-ws, without spaces and commas",
            "5:56: services.www.websocket.protocols has `a` twice; remove one of them",
        ],
    );
    http(
        "websocket = { protocols = [] }\n",
        &[
            "5:27: services.www.websocket.protocols is empty, and every handshake that asks for one would be refused; name those that backends speak, or remove it for any",
        ],
    );
    http(
        "websocket = { stricct = true }\n",
        &["5:15: unknown key `stricct` in [services.www.websocket]; did you mean `strict`?"],
    );
}

#[test]
fn rules_and_their_conditions() {
    http(
        r#"rules = [{ match = { path = "/a" } }]
"#,
        &[
            r#"5:10: a rule of services.www.rules has none of redirect, respond, rewrite and pool; write one per rule, as in pool = "web"; only `rewrite` and `pool` go together"#,
        ],
    );
    http(
        r"rules = [{ match = {}, respond = {} }]
",
        &[
            "5:20: services.www.rules.match has no condition; write host, path, path_prefix, method, header or variable, or remove it for every request",
        ],
    );
    http(
        r#"rules = [{ match = { pth = "/a" }, respond = {} }]
"#,
        &["5:22: unknown key `pth` in [services.www.rules.match]; did you mean `path`?"],
    );
    http(
        r#"rules = [{ mach = { path = "/a" }, respond = {} }]
"#,
        &["5:12: unknown key `mach` in [services.www.rules]; did you mean `match`?"],
    );
    http(
        r#"rules = [{ match = { path = "a" }, respond = {} }]
"#,
        &["5:29: services.www.rules.match.path is `a`; begin it with /, as in /docs"],
    );
    http(
        r"rules = [{ match = { path = [] }, respond = {} }]
",
        &["5:29: services.www.rules.match.path is empty, and would never hold; write a value, or remove it"],
    );
    http(
        r#"rules = [{ match = { path = ["/a", 5] }, respond = {} }]
"#,
        &["5:36: services.www.rules.match.path is an integer, not a string; put it in double quotes"],
    );
    http(
        r#"rules = [{ match = { path = "/a", path_prefix = "/b" }, respond = {} }]
"#,
        &[
            "5:35: services.www.rules.match.path_prefix stands beside `path`, which says the whole; remove one of the two, or write two rules",
        ],
    );
    http(
        r#"rules = [{ match = { path_regex = "a" }, respond = {} }]
"#,
        &[
            "5:22: this version has no `path_regex` in [services.www.rules.match]; write `path` or `path_prefix`",
        ],
    );
    http(
        r#"rules = [{ match = { host = "a:80" }, respond = {} }]
"#,
        &["5:29: services.www.rules.match.host is `a:80`, which is no host; leave the port out: `a`"],
    );
    http(
        r#"rules = [{ match = { host = "*.*.a" }, respond = {} }, { match = { host = "*" }, respond = {} }]
"#,
        &[
            "5:29: services.www.rules.match.host is `*.*.a`, which is no host; write a name as in www.example.org, or *.example.org for every name below it",
            "5:75: services.www.rules.match.host is `*`, which is no host; write a name as in www.example.org, or *.example.org for every name below it",
        ],
    );
    http(
        r#"rules = [{ match = { method = "get" }, respond = {} }]
"#,
        &[r#"5:31: services.www.rules.match.method is `get`, and methods heed case; write "GET""#],
    );
    http(
        r#"rules = [{ respond = {} },
{ match = { path = "/a" }, respond = {} }]
"#,
        &[
            "6:1: this rule of services.www.rules never holds: the one in line 5 takes every request; move that one to the end, or give it a `match`",
        ],
    );
    http(
        r#"rules = [{ match = { path_prefix = "/" }, respond = {} },
{ match = { path = "/a" }, respond = {} }]
"#,
        &[
            "6:1: this rule of services.www.rules never holds: the one in line 5 takes every request; move that one to the end, or give it a `match`",
        ],
    );
    http(
        r"rules = [{ redirect = {} }]
",
        &[
            r#"5:23: [services.www.rules.redirect] has no `to`; write to = "https://www.example.org{request.target}""#,
        ],
    );
    http(
        r#"rules = ["x"]
"#,
        &[
            "5:10: services.www.rules is a string, not a table; write it as [section] with keys, or as { key = value }",
        ],
    );
    http(
        r"routes = []
",
        &[
            "5:1: this version has no `routes` in [services.www]; write `rules`, as in { match = { path_prefix = \"/api\" }, pool = \"api\" }",
        ],
    );
    http(
        r"redirects = []
",
        &[
            "5:1: this version has no `redirects` in [services.www]; write a rule with `redirect` into `rules`",
        ],
    );
}

#[test]
fn redirects() {
    http(
        r#"rules = { redirect = { to = "/x" } }
"#,
        &["5:9: services.www.rules is a table, not an array; put it in square brackets"],
    );
    http(
        r#"rules = [{ match = { path = "/a" }, redirect = { to = "/x" }, respond = {} }]
"#,
        &[
            r#"5:10: a rule of services.www.rules has several of redirect, respond, rewrite and pool; write one per rule, as in pool = "web"; only `rewrite` and `pool` go together"#,
        ],
    );
    http(
        r#"rules = [{ match = { path = "/a" }, respond = {} },
{ match = { path = "/%61" }, redirect = { to = "/b" } }]
"#,
        &[
            "6:1: this rule of services.www.rules never holds: the one in line 5 has the same conditions; remove one of the two",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "www.example.org" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to is `www.example.org`, which leads nowhere; begin it with https:// or http:// and a host, or with a single /",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "//www.example.org" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to is `//www.example.org`, which leads nowhere; begin it with https:// or http:// and a host, or with a single /",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "https://" } }, { match = { path = "/a" }, redirect = { to = "https:///x" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to is `https://`, which leads nowhere; begin it with https:// or http:// and a host, or with a single /",
            "5:91: services.www.rules.redirect.to is `https:///x`, which leads nowhere; begin it with https:// or http:// and a host, or with a single /",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "ftp://a/" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to is `ftp://a/`, which leads nowhere; begin it with https:// or http:// and a host, or with a single /",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "https://a/ b" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to has the character ` `, which a URL can't have; percent-encode it, as in %20 for a space, or remove it",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "https://{backend.name}/" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to has `{backend.name}`, which speaks of the backend, and no backend is asked; remove it",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "https://a{match.rest}" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to has `{match.rest}`, which speaks of what follows a matched prefix, and none is matched here; use it in a rule whose `match` has path_prefix, in `rewrite` or in `redirect.to`",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "https://a/", status = 200 } }]
"#,
        &[
            "5:53: services.www.rules.redirect.status is 200, which is no redirect; write 307 (temporary), 308 (permanent), 303 (see other), or 301 or 302 for clients that know no better",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "https://a/", status = "308" } }]
"#,
        &[
            "5:53: services.www.rules.redirect.status is a string, not an integer; write a number without quotes or fraction",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "/a" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to leads to where this rule holds again, without end; lead to another path, or to a host that the rule does not hold for",
        ],
    );
    http(
        r#"rules = [{ redirect = { to = "{request.target}" } }]
"#,
        &[
            "5:30: services.www.rules.redirect.to leads to where this rule holds again, without end; lead to another path, or to a host that the rule does not hold for",
        ],
    );
    http(
        r#"rules = [{ match = { path_prefix = "/a" }, redirect = { to = "/a/b" } }]
"#,
        &[
            "5:62: services.www.rules.redirect.to leads to where this rule holds again, without end; lead to another path, or to a host that the rule does not hold for",
        ],
    );
    http(
        r#"rules = [{ match = { path_prefix = "/a" }, redirect = { to = "/a/b{match.rest}" } }]
"#,
        &[
            "5:62: services.www.rules.redirect.to leads to where this rule holds again, without end; lead to another path, or to a host that the rule does not hold for",
        ],
    );
    http(
        r#"rules = [{ match = { path = "/a" }, redirect = { to = "/a?b" } }]
"#,
        &[
            "5:55: services.www.rules.redirect.to leads to where this rule holds again, without end; lead to another path, or to a host that the rule does not hold for",
        ],
    );
    http(
        r#"rules = [{ match = { path = "/b" }, respond = {} }, { match = { path_prefix = "/a" }, redirect = { to = "/a/b" } }]
"#,
        &[
            "5:105: services.www.rules.redirect.to leads to where this rule holds again, without end; lead to another path, or to a host that the rule does not hold for",
        ],
    );
}

#[test]
fn rewriting_by_rule() {
    http(
        r#"rules = [{ match = { path = "/a" }, rewrite = {} }]
"#,
        &[
            "5:47: services.www.rules.rewrite changes nothing; write strip_prefix, add_prefix, path, replace, query or host",
        ],
    );
    http(
        r#"rules = [{ match = { path_prefix = "/a" }, rewrite = { strip_prefix = "/b" } }]
"#,
        &[
            "5:54: services.www.rules.rewrite takes `/b` off, and no path under `/a` begins so; write a prefix that the paths of `match` have",
        ],
    );
    http(
        r#"rules = [{ match = { path = ["/b/c", "/bc"] }, rewrite = { strip_prefix = "/b" } }]
"#,
        &[
            "5:58: services.www.rules.rewrite takes `/b` off, and no path under `/bc` begins so; write a prefix that the paths of `match` have",
        ],
    );
}

#[test]
fn responses() {
    http(
        r"rules = [{ respond = { status = 101 } }]
",
        &["5:33: services.www.rules.respond.status is 101, less than 200; write a number from 200 to 599"],
    );
    http(
        r#"rules = [{ respond = { status = 204, body = "x" } }]
"#,
        &[
            "5:22: services.www.rules.respond has a body, and a response of status 204 has none; remove the body, or write another status",
        ],
    );
    http(
        r#"rules = [{ respond = { body = "x", file = "/x" } }]
"#,
        &["5:36: services.www.rules.respond.file stands beside `body`; remove one of the two"],
    );
    http(
        r#"rules = [{ respond = { file = "x.html" } }]
"#,
        &["5:31: services.www.rules.respond.file is `x.html`, not an absolute path; begin it with /"],
    );
    http(
        r#"rules = [{ respond = { content_type = "text/html" } }]
"#,
        &[
            "5:22: services.www.rules.respond has a content_type and no body; write `body` or `file`, or remove content_type",
        ],
    );
    http(
        r#"rules = [{ respond = { body = "x", content_type = "html" } }]
"#,
        &[
            "5:51: services.www.rules.respond.content_type is `html`, which is no media type; write one as in text/html; charset=utf-8",
        ],
    );
    http(
        r"rules = [{ respond = { body = 5 } }]
",
        &["5:31: services.www.rules.respond.body is an integer, not a string; put it in double quotes"],
    );
    http(
        r#"rules = [{ respond = { headers = { Content-Type = "a/b", Date = "x", Content-Length = "5", "X A" = "y", X-B = "a\nb", X-C = "{backend.name}" } } }]
"#,
        &[
            "5:36: services.www.rules.respond.headers.Content-Type stands beside weir's own; write `content_type`",
            "5:58: services.www.rules.respond.headers.Date stands beside weir's own; remove it; weir writes this field itself",
            "5:70: services.www.rules.respond.headers.Content-Length stands beside weir's own; remove it; weir writes this field itself",
            r#"5:100: services.www.rules.respond.headers."X A" has `X A`, which is no header name; write letters, digits and hyphens, without colon and spaces"#,
            "5:111: services.www.rules.respond.headers.X-B has a line break in it, which would begin another header; write visible ASCII, spaces and tabs",
            "5:125: services.www.rules.respond.headers.X-C has `{backend.name}`, which speaks of the backend, and no backend is asked; remove it",
        ],
    );
}

/// A redirect to a path that an earlier rule answers comes to an end.
#[test]
fn redirects_that_end() {
    for rules in [
        r#"rules = [{ match = { host = "a" }, respond = {} }, { match = { path_prefix = "/a" }, redirect = { to = "/a/b" } }]"#,
        r#"rules = [{ match = { path = "/sorry.html" }, respond = {} }, { redirect = { to = "/sorry.html" } }]"#,
    ] {
        let text = format!(
            "[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\npool = \"web\"\n{rules}\n{}{}",
            crate::POOL,
            crate::NODE
        );
        let facts = Facts {
            hostname: "box".into(),
            runtime_dir: "/run/weir".into(),
        };
        let plan = parse("weir.toml", &text, &Tunables::default(), &facts);
        assert!(plan.is_ok(), "{rules} {plan:?}");
    }
}

#[test]
fn there_is_a_most_of_everything() {
    let rule = |i| format!("{{ match = {{ path = \"/{i}\" }}, respond = {{}} }},");
    let many: String = (0..513).map(rule).collect();
    http(
        &format!("rules = [{many}]\n"),
        &[
            "5:9: services.www.rules has 513 rules, more than 512; put what follows from another condition into another service",
        ],
    );
    let long = "x".repeat((64 << 10) + 1);
    http(
        &format!("rules = [{{ respond = {{ body = \"{long}\" }} }}]\n"),
        &[
            "5:31: services.www.rules.respond.body has 65537 bytes, more than 65536; put it into a file and name that by `file`",
        ],
    );
}

#[test]
fn they_are_for_http_services_alone() {
    crate::check(
        "[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"tcp\"\npool = \"web\"\nvia = \"off\"\nrequest_id = \"off\"\nforwarded_fields = []\nrewrite = {}\nrules = []\nloop_limit = 1\nwebsocket = {}\n",
        &[
            r#"5:1: services.www.via does not apply to a tcp service; remove it, or write mode = "http""#,
            r#"6:1: services.www.request_id does not apply to a tcp service; remove it, or write mode = "http""#,
            r#"7:1: services.www.forwarded_fields does not apply to a tcp service; remove it, or write mode = "http""#,
            r#"8:1: services.www.rewrite does not apply to a tcp service; remove it, or write mode = "http""#,
            r#"9:9: services.www.rules is empty, and says nothing; write rules = [{ match = { sni = "www.example.org" }, pool = "web" }], or remove it"#,
            r#"10:1: services.www.loop_limit does not apply to a tcp service; remove it, or write mode = "http""#,
            r#"11:1: services.www.websocket does not apply to a tcp service; remove it, or write mode = "http""#,
        ],
    );
}
