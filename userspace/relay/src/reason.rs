//! The words for how a request or connection ended, and for what goes wrong with a backend.
//!
//! One list each, used alike by the access log, the metrics and the documentation. Which error leads to which reason is
//! said in `fault`.

macro_rules! words {
    ($(#[$meta:meta])* $ty:ident { $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum $ty {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $ty {
            /// Every word, in the order of the discriminants.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The word for it in logs and metrics.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What it means, for the documentation.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+).trim_ascii(),)+
                }
            }
        }

        impl std::fmt::Display for $ty {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use words;

words! {
    /// How a request (or a connection in TCP mode, or after an upgrade) ended.
    Reason {
        /// The response was relayed whole; in TCP mode both sides ended in order.
        Ok = "ok",
        /// A rule answered it: a redirect, or a response of the operator's.
        Answered = "answered",
        /// The client went away before it had its response, or in the middle of its request.
        ClientClosed = "client-closed",
        /// The client did not finish its request head in time.
        ClientTimeoutHead = "client-timeout-head",
        /// The client was silent or slow for too long: no request body, or it does not read the response.
        ClientTimeout = "client-timeout",
        /// The request is malformed or ambiguous.
        ClientBadRequest = "client-bad-request",
        /// The request head, or the number of its fields, is too large.
        ClientTooLarge = "client-head-too-large",
        /// The request line is longer than a head may be.
        ClientTargetTooLong = "client-target-too-long",
        /// The request body is larger than the service allows.
        ClientBodyTooLarge = "client-body-too-large",
        /// The request asks for something weir does not do: a method, a transfer coding, a version.
        ClientUnsupported = "client-unsupported",
        /// The connection sent more frames of no use than `http2.offences` allows (HTTP/2).
        ClientFlood = "client-flood",
        /// No PROXY header came from where `proxy_protocol.from` says that every connection begins with one.
        ProxyMissing = "proxy-missing",
        /// The PROXY header is malformed, too long, or its checksum is wrong; or the connection ended in its middle.
        ProxyBroken = "proxy-broken",
        /// The PROXY header was not whole in time.
        ProxyTimeout = "proxy-timeout",
        /// A PROXY header came from where none is taken.
        ProxyUnexpected = "proxy-unexpected",
        /// The client spoke no TLS to a service that passes TLS on by its ClientHello.
        HelloPlain = "hello-plain",
        /// The ClientHello is malformed or too large, or the connection ended in its middle.
        HelloBroken = "hello-broken",
        /// The ClientHello was not whole in time.
        HelloTimeout = "hello-timeout",
        /// No rule takes the name and the protocols of the ClientHello.
        HelloUnrouted = "hello-unrouted",
        /// The client spoke no TLS to a service that ends it: HTTP in plain text, or something else.
        TlsPlain = "tls-plain",
        /// What the client sent in TLS is malformed, out of order, or can't be decrypted.
        TlsBroken = "tls-broken",
        /// Client and service have no version, cipher suite, group or protocol of TLS in common.
        TlsUnagreed = "tls-unagreed",
        /// The client asked for a name that no certificate is for, and `unknown_names` is `refuse`.
        TlsUnknownName = "tls-unknown-name",
        /// The client showed no certificate, or one that does not hold, and the service requires one.
        TlsClientCertificate = "tls-client-certificate",
        /// The client broke the handshake off with an alert: it does not accept the certificate, for example.
        TlsAlert = "tls-alert",
        /// The TLS handshake took longer than `timeouts.handshake`.
        TlsTimeout = "tls-timeout",
        /// As many TLS handshakes were under way as `weir.relay.limit.handshakes` allows.
        LimitHandshakes = "limit-handshakes",
        /// The service has as many connections as it may have.
        LimitConnections = "limit-connections",
        /// The relay has as many connections as it may have, of all services together.
        LimitTotal = "limit-total",
        /// The worker holds as much as it may for those that do not take what was read for them.
        LimitMemory = "limit-memory",
        /// The request has come through this box already, more often than `loop_limit` allows.
        Loop = "loop",
        /// No backend of the pool may be used.
        NoBackend = "no-backend",
        /// As many requests waited for the pool as may: see `connections.queue`.
        QueueFull = "queue-full",
        /// All backends had as many connections as they may have, and none became free in time.
        QueueTimeout = "queue-timeout",
        /// No source port was free for a connection to any backend tried: see docs/ports.md.
        PortsExhausted = "ports-exhausted",
        /// Every backend tried refused the connection.
        BackendRefused = "backend-refused",
        /// No way to any backend tried (no route, host unreachable).
        BackendUnreachable = "backend-unreachable",
        /// No backend tried accepted the connection in time.
        BackendTimeoutConnect = "backend-timeout-connect",
        /// The TLS handshake with every backend tried failed.
        BackendTls = "backend-tls",
        /// The certificate of every backend tried does not hold: of nobody that is believed, for another name, expired.
        BackendCertificate = "backend-certificate",
        /// No backend tried finished the TLS handshake in time.
        BackendTimeoutTls = "backend-timeout-tls",
        /// No backend tried agreed on HTTP/2 (ALPN), which the pool speaks.
        BackendNoHttp2 = "backend-no-http2",
        /// The backend did not answer in time.
        BackendTimeoutResponse = "backend-timeout-response",
        /// The backend fell silent in the middle of its response, or does not read the request.
        BackendTimeout = "backend-timeout",
        /// The backend closed the connection before a response head was whole.
        BackendClosedEarly = "backend-closed-early",
        /// The backend broke off in the middle of its response.
        BackendCut = "backend-cut",
        /// The backend reset the request's stream, or took no more requests on its connection (HTTP/2).
        BackendReset = "backend-reset",
        /// The backend's response is malformed, ambiguous or too large in its head.
        BackendBadResponse = "backend-bad-response",
        /// The backend answered with a status of `retries.on`, and the backend that was left for another try was gone.
        BackendStatus = "backend-status",
        /// The tunnel was silent in both directions for too long.
        TunnelTimeout = "tunnel-timeout",
        /// weir was draining and the time for it ran out.
        Drained = "drained",
        /// weir itself or its system could not do it (no descriptors, no memory).
        Internal = "internal",
    }
}

words! {
    /// What went wrong with a backend, one count per try: retries that saved the request are counted too.
    Cause {
        /// It refused the connection.
        Refused = "refused",
        /// No way there.
        Unreachable = "unreachable",
        /// It did not accept the connection in time.
        TimeoutConnect = "timeout-connect",
        /// The TLS handshake with it failed.
        Tls = "tls",
        /// Its certificate does not hold.
        Certificate = "certificate",
        /// It did not finish the TLS handshake in time.
        TimeoutTls = "timeout-tls",
        /// It did not agree on HTTP/2 (ALPN).
        Unagreed = "unagreed",
        /// It did not answer, or went silent, or did not read for too long.
        Timeout = "timeout",
        /// It closed before a response was whole.
        Closed = "closed",
        /// A pooled connection was found closed when it was used again; the request went out on another.
        Stale = "stale",
        /// It reset the stream of a request, or refused it with its GOAWAY (HTTP/2).
        Reset = "reset",
        /// Its response was malformed.
        BadResponse = "bad-response",
        /// It answered with a status of `retries.on`, and the request went to another.
        Status = "status",
        /// No source port was free for a connection to it.
        NoPort = "no-port",
        /// No socket could be had for it on this side.
        Local = "local",
    }
}

words! {
    /// Whose doing an end was.
    Side {
        /// The client's.
        Client = "client",
        /// The backend's.
        Backend = "backend",
        /// That of weir: its limits, its pools, its system.
        Weir = "weir",
        /// Nobody's alone.
        Both = "both",
    }
}

words! {
    /// Where an end came about.
    Layer {
        /// The connection: refused, broken off, silent, one too many.
        L4 = "l4",
        /// TLS: the handshake was not finished.
        L6 = "l6",
        /// The message: malformed, too large, or not there in time.
        L7 = "l7",
    }
}

/// Why a backend could not be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    pub(crate) cause: Cause,
    /// The particulars, for the access record.
    pub(crate) detail: Option<&'static str>,
}

