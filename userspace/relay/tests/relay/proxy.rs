//! The PROXY protocol, taken from proxies in front and told to backends.

use std::{net::SocketAddr, time::Duration};

use weir_core::{
    plan::{Forwarded, ForwardedField, IpNet, LogFormat, ProxyIn, ProxyOut, ProxyTlvs},
    proxy::{self, Announced, Origin, Read, Ssl, Version, ssl},
};
use weir_relay::Reason;

use crate::support::{Backend, Lab, Logged, Raw, Setup, listener, status, value};

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Taken from these networks.
fn from(mut setup: Setup, networks: &[(&str, u8)], timeout: Duration) -> Setup {
    let network = |(address, prefix): &(&str, u8)| IpNet::new(address.parse().unwrap(), *prefix).unwrap();
    setup.proxy = Some(ProxyIn {
        from: networks.iter().map(network).collect(),
        timeout,
    });
    setup
}

fn from_here(setup: Setup) -> Setup {
    from(setup, &[("127.0.0.0", 8)], Duration::from_secs(10))
}

fn telling(mut setup: Setup, version: Version, tlvs: ProxyTlvs) -> Setup {
    setup.proxy_out = Some(ProxyOut { version, tlvs });
    setup
}

const ALL: ProxyTlvs = ProxyTlvs {
    alpn: true,
    authority: true,
    ssl: true,
    unique_id: true,
    crc32c: true,
};

fn v2(announced: &Announced<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    proxy::write(&mut bytes, Version::V2, announced);
    bytes
}

fn client_of(from: &str, to: &str) -> Announced<'static> {
    Announced {
        addresses: Some((at(from), at(to))),
        ..Announced::default()
    }
}

/// An HTTP service that says whom it takes for client and server.
fn http(backends: &[SocketAddr]) -> Setup {
    Setup::http_with(backends, |http| {
        http.forwarded = Forwarded::XForwardedFor;
        http.forwarded_fields = vec![ForwardedField::Port];
    })
}

#[test]
fn the_client_is_who_is_told_of() {
    let backend = Backend::new();
    let logged = Logged::new(from_here(http(&[backend.at])), LogFormat::Json, false);
    let v6 = v2(&client_of("[2001:db8::7]:40000", "[2001:db8::1]:8443"));
    let long = v2(&Announced {
        unique_id: Some(b"id"),
        crc32c: true,
        ..client_of("192.0.2.9:1", "198.51.100.1:80")
    });
    let told = [
        (V1.as_bytes().to_vec(), "192.0.2.7", "443", "192.0.2.7:40000"),
        (v6, "2001:db8::7", "8443", "[2001:db8::7]:40000"),
        (long, "192.0.2.9", "80", "192.0.2.9:1"),
    ];
    for (i, (header, client, port, logs)) in told.iter().enumerate() {
        // In one segment with the request, and byte by byte.
        for slowly in [false, true] {
            let mut raw = logged.lab.client();
            if slowly {
                header.iter().for_each(|byte| raw.send([*byte]));
            } else {
                raw.send([header.as_slice(), GET.as_bytes()].concat());
            }
            if slowly {
                raw.send(GET);
            }
            let mut server = match (i, slowly) {
                (0, false) => backend.accept(),
                // It is kept, and no client's alone.
                _ => SERVER.take().unwrap(),
            };
            let head = server.head();
            assert_eq!(value(&head, "x-forwarded-for").as_deref(), Some(*client));
            assert_eq!(value(&head, "x-forwarded-port").as_deref(), Some(*port));
            server.send("HTTP/1.1 204 No Content\r\n\r\n");
            assert_eq!(status(&raw.head()), 204);
            SERVER.set(Some(server));
            let line = logged.last(i * 2 + usize::from(slowly) + 1);
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(record["client"], *logs);
        }
    }
    logged.lab.ended(Reason::Ok, 6);
}

thread_local! {
    static SERVER: std::cell::Cell<Option<Raw>> = const { std::cell::Cell::new(None) };
}

