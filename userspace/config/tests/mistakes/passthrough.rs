//! `[[services.NAME.rules]]` in mode `tcp`, and `timeouts.hello`.

use crate::{check, http};

/// A TCP service with these lines from line 5 on.
#[track_caller]
fn tcp(lines: &str, expected: &[&str]) {
    let service = "[services.tls]\nlisten = [\"127.0.0.1:8443\"]\nmode = \"tcp\"\npool = \"web\"\n";
    check(&format!("{service}{lines}\n"), expected);
}

#[test]
fn rules_look_at_hellos_alone() {
    tcp(
        "rules = [{ match = { host = \"a.example\" }, pool = \"web\" }]",
        &[
            "5:22: services.tls.rules.match.host does not apply to a tcp service; write `sni` or `alpn`, or mode = \"http\"",
        ],
    );
    tcp(
        "rules = [{ match = { sni = \"a.example\" }, redirect = { to = \"/\" }, pool = \"web\" }]",
        &[
            "5:43: services.tls.rules.redirect does not apply to a tcp service; write the `pool` that its connections go to, or mode = \"http\"",
        ],
    );
    http(
        "rules = [{ match = { sni = \"a.example\" }, pool = \"web\" }]\n",
        &[
            "5:22: services.www.rules.match.sni does not apply to an http service; write `host`, or mode = \"tcp\" to pass TLS on",
        ],
    );
}

#[test]
fn rules_have_to_say_something() {
    tcp(
        "rules = [{ match = {}, pool = \"web\" }]",
        &[
            "5:20: services.tls.rules.match has no condition; write sni or alpn, or remove it for every connection",
        ],
    );
    tcp(
        "rules = [{ match = { sni = \"10.0.0.1\" }, pool = \"web\" }]",
        &[
            "5:28: services.tls.rules.match.sni is `10.0.0.1`, and no client names an address (RFC 6066 section 3); write a name; clients that name none meet the rules without `sni`",
        ],
    );
    tcp(
        "rules = [{ match = { alpn = \"\" }, pool = \"web\" }]",
        &[
            "5:29: services.tls.rules.match.alpn is ``, which is no protocol of ALPN; write one as in \"h2\" or \"http/1.1\"",
        ],
    );
    tcp(
        "rules = [{ pool = \"web\" }, { match = { alpn = \"h2\" }, pool = \"web\" }]",
        &[
            "5:28: this rule of services.tls.rules never holds: the one in line 5 takes all that it would; move that one behind it, or remove one of the two",
        ],
    );
    tcp(
        "rules = [{ match = { alpn = \"h2\" }, pool = \"wbe\" }]",
        &["5:44: services.tls.rules.pool is `wbe`, and there is no such pool; did you mean `web`?"],
    );
}

#[test]
fn hellos_are_waited_for_by_rules_alone() {
    tcp(
        "timeouts = { hello = \"5s\" }",
        &[
            "5:22: services.tls.timeouts.hello has no effect: without `rules` no ClientHello is waited for; remove it, or write rules = [{ match = { sni = \"www.example.org\" }, pool = \"web\" }]",
        ],
    );
    http(
        "timeouts = { hello = \"5s\" }\n",
        &[
            "5:22: services.www.timeouts.hello does not apply to an http service; remove it, or write mode = \"tcp\" to pass TLS on",
        ],
    );
}
