//! The HTTP endpoint for operators: `/metrics`, `/healthz`, `/readyz`, and a status page at `/`.
//!
//! Reads only; whoever can reach the address can read. It listens on loopback unless the configuration says otherwise.

use std::{convert::Infallible, net::SocketAddr, rc::Rc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::timeout};
use tracing::{debug, warn};

use crate::{
    admin::{metrics, page},
    control::{self, Ask},
};

/// From the first byte of a request to the end of its head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection lives no longer than this.
const CONNECTION: Duration = Duration::from_secs(300);
/// Open connections at once.
const MAX_CONNECTIONS: usize = 64;

/// The endpoint, served until it is dropped.
pub(crate) struct Endpoint {
    /// Where it listens.
    pub(crate) addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Binds and serves.
    ///
    /// # Errors
    /// The address can't be bound.
    pub(crate) async fn serve(addr: SocketAddr, control: mpsc::Sender<Ask>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr).await.with_context(|| {
            format!("admin.http {addr}: can't be bound; choose another address, or \"off\" to do without")
        })?;
        let addr = listener.local_addr().context("admin.http")?;
        let task = tokio::task::spawn_local(accept(listener, control));
        Ok(Self { addr, task })
    }
}

impl Endpoint {
    /// Lets go of the address: it can be bound anew once this has returned.
    pub(crate) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, control: mpsc::Sender<Ask>) {
    let slots = Rc::new(());
    loop {
        match listener.accept().await {
            Ok((stream, _)) if Rc::strong_count(&slots) <= MAX_CONNECTIONS => {
                let slot = Rc::clone(&slots);
                let control = control.clone();
                tokio::task::spawn_local(async move {
                    let service = service_fn(move |request| {
                        let control = control.clone();
                        async move { Ok::<_, Infallible>(answer(&request, &control).await) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIMEOUT)
                        .serve_connection(TokioIo::new(stream), service);
                    match timeout(CONNECTION, connection).await {
                        Ok(Ok(())) | Err(_) => {}
                        Ok(Err(error)) => debug!(%error, "an admin connection ended"),
                    }
                    drop(slot);
                });
            }
            Ok(_) => debug!(
                limit = MAX_CONNECTIONS,
                "admin.http: too many connections, one was closed"
            ),
            Err(error) => {
                warn!(%error, "admin.http: accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(request: &Request<Incoming>, control: &mpsc::Sender<Ask>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        refused
            .headers_mut()
            .insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match control::view(control).await {
            Some((status, _)) if status.ready => text(StatusCode::OK, "ready\n"),
            Some((status, _)) => {
                let waiting = format!("not ready, waiting for {}\n", status.waiting_for.join(", "));
                text(StatusCode::SERVICE_UNAVAILABLE, &waiting)
            }
            None => stopping(),
        },
        "/metrics" => match control::scrape(control).await {
            Some(scrape) => match metrics::render(&scrape) {
                Ok(body) => typed(StatusCode::OK, metrics::CONTENT_TYPE, body),
                Err(e) => text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("metrics can't be written: {e}\n"),
                ),
            },
            None => stopping(),
        },
        "/" => match control::view(control).await {
            Some((status, pools)) => typed(
                StatusCode::OK,
                "text/html; charset=utf-8",
                page::render(&status, &pools),
            ),
            None => stopping(),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "not here; try /, /metrics, /healthz, /readyz\n",
        ),
    }
}

fn stopping() -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, "weir is stopping\n")
}

fn text(status: StatusCode, body: &str) -> Answer {
    typed(status, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    answer
}
