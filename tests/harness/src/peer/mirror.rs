//! An HTTP origin that answers with the request head it received, byte for byte: for looking at what the relay sends,
//! field by field, repeated ones included (which nginx's variables fold or hide).

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// A running mirror. Stops when dropped.
#[derive(Debug)]
pub struct Mirror {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Listens on an address. Its answers carry `fields`, whole header lines without their line ends.
    ///
    /// # Errors
    /// The address can't be bound.
    pub fn start(netns: &Netns, listen: SocketAddr, fields: &[&str]) -> Result<Self> {
        let listener = netns
            .run(|| TcpListener::bind(listen))?
            .with_context(|| format!("can't listen on {listen} in {}", netns.name()))?;
        listener.set_nonblocking(true)?;
        let stop = Arc::<AtomicBool>::default();
        let fields: Arc<str> = fields
            .iter()
            .map(|field| format!("{field}\r\n"))
            .collect::<String>()
            .into();
        let flag = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let fields = Arc::clone(&fields);
                        // Ends when the peer closes or after a silence; a broken connection is the peer's affair.
                        thread::spawn(move || drop(serve(stream, &fields)));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

fn serve(stream: TcpStream, fields: &str) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        let mut length = 0_u64;
        loop {
            let start = head.len();
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
            let line = head.get(start..).unwrap_or_default();
            let text = String::from_utf8_lossy(line);
            if let Some((name, value)) = text.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
            if line == b"\r\n" {
                break;
            }
        }
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        out.write_all(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{fields}\r\n",
                head.len()
            )
            .as_bytes(),
        )?;
        out.write_all(&head)?;
    }
}
