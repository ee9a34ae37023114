//! Properties of heads and bodies over generated messages. What is refused and why is tabulated in `tests/relay/heads`,
//! where it goes over sockets.

use std::{net::SocketAddr, sync::Arc};

use proptest::prelude::*;
use weir_core::{
    ids::{PoolName, ServiceName},
    plan::{Forwarded, Mode, Rewrite, Service, Tcp, Timeouts},
};

mod rewriting;

use super::{
    body::{CHUNK_END, Decoder, LAST_CHUNK, SizeLine, write_chunk},
    forwarded::{Client, Trust},
    head::{HeadLimits, HeadScan, MAX_FIELDS, Malformed, Positions, field_store},
    request::{self, RequestBody},
    response::{self, Asked, ResponseBody},
    rules::Rules,
    template::Variables,
    write::{self, ClientConnection, RequestChanges, ResponseChanges, ResponseShape},
};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 64 << 10,
    fields: MAX_FIELDS,
};

fn service() -> Service {
    let second = std::time::Duration::from_secs(1);
    let timeouts = Timeouts {
        handshake: second,
        connect: second,
        request_head: second,
        client: second,
        server: second,
        keep_alive: second,
        queue: second,
        tunnel: second,
    };
    Service {
        per_source: weir_core::plan::PerSource::default(),
        proxy: None,
        tls: None,
        name: ServiceName::new("www"),
        listen: Vec::new(),
        pool: Some(PoolName::new("pool")),
        mode: Mode::Tcp(Tcp {
            timeouts,
            connections: 1,
            passthrough: None,
        }),
    }
}

fn client() -> SocketAddr {
    ([192, 0, 2, 1], 1).into()
}

/// Parses a request and writes it as a backend would get it; with what follows it.
fn rewrite(bytes: &[u8]) -> Result<Option<(Vec<u8>, RequestBody)>, Malformed> {
    rewrite_by(bytes, &Rewrite::default(), &Rules::default())
}

fn rewrite_by(
    bytes: &[u8],
    rewrite: &Rewrite,
    rules: &Rules,
) -> Result<Option<(Vec<u8>, RequestBody)>, Malformed> {
    let mut store = field_store();
    let Some(parsed) = request::parse(bytes, &mut store, LIMITS)? else {
        return Ok(None);
    };
    let (node, service) = (Arc::from("edge"), service());
    let client = client();
    let trust = Trust::new(Forwarded::Off, &[], client.ip());
    let vars = Variables {
        request: Some((&parsed, trust)),
        id: b"some-id",
        ..variables(&node, &service)
    };
    let changes = RequestChanges {
        websocket: &weir_core::plan::WebSocket::default(),
        rules,
        rewrite,
        vars: &vars,
        trust,
        fields: &[],
        via: None,
        client: &Client::new(client.ip()),
    };
    let mut out = Vec::new();
    write::request(&mut out, &parsed, &changes)?;
    Ok(Some((out, parsed.body)))
}

fn variables<'a>(node: &'a Arc<str>, service: &'a Service) -> Variables<'a> {
    Variables {
        node,
        service,
        pool: "pool",
        client: client(),
        tls: None,
        told_secure: false,
        server: None,
        backend: None,
        id: b"",
        request: None,
        rest: "",
        response: None,
    }
}

fn rewrite_response(bytes: &[u8]) -> Result<Option<(Vec<u8>, ResponseBody)>, Malformed> {
    let mut store = field_store();
    let Some(parsed) = response::parse(bytes, &mut store, LIMITS, Asked::Other)? else {
        return Ok(None);
    };
    let (node, service) = (Arc::from("edge"), service());
    let chunked = parsed.body == ResponseBody::Chunked;
    let connection = ClientConnection::Stays;
    let shape = ResponseShape { chunked, connection };
    let changes = ResponseChanges {
        rules: &Rules::default(),
        vars: &variables(&node, &service),
        via: None,
    };
    let mut out = Vec::new();
    write::response(&mut out, &parsed, shape, &changes, || {
        std::time::SystemTime::UNIX_EPOCH
    })?;
    Ok(Some((out, parsed.body)))
}

