//! Large bodies: byte for byte, with bounded memory, at the pace of the slower side.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Instant,
};

use weir_relay::Reason;

use crate::support::*;

const SIZE: usize = 64 << 20;

/// One chunk after another, of uneven sizes.
fn write_chunks(mut to: &TcpStream, total: usize, seed: u64) {
    let (mut sent, mut size) = (0, 1);
    while sent < total {
        size = (size * 3 + 7) % 200_000 + 1;
        let size = size.min(total - sent);
        write!(to, "{size:x}\r\n").unwrap();
        write_pattern_from(to, sent, size, seed);
        to.write_all(b"\r\n").unwrap();
        sent += size;
    }
    to.write_all(b"0\r\n\r\n").unwrap();
}

/// Unpacks a chunked body and checks every byte of it.
fn check_chunks(from: &mut Raw, total: usize, seed: u64) {
    let mut got = 0;
    loop {
        let line = from.until("\r\n");
        let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
        if size == 0 {
            assert_eq!(from.until("\r\n"), "\r\n");
            assert_eq!(got, total);
            return;
        }
        let chunk = from.exactly(size);
        assert!(
            chunk == pattern(got, size, seed),
            "differs between {got} and {}",
            got + size
        );
        got += size;
        assert_eq!(from.exactly(2), b"\r\n");
    }
}

#[test]
fn with_a_length() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
    ));
    let mut server = backend.accept();
    server.head();
    // The response comes while the request is still coming.
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
    client.head();
    std::thread::scope(|scope| {
        for (from, to, seed) in [
            (&client.stream, &server.stream, 1),
            (&server.stream, &client.stream, 2),
        ] {
            scope.spawn(move || write_pattern(from, SIZE, seed));
            scope.spawn(move || check_pattern(to, SIZE, seed));
        }
    });
    lab.ended(Reason::Ok, 1);
}

#[test]
fn in_chunks() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head();
    let (client_out, server_out) = (
        client.stream.try_clone().unwrap(),
        server.stream.try_clone().unwrap(),
    );
    std::thread::scope(|scope| {
        scope.spawn(move || write_chunks(&client_out, SIZE, 1));
        scope.spawn(move || write_chunks(&server_out, SIZE, 2));
        scope.spawn(|| check_chunks(&mut server, SIZE, 1));
        scope.spawn(|| check_chunks(&mut client, SIZE, 2));
    });
    lab.ended(Reason::Ok, 1);
}

#[test]
fn until_the_end_of_the_connection() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\n\r\n");
    client.head();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            write_pattern(&server.stream, SIZE, 3);
            server.stream.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| check_chunks(&mut client, SIZE, 3));
    });
    lab.ended(Reason::Ok, 1);
}

/// A reader that does not read stops the writer: what lies in between is bounded by sockets and one read.
#[test]
fn a_slow_side_stops_the_fast_side() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    let total = 1_usize << 30;
    server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n"));
    server.stream.set_nonblocking(true).unwrap();
    // The backend pushes until nothing has gone for a while.
    let block = pattern(0, 1 << 20, 0);
    let (mut pushed, mut last) = (0, Instant::now());
    while last.elapsed().as_millis() < 500 {
        match server.stream.write(&block) {
            Ok(n) => {
                pushed += n;
                last = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
        assert!(pushed < 64 << 20, "nothing stops it");
        std::thread::yield_now();
    }
    // It goes on as soon as the client reads.
    let mut some = vec![0; 1 << 20];
    let before = pushed;
    client.head();
    let deadline = Instant::now() + PATIENCE;
    while pushed < before + (8 << 20) {
        assert!(client.stream.read(&mut some).unwrap() > 0);
        if let Ok(n) = server.stream.write(&block) {
            pushed += n;
        }
        assert!(Instant::now() < deadline, "it does not go on");
    }
}

/// What is held for clients that do not read is bounded for all of them together: reads get small, then connections
/// are closed; those that read are served as ever.
#[test]
fn slow_readers_share_a_bound() {
    const MOST: u64 = 1 << 20;
    let backend = Backend::new();
    let at = backend.at;
    std::thread::spawn(move || {
        loop {
            let mut raw = backend.accept();
            std::thread::spawn(move || {
                while let Some(head) = raw.try_head() {
                    if !head.starts_with("GET /endless ") {
                        raw.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
                        continue;
                    }
                    raw.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n");
                    raw.stream.set_write_timeout(None).unwrap();
                    let block = vec![b'x'; 256 << 10];
                    while raw.stream.write_all(&block).is_ok() {}
                }
            });
        }
    });
    let lab = Lab::new(Setup::http_with(&[at], |http| {
        http.timeouts.client = PATIENCE;
        http.timeouts.server = PATIENCE;
    }));
    lab.relay.set_memory(MOST);
    let held = || {
        let held = lab.relay.snapshot().held;
        assert!(held <= MOST, "{held} bytes");
        held
    };
    let slow = || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        // The less the system takes, the sooner it is the relay's to hold.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&lab.at.into()).unwrap();
        let mut client = Raw::new(socket.into());
        client.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
        client
    };
    let mut clients = vec![slow(), slow()];
    until("something is held", || held() > 0);
    assert_eq!(lab.service().ends[Reason::LimitMemory as usize], 0);
    let closed = || lab.service().ends[Reason::LimitMemory as usize];
    while closed() == 0 {
        assert!(clients.len() < 1000, "none is closed");
        clients.push(slow());
        held();
    }
    assert!(clients.len() > 10, "{} clients used it up", clients.len());
    let mut quick = lab.client();
    for _ in 0..10 {
        quick.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(quick.response(), (200, "hello".into()));
    }
    assert!(held() > MOST / 2);
    // Where it is not used up any more who reads on gets on.
    clients.truncate(1);
    until("much of it is given back", || held() < MOST / 2);
    clients[0].exactly(1 << 20);
    drop(clients);
    until("nothing is held", || held() == 0);
}
