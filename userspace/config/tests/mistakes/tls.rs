//! `[services.NAME.tls]`, and what speaks of it elsewhere.

use crate::{check, http};

/// An HTTP service with these lines of TLS from line 6 on.
#[track_caller]
fn tls(lines: &str, expected: &[&str]) {
    http(&format!("[services.www.tls]\n{lines}\n"), expected);
}

const ONE: &str = "certificates = [\"/c.pem\"]";

#[test]
fn certificates_are_named() {
    tls(
        "",
        &[
            "5:1: [services.www.tls] has no `certificates`; write certificates = [\"/etc/weir/www.pem\"], a file with the certificates and their key",
        ],
    );
    tls(
        "certificates = []",
        &[
            "6:16: services.www.tls.certificates is empty; write certificates = [\"/etc/weir/www.pem\"], a file with the certificates and their key",
        ],
    );
    tls(
        "certificates = [1]",
        &[
            "6:17: services.www.tls.certificates has what is neither a path nor a table; write \"/etc/weir/www.pem\", or { chain = \"/etc/weir/www.pem\", key = \"/etc/weir/www.key\" }",
        ],
    );
    tls(
        "certificates = [\"www.pem\"]",
        &["6:17: services.www.tls.certificates is `www.pem`, not an absolute path; begin it with /"],
    );
    tls(
        "certificates = [{ key = \"/k\" }]",
        &[
            "6:17: [services.www.tls.certificates] has no `chain`; name the file of the certificate and those it was issued by",
        ],
    );
    tls(
        "certificates = [{ chain = \"/c\", staple = \"/o\" }]",
        &["6:33: unknown key `staple` in [services.www.tls.certificates]; it has chain, key and ocsp"],
    );
}

#[test]
fn policies_and_lists() {
    tls(
        &format!("{ONE}\npolicy = \"old\""),
        &[
            "7:10: services.www.tls.policy is `old`, which this version does not have; it has \"intermediate\" and \"modern\"",
        ],
    );
    tls(
        &format!("{ONE}\nversions = [\"1.1\"]"),
        &["7:13: services.www.tls.versions is `1.1`, which is none of its values; did you mean \"1.2\"?"],
    );
    tls(
        &format!("{ONE}\nversions = [\"1.3\", \"1.3\"]"),
        &["7:20: services.www.tls.versions has `1.3` twice; remove one of them"],
    );
    tls(
        &format!("{ONE}\nversions = []"),
        &["7:12: services.www.tls.versions is empty; remove it for the versions of the policy"],
    );
    tls(
        &format!("{ONE}\nciphers = [\"TLS_AES_128_GCM_SHA256\"]"),
        &[
            "7:11: services.www.tls.ciphers has none of TLS 1.2; add one, or leave that version out of `versions`",
        ],
    );
    tls(
        &format!(
            "{ONE}\npolicy = \"modern\"\nciphers = [\"TLS_AES_128_GCM_SHA256\", \"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\"]"
        ),
        &[
            "8:11: services.www.tls.ciphers has TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, which is of TLS 1.2; remove it, or add that version to `versions`",
        ],
    );
    tls(
        &format!("{ONE}\ngroups = [\"x448\"]"),
        &[
            "7:11: services.www.tls.groups is `x448`, which is none of its values; write \"X25519MLKEM768\", \"x25519\", \"secp256r1\" or \"secp384r1\"",
        ],
    );
}

#[test]
fn protocols() {
    tls(
        &format!("{ONE}\nalpn = [\"h3\", \"h2\", \"h2\"]"),
        &[
            "7:9: services.www.tls.alpn has `h3`, which an http service does not speak; write \"h2\" and \"http/1.1\", or one of them",
            "7:21: services.www.tls.alpn has `h2`, which it has already; remove one of them",
        ],
    );
    tls(
        &format!("{ONE}\nalpn = [\"h2\"]\n[services.www.http2]\nenabled = false"),
        &["7:9: services.www.tls.alpn has `h2`, and http2.enabled is false; remove one of the two"],
    );
}

#[test]
fn clients_certificates() {
    tls(
        &format!("{ONE}\nclient_certificates = \"required\""),
        &[
            "5:1: [services.www.tls] has no `client_ca`; name a PEM file of the certificates that issue those of clients",
        ],
    );
    tls(
        &format!("{ONE}\nclient_ca = \"/ca.pem\""),
        &[
            "7:1: services.www.tls.client_ca has no effect: clients are not asked for certificates; write client_certificates = \"required\" or \"optional\", or remove it",
        ],
    );
    tls(
        &format!("{ONE}\nclient_certificates = \"yes\""),
        &[
            "7:23: services.www.tls.client_certificates is `yes`, which is none of its values; write \"off\", \"optional\" or \"required\"",
        ],
    );
}

#[test]
fn what_needs_tls_says_so() {
    http(
        "timeouts = { handshake = \"1s\" }\n",
        &[
            "5:26: services.www.timeouts.handshake has no effect: the service does not end TLS; remove it, or write [services.NAME.tls]",
        ],
    );
    http(
        "request_headers = [{ set = \"X-Name\", value = \"{tls.sni}\" }]\n",
        &[
            "5:46: services.www.request_headers.value has `{tls.sni}`, which speaks of TLS, which the service does not end; write [services.NAME.tls], or remove it",
        ],
    );
    check(
        "[services.x]\nlisten = [\"192.0.2.1:443\"]\nmode = \"l4\"\npool = \"web\"\ntls = { certificates = [\"/c\"] }\n[node]\ninterfaces = [\"eth0\"]\n",
        &[
            "5:1: services.x.tls does not apply to an l4 service; remove it, or write mode = \"tcp\" or \"http\"",
        ],
    );
}

#[test]
fn clients_certificates_are_spoken_of_where_they_are_asked_for() {
    tls(
        &format!("{ONE}\n[[services.www.request_headers]]\nset = \"X\"\nvalue = \"{{tls.client.subject}}\""),
        &[
            "9:9: services.www.request_headers.value has `{tls.client.subject}`, which speaks of clients' certificates, which the service does not ask for; write client_certificates = \"optional\" or \"required\" in its section tls, or remove it",
        ],
    );
    let asked = format!("{ONE}\nclient_certificates = \"optional\"\nclient_ca = \"/ca.pem\"");
    tls(
        &format!(
            "{asked}\n[[services.www.request_headers]]\nset = \"X\"\nvalue = \"{{tls.client.extension.9.9}}\""
        ),
        &[
            "11:9: services.www.request_headers.value has `{tls.client.extension.9.9}`, which names no extension; write the dotted numbers of the OID, as in {tls.client.extension.2.5.29.17}",
        ],
    );
    tls(
        &format!(
            "{asked}\n[[services.www.rules]]\nmatch = {{ variable = {{ name = \"client.address\" }} }}\npool = \"web\""
        ),
        &[
            "10:31: services.www.rules.match.variable.name is `client.address`, which is no variable of TLS; write one as in \"tls.client.verify\", without braces",
        ],
    );
}
