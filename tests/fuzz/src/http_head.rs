//! Any bytes as what a client sends, and as what a backend answers.
//!
//! Holds: how many bytes a head has does not depend on how it arrives; what is written for a backend is read there
//! as the same request (so nothing can be smuggled past weir); a chunked body does not depend on where reads cut it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
};

use weir_config::{Facts, Tunables};
use weir_core::plan::{Forwarded, ForwardedField, Http, Mode, Plan, Rewrite, RuleAction, Service};
use weir_relay::http1::{
    body::{Decoder, write_chunk},
    forwarded::{Client, Trust},
    head::{HeadLimits, HeadScan, Malformed, field_store},
    request::{self, Request, RequestBody},
    response::{self, Asked},
    rules::Rules,
    template::Variables,
    version::Version,
    write::{self, RequestChanges},
};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 8 << 10,
    fields: 64,
};

/// Checks one byte string.
pub fn check(data: &[u8]) {
    requests(data);
    responses(data);
    chunks(data);
}

/// What of a request must survive being passed on.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Meaning {
    method: String,
    path: String,
    body: RequestBody,
}

pub(crate) fn meaning(request: &Request<'_, '_>) -> Meaning {
    let slash = if request.target.slash { "/" } else { "" };
    Meaning {
        method: request.method.into(),
        path: format!("{slash}{}", request.target.path),
        body: request.body,
    }
}

fn requests(data: &[u8]) {
    let data = &data[request::skip_empty_lines(data)..];
    let mut store = field_store();
    let Ok(Some(parsed)) = request::parse(data, &mut store, LIMITS) else {
        return;
    };
    let head = &data[..parsed.head_len];
    assert_eq!(
        HeadScan::default().advance(head),
        Ok(true),
        "the scan and the parser agree on the end"
    );
    assert_eq!(HeadScan::default().advance(&head[..head.len() - 1]), Ok(false));
    for cut in cuts(head) {
        let mut store = field_store();
        let part = request::parse(&head[..cut], &mut store, LIMITS);
        assert!(matches!(part, Ok(None)), "cut at {cut}: {:?}", part.err());
    }
    for (forwarded, trusted) in [
        (Forwarded::XForwardedFor, false),
        (Forwarded::Both, true),
        (Forwarded::Off, true),
    ] {
        passed_on(&parsed, forwarded, trusted);
    }
}

/// Writes the request as for a backend, and reads it as a backend would: as it is, and rewritten.
pub(crate) fn passed_on(parsed: &Request<'_, '_>, forwarded: Forwarded, trusted: bool) {
    let written = write_by(parsed, forwarded, trusted, &Rewrite::default(), &Rules::default());
    let written = written.expect("nothing is rewritten");
    let path = read_again(&written, parsed);
    assert_eq!(
        path,
        meaning(parsed).path,
        "{}",
        String::from_utf8_lossy(&written)
    );
    for rewrite in rewrites() {
        // What can't be rewritten is refused; what leaves weir is a request like any other.
        if let Ok(written) = write_by(parsed, forwarded, trusted, rewrite, header_rules()) {
            let path = read_again(&written, parsed);
            let text = || String::from_utf8_lossy(&written).into_owned();
            // `*` and the authority form stay as they are.
            assert!(
                path.starts_with('/') || path == meaning(parsed).path,
                "{}",
                text()
            );
        }
    }
}

fn write_by(
    parsed: &Request<'_, '_>,
    forwarded: Forwarded,
    trusted: bool,
    rewrite: &Rewrite,
    rules: &Rules,
) -> Result<Vec<u8>, Malformed> {
    let client: SocketAddr = (Ipv4Addr::new(198, 51, 100, 7), 40_000).into();
    let node = "box".into();
    let trust = Trust {
        mode: forwarded,
        proxies: &[],
        sender: trusted,
    };
    let vars = Variables {
        node: &node,
        service: service(),
        pool: "p",
        client,
        tls: None,
        told_secure: false,
        server: None,
        backend: None,
        id: b"",
        request: Some((parsed, trust)),
        rest: "",
        response: None,
    };
    let from = Client::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)));
    let changes = RequestChanges {
        websocket: &weir_core::plan::WebSocket::default(),
        rules,
        rewrite,
        vars: &vars,
        trust,
        fields: &ForwardedField::ALL.map(|(_, field)| field),
        client: &from,
        via: Some("box"),
    };
    let mut written = Vec::new();
    write::request(&mut written, parsed, &changes)?;
    if parsed.version == Version::Http10 {
        // HTTP/1.0 may come without a host; then the backend is sent an empty one (RFC 9112 section 3.2), which weir
        // itself would not take from a client.
        let empty: &[u8] = b"\r\nHost: \r\n";
        if let Some(at) = written.windows(empty.len()).position(|part| part == empty) {
            written.insert(at + empty.len() - 2, b'x');
        }
    }
    Ok(written)
}

