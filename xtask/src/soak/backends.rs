//! Backends: two that do as they should, one that does everything wrong, one that dies and comes back.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::Dice;

/// Nobody waits for longer on a socket.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts them; they end with the process.
pub(super) fn start(seed: u64) -> Result<Vec<SocketAddr>> {
    let mut all = Vec::new();
    for number in 0..4 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let at = listener.local_addr()?;
        all.push(at);
        let dice = Dice(seed.wrapping_add(number << 32));
        match number {
            0 | 1 => thread::spawn(move || serve(&listener, dice, false, usize::MAX)),
            2 => thread::spawn(move || serve(&listener, dice, true, usize::MAX)),
            _ => thread::spawn(move || die_and_come_back(listener, at, dice)),
        };
    }
    Ok(all)
}

/// Serves some connections, is gone for a while, and begins again.
fn die_and_come_back(mut listener: TcpListener, at: SocketAddr, mut dice: Dice) {
    loop {
        let count = dice.below(300) as usize;
        serve(&listener, Dice(dice.throw()), false, count);
        drop(listener);
        thread::sleep(Duration::from_millis(200 + dice.below(1500)));
        listener = loop {
            // Another program may have the port for a moment.
            match TcpListener::bind(at) {
                Ok(listener) => break listener,
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        };
    }
}

fn serve(listener: &TcpListener, mut dice: Dice, wrong: bool, count: usize) {
    for stream in listener.incoming().take(count).flatten() {
        let dice = Dice(dice.throw());
        thread::spawn(move || {
            // What goes wrong on a connection is what is wanted.
            let _ = answer_all(stream, dice, wrong);
        });
    }
}

fn answer_all(mut stream: TcpStream, mut dice: Dice, wrong: bool) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let mut ahead = Vec::new();
    loop {
        let Some(head) = read_head(&mut stream, &mut ahead)? else {
            return Ok(());
        };
        if !head.starts_with("GET") && !head.starts_with("POST") {
            // Mode tcp: an echo.
            return echo(stream, head.into_bytes());
        }
        if wrong && dice.below(3) > 0 {
            return go_wrong(stream, dice);
        }
        if head.to_ascii_lowercase().contains("\r\nupgrade: websocket") {
            stream.write_all(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")?;
            return echo(stream, ahead);
        }
        skip_body(&mut stream, &head, &mut ahead)?;
        let size = match dice.below(10) {
            0 => 200_000,
            1 => 0,
            _ => dice.below(2000) as usize,
        };
        let body = vec![b'x'; size];
        if dice.below(4) == 0 {
            write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for piece in body.chunks(5000) {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        } else {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")?;
            stream.write_all(&body)?;
        }
    }
}

fn go_wrong(mut stream: TcpStream, mut dice: Dice) -> io::Result<()> {
    let text: &[u8] = match dice.below(12) {
        0 => return reset(stream),
        1 => return Ok(()),
        // Longer than `timeouts.server`.
        2 => {
            thread::sleep(Duration::from_millis(1200));
            b""
        }
        3 => b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nshort",
        4 => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nshort")?;
            thread::sleep(Duration::from_millis(50));
            return reset(stream);
        }
        5 => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno chunk\r\n",
        6 => b"this is no HTTP at all\r\n\r\n",
        7 => b"HTTP/1.1 101 Switching\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n",
        8 => b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
        9 => b"HTTP/1.1 200 OK\r\nContent-Le",
        10 => {
            // A head that never ends.
            stream.write_all(b"HTTP/1.1 200 OK\r\n")?;
            for i in 0..2000 {
                write!(stream, "X-{i}: {i}\r\n")?;
            }
            b""
        }
        // A body that stalls in the middle.
        _ => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")?;
            stream.write_all(&[b'y'; 30_000])?;
            thread::sleep(Duration::from_millis(1200));
            b"z"
        }
    };
    stream.write_all(text)?;
    if dice.below(2) == 0 {
        thread::sleep(Duration::from_millis(dice.below(200)));
    }
    Ok(())
}

/// Makes the end of the connection a reset.
pub(super) fn reset(stream: TcpStream) -> io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// A head with its empty line; or what has come of it when it is no request. None: the connection has ended.
fn read_head(stream: &mut TcpStream, ahead: &mut Vec<u8>) -> io::Result<Option<String>> {
    loop {
        if let Some(end) = ahead.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = ahead.split_off(end + 4);
            let head = std::mem::replace(ahead, rest);
            return Ok(Some(String::from_utf8_lossy(&head).into_owned()));
        }
        if ahead.len() > 2 && !ahead.starts_with(b"GET") && !ahead.starts_with(b"POS") {
            let all = std::mem::take(ahead);
            return Ok(Some(String::from_utf8_lossy(&all).into_owned()));
        }
        let mut buf = [0; 16 << 10];
        let n = stream.read(&mut buf)?;
        if n == 0 {
            return Ok(None);
        }
        ahead.extend_from_slice(buf.get(..n).unwrap_or_default());
    }
}

/// Reads a request's body; of a chunked one up to what ends it.
fn skip_body(stream: &mut TcpStream, head: &str, ahead: &mut Vec<u8>) -> io::Result<()> {
    let lower = head.to_ascii_lowercase();
    let mut buf = [0; 64 << 10];
    if lower.contains("transfer-encoding: chunked") {
        while !ahead.ends_with(b"0\r\n\r\n") {
            let n = stream.read(&mut buf)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            ahead.extend_from_slice(buf.get(..n).unwrap_or_default());
        }
        ahead.clear();
        return Ok(());
    }
    let length = lower
        .split("\r\n")
        .find_map(|line| line.strip_prefix("content-length: "))
        .and_then(|n| n.parse::<usize>().ok())
        .unwrap_or(0);
    while ahead.len() < length {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        ahead.extend_from_slice(buf.get(..n).unwrap_or_default());
    }
    ahead.drain(..length);
    Ok(())
}

fn echo(mut stream: TcpStream, first: Vec<u8>) -> io::Result<()> {
    stream.write_all(&first)?;
    let mut buf = [0; 16 << 10];
    loop {
        let n = stream.read(&mut buf)?;
        if n == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        stream.write_all(buf.get(..n).unwrap_or_default())?;
    }
}
