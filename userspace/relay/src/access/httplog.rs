//! The record as HAProxy writes it: `option httplog` (its configuration manual, section 8.2.3) for requests, `option
//! tcplog` (8.2.2) for connections in TCP mode. Without the syslog header and the process's name in front, as HAProxy
//! itself does on a standard output.
//!
//! Owns the order of the fields, and what weir's words are in HAProxy's letters; docs/reasons.md has the table. Dates are
//! in UTC.

use std::{fmt, io::Write, time::Duration, time::SystemTime};

use super::record::{Load, Record, RecordMode};
use crate::{
    phases::{Phase, Timers},
    reason::Reason,
};

impl Record<'_> {
    /// Adds the record in HAProxy's form.
    pub(crate) fn httplog(&self, out: &mut Vec<u8>) {
        let Timers {
            idle: _,
            head,
            queue,
            connect,
            response,
            first_byte: _,
            total,
        } = self.timers;
        let server = self.backend.map_or("<NOSRV>", |b| &b.name);
        // Writing to a Vec can't fail.
        let _ = write!(
            out,
            "{}:{} [{}] {}{} {}/{server} ",
            self.client.ip().to_canonical(),
            self.client.port(),
            Date(self.time),
            self.service,
            // TLS ended there.
            if self.tls.is_some() { "~" } else { "" },
            // As HAProxy has it of a request that no backend was chosen for.
            if self.pool.is_empty() {
                self.service
            } else {
                self.pool
            },
        );
        let (queue, connect, total) = (Millis(queue), Millis(connect), Millis(Some(total)));
        // Answered without a backend, and nothing was amiss.
        let own = self.end == Reason::Ok && self.mode == RecordMode::Http && self.backend.is_none();
        let state = if own {
            State {
                cause: 'L',
                phase: 'R',
            }
        } else {
            state(self.end, self.phase)
        };
        let _ = match self.mode {
            RecordMode::Http => write!(
                out,
                "{}/{queue}/{connect}/{}/{total} {} {} - - {state}-- ",
                Millis(head),
                Millis(response),
                self.status.map_or(-1, i32::from),
                self.bytes_out,
            ),
            RecordMode::Tcp => write!(out, "{queue}/{connect}/{total} {} {state} ", self.bytes_out),
        };
        let Load {
            connections,
            service,
            pool,
            backend,
            ahead,
        } = self.load;
        let moved = if self.moved { "+" } else { "" };
        let _ = write!(
            out,
            "{connections}/{service}/{pool}/{backend}/{moved}{} 0/{ahead}",
            self.retries
        );
        let _ = match (self.mode, self.line) {
            (RecordMode::Tcp, _) => Ok(()),
            (RecordMode::Http, None) => out.write_all(b" \"<BADREQ>\""),
            (RecordMode::Http, Some(line)) => write!(
                out,
                " \"{} {} HTTP/{}\"",
                Encoded(line.method()),
                Encoded(line.target()),
                line.version().as_str()
            ),
        };
        out.push(b'\n');
    }
}

/// The first two letters of `termination_state`: which side's doing, and what it was in.
pub(super) const fn state(end: Reason, phase: Phase) -> State {
    let cause = match end {
        Reason::Ok => {
            return State {
                cause: '-',
                phase: '-',
            };
        }
        Reason::Answered => {
            return State {
                cause: 'L',
                phase: 'R',
            };
        }
        Reason::ClientClosed | Reason::TlsAlert => 'C',
        Reason::ClientTimeoutHead
        | Reason::ClientTimeout
        | Reason::TunnelTimeout
        | Reason::ProxyTimeout
        | Reason::HelloTimeout
        | Reason::TlsTimeout => 'c',
        Reason::ClientBadRequest
        | Reason::ClientTooLarge
        | Reason::ClientTargetTooLong
        | Reason::ClientBodyTooLarge
        | Reason::ClientUnsupported
        | Reason::ClientFlood
        | Reason::ProxyMissing
        | Reason::ProxyBroken
        | Reason::ProxyUnexpected
        | Reason::HelloPlain
        | Reason::HelloBroken
        | Reason::HelloUnrouted
        | Reason::TlsPlain
        | Reason::TlsBroken
        | Reason::TlsUnagreed
        | Reason::TlsUnknownName
        | Reason::TlsClientCertificate
        | Reason::LimitHandshakes
        | Reason::LimitConnections
        | Reason::LimitTotal
        | Reason::Loop
        | Reason::BackendBadResponse => 'P',
        Reason::NoBackend
        | Reason::QueueFull
        | Reason::BackendRefused
        | Reason::BackendUnreachable
        | Reason::BackendClosedEarly
        | Reason::BackendCut
        | Reason::BackendReset
        | Reason::BackendTls
        | Reason::BackendCertificate
        | Reason::BackendNoHttp2
        | Reason::BackendStatus => 'S',
        Reason::QueueTimeout
        | Reason::BackendTimeoutConnect
        | Reason::BackendTimeoutTls
        | Reason::BackendTimeoutResponse
        | Reason::BackendTimeout => 's',
        Reason::Drained => 'K',
        Reason::Internal | Reason::LimitMemory | Reason::PortsExhausted => 'R',
    };
    State {
        cause,
        phase: letter(phase),
    }
}

/// The second letter of a phase.
pub(super) const fn letter(phase: Phase) -> char {
    match phase {
        Phase::Request => 'R',
        Phase::Queue => 'Q',
        Phase::Connect => 'C',
        Phase::Response => 'H',
        Phase::Data => 'D',
        Phase::Last => 'L',
    }
}

/// Two letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct State {
    pub(super) cause: char,
    pub(super) phase: char,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.cause, self.phase)
    }
}

/// Whole milliseconds; -1 for a phase that was not reached.
struct Millis(Option<Duration>);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(took) => write!(f, "{}", took.as_millis()),
            None => f.write_str("-1"),
        }
    }
}

/// `06/Feb/2009:12:14:14.655`, in UTC.
pub(super) struct Date(pub(super) SystemTime);

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Fixed places: 2009-02-06T12:14:14.655Z
        let mut text = [0; 24];
        write!(
            text.as_mut_slice(),
            "{}",
            humantime::format_rfc3339_millis(self.0)
        )
        .map_err(|_| fmt::Error)?;
        let text = std::str::from_utf8(&text).map_err(|_| fmt::Error)?;
        let part = |from: usize, to: usize| text.get(from..to).ok_or(fmt::Error);
        let month = part(5, 7)?.parse::<usize>().map_err(|_| fmt::Error)?;
        let month = month
            .checked_sub(1)
            .and_then(|m| MONTHS.get(m))
            .ok_or(fmt::Error)?;
        write!(f, "{}/{month}/{}:{}", part(8, 10)?, part(0, 4)?, part(11, 23)?)
    }
}

/// Printable ASCII as it stands, but `"` and `#`; the rest as `#NN` (section 8.6).
struct Encoded<'a>(&'a [u8]);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b'"' | b'#' => write!(f, "#{byte:02X}")?,
                0x20..=0x7e => write!(f, "{}", char::from(byte))?,
                _ => write!(f, "#{byte:02X}")?,
            }
        }
        Ok(())
    }
}