/// What a backend reads is the client's request: answers with the path.
fn read_again(written: &[u8], parsed: &Request<'_, '_>) -> String {
    let mut store = field_store();
    let limits = HeadLimits {
        bytes: 4 << 20,
        fields: 128,
    };
    let text = || String::from_utf8_lossy(written).into_owned();
    match request::parse(written, &mut store, limits) {
        Ok(Some(again)) => {
            assert_eq!(
                again.head_len,
                written.len(),
                "one head and nothing behind it: {}",
                text()
            );
            let (read, sent) = (meaning(&again), meaning(parsed));
            assert_eq!((read.method, read.body), (sent.method, sent.body), "{}", text());
            assert_eq!(again.version, Version::Http11);
            assert!(again.keep_alive, "a backend's connection stays: {}", text());
            read.path
        }
        Ok(None) => panic!("what weir writes is whole: {}", text()),
        Err(error) => panic!("what weir writes is well-formed, not {error:?}: {}", text()),
    }
}

/// Ways to rewrite with what a client sends.
fn rewrites() -> impl Iterator<Item = &'static Rewrite> {
    http().rules.iter().filter_map(|rule| match &rule.action {
        RuleAction::Relay(relayed) => relayed.rewrite.as_ref(),
        RuleAction::Redirect(_) | RuleAction::Respond(_) => None,
    })
}

/// Header rules with what a client sends.
fn header_rules() -> &'static Rules {
    static RULES: LazyLock<Rules> = LazyLock::new(|| Rules::new(&http().request_headers));
    &RULES
}

fn responses(data: &[u8]) {
    for asked in [Asked::Other, Asked::Head, Asked::Connect] {
        let mut store = field_store();
        let Ok(Some(parsed)) = response::parse(data, &mut store, LIMITS, asked) else {
            continue;
        };
        assert!((100..600).contains(&parsed.status));
        let head = &data[..parsed.head_len];
        assert_eq!(
            HeadScan::default().advance(head),
            Ok(true),
            "the scan and the parser agree on the end"
        );
        if asked == Asked::Head || parsed.tunnel {
            assert_eq!(
                parsed.body,
                response::ResponseBody::None,
                "a HEAD request's response has no body, nor has what a tunnel follows"
            );
        }
        for cut in cuts(head) {
            let mut store = field_store();
            let part = response::parse(&head[..cut], &mut store, LIMITS, asked);
            assert!(matches!(part, Ok(None)), "cut at {cut}: {:?}", part.err());
        }
    }
}

/// Some places inside a head: all of a short one.
fn cuts(head: &[u8]) -> impl Iterator<Item = usize> + use<> {
    let end = head.len();
    (0..end).step_by(end / 64 + 1)
}

/// Decodes a chunked body whole, byte by byte, and in pieces; and again after it was written anew.
fn chunks(data: &[u8]) {
    let whole = decode(data, data.len());
    for size in [1, 3, 17] {
        assert_eq!(decode(data, size), whole, "in pieces of {size}");
    }
    let Ok((body, _, true)) = whole else { return };
    let mut written = Vec::new();
    if !body.is_empty() {
        write_chunk(&mut written, &body, None);
    }
    write_chunk(&mut written, &[], Some(&[]));
    assert_eq!(decode(&written, 5), Ok((body, written.len(), true)));
}

/// The body, the bytes used, and whether it came to its end; `piece` bytes at a time.
fn decode(data: &[u8], piece: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
    let mut decoder = Decoder::chunked();
    let (mut body, mut used) = (Vec::new(), 0);
    for part in data.chunks(piece.max(1)) {
        if decoder.is_done() {
            break;
        }
        let mut part = part.to_vec();
        let decoded = decoder.decode(&mut part)?;
        body.extend_from_slice(&part[decoded.data]);
        used += decoded.used;
    }
    Ok((body, used, decoder.is_done()))
}

fn http() -> &'static Http {
    match &service().mode {
        Mode::Http(http) => http,
        Mode::Tcp(_) | Mode::L4(_) => panic!("the service is one of HTTP"),
    }
}

/// A service to pass requests on for.
fn service() -> &'static Service {
    static PLAN: LazyLock<Plan> = LazyLock::new(|| {
        let text = r#"
            [node]
            name = "box"
            xdp = "off"
            [pools.p]
            backends = [{ address = "127.0.0.1:1" }]
            [services.s]
            listen = ["127.0.0.1:2"]
            mode = "http"
            pool = "p"
            request_headers = [
                { replace = "Cookie", find = "a", value = "{request.target}" },
                { set = "X-A", value = "{request.header.Cookie} {request.authority} {client.real_address}" },
            ]
            rules = [
                { match = { path = "/1" }, rewrite = { path = "{request.path}/{request.header.Cookie}", query = "{request.path}&{request.query}" } },
                { match = { path = "/2" }, rewrite = { add_prefix = "/{request.query}", replace = [{ find = "a", with = "/" }], host = "{request.host}.x" } },
                { match = { path = "/3" }, rewrite = { host = "{request.header.Cookie}" } },
            ]
        "#;
        let facts = Facts {
            hostname: "box".into(),
            runtime_dir: "/run/weir".into(),
        };
        weir_config::parse("weir.toml", text, &Tunables::default(), &facts).expect("a plan")
    });
    PLAN.services.first().map(Arc::as_ref).expect("a service")
}
