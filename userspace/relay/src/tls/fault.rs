//! Every way in which TLS with a client fails.

use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use weir_tls::NoSignature;

use crate::reason::Reason;

/// What went wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TlsFault {
    /// The client spoke HTTP, or something else that is no TLS.
    Plain,
    /// What it sent breaks a rule of TLS.
    Broken,
    /// There is no version, suite, group or protocol that both have.
    Unagreed,
    /// It asked for a name that no certificate is for, and such are refused.
    UnknownName,
    /// It has no certificate, or one that does not hold.
    Certificate,
    /// It broke off with an alert.
    Alert,
    /// The handshake took too long.
    Timeout,
    /// As many handshakes are under way as may be.
    Limit,
    /// It could not be done here: no key to sign with.
    Internal,
}

impl TlsFault {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 9] = [
        Self::Plain,
        Self::Broken,
        Self::Unagreed,
        Self::UnknownName,
        Self::Certificate,
        Self::Alert,
        Self::Timeout,
        Self::Limit,
        Self::Internal,
    ];

    pub(crate) const fn reason(self) -> Reason {
        match self {
            Self::Plain => Reason::TlsPlain,
            Self::Broken => Reason::TlsBroken,
            Self::Unagreed => Reason::TlsUnagreed,
            Self::UnknownName => Reason::TlsUnknownName,
            Self::Certificate => Reason::TlsClientCertificate,
            Self::Alert => Reason::TlsAlert,
            Self::Timeout => Reason::TlsTimeout,
            Self::Limit => Reason::LimitHandshakes,
            Self::Internal => Reason::Internal,
        }
    }

    /// What an error of rustls means, and the particulars for the record.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what rustls adds later is no more than what stands for the rest"
    )]
    pub(super) fn of(error: &Error) -> (Self, &'static str) {
        match error {
            Error::PeerIncompatible(why) => (Self::Unagreed, incompatible(why)),
            Error::NoApplicationProtocol => (Self::Unagreed, "no common protocol (ALPN)"),
            Error::NoCertificatesPresented => (Self::Certificate, "no client certificate"),
            Error::InvalidCertificate(why) => (Self::Certificate, certificate(why)),
            Error::InvalidCertRevocationList(_) => (Self::Certificate, "no revocation list"),
            Error::AlertReceived(alert) => (Self::Alert, alert_word(*alert)),
            // What the resolver of certificates says by having none.
            Error::General(text) if text.contains("certificate chain") => {
                (Self::UnknownName, "no certificate for the name")
            }
            // Ours alone: what a client sends wrong has an error of its own.
            Error::Other(_) => (
                Self::Internal,
                NoSignature::of(error).map_or("signing failed", NoSignature::as_str),
            ),
            Error::General(_) | Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes => {
                (Self::Internal, "signing failed")
            }
            Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
                (Self::Broken, "message out of order")
            }
            Error::InvalidMessage(_) => (Self::Broken, "malformed message"),
            Error::DecryptError => (Self::Broken, "record can't be decrypted"),
            Error::PeerSentOversizedRecord => (Self::Broken, "record too large"),
            _ => (Self::Broken, "rules of TLS broken"),
        }
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what rustls adds later is no more than what stands for the rest"
)]
pub(super) const fn incompatible(why: &PeerIncompatible) -> &'static str {
    match why {
        PeerIncompatible::NoCipherSuitesInCommon => "no common cipher suite",
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::KeyShareExtensionRequired => "no common group",
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => "no common signature scheme",
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled => "no common version",
        PeerIncompatible::ExtendedMasterSecretExtensionRequired => "no extended master secret",
        _ => "nothing in common",
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what rustls adds later is no more than what stands for the rest"
)]
const fn certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "client certificate expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "client certificate not valid yet"
        }
        CertificateError::Revoked => "client certificate revoked",
        CertificateError::UnknownIssuer => "client certificate of an unknown issuer",
        CertificateError::UnknownRevocationStatus => "client certificate not covered by a revocation list",
        CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. } => {
            "revocation list expired"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "client certificate not for clients"
        }
        CertificateError::BadEncoding => "client certificate malformed",
        CertificateError::BadSignature => "client certificate's signature wrong",
        _ => "client certificate does not hold",
    }
}

/// The names of RFC 8446 section 6.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what rustls adds later is no more than what stands for the rest"
)]
pub(super) const fn alert_word(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CloseNotify => "close_notify",
        AlertDescription::UnexpectedMessage => "unexpected_message",
        AlertDescription::HandshakeFailure => "handshake_failure",
        AlertDescription::BadCertificate => "bad_certificate",
        AlertDescription::UnsupportedCertificate => "unsupported_certificate",
        AlertDescription::CertificateRevoked => "certificate_revoked",
        AlertDescription::CertificateExpired => "certificate_expired",
        AlertDescription::CertificateUnknown => "certificate_unknown",
        AlertDescription::IllegalParameter => "illegal_parameter",
        AlertDescription::UnknownCA => "unknown_ca",
        AlertDescription::AccessDenied => "access_denied",
        AlertDescription::DecodeError => "decode_error",
        AlertDescription::DecryptError => "decrypt_error",
        AlertDescription::ProtocolVersion => "protocol_version",
        AlertDescription::InsufficientSecurity => "insufficient_security",
        AlertDescription::InternalError => "internal_error",
        AlertDescription::UserCanceled => "user_canceled",
        AlertDescription::UnrecognisedName => "unrecognized_name",
        AlertDescription::NoApplicationProtocol => "no_application_protocol",
        _ => "an alert",
    }
}
