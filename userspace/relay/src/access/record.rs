//! One access record, in the forms for people and for programs; that of HAProxy is `httplog`.
//!
//! Whatever a client sent is escaped: a record is always one line, whoever wrote the request.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer, ser::SerializeStruct};
use weir_core::plan::{self, ClientFact};

use super::text;

use crate::{
    http1::version::Version,
    phases::{Phase, Timers},
    reason::Reason,
    tls::TlsFacts,
};

/// What happened to one request, or to one connection in TCP mode.
#[derive(Clone)]
pub(crate) struct Record<'a> {
    /// The first byte of its head; in TCP mode, when the connection was accepted.
    pub(crate) time: SystemTime,
    pub(crate) mode: RecordMode,
    pub(crate) service: &'a str,
    /// The pool that it was for. Empty: none.
    pub(crate) pool: &'a str,
    /// The backend that answered, or the last one tried.
    pub(crate) backend: Option<&'a plan::Backend>,
    pub(crate) client: SocketAddr,
    /// The request's id, if it has one.
    pub(crate) id: Option<&'a str>,
    /// The name that the client asked for by SNI, of TLS that is passed on.
    pub(crate) sni: Option<&'a str>,
    /// Where the connection was going, if a transparent listener took it in.
    pub(crate) destination: Option<SocketAddr>,
    /// What the client's TLS handshake came to, if weir ends it.
    pub(crate) tls: Option<&'a TlsFacts>,
    /// None in TCP mode, and when the head could not be read.
    pub(crate) line: Option<&'a RequestLine>,
    /// The status the client was sent; None if none was.
    pub(crate) status: Option<u16>,
    /// From the client.
    pub(crate) bytes_in: u64,
    /// To the client.
    pub(crate) bytes_out: u64,
    pub(crate) timers: Timers,
    pub(crate) end: Reason,
    /// What it was in when it ended.
    pub(crate) phase: Phase,
    /// What was malformed, if something was.
    pub(crate) detail: Option<&'static str>,
    /// Tries beyond the first.
    pub(crate) retries: u32,
    /// Some of them went to another backend.
    pub(crate) moved: bool,
    /// The client's connection stays open.
    pub(crate) keep_alive: bool,
    /// The backend's connection had served before.
    pub(crate) reused: bool,
    /// What else there was at that moment, for the form that tells it.
    pub(crate) load: Load,
}

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordMode {
    Http,
    Tcp,
}

/// How busy the relay was, over all workers.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Load {
    /// Client connections open, of all services.
    pub(crate) connections: u64,
    /// Client connections open, of the service.
    pub(crate) service: u64,
    /// Other requests (or connections) that the pool had: waiting, and at backends.
    pub(crate) pool: u64,
    /// Other requests (or connections) that the backend had.
    pub(crate) backend: u64,
    /// Requests that waited already when this one came to wait.
    pub(crate) ahead: u32,
}

/// Method, target and version as they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RequestLine {
    bytes: Vec<u8>,
    method: usize,
    version: Version,
}

impl RequestLine {
    pub(crate) fn new(method: &[u8], target: &[u8], version: Version) -> Self {
        let mut bytes = Vec::with_capacity(method.len() + target.len());
        bytes.extend_from_slice(method);
        bytes.extend_from_slice(target);
        Self {
            bytes,
            method: method.len(),
            version,
        }
    }

    pub(super) fn method(&self) -> &[u8] {
        self.bytes.get(..self.method).unwrap_or_default()
    }

    pub(super) fn target(&self) -> &[u8] {
        self.bytes.get(self.method..).unwrap_or_default()
    }

    /// The version that it came in.
    pub(super) const fn version(&self) -> Version {
        self.version
    }
}

