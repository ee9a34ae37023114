//! Listening sockets: one SO_REUSEPORT group per listener, one socket per relay worker.
//!
//! Needs neither BPF nor privilege (ports below 1024 apart). Never accepts: the relay does. Which connections a steered
//! listener gets is up to [`Datapath::steer`](crate::Datapath::steer).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use socket2::{Domain, SockRef, Socket, Type};
use weir_core::ids::{Interface, ListenKey, Protocol};

/// Where a listener's sockets are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// To the key's own address and port.
    Bound,
    /// To a loopback address of the key's family and a port that the kernel picks: sk_lookup brings it connections for
    /// the key, and nothing from outside reaches it otherwise.
    Steered,
    /// As [`Self::Steered`], for addresses that are not on the box: what comes of it may answer from them (IP_TRANSPARENT).
    Transparent,
}

/// How the sockets behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted, per socket. The kernel caps it at net.core.somaxconn.
    pub backlog: u16,
    /// Wake the relay only when a client has sent its first bytes, or after this time (whole seconds, at least 1).
    /// TCP only.
    pub defer_accept: Option<Duration>,
    /// Send small segments at once (TCP_NODELAY); accepted connections inherit it. TCP only.
    pub nodelay: bool,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            defer_accept: None,
            nodelay: true,
        }
    }
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {key}: {cause}{mend}")]
pub struct ListenError {
    /// The listener.
    pub key: ListenKey,
    /// The system's reason.
    pub cause: io::Error,
    /// What the operator can do, with leading punctuation; may be empty.
    pub mend: &'static str,
}

impl ListenError {
    fn new(key: ListenKey, how: How, cause: io::Error) -> Self {
        let mend = match cause.raw_os_error() {
            Some(libc::EADDRINUSE) => "; another process has this port: `ss -lntup` shows which",
            Some(libc::EACCES | libc::EPERM) if key.port < 1024 && how == How::Bound => {
                "; ports below 1024 need root or CAP_NET_BIND_SERVICE, or a lower net.ipv4.ip_unprivileged_port_start"
            }
            Some(libc::EPERM) if how == How::Transparent => {
                "; a transparent listener needs root or CAP_NET_ADMIN"
            }
            Some(libc::EADDRNOTAVAIL) => match how {
                How::Bound => "; no interface of this box has the address",
                How::Steered | How::Transparent => {
                    "; the loopback interface is down or has no address of this family"
                }
            },
            Some(libc::EMFILE) => "; too many open files: raise RLIMIT_NOFILE (LimitNOFILE= in the unit)",
            Some(libc::ENODEV) => "; there is no interface of that name in this network namespace",
            Some(libc::EAFNOSUPPORT) => "; this kernel has the address family switched off",
            _ => "",
        };
        Self { key, cause, mend }
    }
}

/// Opens the sockets of one listener: `workers` of them (at least one), nonblocking and close-on-exec, all in one
/// SO_REUSEPORT group.
///
/// # Errors
/// When a socket cannot be made, bound or listened on; those made before it are closed again.
pub fn bind(
    key: ListenKey,
    how: How,
    workers: u16,
    options: &ListenOptions,
) -> Result<Vec<OwnedFd>, ListenError> {
    open_group(key, how, workers, options).map_err(|cause| ListenError::new(key, how, cause))
}

fn open_group(key: ListenKey, how: How, workers: u16, options: &ListenOptions) -> io::Result<Vec<OwnedFd>> {
    let mut address = match how {
        How::Bound => SocketAddr::new(key.addr, key.port),
        How::Steered | How::Transparent => SocketAddr::new(loopback(key.addr), 0),
    };
    if how == How::Bound && address.port() != 0 {
        // SO_REUSEPORT would silently share the port with another process of the same user that set it too. A first
        // bind without it finds that out; SO_REUSEADDR lets it pass over connections in TIME_WAIT, not over listeners.
        let probe = open(key.protocol, address)?;
        bind_to(&probe, key)?;
        if key.protocol == Protocol::Tcp {
            probe.set_reuse_address(true)?;
        }
        probe.bind(&address.into())?;
    }
    let mut sockets = Vec::with_capacity(usize::from(workers.max(1)));
    for _ in 0..workers.max(1) {
        let socket = open(key.protocol, address)?;
        socket.set_reuse_port(true)?;
        if how == How::Transparent {
            crate::sys::set_transparent(&socket, address.is_ipv6())?;
        }
        if how == How::Bound {
            bind_to(&socket, key)?;
        }
        match key.protocol {
            Protocol::Tcp => {
                socket.set_reuse_address(true)?;
                socket.set_tcp_nodelay(options.nodelay)?;
                if let Some(wait) = options.defer_accept {
                    defer_accept(&socket, wait)?;
                }
                socket.bind(&address.into())?;
                if how != How::Bound {
                    // Not before: of IPv6 an address must be the interface's own, and loopback is not.
                    bind_to(&socket, key)?;
                }
                socket.listen(i32::from(options.backlog))?;
            }
            Protocol::Udp => socket.bind(&address.into())?,
        }
        if address.port() == 0
            && let Some(bound) = socket.local_addr()?.as_socket()
        {
            address.set_port(bound.port());
        }
        sockets.push(socket.into());
    }
    Ok(sockets)
}

fn open(protocol: Protocol, address: SocketAddr) -> io::Result<Socket> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// Has what comes of a socket leave by its listener's interface: connections inherit it. Which of them come here is not decided
/// by it where sk_lookup steers.
fn bind_to(socket: &Socket, key: ListenKey) -> io::Result<()> {
    let name = key
        .interface
        .as_ref()
        .map(|interface| interface.as_str().as_bytes());
    name.map_or(Ok(()), |name| socket.bind_device(Some(name)))
}

/// The index of the interface that a socket is bound to, if that is still the one of this name. None: it was taken away, and
/// made anew perhaps; then the socket hears nothing any more.
pub fn bound_to(socket: impl AsFd, interface: Interface) -> Option<u32> {
    let socket = SockRef::from(&socket);
    let name = socket.device().ok()??;
    let same = name.strip_suffix(b"\0").unwrap_or(&name) == interface.as_str().as_bytes();
    same.then(|| nix::net::if_::if_nametoindex(interface.as_str()).ok())
        .flatten()
}

/// Whether the interface that a socket was bound to is there no more, and another has its name.
pub fn is_lost(socket: impl AsFd, interface: Interface) -> bool {
    let exists = nix::net::if_::if_nametoindex(interface.as_str()).is_ok();
    exists && bound_to(socket, interface).is_none()
}

fn loopback(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

fn defer_accept(socket: &Socket, wait: Duration) -> io::Result<()> {
    let seconds = i32::try_from(wait.as_secs().max(1)).unwrap_or(i32::MAX);
    crate::sys::set_int_option(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
}

#[cfg(test)]
mod tests;
