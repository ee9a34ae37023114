//! One link, for virtual routers of one family: sockets that send adverts, receive them and announce addresses.
//!
//! Adverts leave by a raw socket, so that the kernel finds the peer's link address; they arrive by a packet socket, so that
//! the IP header comes along, with the time at which the kernel got it. A filter of the socket lets nothing else in.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    time::{Duration, Instant, SystemTime},
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nametoindex},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use weir_core::vrrp::{Family, GROUP_V4, GROUP_V6, HOPS, PROTOCOL, announce::Frame};

use super::LinkError;
use crate::sys::packet::{self, filter as code};

/// `CS6`, network control (RFC 4594 section 3.1), as in the traffic class.
const CONTROL: u32 = 0xc0;

/// A link, as virtual routers of one family use it.
#[derive(Debug)]
pub struct Link {
    interface: String,
    index: u32,
    own: IpAddr,
    mac: [u8; 6],
    out: Socket,
    inward: Socket,
    frames: Socket,
}

impl Link {
    /// Opens a link in the network namespace of the calling thread. Adverts are sent from `own`; without it from the
    /// interface's first IPv4 address, or its link-local IPv6 address, which is none of `shared`: those that virtual routers
    /// have, or have left.
    ///
    /// # Errors
    /// When there is no such interface or address, or the process may not open the sockets.
    pub fn open(
        interface: &str,
        family: Family,
        own: Option<IpAddr>,
        shared: &[IpAddr],
    ) -> Result<Self, LinkError> {
        let index = if_nametoindex(interface).map_err(|_| LinkError::NoInterface(interface.to_owned()))?;
        let failed = |doing| {
            move |cause: io::Error| LinkError::System {
                doing,
                interface: interface.to_owned(),
                mend: if cause.kind() == io::ErrorKind::PermissionDenied {
                    "; weir needs root or CAP_NET_RAW for virtual routers"
                } else {
                    ""
                },
                cause,
            }
        };
        let Found { addresses, mac, .. } = look(interface).map_err(failed("look up addresses"))?;
        let mac = mac.ok_or_else(|| LinkError::NoEthernet(interface.to_owned()))?;
        let own = source(interface, family, own, addresses, shared)?;
        Ok(Self {
            interface: interface.to_owned(),
            index,
            own,
            mac,
            out: outward(interface, index, own).map_err(failed("send adverts"))?,
            inward: inward(index, family).map_err(failed("receive adverts"))?,
            frames: frames(index).map_err(failed("announce addresses"))?,
        })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interface's index.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }

    /// The address that adverts are sent from.
    pub const fn own(&self) -> IpAddr {
        self.own
    }

    /// The interface's link address.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Whether adverts can leave: the interface is the one that was opened, up and connected, and still has the address.
    pub fn is_usable(&self) -> bool {
        let is_same = if_nametoindex(self.interface.as_str()).is_ok_and(|index| index == self.index);
        is_same && look(&self.interface).is_ok_and(|found| found.is_up && found.addresses.contains(&self.own))
    }

    /// Opens the same link anew: the interface may be another one of its name.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn reopen(&self) -> Result<Self, LinkError> {
        let family = Family::of(self.own);
        Self::open(&self.interface, family, Some(self.own), &[])
    }

    /// Sends an advert, to the group or to a peer.
    ///
    /// # Errors
    /// It did not leave.
    pub fn send(&self, payload: &[u8], to: IpAddr) -> io::Result<()> {
        let to = match to {
            IpAddr::V4(_) => SocketAddr::new(to, 0),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, 0, 0, self.index).into(),
        };
        self.out.send_to(payload, &to.into()).map(drop)
    }

    /// Announces an address of a virtual router.
    ///
    /// # Errors
    /// The frame did not leave.
    pub fn announce(&self, frame: &Frame) -> io::Result<()> {
        self.frames.send(frame.bytes()).map(drop)
    }

    /// The next packet with an advert that has arrived: its length in the buffer, and when it arrived. `None` if there is
    /// none. A packet that is longer than the buffer is cut.
    ///
    /// # Errors
    /// The socket is of no use any more, or the interface is down.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<(usize, Instant)>> {
        let mut parts = [IoSliceMut::new(buffer)];
        let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<()>(self.inward.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Ok(message) => message,
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stamp = message.cmsgs()?.find_map(|part| {
            if let ControlMessageOwned::ScmTimestampns(stamp) = part {
                Some(Duration::from(stamp))
            } else {
                None
            }
        });
        Ok(Some((message.bytes, arrived(stamp))))
    }

    /// Readable when an advert has arrived.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.inward.as_fd()
    }
}

/// When it was, in the clock that never jumps. The kernel stamps by the wall clock; who sets that between the arrival and
/// now is off by as much, but never into the future.
fn arrived(stamp: Option<Duration>) -> Instant {
    let now = Instant::now();
    let ago = stamp.and_then(|stamp| {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        wall.checked_sub(stamp)
    });
    // What has lain there for longer than that has not: the clock was set.
    let ago = ago.filter(|ago| *ago < Duration::from_secs(60));
    ago.and_then(|ago| now.checked_sub(ago)).unwrap_or(now)
}

