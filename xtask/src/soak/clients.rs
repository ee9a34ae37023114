//! Clients: some that do as they should, many that do not.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};

use super::{Dice, backends::reset};

const PATIENCE: Duration = Duration::from_secs(5);

/// Where the relay listens.
#[derive(Clone, Copy)]
pub(super) struct Targets {
    pub(super) http: SocketAddr,
    pub(super) tcp: SocketAddr,
}

/// What a client does with one connection.
type Act = fn(TcpStream, &mut Dice, &Crowd) -> io::Result<()>;

/// Each with its name, whether it speaks HTTP, and how often of a hundred.
const ACTS: [(&str, bool, u64, Act); 12] = [
    ("keep-alive", true, 30, keep_alive),
    ("upload", true, 12, upload),
    ("upload broken off", true, 8, upload_broken_off),
    ("half a head", true, 8, half_a_head),
    ("pipeline, reset", true, 6, pipeline),
    ("gone at once", true, 8, gone_at_once),
    ("download broken off", true, 6, download_broken_off),
    ("garbage", true, 4, garbage),
    ("nothing", true, 4, nothing),
    ("slow reader", true, 2, slow_reader),
    ("upgrade", true, 6, upgrade),
    ("tcp", false, 6, tcp),
];

/// What all clients have done.
#[derive(Default)]
pub(super) struct Crowd {
    done: [AtomicU64; ACTS.len()],
    /// Connections on which something did not go as the client would have it.
    disturbed: AtomicU64,
    refused: AtomicU64,
    answered: AtomicU64,
}

/// A crowd at work.
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Crowd {
    pub(super) fn start(crowd: &Arc<Self>, clients: u32, seed: u64, targets: Targets) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let start = |number: u32| {
            let (crowd, stop) = (Arc::clone(crowd), Arc::clone(&stop));
            let mut dice = Dice(seed.wrapping_add(u64::from(number) << 32));
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    crowd.one(&mut dice, targets);
                }
            })
        };
        let threads = (0..clients).map(start).collect();
        Running { stop, threads }
    }

    fn one(&self, dice: &mut Dice, targets: Targets) {
        let mut left = dice.below(100);
        let Some((at, (_, is_http, _, act))) = ACTS.iter().enumerate().find(|(_, (_, _, share, _))| {
            let found = left < *share;
            left = left.saturating_sub(*share);
            found
        }) else {
            return;
        };
        let target = if *is_http { targets.http } else { targets.tcp };
        let Ok(stream) = connect(target) else {
            self.refused.fetch_add(1, Relaxed);
            return;
        };
        if let Some(count) = self.done.get(at) {
            count.fetch_add(1, Relaxed);
        }
        if act(stream, dice, self).is_err() {
            self.disturbed.fetch_add(1, Relaxed);
        }
    }

    /// Whole responses of status 200.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Relaxed)
    }

    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        let acts = ACTS.iter().zip(&self.done);
        let mut all: Vec<_> = acts
            .map(|((name, ..), count)| (*name, count.load(Relaxed)))
            .collect();
        all.push(("answered 200", self.answered()));
        all.push(("connections disturbed", self.disturbed.load(Relaxed)));
        all.push(("connections refused", self.refused.load(Relaxed)));
        all
    }
}

impl Running {
    /// Has every client end what it does.
    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))?;
        }
        Ok(())
    }
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn path(dice: &mut Dice) -> &'static str {
    match dice.below(8) {
        0 => "/own",
        1..=3 => "/other/x",
        _ => "/",
    }
}

fn get(dice: &mut Dice) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: soak\r\nX-Pad: {}\r\n\r\n",
        path(dice),
        "p".repeat(dice.below(500) as usize)
    )
}

/// Reads a response. True: the connection stays.
fn response(stream: &mut TcpStream, crowd: &Crowd) -> io::Result<bool> {
    let mut all = Vec::new();
    let mut buf = [0; 64 << 10];
    let mut more = |all: &mut Vec<u8>| {
        let n = stream.read(&mut buf)?;
        all.extend_from_slice(buf.get(..n).unwrap_or_default());
        if n == 0 {
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        } else {
            Ok(())
        }
    };
    let end = loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut all)?;
    };
    let head = String::from_utf8_lossy(all.get(..end).unwrap_or_default()).to_ascii_lowercase();
    if head.contains("transfer-encoding: chunked") {
        while !all.ends_with(b"0\r\n\r\n") {
            more(&mut all)?;
        }
    } else {
        let length = head
            .split("\r\n")
            .find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        while all.len() < end + length {
            more(&mut all)?;
        }
    }
    if head.starts_with("http/1.1 200") {
        crowd.answered.fetch_add(1, Relaxed);
    }
    Ok(!head.contains("connection: close"))
}

fn keep_alive(mut stream: TcpStream, dice: &mut Dice, crowd: &Crowd) -> io::Result<()> {
    for _ in 0..=dice.below(20) {
        stream.write_all(get(dice).as_bytes())?;
        if !response(&mut stream, crowd)? {
            break;
        }
        if dice.below(40) == 0 {
            // Longer than `timeouts.keep_alive`.
            thread::sleep(Duration::from_millis(900));
        }
    }
    Ok(())
}

