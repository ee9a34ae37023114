//! The exchange of a check in HTTP/2: one request, the head of its final answer (RFC 9113).
//!
//! Owns what is asked and what an error means. Never judges the status, never keeps time.

use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    task::Poll,
};

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture};
use http::{Method, Request, uri};
use tokio::io::{AsyncRead, AsyncWrite};
use weir_core::{
    health::{Failure, Phase},
    plan::HttpCheck,
};

use crate::{failure, http as http1};

/// Longest head of an answer, as HTTP/2 counts it.
const MAX_HEAD: u32 = 64 * 1024;

/// The request of a check. Fails, as our own fault, if a part of it can't be said.
pub(crate) fn request(target: SocketAddr, check: &HttpCheck) -> Result<Request<()>, Failure> {
    let host = http1::host(target, check);
    let internal = |what: &str, text: &str| {
        let text = format!("the check's {what} {text:?} can't be said in HTTP/2");
        Failure::Internal(text)
    };
    let method =
        Method::from_bytes(check.method.as_bytes()).map_err(|_| internal("method", &check.method))?;
    let mut parts = uri::Parts::default();
    parts.scheme = Some(match check.tls {
        Some(_) => uri::Scheme::HTTPS,
        None => uri::Scheme::HTTP,
    });
    parts.authority = Some(host.parse().map_err(|_| internal("host", &host))?);
    parts.path_and_query = Some(check.path.parse().map_err(|_| internal("path", &check.path))?);
    let uri = uri::Uri::from_parts(parts).map_err(|_| internal("path", &check.path))?;
    Request::builder()
        .method(method)
        .uri(uri)
        .header("user-agent", http1::USER_AGENT)
        .header("accept", "*/*")
        .body(())
        .map_err(|error| Failure::Internal(error.to_string()))
}

/// Sends the request and waits for the head of the final answer: its status.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<()>,
) -> Result<u16, Failure> {
    let handshake = Builder::new()
        .enable_push(false)
        .max_header_list_size(MAX_HEAD)
        .handshake::<_, Bytes>(stream);
    let (mut sender, connection) = handshake.await.map_err(|e| failed(&e))?;
    let (response, _) = sender.send_request(request, true).map_err(|e| failed(&e))?;
    let mut connection = pin!(connection);
    let status = {
        let mut response: std::pin::Pin<&mut ResponseFuture> = pin!(response);
        poll_fn(|cx| {
            // The connection first: it brings what the answer waits for, or the reason why there is none.
            let ended = connection.as_mut().poll(cx);
            match (response.as_mut().poll(cx), ended) {
                (Poll::Ready(Ok(response)), _) => Poll::Ready(Ok(response.status().as_u16())),
                (_, Poll::Ready(Err(error))) | (Poll::Ready(Err(error)), _) => {
                    Poll::Ready(Err(failed(&error)))
                }
                (Poll::Pending, Poll::Ready(Ok(()))) => {
                    let text = "end before an answer".into();
                    Poll::Ready(Err(Failure::Closed(Phase::Response, text)))
                }
                (Poll::Pending, Poll::Pending) => Poll::Pending,
            }
        })
        .await?
    };
    drop(sender);
    // A word of farewell, as far as it goes at once.
    poll_fn(|cx| {
        let _ = connection.as_mut().poll(cx);
        Poll::Ready(())
    })
    .await;
    Ok(status)
}

fn failed(error: &h2::Error) -> Failure {
    match error.get_io() {
        Some(error) => failure::stream(Phase::Response, error),
        None if error.is_remote() => Failure::Closed(Phase::Response, error.to_string()),
        None => Failure::Malformed(error.to_string()),
    }
}
