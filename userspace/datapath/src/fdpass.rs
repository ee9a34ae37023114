//! Messages with descriptors over a Unix seqpacket socket: how control hands its listening sockets to the relay.
//!
//! Carries bytes and descriptors, whole or not at all. What the bytes mean is the binary's affair.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use nix::{
    errno::Errno,
    sys::socket::{
        self, AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
        UnixAddr,
    },
};
use tokio::io::unix::AsyncFd;

/// Descriptors that fit into one message (the kernel's SCM_MAX_FD).
pub const MAX_DESCRIPTORS: usize = 253;

/// Bytes that a message may have. Well below the kernel's default send buffer.
pub const MAX_BYTES: usize = 64 << 10;

/// One received message.
#[derive(Debug)]
pub struct Message {
    /// Its bytes; never empty.
    pub bytes: Vec<u8>,
    /// Its descriptors, close-on-exec, in the order in which they were sent.
    pub fds: Vec<OwnedFd>,
}

/// Sends one message. On a nonblocking socket whose buffer is full: [`io::ErrorKind::WouldBlock`], nothing sent.
///
/// # Errors
/// `InvalidInput` for an empty message (it would read as the end), or one with too many bytes or descriptors; else what
/// the system says (`BrokenPipe` when the peer is gone).
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || bytes.len() > MAX_BYTES || fds.len() > MAX_DESCRIPTORS {
        let text = format!("a message has 1 to {MAX_BYTES} bytes and at most {MAX_DESCRIPTORS} descriptors");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &control[..] };
    let socket = socket.as_fd().as_raw_fd();
    loop {
        match socket::sendmsg::<()>(
            socket,
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Receives one message; None when the peer has closed. On a nonblocking socket with nothing there:
/// [`io::ErrorKind::WouldBlock`].
///
/// # Errors
/// `InvalidData` when the message was too long or carried too many descriptors (those that came are closed); else what
/// the system says.
pub fn receive(socket: impl AsFd) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = loop {
        let socket = socket.as_fd().as_raw_fd();
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match socket::recvmsg::<()>(socket, &mut slices, Some(&mut control), flags) {
            Ok(received) => break received,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let (len, flags) = (received.bytes, received.flags);
    let mut fds = Vec::new();
    // A control message that was cut short ends the list; nothing before it is lost.
    for message in received.cmsgs().into_iter().flatten() {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has just made these descriptors for this process; nobody else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        let text = "a message was longer, or carried more descriptors, than fits";
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    if len == 0 {
        return Ok(None);
    }
    bytes.truncate(len);
    Ok(Some(Message { bytes, fds }))
}

/// A connected seqpacket socket in a tokio runtime.
#[derive(Debug)]
pub struct Channel {
    fd: AsyncFd<OwnedFd>,
}

impl Channel {
    /// Wraps a connected seqpacket socket and makes it nonblocking. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the socket cannot be made nonblocking or registered.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        nonblocking(&socket)?;
        Ok(Self {
            fd: registered(socket)?,
        })
    }

    /// Two channels that are each other's peer.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (a, b) = socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Self::new(a)?, Self::new(b)?))
    }

    /// Connects to a listening socket's path.
    ///
    /// # Errors
    /// `NotFound` or `ConnectionRefused` when nobody listens there; else what the system says.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        // A Unix connect completes or fails at once; a full backlog is EAGAIN.
        socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Self::new(socket)
    }

    /// Sends one message; waits while the peer's buffer is full. Cancel safe: it was sent whole or not at all.
    ///
    /// # Errors
    /// As [`send`].
    pub async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let mut ready = self.fd.writable().await?;
            if let Ok(result) = ready.try_io(|fd| send(fd.get_ref(), bytes, fds)) {
                return result;
            }
        }
    }

    /// Receives one message; None when the peer has closed. Cancel safe.
    ///
    /// # Errors
    /// As [`receive`].
    pub async fn receive(&self) -> io::Result<Option<Message>> {
        loop {
            let mut ready = self.fd.readable().await?;
            if let Ok(result) = ready.try_io(|fd| receive(fd.get_ref())) {
                return result;
            }
        }
    }

    /// User and process at the other end, as they were when it connected (or, for the connecting side, listened).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn peer(&self) -> io::Result<(nix::unistd::Uid, i32)> {
        let credentials = socket::getsockopt(&self.fd.get_ref(), socket::sockopt::PeerCredentials)?;
        Ok((nix::unistd::Uid::from_raw(credentials.uid()), credentials.pid()))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.get_ref().as_fd()
    }
}

/// Makes a listening seqpacket socket at a path, which must not exist. Who may connect is up to the permissions of the
/// file: set the umask before.
///
/// # Errors
/// `AddrInUse` when the path exists; else what the system says.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    socket::bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    socket::listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

/// A listening seqpacket socket in a tokio runtime.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<OwnedFd>,
}

impl Listener {
    /// Wraps a listening seqpacket socket (such as [`listen`] makes) and makes it nonblocking. Must be called inside a
    /// runtime.
    ///
    /// # Errors
    /// When the socket cannot be made nonblocking or registered.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        nonblocking(&socket)?;
        Ok(Self {
            fd: registered(socket)?,
        })
    }

    /// Waits for the next connection. Cancel safe.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<Channel> {
        loop {
            let mut ready = self.fd.readable().await?;
            let accepted = ready.try_io(|fd| {
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                Ok(socket::accept4(fd.as_raw_fd(), flags)?)
            });
            match accepted {
                // SAFETY: the kernel has just made this descriptor for this process; nobody else owns it.
                Ok(Ok(fd)) => return Channel::new(unsafe { OwnedFd::from_raw_fd(fd) }),
                Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Ok(Err(e)) => return Err(e),
                Err(_would_block) => {}
            }
        }
    }
}

fn registered(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open descriptor for as long as it lives, and it moves into the AsyncFd, which never
    // gives it out again but by shared reference.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn nonblocking(fd: &OwnedFd) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests;
