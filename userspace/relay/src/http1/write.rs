//! Heads written anew: what a backend is sent for a request, what a client is sent for a response, and responses of
//! weir's own.

use std::{io::Write, net::SocketAddr, time::SystemTime};

use weir_core::plan::Forwarded;

use super::{
    forwarded::{self, Client},
    head::Positions,
    request::{Request, RequestBody},
    response::{Response, ResponseBody},
    rules::{Rules, Variables},
};

/// What is written into a request besides what is passed on.
pub struct RequestChanges<'a> {
    /// The service's rules.
    pub rules: &'a Rules,
    /// What their variables stand for.
    pub vars: &'a Variables<'a>,
    /// Which forwarding fields are written.
    pub forwarded: Forwarded,
    /// Whether the client may say who is behind it.
    pub trusted: bool,
    /// The client's address.
    pub client: &'a Client,
}

/// Adds the head of a request to `out`: always HTTP/1.1, always to a connection that stays.
#[inline]
pub fn request(out: &mut Vec<u8>, request: &Request<'_, '_>, changes: &RequestChanges<'_>) {
    out.reserve(request.head_len + 256);
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    if request.target.slash {
        out.push(b'/');
    }
    out.extend_from_slice(request.target.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if request.no_host && !changes.rules.removes("host") {
        // HTTP/1.0 may come without, HTTP/1.1 may not: an absolute target names its host, else it is where the client
        // connected to.
        out.extend_from_slice(b"Host: ");
        match (request.target.authority, changes.vars.server) {
            (Some(authority), _) => out.extend_from_slice(authority.as_bytes()),
            (None, Some(server)) => {
                let canonical = SocketAddr::new(server.ip().to_canonical(), server.port());
                let _ = write!(out, "{canonical}");
            }
            (None, None) => {}
        }
        out.extend_from_slice(b"\r\n");
    }
    let keep = |at: usize, name: &str| {
        !request.forwarded.contains(at) || forwarded::stays(name, changes.forwarded, changes.trusted)
    };
    fields(out, request.fields, &request.dropped, changes.rules, keep);
    match request.body {
        RequestBody::None | RequestBody::Length(_) => {}
        RequestBody::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if request.expect_continue {
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    match (request.upgrade, request.te_trailers) {
        (None, false) => {}
        (None, true) => out.extend_from_slice(b"TE: trailers\r\nConnection: TE\r\n"),
        (Some(protocols), te) => {
            let connection: &[u8] = if te {
                b"TE: trailers\r\nConnection: Upgrade, TE\r\nUpgrade: "
            } else {
                b"Connection: Upgrade\r\nUpgrade: "
            };
            out.extend_from_slice(connection);
            out.extend_from_slice(protocols);
            out.extend_from_slice(b"\r\n");
        }
    }
    forwarded::write(out, request, changes.forwarded, changes.trusted, changes.client);
    changes.rules.write(out, changes.vars);
    out.extend_from_slice(b"\r\n");
}

/// How a response goes to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseShape {
    /// The body goes out in chunks of weir's own.
    pub chunked: bool,
    /// What the client is told of its connection.
    pub connection: ClientConnection,
}

/// What the client is told of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientConnection {
    /// It stays, as HTTP/1.1 takes for granted.
    Stays,
    /// It stays, said aloud for HTTP/1.0.
    StaysAloud,
    /// It ends after this response.
    Ends,
    /// It switches to another protocol.
    Upgrades,
}

/// Adds the head of a final or switching response to `out`. `now` dates a response that has no date (RFC 9110 section
/// 6.6.1).
#[inline]
pub fn response(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    shape: ResponseShape,
    rules: &Rules,
    vars: &Variables<'_>,
    now: impl FnOnce() -> SystemTime,
) {
    out.reserve(response.head_len + 128);
    status_line(out, response.status, response.reason);
    fields(out, response.fields, &response.dropped, rules, |_, _| true);
    if !response.dated && response.status >= 200 {
        let _ = write!(out, "Date: {}\r\n", httpdate::HttpDate::from(now()));
    }
    if shape.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    match shape.connection {
        ClientConnection::Stays => {}
        ClientConnection::StaysAloud => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        ClientConnection::Ends => out.extend_from_slice(b"Connection: close\r\n"),
        ClientConnection::Upgrades => {
            out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
            out.extend_from_slice(response.upgrade.unwrap_or_default());
            out.extend_from_slice(b"\r\n");
        }
    }
    rules.write(out, vars);
    out.extend_from_slice(b"\r\n");
}

/// Adds the head of an interim response (1xx) to `out`: passed on, without rules.
pub fn interim(out: &mut Vec<u8>, response: &Response<'_, '_>) {
    status_line(out, response.status, response.reason);
    fields(
        out,
        response.fields,
        &response.dropped,
        &Rules::default(),
        |_, _| true,
    );
    out.extend_from_slice(b"\r\n");
}

/// A response of weir's own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Own<'a> {
    /// Its status.
    pub status: u16,
    /// The reason phrase, which is the body as well.
    pub phrase: &'a str,
    /// It answers `HEAD`: no body.
    pub to_head: bool,
    /// What the client is told of its connection.
    pub connection: ClientConnection,
    /// The time.
    pub now: SystemTime,
}

/// Adds a whole response of weir's own to `out`.
pub fn own(out: &mut Vec<u8>, own: &Own<'_>, rules: &Rules, vars: &Variables<'_>) {
    let Own {
        status,
        phrase,
        to_head,
        connection,
        now,
    } = *own;
    let body = format!("{status} {phrase}\n");
    status_line(out, status, phrase);
    let _ = write!(
        out,
        "Date: {}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n",
        httpdate::HttpDate::from(now),
        body.len()
    );
    match connection {
        ClientConnection::Ends => out.extend_from_slice(b"Connection: close\r\n"),
        ClientConnection::StaysAloud => out.extend_from_slice(b"Connection: keep-alive\r\n"),
        ClientConnection::Stays | ClientConnection::Upgrades => {}
    }
    rules.write(out, vars);
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(body.as_bytes());
    }
}

/// Whether a body of that kind goes out in chunks of weir's own to a client of HTTP/1.`minor`.
pub fn goes_chunked(body: ResponseBody, minor: u8) -> bool {
    match body {
        ResponseBody::None | ResponseBody::Length(_) => false,
        ResponseBody::Chunked | ResponseBody::UntilClose => minor > 0,
    }
}

fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
    let digit = |n: u16| b'0' + (n % 10) as u8;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(&[digit(status / 100), digit(status / 10), digit(status), b' ']);
    out.extend_from_slice(reason.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[inline]
fn fields(
    out: &mut Vec<u8>,
    all: &[httparse::Header<'_>],
    dropped: &Positions,
    rules: &Rules,
    keep: impl Fn(usize, &str) -> bool,
) {
    let by_rule = !rules.removes_nothing();
    for (at, field) in all.iter().enumerate() {
        if dropped.contains(at) || !keep(at, field.name) || (by_rule && rules.removes(field.name)) {
            continue;
        }
        out.extend_from_slice(field.name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(field.value);
        out.extend_from_slice(b"\r\n");
    }
}
