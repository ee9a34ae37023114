//! Requests and responses: what of one version becomes what of the other.

use http::{HeaderMap, HeaderValue, Request};
use weir_core::plan::{HeaderAction, HeaderRule, LogFormat, Template, TemplatePart, Via};
use weir_relay::Reason;

use super::{
    client::{Client, get, post},
    frames::{END_HEADERS, END_STREAM, Frames, GET, HEADERS, PROTOCOL_ERROR, RST_STREAM, block, frame},
};
use crate::support::{Backend, Lab, Logged, Setup, UP, until};

#[test]
fn a_request_and_its_response() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| http.wire.via = Via::Both));
    let client = Client::connect(lab.at);
    let mut request = get("/a?b=c");
    request
        .headers_mut()
        .append("cookie", HeaderValue::from_static("a=1"));
    request.headers_mut().append("x-y", HeaderValue::from_static("z"));
    request
        .headers_mut()
        .append("cookie", HeaderValue::from_static("b=2"));
    request
        .headers_mut()
        .append("te", HeaderValue::from_static("trailers"));
    let asked = client.ask(request, true);
    let mut origin = backend.accept();
    assert_eq!(
        origin.head(),
        "GET /a?b=c HTTP/1.1\r\nHost: a.example\r\ncookie: a=1; b=2\r\nx-y: z\r\n\
         TE: trailers\r\nConnection: TE\r\nVia: 2.0 edge-1\r\n\r\n"
    );
    origin.send(
        "HTTP/1.1 200 OK\r\nServer: S\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Content-Length: 5\r\n\r\nhello",
    );
    let answer = asked.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (200, "hello"));
    let names: Vec<_> = answer.headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["server", "content-length", "date", "via"]);
    assert_eq!(answer.headers["via"], "1.1 edge-1");
    assert!(answer.trailers.is_none());
    lab.ended(Reason::Ok, 1);
    let counts = lab.service();
    assert_eq!((counts.requests, counts.responses[1], counts.accepted), (1, 1, 1));
}

#[test]
fn many_at_once_in_any_order() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let asked: Vec<_> = (0..20).map(|n| client.get(&format!("/{n}"))).collect();
    let mut origins: Vec<_> = (0..20).map(|_| backend.accept()).collect();
    for origin in origins.iter_mut().rev() {
        let head = origin.head();
        let path = head.split(' ').nth(1).unwrap();
        origin.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}",
            path.len()
        ));
    }
    for (n, asked) in asked.into_iter().enumerate() {
        assert_eq!(asked.answer().unwrap().text(), format!("/{n}"));
    }
    lab.ended(Reason::Ok, 20);
    // The next ones go over connections that are there.
    let asked = client.get("/again");
    let served = origins.iter_mut().find_map(|origin| {
        origin.stream.set_nonblocking(true).unwrap();
        let head = (0..200).find_map(|_| {
            std::thread::park_timeout(std::time::Duration::from_millis(1));
            origin.peeks().then_some(())
        });
        origin.stream.set_nonblocking(false).unwrap();
        head.map(|()| origin)
    });
    let origin = served.unwrap();
    assert!(origin.head().starts_with("GET /again "));
    origin.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(asked.answer().unwrap().status, 204);
}

#[test]
fn bodies_of_requests() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let mut origin = None;
    // Without a length it goes in chunks, with trailers behind.
    let mut asked = client.ask(post("/chunks"), false);
    asked.send("hello", false);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    asked.send.send_trailers(trailers).unwrap();
    let origin = origin.get_or_insert_with(|| backend.accept());
    let head = origin.head();
    assert!(head.contains("\r\nTransfer-Encoding: chunked\r\n"), "{head}");
    assert_eq!(
        origin.until("0\r\nx-sum: 1\r\n\r\n"),
        "5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
    );
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(asked.answer().unwrap().status, 200);
    // With one it goes as it is.
    let mut request = post("/length");
    request
        .headers_mut()
        .insert("content-length", HeaderValue::from_static("6"));
    let mut asked = client.ask(request, false);
    asked.send("abc", false);
    asked.send("def", true);
    let head = origin.head();
    assert!(
        head.contains("\r\ncontent-length: 6\r\n") && !head.contains("chunked"),
        "{head}"
    );
    assert_eq!(origin.text(6), "abcdef");
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(asked.answer().unwrap().status, 200);
    lab.ended(Reason::Ok, 2);
}