impl Trouble {
    /// The TLS handshake failed.
    pub(crate) const fn tls(detail: &'static str) -> Self {
        Self {
            cause: Cause::Tls,
            detail: Some(detail),
        }
    }
}

impl From<Cause> for Trouble {
    fn from(cause: Cause) -> Self {
        Self { cause, detail: None }
    }
}

impl Reason {
    /// Whose doing it was. None: nothing was amiss.
    pub const fn side(self) -> Option<Side> {
        Some(match self {
            Self::Ok | Self::Answered => return None,
            Self::ClientClosed
            | Self::ClientTimeoutHead
            | Self::ClientTimeout
            | Self::ClientBadRequest
            | Self::ClientTooLarge
            | Self::ClientTargetTooLong
            | Self::ClientBodyTooLarge
            | Self::ClientUnsupported
            | Self::ClientFlood
            | Self::ProxyMissing
            | Self::ProxyBroken
            | Self::ProxyTimeout
            | Self::ProxyUnexpected
            | Self::HelloPlain
            | Self::HelloBroken
            | Self::HelloTimeout
            | Self::HelloUnrouted
            | Self::TlsPlain
            | Self::TlsBroken
            | Self::TlsUnagreed
            | Self::TlsUnknownName
            | Self::TlsClientCertificate
            | Self::TlsAlert
            | Self::TlsTimeout => Side::Client,
            Self::BackendRefused
            | Self::BackendUnreachable
            | Self::BackendTimeoutConnect
            | Self::BackendTls
            | Self::BackendCertificate
            | Self::BackendTimeoutTls
            | Self::BackendNoHttp2
            | Self::BackendTimeoutResponse
            | Self::BackendTimeout
            | Self::BackendClosedEarly
            | Self::BackendCut
            | Self::BackendReset
            | Self::BackendBadResponse
            | Self::BackendStatus => Side::Backend,
            Self::LimitHandshakes
            | Self::LimitConnections
            | Self::LimitTotal
            | Self::LimitMemory
            | Self::Loop
            | Self::NoBackend
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::PortsExhausted
            | Self::Drained
            | Self::Internal => Side::Weir,
            Self::TunnelTimeout => Side::Both,
        })
    }

