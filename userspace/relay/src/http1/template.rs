//! Variables: what they stand for, and how they are written where bytes have a meaning of their own.
//!
//! A value that comes from a client is written as it stands in a header field, whose bytes were checked when it was
//! parsed. In a path, a query or a `Location` it is percent-encoded, so that it can't end what it stands in; only what
//! is a part of a target already stays as it is.

use std::{io::Write, net::SocketAddr, sync::Arc};

use weir_core::plan::{self, FieldValue, Service, Template, TemplatePart, Variable, VariableCondition};

use crate::tls::TlsFacts;

use super::{
    forwarded::{self, Trust},
    path,
    request::Request,
    response::Response,
};

/// A head that rules have made longer than this is refused: templates multiply what a client sends.
pub const WRITTEN_MOST: usize = 2 << 20;

/// What variables stand for.
pub struct Variables<'a> {
    /// The box's name.
    pub node: &'a Arc<str>,
    /// The service.
    pub service: &'a Service,
    /// The pool that the request is for. Empty: none.
    pub pool: &'a str,
    /// The client.
    pub client: SocketAddr,
    /// Where the client connected to. None if nobody asks for it, or the system would not say.
    pub server: Option<SocketAddr>,
    /// What the client's TLS handshake came to. None: it does without TLS.
    pub tls: Option<&'a TlsFacts>,
    /// A trusted proxy in front tells that the client came to it over TLS.
    pub told_secure: bool,
    /// The backend; None in a response of weir's own.
    pub backend: Option<&'a plan::Backend>,
    /// The request's id; empty if it has none.
    pub id: &'a [u8],
    /// The request, and whose word counts about it. None if it could not be read, or nobody asks for it.
    pub request: Option<(&'a Request<'a, 'a>, Trust<'a>)>,
    /// What of the request's path follows the prefix that its rule has matched.
    pub rest: &'a str,
    /// The response; None in a request, and in a response of weir's own.
    pub response: Option<&'a Response<'a, 'a>>,
}

/// What a template is a value of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A header field.
    Field,
    /// A path.
    Path,
    /// A query.
    Query,
    /// `Location`: a reference, whose query begins at the first question mark of the template's own.
    Location,
}

