//! What an HTTP service changes of messages, and what it answers itself.
//!
//! Owns the types and what they promise to whoever applies them. How they are written is `weir-config`'s, what they do
//! to a message `weir-relay`'s.

use std::sync::Arc;

use crate::ids::PoolName;

/// What tells backends the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forwarded {
    /// `X-Forwarded-For`, appended.
    XForwardedFor,
    /// `Forwarded` (RFC 7239), appended.
    Rfc7239,
    /// Both.
    Both,
    /// Neither; what the client sent passes as it is.
    Off,
}

/// A further field that tells backends of the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ForwardedField {
    /// `X-Forwarded-Proto`: the scheme that the client used.
    Proto,
    /// `X-Forwarded-Host`: `Host` as the client sent it.
    Host,
    /// `X-Forwarded-Port`: the port that the client connected to.
    Port,
    /// `X-Real-IP`: the address of the client behind all trusted proxies.
    RealIp,
}

impl ForwardedField {
    /// Every field with its name as it is written.
    pub const ALL: [(&'static str, Self); 4] = [
        ("X-Forwarded-Proto", Self::Proto),
        ("X-Forwarded-Host", Self::Host),
        ("X-Forwarded-Port", Self::Port),
        ("X-Real-IP", Self::RealIp),
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proto => "X-Forwarded-Proto",
            Self::Host => "X-Forwarded-Host",
            Self::Port => "X-Forwarded-Port",
            Self::RealIp => "X-Real-IP",
        }
    }
}

/// Which messages weir names itself in (RFC 9110 section 7.6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Via {
    /// Requests: what a gateway must do.
    Requests,
    /// Requests and responses.
    Both,
    /// None.
    Off,
}

impl Via {
    /// As in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Both => "both",
            Self::Off => "off",
        }
    }
}

/// One change of a message's header section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeaderRule {
    /// Field name, a token, in the case given.
    pub name: String,
    /// What is done to it.
    pub action: HeaderAction,
}

/// What a header rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeaderAction {
    /// All fields of that name are replaced by one.
    Set(Template),
    /// One field is added after those present.
    Append(Template),
    /// All fields of that name are taken out.
    Remove,
    /// In all fields of that name, a text is replaced by another.
    Replace(Replacement<Template>),
}

/// Every occurrence of a text gives way to another. What comes of it is not looked through again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replacement<T> {
    /// What is looked for, byte for byte. Not empty.
    pub find: String,
    /// What comes in its place.
    pub with: T,
}

/// A value with variables, parsed: `{node.name}`, `{client.address}`, …
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Template {
    /// Its parts, in order.
    pub parts: Vec<TemplatePart>,
}

impl Template {
    /// Whether one of its variables is among these.
    pub fn uses(&self, variables: &[Variable]) -> bool {
        self.parts.iter().any(|part| match part {
            TemplatePart::Variable(variable) => variables.contains(variable),
            TemplatePart::Literal(_)
            | TemplatePart::RequestField(_)
            | TemplatePart::ResponseField(_)
            | TemplatePart::ClientExtension(_) => false,
        })
    }

    /// Whether it speaks of the request.
    pub fn uses_request(&self) -> bool {
        self.parts.iter().any(|part| match part {
            TemplatePart::Variable(variable) => variable.is_of_request(),
            TemplatePart::RequestField(_) => true,
            TemplatePart::Literal(_) | TemplatePart::ResponseField(_) | TemplatePart::ClientExtension(_) => {
                false
            }
        })
    }

