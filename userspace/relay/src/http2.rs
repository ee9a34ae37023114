//! HTTP/2 as far as it is values: heads between its form and the relay's own, what a connection's frames are counted for,
//! the `Upgrade` from HTTP/1.1. Framing, compression and flow control are the `h2` crate's; never touches a socket.

use crate::http1::fields;

pub mod request;
pub mod response;
pub mod upgrade;
pub mod watch;

/// What a client sends first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Whether a field's name is one in HTTP/1.1 too: a token (RFC 9110 section 5.1). The `http` crate lets a quotation mark pass.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(fields::is_token)
}

/// Fields that HTTP/2 has other means for, or none (RFC 9113 section 8.2.2).
pub(crate) fn is_of_a_connection(name: &str) -> bool {
    const NAMES: [&str; 6] = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    NAMES.iter().any(|n| name.eq_ignore_ascii_case(n))
}