impl Record<'_> {
    /// The name that the client asked for, of TLS that is passed on or that ends here.
    fn sni(&self) -> Option<&str> {
        let own = self.tls.map(|tls| &*tls.sni);
        self.sni.or_else(|| own.filter(|sni| !sni.is_empty()))
    }

    /// Adds the record as a JSON object and a line end.
    pub(crate) fn json(&self, out: &mut Vec<u8>) {
        let before = out.len();
        // Writing to a Vec can't fail, and nothing below refuses to be serialised.
        if serde_json::to_writer(&mut *out, self).is_err() {
            out.truncate(before);
            return;
        }
        out.push(b'\n');
    }

    /// Adds the record as one line for people.
    pub(crate) fn human(&self, out: &mut Vec<u8>) {
        let Timers {
            idle: _,
            head,
            queue,
            connect,
            response,
            first_byte,
            total,
        } = self.timers;
        text::date(out, self.time);
        for name in [
            " ",
            self.service,
            " ",
            if self.pool.is_empty() { "-" } else { self.pool },
            "/",
            self.backend.map_or("-", |b| &b.name),
            " ",
        ] {
            out.extend_from_slice(name.as_bytes());
        }
        text::address(out, self.client);
        out.extend_from_slice(b" \"");
        text::escaped(out, self.line.map_or(b"-", RequestLine::method));
        out.push(b' ');
        text::escaped(out, self.line.map_or(b"-", RequestLine::target));
        out.extend_from_slice(b"\" ");
        match self.status {
            Some(status) => text::number(out, status.into()),
            None => out.push(b'-'),
        }
        for (name, bytes) in [(" in=", self.bytes_in), (" out=", self.bytes_out)] {
            out.extend_from_slice(name.as_bytes());
            text::number(out, bytes);
        }
        for (name, took) in [
            (" head=", head),
            (" queue=", queue),
            (" connect=", connect),
            (" response=", response),
            (" first_byte=", first_byte),
            (" total=", Some(total)),
        ] {
            out.extend_from_slice(name.as_bytes());
            text::micros(out, took);
        }
        out.push(b' ');
        out.extend_from_slice(self.end.as_str().as_bytes());
        if let Some(detail) = self.detail {
            for part in ["(", detail, ")"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if self.end.side().is_some() {
            for part in [" phase=", self.phase.as_str()] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if self.retries > 0 {
            out.extend_from_slice(b" retries=");
            text::number(out, self.retries.into());
        }
        if let Some(id) = self.id {
            out.extend_from_slice(b" id=");
            text::escaped(out, id.as_bytes());
        }
        if let Some(sni) = self.sni() {
            out.extend_from_slice(b" sni=");
            text::escaped(out, sni.as_bytes());
        }
        if let Some(destination) = self.destination {
            out.extend_from_slice(b" destination=");
            text::address(out, destination);
        }
        if let Some(tls) = self.tls {
            for part in [" tls=", tls.version] {
                out.extend_from_slice(part.as_bytes());
            }
            if tls.client.is_some() {
                for (name, fact) in [(" client=", ClientFact::Verify), (":", ClientFact::Subject)] {
                    out.extend_from_slice(name.as_bytes());
                    text::escaped(out, tls.fact(fact).as_bytes());
                }
            }
        }
        if self.keep_alive {
            out.extend_from_slice(b" keep-alive");
        }
        if self.reused {
            out.extend_from_slice(b" reused");
        }
        out.push(b'\n');
    }
}

/// The JSON form: native names, times in whole microseconds, null where there is nothing to say.
impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let ok = self.end.side().is_none();
        let mut out = s.serialize_struct("Record", FIELDS)?;
        let mut date = Vec::with_capacity(32);
        text::date(&mut date, self.time);
        out.serialize_field("time", &String::from_utf8_lossy(&date))?;
        out.serialize_field("mode", self.mode.as_str())?;
        out.serialize_field("service", self.service)?;
        let pool = Some(self.pool).filter(|pool| !pool.is_empty());
        out.serialize_field("pool", &pool)?;
        out.serialize_field("backend", &self.backend.map(|b| Text(b.key.address)))?;
        out.serialize_field("backend_name", &self.backend.map(|b| &*b.name))?;
        out.serialize_field("client", &Text(self.client))?;
        match self.id {
            Some(id) => out.serialize_field("id", id)?,
            None => out.skip_field("id")?,
        }
        match self.sni() {
            Some(sni) => out.serialize_field("sni", sni)?,
            None => out.skip_field("sni")?,
        }
        match self.destination {
            Some(destination) => out.serialize_field("destination", &Text(destination))?,
            None => out.skip_field("destination")?,
        }
        if let Some(tls) = self.tls {
            out.serialize_field("tls_version", tls.version)?;
            out.serialize_field("tls_cipher", tls.cipher)?;
            out.serialize_field("tls_resumed", &tls.resumed)?;
            let alpn = Some(&*tls.alpn).filter(|alpn| !alpn.is_empty());
            out.serialize_field("alpn", &alpn.map(Bytes))?;
            if tls.client.is_some() {
                for (name, fact) in [
                    ("client_verify", ClientFact::Verify),
                    ("client_subject", ClientFact::Subject),
                    ("client_serial", ClientFact::Serial),
                    ("client_fingerprint", ClientFact::Fingerprint),
                ] {
                    out.serialize_field(name, tls.fact(fact))?;
                }
            }
        }
        out.serialize_field("method", &self.line.map(|l| Bytes(l.method())))?;
        out.serialize_field("target", &self.line.map(|l| Bytes(l.target())))?;
        out.serialize_field("version", &self.line.map(|l| l.version().as_str()))?;
        out.serialize_field("status", &self.status)?;
        out.serialize_field("bytes_in", &self.bytes_in)?;
        out.serialize_field("bytes_out", &self.bytes_out)?;
        let Timers {
            idle,
            head,
            queue,
            connect,
            response,
            first_byte,
            total,
        } = self.timers;
        for (name, took) in [
            ("idle_us", idle),
            ("head_us", head),
            ("queue_us", queue),
            ("connect_us", connect),
            ("response_us", response),
            ("first_byte_us", first_byte),
            ("total_us", Some(total)),
        ] {
            out.serialize_field(name, &took.map(micros))?;
        }
        out.serialize_field("end", self.end.as_str())?;
        out.serialize_field("side", &self.end.side().map(|side| side.as_str()))?;
        out.serialize_field("layer", &self.end.layer().map(|layer| layer.as_str()))?;
        out.serialize_field("phase", &(!ok).then(|| self.phase.as_str()))?;
        out.serialize_field("detail", &self.detail)?;
        out.serialize_field("retries", &self.retries)?;
        out.serialize_field("keep_alive", &self.keep_alive)?;
        out.serialize_field("reused", &self.reused)?;
        out.end()
    }
}

/// Fields of the JSON form.
const FIELDS: usize = 39;

impl RecordMode {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }
}

/// What is written as it is displayed.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

/// What a client sent. What is no ASCII is escaped, as in the human form, so that no byte is lost.
struct Bytes<'a>(&'a [u8]);

impl Serialize for Bytes<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) if text.is_ascii() => s.serialize_str(text),
            Ok(_) | Err(_) => {
                let mut text = Vec::new();
                text::escaped(&mut text, self.0);
                s.serialize_str(&String::from_utf8_lossy(&text))
            }
        }
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}
