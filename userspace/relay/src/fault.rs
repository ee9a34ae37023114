//! Every way a request can fail, by blame, and the one table that says what follows: status, whether the client's
//! connection may stay, the reason in log and counters.

use crate::{
    http1::head::Malformed,
    reason::{Cause, Reason},
};

/// Whose fault it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Blame {
    /// The client's.
    Client,
    /// The backend's.
    Backend,
    /// The operator's: a limit, a pool without a usable backend.
    Operator,
    /// weir's own, or its system's.
    Us,
}

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The request is malformed.
    Request(Malformed),
    /// The request head was not whole in time.
    HeadTimeout,
    /// The client sent nothing, or took nothing, for too long.
    ClientTimeout,
    /// The client's connection ended or broke.
    ClientClosed,
    /// The request body is larger than allowed.
    BodyTooLarge,
    /// The service has as many connections as it may have.
    Limit,
    /// No backend may be used.
    NoBackend,
    /// No backend could be connected to.
    Connect(Cause),
    /// The response head did not come in time.
    ResponseTimeout,
    /// The backend fell silent later, or takes nothing.
    BackendTimeout,
    /// The backend closed before a response head was whole.
    ClosedEarly,
    /// The backend broke off in the middle of its response.
    Cut,
    /// The response is malformed.
    Response(Malformed),
    /// A tunnel was silent for too long.
    TunnelTimeout,
    /// The drain's time ran out.
    Drained,
}

/// What follows from a [`Fault`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Verdict {
    pub(crate) blame: Blame,
    /// What the client is told, if it has not been told anything yet. None: nothing, the connection just ends.
    pub(crate) status: Option<u16>,
    /// Whether the client's connection may stay, if its request was read whole.
    pub(crate) keep: bool,
    pub(crate) reason: Reason,
    /// What is counted of the backend.
    pub(crate) cause: Option<Cause>,
}

impl Fault {
    /// The table.
    pub(crate) const fn verdict(self) -> Verdict {
        use Blame::{Backend, Client, Operator, Us};
        let (blame, status, keep, reason, cause) = match self {
            Self::Request(malformed) => {
                let (status, reason) = request_status(malformed);
                (Client, Some(status), false, reason, None)
            }
            Self::HeadTimeout => (Client, Some(408), false, Reason::ClientTimeoutHead, None),
            Self::ClientTimeout => (Client, Some(408), false, Reason::ClientTimeout, None),
            Self::ClientClosed => (Client, None, false, Reason::ClientClosed, None),
            Self::BodyTooLarge => (Client, Some(413), false, Reason::ClientBodyTooLarge, None),
            Self::Limit => (Operator, Some(503), false, Reason::LimitConnections, None),
            Self::NoBackend => (Operator, Some(503), true, Reason::NoBackend, None),
            Self::Connect(cause) => match cause {
                Cause::TimeoutConnect => (Backend, Some(504), true, Reason::BackendTimeoutConnect, None),
                Cause::Unreachable => (Backend, Some(503), true, Reason::BackendUnreachable, None),
                Cause::Local => (Us, Some(503), true, Reason::Internal, None),
                Cause::Refused | Cause::Timeout | Cause::Closed | Cause::Stale | Cause::BadResponse => {
                    (Backend, Some(503), true, Reason::BackendRefused, None)
                }
            },
            Self::ResponseTimeout => (
                Backend,
                Some(504),
                true,
                Reason::BackendTimeoutResponse,
                Some(Cause::Timeout),
            ),
            Self::BackendTimeout => (
                Backend,
                Some(504),
                false,
                Reason::BackendTimeout,
                Some(Cause::Timeout),
            ),
            Self::ClosedEarly => (
                Backend,
                Some(502),
                true,
                Reason::BackendClosedEarly,
                Some(Cause::Closed),
            ),
            Self::Cut => (Backend, Some(502), false, Reason::BackendCut, Some(Cause::Closed)),
            Self::Response(_) => (
                Backend,
                Some(502),
                true,
                Reason::BackendBadResponse,
                Some(Cause::BadResponse),
            ),
            Self::TunnelTimeout => (Client, None, false, Reason::TunnelTimeout, None),
            Self::Drained => (Operator, None, false, Reason::Drained, None),
        };
        Verdict {
            blame,
            status,
            keep,
            reason,
            cause,
        }
    }

    /// The particulars, for the access record.
    pub(crate) const fn detail(self) -> Option<&'static str> {
        match self {
            Self::Request(malformed) | Self::Response(malformed) => Some(malformed.as_str()),
            Self::HeadTimeout
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::BodyTooLarge
            | Self::Limit
            | Self::NoBackend
            | Self::Connect(_)
            | Self::ResponseTimeout
            | Self::BackendTimeout
            | Self::ClosedEarly
            | Self::Cut
            | Self::TunnelTimeout
            | Self::Drained => None,
        }
    }
}

/// The statuses of malformed requests.
const fn request_status(malformed: Malformed) -> (u16, Reason) {
    match malformed {
        Malformed::TargetTooLong => (414, Reason::ClientTooLarge),
        Malformed::TooLarge | Malformed::TooManyFields => (431, Reason::ClientTooLarge),
        Malformed::Version => (505, Reason::ClientUnsupported),
        Malformed::Connect | Malformed::UnknownCoding => (501, Reason::ClientUnsupported),
        Malformed::RequestLine
        | Malformed::Method
        | Malformed::Target
        | Malformed::StatusLine
        | Malformed::LineEnd
        | Malformed::FieldName
        | Malformed::FieldValue
        | Malformed::HostMissing
        | Malformed::HostTwice
        | Malformed::Host
        | Malformed::HostMismatch
        | Malformed::ContentLength
        | Malformed::LengthAndCoding
        | Malformed::TransferCoding
        | Malformed::TraceBody
        | Malformed::Chunk
        | Malformed::Trailer
        | Malformed::Switch
        | Malformed::TooManyInterim => (400, Reason::ClientBadRequest),
    }
}

/// The reason phrase of a status of weir's own.
pub(crate) const fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_phrase_and_blame() {
        let mut all = vec![
            Fault::HeadTimeout,
            Fault::ClientTimeout,
            Fault::ClientClosed,
            Fault::BodyTooLarge,
            Fault::Limit,
            Fault::NoBackend,
            Fault::ResponseTimeout,
            Fault::BackendTimeout,
            Fault::ClosedEarly,
            Fault::Cut,
            Fault::TunnelTimeout,
            Fault::Drained,
        ];
        all.extend(
            Malformed::ALL
                .iter()
                .flat_map(|m| [Fault::Request(*m), Fault::Response(*m)]),
        );
        all.extend(Cause::ALL.iter().map(|c| Fault::Connect(*c)));
        for fault in all {
            let verdict = fault.verdict();
            let Some(status) = verdict.status else { continue };
            assert_ne!(phrase(status), "Error", "{fault:?}");
            let expected = match verdict.blame {
                Blame::Client => (400..500).contains(&status) || [501, 505].contains(&status),
                Blame::Backend => [502, 503, 504].contains(&status),
                Blame::Operator | Blame::Us => status == 503,
            };
            assert!(expected, "{fault:?} {verdict:?}");
            assert!(verdict.reason != Reason::Ok);
        }
    }
}