/// Nothing that leaves weir may be read in two ways: one end of line, one framing, one host.
fn assert_unambiguous(head: &[u8]) {
    assert!(head.ends_with(b"\r\n\r\n"));
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(head[at + 1], b'\n'),
            b'\n' => assert_eq!(head[at - 1], b'\r'),
            _ => {}
        }
    }
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    assert_eq!(text.matches("\r\n\r\n").count(), 1);
    let count = |name: &str| {
        text.split("\r\n")
            .filter(|l| l.split(':').next() == Some(name))
            .count()
    };
    assert!(
        count("content-length") + count("transfer-encoding") <= 1,
        "{text}"
    );
    assert!(count("host") <= 1, "{text}");
    assert!(!head.contains(&0));
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}"
}

fn field() -> impl Strategy<Value = (String, String)> {
    let common = prop_oneof![
        Just("Content-Length"),
        Just("transfer-encoding"),
        Just("Connection"),
        Just("TE"),
        Just("Upgrade"),
        Just("Expect"),
        Just("Keep-Alive"),
        Just("X-Forwarded-For"),
        Just("Cookie"),
    ];
    let value = prop_oneof![
        "[ -~\t]{0,20}",
        Just("5".to_owned()),
        Just("chunked".to_owned()),
        Just("100-continue".to_owned()),
        Just("upgrade, TE, x-a".to_owned()),
        Just("trailers".to_owned()),
    ];
    (
        prop_oneof![2 => token(), 1 => common.prop_map(str::to_owned)],
        value,
    )
}

fn request_head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET".to_owned()), Just("POST".to_owned()), token()];
    let target = prop_oneof![
        "/[!-\"$-~]{0,20}",
        Just("*".to_owned()),
        "http://[a-z.]{1,8}(:80)?(/[a-z?]{0,5})?",
    ];
    let host = prop_oneof![
        Just("a".to_owned()),
        "[a-z.]{1,8}(:[0-9]{1,5})?",
        Just("[::1]:80".to_owned()),
    ];
    let fields = proptest::collection::vec(field(), 0..10);
    (method, target, 0..=1, host, fields).prop_map(|(method, target, minor, host, fields)| {
        let mut head = format!("{method} {target} HTTP/1.{minor}\r\nHost: {host}\r\n");
        for (name, value) in fields {
            head += &format!("{name}:{value}\r\n");
        }
        (head + "\r\n").into_bytes()
    })
}

fn response_head() -> impl Strategy<Value = Vec<u8>> {
    let fields = proptest::collection::vec(field(), 0..10);
    (100_u16..600, "[ -~]{0,12}", fields).prop_map(|(status, reason, fields)| {
        let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        (head + "\r\n").into_bytes()
    })
}

/// A chunked body with the data it carries.
fn chunked_body() -> impl Strategy<Value = (Vec<u8>, Vec<u8>, Vec<u8>)> {
    let chunk = (
        proptest::collection::vec(any::<u8>(), 1..40),
        prop_oneof![Just(""), Just(";a"), Just("; a = \"x\\\";y\" ;b")],
    );
    let trailers = prop_oneof![Just(Vec::new()), Just(b"X-A: 1\r\nx-b: two \r\n".to_vec()),];
    (proptest::collection::vec(chunk, 0..8), trailers).prop_map(|(chunks, trailers)| {
        let (mut body, mut data) = (Vec::new(), Vec::new());
        for (bytes, extension) in chunks {
            body.extend_from_slice(format!("{:X}{extension}\r\n", bytes.len()).as_bytes());
            body.extend_from_slice(&bytes);
            body.extend_from_slice(b"\r\n");
            data.extend_from_slice(&bytes);
        }
        body.extend_from_slice(b"0\r\n");
        body.extend_from_slice(&trailers);
        body.extend_from_slice(b"\r\n");
        (body, data, trailers)
    })
}

