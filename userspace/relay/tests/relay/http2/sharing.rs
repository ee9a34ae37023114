//! Requests that share a connection: how many, on which worker, and how flow control keeps them apart.

use super::*;

/// Requests that come while a connection is being made share it, as far as the backend lets them.
#[test]
fn requests_share_a_connection() {
    for (most, told, connections) in [(100, 1000, 1), (4, 1000, 3), (100, 5, 2)] {
        let backend = Backend::new();
        let lab = Lab::new(h2c_with(Setup::http(&[backend.at]), |http2| http2.streams = most));
        let mut clients: Vec<_> = (0..10).map(|_| lab.client()).collect();
        clients.iter_mut().for_each(|client| client.send(GET));
        let mut servers: Vec<_> = (0..connections)
            .map(|_| {
                // The others wait for it, or for what it says.
                until("all have come", || lab.service().requests == 10);
                H2::accept(&backend, &max_streams(told))
            })
            .collect();
        for (at, server) in servers.iter_mut().enumerate() {
            let each = most.min(told) as usize;
            for _ in 0..each.min(10 - each.min(10) * at.min(1) - if at == 2 { each } else { 0 }) {
                let (stream, _) = server.request();
                server.head(stream, OK, true);
            }
        }
        for client in &mut clients {
            assert_eq!(client.response().0, 200);
        }
        let counts = lab.backend(0);
        assert_eq!(
            (counts.requests, counts.connections),
            (10, connections),
            "{most} {told}"
        );
    }
}

/// With as many connections as there may be, a request waits for a stream that becomes free.
#[test]
fn who_finds_all_streams_taken_waits() {
    let backend = Backend::new();
    let mut setup = h2c(Setup::http(&[backend.at]));
    setup.connections.max = Some(1);
    setup.connections.queue = 1;
    let lab = Lab::new(setup);
    let (mut first, mut second, mut third) = (lab.client(), lab.client(), lab.client());
    first.send(GET);
    let mut server = H2::accept(&backend, &max_streams(1));
    let (stream, _) = server.request();
    second.send(GET);
    until("it waits", || lab.pool().queued == 1);
    third.send(GET);
    assert_eq!(third.response().0, 503);
    lab.ended(Reason::QueueFull, 1);
    server.head(stream, OK, true);
    assert_eq!(first.response().0, 200);
    let (stream, _) = server.request();
    server.head(stream, OK, true);
    assert_eq!(second.response().0, 200);
    let counts = lab.backend(0);
    assert_eq!((counts.connections, counts.open, counts.requests), (1, 1, 2));
}