#[test]
fn a_proxy_that_speaks_for_itself_is_the_client() {
    let backend = Backend::new();
    let lab = Lab::new(from_here(http(&[backend.at])));
    let mut server = None;
    for header in [v2(&Announced::default()), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut raw = lab.client();
        raw.send([header.as_slice(), GET.as_bytes()].concat());
        let server = server.get_or_insert_with(|| backend.accept());
        let head = server.head();
        assert_eq!(value(&head, "x-forwarded-for").as_deref(), Some("127.0.0.1"));
        let port = lab.at.port().to_string();
        assert_eq!(value(&head, "x-forwarded-port"), Some(port));
        server.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&raw.head()), 204);
    }
}

/// What `trusted_proxies` and the header say is judged by the client that was told of, not by the proxy.
#[test]
fn trust_is_in_the_client() {
    let backend = Backend::new();
    let setup = Setup::http_with(&[backend.at], |http| {
        http.forwarded = Forwarded::XForwardedFor;
        http.trusted_proxies = vec![IpNet::new("192.0.2.0".parse().unwrap(), 24).unwrap()];
    });
    let lab = Lab::new(from_here(setup));
    let mut server = None;
    for (client, seen) in [
        ("192.0.2.7:1", "203.0.113.1, 192.0.2.7"),
        ("198.51.100.9:1", "198.51.100.9"),
    ] {
        let mut raw = lab.client();
        raw.send(v2(&client_of(client, "198.51.100.1:443")));
        raw.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n");
        let server = server.get_or_insert_with(|| backend.accept());
        let head = server.head();
        assert_eq!(value(&head, "x-forwarded-for").as_deref(), Some(seen));
        server.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&raw.head()), 204);
    }
}

#[test]
fn http2_is_told_as_well() {
    let backend = Backend::new();
    let lab = Lab::new(from_here(http(&[backend.at])));
    let mut raw = lab.client();
    raw.send(V1);
    raw.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n");
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    let mut server = backend.accept();
    let head = server.head();
    assert_eq!(value(&head, "x-forwarded-for").as_deref(), Some("192.0.2.7"));
    assert_eq!(value(&head, "x-forwarded-port").as_deref(), Some("443"));
}

#[test]
fn what_is_missing_or_broken_is_refused() {
    let backend = Backend::new();
    for mut setup in [http(&[backend.at]), Setup::tcp(&[backend.at])] {
        setup = from_here(setup);
        let logged = Logged::new(setup, LogFormat::Json, false);
        let mut wrong = v2(&Announced {
            crc32c: true,
            ..client_of("192.0.2.7:1", "198.51.100.1:443")
        });
        *wrong.last_mut().unwrap() ^= 1;
        let mut long = proxy::SIGNATURE.to_vec();
        long.extend_from_slice(&[0x21, 0x11, 0xff, 0xff]);
        let mut count = 0;
        for (bytes, reason, detail) in [
            (GET.as_bytes(), Reason::ProxyMissing, "no PROXY header"),
            (b"\x16\x03\x01", Reason::ProxyMissing, "no PROXY header"),
            (
                b"PROXY TCP4 1 2 3 4\r\n",
                Reason::ProxyBroken,
                "no address of the family in PROXY line",
            ),
            (
                wrong.as_slice(),
                Reason::ProxyBroken,
                "wrong checksum of PROXY header",
            ),
            (long.as_slice(), Reason::ProxyBroken, "PROXY header too long"),
        ] {
            let mut raw = logged.lab.client();
            raw.send(bytes);
            raw.ends();
            count += 1;
            let record: serde_json::Value = serde_json::from_str(&logged.last(count)).unwrap();
            assert_eq!(
                (&record["end"], &record["detail"]),
                (&reason.as_str().into(), &detail.into())
            );
        }
        // It ends in the middle, and before there is anything.
        let mut raw = logged.lab.client();
        raw.send(&V1[..20]);
        raw.finish();
        raw.ends();
        let record: serde_json::Value = serde_json::from_str(&logged.last(count + 1)).unwrap();
        assert_eq!(record["detail"], "end within the PROXY header");
        drop(logged.lab.client());
        let lab = &logged.lab;
        lab.ended(Reason::ProxyBroken, 4);
        lab.ended(Reason::ProxyMissing, 2);
        crate::support::until("a connection without a byte", || lab.service().null == 1);
    }
    assert!(backend.is_untouched());
}