    /// The text, if it has no variables.
    pub fn as_literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [TemplatePart::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// A part of a [`Template`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TemplatePart {
    /// Bytes as they stand: visible ASCII, space, tab.
    Literal(String),
    /// What a variable stands for.
    Variable(Variable),
    /// `{request.header.NAME}`: the values of the request's fields of that name, as they came, joined by `, `.
    RequestField(String),
    /// `{response.header.NAME}`: the same of the response. Only in what is done to responses.
    ResponseField(String),
    /// `{tls.client.extension.OID}`: an extension of the client's certificate: its text if it is a string of ASN.1, else its
    /// DER in hexadecimal. Empty if there is none.
    ClientExtension(String),
}

/// Variables.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Variable {
    /// `{node.name}`
    NodeName,
    /// `{service.name}`
    ServiceName,
    /// `{pool.name}`
    PoolName,
    /// `{client.address}`: without port.
    ClientAddress,
    /// `{client.port}`
    ClientPort,
    /// `{client.real_address}`: of the client behind all trusted proxies.
    ClientRealAddress,
    /// `{server.address}`: the address the client connected to.
    ServerAddress,
    /// `{server.port}`
    ServerPort,
    /// `{backend.name}`: empty in a response of weir's own.
    BackendName,
    /// `{backend.address}`: with port.
    BackendAddress,
    /// `{request.id}`
    RequestId,
    /// `{request.method}`
    RequestMethod,
    /// `{request.scheme}`
    RequestScheme,
    /// `{request.host}`: the host that the request is for, without port.
    RequestHost,
    /// `{request.authority}`: the same with the port, if one was sent.
    RequestAuthority,
    /// `{request.target}`: path and query, as they came.
    RequestTarget,
    /// `{request.path}`: begins with a slash; empty for `*`.
    RequestPath,
    /// `{request.query}`: without the question mark.
    RequestQuery,
    /// `{request.version}`: `1.0` or `1.1`.
    RequestVersion,
    /// `{tls.version}`: `1.2` or `1.3`.
    TlsVersion,
    /// `{tls.cipher}`: the cipher suite, by the name that IANA has for it.
    TlsCipher,
    /// `{tls.sni}`: the name that the client asked for; empty if it asked for none.
    TlsSni,
    /// `{tls.alpn}`: the protocol that was agreed on; empty if none was.
    TlsAlpn,
    /// `{tls.resumed}`: `yes` or `no`.
    TlsResumed,
    /// `{tls.client.…}`: of the certificate that the client has shown; empty if it has shown none.
    TlsClient(ClientFact),
    /// `{response.status}`: only in what is done to responses.
    ResponseStatus,
    /// `{match.rest}`: what of the path follows the matched prefix; only where a prefix was matched.
    MatchRest,
}

impl Variable {
    /// Every variable with its name.
    pub const ALL: [(&'static str, Self); 38] = [
        ("node.name", Self::NodeName),
        ("service.name", Self::ServiceName),
        ("pool.name", Self::PoolName),
        ("client.address", Self::ClientAddress),
        ("client.port", Self::ClientPort),
        ("client.real_address", Self::ClientRealAddress),
        ("server.address", Self::ServerAddress),
        ("server.port", Self::ServerPort),
        ("backend.name", Self::BackendName),
        ("backend.address", Self::BackendAddress),
        ("request.id", Self::RequestId),
        ("request.method", Self::RequestMethod),
        ("request.scheme", Self::RequestScheme),
        ("request.host", Self::RequestHost),
        ("request.authority", Self::RequestAuthority),
        ("request.target", Self::RequestTarget),
        ("request.path", Self::RequestPath),
        ("request.query", Self::RequestQuery),
        ("request.version", Self::RequestVersion),
        ("tls.version", Self::TlsVersion),
        ("tls.cipher", Self::TlsCipher),
        ("tls.sni", Self::TlsSni),
        ("tls.alpn", Self::TlsAlpn),
        ("tls.resumed", Self::TlsResumed),
        ("tls.client.verify", Self::TlsClient(ClientFact::Verify)),
        ("tls.client.subject", Self::TlsClient(ClientFact::Subject)),
        ("tls.client.issuer", Self::TlsClient(ClientFact::Issuer)),
        (
            "tls.client.subject_slashes",
            Self::TlsClient(ClientFact::SubjectSlashes),
        ),
        (
            "tls.client.issuer_slashes",
            Self::TlsClient(ClientFact::IssuerSlashes),
        ),
        ("tls.client.common_name", Self::TlsClient(ClientFact::CommonName)),
        (
            "tls.client.alternative_names",
            Self::TlsClient(ClientFact::AlternativeNames),
        ),
        ("tls.client.serial", Self::TlsClient(ClientFact::Serial)),
        ("tls.client.fingerprint", Self::TlsClient(ClientFact::Fingerprint)),
        ("tls.client.not_before", Self::TlsClient(ClientFact::NotBefore)),
        ("tls.client.not_after", Self::TlsClient(ClientFact::NotAfter)),
        ("tls.client.certificate", Self::TlsClient(ClientFact::Certificate)),
        ("response.status", Self::ResponseStatus),
        ("match.rest", Self::MatchRest),
    ];

    /// Those that speak of the backend, and so differ from try to try.
    pub const OF_BACKEND: [Self; 2] = [Self::BackendName, Self::BackendAddress];

    /// Whether it speaks of TLS with the client.
    pub const fn is_of_tls(self) -> bool {
        matches!(
            self,
            Self::TlsVersion
                | Self::TlsCipher
                | Self::TlsSni
                | Self::TlsAlpn
                | Self::TlsResumed
                | Self::TlsClient(_)
        )
    }

    /// Those that speak of the address that the client connected to.
    pub const OF_SERVER: [Self; 2] = [Self::ServerAddress, Self::ServerPort];

    /// Its name, without braces.
    pub fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(_, known)| *known == self);
        entry.map_or("", |(name, _)| name)
    }

    /// Whether it can be told from the request's head alone. (The id is made for it, and kept.)
    pub const fn is_of_request(self) -> bool {
        match self {
            Self::ClientRealAddress
            | Self::RequestMethod
            | Self::RequestHost
            | Self::RequestAuthority
            | Self::RequestTarget
            | Self::RequestPath
            | Self::RequestQuery
            | Self::RequestVersion
            | Self::MatchRest => true,
            Self::NodeName
            | Self::ServiceName
            | Self::PoolName
            | Self::ClientAddress
            | Self::ClientPort
            | Self::ServerAddress
            | Self::ServerPort
            | Self::BackendName
            | Self::BackendAddress
            | Self::RequestId
            | Self::RequestScheme
            | Self::TlsVersion
            | Self::TlsCipher
            | Self::TlsSni
            | Self::TlsAlpn
            | Self::TlsResumed
            | Self::TlsClient(_)
            | Self::ResponseStatus => false,
        }
    }
}

