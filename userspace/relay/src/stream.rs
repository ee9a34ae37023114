//! Sockets as the relay uses them: one trait that the relay is written against, and the socket that joins the runtime
//! late.
//!
//! An accepted connection that is answered at once and closed never enters epoll at all: it is read and written as it
//! is, and registered only when it first would block.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::fd::{AsFd, BorrowedFd},
    pin::Pin,
    task::{Context, Poll},
};

use rustix::{io::Errno, net::SendFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A byte stream that is polled.
pub(crate) trait Stream {
    /// Receives into `buf`. `Ready(Ok(0))`: the other side has ended.
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Sends what fits.
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;

    /// Sends what fits, and tells the system that the end follows at once, so that both may leave in one segment. The
    /// stream must be dropped (or shut down) next if all of it was taken.
    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>;

    /// Ends this side's bytes.
    fn finish(&self) -> io::Result<()>;

    /// Makes the drop of the stream a reset: the other side shall not take what it has for all there is.
    fn reset_on_drop(&self);
}

/// A TCP socket that enters epoll when it first would block.
pub(crate) enum Socket {
    /// Not registered yet. Non-blocking.
    Raw(std::net::TcpStream),
    /// Registered.
    Registered(TcpStream),
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
            Self::Raw(_) | Self::Lost => Err(lost()),
        }
    }

    fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Self::Raw(raw) => Ok(raw.as_fd()),
            Self::Registered(stream) => Ok(stream.as_fd()),
            Self::Lost => Err(lost()),
        }
    }

    /// Whether the connection has broken (not: whether the other side has ended its bytes).
    pub(crate) fn is_broken(&self) -> bool {
        let mut byte = [0];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        match self.fd().map(|fd| rustix::net::recv(fd, &mut byte, flags)) {
            Ok(Ok(_) | Err(Errno::AGAIN | Errno::INTR)) => false,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Sends a few bytes, ends this side, and reads what has come so far; never waits. True: all was taken.
    pub(crate) fn send_and_drain(&mut self, bytes: &[u8], scratch: &mut [u8]) -> bool {
        let Self::Raw(raw) = self else { return false };
        let sent = matches!(raw.write(bytes), Ok(n) if n == bytes.len());
        let _ = raw.shutdown(Shutdown::Write);
        let _ = raw.read(scratch);
        sent
    }

    /// The address that the client connected to.
    pub(crate) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        match self {
            Self::Raw(raw) => raw.local_addr(),
            Self::Registered(stream) => stream.local_addr(),
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
        if let Self::Raw(raw) = self {
            match raw.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        match self.register() {
            Ok(stream) => stream.poll_recv(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Self::Raw(raw) = self {
            match raw.write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Poll::Ready(done),
            }
        }
        match self.register() {
            Ok(stream) => stream.poll_send(cx, buf),
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = match self.fd() {
            Ok(fd) => rustix::net::send(fd, buf, SendFlags::MORE | SendFlags::NOSIGNAL),
            Err(error) => return Poll::Ready(Err(error)),
        };
        match sent {
            Ok(n) => Poll::Ready(Ok(n)),
            // Nothing was taken, so nothing is held back: the plain way waits for room.
            Err(Errno::AGAIN | Errno::INTR) => self.poll_send(cx, buf),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }

    fn finish(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.fd()?, rustix::net::Shutdown::Write)?)
    }

    fn reset_on_drop(&self) {
        if let Ok(fd) = self.fd() {
            reset_on_drop(fd);
        }
    }
}

impl Stream for TcpStream {
    #[inline]
    fn poll_recv(&mut self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(buf);
        match Pin::new(self).poll_read(cx, &mut buf) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buf.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write(cx, buf)
    }

    fn poll_send_last(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, buf)
    }

    fn finish(&self) -> io::Result<()> {
        socket2::SockRef::from(self).shutdown(Shutdown::Write)
    }

    fn reset_on_drop(&self) {
        reset_on_drop(self.as_fd());
    }
}

fn reset_on_drop(fd: BorrowedFd<'_>) {
    // If it can't be set, the connection ends by FIN: nothing better is left to do.
    let _ = rustix::net::sockopt::set_socket_linger(fd, Some(std::time::Duration::ZERO));
}
