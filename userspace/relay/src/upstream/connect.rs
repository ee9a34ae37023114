//! Connecting: begun at once, waited for by whoever needs the connection.
//!
//! Where a connection comes from, and by which interface it leaves, is its pool's word (`source`, `interface`). That is the one
//! place where a socket is bound before it connects.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;
use weir_core::ids::Interface;

use super::{socket::BackendSocket, source::PoolSource};
use crate::{
    reason::{Cause, Trouble},
    stats::PoolCell,
    stream::{Socket as Connected, Stream},
    tls::Secure,
};

/// Begins to connect. Never waits; a refusal may be known at once.
pub(super) fn begin_connect(
    to: SocketAddr,
    interface: Option<Interface>,
    source: Option<&PoolSource>,
    cell: &PoolCell,
) -> Result<BackendSocket, Cause> {
    let begun = match source {
        Some(source) => source.connect(to, interface, cell),
        None => { open(to, interface).and_then(|socket| start(socket, to)) }
            .map(BackendSocket::plain)
            .map_err(|error| connect_cause(&error)),
    };
    if begun.as_ref().err() == Some(&Cause::NoPort) {
        cell.no_port.add(1);
    }
    begun
}

/// A socket that may still be bound. Whatever it sends leaves by the interface.
pub(super) fn open(to: SocketAddr, interface: Option<Interface>) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(interface) = interface {
        bind_to(&socket, interface)?;
    }
    Ok(socket)
}

/// Has a socket send by an interface, and hear nothing from elsewhere (SO_BINDTODEVICE). It takes no privilege as long as the
/// socket is not bound to another.
pub(super) fn bind_to(socket: &Socket, interface: Interface) -> io::Result<()> {
    socket.bind_device(Some(interface.as_str().as_bytes()))
}

/// Begins to connect a socket.
pub(super) fn start(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    TcpStream::from_std(socket.into())
}

/// Waits until a connection is established.
pub(crate) fn poll_connected(stream: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
    if let Err(error) = ready!(stream.poll_write_ready(cx)) {
        return Poll::Ready(Err(connect_cause(&error)));
    }
    match stream.take_error() {
        Ok(None) => Poll::Ready(Ok(())),
        Ok(Some(error)) | Err(error) => Poll::Ready(Err(connect_cause(&error))),
    }
}

/// Sends what a connection begins with, on one that is established. `sent` counts what went out; ready once that is `least`
/// bytes.
pub(crate) fn poll_begun(
    stream: &mut BackendSocket,
    cx: &mut Context<'_>,
    bytes: &[u8],
    sent: &mut usize,
    least: usize,
) -> Poll<Result<(), Cause>> {
    while *sent < least {
        let rest = bytes.get(*sent..).unwrap_or_default();
        match ready!(stream.poll_send(cx, rest)) {
            Ok(n) => *sent += n,
            Err(error) => return Poll::Ready(Err(connect_cause(&error))),
        }
    }
    Poll::Ready(Ok(()))
}

/// Makes the TLS handshake, if there is to be one, on a connection that is established. It may take `most`; the time is the
/// runtime's.
pub(crate) async fn secured(
    secure: Option<Rc<Secure>>,
    stream: BackendSocket,
    most: Duration,
) -> Result<Connected, Trouble> {
    let Some(secure) = secure else {
        return Ok(Connected::Backend(stream));
    };
    let mut securing = secure.begin(stream)?;
    let done = tokio::time::timeout(most, std::future::poll_fn(|cx| securing.poll(cx)));
    done.await.unwrap_or_else(|_| Err(Cause::TimeoutTls.into()))?;
    Ok(securing.into_socket())
}

/// What a failure to connect is due to.
pub(crate) fn connect_cause(error: &io::Error) -> Cause {
    use io::ErrorKind as Kind;
    let is = |kinds: &[Kind]| kinds.contains(&error.kind());
    // Only what says something about the backend or the way there is laid to its charge.
    if is(&[
        Kind::ConnectionRefused,
        Kind::ConnectionReset,
        Kind::ConnectionAborted,
        Kind::BrokenPipe,
    ]) {
        Cause::Refused
    } else if is(&[Kind::HostUnreachable, Kind::NetworkUnreachable, Kind::NetworkDown]) {
        Cause::Unreachable
    } else if is(&[Kind::TimedOut]) {
        Cause::TimeoutConnect
    } else if is(&[Kind::AddrNotAvailable]) {
        Cause::NoPort
    } else {
        Cause::Local
    }
}
