//! Connecting from where a pool says: bound to an interface, and to a source address and port, before.
//!
//! Tries what it is given, in order, and never looks for more: how many ports there are and whose turn it is, the engine
//! knows.

use std::{io, net::SocketAddr};

use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use tokio::net::{TcpSocket, TcpStream};
use weir_core::{health::Failure, ids::Interface};

use crate::failure;

/// Connects from the first of these that the system lets it have.
pub(crate) async fn connect(
    to: SocketAddr,
    from: &[SocketAddr],
    interface: Option<Interface>,
) -> Result<TcpStream, Failure> {
    let open = || {
        open(to, interface).map_err(|error| match interface {
            Some(interface) => Failure::Internal(format!("interface {interface}: {error}")),
            None => failure::connect(&error),
        })
    };
    if from.is_empty() {
        let connected = open()?.connect(to).await;
        return connected.map_err(|e| failure::connect(&e));
    }
    let mut refused = None;
    for at in from {
        let socket = open()?;
        if let Err(error) = bind(&socket, *at) {
            refused = Some((*at, error));
            continue;
        }
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

fn open(to: SocketAddr, interface: Option<Interface>) -> io::Result<TcpSocket> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_str().as_bytes()))?;
    }
    Ok(socket)
}

fn bind(socket: &TcpSocket, at: SocketAddr) -> io::Result<()> {
    match at.port() {
        // The port is chosen when it is known what it connects to.
        0 => setsockopt(socket, IpBindAddressNoPort, &true)?,
        // Other checks have the same address and port, to other backends.
        _ => socket.set_reuseaddr(true)?,
    }
    socket.bind(at)
}
