//! Checks of backends: their defaults, and what they take over from their pool.

use super::*;

#[track_caller]
fn check_of(lines: &str) -> Check {
    let plan = resolve(&format!(
        "{POOL}[pools.web.check]\n{lines}\n[node]\nxdp = \"off\"\n"
    ));
    plan.pools[0].check.clone().expect("the pool has a check")
}

#[test]
fn a_check_has_its_defaults() {
    let second = Duration::from_secs(1);
    let tcp = check_of("type = \"tcp\"");
    assert_eq!(
        tcp,
        Check {
            kind: CheckKind::Tcp,
            interval: 2 * second,
            timeout: second,
            rise: 2,
            fall: 2,
            port: None,
            jitter: 10,
            proxy: None,
        }
    );
    let http = HttpCheck {
        protocol: weir_core::plan::HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: vec![(200, 299), (300, 399)],
    };
    assert_eq!(check_of("type = \"http\"").kind, CheckKind::Http(http.clone()));
    let tls = TlsCheck {
        verify: true,
        ca: None,
        server_name: None,
    };
    assert_eq!(
        check_of("type = \"https\"").kind,
        CheckKind::Http(HttpCheck {
            tls: Some(tls),
            ..http
        })
    );
}

#[test]
fn a_timeout_that_is_not_given_fits_the_interval() {
    let times = |lines| {
        let check = check_of(lines);
        (check.interval.as_millis(), check.timeout.as_millis())
    };
    assert_eq!(times("type = \"tcp\"\ninterval = \"5s\""), (5000, 1000));
    assert_eq!(times("type = \"tcp\"\ninterval = \"1s\""), (1000, 500));
    assert_eq!(times("type = \"tcp\"\ninterval = \"100ms\""), (100, 50));
    assert_eq!(times("type = \"tcp\"\ntimeout = \"1999ms\""), (2000, 1999));
}

#[test]
fn statuses_are_classes_numbers_and_ranges() {
    let check = check_of("type = \"http\"\nstatus = [\"2xx\", \"404\", \"301-302\", \"5xx\"]");
    let CheckKind::Http(http) = &check.kind else {
        panic!("{check:?}")
    };
    assert_eq!(http.status, [(200, 299), (404, 404), (301, 302), (500, 599)]);
}

#[test]
fn hosts_of_checks_are_names_and_addresses() {
    for host in [
        "a",
        "www.example.org",
        "a_b.example",
        "www.example.org:8080",
        "10.0.0.1",
        "[2001:db8::1]",
        "[::1]:80",
    ] {
        let check = check_of(&format!("type = \"http\"\nhost = \"{host}\""));
        let CheckKind::Http(http) = &check.kind else {
            panic!("{check:?}")
        };
        assert_eq!(http.host.as_deref(), Some(host));
    }
}

/// A check asks in the pool's protocol, unless it says otherwise.
#[test]
fn a_check_speaks_as_its_pool_does() {
    use weir_core::plan::{Http2, HttpProtocol};
    for (pool, check, expected) in [
        ("", "", HttpProtocol::Http1),
        ("protocol = \"h2c\"\n", "", HttpProtocol::H2c),
        (
            "protocol = \"h2c\"\n",
            "protocol = \"http/1.1\"\n",
            HttpProtocol::Http1,
        ),
        ("", "protocol = \"h2c\"\n", HttpProtocol::H2c),
    ] {
        let text = format!(
            "[node]\nxdp = \"off\"\n[pools.a]\n{pool}backends = [{{ address = \"10.0.0.1:80\" }}]\n\
             [pools.a.check]\ntype = \"http\"\n{check}"
        );
        let plan = resolve(&text);
        let CheckKind::Http(http) = &plan.pools[0].check.as_ref().unwrap().kind else {
            panic!("{text}");
        };
        assert_eq!(http.protocol, expected, "{text}");
        assert_eq!(plan.pools[0].http2, Http2::default());
    }
}

/// A check goes over TLS as its pool's connections do, unless it asks another server, or says otherwise.
#[test]
fn a_check_is_secured_as_its_pool_is() {
    use weir_core::plan::{HttpProtocol, TlsCheck};
    let of_pool = TlsCheck {
        verify: true,
        ca: Some("/ca.pem".into()),
        server_name: Some("a.test".into()),
    };
    let plain = TlsCheck {
        verify: true,
        ca: None,
        server_name: None,
    };
    for (check, protocol, tls) in [
        ("type = \"http\"", HttpProtocol::H2, Some(of_pool.clone())),
        ("type = \"https\"", HttpProtocol::H2, Some(of_pool.clone())),
        (
            "type = \"http\"\nprotocol = \"http/1.1\"\nserver_name = \"b.test\"",
            HttpProtocol::Http1,
            Some(TlsCheck {
                server_name: Some("b.test".into()),
                ..of_pool.clone()
            }),
        ),
        (
            "type = \"http\"\nverify = false",
            HttpProtocol::H2,
            Some(TlsCheck {
                verify: false,
                ca: None,
                ..of_pool
            }),
        ),
        ("type = \"http\"\nport = 8080", HttpProtocol::Http1, None),
        ("type = \"https\"\nport = 8443", HttpProtocol::Http1, Some(plain)),
    ] {
        let text = format!(
            "[node]\nxdp = \"off\"\n[pools.a]\nprotocol = \"h2\"\nbackends = [{{ address = \"10.0.0.1:80\" }}]\n\
             [pools.a.tls]\nca = \"/ca.pem\"\nserver_name = \"a.test\"\n[pools.a.check]\n{check}\n"
        );
        let plan = resolve(&text);
        let CheckKind::Http(http) = &plan.pools[0].check.as_ref().unwrap().kind else {
            panic!("{text}");
        };
        assert_eq!((http.protocol, &http.tls), (protocol, &tls), "{text}");
    }
}