#[test]
fn a_header_that_does_not_come_is_not_waited_for() {
    let backend = Backend::new();
    for setup in [http(&[backend.at]), Setup::tcp(&[backend.at])] {
        let lab = Lab::new(from(setup, &[("127.0.0.1", 32)], Duration::from_millis(100)));
        for begun in ["", "PROXY TCP4 "] {
            let mut raw = lab.client();
            raw.send(begun);
            raw.ends();
        }
        lab.ended(Reason::ProxyTimeout, 2);
    }
    assert!(backend.is_untouched());
}

#[test]
fn a_strangers_header_is_no_request() {
    let backend = Backend::new();
    let elsewhere = [("10.0.0.0", 8)];
    let lab = Lab::new(from(http(&[backend.at]), &elsewhere, Duration::from_secs(10)));
    let header = v2(&client_of("192.0.2.7:1", "198.51.100.1:443"));
    for bytes in [V1.as_bytes(), header.as_slice()] {
        let mut raw = lab.client();
        raw.send([bytes, GET.as_bytes()].concat());
        assert_eq!(status(&raw.head()), 400);
    }
    lab.ended(Reason::ProxyUnexpected, 2);
    assert!(backend.is_untouched());
    // Without one it is a client like any other.
    let mut raw = lab.client();
    raw.send(GET);
    let mut server = backend.accept();
    let head = server.head();
    assert_eq!(value(&head, "x-forwarded-for").as_deref(), Some("127.0.0.1"));
    // A second header is no better than a stranger's.
    let lab = Lab::new(from_here(http(&[backend.at])));
    let mut raw = lab.client();
    raw.send(V1.repeat(2));
    assert_eq!(status(&raw.head()), 400);
    lab.ended(Reason::ProxyUnexpected, 1);
}

#[test]
fn bytes_behind_the_header_are_the_connections() {
    let backend = Backend::new();
    let lab = Lab::new(from_here(Setup::tcp(&[backend.at])));
    let mut raw = lab.client();
    raw.send(format!("{V1}question"));
    let mut server = backend.accept();
    assert_eq!(server.text(8), "question");
    server.send("answer");
    assert_eq!(raw.text(6), "answer");
    // The server speaks first.
    let mut raw = lab.client();
    raw.send(V1);
    let mut server = backend.accept();
    server.send("220 hello\r\n");
    assert_eq!(raw.until("\r\n"), "220 hello\r\n");
    raw.finish();
    assert_eq!(server.rest(), "");
}

/// What a backend reads: the header, and how many bytes it has.
fn header(server: &mut Raw) -> (Origin, Vec<u8>) {
    let mut bytes = server.exactly(16);
    let more = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    bytes.extend(server.exactly(more));
    let Ok(Read::Whole(whole)) = proxy::read(&bytes) else {
        panic!("{}", bytes.escape_ascii());
    };
    (whole.origin, bytes)
}

#[test]
fn backends_are_told() {
    let backend = Backend::new();
    for tcp in [false, true] {
        let setup = if tcp {
            Setup::tcp(&[backend.at])
        } else {
            http(&[backend.at])
        };
        let lab = Lab::new(telling(setup, Version::V1, ProxyTlvs::default()));
        let mut raw = lab.client();
        raw.send(GET);
        let mut server = backend.accept();
        let own = raw.stream.local_addr().unwrap();
        let line = format!(
            "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
            own.port(),
            lab.at.port()
        );
        assert_eq!(server.until("\r\n"), line);
        assert!(server.head().starts_with("GET / "));
    }
}

#[test]
fn what_was_told_is_told_on() {
    let told = Announced {
        alpn: Some(b"h2"),
        authority: Some(b"a.example"),
        unique_id: Some(b"id-7"),
        ssl: Some(Ssl {
            client: ssl::CLIENT_SSL,
            version: Some(b"TLSv1.3"),
            ..Ssl::default()
        }),
        crc32c: true,
        ..client_of("[2001:db8::7]:40000", "[2001:db8::1]:443")
    };
    let backend = Backend::new();
    for tcp in [false, true] {
        let setup = if tcp {
            Setup::tcp(&[backend.at])
        } else {
            http(&[backend.at])
        };
        let lab = Lab::new(telling(from_here(setup), Version::V2, ALL));
        let mut raw = lab.client();
        raw.send([v2(&told).as_slice(), GET.as_bytes()].concat());
        let mut server = backend.accept();
        let (origin, bytes) = header(&mut server);
        let addresses = Origin::Client {
            source: at("[2001:db8::7]:40000"),
            destination: at("[2001:db8::1]:443"),
        };
        assert_eq!(origin, addresses);
        let Ok(Read::Whole(whole)) = proxy::read(&bytes) else {
            panic!("it was whole");
        };
        assert_eq!(whole.tlvs.alpn, told.alpn);
        assert_eq!(whole.tlvs.authority, Some("a.example"));
        assert_eq!(whole.tlvs.unique_id, told.unique_id);
        assert_eq!(whole.tlvs.ssl, told.ssl);
        assert!(whole.tlvs.checked);
        assert!(server.head().starts_with("GET / "));
    }
}