#[test]
fn bodies_of_responses() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let mut asked = client.get("/chunks");
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n");
    origin.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n3\r\nabc\r\n");
    let interim = client.wait(std::future::poll_fn(|cx| {
        asked.response.as_mut().unwrap().poll_informational(cx)
    }));
    let interim = interim.unwrap().unwrap();
    assert_eq!(
        (interim.status().as_u16(), &interim.headers()["link"]),
        (103, &HeaderValue::from_static("</x>"))
    );
    origin.send("2\r\nde\r\n0\r\ngrpc-status: 0\r\nGrpc-Message: ok\r\n\r\n");
    let answer = asked.answer().unwrap();
    assert_eq!(answer.text(), "abcde");
    assert!(!answer.headers.contains_key("transfer-encoding"));
    let trailers = answer.trailers.unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&HeaderValue::from_static("0"), &HeaderValue::from_static("ok"))
    );
    // Delimited by the end of the connection.
    let asked = client.get("/close");
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\n\r\nuntil the end");
    drop(origin);
    assert_eq!(asked.answer().unwrap().text(), "until the end");
    // HEAD has a length and no body.
    let head = Request::head("http://a.example/").body(()).unwrap();
    let asked = client.ask(head, true);
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    let answer = asked.answer().unwrap();
    assert_eq!(
        (
            answer.status,
            &answer.headers["content-length"],
            answer.body.len()
        ),
        (200, &HeaderValue::from_static("1000"), 0)
    );
    let asked = client.get("/unchanged");
    origin.head();
    origin.send("HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n");
    assert_eq!(asked.answer().unwrap().status, 304);
    lab.ended(Reason::Ok, 4);
}

#[test]
fn a_response_that_breaks_off_is_no_whole_one() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let asked = client.get("/");
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    drop(origin);
    let error = asked.answer().unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR));
    lab.ended(Reason::BackendCut, 1);
    // The connection has nothing to do with it.
    let asked = client.get("/");
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(asked.answer().unwrap().text(), "ok");
}

#[test]
fn answers_of_weirs_own() {
    let backend = Backend::new();
    let at = backend.at;
    let lab = Lab::new(Setup::http_with(&[at], |http| {
        http.limits.body = Some(10);
        http.limits.head = 1024;
        http.limits.headers = 8;
        http.wire.via = Via::Off;
        http.response_headers = vec![HeaderRule {
            name: "X-Seen".into(),
            action: HeaderAction::Set(Template {
                parts: vec![TemplatePart::RequestField("x-ask".into())],
            }),
        }];
    }));
    let client = Client::connect(lab.at);
    let check = |request: Request<()>, status: u16, reason| {
        let ended = request.method() == http::Method::GET;
        let answer = client.ask(request, ended).answer().unwrap();
        let (found, text) = (answer.status, answer.text().to_owned());
        assert_eq!(found, status);
        assert!(text.starts_with(&format!("{status} ")), "{text}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert!(!answer.headers.contains_key("connection"));
        lab.ended(reason, 1);
    };
    let with = |name: &'static str, value: String| {
        let mut request = get("/");
        request
            .headers_mut()
            .insert(name, HeaderValue::from_str(&value).unwrap());
        request
    };
    check(with("host", "other".into()), 400, Reason::ClientBadRequest);
    check(
        with("content-length", "11".into()).tap_post(),
        413,
        Reason::ClientBodyTooLarge,
    );
    check(with("x-long", "y".repeat(990)), 431, Reason::ClientTooLarge);
    check(
        get(&format!("/{}", "x".repeat(1024))),
        414,
        Reason::ClientTargetTooLong,
    );
    let connect = Request::connect("a.example:443").body(()).unwrap();
    let answer = client.ask(connect, false).answer().unwrap();
    assert_eq!(answer.status, 501);
    // A body that grows too large without saying so before.
    let mut asked = client.ask(post("/"), false);
    asked.send("0123456789abc", false);
    assert_eq!(asked.answer().unwrap().status, 413);
    lab.words(crate::support::DOWN);
    let answer = client.ask(with("x-ask", "me".into()), true).answer().unwrap();
    assert_eq!(
        (answer.status, &answer.headers["x-seen"]),
        (503, &HeaderValue::from_static("me"))
    );
    lab.ended(Reason::NoBackend, 1);
    lab.words(UP);
}