/// Decodes in pieces that end at the given places; answers with the data and the bytes used.
fn decode(decoder: &mut Decoder, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize), Malformed> {
    let mut ends: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let (mut data, mut used, mut start) = (Vec::new(), 0, 0);
    for end in ends {
        let mut piece = bytes[start..end].to_vec();
        let decoded = decoder.decode(&mut piece)?;
        data.extend_from_slice(&piece[decoded.data.clone()]);
        used += decoded.used;
        start = end;
    }
    Ok((data, used))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// What was accepted and written is accepted as the same, and written as the same.
    #[test]
    fn requests_survive_being_rewritten(head in request_head()) {
        if let Ok(Some((once, body))) = rewrite(&head) {
            assert_unambiguous(&once);
            let (twice, again) = rewrite(&once).unwrap().unwrap();
            prop_assert_eq!(body, again);
            prop_assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice));
        }
    }

    #[test]
    fn responses_survive_being_rewritten(head in response_head()) {
        if let Ok(Some((once, body))) = rewrite_response(&head) {
            assert_unambiguous(&once);
            let (twice, again) = rewrite_response(&once).unwrap().unwrap();
            prop_assert_eq!(body, again);
            prop_assert_eq!(String::from_utf8_lossy(&once), String::from_utf8_lossy(&twice));
        }
    }

    /// A head that is accepted whole is never refused for the part of it that came first; and its end is found by
    /// looking at each byte once.
    #[test]
    fn splits_change_nothing(head in request_head(), cuts in proptest::collection::vec(any::<usize>(), 0..5)) {
        let whole = rewrite(&head);
        let mut scan = HeadScan::default();
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut % head.len()).collect();
        ends.sort_unstable();
        for end in ends {
            if whole.is_ok() {
                prop_assert_eq!(rewrite(&head[..end]), Ok(None));
            }
            prop_assert_eq!(scan.advance(&head[..end]), Ok(false));
        }
        prop_assert_eq!(scan.advance(&head), Ok(true));
    }

    /// Nothing that anyone sends makes the parsers panic, and what they let through is unambiguous.
    #[test]
    fn broken_heads_are_refused_or_harmless(
        head in request_head(), at in any::<usize>(), byte in any::<u8>(), insert in any::<bool>(),
    ) {
        let mut head = head;
        let at = at % head.len();
        if insert { head.insert(at, byte) } else { head[at] = byte }
        if let Ok(Some((out, _))) = rewrite(&head) {
            assert_unambiguous(&out);
        }
        let mut scan = HeadScan::default();
        let _ = scan.advance(&head);
        let _ = rewrite_response(&head);
    }

    #[test]
    fn chunks_decode_alike_however_they_come(
        (body, data, trailers) in chunked_body(),
        next in proptest::collection::vec(any::<u8>(), 0..20),
        cuts in proptest::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = body.clone();
        bytes.extend_from_slice(&next);
        let mut decoder = Decoder::chunked();
        let (got, used) = decode(&mut decoder, &bytes, &cuts).unwrap();
        prop_assert!(decoder.is_done());
        prop_assert_eq!(&got, &data);
        prop_assert_eq!(used, body.len());
        // Trailers come out trimmed.
        let trimmed = String::from_utf8(trailers).unwrap().replace(" \r\n", "\r\n");
        prop_assert_eq!(decoder.trailers(), trimmed.as_bytes());
        // Written anew, it decodes to the same.
        let mut again = Vec::new();
        write_chunk(&mut again, &data, Some(decoder.trailers()));
        let mut second = Decoder::chunked();
        let (got, used) = decode(&mut second, &again, &cuts).unwrap();
        prop_assert_eq!(got, data);
        prop_assert_eq!(used, again.len());
        prop_assert_eq!(second.trailers(), decoder.trailers());
    }

    /// A chunked body that is cut or changed is never taken for whole with other data, and never panics.
    #[test]
    fn broken_chunks_are_refused_or_incomplete(
        (body, data, _) in chunked_body(), at in any::<usize>(), byte in any::<u8>(),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        let mut decoder = Decoder::chunked();
        let cut = at % body.len();
        let (got, _) = decode(&mut decoder, &body[..cut], &cuts).unwrap();
        prop_assert!(!decoder.is_done());
        prop_assert!(data.starts_with(&got));
        let mut changed = body;
        changed[cut] = byte;
        let mut decoder = Decoder::chunked();
        let whole = decode(&mut decoder, &changed, &[]);
        let mut decoder = Decoder::chunked();
        let split = decode(&mut decoder, &changed, &cuts);
        prop_assert_eq!(whole, split);
    }

    #[test]
    fn lengths_take_what_is_theirs(
        length in 0_u64..100, bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cuts in proptest::collection::vec(any::<usize>(), 0..5),
    ) {
        let mut decoder = Decoder::Length(length);
        let (got, used) = decode(&mut decoder, &bytes, &cuts).unwrap();
        let expected = bytes.len().min(length as usize);
        prop_assert_eq!(got, &bytes[..expected]);
        prop_assert_eq!(used, expected);
        prop_assert_eq!(decoder.is_done(), expected as u64 == length);
    }

    #[test]
    fn size_lines(size in any::<usize>()) {
        prop_assert_eq!(SizeLine::new(size).as_bytes().to_vec(), format!("{size:x}\r\n").into_bytes());
    }

    #[test]
    fn positions(set in proptest::collection::hash_set(0..MAX_FIELDS, 0..50)) {
        let mut positions = Positions::default();
        for at in &set {
            positions.insert(*at);
        }
        positions.insert(MAX_FIELDS);
        for at in 0..MAX_FIELDS + 1 {
            prop_assert_eq!(positions.contains(at), set.contains(&at));
        }
    }
}

