//! TLS that is passed on, by its ClientHello: hellos made by hand, in any pieces.

use std::{net::SocketAddr, time::Duration};

use weir_core::{
    ids::PoolName,
    plan::{HelloRule, IpNet, LogFormat, Passthrough, ProxyIn, ProxyOut, ProxyTlvs},
    proxy::{self, Read, Version},
};
use weir_relay::Reason;

use crate::support::{Backend, Lab, Logged, Raw, Setup, status};

/// A vector behind its length in so many bytes.
fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u64).to_be_bytes();
    [&len[8 - width..], content].concat()
}

/// A ClientHello, in records of that size.
fn hello(sni: Option<&str>, alpn: &[&str], size: usize) -> Vec<u8> {
    let extension = |kind: u16, content: &[u8]| [&kind.to_be_bytes(), vector(2, content).as_slice()].concat();
    let mut extensions = extension(0x0a0a, &[]);
    if let Some(name) = sni {
        let entry = [&[0], vector(2, name.as_bytes()).as_slice()].concat();
        extensions.extend(extension(0, &vector(2, &entry)));
    }
    if !alpn.is_empty() {
        let list: Vec<u8> = alpn.iter().flat_map(|name| vector(1, name.as_bytes())).collect();
        extensions.extend(extension(16, &vector(2, &list)));
    }
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend(vector(1, &[8; 32]));
    body.extend(vector(2, &[0x13, 1]));
    body.extend(vector(1, &[0]));
    body.extend(vector(2, &extensions));
    let message = [&[1], vector(3, &body).as_slice()].concat();
    let record = |part: &[u8]| [&[22, 3, 1], vector(2, part).as_slice()].concat();
    message.chunks(size).flat_map(record).collect()
}

fn rule(sni: &[&str], alpn: &[&str], pool: &str) -> HelloRule {
    let all = |values: &[&str]| values.iter().map(|value| (*value).to_owned()).collect();
    HelloRule {
        sni: all(sni),
        alpn: all(alpn),
        pool: PoolName::new(pool),
    }
}

/// The service's own pool, `a` by name, and `h2` by protocol.
fn setup(backends: &[Backend; 3], timeout: Duration) -> Setup {
    let mut setup = Setup::tcp_with(&[backends[0].at], |tcp| {
        tcp.passthrough = Some(Passthrough {
            rules: vec![
                rule(&["a.example", "*.a.example"], &[], "a"),
                rule(&[], &["h2"], "h2"),
            ],
            timeout,
        });
    });
    setup.others = vec![("a", vec![backends[1].at]), ("h2", vec![backends[2].at])];
    setup
}

fn backends() -> [Backend; 3] {
    std::array::from_fn(|_| Backend::new())
}

const LONG: Duration = Duration::from_secs(10);

#[test]
fn the_hello_chooses_the_pool_and_goes_on_as_it_came() {
    let all = backends();
    let logged = Logged::new(setup(&all, LONG), LogFormat::Json, false);
    let mut count = 0;
    for (sni, alpn, to) in [
        (Some("a.example"), vec![], 1),
        (Some("WWW.A.Example"), vec!["h2"], 1),
        (Some("b.example"), vec!["http/1.1", "h2"], 2),
        (None, vec!["h2"], 2),
        (Some("b.example"), vec!["http/1.1"], 0),
        (None, vec![], 0),
    ] {
        // In one record or many, in one segment or byte by byte, and something behind it.
        for (size, slowly) in [(1 << 14, false), (9, false), (1 << 14, true), (40, true)] {
            let sent = [hello(sni, &alpn, size).as_slice(), b"\x17\x03\x03\0\x05hello"].concat();
            let mut raw = logged.lab.client();
            if slowly {
                sent.iter().for_each(|byte| raw.send([*byte]));
            } else {
                raw.send(&sent);
            }
            let mut server = all[to].accept();
            assert_eq!(server.exactly(sent.len()), sent);
            server.send("answer");
            assert_eq!(raw.text(6), "answer");
            raw.finish();
            assert_eq!(server.rest(), "");
            drop(server);
            assert_eq!(raw.rest(), "");
            count += 1;
            let record: serde_json::Value = serde_json::from_str(&logged.last(count)).unwrap();
            assert_eq!(
                record["sni"].as_str(),
                sni.map(str::to_ascii_lowercase).as_deref()
            );
            assert_eq!(record["pool"], ["pool", "a", "h2"][to]);
        }
    }
}

