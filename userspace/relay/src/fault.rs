//! Every way a request can fail, by blame, and the one table that says what follows: status, whether the client's
//! connection may stay, the reason in log and counters.

use weir_core::proxy;

use crate::{
    hello::NoHello,
    http1::head::Malformed,
    reason::{Cause, Reason, Trouble},
    tls::TlsFault,
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
    /// The connection sent more frames of no use than allowed (HTTP/2).
    Flood,
    /// There is no PROXY header where there has to be one, or none that is taken.
    Proxy(proxy::Malformed),
    /// The connection ended in the middle of its PROXY header.
    ProxyCut,
    /// The PROXY header was not whole in time.
    ProxyTimeout,
    /// There is a PROXY header from where none is taken.
    ProxyUnexpected,
    /// There is no ClientHello where TLS is passed on, or none that is taken.
    Hello(NoHello),
    /// The connection ended in the middle of its ClientHello.
    HelloCut,
    /// The ClientHello was not whole in time.
    HelloTimeout,
    /// No rule takes the ClientHello.
    HelloUnrouted,
    /// TLS with the client failed, and how.
    Tls(TlsFault, &'static str),
    /// The service has as many connections as it may have.
    Limit,
    /// The relay has as many connections as it may have.
    LimitTotal,
    /// The worker keeps as much as it may for those that don't read.
    Memory,
    /// The request has come through this box too often already.
    Loop,
    /// No backend may be used.
    NoBackend,
    /// As many wait for the pool as may.
    QueueFull,
    /// No connection to the pool became free in time.
    QueueTimeout,
    /// No backend could be connected to, and the particulars.
    Connect(Cause, Option<&'static str>),
    /// The backend broke off with an alert of TLS as it was to be read from, and which: it refuses weir's certificate, or
    /// misses one.
    BackendAlert(&'static str),
    /// The response head did not come in time.
    ResponseTimeout,
    /// The backend fell silent later, or takes nothing.
    BackendTimeout,
    /// The backend closed before a response head was whole.
    ClosedEarly,
    /// The backend broke off in the middle of its response.
    Cut,
    /// The backend has not looked at the request: its connection was going, or it takes no more at once (HTTP/2).
    Unprocessed,
    /// The backend reset the stream (HTTP/2).
    Reset(h2::Reason),
    /// The response is malformed.
    Response(Malformed),
    /// The response has a status that makes another try.
    Status(u16),
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

impl From<Trouble> for Fault {
    fn from(Trouble { cause, detail }: Trouble) -> Self {
        Self::Connect(cause, detail)
    }
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
            Self::Flood => (Client, None, false, Reason::ClientFlood, None),
            Self::Proxy(proxy::Malformed::Missing) => (Client, None, false, Reason::ProxyMissing, None),
            Self::Proxy(_) | Self::ProxyCut => (Client, None, false, Reason::ProxyBroken, None),
            Self::ProxyTimeout => (Client, None, false, Reason::ProxyTimeout, None),
            Self::ProxyUnexpected => (Client, Some(400), false, Reason::ProxyUnexpected, None),
            Self::Hello(NoHello::NotTls) => (Client, None, false, Reason::HelloPlain, None),
            Self::Hello(_) | Self::HelloCut => (Client, None, false, Reason::HelloBroken, None),
            Self::HelloTimeout => (Client, None, false, Reason::HelloTimeout, None),
            Self::HelloUnrouted => (Client, None, false, Reason::HelloUnrouted, None),
            Self::Tls(fault, _) => {
                let (blame, status) = match fault {
                    // In plain text.
                    TlsFault::Plain => (Client, Some(400)),
                    TlsFault::Broken
                    | TlsFault::Unagreed
                    | TlsFault::UnknownName
                    | TlsFault::Certificate
                    | TlsFault::Alert
                    | TlsFault::Timeout => (Client, None),
                    TlsFault::Limit => (Operator, None),
                    TlsFault::Internal => (Us, None),
                };
                (blame, status, false, fault.reason(), None)
            }
            Self::Limit => (Operator, Some(503), false, Reason::LimitConnections, None),
            Self::LimitTotal => (Operator, Some(503), false, Reason::LimitTotal, None),
            Self::Memory => (Operator, Some(503), false, Reason::LimitMemory, None),
            Self::Loop => (Operator, Some(508), false, Reason::Loop, None),
            Self::NoBackend => (Operator, Some(503), true, Reason::NoBackend, None),
            Self::QueueFull => (Operator, Some(503), true, Reason::QueueFull, None),
            Self::QueueTimeout => (Operator, Some(503), true, Reason::QueueTimeout, None),
            Self::Connect(cause, _) => match cause {
                Cause::Tls => (Backend, Some(502), true, Reason::BackendTls, None),
                Cause::Certificate => (Backend, Some(502), true, Reason::BackendCertificate, None),
                Cause::TimeoutTls => (Backend, Some(504), true, Reason::BackendTimeoutTls, None),
                Cause::Unagreed => (Backend, Some(502), true, Reason::BackendNoHttp2, None),
                Cause::TimeoutConnect => (Backend, Some(504), true, Reason::BackendTimeoutConnect, None),
                Cause::Unreachable => (Backend, Some(503), true, Reason::BackendUnreachable, None),
                Cause::NoPort => (Operator, Some(503), true, Reason::PortsExhausted, None),
                Cause::Local => (Us, Some(503), true, Reason::Internal, None),
                // What came instead of HTTP/2.
                Cause::Closed => (Backend, Some(502), true, Reason::BackendClosedEarly, None),
                Cause::BadResponse => (Backend, Some(502), true, Reason::BackendBadResponse, None),
                Cause::Reset => (Backend, Some(502), true, Reason::BackendReset, None),
                Cause::Refused | Cause::Timeout | Cause::Stale | Cause::Status => {
                    (Backend, Some(503), true, Reason::BackendRefused, None)
                }
            },
            Self::BackendAlert(_) => (Backend, Some(502), true, Reason::BackendTls, Some(Cause::Tls)),
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
            Self::Unprocessed => (Backend, Some(503), true, Reason::BackendReset, Some(Cause::Reset)),
            Self::Reset(_) => (Backend, Some(502), true, Reason::BackendReset, Some(Cause::Reset)),
            Self::Response(_) => (
                Backend,
                Some(502),
                true,
                Reason::BackendBadResponse,
                Some(Cause::BadResponse),
            ),
            Self::Status(_) => (
                Backend,
                Some(502),
                true,
                Reason::BackendStatus,
                Some(Cause::Status),
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
            Self::Unprocessed => Some("not processed"),
            Self::Proxy(malformed) => Some(malformed.as_str()),
            Self::ProxyCut => Some("end within the PROXY header"),
            Self::Hello(none) => Some(none.as_str()),
            Self::HelloCut => Some("end within the ClientHello"),
            Self::Reset(reason) => Some(reset_word(reason)),
            Self::Tls(_, detail) | Self::BackendAlert(detail) => Some(detail),
            Self::Connect(_, detail) => detail,
            Self::HeadTimeout
            | Self::ClientTimeout
            | Self::ClientClosed
            | Self::BodyTooLarge
            | Self::Flood
            | Self::ProxyTimeout
            | Self::ProxyUnexpected
            | Self::HelloTimeout
            | Self::HelloUnrouted
            | Self::Limit
            | Self::LimitTotal
            | Self::Memory
            | Self::Loop
            | Self::NoBackend
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ResponseTimeout
            | Self::BackendTimeout
            | Self::ClosedEarly
            | Self::Cut
            | Self::Status(_)
            | Self::TunnelTimeout
            | Self::Drained => None,
        }
    }
}

/// The names of RFC 9113 section 7.
const fn reset_word(reason: h2::Reason) -> &'static str {
    match reason {
        h2::Reason::NO_ERROR => "NO_ERROR",
        h2::Reason::PROTOCOL_ERROR => "PROTOCOL_ERROR",
        h2::Reason::INTERNAL_ERROR => "INTERNAL_ERROR",
        h2::Reason::FLOW_CONTROL_ERROR => "FLOW_CONTROL_ERROR",
        h2::Reason::SETTINGS_TIMEOUT => "SETTINGS_TIMEOUT",
        h2::Reason::STREAM_CLOSED => "STREAM_CLOSED",
        h2::Reason::FRAME_SIZE_ERROR => "FRAME_SIZE_ERROR",
        h2::Reason::REFUSED_STREAM => "REFUSED_STREAM",
        h2::Reason::CANCEL => "CANCEL",
        h2::Reason::COMPRESSION_ERROR => "COMPRESSION_ERROR",
        h2::Reason::CONNECT_ERROR => "CONNECT_ERROR",
        h2::Reason::ENHANCE_YOUR_CALM => "ENHANCE_YOUR_CALM",
        h2::Reason::INADEQUATE_SECURITY => "INADEQUATE_SECURITY",
        h2::Reason::HTTP_1_1_REQUIRED => "HTTP_1_1_REQUIRED",
        _ => "an unknown code",
    }
}

/// The statuses of malformed requests.
const fn request_status(malformed: Malformed) -> (u16, Reason) {
    match malformed {
        Malformed::TargetTooLong => (414, Reason::ClientTargetTooLong),
        Malformed::TooLarge | Malformed::TooManyFields => (431, Reason::ClientTooLarge),
        Malformed::WebSocketVersion => (426, Reason::ClientUnsupported),
        Malformed::Version => (505, Reason::ClientUnsupported),
        Malformed::Misdirected | Malformed::ServerName => (421, Reason::ClientUnsupported),
        Malformed::MethodTooLong
        | Malformed::Connect
        | Malformed::Trace
        | Malformed::UnknownCoding
        | Malformed::WebSocketOverHttp2 => (501, Reason::ClientUnsupported),
        Malformed::RequestLine
        | Malformed::Method
        | Malformed::Target
        | Malformed::DotSegments
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
        | Malformed::ConnectBody
        | Malformed::MaxForwards
        | Malformed::InterimBody
        | Malformed::Chunk
        | Malformed::Trailer
        | Malformed::Switch
        | Malformed::WebSocket
        | Malformed::WebSocketProtocol
        | Malformed::Frame
        | Malformed::Message
        | Malformed::TooManyInterim => (400, Reason::ClientBadRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{http1::status::phrase, reason::Side};

    #[test]
    fn every_status_has_its_phrase_and_blame() {
        let mut all = vec![
            Fault::HeadTimeout,
            Fault::ClientTimeout,
            Fault::ClientClosed,
            Fault::BodyTooLarge,
            Fault::Flood,
            Fault::ProxyCut,
            Fault::ProxyTimeout,
            Fault::ProxyUnexpected,
            Fault::HelloCut,
            Fault::HelloTimeout,
            Fault::HelloUnrouted,
            Fault::Limit,
            Fault::LimitTotal,
            Fault::Memory,
            Fault::Loop,
            Fault::NoBackend,
            Fault::QueueFull,
            Fault::QueueTimeout,
            Fault::Status(503),
            Fault::ResponseTimeout,
            Fault::BackendTimeout,
            Fault::ClosedEarly,
            Fault::Cut,
            Fault::Unprocessed,
            Fault::BackendAlert("certificate_required"),
            Fault::Reset(h2::Reason::INTERNAL_ERROR),
            Fault::TunnelTimeout,
            Fault::Drained,
        ];
        all.extend(
            Malformed::ALL
                .iter()
                .flat_map(|m| [Fault::Request(*m), Fault::Response(*m)]),
        );
        all.extend(NoHello::ALL.map(Fault::Hello));
        all.extend(proxy::Malformed::ALL.map(Fault::Proxy));
        all.extend(TlsFault::ALL.map(|fault| Fault::Tls(fault, "")));
        all.extend(Cause::ALL.iter().map(|c| Fault::Connect(*c, None)));
        for fault in all {
            let verdict = fault.verdict();
            let side = match verdict.blame {
                _ if fault == Fault::TunnelTimeout => Side::Both,
                Blame::Client => Side::Client,
                Blame::Backend => Side::Backend,
                Blame::Operator | Blame::Us => Side::Weir,
            };
            assert_eq!(verdict.reason.side(), Some(side), "{fault:?}");
            let Some(status) = verdict.status else { continue };
            assert_ne!(phrase(status), "", "{fault:?}");
            let expected = match verdict.blame {
                Blame::Client => (400..500).contains(&status) || [501, 505].contains(&status),
                Blame::Backend => [502, 503, 504].contains(&status),
                Blame::Operator if fault == Fault::Loop => status == 508,
                Blame::Operator | Blame::Us => status == 503,
            };
            assert!(expected, "{fault:?} {verdict:?}");
            assert!(verdict.reason != Reason::Ok);
        }
    }
}
