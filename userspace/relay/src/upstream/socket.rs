//! A connection's socket towards a backend, and what of this side's is given back when it closes: its source port.
//!
//! Owns the question how a connection ended, as far as it concerns the port: only the side that closes first has TIME_WAIT
//! (RFC 9293 section 3.6), and none that ends by RST. The system is asked, when the socket closes and when this side's
//! bytes end; that costs a few calls per connection, and nothing where no port of weir's own is held.

use std::{
    io,
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use weir_core::ports::End;

use super::source::Lease;
use crate::stream::{Stream, has_ended};

/// How long a backend has to end by itself, where this side would reset: from the client's end, or its own last byte.
const GOODBYE: Duration = Duration::from_secs(1);

/// A socket to a backend. Dropping it closes it, and gives its port back.
pub(crate) struct BackendSocket {
    stream: TcpStream,
    /// After the socket, since fields are dropped in order: a port is given back when it is free.
    kept: Option<Box<Kept>>,
}

/// What a socket has besides, if its pool says where connections come from.
struct Kept {
    lease: Option<Lease>,
    /// It ends by RST where this side ends first.
    reset: bool,
    /// This side ended its bytes, and the other had not yet.
    ended_first: bool,
    /// How long the other side has for its end, before it is reset.
    goodbye: Option<Pin<Box<Sleep>>>,
}

impl BackendSocket {
    /// One of which nothing is to be known.
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { stream, kept: None }
    }

    /// One with a source port of weir's own, or that ends by RST.
    pub(super) fn kept(stream: TcpStream, lease: Option<Lease>, reset: bool) -> Self {
        let needed = lease.is_some() || reset;
        let kept = needed.then(|| {
            Box::new(Kept {
                lease,
                reset,
                ended_first: false,
                goodbye: None,
            })
        });
        Self { stream, kept }
    }

    /// Notes that this side's bytes end now. True: they shall not be ended by FIN.
    fn ends(&mut self) -> bool {
        let Some(kept) = &mut self.kept else { return false };
        if kept.reset {
            kept.goodbye.get_or_insert_with(|| Box::pin(sleep(GOODBYE)));
            return true;
        }
        if !has_ended(&self.stream).unwrap_or(true) {
            kept.ended_first = true;
        }
        false
    }

    /// Bytes have come: the other side is at work still.
    fn heard(&mut self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(1..)) = polled
            && let Some(goodbye) = self.kept.as_mut().and_then(|kept| kept.goodbye.as_mut())
        {
            goodbye.as_mut().reset(Instant::now() + GOODBYE);
        }
    }
}

impl Drop for BackendSocket {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            let end = close(&self.stream, kept.ended_first, kept.reset);
            if let Some(lease) = &kept.lease {
                lease.ends(end);
            }
        }
    }
}

/// What a socket leaves behind that is closed next. With `reset`, it is made to leave nothing.
fn close(stream: &TcpStream, ended_first: bool, reset: bool) -> End {
    if has_ended(stream).unwrap_or(false) {
        // Who ended second has no TIME_WAIT, nor has a connection that was reset. If this side was first, a reset that came
        // later can't be told from an end in order any more.
        return if ended_first { End::Rest } else { End::Free };
    }
    if reset {
        // If it can't be set, the connection ends by FIN.
        let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
    }
    let resets = matches!(sockopt::socket_linger(stream), Ok(Some(Duration::ZERO)));
    // What was received and not read makes a reset of the close, too.
    let unread = rustix::io::ioctl_fionread(stream).unwrap_or(0);
    // One that was never established has no other side.
    let connected = rustix::net::getpeername(stream).is_ok_and(|peer| peer.is_some());
    match connected && !resets && unread == 0 {
        true => End::Rest,
        false => End::Free,
    }
}

impl Deref for BackendSocket {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsFd for BackendSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Stream for BackendSocket {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let polled = self.stream.poll_recv(cx, buf);
        self.heard(&polled);
        polled
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_send(cx, buf)
    }

    fn poll_send_rest(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_send_rest(cx, buf)
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_send_last(cx, buf)
    }

    fn finish(&mut self) -> io::Result<()> {
        match self.ends() {
            true => Ok(()),
            false => self.stream.finish(),
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        let goodbye = self.kept.as_mut().and_then(|kept| kept.goodbye.as_mut());
        goodbye.is_some_and(|goodbye| goodbye.as_mut().poll(cx).is_ready())
    }

    fn reset_on_drop(&mut self) {
        self.stream.reset_on_drop();
    }
}

impl AsyncRead for BackendSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for BackendSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.ends() {
            true => Poll::Ready(Ok(())),
            false => Pin::new(&mut self.stream).poll_shutdown(cx),
        }
    }
}
