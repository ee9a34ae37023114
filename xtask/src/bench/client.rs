//! Clients of the bench's own, where no tool does what is asked: single requests, downloads that are counted, connections
//! that stay idle.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::peers::OTHER_CORE;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` in a thread on the core of the load.
pub(super) fn beside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let mut core = CpuSet::new();
            core.set(OTHER_CORE);
            sched_setaffinity(None, &core).context("pinning the client")?;
            work()
        });
        match thread.join() {
            Ok(done) => done,
            Err(_) => bail!("the client's thread has panicked"),
        }
    })
}

/// A client connection.
pub(super) struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    buf: Vec<u8>,
}

impl Client {
    /// Connects.
    pub(super) fn connect(at: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect_timeout(&at, PATIENCE).with_context(|| format!("connecting to {at}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            request: Vec::new(),
            buf: vec![0; 4096],
        })
    }

    /// For downloads: with a buffer of this many bytes.
    pub(super) fn with_buffer(self, bytes: usize) -> Self {
        Self {
            buf: vec![0; bytes],
            ..self
        }
    }

    /// The socket alone: an idle connection's client holds no buffer either.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Asks for `path`, and reads the whole answer. Answers with the length of its body.
    ///
    /// # Errors
    /// It is not a whole 200 with a length.
    pub(super) fn get(&mut self, path: &str) -> Result<u64> {
        Ok(self.ask(path)?.1)
    }

    /// The same, and answers with the length of head and body.
    pub(super) fn get_whole(&mut self, path: &str) -> Result<usize> {
        let (head, body) = self.ask(path)?;
        Ok(head + usize::try_from(body)?)
    }

    fn ask(&mut self, path: &str) -> Result<(usize, u64)> {
        self.request.clear();
        write!(self.request, "GET {path} HTTP/1.1\r\nHost: bench.test\r\n\r\n")?;
        self.stream.write_all(&self.request)?;
        let mut have = 0;
        let (head, length) = loop {
            match self.stream.read(self.buf.get_mut(have..).unwrap_or_default())? {
                0 => bail!("the connection ended within a head"),
                n => have += n,
            }
            if let Some(head) = head(self.buf.get(..have).unwrap_or_default())? {
                break head;
            }
        };
        let mut left = (head as u64 + length).saturating_sub(have as u64);
        while left > 0 {
            match self.stream.read(&mut self.buf)? {
                0 => bail!("the connection ended {left} bytes before the end of a body"),
                n => left = left.saturating_sub(n as u64),
            }
        }
        Ok((head, length))
    }
}

/// One request on a connection of its own.
pub(super) fn get(at: SocketAddr, path: &str) -> Result<u64> {
    Client::connect(at)?.get(path)
}

/// The lengths of a response's head and of its body, once the head is whole.
fn head(bytes: &[u8]) -> Result<Option<(usize, u64)>> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(bytes.get(..end).unwrap_or_default());
    let status = text.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        bail!("it answers `{status}`");
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    });
    match length {
        Some(length) => Ok(Some((end + 4, length))),
        None => bail!("it answers without a length: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let whole = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 12\r\n\r\nabc";
        assert_eq!(head(whole).expect("it is one"), Some((whole.len() - 3, 12)));
        assert_eq!(head(b"HTTP/1.1 200 OK\r\n").expect("a part of one"), None);
        assert!(head(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