/// A client's connection to a backend is its own: its requests share it, no other's do.
#[test]
fn told_connections_are_one_clients() {
    let backend = Backend::new();
    let lab = Lab::new(telling(http(&[backend.at]), Version::V1, ProxyTlvs::default()));
    let mut first = lab.client();
    first.send(GET);
    let mut server = backend.accept();
    server.until("\r\n");
    let answer = |server: &mut Raw| {
        server.head();
        server.send("HTTP/1.1 204 No Content\r\n\r\n");
    };
    answer(&mut server);
    assert_eq!(status(&first.head()), 204);
    crate::support::until("it is idle", || lab.backend(0).idle == 1);
    // Another client.
    let mut second = lab.client();
    second.send(GET);
    let mut other = backend.accept();
    other.until("\r\n");
    answer(&mut other);
    assert_eq!(status(&second.head()), 204);
    // Both again, each on its own.
    for (client, server) in [(&mut first, &mut server), (&mut second, &mut other)] {
        client.send(GET);
        answer(server);
        assert_eq!(status(&client.head()), 204);
    }
    let counts = lab.backend(0);
    assert_eq!((counts.connections, counts.reused), (2, 2));
    // It ends with its client, and when the backend ends it another is made.
    drop(second);
    other.ends();
    drop(server);
    first.send(GET);
    let mut server = backend.accept();
    server.until("\r\n");
    answer(&mut server);
    assert_eq!(status(&first.head()), 204);
    drop(first);
    crate::support::until("nothing is idle", || lab.backend(0).idle == 0);
}

/// With one backend the balancer chooses it whatever its connection's age.
#[test]
fn told_connections_are_not_used_when_they_are_old() {
    let backend = Backend::new();
    let mut setup = telling(http(&[backend.at]), Version::V1, ProxyTlvs::default());
    setup.connections.idle_timeout = Duration::from_millis(50);
    let lab = Lab::new(setup);
    let mut client = lab.client();
    for _ in 0..2 {
        client.send(GET);
        let mut server = backend.accept();
        server.until("\r\n");
        server.head();
        server.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&client.head()), 204);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(lab.backend(0).reused, 0);
}

/// A bound that a reload brings counts the client's own connection, which then must not be what its next request waits for.
#[test]
fn a_clients_own_connection_is_not_in_its_way() {
    let backend = Backend::new();
    let mut setup = telling(http(&[backend.at]), Version::V1, ProxyTlvs::default());
    let lab = Lab::new(setup.clone());
    let mut client = lab.client();
    for most in [None, Some(1)] {
        setup.connections.max = most;
        let same = listener(lab.at, "www", Vec::new());
        lab.relay.apply(setup.plan("www", lab.at), vec![same]).unwrap();
        client.send(GET);
        let mut server = backend.accept();
        server.until("\r\n");
        server.head();
        server.send("HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(status(&client.head()), 204);
    }
}

#[test]
fn told_connections_are_not_kept_where_places_are_few() {
    let backend = Backend::new();
    let mut setup = telling(http(&[backend.at]), Version::V1, ProxyTlvs::default());
    setup.connections.max = Some(1);
    let lab = Lab::new(setup);
    let mut clients = [lab.client(), lab.client()];
    for _ in 0..2 {
        for client in &mut clients {
            client.send(GET);
            let mut server = backend.accept();
            server.until("\r\n");
            server.head();
            server.send("HTTP/1.1 204 No Content\r\n\r\n");
            assert_eq!(status(&client.head()), 204);
            server.ends();
        }
    }
}
