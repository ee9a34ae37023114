//! Sockets as the relay uses them: one trait that the relay is written against, and the socket that joins the runtime
//! late.
//!
//! An accepted connection that is answered at once and closed never enters epoll at all: it is read and written as it
//! is, and registered only when it first would block.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{RecvFlags, SendFlags},
};
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

use crate::{
    tls::{TlsFacts, TlsStream},
    upstream::BackendSocket,
};

/// A byte stream that is polled.
pub(crate) trait Stream {
    /// Receives into `buf`. `Ready(Ok(0))`: the other side has ended.
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Sends what fits.
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;

    /// As [`Self::poll_send`], for what did not fit before: it is not tried before there is word of room.
    fn poll_send_rest(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf)
    }

    /// Sends what fits of several pieces.
    fn poll_send_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        self.poll_send(cx, first.map_or(&[], |buf| buf))
    }

    /// Sends what fits, and tells the system that the end follows at once, so that both may leave in one segment. The
    /// stream must be dropped (or shut down) next if all of it was taken.
    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;

    /// Ends this side's bytes. Never waits: what can't be sent at once goes out with the reads that follow.
    fn finish(&mut self) -> io::Result<()>;

    /// Ends this side's bytes, and waits until the system has all of them.
    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }

    /// Whether the other side has broken off, as far as that can be seen without reading: a stream of HTTP/2 is reset while
    /// nobody waits for its data. Bytes of a connection tell it by their end.
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// Whether the other side is left without its end being waited for, once this side's bytes have
    /// ended.
    fn poll_left(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// Makes the drop of the stream a reset: the other side shall not take what it has for all there is.
    fn reset_on_drop(&mut self);
}

/// A connection, with a client or a backend: a TCP socket that enters epoll when it first would block, or TLS over one.
pub(crate) enum Socket {
    /// Not registered yet. Non-blocking.
    Raw(std::net::TcpStream),
    /// Registered.
    Registered(TcpStream),
    /// To a backend.
    Backend(BackendSocket),
    /// TLS over such a socket.
    Tls(Box<TlsStream>),
    /// Registering failed; nothing can be done with it any more.
    Lost,
}

