//! How connections over TLS end: `close_notify` both ways, half-close, and what was cut.

use std::io::{ErrorKind, Read};

use weir_relay::Reason;

use super::{Authority, BOTH, EACH, connect, head, send, text};
use crate::support::{Backend, Lab, Setup, pattern, status};

/// In order: the relay says so, before the connection below ends.
fn ends_in_order(stream: &mut super::Stream) {
    let mut rest = Vec::new();
    // rustls calls an end without `close_notify` an unexpected one.
    stream.read_to_end(&mut rest).unwrap();
    assert_eq!(String::from_utf8_lossy(&rest), "");
}

fn https(authority: &Authority, backend: &Backend) -> Setup {
    let mut setup = Setup::http(&[backend.at]);
    setup.front = Some(authority.front(&[], |_| {}));
    setup
}

#[test]
fn the_relay_says_when_it_ends() {
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let lab = Lab::new(https(&authority, &backend));
        let config = authority.client(&[], versions);
        // After a response that ends the connection.
        let mut client = connect(&lab, &config, "www.test");
        send(
            &mut client,
            "GET / HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n",
        );
        let mut there = backend.accept();
        there.head();
        there.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(status(&head(&mut client)), 200);
        assert_eq!(text(&mut client, 2), "ok");
        ends_in_order(&mut client);
        // After a refusal.
        let mut client = connect(&lab, &config, "www.test");
        send(&mut client, "nonsense\r\n\r\n");
        assert_eq!(status(&head(&mut client)), 400);
        // And after the client's own end.
        let mut client = connect(&lab, &config, "www.test");
        client.conn.send_close_notify();
        client.conn.complete_io(&mut client.sock).unwrap();
        ends_in_order(&mut client);
    }
}

#[test]
fn a_body_until_the_end_is_whole_only_if_the_end_is_said() {
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let lab = Lab::new(https(&authority, &backend));
        let config = authority.client(&[], versions);
        for whole in [true, false] {
            let mut client = connect(&lab, &config, "www.test");
            // HTTP/1.0 knows no chunks: only the end tells.
            send(&mut client, "GET / HTTP/1.0\r\n\r\n");
            let mut there = backend.accept();
            there.head();
            if whole {
                there.send("HTTP/1.1 200 OK\r\n\r\nsome text");
            } else {
                there.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nsome text\r\n");
            }
            head(&mut client);
            assert_eq!(text(&mut client, 9), "some text");
            drop(there);
            let ended = client.read(&mut [0; 16]);
            match whole {
                true => assert_eq!(ended.unwrap(), 0),
                false => {
                    let error = ended.unwrap_err();
                    assert!(
                        matches!(
                            error.kind(),
                            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
                        ),
                        "{error}"
                    );
                }
            }
        }
        lab.ended(Reason::BackendCut, 1);
    }
}

#[test]
fn a_request_body_that_is_cut_is_no_request() {
    let (authority, backend) = (Authority::new(), Backend::new());
    let lab = Lab::new(https(&authority, &backend));
    let mut client = connect(&lab, &authority.client(&[], BOTH), "www.test");
    send(
        &mut client,
        "POST / HTTP/1.1\r\nHost: www.test\r\nContent-Length: 10\r\n\r\nhalf",
    );
    let mut there = backend.accept();
    there.head();
    assert_eq!(there.text(4), "half");
    // The connection below ends, without a word on it.
    client.sock.shutdown(std::net::Shutdown::Write).unwrap();
    lab.ended(Reason::ClientClosed, 1);
}

#[test]
fn a_tunnel_ends_one_way_at_a_time() {
    const SIZE: usize = 3_000_000;
    for (_, versions) in EACH {
        let (authority, backend) = (Authority::new(), Backend::new());
        let mut setup = Setup::tcp(&[backend.at]);
        setup.front = Some(authority.front(&["tunnel"], |_| {}));
        let lab = Lab::new(setup);
        let mut client = connect(&lab, &authority.client(&["tunnel"], versions), "www.test");
        send(&mut client, "all I have to say");
        client.conn.send_close_notify();
        client.conn.complete_io(&mut client.sock).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut there = backend.accept();
                assert_eq!(there.rest(), "all I have to say");
                // The other way is open still.
                there.send(pattern(0, SIZE, 3));
            });
            std::thread::park_timeout(super::SHORT);
            let mut all = vec![0; SIZE];
            client.read_exact(&mut all).unwrap();
            assert!(all == pattern(0, SIZE, 3));
            ends_in_order(&mut client);
        });
        lab.ended(Reason::Ok, 1);
    }
}

#[test]
fn an_idle_connection_ends_in_order() {
    let (authority, backend) = (Authority::new(), Backend::new());
    let mut setup = Setup::http_with(&[backend.at], |http| http.timeouts.request_head = super::SHORT);
    setup.front = Some(authority.front(&[], |_| {}));
    let lab = Lab::new(setup);
    let mut client = connect(&lab, &authority.client(&[], BOTH), "www.test");
    ends_in_order(&mut client);
}