trait Tap {
    fn tap_post(self) -> Self;
}

impl Tap for Request<()> {
    /// A body of that length is announced, and never comes.
    fn tap_post(mut self) -> Self {
        *self.method_mut() = http::Method::POST;
        self
    }
}

#[test]
fn what_is_malformed_is_reset_and_recorded_once() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let (mut count, mut requests) = (0, 0);
    let mut check = |what: &str, fields: &[(&str, &str)], flags| {
        let mut client = Frames::connect(lab.at);
        client.send(frame(HEADERS, END_HEADERS | flags, 1, &block(fields)));
        let (kind, code) = client.refused();
        assert_eq!(code, PROTOCOL_ERROR, "{what}");
        count += 1;
        lab.ended(Reason::ClientBadRequest, count);
        // What can't be a field ends the connection, which no request is counted for.
        requests += u64::from(kind == RST_STREAM);
        assert_eq!(lab.service().requests, requests, "{what}");
    };
    let with = |field: (&'static str, &'static str)| [&GET[..], &[field]].concat();
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ] {
        check(name, &with((name, "x")), END_STREAM);
    }
    check("te", &with(("te", "gzip")), END_STREAM);
    check("uppercase", &with(("X-Y", "z")), END_STREAM);
    check("a value with a line end", &with(("x", "a\r\nb: c")), END_STREAM);
    check("a value with NUL", &with(("x", "a\0b")), END_STREAM);
    check("a value with a blank end", &with(("x", "a ")), END_STREAM);
    check("an unknown pseudo-field", &with((":x", "y")), END_STREAM);
    check(
        "a pseudo-field behind others",
        &[&[("x", "y")], &GET[..]].concat(),
        END_STREAM,
    );
    check("a pseudo-field twice", &with((":path", "/")), END_STREAM);
    check("a status", &with((":status", "200")), END_STREAM);
    check(
        "a length without a body",
        &with(("content-length", "3")),
        END_STREAM,
    );
    for missing in [":method", ":scheme", ":path"] {
        let fields: Vec<_> = GET.into_iter().filter(|(name, _)| *name != missing).collect();
        check(missing, &fields, END_STREAM);
    }
    let empty: Vec<_> = GET.map(|(n, v)| (n, if n == ":path" { "" } else { v })).to_vec();
    check("an empty path", &empty, END_STREAM);
    assert!(backend.is_untouched());
}

#[test]
fn records_say_the_version() {
    let backend = Backend::new();
    let logged = Logged::new(Setup::http(&[backend.at]), LogFormat::Json, false);
    let client = Client::connect(logged.lab.at);
    let asked = client.get("/x");
    let mut origin = backend.accept();
    origin.head();
    origin.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    asked.answer().unwrap();
    let lines = logged.lines(1);
    let record: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(record["version"], "2.0");
    assert_eq!(
        (&record["method"], &record["target"], &record["end"]),
        (&"GET".into(), &"/x".into(), &"ok".into())
    );
    assert_eq!(record["keep_alive"], true);
}

#[test]
fn an_aborted_request_aborts_the_backends() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let client = Client::connect(lab.at);
    let mut asked = client.get("/slow");
    let mut origin = backend.accept();
    origin.head();
    asked.reset(h2::Reason::CANCEL);
    origin.ends();
    lab.ended(Reason::ClientClosed, 1);
    // One that waits in the middle of its body.
    let mut asked = client.ask(post("/"), false);
    asked.send("half", false);
    let mut origin = backend.accept();
    origin.until("half\r\n");
    asked.reset(h2::Reason::CANCEL);
    origin.ends();
    until("both are on record", || {
        lab.service().ends[Reason::ClientClosed as usize] == 2
    });
}