    /// Where it came about. None: nothing was amiss.
    pub const fn layer(self) -> Option<Layer> {
        Some(match self {
            Self::Ok | Self::Answered => return None,
            Self::ClientTimeoutHead
            | Self::ClientBadRequest
            | Self::ClientTooLarge
            | Self::ClientTargetTooLong
            | Self::ClientBodyTooLarge
            | Self::ClientUnsupported
            | Self::ClientFlood
            | Self::ProxyUnexpected
            | Self::HelloPlain
            | Self::HelloBroken
            | Self::HelloTimeout
            | Self::HelloUnrouted
            | Self::BackendTimeoutResponse
            | Self::BackendReset
            | Self::BackendBadResponse
            | Self::BackendStatus
            | Self::Loop => Layer::L7,
            Self::TlsPlain
            | Self::TlsBroken
            | Self::TlsUnagreed
            | Self::TlsUnknownName
            | Self::TlsClientCertificate
            | Self::TlsAlert
            | Self::TlsTimeout
            | Self::BackendTls
            | Self::BackendCertificate
            | Self::BackendTimeoutTls
            | Self::BackendNoHttp2
            | Self::LimitHandshakes => Layer::L6,
            Self::ClientClosed
            | Self::ClientTimeout
            | Self::ProxyMissing
            | Self::ProxyBroken
            | Self::ProxyTimeout
            | Self::LimitConnections
            | Self::LimitTotal
            | Self::LimitMemory
            | Self::NoBackend
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::PortsExhausted
            | Self::BackendRefused
            | Self::BackendUnreachable
            | Self::BackendTimeoutConnect
            | Self::BackendTimeout
            | Self::BackendClosedEarly
            | Self::BackendCut
            | Self::TunnelTimeout
            | Self::Drained
            | Self::Internal => Layer::L4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_in_order() {
        for (i, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, i);
            assert!(!reason.meaning().is_empty());
            assert_eq!(
                Reason::ALL
                    .iter()
                    .filter(|r| r.as_str() == reason.as_str())
                    .count(),
                1
            );
        }
        for (i, cause) in Cause::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, i);
            assert_eq!(
                Cause::ALL.iter().filter(|c| c.as_str() == cause.as_str()).count(),
                1
            );
        }
    }
}