#[test]
fn what_no_rule_takes_is_told_so() {
    let all = backends();
    let mut setup = setup(&all, LONG);
    setup.no_pool = true;
    let lab = Lab::new(setup);
    for sni in [None, Some("b.example")] {
        let mut raw = lab.client();
        raw.send(hello(sni, &["http/1.1"], 1 << 14));
        // unrecognized_name
        assert_eq!(raw.exactly(7), [21, 3, 3, 0, 2, 2, 112]);
        raw.ends();
    }
    lab.ended(Reason::HelloUnrouted, 2);
    assert!(all.iter().all(Backend::is_untouched));
}

#[test]
fn what_is_no_hello_goes_nowhere() {
    let all = backends();
    let logged = Logged::new(setup(&all, LONG), LogFormat::Json, false);
    let mut raw = logged.lab.client();
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(status(&raw.head()), 400);
    let mut raw = logged.lab.client();
    raw.send("SSH-2.0-x\r\n");
    assert_eq!(raw.rest_or_reset(), (String::new(), true));
    logged.lab.ended(Reason::HelloPlain, 2);
    // decode_error
    let alert = [21, 3, 3, 0, 2, 2, 50];
    for broken in [
        hello(Some("a b"), &[], 1 << 14),
        vec![22, 3, 1, 0, 9, 1, 0, 0x40, 0],
        vec![22, 3, 1, 0, 4, 2, 0, 0, 0],
    ] {
        let mut raw = logged.lab.client();
        raw.send(broken);
        assert_eq!(raw.exactly(7), alert);
        raw.ends();
    }
    let mut raw = logged.lab.client();
    raw.send(&hello(Some("a.example"), &[], 1 << 14)[..30]);
    raw.finish();
    assert_eq!(raw.exactly(7), alert);
    logged.lab.ended(Reason::HelloBroken, 4);
    let record: serde_json::Value = serde_json::from_str(&logged.last(6)).unwrap();
    assert_eq!(record["detail"], "end within the ClientHello");
    assert!(all.iter().all(Backend::is_untouched));
}

#[test]
fn a_hello_that_does_not_come_is_not_waited_for() {
    let all = backends();
    let lab = Lab::new(setup(&all, Duration::from_millis(100)));
    for begun in [b"".as_slice(), b"\x16\x03\x01\x02"] {
        let mut raw = lab.client();
        raw.send(begun);
        raw.ends();
    }
    lab.ended(Reason::HelloTimeout, 2);
    assert!(all.iter().all(Backend::is_untouched));
}

/// Behind a proxy's header, and before a backend that is sent one: the name is told on.
#[test]
fn headers_and_hellos() {
    let all = backends();
    let mut setup = setup(&all, LONG);
    setup.proxy = Some(ProxyIn {
        from: vec![IpNet::new("127.0.0.0".parse().unwrap(), 8).unwrap()],
        timeout: LONG,
    });
    setup.proxy_out = Some(ProxyOut {
        version: Version::V2,
        tlvs: ProxyTlvs {
            authority: true,
            ..ProxyTlvs::default()
        },
    });
    let lab = Lab::new(setup);
    let mut raw = lab.client();
    let sent = hello(Some("a.example"), &[], 20);
    raw.send(
        [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n",
            sent.as_slice(),
        ]
        .concat(),
    );
    let mut server: Raw = all[1].accept();
    let header = server.exactly(16 + 12 + 3 + 9);
    let Ok(Read::Whole(told)) = proxy::read(&header) else {
        panic!("{}", header.escape_ascii());
    };
    assert_eq!(told.tlvs.authority, Some("a.example"));
    let client: SocketAddr = "192.0.2.7:40000".parse().unwrap();
    assert!(matches!(told.origin, proxy::Origin::Client { source, .. } if source == client));
    assert_eq!(server.exactly(sent.len()), sent);
}
