//! WebSocket to backends of HTTP/2: by extended CONNECT (RFC 8441), whatever the client has asked by.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::ext::Protocol;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use weir_core::plan::WebSocket;
use weir_relay::Reason;

use super::client::Client;
use crate::{
    h2::{h2c, serve_by},
    support::{Lab, Setup, value},
};

/// A backend that answers extended CONNECT with this status, says `first`, and gives every byte back, until the end.
fn echo(status: StatusCode) -> SocketAddr {
    let mut settings = h2::server::Builder::new();
    settings.enable_connect_protocol();
    serve_by(
        settings,
        move |request: Request<h2::RecvStream>, mut send| async move {
            let protocol = request.extensions().get::<Protocol>().map(Protocol::as_str);
            assert_eq!(
                (request.method(), protocol),
                (&Method::CONNECT, Some("websocket"))
            );
            assert_eq!(request.uri().scheme_str(), Some("http"));
            assert_eq!(request.uri().authority().map(|a| a.as_str()), Some("a.example"));
            assert_eq!(request.uri().path(), "/chat");
            assert_eq!(request.headers()["sec-websocket-protocol"], "chat");
            for gone in ["sec-websocket-key", "upgrade", "connection"] {
                assert!(!request.headers().contains_key(gone), "{gone}");
            }
            let mut response = Response::new(());
            *response.status_mut() = status;
            let chosen = HeaderValue::from_static("chat");
            response.headers_mut().insert("sec-websocket-protocol", chosen);
            if !status.is_success() {
                send.send_response(response, true).unwrap();
                return;
            }
            let mut to = send.send_response(response, false).unwrap();
            to.send_data(Bytes::from_static(b"first"), false).unwrap();
            let mut from = request.into_body();
            while let Some(data) = from.data().await {
                let Ok(data) = data else { return };
                from.flow_control().release_capacity(data.len()).unwrap();
                to.send_data(data, false).unwrap();
            }
            to.send_data(Bytes::from_static(b"bye"), true).unwrap();
        },
    )
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n";

#[test]
fn a_client_of_http1_gets_its_101() {
    for strict in [false, true] {
        let lab = Lab::new(h2c(Setup::http_with(&[echo(StatusCode::OK)], |http| {
            http.websocket = WebSocket {
                strict,
                ..WebSocket::default()
            };
        })));
        let mut client = lab.client();
        client.send(ASK);
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert_eq!(value(&head, "upgrade").as_deref(), Some("websocket"));
        // The example of RFC 6455 section 1.3.
        assert_eq!(
            value(&head, "sec-websocket-accept").as_deref(),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(value(&head, "sec-websocket-protocol").as_deref(), Some("chat"));
        assert_eq!(client.text(5), "first");
        client.send("to the backend");
        assert_eq!(client.text(14), "to the backend");
        client.finish();
        assert_eq!(client.rest(), "bye");
        lab.ended(Reason::Ok, 1);
    }
}

#[test]
fn a_client_of_http2_gets_its_success() {
    let lab = Lab::new(h2c(Setup::http(&[echo(StatusCode::OK)])));
    let client = Client::connect(lab.at);
    let mut ask = Request::new(());
    *ask.method_mut() = Method::CONNECT;
    *ask.uri_mut() = "http://a.example/chat".parse().unwrap();
    ask.extensions_mut().insert(Protocol::from_static("websocket"));
    let headers = ask.headers_mut();
    headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
    headers.insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    let mut asked = client.ask(ask, false);
    let response = asked.head().unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut body = response.into_body();
    let mut read = |count: usize| {
        let mut have = Vec::new();
        while have.len() < count {
            let data = client.wait(body.data()).unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            have.extend_from_slice(&data);
        }
        have
    };
    assert_eq!(read(5), b"first");
    asked.send(Bytes::from_static(b"to and fro"), false);
    assert_eq!(read(10), b"to and fro");
    asked.send(Bytes::new(), true);
    assert_eq!(read(3), b"bye");
    lab.ended(Reason::Ok, 1);
}

#[test]
fn a_backend_may_refuse() {
    let lab = Lab::new(h2c(Setup::http(&[echo(StatusCode::FORBIDDEN)])));
    let mut client = lab.client();
    client.send(ASK);
    assert_eq!(client.response().0, 403);
    lab.ended(Reason::Ok, 1);
}
