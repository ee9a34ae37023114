//! Heads written anew: what a backend is sent for a request, what a client is sent for a response.

use std::{io::Write, net::SocketAddr, time::SystemTime};

use weir_core::plan::{ForwardedField, Rewrite, WebSocket};

use super::{
    forwarded::{self, Client, Told, Trust},
    head::{Malformed, Positions},
    request::{Request, RequestBody},
    response::{Response, ResponseBody},
    rewrite,
    rules::Rules,
    template::{Variables, WRITTEN_MOST},
    version::Version,
    websocket,
};

/// What is written into a request besides what is passed on.
pub struct RequestChanges<'a> {
    /// The service's rules.
    pub rules: &'a Rules,
    /// What becomes of target and `Host`.
    pub rewrite: &'a Rewrite,
    /// What variables stand for.
    pub vars: &'a Variables<'a>,
    /// Whose word counts about the client, and which fields carry its address.
    pub trust: Trust<'a>,
    /// Which further fields tell of the client.
    pub fields: &'a [ForwardedField],
    /// The client's address.
    pub client: &'a Client,
    /// The name that weir goes by in `Via`; None: none is written.
    pub via: Option<&'a str>,
    /// Which subprotocols of WebSocket may be asked for.
    pub websocket: &'a WebSocket,
}

