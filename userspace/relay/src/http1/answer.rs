//! Answers of weir's own as the last recipient of a request: `OPTIONS` and `TRACE` whose `Max-Forwards` is used up (RFC
//! 9110 section 7.6.2).

use std::{io::Write, time::SystemTime};

use super::{
    fields::{self, Kind},
    request::Request,
    rules::Rules,
    template::Variables,
    write::ClientConnection,
};

/// Fields that `TRACE` does not show again: what a page's script must not read of its own browser (RFC 9110 section
/// 9.3.8).
const SECRET: [&str; 4] = ["authorization", "cookie", "cookie2", "proxy-authorization"];

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To `OPTIONS`: that it works.
    Options,
    /// To `TRACE`: the request's head, as it came but for its secrets.
    Trace(Vec<u8>),
}

impl Answer {
    /// The answer to a request that goes no further, if this is one.
    pub fn to(request: &Request<'_, '_>, head: &[u8]) -> Option<Self> {
        match (request.max_forwards, request.method) {
            (Some(0), "TRACE") => Some(Self::Trace(reflection(request, head))),
            (Some(0), _) => Some(Self::Options),
            _ => None,
        }
    }

    /// Adds the whole response to `out`.
    pub fn write(
        &self,
        out: &mut Vec<u8>,
        connection: ClientConnection,
        now: SystemTime,
        rules: &Rules,
        vars: &Variables<'_>,
    ) {
        let (kind, body): (&str, &[u8]) = match self {
            Self::Options => ("", b""),
            Self::Trace(head) => ("Content-Type: message/http\r\n", head),
        };
        // Writing to a Vec can't fail.
        let _ = write!(
            out,
            "HTTP/1.1 200 OK\r\nDate: {}\r\n{kind}Content-Length: {}\r\nCache-Control: no-store\r\n",
            httpdate::HttpDate::from(now),
            body.len()
        );
        match connection {
            ClientConnection::Ends => out.extend_from_slice(b"Connection: close\r\n"),
            ClientConnection::StaysAloud => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            ClientConnection::Stays
            | ClientConnection::Upgrades
            | ClientConnection::Tunnel
            | ClientConnection::Unsaid => {}
        }
        rules.write(out, vars);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(body);
    }
}

/// The head as it came, without the fields that are nobody's business.
fn reflection(request: &Request<'_, '_>, head: &[u8]) -> Vec<u8> {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let mut shown = line.to_vec();
    shown.extend_from_slice(b"\r\n");
    for field in request.fields {
        let secret = SECRET.iter().any(|name| field.name.eq_ignore_ascii_case(name));
        if secret || fields::kind(field.name) == Kind::HopByHop {
            continue;
        }
        shown.extend_from_slice(field.name.as_bytes());
        shown.extend_from_slice(b": ");
        shown.extend_from_slice(field.value);
        shown.extend_from_slice(b"\r\n");
    }
    shown.extend_from_slice(b"\r\n");
    shown
}