fn upload_head(stream: &mut TcpStream, size: usize, chunked: bool) -> io::Result<()> {
    let framing = if chunked {
        "Transfer-Encoding: chunked".to_owned()
    } else {
        format!("Content-Length: {size}")
    };
    write!(stream, "POST /up HTTP/1.1\r\nHost: soak\r\n{framing}\r\n\r\n")
}

fn upload_piece(stream: &mut TcpStream, piece: &[u8], chunked: bool) -> io::Result<()> {
    if chunked {
        write!(stream, "{:x}\r\n", piece.len())?;
        stream.write_all(piece)?;
        stream.write_all(b"\r\n")
    } else {
        stream.write_all(piece)
    }
}

fn upload(mut stream: TcpStream, dice: &mut Dice, crowd: &Crowd) -> io::Result<()> {
    let size = dice.below(100_000) as usize + 1;
    let chunked = dice.below(2) == 0;
    upload_head(&mut stream, size, chunked)?;
    for piece in vec![b'u'; size].chunks(20_000) {
        upload_piece(&mut stream, piece, chunked)?;
    }
    if chunked {
        stream.write_all(b"0\r\n\r\n")?;
    }
    response(&mut stream, crowd).map(|_| ())
}

fn upload_broken_off(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    let chunked = dice.below(2) == 0;
    upload_head(&mut stream, 100_000, chunked)?;
    upload_piece(&mut stream, &[b'u'; 30_000], chunked)?;
    match dice.below(4) {
        // Longer than `timeouts.client`.
        0 => thread::sleep(Duration::from_millis(900)),
        1 => stream.write_all(b"zz no chunk\r\n")?,
        2 => return reset(stream),
        _ => {}
    }
    Ok(())
}

fn half_a_head(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: soak\r\nX-Half: ")?;
    match dice.below(4) {
        0 => return reset(stream),
        1 => {
            // Longer than `timeouts.request_head`.
            thread::sleep(Duration::from_millis(700));
            let _ = stream.read(&mut [0; 1000])?;
        }
        2 => stream.write_all(&[b'h'; 20_000])?,
        _ => {}
    }
    Ok(())
}

fn pipeline(mut stream: TcpStream, dice: &mut Dice, crowd: &Crowd) -> io::Result<()> {
    let all: String = (0..10).map(|_| get(dice)).collect();
    stream.write_all(all.as_bytes())?;
    for _ in 0..dice.below(4) {
        response(&mut stream, crowd)?;
    }
    reset(stream)
}

fn gone_at_once(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    stream.write_all(get(dice).as_bytes())?;
    if dice.below(2) == 0 { reset(stream) } else { Ok(()) }
}

fn download_broken_off(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    stream.write_all(get(dice).as_bytes())?;
    let _ = stream.read(&mut [0; 100])?;
    reset(stream)
}

fn garbage(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    let bytes: Vec<u8> = (0..dice.below(3000)).map(|_| dice.throw() as u8).collect();
    stream.write_all(&bytes)?;
    let _ = stream.read(&mut [0; 1000])?;
    Ok(())
}

fn nothing(stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    if dice.below(2) == 0 { reset(stream) } else { Ok(()) }
}

fn slow_reader(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    for _ in 0..20 {
        stream.write_all(get(dice).as_bytes())?;
    }
    thread::sleep(Duration::from_millis(1000));
    let mut sink = Vec::new();
    stream.take(1 << 20).read_to_end(&mut sink).map(|_| ())
}

fn upgrade(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: soak\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")?;
    let mut buf = [0; 1000];
    let n = stream.read(&mut buf)?;
    if !buf.get(..n).unwrap_or_default().starts_with(b"HTTP/1.1 101") {
        return Ok(());
    }
    for _ in 0..dice.below(5) {
        stream.write_all(b"frame")?;
        let _ = stream.read(&mut buf)?;
    }
    match dice.below(4) {
        0 => return reset(stream),
        1 => {
            stream.shutdown(Shutdown::Write)?;
            while stream.read(&mut buf)? > 0 {}
        }
        // Longer than `timeouts.tunnel`.
        2 => thread::sleep(Duration::from_millis(1300)),
        _ => {}
    }
    Ok(())
}

fn tcp(mut stream: TcpStream, dice: &mut Dice, _: &Crowd) -> io::Result<()> {
    let mut buf = [0; 1000];
    for _ in 0..=dice.below(5) {
        stream.write_all(b"ping, not HTTP")?;
        if stream.read(&mut buf)? == 0 {
            return Ok(());
        }
    }
    match dice.below(3) {
        0 => reset(stream),
        1 => {
            stream.shutdown(Shutdown::Write)?;
            while stream.read(&mut buf)? > 0 {}
            Ok(())
        }
        _ => Ok(()),
    }
}