impl Variables<'_> {
    /// Writes a value.
    ///
    /// Stops once `out` is beyond [`WRITTEN_MOST`], which the caller looks for.
    pub(super) fn template(&self, out: &mut Vec<u8>, template: &Template, place: Place) {
        self.parts(out, &template.parts, place);
    }

    fn parts(&self, out: &mut Vec<u8>, parts: &[TemplatePart], place: Place) {
        let mut place = place;
        for part in parts {
            if out.len() > WRITTEN_MOST {
                return;
            }
            let from = out.len();
            match part {
                TemplatePart::Literal(text) => {
                    out.extend_from_slice(text.as_bytes());
                    if place == Place::Location && text.contains('?') {
                        place = Place::Query;
                    }
                }
                TemplatePart::Variable(variable) => {
                    self.variable(out, *variable);
                    escape(out, from, how(place, *variable));
                }
                TemplatePart::ClientExtension(oid) => {
                    if let Some(shown) = self.tls.and_then(|tls| tls.client.as_ref()) {
                        shown.extension(oid, |value| out.extend_from_slice(value.as_bytes()));
                    }
                    escape(out, from, how_foreign(place));
                }
                TemplatePart::RequestField(name) => {
                    if let Some((request, trust)) = self.request {
                        let passed = (0..).zip(request.fields).filter(|(at, _)| {
                            !request.dropped.contains(*at)
                                && (!request.forwarded.contains(*at) || trust.believes())
                        });
                        values(out, passed.map(|(_, field)| field), name);
                    }
                    escape(out, from, how_foreign(place));
                }
                TemplatePart::ResponseField(name) => {
                    if let Some(response) = self.response {
                        values(out, response.fields.iter(), name);
                    }
                    escape(out, from, how_foreign(place));
                }
            }
        }
    }

    /// Whether a variable is as a condition says.
    pub(super) fn holds(&self, condition: &VariableCondition) -> bool {
        let mut value = Vec::new();
        let template = std::slice::from_ref(&condition.variable);
        self.parts(&mut value, template, Place::Field);
        match &condition.value {
            FieldValue::Any => !value.is_empty(),
            FieldValue::OneOf(all) => all.iter().any(|one| one.as_bytes() == value),
            FieldValue::Prefix(all) => all.iter().any(|one| value.starts_with(one.as_bytes())),
        }
    }

    /// What the client speaks to weir, or to the proxy that weir hears of it from.
    pub(super) const fn scheme(&self) -> &'static str {
        match (self.tls, self.told_secure) {
            (Some(_), _) | (None, true) => "https",
            (None, false) => "http",
        }
    }

    /// Writes the backend's address and port, as `Host` has them.
    pub(super) fn backend_authority(&self, out: &mut Vec<u8>) {
        self.number(out, Variable::BackendAddress);
    }

    /// Where the request goes.
    fn backend_address(&self) -> Option<SocketAddr> {
        let backend = self.backend?;
        if backend.is_original_destination() {
            self.server
        } else {
            Some(backend.key.address)
        }
    }

    fn variable(&self, out: &mut Vec<u8>, variable: Variable) {
        let request = self.request.map(|(request, _)| request);
        let text: &[u8] = match variable {
            Variable::NodeName => self.node.as_bytes(),
            Variable::ServiceName => self.service.name.as_str().as_bytes(),
            Variable::PoolName => self.pool.as_bytes(),
            Variable::BackendName => self.backend.map_or(b"", |b| b.name.as_bytes()),
            Variable::RequestId => self.id,
            Variable::RequestScheme => self.scheme().as_bytes(),
            Variable::TlsVersion => self.tls.map_or(b"", |tls| tls.version.as_bytes()),
            Variable::TlsCipher => self.tls.map_or(b"", |tls| tls.cipher.as_bytes()),
            Variable::TlsSni => self.tls.map_or(b"", |tls| tls.sni.as_bytes()),
            Variable::TlsAlpn => self.tls.map_or(b"", |tls| &tls.alpn),
            Variable::TlsResumed => self.tls.map_or(b"", |tls| match tls.resumed {
                true => b"yes",
                false => b"no",
            }),
            Variable::TlsClient(fact) => self.tls.map_or(b"", |tls| tls.fact(fact).as_bytes()),
            Variable::RequestMethod => request.map_or(b"", |r| r.method.as_bytes()),
            Variable::RequestHost => request.map_or(b"", |r| path::host(path::authority(r))),
            Variable::RequestAuthority => request.map_or(b"", path::authority),
            Variable::RequestPath => request.map_or(b"", |r| path::parts(&r.target).0.as_bytes()),
            Variable::RequestQuery => request
                .and_then(|r| path::parts(&r.target).1)
                .map_or(b"", str::as_bytes),
            Variable::RequestTarget => {
                let Some(request) = request else { return };
                let (path, query) = path::parts(&request.target);
                out.extend_from_slice(path.as_bytes());
                if let Some(query) = query {
                    out.push(b'?');
                    out.extend_from_slice(query.as_bytes());
                }
                return;
            }
            Variable::RequestVersion => match request {
                Some(request) => request.version.as_str().as_bytes(),
                None => b"",
            },
            Variable::MatchRest => self.rest.as_bytes(),
            Variable::ClientAddress
            | Variable::ClientPort
            | Variable::ClientRealAddress
            | Variable::ServerAddress
            | Variable::ServerPort
            | Variable::BackendAddress
            | Variable::ResponseStatus => return self.number(out, variable),
        };
        out.extend_from_slice(text);
    }

    fn number(&self, out: &mut Vec<u8>, variable: Variable) {
        let address = |out: &mut Vec<u8>, at: SocketAddr| write!(out, "{}", at.ip().to_canonical());
        // Writing to a Vec can't fail.
        let _ = match variable {
            Variable::ClientAddress => address(out, self.client),
            Variable::ClientPort => write!(out, "{}", self.client.port()),
            Variable::ClientRealAddress => {
                let real = self.request.map_or_else(
                    || self.client.ip(),
                    |(request, trust)| forwarded::origin(request, trust, self.client.ip()),
                );
                write!(out, "{}", real.to_canonical())
            }
            Variable::ServerAddress => self.server.map_or(Ok(()), |at| address(out, at)),
            Variable::ServerPort => self.server.map_or(Ok(()), |at| write!(out, "{}", at.port())),
            Variable::BackendAddress => self.backend_address().map_or(Ok(()), |at| write!(out, "{at}")),
            Variable::ResponseStatus => self.response.map_or(Ok(()), |r| write!(out, "{}", r.status)),
            Variable::NodeName
            | Variable::ServiceName
            | Variable::PoolName
            | Variable::BackendName
            | Variable::RequestId
            | Variable::RequestScheme
            | Variable::TlsVersion
            | Variable::TlsCipher
            | Variable::TlsSni
            | Variable::TlsAlpn
            | Variable::TlsResumed
            | Variable::TlsClient(_)
            | Variable::RequestMethod
            | Variable::RequestHost
            | Variable::RequestAuthority
            | Variable::RequestPath
            | Variable::RequestQuery
            | Variable::RequestTarget
            | Variable::RequestVersion
            | Variable::MatchRest => Ok(()),
        };
    }
}