#[test]
fn ends_of_chunks() {
    let mut out = Vec::new();
    write_chunk(&mut out, b"", Some(b""));
    assert_eq!(out, LAST_CHUNK);
    out.clear();
    write_chunk(&mut out, b"abc", None);
    assert_eq!(out, [b"3\r\nabc", CHUNK_END].concat());
}

/// Extensions without end, in one chunk or spread over many, are not read for ever.
#[test]
fn extensions_are_bounded() {
    let long = format!("1;{}", "x".repeat(5000));
    assert_eq!(
        decode(&mut Decoder::chunked(), long.as_bytes(), &[]),
        Err(Malformed::Chunk)
    );
    let many = format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(100);
    assert_eq!(
        decode(&mut Decoder::chunked(), many.as_bytes(), &[]),
        Err(Malformed::Chunk)
    );
    let trailers = format!("0\r\nx: {}\r\n\r\n", "x".repeat(17 << 10));
    assert_eq!(
        decode(&mut Decoder::chunked(), trailers.as_bytes(), &[]),
        Err(Malformed::Trailer)
    );
}

/// The grammar of extensions, and nothing beside it.
#[test]
fn extensions_are_judged() {
    let check = |extension: &str| {
        let bytes = format!("1{extension}\r\nx\r\n0\r\n\r\n");
        let mut decoder = Decoder::chunked();
        decode(&mut decoder, bytes.as_bytes(), &[]).is_ok() && decoder.is_done()
    };
    for good in [
        "",
        ";a",
        " ;a",
        "\t; a",
        ";a=b",
        "; a = b ;c",
        ";a=\"\"",
        ";a=\"x;\\\"\" ; b",
        ";a;b;c=d",
    ] {
        assert!(check(good), "{good:?}");
    }
    for bad in [
        " ",
        ";",
        ";;a",
        ";a;",
        ";=b",
        ";a=",
        ";a b",
        ";a=b c",
        ";a=\"b\"c",
        ";a=\"b",
        "; ",
        ";a ",
        ";a=b ",
        ";a\x01",
        ";a=\"\x7f\"",
        "a",
        "=b",
        ";a==b",
    ] {
        assert!(!check(bad), "{bad:?}");
    }
}

#[test]
fn versions_above_1_1_are_taken_for_it() {
    for (line, lowered) in [
        ("GET / HTTP/1.2\r\n", "GET / HTTP/1.1\r\n"),
        ("GET / HTTP/1.9", "GET / HTTP/1.1"),
        ("HTTP/1.7 200 OK\r\n", "HTTP/1.1 200 OK\r\n"),
        ("GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\n"),
        ("GET / HTTP/2.2\r\n", "GET / HTTP/2.2\r\n"),
        ("GET / HTTP/1.22\r\n", "GET / HTTP/1.22\r\n"),
        ("GET /HTTP/1.2\r\n", "GET /HTTP/1.2\r\n"),
        ("HTTP/1.7\r\n", "HTTP/1.7\r\n"),
        ("", ""),
    ] {
        let mut bytes = line.as_bytes().to_vec();
        assert_eq!(
            super::head::lower_version(&mut bytes),
            line != lowered,
            "{line:?}"
        );
        assert_eq!(bytes, lowered.as_bytes());
    }
}

