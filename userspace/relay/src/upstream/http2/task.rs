//! One connection from its first packet to its end: connect, shake hands, drive, ask whether anybody is there.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use h2::{
    Ping, PingPong,
    client::{Builder, Connection, SendRequest},
};
use tokio::time::{Sleep, sleep, timeout};
use weir_core::plan::Http2;

use super::{
    Conn, Place, State,
    io::Counted,
    stream::{self, Chunk},
};
use crate::{
    reason::{Cause, Trouble},
    stream::Socket,
    upstream::{
        connect::{poll_connected, secured},
        peer::Peer,
        pool::LocalPool,
        slots::Slot,
    },
};

/// Bytes of a request that a stream may have handed over and not sent yet.
const SEND_BUFFER: usize = 64 << 10;

/// The most that a connection's window may be (RFC 9113 section 6.9.1).
const WINDOW_MAX: u32 = (1 << 31) - 1;

type Driven = Connection<Counted, Chunk>;

/// Begins a connection; answers with the first place on it.
/// `ahead`: nobody waits for it.
pub(crate) fn dial(pool: &Rc<LocalPool>, peer: &Rc<Peer>, slot: Slot, ahead: bool) -> Place {
    let settings = peer.http2.get();
    let conn = Rc::new(Conn::new(
        &peer.backend,
        &peer.cell,
        settings.streams,
        settings.window,
    ));
    peer.add_conn(&conn);
    let place = conn.place();
    let task = Task {
        conn,
        peer: Rc::clone(peer),
        pool: Rc::clone(pool),
        settings,
        ahead,
    };
    tokio::task::spawn_local(async move { task.run(slot).await });
    place
}

struct Task {
    conn: Rc<Conn>,
    peer: Rc<Peer>,
    pool: Rc<LocalPool>,
    settings: Http2,
    ahead: bool,
}

impl Task {
    /// Holds the backend's place until the socket is closed.
    async fn run(self, slot: Slot) {
        let began = Instant::now();
        let ended = match self.connect().await {
            Ok((sender, driven, heard)) => {
                self.pool.cell.connect.observe(began.elapsed());
                self.begin(sender);
                self.drive(driven, &heard).await;
                None
            }
            Err(trouble) => {
                self.peer.cell.error(trouble.cause);
                self.peer.failed(Instant::now());
                Some(trouble)
            }
        };
        self.conn.set_idle(None);
        self.conn.state.set(State::Ended(ended));
        self.conn.sender.borrow_mut().take();
        self.peer.remove_conn(&self.conn);
        drop(slot);
        self.conn.wake_all();
    }

    /// From nothing to the backend's first SETTINGS.
    async fn connect(&self) -> Result<(SendRequest<Chunk>, Driven, Rc<Cell<bool>>), Trouble> {
        let most = self.pool.bounds().connect;
        let stream = self.pool.begin_connect(&self.peer)?;
        let Some(secure) = self.peer.secure() else {
            let shaken = timeout(most, async {
                poll_fn(|cx| poll_connected(&stream, cx)).await?;
                self.shake(Socket::Backend(stream)).await
            });
            return shaken.await.unwrap_or(Err(Cause::TimeoutConnect.into()));
        };
        let connected = timeout(most, poll_fn(|cx| poll_connected(&stream, cx))).await;
        connected.unwrap_or(Err(Cause::TimeoutConnect))?;
        let stream = secured(Some(secure), stream, most).await?;
        let shaken = timeout(most, self.shake(stream)).await;
        shaken.unwrap_or(Err(Cause::TimeoutConnect.into()))
    }

