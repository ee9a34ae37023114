//! What becomes of heads and trailers, by tables.

use super::*;

fn sent(head: &str) -> Result<String, Malformed> {
    let request = request(head.as_bytes(), false)?;
    let uri = request.uri();
    let path = uri.path_and_query().map_or("-", |path| path.as_str());
    let scheme = uri.scheme_str().unwrap_or("-");
    let authority = uri.authority().map_or("-", |authority| authority.as_str());
    let mut text = format!("{} {scheme} {authority} {path}", request.method());
    for (name, value) in request.headers() {
        text += &format!("|{name}: {}", String::from_utf8_lossy(value.as_bytes()));
    }
    Ok(text)
}

#[test]
fn requests() {
    for (head, expected) in [
        (
            "GET / HTTP/1.1\r\nHost: a.example:8080\r\n\r\n",
            "GET http a.example:8080 /",
        ),
        // No host, which HTTP/1.0 may come without: then no authority.
        ("GET /a?b=c HTTP/1.1\r\nHost: \r\n\r\n", "GET - - /a?b=c"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS http a *"),
        (
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            "CONNECT - a:443 -",
        ),
        (
            "PUT //x/%2e%2E;a=1,2 HTTP/1.1\r\nHost: a\r\nX-UPPER: Va Lue\r\nTransfer-Encoding: chunked\r\n\r\n",
            "PUT http a //x/%2e%2E;a=1,2|x-upper: Va Lue",
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: Upgrade, TE\r\nUpgrade: x\r\nKeep-Alive: a\r\n\
             Proxy-Connection: b\r\nHTTP2-Settings: c\r\n\r\n",
            "GET http a /|te: trailers",
        ),
        // Fields of a name stay in their order.
        (
            "GET / HTTP/1.1\r\nHost: a\r\nCookie: a=1\r\nX-A: 1\r\nCookie: b=2\r\nx-a: \r\n\r\n",
            "GET http a /|cookie: a=1|cookie: b=2|x-a: 1|x-a: ",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
            "POST http a /|expect: 100-continue|content-length: 5",
        ),
    ] {
        assert_eq!(sent(head).as_deref(), Ok(expected), "{head}");
    }
}

/// What is no URI can't be said in HTTP/2 by the means that weir has.
#[test]
fn targets_that_are_no_uri() {
    for byte in 0x21..0x7f_u8 {
        let target = format!("/a{}b", char::from(byte));
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        match sent(&head) {
            Ok(text) => assert_eq!(text, format!("GET http a {target}")),
            Err(error) => {
                assert_eq!(error, Malformed::Target);
                assert!(b"#<>`".contains(&byte), "{target}");
            }
        }
    }
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut all = HeaderMap::new();
    for (name, value) in fields {
        add(&mut all, name, value.as_bytes()).unwrap();
    }
    all
}

fn came(status: u16, fields: &[(&str, &str)], asked: Asked, ended: bool) -> Result<String, Malformed> {
    let mut out = Vec::new();
    let status = StatusCode::from_u16(status).map_err(|_| Malformed::StatusLine)?;
    response(&mut out, status, &map(fields), asked, ended)?;
    Ok(String::from_utf8_lossy(&out).replace("\r\n", "|"))
}

#[test]
fn responses() {
    use Asked::{Connect, Head, Other};
    let length = [("content-length", "5")];
    let trailer = [("trailer", "x"), ("content-length", "5")];
    for (status, fields, asked, ended, expected) in [
        (
            200,
            &[][..],
            Other,
            false,
            "HTTP/1.1 200 OK|transfer-encoding: chunked||",
        ),
        (200, &[], Other, true, "HTTP/1.1 200 OK|content-length: 0||"),
        (200, &length, Other, false, "HTTP/1.1 200 OK|content-length: 5||"),
        (
            200,
            &trailer,
            Other,
            false,
            "HTTP/1.1 200 OK|trailer: x|transfer-encoding: chunked||",
        ),
        (200, &length, Head, true, "HTTP/1.1 200 OK|content-length: 5||"),
        (200, &[], Head, true, "HTTP/1.1 200 OK||"),
        (204, &[], Other, true, "HTTP/1.1 204 No Content||"),
        (
            304,
            &length,
            Other,
            true,
            "HTTP/1.1 304 Not Modified|content-length: 5||",
        ),
        (103, &[("link", "x")], Other, false, "HTTP/1.1 103 |link: x||"),
        (200, &[], Connect, false, "HTTP/1.1 200 OK||"),
        (
            407,
            &[],
            Connect,
            true,
            "HTTP/1.1 407 Proxy Authentication Required|content-length: 0||",
        ),
        (599, &[], Other, true, "HTTP/1.1 599 |content-length: 0||"),
    ] {
        assert_eq!(
            came(status, fields, asked, ended).as_deref(),
            Ok(expected),
            "{status}"
        );
    }
    for (name, value, expected) in [
        ("a", " x", Malformed::FieldValue),
        ("a", "x\t", Malformed::FieldValue),
        ("connection", "close", Malformed::FieldName),
        ("transfer-encoding", "chunked", Malformed::FieldName),
        ("keep-alive", "1", Malformed::FieldName),
    ] {
        assert_eq!(came(200, &[(name, value)], Other, true), Err(expected), "{name}");
    }
}

#[test]
fn trailers_both_ways() {
    let lines = b"grpc-status: 0\r\nx-a: 1\r\nx-a: 2\r\nx-empty: \r\n";
    let all = trailer_map(lines).unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(trailers(&all).unwrap(), lines);
    assert_eq!(trailers(&HeaderMap::new()).unwrap(), b"");
    for name in [
        "content-length",
        "host",
        "transfer-encoding",
        "authorization",
        "trailer",
    ] {
        let mut all = HeaderMap::new();
        add(&mut all, name, b"1").unwrap();
        assert_eq!(trailers(&all), Err(Malformed::Trailer), "{name}");
    }
    let mut many = HeaderMap::new();
    for i in 0..=TRAILER_FIELDS {
        add(&mut many, &format!("x-{i}"), b"1").unwrap();
    }
    assert_eq!(trailers(&many), Err(Malformed::Trailer));
    let mut large = HeaderMap::new();
    add(&mut large, "x", &vec![b'a'; TRAILERS]).unwrap();
    assert_eq!(trailers(&large), Err(Malformed::Trailer));
    assert_eq!(trailer_map(b"no field\r\n"), Err(Malformed::Trailer));
}
