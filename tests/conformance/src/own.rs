//! What weir itself answers, byte for byte.

use crate::case::Stays;

/// A response of weir's own, byte for byte, but for its date.
pub(crate) fn own_response(status: u16, stays: Stays, to_head: bool) -> String {
    let phrase = match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        421 => "Misdirected Request",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "?",
    };
    let body = format!("{status} {phrase}\n");
    let connection = match stays {
        Stays::No => "Connection: close\r\n",
        Stays::Yes => "",
        Stays::Aloud => "Connection: keep-alive\r\n",
    };
    format!(
        "HTTP/1.1 {status} {phrase}\r\n{connection}Date: *\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\n\r\n{}",
        body.len(),
        if to_head { "" } else { &body }
    )
}

/// Puts `*` for each date in IMF-fixdate (RFC 9110 section 5.6.7).
pub(crate) fn hide_dates(bytes: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"\r\nDate: ";
    const LENGTH: usize = "Sun, 06 Nov 1994 08:49:37 GMT".len();
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(NAME.len()).position(|w| w == NAME) {
        let (before, after) = rest.split_at(at + NAME.len());
        out.extend_from_slice(before);
        rest = after;
        if let Some((date, after)) = rest.split_at_checked(LENGTH)
            && date.ends_with(b" GMT")
            && date.get(3) == Some(&b',')
        {
            out.push(b'*');
            rest = after;
        }
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_hidden_and_nothing_else() {
        let hidden = hide_dates(
            b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nX: Date: x\r\nDate: x\r\n\r\n",
        );
        assert_eq!(
            hidden,
            b"HTTP/1.1 200 OK\r\nDate: *\r\nX: Date: x\r\nDate: x\r\n\r\n"
        );
    }
}
