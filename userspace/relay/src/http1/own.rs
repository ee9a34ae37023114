//! Responses of weir's own in place of a backend's: after a fault, and by a rule.

use std::{io::Write, time::SystemTime};

use weir_core::plan::{Redirect, Respond, Template};

use super::{
    head::Malformed,
    rules::Rules,
    status::phrase,
    template::{Place, Variables},
    write::{ClientConnection, bounded, status_line},
};

/// What a response of weir's own says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Own<'a> {
    /// After a fault: status and phrase, in words.
    Fault(u16),
    /// A redirect.
    Redirect(&'a Redirect),
    /// A response of the operator's.
    Respond(&'a Respond),
}

impl Own<'_> {
    /// Its status.
    pub const fn status(&self) -> u16 {
        match self {
            Self::Fault(status) => *status,
            Self::Redirect(redirect) => redirect.status,
            Self::Respond(respond) => respond.status,
        }
    }
}

/// Adds a whole response of weir's own to `out`, as the service's rules will have it. Answers with the place in `out`
/// where [`connection`] may add its field. No body if it answers `HEAD`.
///
/// # Errors
/// Rules have made its head too large. `out` is then of no use.
pub fn write(
    out: &mut Vec<u8>,
    own: Own<'_>,
    to_head: bool,
    now: SystemTime,
    rules: &Rules,
    vars: &Variables<'_>,
) -> Result<usize, Malformed> {
    let status = own.status();
    status_line(out, status, phrase(status));
    let place = out.len();
    let text;
    let (body, media): (&str, Option<&str>) = match own {
        Own::Respond(respond) => (&respond.body, respond.content_type.as_deref()),
        Own::Fault(_) | Own::Redirect(_) => {
            text = format!("{status} {}\n", phrase(status));
            (&text, Some("text/plain; charset=utf-8"))
        }
    };
    let mut field = |name: &str, value: &[u8]| rules.field(out, vars, name, value);
    field("Date", httpdate::HttpDate::from(now).to_string().as_bytes());
    if let Some(media) = media {
        field("Content-Type", media.as_bytes());
    }
    if !matches!(status, 204 | 304) {
        // Frames the message, so no rule touches it.
        let _ = write!(out, "Content-Length: {}\r\n", body.len());
    }
    match own {
        Own::Fault(status) => {
            rules.field(out, vars, "Cache-Control", b"no-store");
            if status == 426 {
                // What would be served (RFC 9110 section 15.5.22, RFC 6455 section 4.4).
                out.extend_from_slice(
                    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
                );
            }
        }
        Own::Redirect(redirect) => {
            let mut to = Vec::new();
            location(&mut to, &redirect.to, vars);
            rules.field(out, vars, "Location", &to);
        }
        Own::Respond(respond) => {
            let mut value = Vec::new();
            for (name, template) in &respond.headers {
                value.clear();
                vars.template(&mut value, template, Place::Field);
                rules.field(out, vars, name, &value);
            }
        }
    }
    rules.write(out, vars);
    out.extend_from_slice(b"\r\n");
    bounded(out)?;
    if !to_head {
        out.extend_from_slice(body.as_bytes());
    }
    Ok(place)
}

/// Adds to a response of weir's own, at its place, what the client is told of its connection.
pub fn connection(out: &mut Vec<u8>, place: usize, connection: ClientConnection) {
    let field: &[u8] = match connection {
        ClientConnection::Ends => b"Connection: close\r\n",
        ClientConnection::StaysAloud => b"Connection: keep-alive\r\n",
        ClientConnection::Stays
        | ClientConnection::Upgrades
        | ClientConnection::Tunnel
        | ClientConnection::Unsaid => return,
    };
    out.splice(place..place, field.iter().copied());
}

/// Writes where a redirect leads.
fn location(out: &mut Vec<u8>, to: &Template, vars: &Variables<'_>) {
    vars.template(out, to, Place::Location);
    // A query that was empty leaves its question mark.
    if out.ends_with(b"?") {
        out.pop();
    }
    if out.first().is_none_or(|first| *first == b'/') {
        // `//host` and `/\host` would lead to another host, by the client's choice: one slash begins a path.
        let is_slash = |byte: &&u8| matches!(byte, b'/' | b'\\');
        let slashes = out.iter().take_while(is_slash).count();
        out.splice(..slashes, [b'/']);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connection_is_told_at_its_place() {
        let mut out = b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n".to_vec();
        connection(&mut out, 17, ClientConnection::Stays);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n");
        connection(&mut out, 17, ClientConnection::Ends);
        assert_eq!(out, b"HTTP/1.1 200 OK\r\nConnection: close\r\nX: y\r\n\r\n");
    }
}
