//! Connecting from where a pool says: bound to a source address and port before.
//!
//! Tries what it is given, in order, and never looks for more: how many ports there are and whose turn it is, the engine
//! knows.

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::{TcpSocket, TcpStream};
use weir_core::health::Failure;

use crate::failure;

/// Connects from the first of these that the system lets it have.
pub(crate) async fn connect(to: SocketAddr, from: &[SocketAddr]) -> Result<TcpStream, Failure> {
    if from.is_empty() {
        return TcpStream::connect(to).await.map_err(|e| failure::connect(&e));
    }
    let mut refused = None;
    for at in from {
        let socket = match bound(*at) {
            Ok(socket) => socket,
            Err(error) => {
                refused = Some((*at, error));
                continue;
            }
        };
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            // There is a connection with the same two ends, be it in TIME_WAIT.
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => refused = Some((*at, error)),
            Err(error) => return Err(failure::connect(&error)),
        }
    }
    let (at, error) = refused.unwrap_or_else(|| (to, io::ErrorKind::AddrNotAvailable.into()));
    Err(Failure::Internal(format!(
        "none of {} source ports for checks could be used; of {at}: {error}",
        from.len()
    )))
}

fn bound(at: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    match at.port() {
        // The port is chosen when it is known what it connects to.
        0 => setsockopt(&socket, IpBindAddressNoPort, &true)?,
        // Other checks have the same address and port, to other backends.
        _ => socket.set_reuseaddr(true)?,
    }
    socket.bind(at)?;
    Ok(socket)
}