/// What a client's certificate says, and what is found of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ClientFact {
    /// `{tls.client.verify}`: whether it holds: `ok`, `failed:` and why it does not, `none` if none was shown.
    Verify,
    /// `{tls.client.subject}`: its subject, as RFC 4514 writes it: `CN=client,O=Example`.
    Subject,
    /// `{tls.client.issuer}`: its issuer in that form.
    Issuer,
    /// `{tls.client.subject_slashes}`: its subject with slashes: `/O=Example/CN=client`.
    SubjectSlashes,
    /// `{tls.client.issuer_slashes}`: its issuer in that form.
    IssuerSlashes,
    /// `{tls.client.common_name}`: the last common name of its subject.
    CommonName,
    /// `{tls.client.alternative_names}`: its alternative names, each with its kind, joined by commas: `DNS:client.example`.
    AlternativeNames,
    /// `{tls.client.serial}`: its serial number in hexadecimal, upper case.
    Serial,
    /// `{tls.client.fingerprint}`: its SHA-256 in hexadecimal, lower case.
    Fingerprint,
    /// `{tls.client.not_before}`: when it begins, as RFC 3339 writes it.
    NotBefore,
    /// `{tls.client.not_after}`: when it ends, in that form.
    NotAfter,
    /// `{tls.client.certificate}`: all of it: DER in base64.
    Certificate,
}

/// What becomes of a request's target and `Host`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// What becomes of the path.
    pub path: PathRewrite,
    /// Texts replaced in the path after that, in order. Of bytes that may stand in a path.
    pub replace: Vec<Replacement<String>>,
    /// What the query becomes; an empty one goes with its question mark. None: it stays.
    pub query: Option<Template>,
    /// What becomes of `Host`.
    pub host: HostRewrite,
}

impl Rewrite {
    /// Whether the target is another afterwards, or can be.
    pub fn changes_target(&self) -> bool {
        self.path != PathRewrite::Keep || !self.replace.is_empty() || self.query.is_some()
    }

    /// Every template in it.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        let path = match &self.path {
            PathRewrite::Keep => None,
            PathRewrite::Prefix { add, .. } => Some(add),
            PathRewrite::Whole(path) => Some(path),
        };
        let host = match &self.host {
            HostRewrite::Keep | HostRewrite::Backend => None,
            HostRewrite::Set(host) => Some(host),
        };
        path.into_iter().chain(&self.query).chain(host)
    }
}