/// Adds the head of a request to `out`: always HTTP/1.1, always to a connection that stays.
///
/// # Errors
/// What rewriting has made of it is no request. `out` is then of no use.
#[inline]
pub fn request(
    out: &mut Vec<u8>,
    request: &Request<'_, '_>,
    changes: &RequestChanges<'_>,
) -> Result<(), Malformed> {
    let RequestChanges {
        rules,
        rewrite,
        vars,
        trust,
        ..
    } = *changes;
    out.reserve(request.head_len + 256);
    out.extend_from_slice(request.method.as_bytes());
    out.push(b' ');
    rewrite::target(out, request, rewrite, vars)?;
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let new_host = request.method != "CONNECT" && rewrite::host(out, rewrite, rules.host(), vars)?;
    if (request.no_host || request.target.authority.is_some()) && !new_host {
        // HTTP/1.0 may come without, HTTP/1.1 may not: a target with an authority goes before what `Host` said (RFC 9112
        // section 3.2.2), else it is where the client connected to.
        out.extend_from_slice(b"Host: ");
        match (request.target.authority, vars.server) {
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
        if request.forwarded.contains(at) {
            return forwarded::stays(name, trust, changes.fields);
        }
        let replaced = new_host && name.eq_ignore_ascii_case("host")
            || websocket::replaces(request, changes.websocket, name);
        !replaced
    };
    fields(out, request.fields, &request.dropped, rules, vars, keep);
    websocket::write(out, request, changes.websocket);
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
    if let Some(forwards) = request.max_forwards {
        let _ = write!(out, "Max-Forwards: {}\r\n", forwards.saturating_sub(1));
    }
    if let Some(name) = changes.via {
        via(out, request.version, name);
    }
    let told = Told {
        trust,
        fields: changes.fields,
        client: changes.client,
        address: vars.client.ip(),
        port: vars.server.map(|at| at.port()),
        new_host,
        scheme: vars.scheme(),
    };
    forwarded::write(out, request, &told);
    rules.write(out, vars);
    out.extend_from_slice(b"\r\n");
    bounded(out)
}

/// weir's word in `Via`, behind those of others, which are passed on as they came: the version that the message came in,
/// and the name (RFC 9110 section 7.6.3).
fn via(out: &mut Vec<u8>, version: Version, name: &str) {
    out.extend_from_slice(b"Via: ");
    out.extend_from_slice(version.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Refuses a head that rules have made too large.
pub(super) fn bounded(out: &[u8]) -> Result<(), Malformed> {
    if out.len() > WRITTEN_MOST {
        Err(Malformed::TooLarge)
    } else {
        Ok(())
    }
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
    /// It is a tunnel from here on, by `CONNECT`.
    Tunnel,
    /// Nothing: HTTP/2 has no words for it.
    Unsaid,
}

/// What is written into a response besides what is passed on.
pub struct ResponseChanges<'a> {
    /// The service's rules.
    pub rules: &'a Rules,
    /// What variables stand for.
    pub vars: &'a Variables<'a>,
    /// The name that weir goes by in `Via`; None: none is written.
    pub via: Option<&'a str>,
}

/// Adds the head of a final or switching response to `out`. `now` dates a response that has no date (RFC 9110 section
/// 6.6.1).
///
/// # Errors
/// Rules have made it too large. `out` is then of no use.
#[inline]
pub fn response(
    out: &mut Vec<u8>,
    response: &Response<'_, '_>,
    shape: ResponseShape,
    changes: &ResponseChanges<'_>,
    now: impl FnOnce() -> SystemTime,
) -> Result<(), Malformed> {
    let ResponseChanges {
        rules,
        vars,
        via: name,
    } = *changes;
    out.reserve(response.head_len + 128);
    status_line(out, response.status, response.reason);
    fields(out, response.fields, &response.dropped, rules, vars, |_, _| true);
    if !response.dated && response.status >= 200 {
        let _ = write!(out, "Date: {}\r\n", httpdate::HttpDate::from(now()));
    }
    if shape.chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    // A 426 names the protocols it asks for (RFC 9110 section 15.5.22).
    let (connection, upgrade): (&[u8], _) = match (shape.connection, response.upgrade) {
        (ClientConnection::Stays, None) | (ClientConnection::Tunnel | ClientConnection::Unsaid, _) => {
            (b"", None)
        }
        (ClientConnection::StaysAloud, _) => (b"Connection: keep-alive\r\n", None),
        (ClientConnection::Ends, None) => (b"Connection: close\r\n", None),
        (ClientConnection::Ends, upgrade) => (b"Connection: close, Upgrade\r\nUpgrade: ", upgrade),
        (ClientConnection::Upgrades | ClientConnection::Stays, upgrade) => {
            (b"Connection: Upgrade\r\nUpgrade: ", upgrade)
        }
    };
    out.extend_from_slice(connection);
    if let Some(upgrade) = upgrade {
        out.extend_from_slice(upgrade);
        out.extend_from_slice(b"\r\n");
    }
    if let Some(name) = name {
        via(out, response.version, name);
    }
    rules.write(out, vars);
    out.extend_from_slice(b"\r\n");
    bounded(out)
}

/// Adds the head of an interim response (1xx) to `out`: passed on, without rules.
pub fn interim(out: &mut Vec<u8>, response: &Response<'_, '_>) {
    status_line(out, response.status, response.reason);
    for (at, field) in response.fields.iter().enumerate() {
        if !response.dropped.contains(at) {
            plain(out, field);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Whether a body of that kind goes out in chunks of weir's own to a client of that version.
pub fn goes_chunked(body: ResponseBody, version: Version) -> bool {
    match body {
        ResponseBody::None | ResponseBody::Length(_) => false,
        ResponseBody::Chunked | ResponseBody::UntilClose => version == Version::Http11,
    }
}

pub(super) fn status_line(out: &mut Vec<u8>, status: u16, reason: &str) {
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
    vars: &Variables<'_>,
    keep: impl Fn(usize, &str) -> bool,
) {
    let by_rule = !rules.leave_all();
    for (at, field) in all.iter().enumerate() {
        if dropped.contains(at) || !keep(at, field.name) {
            continue;
        }
        if !by_rule {
            plain(out, field);
        } else if out.len() <= WRITTEN_MOST {
            rules.field(out, vars, field.name, field.value);
        }
    }
}

#[inline]
fn plain(out: &mut Vec<u8>, field: &httparse::Header<'_>) {
    out.extend_from_slice(field.name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(field.value);
    out.extend_from_slice(b"\r\n");
}
