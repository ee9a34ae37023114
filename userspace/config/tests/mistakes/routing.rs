//! Rules that choose a pool, conditions on header fields, and services without a pool of their own.

use crate::{NODE, POOL, check, check_as_it_stands, http, resolve};

#[test]
fn pools_of_rules() {
    http(
        "rules = [{ match = { path = \"/a\" }, pool = \"wbe\" }]\n",
        &["5:44: services.www.rules.pool is `wbe`, and there is no such pool; did you mean `web`?"],
    );
    http(
        "rules = [{ match = { path = \"/a\" }, pool = \"api\" }, { pool = 5 }]\n",
        &[
            "5:44: services.www.rules.pool is `api`, and there is no such pool; write a section [pools.api]",
            "5:62: services.www.rules.pool is an integer, not a string; put it in double quotes",
        ],
    );
    http(
        "rules = [{ pool = \"web\", respond = {} }]\n",
        &[
            "5:10: a rule of services.www.rules has several of redirect, respond, rewrite and pool; write one per rule, as in pool = \"web\"; only `rewrite` and `pool` go together",
        ],
    );
    http(
        "rules = [{ poool = \"web\" }]\n",
        &["5:12: unknown key `poool` in [services.www.rules]; did you mean `pool`?"],
    );
}

/// What a rule's pool can't be for a relay, it can't be for a service's either.
#[test]
fn pools_of_rules_fit_a_relay() {
    let with = |pool: &str| {
        format!(
            "[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\npool = \"web\"\nrules = [{{ match = {{ path = \"/a\" }}, pool = \"x\" }}]\n{pool}{POOL}{NODE}"
        )
    };
    check_as_it_stands(
        &with("[pools.x]\nbackends = [{ address = \"10.0.0.12:*\" }]\n"),
        &[
            "5:44: services.www.mode is \"http\", but pool `x` has 10.0.0.12:*, without a port to connect to; write its port in the pool, or a pool of its own for this service",
        ],
    );
    check_as_it_stands(
        &with("[pools.x]\nbackends = [{ address = \"127.0.0.1:8080\" }]\n"),
        &[
            "5:44: services.www listens on 127.0.0.1:8080, which is a backend of its own pool `x`; write the backend's own address and port",
        ],
    );
    // It is relayed to, so it may say how.
    let plan = resolve(&with(
        "[pools.x]\nbackends = [{ address = \"10.0.0.12:80\" }]\nretries = { attempts = 2 }\n",
    ));
    assert!(plan.is_ok(), "{plan:?}");
}

#[test]
fn conditions_on_fields() {
    for (header, expected) in [
        (
            "{}",
            "5:31: [services.www.rules.match.header] has no `name`; name the field, as in name = \"X-Version\"",
        ),
        (
            "[]",
            "5:31: services.www.rules.match.header is empty, and says nothing; write one as in { name = \"X-Version\", value = \"2\" }, or remove it",
        ),
        (
            "\"X-A\"",
            "5:31: services.www.rules.match.header is a string, not an array; put it in square brackets",
        ),
        (
            "{ name = \"X A\" }",
            "5:40: services.www.rules.match.header.name is `X A`, which is no header name; write letters, digits and hyphens, without colon and spaces",
        ),
        (
            "{ name = \"Host\", value = \"a\" }",
            "5:40: services.www.rules.match.header.name is Host; write the condition `host` instead",
        ),
        (
            "{ name = \"X-A\", value = \"a\", prefix = \"b\" }",
            "5:60: services.www.rules.match.header.prefix stands beside `value`, which says the whole; remove one of the two, or write two rules",
        ),
        (
            "{ name = \"X-A\", prefix = \"\" }",
            "5:56: services.www.rules.match.header.prefix is empty, and every value begins so; remove it: a name alone asks for it to be there",
        ),
        (
            "{ name = \"X-A\", prefix = \" a\" }",
            "5:56: services.www.rules.match.header.prefix begins with a space, and no value does; remove it",
        ),
        (
            "{ name = \"X-A\", value = [] }",
            "5:55: services.www.rules.match.header.value is empty, and would never hold; write a value, or remove it",
        ),
        (
            "{ name = \"X-A\", value = \"a\\n\" }",
            "5:55: services.www.rules.match.header.value has a line break in it, which would begin another header; write visible ASCII, spaces and tabs",
        ),
        (
            "{ name = \"X-A\", vlaue = \"a\" }",
            "5:47: unknown key `vlaue` in [services.www.rules.match.header]; did you mean `value`?",
        ),
        (
            "{ name = \"X-A\", regex = \"a\" }",
            "5:47: this version has no `regex` in [services.www.rules.match.header]; write `value` or `prefix`",
        ),
    ] {
        http(
            &format!("rules = [{{ match = {{ header = {header} }}, respond = {{}} }}]\n"),
            &[expected],
        );
    }
    http(
        "rules = [{ match = { header = [{ name = \"A\" }] }, respond = {} },\n{ match = { header = { name = \"A\" } }, pool = \"web\" }]\n",
        &[
            "6:1: this rule of services.www.rules never holds: the one in line 5 has the same conditions; remove one of the two",
        ],
    );
}

#[test]
fn services_without_a_pool() {
    let service = |rules: &str| {
        format!("[services.www]\nlisten = [\"127.0.0.1:8080\"]\nmode = \"http\"\n{rules}\n{POOL}{NODE}")
    };
    for rules in [
        "rules = [{ respond = { status = 404 } }]",
        "rules = [{ match = { path = \"/a\" }, pool = \"web\" }, { redirect = { to = \"https://a.example\" } }]",
        "rules = [{ match = { path_prefix = \"/\" }, pool = \"web\", rewrite = { add_prefix = \"/a\" } }]",
    ] {
        let plan = resolve(&service(rules)).unwrap_or_else(|report| panic!("{rules}: {report}"));
        assert_eq!(plan.services[0].pool, None);
    }
    check(
        &service(""),
        &["1:1: [services.www] has no `pool`; name the pool that it goes to, as in pool = \"web\""],
    );
    check(
        &service("rules = [{ match = { path = \"/a\" }, pool = \"web\" }]"),
        &[
            "1:1: [services.www] has no `pool`; name the pool for requests that no rule takes, or end `rules` with one without `match`, as in { respond = { status = 404 } }",
        ],
    );
    check(
        &service("rules = [{ rewrite = { add_prefix = \"/a\" } }]"),
        &[
            "1:1: [services.www] has no `pool`; name the pool that it goes to, or a `pool` in each rule that has `rewrite`",
        ],
    );
    // A rule that could not be read may have been the one that takes all.
    check(
        &service("rules = [{ pool = \"wbe\" }]"),
        &["4:19: services.www.rules.pool is `wbe`, and there is no such pool; did you mean `web`?"],
    );
    check(
        &service("rules = [{ respnd = {} }]"),
        &["4:12: unknown key `respnd` in [services.www.rules]; did you mean `respond`?"],
    );
}
