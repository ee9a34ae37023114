//! Seqpacket sockets that carry JSON messages with descriptors beside them.
//!
//! A packet is read whole or not at all, so there is no framing to get wrong. Nothing a client or a backend sent ever
//! comes this way: both ends are weir's own.

use std::{
    fs::Permissions,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::Path,
};

use anyhow::{Context, bail, ensure};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        accept_with, bind as bind_socket, connect as connect_socket, listen, recvmsg, sendmsg, socket_with,
        sockopt,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{Interest, unix::AsyncFd};

use super::MAX_MESSAGE;

/// Most descriptors that the kernel passes in one message (SCM_MAX_FD).
const MAX_FDS: usize = 253;
/// Control processes that wait to be accepted: one, and its successor.
const BACKLOG: i32 = 4;

/// One end of a connection between control and a child.
pub(crate) struct Channel {
    socket: AsyncFd<OwnedFd>,
}

impl Channel {
    fn new(socket: OwnedFd) -> anyhow::Result<Self> {
        Ok(Self {
            socket: polled(socket, Interest::READABLE | Interest::WRITABLE)?,
        })
    }

    /// Sends one message with descriptors.
    ///
    /// # Errors
    /// The other end is gone, or the message is too long.
    pub(crate) async fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        let text = serde_json::to_vec(message)?;
        ensure!(
            text.len() <= MAX_MESSAGE,
            "a message of {} bytes is over the limit of {MAX_MESSAGE}",
            text.len()
        );
        ensure!(
            fds.len() <= MAX_FDS,
            "{} descriptors in one message, the kernel passes {MAX_FDS}",
            fds.len()
        );
        let send = |socket: &OwnedFd| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut beside = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            sendmsg(socket, &[IoSlice::new(&text)], &mut beside, SendFlags::NOSIGNAL).map_err(io::Error::from)
        };
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, send)
            .await
            .context("sending")?;
        ensure!(sent == text.len(), "a message was sent in part");
        Ok(())
    }

    /// Receives one message with its descriptors. None: the other end has hung up.
    ///
    /// # Errors
    /// What came is no message of ours.
    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> anyhow::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut text = vec![0; MAX_MESSAGE];
        let receive = |socket: &OwnedFd| receive(socket, &mut text).map_err(io::Error::from);
        let received = match self.socket.async_io(Interest::READABLE, receive).await {
            Ok(received) => received,
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(e) => return Err(e).context("receiving"),
        };
        let (length, flags, fds) = received;
        if length == 0 {
            return Ok(None);
        }
        if flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            bail!("a message came cut short (out of descriptors?)");
        }
        let message = serde_json::from_slice(text.get(..length).unwrap_or_default())
            .context("not a message of ours")?;
        Ok(Some((message, fds)))
    }
}

fn receive(socket: &OwnedFd, text: &mut [u8]) -> Result<(usize, ReturnFlags, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(text)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received.bytes, received.flags, fds))
}

/// A child's end: where control connects to.
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
}

impl Listener {
    /// The listener that control left this process as its standard input.
    ///
    /// # Errors
    /// Standard input is no listening socket.
    pub(crate) fn inherited() -> anyhow::Result<Self> {
        let socket = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .context("standard input")?;
        ensure!(
            sockopt::socket_acceptconn(&socket).unwrap_or(false),
            "standard input is not a listening socket"
        );
        rustix::io::ioctl_fionbio(&socket, true).context("a socket that does not block")?;
        Ok(Self {
            socket: polled(socket, Interest::READABLE)?,
        })
    }

    /// The next connection of a control process.
    pub(crate) async fn accept(&self) -> anyhow::Result<Channel> {
        let accept = |socket: &OwnedFd| {
            accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(io::Error::from)
        };
        let socket = self
            .socket
            .async_io(Interest::READABLE, accept)
            .await
            .context("accepting")?;
        Channel::new(socket)
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for the sake of types whose descriptor may change; OwnedFd's never does"
)]
fn polled(socket: OwnedFd, interest: Interest) -> anyhow::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest).context("a socket to poll")
}

