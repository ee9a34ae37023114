//! Notices that something of links or addresses has changed: what it was is looked up.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

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