impl Socket {
    fn register(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::Raw(_) = self {
            let Self::Raw(raw) = std::mem::replace(self, Self::Lost) else {
                return Err(lost());
            };
            *self = Self::Registered(TcpStream::from_std(raw)?);
        }
        match self {
            Self::Registered(stream) => Ok(stream),
            Self::Raw(_) | Self::Backend(_) | Self::Tls(_) | Self::Lost => Err(lost()),
        }
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Raw(raw) => Ok(raw.as_fd()),
            Self::Registered(stream) => Ok(stream.as_fd()),
            Self::Backend(stream) => Ok(stream.as_fd()),
            Self::Tls(_) | Self::Lost => Err(lost()),
        }
    }

    /// Whether the connection has broken (not: whether the other side has ended its bytes).
    pub(crate) fn is_broken(&self) -> bool {
        if let Self::Tls(tls) = self {
            return tls.is_broken();
        }
        let mut byte = [0];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        match self.fd().map(|fd| rustix::net::recv(fd, &mut byte, flags)) {
            Ok(Ok(_) | Err(Errno::AGAIN | Errno::INTR)) => false,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Whether nothing has come of a connection that is idle, be it its end; what is TLS' own affair is taken in. Costs no
    /// system call as long as the runtime has seen no event for it.
    #[inline]
    pub(crate) fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let blocks =
            |read: io::Result<usize>| matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        match self {
            Self::Registered(stream) => blocks(stream.try_read(&mut byte)),
            Self::Backend(stream) => blocks(stream.try_read(&mut byte)),
            Self::Tls(tls) => {
                let mut context = Context::from_waker(Waker::noop());
                tls.poll_recv(&mut context, &mut byte).is_pending()
            }
            Self::Raw(_) | Self::Lost => false,
        }
    }

    /// As [`Self::is_quiet`], but asks the system, and takes nothing in.
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.is_silent(),
            Self::Raw(_) | Self::Registered(_) | Self::Backend(_) | Self::Lost => {
                let mut byte = [0];
                let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
                self.fd()
                    .is_ok_and(|fd| rustix::net::recv(fd, &mut byte, flags) == Err(Errno::AGAIN))
            }
        }
    }

    /// As [`Self::is_silent`], and not even a part of a TLS record has come.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Tls(tls) => tls.is_untouched(),
            Self::Raw(_) | Self::Registered(_) | Self::Backend(_) | Self::Lost => self.is_silent(),
        }
    }

    /// Looks at what has come, and leaves it where it is. Answers once that is more than `known` bytes, which were looked at
    /// before; with no more than those if the other side has ended.
    pub(crate) fn poll_peek(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
        known: usize,
    ) -> Poll<io::Result<usize>> {
        if let Self::Raw(raw) = self
            && let Some(n) = peek(raw, buf, known)?
        {
            return Poll::Ready(Ok(n));
        }
        let stream = self.register()?;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            // Nothing new is no news: the readiness is to be forgotten, which this error has the runtime do.
            let looked = stream.try_io(Interest::READABLE, || {
                peek(&*stream, buf, known)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            match looked {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
    }

    /// Takes what was looked at: as many bytes as `buf` has room for. They have come already.
    pub(crate) fn take(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let fd = self.fd()?;
        let mut taken = 0;
        while let Some(room) = buf.get_mut(taken..).filter(|room| !room.is_empty()) {
            match receive(fd, room) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => taken += n,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends a few bytes, ends this side, and reads what has come so far; never waits. True: all was taken.
    pub(crate) fn send_and_drain(&mut self, bytes: &[u8], scratch: &mut [u8]) -> bool {
        let Self::Raw(raw) = self else { return false };
        let sent = matches!(raw.write(bytes), Ok(n) if n == bytes.len());
        let _ = raw.shutdown(Shutdown::Write);
        let _ = raw.read(scratch);
        sent
    }

    /// What its handshake came to. None: it does without TLS.
    pub(crate) fn tls(&self) -> Option<&Rc<TlsFacts>> {
        match self {
            Self::Tls(tls) => tls.facts(),
            Self::Raw(_) | Self::Registered(_) | Self::Backend(_) | Self::Lost => None,
        }
    }

    /// The address that the client connected to.
    pub(crate) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        match self {
            Self::Raw(raw) => raw.local_addr(),
            Self::Registered(stream) => stream.local_addr(),
            Self::Backend(stream) => stream.local_addr(),
            Self::Tls(tls) => tls.local_addr(),
            Self::Lost => Err(lost()),
        }
    }
}

fn lost() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}

impl Stream for Socket {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Self::Backend(stream) = self {
            return stream.poll_recv(cx, buf);
        }
        if let Self::Raw(raw) = self {
            match receive(raw, buf) {
                Err(Errno::AGAIN) => {}
                done => return Poll::Ready(done.map_err(io::Error::from)),
            }
        }
        if let Self::Tls(tls) = self {
            return tls.poll_recv(cx, buf);
        }
        match self.register() {
            Ok(stream) => stream.poll_recv(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Self::Backend(stream) = self {
            return stream.poll_send(cx, buf);
        }
        if let Self::Raw(raw) = self {
            match send(raw, buf) {
                Err(Errno::AGAIN) => {}
                done => return Poll::Ready(done.map_err(io::Error::from)),
            }
        }
        if let Self::Tls(tls) = self {
            return tls.poll_send(cx, buf);
        }
        match self.register() {
            Ok(stream) => stream.poll_send(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_send_rest(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Registered(stream) => stream.poll_send_rest(cx, buf),
            Self::Backend(stream) => stream.poll_send_rest(cx, buf),
            // One that never blocked is not known to the runtime, and need not be.
            Self::Raw(_) | Self::Tls(_) | Self::Lost => self.poll_send(cx, buf),
        }
    }

    fn poll_send_vectored(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let Self::Tls(tls) = self {
            return tls.poll_send_vectored(cx, bufs);
        }
        if let Self::Backend(stream) = self {
            return Pin::new(stream).poll_write_vectored(cx, bufs);
        }
        match self.register() {
            Ok(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Self::Tls(tls) = self {
            return tls.poll_send_last(cx, buf);
        }
        if let Self::Backend(stream) = self {
            return stream.poll_send_last(cx, buf);
        }
        let sent = match self.fd() {
            Ok(fd) => rustix::net::send(fd, buf, SendFlags::MORE | SendFlags::NOSIGNAL),
            Err(error) => return Poll::Ready(Err(error)),
        };
        match sent {
            Ok(n) => {
                if n == buf.len() {
                    // Now, with the end: were it left to the close, bytes that have come meanwhile would make that a reset,
                    // and what is held back would never leave. If it can't be shut, it has ended.
                    let _ = self.finish();
                }
                Poll::Ready(Ok(n))
            }
            // Nothing was taken, so nothing is held back: the plain way waits for room.
            Err(Errno::AGAIN | Errno::INTR) => self.poll_send(cx, buf),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        if let Self::Tls(tls) = self {
            return tls.finish();
        }
        if let Self::Backend(stream) = self {
            return stream.finish();
        }
        Ok(rustix::net::shutdown(self.fd()?, rustix::net::Shutdown::Write)?)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tls(tls) => tls.poll_finish(cx),
            Self::Raw(_) | Self::Registered(_) | Self::Backend(_) | Self::Lost => Poll::Ready(self.finish()),
        }
    }

    fn poll_left(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Backend(stream) => stream.poll_left(cx),
            Self::Tls(tls) => tls.poll_left(cx),
            Self::Raw(_) | Self::Registered(_) | Self::Lost => false,
        }
    }

    fn reset_on_drop(&mut self) {
        if let Self::Tls(tls) = self {
            return tls.reset_on_drop();
        }
        if let Ok(fd) = self.fd() {
            reset_on_drop(fd);
        }
    }
}

impl Stream for TcpStream {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let most = buf.len();
        poll_call(
            self,
            most,
            Interest::READABLE,
            |stream| stream.poll_read_ready(cx),
            |stream| receive(stream, buf),
        )
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        // Nearly always there is room, and then the runtime need not be asked.
        match send(&*self, buf) {
            Ok(n) if n == buf.len() => return Poll::Ready(Ok(n)),
            Ok(n) => {
                // Full: the readiness is to be forgotten, as below. Nothing can have come of epoll since, for the runtime that
                // would take note of it is of this thread.
                let _ = self.try_io(Interest::WRITABLE, || {
                    Err::<(), _>(io::ErrorKind::WouldBlock.into())
                });
                return Poll::Ready(Ok(n));
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        self.poll_send_rest(cx, buf)
    }

    fn poll_send_rest(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        poll_call(
            self,
            buf.len(),
            Interest::WRITABLE,
            |stream| stream.poll_write_ready(cx),
            |stream| send(stream, buf),
        )
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf)
    }

    fn finish(&mut self) -> io::Result<()> {
        socket2::SockRef::from(&*self).shutdown(Shutdown::Write)
    }

    fn reset_on_drop(&mut self) {
        reset_on_drop(self.as_fd());
    }
}

/// Makes a system call on a registered socket once it is ready for it. It moves `most` bytes at the most.
///
/// The same as the runtime's own reads and writes, but for the way into the kernel: in a program of several threads the C
/// library makes every call a point of cancellation, which costs two locked instructions each.
#[inline]
fn poll_call(
    stream: &TcpStream,
    most: usize,
    interest: Interest,
    mut is_ready: impl FnMut(&TcpStream) -> Poll<io::Result<()>>,
    mut call: impl FnMut(&TcpStream) -> Result<usize, Errno>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(is_ready(stream))?;
        let mut short = None;
        let done = stream.try_io(interest, || match call(stream) {
            // Less than there was room for: the socket is drained, or full. What is readable or writable next, epoll tells
            // (it is edge-triggered), so the readiness is to be forgotten, which this error has the runtime do.
            Ok(n) if n > 0 && n < most => {
                short = Some(n);
                Err(io::ErrorKind::WouldBlock.into())
            }
            done => Ok(done?),
        });
        match (short, done) {
            (Some(n), _) => return Poll::Ready(Ok(n)),
            (None, Ok(n)) => return Poll::Ready(Ok(n)),
            (None, Err(error)) => {
                if !matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) {
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

#[inline]
fn receive(fd: impl AsFd, buf: &mut [u8]) -> Result<usize, Errno> {
    let (n, _) = rustix::net::recv(fd, buf, RecvFlags::empty())?;
    Ok(n)
}

#[inline]
fn send(fd: impl AsFd, buf: &[u8]) -> Result<usize, Errno> {
    rustix::net::send(fd, buf, SendFlags::NOSIGNAL)
}

/// What has come, left where it is. None: it is not more than `known` bytes, and more may come.
fn peek(fd: impl AsFd, buf: &mut [u8], known: usize) -> io::Result<Option<usize>> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(&fd, &mut *buf, flags) {
        Ok((n, _)) if n > known => Ok(Some(n)),
        // An end that nothing came before.
        Ok((0, _)) => Ok(Some(0)),
        Ok(_) if !has_ended(&fd)? => Ok(None),
        // What came before the end may have come after the first look.
        Ok(_) => Ok(Some(rustix::net::recv(&fd, buf, flags)?.0)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the other side has ended, or all has, though bytes of it are still there.
pub(crate) fn has_ended(fd: impl AsFd) -> io::Result<bool> {
    let mut asked = [PollFd::new(&fd, PollFlags::RDHUP)];
    rustix::event::poll(&mut asked, Some(&Timespec::default()))?;
    let told = asked.iter().map(|fd| fd.revents());
    Ok({ told }.any(|told| told.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR)))
}

fn reset_on_drop(fd: BorrowedFd<'_>) {
    // If it can't be set, the connection ends by FIN: nothing better is left to do.
    let _ = rustix::net::sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
}
