//! Responses as the relay writes them, HTTP/1.1 text, in the form of HTTP/2.
//!
//! What is taken apart here was written, or judged, by weir itself: it has nothing to find fault with.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use memchr::memmem;

use crate::http1::head::Malformed;

/// A head that was written: from the status line to the empty line. Fields of a connection are left out, and those in
/// `without`.
///
/// # Errors
/// It is no head.
pub fn head(text: &[u8], status: Option<u16>, without: &[&str]) -> Result<Response<()>, Malformed> {
    let end = memmem::find(text, b"\r\n").ok_or(Malformed::StatusLine)?;
    let (line, rest) = text.split_at_checked(end + 2).ok_or(Malformed::StatusLine)?;
    let digits = line.get(9..12).ok_or(Malformed::StatusLine)?;
    let code = match status {
        Some(status) => StatusCode::from_u16(status),
        None => StatusCode::from_bytes(digits),
    };
    let mut response = Response::new(());
    *response.status_mut() = code.map_err(|_| Malformed::StatusLine)?;
    *response.headers_mut() = lines(rest, without)?;
    Ok(response)
}

/// Trailer lines.
///
/// # Errors
/// They are none.
pub fn trailers(text: &[u8]) -> Result<HeaderMap, Malformed> {
    lines(text, &[])
}

fn lines(text: &[u8], without: &[&str]) -> Result<HeaderMap, Malformed> {
    // One copy for all values.
    let shared = Bytes::copy_from_slice(text);
    let mut all = HeaderMap::with_capacity(12);
    let mut start = 0;
    for end in memmem::find_iter(text, b"\r\n") {
        let line = start..end;
        start = end + 2;
        let bytes = text.get(line.clone()).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        let colon = memchr::memchr(b':', bytes).ok_or(Malformed::FieldName)?;
        let name = bytes.get(..colon).unwrap_or_default();
        let name = HeaderName::from_bytes(name).map_err(|_| Malformed::FieldName)?;
        if super::is_of_a_connection(name.as_str()) || without.contains(&name.as_str()) {
            continue;
        }
        let value = bytes.get(colon + 1..).unwrap_or_default();
        let blanks = value.len() - value.trim_ascii_start().len();
        let from = line.start + colon + 1 + blanks;
        let to = from + value.trim_ascii().len();
        let value = HeaderValue::from_maybe_shared(shared.slice(from..to));
        let value = value.map_err(|_| Malformed::FieldValue)?;
        if all.try_append(name, value).is_err() {
            return Err(Malformed::TooManyFields);
        }
    }
    Ok(all)
}

/// Where the body of a whole response begins.
pub fn body_start(text: &[u8]) -> usize {
    memmem::find(text, b"\r\n\r\n").map_or(text.len(), |at| at + 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(response: &Response<()>) -> String {
        let mut out = response.status().as_str().to_owned();
        for (name, value) in response.headers() {
            out += &format!("|{name}={}", String::from_utf8_lossy(value.as_bytes()));
        }
        out
    }

    #[test]
    fn heads() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                shown(&head(text.as_bytes(), None, &[]).unwrap()),
                expected,
                "{text:?}"
            );
        };
        check("HTTP/1.1 200 OK\r\n\r\n", "200");
        check(
            "HTTP/1.1 404 \r\nServer: x\r\nX-A: 1\r\nx-a:2 \r\n\r\nbody: no",
            "404|server=x|x-a=1|x-a=2",
        );
        check(
            "HTTP/1.1 101 Switching\r\nUpgrade: a\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\nB:\r\n\r\n",
            "101|b=",
        );
        check("HTTP/1.1 200 OK\r\nX: \u{e4}\r\n\r\n", "200|x=\u{e4}");
    }

    #[test]
    fn a_switch_is_a_success_without_its_proof() {
        let text =
            b"HTTP/1.1 101 Switching\r\nSec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        let response = head(text, Some(200), &["sec-websocket-accept"]).unwrap();
        assert_eq!(shown(&response), "200|sec-websocket-protocol=chat");
    }

    #[test]
    fn what_is_no_head() {
        for bad in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1\r\n\r\n",
            "HTTP/1.1 x00 \r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        ] {
            assert!(head(bad.as_bytes(), None, &[]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn trailer_lines() {
        let all = trailers(b"A: 1\r\nb: 2\r\n").unwrap();
        assert_eq!(
            (all.len(), all["a"].as_bytes(), all["b"].as_bytes()),
            (2, &b"1"[..], &b"2"[..])
        );
        assert!(trailers(b"").unwrap().is_empty());
    }

    #[test]
    fn bodies_begin_behind_the_empty_line() {
        assert_eq!(body_start(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody\r\n\r\n"), 25);
        assert_eq!(body_start(b"x"), 1);
    }
}
