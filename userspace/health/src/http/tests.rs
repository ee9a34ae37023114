//! The request's text, and heads read from a stream in memory.

use std::time::Duration;

use tokio::io::{DuplexStream, duplex};

use super::*;
use weir_core::plan::TlsCheck;

fn check() -> HttpCheck {
    HttpCheck {
        protocol: weir_core::plan::HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/healthz".into(),
        host: None,
        status: vec![(200, 299)],
    }
}

fn target(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_request_is_complete() {
    let check = HttpCheck {
        method: "HEAD".into(),
        host: Some("www.example.com".into()),
        ..check()
    };
    let expected = format!(
        "HEAD /healthz HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: weir-health/{}\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    assert_eq!(
        String::from_utf8(request(target("10.0.0.1:80"), &check).unwrap()).unwrap(),
        expected
    );
}

#[test]
fn the_host_is_the_target_unless_given() {
    for (address, tls, host) in [
        ("10.0.0.1:8080", false, "10.0.0.1:8080"),
        ("10.0.0.1:80", false, "10.0.0.1"),
        ("10.0.0.1:80", true, "10.0.0.1:80"),
        ("10.0.0.1:443", true, "10.0.0.1"),
        ("[2001:db8::1]:8080", false, "[2001:db8::1]:8080"),
        ("[2001:db8::1]:80", false, "[2001:db8::1]"),
        ("[fe80::1%7]:8080", false, "[fe80::1]:8080"),
    ] {
        let tls = tls.then_some(TlsCheck {
            verify: false,
            ca: None,
            server_name: None,
        });
        let request = request(target(address), &HttpCheck { tls, ..check() }).unwrap();
        let request = String::from_utf8(request).unwrap();
        assert!(request.contains(&format!("\r\nHost: {host}\r\n")), "{request}");
    }
}

#[test]
fn what_would_break_a_request_is_refused() {
    for (broken, what) in [
        (
            HttpCheck {
                method: "GET /x HTTP/1.1\r\nA:".into(),
                ..check()
            },
            "method",
        ),
        (
            HttpCheck {
                method: String::new(),
                ..check()
            },
            "method",
        ),
        (
            HttpCheck {
                path: "/a b".into(),
                ..check()
            },
            "path",
        ),
        (
            HttpCheck {
                path: String::new(),
                ..check()
            },
            "path",
        ),
        (
            HttpCheck {
                host: Some("a\r\nB: c".into()),
                ..check()
            },
            "host",
        ),
        (
            HttpCheck {
                host: Some("a\x7f".into()),
                ..check()
            },
            "host",
        ),
    ] {
        let failure = request(target("10.0.0.1:80"), &broken).unwrap_err();
        assert!(
            matches!(&failure, Failure::Internal(text) if text.contains(what)),
            "{failure}"
        );
    }
}

/// What the server sends, in pieces, before it closes.
async fn answer(pieces: &[&[u8]]) -> Result<u16, Failure> {
    let (client, mut server) = duplex(1024 * 1024);
    let sends = async {
        for piece in pieces {
            // The client may have read enough, and be gone.
            if server.write_all(piece).await.is_err() {
                break;
            }
            // Lets the client read this piece by itself.
            tokio::task::yield_now().await;
        }
        drop(server);
    };
    tokio::join!(exchange(client, b"request"), sends).0
}

#[tokio::test]
async fn answers_and_their_statuses() {
    for (text, status) in [
        ("HTTP/1.1 200 OK\r\nA: b\r\n\r\nbody", 200),
        ("HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("HTTP/1.0 503 Service Unavailable\r\n\r\n", 503),
        ("HTTP/1.1 200 \r\n\r\n", 200),
        ("HTTP/1.1 404\r\n\r\n", 404),
        ("HTTP/1.1 200 OK\nA: b\n\n", 200),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 201 Created\r\n\r\n",
            201,
        ),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101),
        ("HTTP/1.1 999 x\r\n\r\n", 999),
    ] {
        assert_eq!(answer(&[text.as_bytes()]).await, Ok(status), "{text:?}");
        let bytes: Vec<_> = text.as_bytes().chunks(1).collect();
        assert_eq!(answer(&bytes).await, Ok(status), "{text:?} byte by byte");
    }
}

#[tokio::test]
async fn answers_that_are_no_http() {
    for text in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "h",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 abc\r\n\r\n",
        "HTTP/1.1 20\r\n\r\n",
        "HTTP/1.1 099 x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nSSH-2.0\r\n",
    ] {
        let found = answer(&[text.as_bytes()]).await;
        assert!(matches!(found, Err(Failure::Malformed(_))), "{text:?}: {found:?}");
    }
}

#[tokio::test]
async fn answers_that_end_too_early() {
    let closed = |text: &str| Err(Failure::Closed(Phase::Response, text.into()));
    assert_eq!(answer(&[]).await, closed("end before an answer"));
    for text in [
        "H",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        assert_eq!(
            answer(&[text.as_bytes()]).await,
            closed("end within the head"),
            "{text:?}"
        );
    }
}

/// Sends the same again and again, for as long as it is read; how much that was.
async fn flood(mut server: DuplexStream, begin: &[u8], line: &[u8]) -> usize {
    let mut sent = 0;
    if server.write_all(begin).await.is_ok() {
        while server.write_all(line).await.is_ok() {
            sent += line.len();
            tokio::task::yield_now().await;
        }
    }
    sent
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    for (begin, line) in [
        ("HTTP/1.1 200 OK\r\n", "A: b\r\n"),
        ("HTTP/1.1 200 ", "xxxxxxxxxxxxxxxx"),
        ("", "HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let (client, server) = duplex(4096);
        let both = async {
            tokio::join!(
                exchange(client, b"x"),
                flood(server, begin.as_bytes(), line.as_bytes())
            )
        };
        let (found, sent) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
        assert!(
            matches!(&found, Err(Failure::Malformed(text)) if text.contains("64 KiB")),
            "{found:?}"
        );
        assert!((MAX_HEAD - 4096..=MAX_HEAD + 8192).contains(&sent), "{sent}");
    }
}

#[tokio::test]
async fn too_many_headers_are_no_http() {
    let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
    assert!(matches!(
        answer(&[text.as_bytes()]).await,
        Err(Failure::Malformed(_))
    ));
    let text = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS));
    assert_eq!(answer(&[text.as_bytes()]).await, Ok(200));
}

#[tokio::test]
async fn an_answer_counts_though_the_request_was_not_read() {
    // Room for a byte: the request can't be written whole, and then the server is gone.
    let (client, mut server) = duplex(64);
    let sends = async {
        server
            .write_all(b"HTTP/1.1 413 Content Too Large\r\n\r\n")
            .await
            .unwrap();
        drop(server);
    };
    let (found, ()) = tokio::join!(exchange(client, &[b'x'; 1000]), sends);
    assert_eq!(found, Ok(413));

    let (client, server) = duplex(64);
    drop(server);
    let found = exchange(client, &[b'x'; 1000]).await;
    assert!(
        matches!(found, Err(Failure::Closed(Phase::Response, _))),
        "{found:?}"
    );
}