    /// To the backend's first SETTINGS.
    async fn shake(&self, stream: Socket) -> Result<(SendRequest<Chunk>, Driven, Rc<Cell<bool>>), Trouble> {
        let heard = Rc::new(Cell::new(false));
        let io = Counted {
            stream,
            cell: Arc::clone(&self.peer.cell),
            heard: Rc::clone(&heard),
        };
        let Http2 { streams, window, .. } = self.settings;
        let (sender, mut driven) = Builder::new()
            .enable_push(false)
            // None are known before the backend has said how many it takes.
            .initial_max_send_streams(0)
            .initial_window_size(window)
            // No stream that is not read ever stops another.
            .initial_connection_window_size(window.saturating_mul(streams.saturating_add(1)).min(WINDOW_MAX))
            .max_header_list_size(self.pool.bounds().head)
            .max_send_buffer_size(SEND_BUFFER)
            // Requests that clients break off are no fault of the backend's: what it has sent for them meanwhile is
            // known for what it is, and the connection, which others share, never ends for it.
            .max_concurrent_reset_streams((streams as usize).saturating_mul(2))
            .reset_stream_duration(Duration::from_secs(30))
            .max_local_error_reset_streams(None)
            .handshake(io)
            .await
            .map_err(|error| stream::trouble(&error))?;
        poll_fn(|cx| {
            let driven = Pin::new(&mut driven).poll(cx);
            if sender.current_max_send_streams() > 0 {
                return Poll::Ready(Ok(()));
            }
            match driven {
                Poll::Ready(Err(error)) => Poll::Ready(Err(stream::trouble(&error))),
                Poll::Ready(Ok(())) => Poll::Ready(Err(Cause::Closed.into())),
                Poll::Pending => Poll::Pending,
            }
        })
        .await?;
        Ok((sender, driven, heard))
    }

    /// It is connected: those that wait get their streams.
    fn begin(&self, sender: SendRequest<Chunk>) {
        let conn = &self.conn;
        self.peer.cell.connections.add(1);
        if self.ahead {
            self.peer.cell.warmed.add(1);
        }
        self.peer.chill.set(None);
        *conn.sender.borrow_mut() = Some(sender);
        conn.state.set(State::Ready);
        if conn.places() == 0 {
            conn.set_idle(Some(Instant::now()));
        }
        if !self.peer.takes_new() {
            conn.leave();
        }
        conn.wake_all();
    }

    /// Moves frames until the end.
    async fn drive(&self, mut driven: Driven, heard: &Cell<bool>) {
        let mut watch = driven
            .ping_pong()
            .zip(self.settings.ping)
            .map(|(pings, every)| Watch {
                pings,
                every,
                patience: self.settings.ping_timeout,
                asked: false,
                sleep: Box::pin(sleep(every)),
            });
        poll_fn(|cx| {
            let ended = Pin::new(&mut driven).poll(cx).is_ready();
            // A GOAWAY shows in that no stream may be begun.
            let gone = match &mut *self.conn.sender.borrow_mut() {
                Some(sender) => matches!(sender.poll_ready(cx), Poll::Ready(Err(_))),
                None => false,
            };
            if gone {
                self.conn.leave();
            }
            if ended {
                return Poll::Ready(());
            }
            if watch.as_mut().is_some_and(|watch| watch.is_silent(cx, heard)) {
                self.conn.silent.set(true);
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        // Whatever streams there still are end with it.
        drop(driven);
    }
}

/// Asks a silent backend whether it is still there.
struct Watch {
    pings: PingPong,
    every: Duration,
    patience: Duration,
    /// An answer is due.
    asked: bool,
    sleep: Pin<Box<Sleep>>,
}

impl Watch {
    /// Whether the backend has neither said anything nor answered in time.
    fn is_silent(&mut self, cx: &mut Context<'_>, heard: &Cell<bool>) -> bool {
        // It is taken out, so that another can be sent.
        let _ = self.pings.poll_pong(cx);
        if self.asked && heard.replace(false) {
            self.asked = false;
            self.sleep
                .as_mut()
                .reset(tokio::time::Instant::now() + self.every);
        }
        loop {
            if self.sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
            let next = match (heard.replace(false), self.asked) {
                (true, _) => self.every,
                (false, true) => return true,
                (false, false) => {
                    self.asked = true;
                    // One that is under way still will do.
                    let _ = self.pings.send_ping(Ping::opaque());
                    self.patience
                }
            };
            self.sleep.as_mut().reset(tokio::time::Instant::now() + next);
        }
    }
}
