//! One access record and its two forms.
//!
//! Whatever a client sent is escaped: a record is always one line, whoever wrote the request.

use std::{
    fmt,
    io::Write,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use weir_core::plan;

use crate::reason::Reason;

/// What happened to one request, or to one connection in TCP mode.
#[derive(Serialize)]
pub(crate) struct Record<'a> {
    /// When its head was whole; in TCP mode, when the connection was accepted.
    #[serde(serialize_with = "time")]
    pub(crate) time: SystemTime,
    pub(crate) service: &'a str,
    pub(crate) pool: &'a str,
    /// The backend that answered, or the last one tried.
    #[serde(serialize_with = "backend")]
    pub(crate) backend: Option<&'a plan::Backend>,
    pub(crate) client: SocketAddr,
    /// None in TCP mode, and when the head could not be read.
    #[serde(serialize_with = "text")]
    pub(crate) method: Option<&'a [u8]>,
    #[serde(serialize_with = "text")]
    pub(crate) target: Option<&'a [u8]>,
    /// The status the client was sent; None if none was.
    pub(crate) status: Option<u16>,
    /// From the client.
    pub(crate) bytes_in: u64,
    /// To the client.
    pub(crate) bytes_out: u64,
    /// From the first byte of the head to its end.
    #[serde(rename = "head_us", serialize_with = "micros")]
    pub(crate) head: Option<Duration>,
    /// From the choice of a backend to the connection; 0 for one from the pool.
    #[serde(rename = "connect_us", serialize_with = "micros")]
    pub(crate) connect: Option<Duration>,
    /// From the request's head to the response's head.
    #[serde(rename = "first_byte_us", serialize_with = "micros")]
    pub(crate) first_byte: Option<Duration>,
    /// From the request's head to the end.
    #[serde(rename = "total_us", serialize_with = "micros")]
    pub(crate) total: Option<Duration>,
    #[serde(serialize_with = "reason")]
    pub(crate) end: Reason,
    /// What was malformed, if something was.
    pub(crate) detail: Option<&'static str>,
    /// Tries beyond the first.
    pub(crate) retries: u32,
    /// The client's connection stays open.
    pub(crate) keep_alive: bool,
    /// The backend's connection had served before.
    pub(crate) reused: bool,
}

impl Record<'_> {
    /// Adds the record as a JSON object and a line end.
    pub(crate) fn json(&self, out: &mut Vec<u8>) {
        let before = out.len();
        // Writing to a Vec can't fail, and nothing above refuses to be serialised.
        if serde_json::to_writer(&mut *out, self).is_err() {
            out.truncate(before);
            return;
        }
        out.push(b'\n');
    }

    /// Adds the record as one line for people.
    pub(crate) fn human(&self, out: &mut Vec<u8>) {
        let us = |d: Option<Duration>| Micros(d);
        let _ = write!(
            out,
            "{} {} {}/{} {} \"{} {}\" {} in={} out={} head={} connect={} first_byte={} total={} {}",
            humantime::format_rfc3339_micros(self.time),
            self.service,
            self.pool,
            self.backend.map_or("-", |b| &b.name),
            self.client,
            Escaped(self.method.unwrap_or(b"-")),
            Escaped(self.target.unwrap_or(b"-")),
            Status(self.status),
            self.bytes_in,
            self.bytes_out,
            us(self.head),
            us(self.connect),
            us(self.first_byte),
            us(self.total),
            self.end,
        );
        if let Some(detail) = self.detail {
            let _ = write!(out, "({detail})");
        }
        if self.retries > 0 {
            let _ = write!(out, " retries={}", self.retries);
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

fn time<S: Serializer>(time: &SystemTime, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&humantime::format_rfc3339_micros(*time))
}

fn backend<S: Serializer>(backend: &Option<&plan::Backend>, s: S) -> Result<S::Ok, S::Error> {
    match backend {
        Some(backend) => s.collect_str(&backend.key.address),
        None => s.serialize_none(),
    }
}

fn text<S: Serializer>(text: &Option<&[u8]>, s: S) -> Result<S::Ok, S::Error> {
    match text {
        // What is no ASCII is escaped, as in the human form, so that no byte is lost.
        Some(text) => match std::str::from_utf8(text) {
            Ok(text) if text.is_ascii() => s.serialize_str(text),
            Ok(_) | Err(_) => s.collect_str(&Escaped(text)),
        },
        None => s.serialize_none(),
    }
}

fn micros<S: Serializer>(took: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
    match took {
        Some(took) => s.serialize_u64(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        None => s.serialize_none(),
    }
}

fn reason<S: Serializer>(reason: &Reason, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(reason.as_str())
}

struct Micros(Option<Duration>);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(took) => write!(f, "{}us", took.as_micros()),
            None => f.write_str("-"),
        }
    }
}

struct Status(Option<u16>);

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(f, "{status}"),
            None => f.write_str("-"),
        }
    }
}

/// Visible ASCII as it stands, but quote and backslash; the rest as `\xNN`.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'"' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                0x21..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}