/// Two workers share one connection's place: the one that waits gets it once the other's requests are done.
#[test]
fn a_place_goes_from_worker_to_worker() {
    let at = echo();
    let mut setup = h2c(Setup::http(&[at]));
    setup.connections.max = Some(1);
    setup.workers = 2;
    let lab = Lab::new(setup);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let mut client = lab.client();
            std::thread::spawn(move || {
                for _ in 0..20 {
                    client.send(GET);
                    assert_eq!(client.response().0, 200);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    lab.ended(Reason::Ok, 160);
    assert!(lab.backend(0).open <= 1);
}

#[test]
fn connections_end_in_order() {
    // Idle for too long.
    let backend = Backend::new();
    let mut setup = h2c(Setup::http(&[backend.at]));
    setup.connections.idle_timeout = Duration::from_millis(10);
    let lab = Lab::new(setup);
    let mut client = lab.client();
    client.send(GET);
    let mut server = H2::accept(&backend, &[]);
    let (stream, _) = server.request();
    server.head(stream, OK, true);
    assert_eq!(client.response().0, 200);
    server.ends();
    until("it is closed", || lab.backend(0).open == 0);
    assert_eq!(lab.backend(0).idle, 0);
    // Its backend goes down: what has begun is finished.
    let backend = Backend::new();
    let (lab, mut client, mut server, stream) = one(&backend, GET);
    server.head(stream, OK, false);
    assert_eq!(status(&client.head()), 200);
    lab.words(DOWN);
    let mut other = lab.client();
    other.send(GET);
    assert_eq!(other.response().0, 503);
    server.data(stream, b"abc", true);
    assert_eq!(client.text(13), "3\r\nabc\r\n0\r\n\r\n");
    server.ends();
    until("it is closed", || lab.backend(0).open == 0);
}

/// Connections in advance.
#[test]
fn connections_are_kept_ready() {
    let backend = Backend::new();
    let mut setup = h2c(Setup::http(&[backend.at]));
    setup.connections.idle_min = 2;
    let lab = Lab::new(setup);
    let mut servers: Vec<_> = (0..2).map(|_| H2::accept(&backend, &[])).collect();
    until("they are there", || lab.backend(0).idle == 2);
    assert_eq!(lab.backend(0).warmed, 2);
    let mut client = lab.client();
    client.send(GET);
    let (stream, _) = servers[0].request();
    servers[0].head(stream, OK, true);
    assert_eq!(client.response().0, 200);
    assert!(backend.is_untouched());
    assert_eq!((lab.backend(0).connections, lab.backend(0).reused), (2, 0));
}

/// A backend that grants no window stops the client, and nothing is lost when it goes on.
#[test]
fn a_window_that_is_shut() {
    const SIZE: usize = 8 << 20;
    let backend = Backend::new();
    let lab = lab(&[backend.at]);
    let mut client = lab.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"
    ));
    let mut server = H2::accept(&backend, &window(0));
    let (stream, _) = server.request();
    let writer = client.stream.try_clone().unwrap();
    writer.set_nonblocking(true).unwrap();
    let bytes = pattern(0, SIZE, 3);
    let mut sent = 0;
    // What goes in before anybody takes it: sockets' buffers, no more.
    loop {
        match std::io::Write::write(&mut &writer, &bytes[sent..]) {
            Ok(n) => sent += n,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
    }
    assert!(sent < SIZE, "nothing holds the client back");
    writer.set_nonblocking(false).unwrap();
    let rest = bytes[sent..].to_vec();
    let sender = std::thread::spawn(move || std::io::Write::write_all(&mut &writer, &rest).unwrap());
    let more = u32::try_from(SIZE).unwrap().to_be_bytes();
    server.send(WINDOW_UPDATE, 0, 0, &more);
    server.send(WINDOW_UPDATE, 0, stream, &more);
    let mut got = 0;
    while got < SIZE {
        let frame = server.expect(DATA, stream);
        assert!(
            frame.payload == bytes[got..got + frame.payload.len()],
            "differs behind {got}"
        );
        got += frame.payload.len();
        assert_eq!(frame.flags & END_STREAM != 0, got == SIZE);
    }
    sender.join().unwrap();
    server.head(stream, OK, true);
    assert_eq!(client.response().0, 200);
}

/// A client that has begun a body and says no more holds nothing of the window that all requests of a connection share.
#[test]
fn an_upload_that_rests_stops_nobody() {
    let backend = Backend::new();
    let lab = lab(&[backend.at]);
    let mut resting = lab.client();
    resting.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
    let mut server = H2::accept(&backend, &[]);
    let (stream, _) = server.request();
    assert_eq!(server.expect(DATA, stream).payload, b"x");
    let mut other = lab.client();
    other.send(POST);
    let (stream, _) = server.request();
    assert_eq!(server.expect(DATA, stream).payload, b"body");
    server.head(stream, OK, true);
    assert_eq!(other.response().0, 200);
}

/// A client that does not read stops its own response, and nobody else's.
#[test]
fn a_client_that_does_not_read() {
    const SIZE: usize = 16 << 20;
    let at = serve(|request, mut send| async move {
        if request.uri().path() == "/small" {
            respond(send, Response::new(()), b"small", None);
            return;
        }
        let mut stream = send.send_response(Response::new(()), false).unwrap();
        let mut left = Bytes::from(pattern(0, SIZE, 5));
        while !left.is_empty() {
            stream.reserve_capacity(left.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                return;
            };
            stream
                .send_data(left.split_to(room.min(left.len())), false)
                .unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    });
    let lab = lab(&[at]);
    let mut slow: Vec<_> = (0..8).map(|_| lab.client()).collect();
    for client in &mut slow {
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for client in &mut slow {
        assert_eq!(status(&client.head()), 200);
    }
    let mut quick = lab.client();
    for _ in 0..20 {
        quick.send("GET /small HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(status(&quick.head()), 200);
        assert_eq!(quick.text(15), "5\r\nsmall\r\n0\r\n\r\n");
    }
    assert_eq!(lab.backend(0).connections, 1);
    for mut client in slow {
        let mut got = 0;
        while got < SIZE {
            let size = usize::from_str_radix(client.until("\r\n").trim(), 16).unwrap();
            assert!(
                client.exactly(size) == pattern(got, size, 5),
                "differs behind {got}"
            );
            got += size;
            assert_eq!(client.exactly(2), b"\r\n");
        }
        assert_eq!(client.text(5), "0\r\n\r\n");
    }
}
