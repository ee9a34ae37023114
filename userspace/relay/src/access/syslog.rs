//! Records to a syslog daemon: a datagram each, with the header of RFC 5424 or of the older form.
//!
//! Runs on the log's own thread, and still never waits for long: a daemon that takes nothing costs its records, which are
//! counted, and one that comes back is found again. That is why the datagrams are made here: the crates for it send from
//! where they are called, wait as long as the daemon likes, and do not look for it again.

use std::{
    io::{self, ErrorKind, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixDatagram,
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weir_core::plan::{Syslog, SyslogForm, SyslogTo};

use super::Lost;

/// What daemons take by default; what is longer is cut off at the end.
const LONGEST: usize = 8192;

/// How long a batch of records may wait for a daemon that does not read.
const PATIENCE: Duration = Duration::from_millis(100);

/// All records are of this severity: informational (RFC 5424 section 6.2.1).
const SEVERITY: u32 = 6;

/// The name that records go by.
const APP: &str = "weir";

/// To one daemon.
pub(super) struct Sender {
    syslog: Syslog,
    /// None: it was not reached.
    socket: Option<Socket>,
    host: String,
    pid: u32,
    packet: Vec<u8>,
}

enum Socket {
    Unix(UnixDatagram),
    Udp(UdpSocket),
}

impl Sender {
    /// The daemon is looked for when there is something to say: it may start later than weir.
    pub(super) fn new(syslog: &Syslog) -> Self {
        Self {
            syslog: syslog.clone(),
            socket: None,
            host: host(),
            pid: std::process::id(),
            packet: Vec::new(),
        }
    }

    /// The daemon, for people.
    pub(super) const fn to(&self) -> &Syslog {
        &self.syslog
    }

    /// Sends each line.
    ///
    /// # Errors
    /// How many were lost, and why the first one was: what follows from it says less.
    pub(super) fn send(&mut self, lines: &[u8]) -> Result<(), Lost> {
        let header = self.header(SystemTime::now());
        let until = Instant::now() + PATIENCE;
        let mut may_look = true;
        let mut lost: Option<Lost> = None;
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            self.packet.clear();
            self.packet.extend_from_slice(&header);
            self.packet.extend_from_slice(line);
            self.packet.truncate(LONGEST);
            if let Err(error) = self.send_one(until, &mut may_look) {
                lost.get_or_insert(Lost { records: 0, error }).records += 1;
            }
        }
        lost.map_or(Ok(()), Err)
    }

    /// Sends the packet. A daemon that has gone is looked for once in a batch.
    fn send_one(&mut self, until: Instant, may_look: &mut bool) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(&self.packet, until) {
                Ok(()) => return Ok(()),
                // It is there, and does not read, or not so much.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(error),
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::MSGSIZE.raw_os_error()) => {
                    return Err(error);
                }
                Err(_) => self.socket = None,
            }
        }
        if !std::mem::take(may_look) {
            return Err(ErrorKind::NotConnected.into());
        }
        let socket = Socket::to(&self.syslog.to)?;
        socket.send(&self.packet, until)?;
        self.socket = Some(socket);
        // The one found now may go as well.
        *may_look = true;
        Ok(())
    }

    fn header(&self, now: SystemTime) -> Vec<u8> {
        let priority = u32::from(self.syslog.facility.code()) * 8 + SEVERITY;
        let mut out = Vec::with_capacity(64 + self.host.len());
        let (host, pid) = (&self.host, self.pid);
        // Writing to a Vec can't fail.
        let _ = match (self.syslog.form, &self.syslog.to) {
            (SyslogForm::Rfc5424, _) => {
                let time = humantime::format_rfc3339_micros(now);
                write!(out, "<{priority}>1 {time} {host} {APP} {pid} - - ")
            }
            // To the box itself the form has no name of the box.
            (SyslogForm::Rfc3164, SyslogTo::Path(_)) => {
                write!(out, "<{priority}>{} {APP}[{pid}]: ", Date(now))
            }
            (SyslogForm::Rfc3164, SyslogTo::Udp(_)) => {
                write!(out, "<{priority}>{} {host} {APP}[{pid}]: ", Date(now))
            }
        };
        out
    }
}

impl Socket {
    fn to(to: &SyslogTo) -> io::Result<Self> {
        match to {
            SyslogTo::Path(path) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Unix(socket))
            }
            SyslogTo::Udp(at) => {
                let any: SocketAddr = if at.is_ipv4() {
                    (Ipv4Addr::UNSPECIFIED, 0).into()
                } else {
                    (Ipv6Addr::UNSPECIFIED, 0).into()
                };
                let socket = UdpSocket::bind(any)?;
                socket.connect(at)?;
                socket.set_nonblocking(true)?;
                Ok(Self::Udp(socket))
            }
        }
    }

    /// Sends a datagram, and waits for room until then at the latest.
    fn send(&self, packet: &[u8], until: Instant) -> io::Result<()> {
        loop {
            let sent = match self {
                Self::Unix(socket) => socket.send(packet),
                Self::Udp(socket) => socket.send(packet),
            };
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() || !self.wait(left)? {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for room. False: there was none in time.
    fn wait(&self, most: Duration) -> io::Result<bool> {
        let most = Timespec::try_from(most).map_err(|_| ErrorKind::InvalidInput)?;
        let mut polled = [PollFd::from_borrowed_fd(self.fd(), PollFlags::OUT)];
        match poll(&mut polled, Some(&most)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
        }
    }
}

/// The host's name; `-` where there is none that may stand in a header (RFC 5424 section 6.2.4).
fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fits = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { name } else { "-".to_owned() }
}

/// `Feb  6 12:14:14`, in UTC.
struct Date(SystemTime);

impl std::fmt::Display for Date {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let date = super::httplog::Date(self.0).to_string();
        // Fixed places: 06/Feb/2009:12:14:14.655
        let part = |from: usize, to: usize| date.get(from..to).ok_or(std::fmt::Error);
        let day = part(0, 2)?.trim_start_matches('0');
        write!(f, "{} {day:>2} {}", part(3, 6)?, part(12, 20)?)
    }
}

#[cfg(test)]
mod tests;