/// Where adverts would come from on an interface, and whether they could leave. Opens nothing.
///
/// # Errors
/// As [`Link::open`], as far as it can be told.
pub(crate) fn look_at(
    interface: &str,
    family: Family,
    own: Option<IpAddr>,
    shared: &[IpAddr],
) -> Result<(IpAddr, bool), LinkError> {
    if_nametoindex(interface).map_err(|_| LinkError::NoInterface(interface.to_owned()))?;
    let found = look(interface).map_err(|cause| LinkError::System {
        doing: "look up addresses",
        interface: interface.to_owned(),
        cause,
        mend: "",
    })?;
    if found.mac.is_none() {
        return Err(LinkError::NoEthernet(interface.to_owned()));
    }
    let is_up = found.is_up;
    Ok((source(interface, family, own, found.addresses, shared)?, is_up))
}

/// The address that adverts are sent from, of those that an interface has.
fn source(
    interface: &str,
    family: Family,
    own: Option<IpAddr>,
    addresses: Vec<IpAddr>,
    shared: &[IpAddr],
) -> Result<IpAddr, LinkError> {
    match own {
        Some(own) if addresses.contains(&own) => Ok(own),
        Some(own) => Err(LinkError::OtherAddress {
            interface: interface.to_owned(),
            own,
        }),
        None => addresses
            .into_iter()
            .find(|ip| may_send(*ip, family) && !shared.contains(ip))
            .ok_or_else(|| LinkError::NoAddress {
                interface: interface.to_owned(),
                kind: match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "link-local IPv6",
                },
            }),
    }
}

struct Found {
    is_up: bool,
    addresses: Vec<IpAddr>,
    mac: Option<[u8; 6]>,
}

fn look(interface: &str) -> io::Result<Found> {
    let mut found = Found {
        is_up: false,
        addresses: Vec::new(),
        mac: None,
    };
    for entry in getifaddrs()?.filter(|entry| entry.interface_name == interface) {
        let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        found.is_up |= entry.flags.contains(wanted);
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(v4) = address.as_sockaddr_in() {
            found.addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            found.addresses.push(v6.ip().into());
        } else if let Some(link) = address.as_link_addr() {
            found.mac = link.addr();
        }
    }
    Ok(found)
}

/// An interface's link address, if it has one.
pub(super) fn mac_of(interface: &str) -> io::Result<Option<[u8; 6]>> {
    Ok(look(interface)?.mac)
}

const fn may_send(ip: IpAddr, family: Family) -> bool {
    match (ip, family) {
        (IpAddr::V4(_), Family::V4) => true,
        (IpAddr::V6(v6), Family::V6) => v6.is_unicast_link_local(),
        (IpAddr::V4(_), Family::V6) | (IpAddr::V6(_), Family::V4) => false,
    }
}

fn outward(interface: &str, index: u32, own: IpAddr) -> io::Result<Socket> {
    let protocol = Some(Protocol::from(i32::from(PROTOCOL)));
    let socket = match own {
        IpAddr::V4(own) => {
            let socket = Socket::new(Domain::IPV4, Type::RAW, protocol)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(&SocketAddr::from((own, 0)).into())?;
            socket.set_ttl_v4(HOPS.into())?;
            socket.set_multicast_ttl_v4(HOPS.into())?;
            socket.set_multicast_loop_v4(false)?;
            socket.set_tos_v4(CONTROL)?;
            let at = socket2::InterfaceIndexOrAddress::Index(index);
            socket.join_multicast_v4_n(&GROUP_V4, &at)?;
            socket.set_multicast_if_v4(&own)?;
            socket
        }
        IpAddr::V6(own) => {
            let socket = Socket::new(Domain::IPV6, Type::RAW, protocol)?;
            socket.bind_device(Some(interface.as_bytes()))?;
            socket.bind(&SocketAddrV6::new(own, 0, 0, index).into())?;
            socket.set_unicast_hops_v6(HOPS.into())?;
            socket.set_multicast_hops_v6(HOPS.into())?;
            socket.set_multicast_loop_v6(false)?;
            socket.set_multicast_if_v6(index)?;
            socket.set_tclass_v6(CONTROL)?;
            socket.join_multicast_v6(&GROUP_V6, index)?;
            socket
        }
    };
    // It is only sent by.
    socket.attach_filter(&[code::RETURN_NONE])?;
    Ok(socket)
}

fn inward(index: u32, family: Family) -> io::Result<Socket> {
    let (ether_type, protocol_at) = match family {
        Family::V4 => (0x0800, 9),
        Family::V6 => (0x86dd, 6),
    };
    // Without a protocol it receives nothing before it is bound to its interface.
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.attach_filter(&filter(protocol_at))?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    packet::bind_packet(&socket, ether_type, index)?;
    Ok(socket)
}

/// Packets to this box (the kernel counts those to one, to many and to all as 0, 2 and 1), of VRRP.
fn filter(protocol_at: u32) -> [SockFilter; 6] {
    use code::{LOAD_BYTE, LOAD_WORD, PACKET_TYPE, RETURN_ALL, RETURN_NONE, equal, greater};
    [
        SockFilter::new(LOAD_WORD, 0, 0, PACKET_TYPE),
        greater(2, 3, 0),
        SockFilter::new(LOAD_BYTE, 0, 0, protocol_at),
        equal(PROTOCOL.into(), 0, 1),
        RETURN_ALL,
        RETURN_NONE,
    ]
}

fn frames(index: u32) -> io::Result<Socket> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    packet::bind_packet(&socket, 0, index)?;
    Ok(socket)
}
