//! The HTTP/1.1 exchange of a check: one request, the head of one answer (RFC 9112).
//!
//! Owns the request's text and the reading of the head, bounded in size. Never reads a body, never judges the status
//! (`HttpCheck::accepts` does), never keeps time (`prober` does).

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use weir_core::{
    health::{Failure, Phase},
    plan::HttpCheck,
};

use crate::failure;

/// Longest answer up to the end of the final head, interim answers included.
const MAX_HEAD: usize = 64 * 1024;

/// Room to begin with: most answers come in one read.
const USUAL_HEAD: usize = 4096;

/// Most headers of one head.
const MAX_HEADERS: usize = 256;

pub(crate) const USER_AGENT: &str = concat!("weir-health/", env!("CARGO_PKG_VERSION"));

/// The request of a check. Fails, as our own fault, if a part of it would break the request's form.
pub(crate) fn request(target: SocketAddr, check: &HttpCheck) -> Result<Vec<u8>, Failure> {
    let host = host(target, check);
    for (what, text) in [("method", &check.method), ("path", &check.path), ("host", &host)] {
        if text.is_empty() || text.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(Failure::Internal(format!(
                "the check's {what} {text:?} is empty or has a space in it"
            )));
        }
    }
    let HttpCheck { method, path, .. } = check;
    Ok(format!(
        "{method} {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         User-Agent: {USER_AGENT}\r\n\
         Accept: */*\r\n\
         Connection: close\r\n\
         \r\n"
    )
    .into_bytes())
}

/// The host that is asked for.
pub(crate) fn host(target: SocketAddr, check: &HttpCheck) -> String {
    let default = || default_host(target, check.tls.is_some());
    check.host.clone().unwrap_or_else(default)
}

/// The target as a `Host`: without the scheme's own port (RFC 9110, 4.2.3), without a zone (RFC 9110, 4.2 and RFC 6874:
/// a zone means something to this box alone).
fn default_host(target: SocketAddr, tls: bool) -> String {
    let host = SocketAddr::new(target.ip(), target.port()).to_string();
    let own = if tls { ":443" } else { ":80" };
    host.strip_suffix(own).unwrap_or(&host).to_owned()
}

/// Sends the request and reads the head of the final answer: its status.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Result<u16, Failure> {
    let sent = async {
        stream.write_all(request).await?;
        stream.flush().await
    };
    // A server may answer and close before it has read all of the request: then the answer counts. Only if there is
    // none, the failed writing is what happened.
    let sent = sent.await.map_err(|e| failure::stream(Phase::Response, &e));
    match (read_status(stream).await, sent) {
        (Err(Failure::Closed(..)), Err(failure)) => Err(failure),
        (status, _) => status,
    }
}

async fn read_status(mut stream: impl AsyncRead + Unpin) -> Result<u16, Failure> {
    let mut head = Head {
        unread: Vec::with_capacity(USUAL_HEAD),
        searched: 0,
    };
    let mut room = MAX_HEAD;
    loop {
        if let Some(status) = head.status()? {
            return Ok(status);
        }
        if room == 0 {
            return Err(Failure::Malformed(format!(
                "no end of the head within {} KiB",
                MAX_HEAD / 1024
            )));
        }
        let read = (&mut stream).take(room as u64).read_buf(&mut head.unread).await;
        match read.map_err(|e| failure::stream(Phase::Response, &e))? {
            0 => {
                let text = if room == MAX_HEAD {
                    "end before an answer"
                } else {
                    "end within the head"
                };
                return Err(Failure::Closed(Phase::Response, text.into()));
            }
            read => room = room.saturating_sub(read),
        }
    }
}

/// What has been read of the answer.
struct Head {
    unread: Vec<u8>,
    /// How much of it has been searched for the end of the head.
    searched: usize,
}

impl Head {
    /// The status of the final answer, once its head is whole. Interim answers (1xx) before it are skipped; but 101,
    /// which is final (RFC 9110, 15.2.2), though nobody asked for it.
    fn status(&mut self) -> Result<Option<u16>, Failure> {
        loop {
            let begin = b"HTTP/";
            if !begin.starts_with(self.unread.get(..begin.len()).unwrap_or(&self.unread)) {
                return Err(Failure::Malformed("the answer does not begin with HTTP/".into()));
            }
            // Parsed once, when it is whole: a server that sends byte by byte costs no more than any other.
            let Some(end) = self.end() else { return Ok(None) };
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(self.unread.get(..end).unwrap_or(&self.unread));
            let (used, status) = match (parsed, response.code) {
                (Ok(httparse::Status::Complete(used)), Some(status)) => (used, status),
                (Ok(_), _) => return Err(Failure::Malformed("a head that ends too early".into())),
                (Err(error), _) => return Err(Failure::Malformed(error.to_string())),
            };
            match status {
                101 | 200.. => return Ok(Some(status)),
                100..=199 => {
                    self.unread.drain(..used);
                    self.searched = 0;
                }
                0..=99 => return Err(Failure::Malformed(format!("status {status}"))),
            }
        }
    }

    /// Where the first head ends: behind its empty line.
    fn end(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(2);
        let rest = self.unread.get(from..)?;
        let found = rest.iter().enumerate().find_map(|(at, &byte)| {
            let next = rest.get(at + 1..).filter(|_| byte == b'\n')?;
            let line_end = if next.starts_with(b"\r\n") {
                2
            } else {
                usize::from(next.starts_with(b"\n"))
            };
            (line_end > 0).then_some(from + at + 1 + line_end)
        });
        self.searched = self.unread.len();
        found
    }
}

#[cfg(test)]
mod tests;
