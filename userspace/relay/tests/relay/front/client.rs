//! A client that speaks HTTP/2 by the `h2` crate, used from a thread that may block: its connection lives on another.

use std::{future::poll_fn, net::SocketAddr};

use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    client::{Builder, ResponseFuture, SendRequest},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    net::TcpStream,
    runtime::{Builder as RuntimeBuilder, Handle},
    sync::oneshot,
    task::JoinHandle,
};

use crate::support::PATIENCE;

pub(super) struct Client {
    pub(super) runtime: Handle,
    /// The thread that its connection lives on ends when this is dropped.
    _until: oneshot::Sender<()>,
    send: SendRequest<Bytes>,
    connection: Option<JoinHandle<Result<(), h2::Error>>>,
}

/// A request under way.
pub(super) struct Asked<'c> {
    client: &'c Client,
    pub(super) response: Option<ResponseFuture>,
    pub(super) send: SendStream<Bytes>,
}

/// A response, read whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<HeaderMap>,
}

impl Client {
    pub(super) fn connect(at: SocketAddr) -> Self {
        Self::with(at, &Builder::new())
    }

    pub(super) fn with(at: SocketAddr, builder: &Builder) -> Self {
        let (until, dropped) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = RuntimeBuilder::new_current_thread().enable_all().build().unwrap();
            started.send(runtime.handle().clone()).unwrap();
            let _: Result<(), _> = runtime.block_on(dropped);
        });
        let runtime = start.recv().unwrap();
        let (send, connection) = runtime.block_on(async {
            let stream = TcpStream::connect(at).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (send, connection) = builder.handshake::<_, Bytes>(stream).await.unwrap();
            (send, tokio::spawn(connection))
        });
        Self {
            runtime,
            _until: until,
            send,
            connection: Some(connection),
        }
    }

    /// Waits, but not for ever.
    pub(super) fn wait<F: Future>(&self, future: F) -> F::Output {
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
    }

    /// Sends a request's head; `end` if that is all of it.
    pub(super) fn ask(&self, request: Request<()>, end: bool) -> Asked<'_> {
        let mut send = self.wait(self.send.clone().ready()).unwrap();
        let (response, send) = send.send_request(request, end).unwrap();
        Asked {
            client: self,
            response: Some(response),
            send,
        }
    }

    pub(super) fn get(&self, path: &str) -> Asked<'_> {
        self.ask(get(path), true)
    }

    /// Waits until the connection takes no more requests.
    pub(super) fn refuses_more(&self) {
        crate::support::until("it takes no more requests", || {
            let mut sender = self.send.clone();
            let ready = self.runtime.block_on(async {
                tokio::time::timeout(PATIENCE, poll_fn(|cx| sender.poll_ready(cx))).await
            });
            ready.unwrap().is_err()
        });
    }

    /// The end of the connection, as its client sees it.
    pub(super) fn ended(mut self) -> Result<(), h2::Error> {
        let connection = self.connection.take().unwrap();
        drop(self.send);
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap() })
    }
}

impl Asked<'_> {
    pub(super) fn head(&mut self) -> Result<Response<RecvStream>, h2::Error> {
        self.client.wait(self.response.take().unwrap())
    }

    pub(super) fn send(&mut self, data: impl Into<Bytes>, end: bool) {
        self.send.send_data(data.into(), end).unwrap();
    }

    pub(super) fn reset(&mut self, reason: Reason) {
        self.send.send_reset(reason);
    }

    pub(super) fn answer(mut self) -> Result<Answer, h2::Error> {
        let (parts, mut body) = self.head()?.into_parts();
        let (data, trailers) = self.client.wait(async {
            let mut data = Vec::new();
            while let Some(piece) = body.data().await {
                let piece = piece?;
                body.flow_control().release_capacity(piece.len())?;
                data.extend_from_slice(&piece);
            }
            Ok::<_, h2::Error>((data, body.trailers().await?))
        })?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: data,
            trailers,
        })
    }

    /// The code that the stream is reset with.
    pub(super) fn reset_code(&mut self) -> Reason {
        let send = &mut self.send;
        self.client.wait(poll_fn(|cx| send.poll_reset(cx))).unwrap()
    }
}

impl Answer {
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(super) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://a.example{path}")).body(()).unwrap()
}

pub(super) fn post(path: &str) -> Request<()> {
    Request::post(format!("http://a.example{path}")).body(()).unwrap()
}
