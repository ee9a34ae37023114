//! The words for how a request or connection ended, and for what goes wrong with a backend.
//!
//! One list each, used alike by the access log, the metrics and the documentation. Which error leads to which reason is
//! said in `fault`.

use std::fmt;

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

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// How a request (or a connection in TCP mode, or after an upgrade) ended.
    Reason {
        /// The response was relayed whole; in TCP mode both sides ended in order.
        Ok = "ok",
        /// The client went away before it had its response, or in the middle of its request.
        ClientClosed = "client-closed",
        /// The client did not finish its request head in time.
        ClientTimeoutHead = "client-timeout-head",
        /// The client was silent for too long: no request body, or it does not read the response.
        ClientTimeout = "client-timeout",
        /// The request is malformed or ambiguous.
        ClientBadRequest = "client-bad-request",
        /// The request head (or its target, or the number of its fields) is too large.
        ClientTooLarge = "client-head-too-large",
        /// The request body is larger than the service allows.
        ClientBodyTooLarge = "client-body-too-large",
        /// The request asks for something weir does not do: a method, a transfer coding, a version.
        ClientUnsupported = "client-unsupported",
        /// The service has as many connections as it may have.
        LimitConnections = "limit-connections",
        /// No backend of the pool may be used.
        NoBackend = "no-backend",
        /// Every backend tried refused the connection.
        BackendRefused = "backend-refused",
        /// No way to any backend tried (no route, host unreachable).
        BackendUnreachable = "backend-unreachable",
        /// No backend tried accepted the connection in time.
        BackendTimeoutConnect = "backend-timeout-connect",
        /// The backend did not answer in time.
        BackendTimeoutResponse = "backend-timeout-response",
        /// The backend fell silent in the middle of its response, or does not read the request.
        BackendTimeout = "backend-timeout",
        /// The backend closed the connection before a response head was whole.
        BackendClosedEarly = "backend-closed-early",
        /// The backend broke off in the middle of its response.
        BackendCut = "backend-cut",
        /// The backend's response is malformed, ambiguous or too large in its head.
        BackendBadResponse = "backend-bad-response",
        /// The tunnel was silent in both directions for too long.
        TunnelTimeout = "tunnel-timeout",
        /// weir was draining and the time for it ran out.
        Drained = "drained",
        /// weir itself or its system could not do it (no descriptors, no ports, no memory).
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
        /// It did not answer, or went silent, or did not read for too long.
        Timeout = "timeout",
        /// It closed before a response was whole.
        Closed = "closed",
        /// A pooled connection was found closed when it was used again; the request went out on another.
        Stale = "stale",
        /// Its response was malformed.
        BadResponse = "bad-response",
        /// No socket could be had for it on this side.
        Local = "local",
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
