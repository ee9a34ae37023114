//! TLS with a backend, over a connection that is established: the handshake, and what it fails by.
//!
//! What a connection begins with besides (a PROXY header) has gone out before. How long it may take is whoever's that waits
//! for it.

use std::{
    cell::RefCell,
    io,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use rustls::{CertificateError, ClientConfig, Error, pki_types::ServerName};
use weir_tls::NoSignature;

use super::{
    Buffers, Gate,
    fault::{alert_word, incompatible},
    gate::Turn,
    serve::MESSAGE_MOST,
    stream::TlsStream,
};
use crate::{
    reason::{Cause, Trouble},
    stream::Socket,
    upstream::BackendSocket,
};

/// What a pool's backends are spoken to over TLS with.
#[derive(Clone, Debug)]
pub struct Back {
    /// How handshakes are made.
    pub config: Arc<ClientConfig>,
    /// The name that is asked for and verified. None: the backend's address is verified, and no name asked for.
    pub server_name: Option<ServerName<'static>>,
    /// HTTP/2 is to be agreed on; a backend that does not is of no use.
    pub http2: bool,
}

/// The same, of one backend and one worker.
pub(crate) struct Secure {
    /// What this was made from.
    from: Arc<Back>,
    /// With sessions that are this worker's with this backend.
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    tools: Tools,
}

/// What of a worker handshakes need.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) records: Rc<RefCell<Buffers>>,
    pub(crate) gate: Rc<Gate>,
}

/// A handshake under way.
pub(crate) struct Securing {
    secure: Rc<Secure>,
    stream: Box<TlsStream>,
    turn: Turn,
    begun: bool,
}

impl Secure {
    pub(crate) fn new(from: &Arc<Back>, address: IpAddr, tools: &Tools) -> Self {
        Self {
            config: weir_tls::for_server(&from.config),
            name: { from.server_name.clone() }.unwrap_or_else(|| ServerName::from(address)),
            from: Arc::clone(from),
            tools: tools.clone(),
        }
    }

    /// Whether it was made from this.
    pub(crate) fn is_of(&self, from: &Arc<Back>) -> bool {
        Arc::ptr_eq(&self.from, from)
    }

    /// Begins a handshake. Sends nothing yet.
    pub(crate) fn begin(self: &Rc<Self>, stream: BackendSocket) -> Result<Securing, Trouble> {
        let socket = Socket::Backend(stream);
        let (config, name) = (Arc::clone(&self.config), self.name.clone());
        let stream = TlsStream::to(config, name, socket, &self.tools.records);
        Ok(Securing {
            secure: Rc::clone(self),
            stream: Box::new(stream.map_err(|error| trouble(&error))?),
            turn: Turn::default(),
            begun: false,
        })
    }
}

impl Securing {
    /// Ready once the handshake is done, or has failed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        loop {
            // What is to be said goes before what is to be heard.
            ready!(self.stream.poll_flush(cx)).map_err(|_| CLOSED)?;
            if let Some(facts) = self.stream.facts() {
                let agreed = !self.secure.from.http2 || *facts.alpn == *b"h2";
                return Poll::Ready(if agreed { Ok(()) } else { Err(NO_HTTP2) });
            }
            if self.begun && !self.stream.is_due() {
                if ready!(self.stream.poll_more(cx)).map_err(|error| broken(&error))? == 0 {
                    return Poll::Ready(Err(CLOSED));
                }
                if self.stream.has_come().len() > MESSAGE_MOST {
                    return Poll::Ready(Err(Trouble::tls("message too large")));
                }
            }
            if self.turn.poll(cx, &self.secure.tools.gate).is_pending() {
                self.stream.set_due();
                return Poll::Pending;
            }
            let first = !std::mem::replace(&mut self.begun, true);
            if let Err(error) = self.stream.step() {
                // An alert, as far as it goes out at once.
                let _ = self.stream.poll_flush(&mut Context::from_waker(Waker::noop()));
                let no_tls = !first && !self.stream.was_tls() && !matches!(error, Error::AlertReceived(_));
                return Poll::Ready(Err(match no_tls {
                    true => Trouble::tls("no TLS"),
                    false => trouble(&error),
                }));
            }
        }
    }

    /// The connection, once it is ready.
    pub(crate) fn into_socket(self) -> Socket {
        Socket::Tls(self.stream)
    }
}

/// The backend ended the connection before the handshake was done.
const CLOSED: Trouble = Trouble::tls("closed in the handshake");

/// What an error of reading means: it is ourselves who hold too much, or the backend has gone.
fn broken(error: &io::Error) -> Trouble {
    match error.kind() == io::ErrorKind::OutOfMemory {
        true => Trouble {
            cause: Cause::Local,
            detail: Some("too much is held"),
        },
        false => CLOSED,
    }
}

/// It took part in the handshake, and chose no HTTP/2.
const NO_HTTP2: Trouble = Trouble {
    cause: Cause::Unagreed,
    detail: Some("no HTTP/2 (ALPN)"),
};

/// The alert that an error of a connection is due to: in TLS 1.3 a client that is refused learns it by its first read.
pub(crate) fn alert(error: &io::Error) -> Option<&'static str> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    if let Error::AlertReceived(alert) = error {
        return Some(alert_word(*alert));
    }
    None
}

/// What an error of rustls means.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what rustls adds later is no more than what stands for the rest"
)]
fn trouble(error: &Error) -> Trouble {
    let (cause, detail) = match error {
        Error::InvalidCertificate(why) => (Cause::Certificate, certificate(why)),
        Error::NoCertificatesPresented => (Cause::Certificate, "no certificate"),
        Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)
        | Error::NoApplicationProtocol => (Cause::Unagreed, "no common protocol (ALPN)"),
        Error::AlertReceived(alert) => (Cause::Tls, alert_word(*alert)),
        Error::PeerIncompatible(why) => (Cause::Tls, incompatible(why)),
        // Ours alone: what a backend sends wrong has an error of its own.
        Error::Other(_) => (
            Cause::Local,
            NoSignature::of(error).map_or("signing failed", NoSignature::as_str),
        ),
        Error::General(_) | Error::FailedToGetCurrentTime | Error::FailedToGetRandomBytes => {
            (Cause::Local, "no handshake can be made")
        }
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            (Cause::Tls, "message out of order")
        }
        Error::InvalidMessage(_) => (Cause::Tls, "malformed message"),
        Error::DecryptError => (Cause::Tls, "record can't be decrypted"),
        Error::PeerSentOversizedRecord => (Cause::Tls, "record too large"),
        _ => (Cause::Tls, "rules of TLS broken"),
    };
    Trouble {
        cause,
        detail: Some(detail),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what rustls adds later is no more than what stands for the rest"
)]
const fn certificate(why: &CertificateError) -> &'static str {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "certificate expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet"
        }
        CertificateError::UnknownIssuer => "certificate of an unknown issuer",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "certificate for another name"
        }
        CertificateError::Revoked => "certificate revoked",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate not for servers"
        }
        CertificateError::BadEncoding => "certificate malformed",
        CertificateError::BadSignature => "certificate's signature wrong",
        _ => "certificate does not hold",
    }
}
