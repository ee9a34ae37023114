//! Heads of HTTP/2 by tables: what is read, what is malformed, what an extended CONNECT becomes.

use http::Request as Message;

use super::*;
use crate::http1::request::RequestBody;

const LIMITS: HeadLimits = HeadLimits {
    bytes: 1000,
    fields: 20,
};

struct Case(http::request::Builder, bool);

impl Case {
    fn new(method: &str, uri: &str) -> Self {
        Self(Message::builder().method(method).uri(uri), true)
    }

    fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        Self(self.0.header(name, value.as_ref()), self.1)
    }

    fn open(self) -> Self {
        Self(self.0, false)
    }

    fn received(self) -> Received {
        let (parts, ()) = self.0.body(()).unwrap().into_parts();
        Received::new(parts, self.1, || [0; 16])
    }

    fn read(self) -> Result<(String, RequestBody), Malformed> {
        self.received().read(LIMITS, |request| {
            let authority = request.target.authority.unwrap_or("-");
            let mut shown = format!("{} {} {authority}", request.method, request.target.path);
            for (at, field) in request.fields.iter().enumerate() {
                let mark = if request.dropped.contains(at) { "!" } else { "" };
                let value = String::from_utf8_lossy(field.value);
                shown += &format!(" {mark}{}={value}", field.name);
            }
            (shown, request.body)
        })
    }

    fn is(self, expected: &str, body: RequestBody) {
        assert_eq!(self.read(), Ok((expected.to_owned(), body)));
    }

    fn fails(self, expected: Malformed) {
        let read = self.read();
        assert_eq!(read.map(|(shown, _)| shown), Err(expected));
    }
}

#[test]
fn requests() {
    use RequestBody::{Chunked, Length, None};
    Case::new("GET", "http://a/b?c")
        .with("x", "1")
        .is("GET /b?c a x=1", None);
    Case::new("GET", "/b")
        .with("host", "a")
        .is("GET /b - host=a", None);
    Case::new("GET", "http://a/b")
        .with("host", "A:80")
        .is("GET /b a !host=A:80", None);
    Case::new("POST", "http://a/").open().is("POST / a", Chunked);
    Case::new("POST", "http://a/")
        .with("content-length", "5")
        .open()
        .is("POST / a content-length=5", Length(5));
    Case::new("POST", "http://a/")
        .with("content-length", "0")
        .is("POST / a content-length=0", Length(0));
    Case::new("OPTIONS", "*")
        .with("host", "a")
        .is("OPTIONS * - host=a", None);
    Case::new("CONNECT", "a:443")
        .open()
        .is("CONNECT a:443 a:443", None);
    Case::new("GET", "http://a/")
        .with("te", "trailers")
        .with("cookie", "a=1")
        .with("x", "y")
        .with("cookie", "b=2")
        .with("cookie", "c=3")
        .is("GET / a !te=trailers cookie=a=1; b=2; c=3 x=y", None);
    Case::new("GET", "http://a/")
        .with("cookie", "a=1; b=2")
        .is("GET / a cookie=a=1; b=2", None);
}

#[test]
fn what_is_malformed() {
    use Malformed::{
        ContentLength, Host, HostMismatch, HostMissing, HostTwice, Message, Target, TargetTooLong, TooLarge,
        TooManyFields, TraceBody,
    };
    let get = || Case::new("GET", "http://a/");
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        get().with(name, "x").fails(Message);
    }
    get().with("x", " a").fails(Message);
    get().with("x", "a\t").fails(Message);
    get().with("content-length", "5").fails(Message);
    get()
        .with("content-length", "5")
        .with("content-length", "5")
        .open()
        .fails(ContentLength);
    get().with("content-length", "5x").open().fails(ContentLength);
    get().with("host", "b").fails(HostMismatch);
    get().with("host", "a").with("host", "a").fails(HostTwice);
    Case::new("GET", "/").fails(HostMissing);
    Case::new("GET", "/").with("host", "a b").fails(Host);
    Case::new("GET", "http://u@a/").fails(Host);
    Case::new("GET", "ftp://a/").fails(Target);
    Case::new("GET", "*").with("host", "a").fails(Target);
    Case::new("TRACE", "http://a/").open().fails(TraceBody);
    Case::new("GET", &format!("http://a/{}", "x".repeat(1000))).fails(TargetTooLong);
    get().with("x", "y".repeat(990)).fails(TooLarge);
    let many = (0..21).fold(get(), |case, n| case.with(&format!("x{n}"), ""));
    many.fails(TooManyFields);
    // A CONNECT has an authority alone, everything else a path.
    Case::new("CONNECT", "http://a:1/").open().fails(Message);
    Case::new("GET", "a:1").fails(Message);
}

#[test]
fn an_extended_connect_is_an_upgrade() {
    let case = |protocol: &'static str| {
        let (mut parts, ()) = Message::builder()
            .method("CONNECT")
            .uri("http://a/chat")
            .header("sec-websocket-version", "13")
            .body(())
            .unwrap()
            .into_parts();
        parts.extensions.insert(h2::ext::Protocol::from_static(protocol));
        Received::new(parts, false, || [0; 16])
    };
    let received = case("websocket");
    assert_eq!(received.websocket_key(), Some("AAAAAAAAAAAAAAAAAAAAAA=="));
    let read = received.read(LIMITS, |request| {
        assert_eq!(
            (request.method, request.upgrade),
            ("GET", Some(&b"websocket"[..]))
        );
        assert_eq!(request.body, RequestBody::None);
        request
            .fields
            .iter()
            .map(|f| f.name.to_owned())
            .collect::<Vec<_>>()
    });
    assert_eq!(read.unwrap(), ["sec-websocket-version", "Sec-WebSocket-Key"]);
    assert_eq!(
        case("connect-udp").read(LIMITS, |_| ()),
        Err(Malformed::UnknownCoding)
    );
}

#[test]
fn trailer_lines() {
    let map = |fields: &[(&'static str, &'static str)]| {
        let fields = fields.iter().map(|(n, v)| {
            let name = http::HeaderName::from_static(n);
            (name, http::HeaderValue::from_static(v))
        });
        fields.collect::<HeaderMap>()
    };
    assert_eq!(
        trailers(&map(&[("grpc-status", "0"), ("x", "")])).unwrap(),
        b"grpc-status: 0\r\nx: \r\n"
    );
    for bad in [
        ("content-length", "1"),
        ("x", " y"),
        ("host", "a"),
        ("te", "trailers"),
    ] {
        assert_eq!(trailers(&map(&[bad])), Err(Malformed::Trailer), "{bad:?}");
    }
}

/// No token (RFC 9110 section 5.1), though the `http` crate takes it off the wire.
#[test]
fn a_quotation_mark_is_in_no_name() {
    let name = http::HeaderName::from_lowercase(b"a\"b").expect("the crate takes it");
    let mut parts = Message::builder()
        .method("GET")
        .uri("http://a/")
        .body(())
        .expect("a request")
        .into_parts()
        .0;
    let mut all = HeaderMap::new();
    all.insert(name, http::HeaderValue::from_static("x"));
    assert_eq!(trailers(&all), Err(Malformed::Trailer));
    parts.headers = all;
    let read = Received::new(parts, true, || [0; 16]).read(LIMITS, |_| ());
    assert_eq!(read, Err(Malformed::Message));
}
