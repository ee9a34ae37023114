//! Notices that something of links or addresses has changed: what it was is looked up.

use std::{
    collections::BTreeSet,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};
use tokio::io::{Interest, unix::AsyncFd};

/// Groups of rtnetlink(7): links, IPv4 addresses, IPv6 addresses.
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// A netlink socket that only says that there is something new.
#[derive(Debug)]
pub(super) struct Watch(OwnedFd);

impl Watch {
    /// In the network namespace of the calling thread.
    pub(super) fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self(socket))
    }

    /// Whether there was something since it was asked last. That messages were lost counts as something.
    pub(super) fn has_news(&self) -> bool {
        let mut bytes = [0; 4096];
        let mut news = false;
        loop {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(1..) | Err(nix::Error::ENOBUFS) => news = true,
                Err(nix::Error::EINTR) => {}
                Ok(0) | Err(_) => return news,
            }
        }
    }

    /// Readable when there is something new.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Which links are up, for who does not run the thread.
#[derive(Debug)]
pub struct Links(AsyncFd<OwnedFd>);

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor may change; OwnedFd's never does"
)]
fn watched(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

impl Links {
    /// In the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When there can be no netlink socket.
    pub fn new() -> io::Result<Self> {
        let Watch(socket) = Watch::new()?;
        Ok(Self(watched(socket)?))
    }

    /// Waits until something of links has changed.
    pub async fn changed(&self) {
        let mut bytes = [0; 4096];
        let read = |socket: &OwnedFd| {
            match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                // That messages were lost is news as well.
                Ok(_) | Err(nix::Error::ENOBUFS) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        // A socket that can't be waited for says nothing any more: whoever looks now and then sees it all the same.
        if self.0.async_io(Interest::READABLE, read).await.is_err() {
            std::future::pending().await
        }
    }

    /// Interfaces that are up and connected.
    ///
    /// # Errors
    /// When they can't be listed.
    pub fn up() -> io::Result<BTreeSet<String>> {
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        let up = getifaddrs()?.filter(|entry| entry.flags.contains(wanted));
        Ok(up.map(|entry| entry.interface_name).collect())
    }
}