#[test]
fn which_protocols_were_asked_for() {
    let check = |switched: &str, asked: &str| response::is_asked_for(switched.as_bytes(), asked.as_bytes());
    assert!(check("websocket", "WebSocket") && check("b", "a, b") && check("a, b", "b,a"));
    assert!(!check("", "a") && !check("a", "") && !check("a, c", "a, b") && !check(",", "a"));
}

#[test]
fn requests_are_refused_for_the_right_reason() {
    use Malformed as M;
    for (head, expected) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::Method)),
        ("\x16\x03\x01\r\n\r\n", Some(M::Method)),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::HostMismatch)),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", None),
        ("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::Target)),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::Target)),
        ("GET /\x07 HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::Target)),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::RequestLine)),
        ("GET /\r\nHost: a\r\n\r\n", Some(M::RequestLine)),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", Some(M::Version)),
        ("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", Some(M::LineEnd)),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Some(M::LineEnd)),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Some(M::LineEnd)),
        ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Some(M::FieldName)),
        ("GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", Some(M::FieldName)),
        ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", Some(M::FieldValue)),
        ("GET / HTTP/1.1\r\n\r\n", Some(M::HostMissing)),
        ("GET / HTTP/1.0\r\n\r\n", None),
        ("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Some(M::HostTwice)),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Some(M::Host)),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(M::HostMismatch)),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1x\r\n\r\n",
            Some(M::ContentLength),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            Some(M::ContentLength),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(M::LengthAndCoding),
        ),
        (
            "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(M::TransferCoding),
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            Some(M::UnknownCoding),
        ),
        (
            "TRACE / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            Some(M::TraceBody),
        ),
        (
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n",
            Some(M::ConnectBody),
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n",
            Some(M::MaxForwards),
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 1\r\nMax-Forwards: 1\r\n\r\n",
            Some(M::MaxForwards),
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n", None),
    ] {
        assert_eq!(rewrite(head.as_bytes()).err(), expected, "{head:?}");
    }
    let long = "x".repeat(64 << 10);
    assert_eq!(rewrite(long.as_bytes()), Err(M::MethodTooLong));
    assert_eq!(rewrite(format!("GET /{long}").as_bytes()), Err(M::TargetTooLong));
    assert_eq!(
        rewrite(format!("GET / HTTP/1.1\r\nX: {long}").as_bytes()),
        Err(M::TooLarge)
    );
    let many = "X: y\r\n".repeat(MAX_FIELDS + 1);
    assert_eq!(
        rewrite(format!("GET / HTTP/1.1\r\n{many}\r\n").as_bytes()),
        Err(M::TooManyFields)
    );
}

#[test]
fn responses_are_refused_for_the_right_reason() {
    use Malformed as M;
    for (head, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\n", None),
        ("HTTP/1.1 200\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", None),
        ("HTTP/1.1 099 OK\r\n\r\n", Some(M::StatusLine)),
        ("HTTP/1.1 600 OK\r\n\r\n", Some(M::StatusLine)),
        ("HTTP/1.1 2x0 OK\r\n\r\n", Some(M::StatusLine)),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Some(M::StatusLine)),
        ("HTTP/2.0 200 OK\r\n\r\n", Some(M::Version)),
        ("HTTP/1.1 200 OK\nX: y\r\n\r\n", Some(M::LineEnd)),
        ("HTTP/1.1 200 OK\r\nX: y\n\r\n", Some(M::LineEnd)),
        ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", Some(M::FieldName)),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            Some(M::ContentLength),
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(M::LengthAndCoding),
        ),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(M::TransferCoding),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: br\r\n\r\n",
            Some(M::TransferCoding),
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: br, chunked\r\n\r\n",
            Some(M::UnknownCoding),
        ),
        ("HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n", None),
        (
            "HTTP/1.1 100 Continue\r\nContent-Length: 1\r\n\r\n",
            Some(M::InterimBody),
        ),
        (
            "HTTP/1.1 101 Switching Protocols\r\nTransfer-Encoding: chunked\r\n\r\n",
            Some(M::InterimBody),
        ),
    ] {
        assert_eq!(rewrite_response(head.as_bytes()).err(), expected, "{head:?}");
    }
}