/// What becomes of a path.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum PathRewrite {
    /// It stays, byte for byte.
    #[default]
    Keep,
    /// One prefix goes, another comes; what is between stays byte for byte.
    Prefix {
        /// Taken off where it is there, in whole segments. Empty: nothing is.
        strip: PathPattern,
        /// Put in front. Empty, or begins with a slash and does not end with one.
        add: Template,
    },
    /// It becomes this. Begins with a slash, or with a variable whose value does.
    Whole(Template),
}

/// What becomes of `Host`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum HostRewrite {
    /// It stays as the client sent it.
    #[default]
    Keep,
    /// The backend's address and port.
    Backend,
    /// This, if it makes a host; else the request is refused.
    Set(Template),
}

/// A path, or the beginning of one, to compare with: unreserved characters are not percent-encoded in it, the digits of
/// what is are capitals, no slash follows another, and no segment is `.` or `..`. Begins with a slash, but for the empty
/// pattern.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathPattern(String);

impl PathPattern {
    /// A pattern of a text that is one already.
    pub fn new(normal: impl Into<String>) -> Self {
        Self(normal.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A rule of a service: the first whose conditions hold decides what becomes of a request.
#[derive(Clone, PartialEq, Debug)]
pub struct Rule {
    /// When it holds.
    pub conditions: Conditions,
    /// What follows.
    pub action: RuleAction,
}

/// When a rule holds: all kinds of conditions that are set must, each by one of its values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    /// Hosts, without port, in lower case; `*.` in front stands for any subdomain. Empty: any.
    pub host: Vec<String>,
    /// Whole paths. Empty: any.
    pub path: Vec<PathPattern>,
    /// Beginnings of paths, in whole segments: `/a` holds for `/a` and `/a/b`, not for `/ab`. Never beside `path`.
    pub path_prefix: Vec<PathPattern>,
    /// Methods. Empty: any.
    pub method: Vec<String>,
    /// Header fields; each of them must be as it says. Empty: any.
    pub header: Vec<FieldCondition>,
    /// Facts of TLS with the client; each of them must be as it says. Empty: any.
    pub variable: Vec<VariableCondition>,
}

/// What a variable must be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VariableCondition {
    /// One of TLS, or an extension of the client's certificate.
    pub variable: TemplatePart,
    /// What it must be, byte for byte. Any: it is not empty.
    pub value: FieldValue,
}

/// What a header field must be like: one field of that name at least must match.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldCondition {
    /// The field's name, whatever its case.
    pub name: String,
    /// What its value must be, byte for byte.
    pub value: FieldValue,
}

/// What the value of a field must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FieldValue {
    /// Anything: the field is there.
    Any,
    /// One of these.
    OneOf(Vec<String>),
    /// It begins with one of these.
    Prefix(Vec<String>),
}

impl Conditions {
    /// Whether they hold for every request.
    pub fn hold_always(&self) -> bool {
        self.host.is_empty()
            && self.path.is_empty()
            && self.method.is_empty()
            && self.header.is_empty()
            && (self.path_prefix.is_empty() || self.path_prefix.iter().any(|p| p.as_str() == "/"))
    }
}

/// What becomes of a request that a rule holds for.
#[derive(Clone, PartialEq, Debug)]
pub enum RuleAction {
    /// It goes to a pool.
    Relay(Relayed),
    /// It is redirected.
    Redirect(Redirect),
    /// It is answered.
    Respond(Respond),
}

/// `[services.NAME.websocket]`: how closely WebSocket handshakes are looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WebSocket {
    /// Handshakes that RFC 6455 does not allow are refused, on both sides.
    pub strict: bool,
    /// Subprotocols that may be asked for; tokens, of which case counts. None: any.
    pub protocols: Option<Vec<String>>,
}

impl WebSocket {
    /// Whether handshakes are to be looked at.
    pub fn looks(&self) -> bool {
        self.strict || self.protocols.is_some()
    }
}

/// Where a request goes that a rule has chosen for, and how.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Relayed {
    /// The pool. None: the service's.
    pub pool: Option<PoolName>,
    /// How it is rewritten. None: as the service says.
    pub rewrite: Option<Rewrite>,
}

/// A redirect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// `Location`. Begins with `http://`, `https://`, a slash, or a variable whose value does with a slash.
    pub to: Template,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A response of the operator's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The body; none where the status allows none.
    pub body: Arc<str>,
    /// Its media type; None without a body.
    pub content_type: Option<String>,
    /// Further fields.
    pub headers: Vec<(String, Template)>,
}