fn seqpacket() -> anyhow::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).context("a seqpacket socket")
}

/// A listening socket for a child, at a path that only our own user can connect to. A socket there before is replaced.
///
/// # Errors
/// The path can't be bound.
pub(crate) fn bind(path: &Path) -> anyhow::Result<OwnedFd> {
    let at = || path.display().to_string();
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(e).with_context(at);
    }
    let socket = seqpacket()?;
    bind_socket(&socket, &SocketAddrUnix::new(path).with_context(at)?).with_context(at)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(at)?;
    listen(&socket, BACKLOG).with_context(at)?;
    Ok(socket)
}

/// A connection to whoever listens at the path. None: nobody does.
///
/// # Errors
/// The path is there, but can't be connected to for another reason.
pub(crate) fn connect(path: &Path) -> anyhow::Result<Option<Channel>> {
    let at = || path.display().to_string();
    let socket = seqpacket()?;
    match connect_socket(&socket, &SocketAddrUnix::new(path).with_context(at)?) {
        Ok(()) => {
            // Whoever made the listener: a control process of our own user, or somebody who was there first.
            let owner = sockopt::socket_peercred(&socket).with_context(at)?.uid;
            ensure!(
                owner == rustix::process::geteuid(),
                "{}: user {} listens there; set admin.socket to a path in a directory of your own",
                path.display(),
                owner.as_raw()
            );
            Channel::new(socket).map(Some)
        }
        Err(Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) => Ok(None),
        Err(e) => Err(e).with_context(at),
    }
}

/// Descriptors as they are sent.
pub(crate) fn borrow(fds: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    async fn pair(path: &Path) -> (Channel, Channel) {
        let socket = bind(path).unwrap();
        let listener = Listener {
            socket: polled(socket, Interest::READABLE).unwrap(),
        };
        let near = connect(path).unwrap().unwrap();
        (near, listener.accept().await.unwrap())
    }

    #[test]
    fn messages_and_descriptors_arrive_whole_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("child.sock");
        runtime().block_on(async {
            let (near, far) = pair(&path).await;
            let file = dir.path().join("content");
            std::fs::write(&file, "hello").unwrap();
            let fds: Vec<OwnedFd> = (0..MAX_FDS).map(|_| File::open(&file).unwrap().into()).collect();
            near.send(&"first", &borrow(&fds)).await.unwrap();
            near.send(&"second", &[]).await.unwrap();
            let (text, got) = far.receive::<String>().await.unwrap().unwrap();
            assert_eq!((text.as_str(), got.len()), ("first", MAX_FDS));
            let mut content = String::new();
            File::from(got.into_iter().next().unwrap())
                .read_to_string(&mut content)
                .unwrap();
            assert_eq!(content, "hello");
            assert_eq!(far.receive::<String>().await.unwrap().unwrap().0, "second");
            drop(near);
            assert!(far.receive::<String>().await.unwrap().is_none());
        });
    }

    #[test]
    fn limits_are_kept_and_nobody_at_home_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("child.sock");
        runtime().block_on(async {
            assert!(connect(&path).unwrap().is_none(), "nothing there");
            let (near, far) = pair(&path).await;
            assert!(near.send(&"x".repeat(MAX_MESSAGE), &[]).await.is_err());
            let longest = "x".repeat(MAX_MESSAGE - 2);
            near.send(&longest, &[]).await.unwrap();
            assert_eq!(far.receive::<String>().await.unwrap().unwrap().0, longest);
            assert!(far.send(&1, &[]).await.is_ok());
            assert!(near.receive::<String>().await.is_err(), "a number is no text");
            assert!(connect(&path).unwrap().is_none(), "a dead socket");
        });
    }
}
