//! The connection's bytes as the `h2` crate reads and writes them: what came ahead of it first, and everything watched.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{http2::watch::Watch, stream::Stream, worker::Worker};

/// A connection's transport, watched. It outlives the `h2` crate's connection, which can't end it gently.
pub(super) struct Io<S> {
    pub(super) transport: Rc<RefCell<S>>,
    pub(super) worker: Rc<Worker>,
    pub(super) watch: Rc<RefCell<Watch>>,
    /// What was read before, or stands for it; from `at` on it is to be read.
    pub(super) ahead: Vec<u8>,
    pub(super) at: usize,
}

impl<S: Stream> Io<S> {
    /// Reads once.
    fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        if let Some(rest) = self.ahead.get(self.at..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..n).unwrap_or_default());
            self.at += n;
            if self.at == self.ahead.len() {
                self.ahead = Vec::new();
                self.at = 0;
            }
            return Poll::Ready(Ok(n));
        }
        match self
            .transport
            .borrow_mut()
            .poll_recv(cx, buf.initialize_unfilled())
        {
            Poll::Ready(Ok(n)) => {
                buf.advance(n);
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: Stream> AsyncRead for Io<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever holds the connection ends it; until then nothing more is taken in.
        if this.watch.borrow().is_over() || this.watch.borrow().broken().is_some() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        match this.poll_some(cx, buf) {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        let read = buf.filled().get(before..).unwrap_or_default();
        let sound = this.watch.borrow_mut().received(read, this.worker.clock.now());
        if sound == read.len() {
            return Poll::Ready(Ok(()));
        }
        buf.set_filled(before + sound);
        match sound {
            // Nothing read would mean that the client has ended.
            0 => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl<S: Stream> Io<S> {
    fn note(&self, bufs: &[IoSlice<'_>], sent: usize) {
        let (mut watch, now) = (self.watch.borrow_mut(), self.worker.clock.now());
        let mut left = sent;
        for buf in bufs {
            let here = buf.len().min(left);
            watch.sent(buf.get(..here).unwrap_or_default(), now);
            left -= here;
        }
    }
}

impl<S: Stream> AsyncWrite for Io<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = this.transport.borrow_mut().poll_send_vectored(cx, bufs);
        if let Poll::Ready(Ok(sent)) = polled {
            this.note(bufs, sent);
        }
        polled
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().transport.borrow_mut().finish())
    }
}
