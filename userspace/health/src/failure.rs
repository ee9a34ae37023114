//! What an error of the system or of TLS is called in a probe's result.
//!
//! Owns that table, and the rule whom to blame: what the backend or the way to it did, or what we could not do
//! ourselves ([`Failure::Internal`]). Never retries.

use std::io::{self, ErrorKind};

use weir_core::health::{Failure, Phase};

/// Linux: "Address family not supported by protocol". Has no kind of its own.
const EAFNOSUPPORT: i32 = 97;
/// Linux: "Host is down". Has no kind of its own.
const EHOSTDOWN: i32 = 112;

/// The connection could not be made.
pub(crate) fn connect(error: &io::Error) -> Failure {
    let kind = error.kind();
    if kind == ErrorKind::ConnectionRefused {
        Failure::Refused
    } else if kind == ErrorKind::TimedOut {
        // The kernel gave up before we did.
        Failure::Timeout(Phase::Connect)
    } else if is_closed(kind) {
        Failure::Closed(Phase::Connect, error.to_string())
    } else if is_unreachable(error) {
        Failure::Unreachable(error.to_string())
    } else {
        // No descriptor, no memory, no port free: nothing the backend could do about it.
        Failure::Internal(error.to_string())
    }
}

/// The connection stood, and then this.
pub(crate) fn stream(phase: Phase, error: &io::Error) -> Failure {
    let kind = error.kind();
    if let Some(error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        Failure::Tls(error.to_string())
    } else if is_closed(kind) {
        Failure::Closed(phase, error.to_string())
    } else if kind == ErrorKind::TimedOut {
        Failure::Timeout(phase)
    } else if is_unreachable(error) {
        Failure::Unreachable(error.to_string())
    } else {
        Failure::Internal(error.to_string())
    }
}

fn is_closed(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::NotConnected
            | ErrorKind::UnexpectedEof
            | ErrorKind::WriteZero
    )
}

/// No route, or one that forbids it: a prohibiting route and a packet filter answer with EACCES and EPERM.
fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::PermissionDenied
    ) || matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EHOSTDOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux error numbers, as in errno(3).
    #[test]
    fn each_error_of_connect_has_its_cause() {
        for (errno, cause) in [
            (111, "refused"),
            (110, "timeout"),
            (101, "unreachable"),
            (113, "unreachable"),
            (100, "unreachable"),
            (112, "unreachable"),
            (97, "unreachable"),
            (1, "unreachable"),
            (13, "unreachable"),
            (104, "closed"),
            (103, "closed"),
            // EMFILE, ENFILE, ENOMEM, ENOBUFS, EADDRNOTAVAIL, EADDRINUSE, EINVAL: ours.
            (24, "internal"),
            (23, "internal"),
            (12, "internal"),
            (105, "internal"),
            (99, "internal"),
            (98, "internal"),
            (22, "internal"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(connect(&error).cause(), cause, "{error}");
        }
    }

    #[test]
    fn each_error_of_a_stream_has_its_cause() {
        for (errno, cause) in [
            (104, "closed"),
            (32, "closed"),
            (110, "timeout"),
            (113, "unreachable"),
            (12, "internal"),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(stream(Phase::Response, &error).cause(), cause, "{error}");
        }
        let tls = io::Error::new(ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(
            stream(Phase::Tls, &tls),
            Failure::Tls(rustls::Error::DecryptError.to_string())
        );
        let eof = io::Error::from(ErrorKind::UnexpectedEof);
        assert_eq!(
            stream(Phase::Tls, &eof),
            Failure::Closed(Phase::Tls, eof.to_string())
        );
    }

    #[test]
    fn the_words_are_the_systems() {
        let text = io::Error::from_raw_os_error(113).to_string();
        assert_eq!(
            connect(&io::Error::from_raw_os_error(113)),
            Failure::Unreachable(text)
        );
    }
}
