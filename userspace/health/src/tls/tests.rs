//! Names to ask for. Handshakes are tested with whole probes.

use super::*;

fn name_for(target: SocketAddr, host: Option<&str>, server_name: Option<&str>) -> Result<String, Failure> {
    let tls = TlsCheck {
        verify: true,
        ca: None,
        server_name: server_name.map(str::to_owned),
    };
    let check = HttpCheck {
        protocol: HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: host.map(str::to_owned),
        status: vec![],
    };
    super::server_name(target, &check, &tls).map(|name| name.to_str().into_owned())
}

#[test]
fn the_name_asked_for() {
    for (target, host, server_name, expected) in [
        ("10.0.0.1:443", None, None, "10.0.0.1"),
        ("[2001:db8::1]:443", None, None, "2001:db8::1"),
        ("10.0.0.1:443", Some("www.example.com"), None, "www.example.com"),
        (
            "10.0.0.1:443",
            Some("www.example.com:8443"),
            None,
            "www.example.com",
        ),
        ("10.0.0.1:443", Some("10.9.9.9:8443"), None, "10.9.9.9"),
        ("10.0.0.1:443", Some("[2001:db8::2]:8443"), None, "2001:db8::2"),
        ("10.0.0.1:443", Some("[2001:db8::2]"), None, "2001:db8::2"),
        ("10.0.0.1:443", Some("2001:db8::2"), None, "2001:db8::2"),
        (
            "10.0.0.1:443",
            Some("www.example.com"),
            Some("inner.example.com"),
            "inner.example.com",
        ),
        ("10.0.0.1:443", None, Some("2001:db8::3"), "2001:db8::3"),
    ] {
        assert_eq!(
            name_for(target.parse().unwrap(), host, server_name).as_deref(),
            Ok(expected),
            "{host:?} {server_name:?}"
        );
    }
}

#[test]
fn names_that_are_none() {
    for (host, server_name) in [(Some("not a name"), None), (None, Some("")), (Some("a..b"), None)] {
        let failure = name_for("10.0.0.1:443".parse().unwrap(), host, server_name).unwrap_err();
        assert!(
            matches!(&failure, Failure::Internal(text) if text.contains("server name")),
            "{failure}"
        );
    }
}
