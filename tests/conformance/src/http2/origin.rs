//! An origin that answers whatever comes to it, and counts: the cases are about the front alone.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// What it answers with.
pub const BODY: &[u8] = b"this is the origin\n";

/// Ends when dropped; a connection of its own ends with its client.
pub struct Origin {
    at: SocketAddr,
    served: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Origin {
    /// Listens on loopback.
    ///
    /// # Errors
    /// No socket is to be had.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let origin = Self {
            at: listener.local_addr()?,
            served: Arc::default(),
            over: Arc::default(),
        };
        let (served, over) = (Arc::clone(&origin.served), Arc::clone(&origin.over));
        std::thread::Builder::new().spawn(move || {
            for stream in listener.incoming() {
                if over.load(Relaxed) {
                    return;
                }
                let served = Arc::clone(&served);
                if let Ok(stream) = stream {
                    std::thread::spawn(move || serve(stream, &served));
                }
            }
        })?;
        Ok(origin)
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// Whole requests that came.
    pub fn served(&self) -> u64 {
        self.served.load(Relaxed)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        let _ = TcpStream::connect(self.at);
    }
}

/// Answers requests until one can't be read.
fn serve(stream: TcpStream, served: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        let to_head = (reader.read_line(&mut line).ok()? > 0).then(|| line.starts_with("HEAD "))?;
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            reader.read_line(&mut line).ok()?;
            let field = line.trim_end().to_ascii_lowercase();
            match field.split_once(':') {
                Some(("content-length", value)) => length = value.trim().parse().ok()?,
                Some(("transfer-encoding", _)) => chunked = true,
                Some(_) => {}
                None if field.is_empty() => break,
                None => return None,
            }
        }
        if chunked {
            read_chunks(&mut reader)?;
        } else {
            read_exactly(&mut reader, length)?;
        }
        served.fetch_add(1, Relaxed);
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", BODY.len()).into_bytes();
        if !to_head {
            answer.extend_from_slice(BODY);
        }
        writer.write_all(&answer).ok()?;
    }
}

fn read_exactly(reader: &mut impl BufRead, length: u64) -> Option<()> {
    let read = io::copy(&mut reader.take(length), &mut io::sink()).ok()?;
    (read == length).then_some(())
}

fn read_chunks(reader: &mut impl BufRead) -> Option<()> {
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let length = u64::from_str_radix(line.trim_end().split(';').next()?, 16).ok()?;
        if length == 0 {
            break;
        }
        read_exactly(reader, length + 2)?;
    }
    // Trailers, and the line that ends them.
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() {
            return Some(());
        }
    }
}