/// The values of all fields of a name, joined as RFC 9110 section 5.3 says.
fn values<'f>(out: &mut Vec<u8>, fields: impl Iterator<Item = &'f httparse::Header<'f>>, name: &str) {
    let mut first = true;
    for field in fields.filter(|f| f.name.eq_ignore_ascii_case(name)) {
        if !first {
            out.extend_from_slice(b", ");
        }
        first = false;
        out.extend_from_slice(field.value);
    }
}

/// Which bytes of a value are percent-encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Escape {
    None,
    /// Those that no URI may hold: what clients send unescaped is more than RFC 3986 allows.
    Stray,
    /// All but unreserved ones (RFC 3986 section 2.3).
    Reserved,
}

const fn how(place: Place, variable: Variable) -> Escape {
    match (place, variable) {
        (Place::Field, _)
        | (Place::Path, Variable::RequestPath | Variable::MatchRest)
        | (Place::Query, Variable::RequestQuery) => Escape::None,
        (
            Place::Location,
            Variable::RequestPath
            | Variable::RequestQuery
            | Variable::RequestTarget
            | Variable::RequestHost
            | Variable::RequestAuthority
            | Variable::MatchRest,
        ) => Escape::Stray,
        (Place::Path | Place::Query | Place::Location, _) => Escape::Reserved,
    }
}

const fn how_foreign(place: Place) -> Escape {
    match place {
        Place::Field => Escape::None,
        Place::Path | Place::Query | Place::Location => Escape::Reserved,
    }
}

/// Percent-encodes what stands in `out` from `from` on.
fn escape(out: &mut Vec<u8>, from: usize, how: Escape) {
    let strange = |byte: u8| match how {
        Escape::None => false,
        Escape::Stray => !byte.is_ascii_graphic() || b"\"<>\\^`{|}".contains(&byte),
        Escape::Reserved => !path::is_unreserved(byte),
    };
    let end = out.len();
    if how == Escape::None
        || !out
            .get(from..)
            .is_some_and(|value| value.iter().any(|b| strange(*b)))
    {
        return;
    }
    for at in from..end {
        let byte = out.get(at).copied().unwrap_or_default();
        if strange(byte) {
            let digit = |n: u8| if n < 10 { b'0' + n } else { b'A' + n - 10 };
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
    out.drain(from..end);
}

/// Replaces every occurrence of `find` in what stands in `out` from `from` on by what `with` writes.
///
/// Stops once `out` is beyond [`WRITTEN_MOST`], which the caller looks for.
pub(super) fn replace(out: &mut Vec<u8>, from: usize, find: &str, with: impl Fn(&mut Vec<u8>)) {
    let find = memchr::memmem::Finder::new(find.as_bytes());
    let step = find.needle().len().max(1);
    let end = out.len();
    let next = |out: &[u8], at: usize| out.get(at..end).and_then(|rest| find.find(rest)).map(|n| at + n);
    let Some(mut hit) = next(out, from) else { return };
    let mut at = from;
    loop {
        out.extend_from_within(at..hit);
        with(out);
        at = hit + step;
        match next(out, at) {
            Some(another) if out.len() <= WRITTEN_MOST => hit = another,
            Some(_) | None => break,
        }
    }
    out.extend_from_within(at..end);
    out.drain(from..end);
}
