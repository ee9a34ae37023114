//! Identities that outlive a configuration: health, counters, bans and flows are keyed by these, never by a position.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// The name of a pool, as in `[pools.NAME]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PoolName(Arc<str>);

/// The name of a service, as in `[services.NAME]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceName(Arc<str>);

/// The name of a group of virtual routers, as in `[vrrp.NAME]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct GroupName(Arc<str>);

macro_rules! name {
    ($ty:ident) => {
        impl $ty {
            /// Wraps a name that was already validated (`weir-config` does so).
            pub fn new(name: impl Into<Arc<str>>) -> Self {
                Self(name.into())
            }

            /// The name itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
name!(PoolName);
name!(ServiceName);
name!(GroupName);

/// An address and port as they are printed and typed: port 0, which stands for every port, is `*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shown(pub SocketAddr);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.port(), self.0.ip()) {
            (0, IpAddr::V4(v4)) => write!(f, "{v4}:*"),
            (0, IpAddr::V6(v6)) => write!(f, "[{v6}]:*"),
            (1.., _) => self.0.fmt(f),
        }
    }
}

/// A backend's identity: its pool and its address. Printed and typed as `POOL/ADDRESS`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BackendKey {
    /// The pool it belongs to.
    pub pool: PoolName,
    /// Where it listens. Port 0: packets keep the port that the client addressed, which only `mode = "l4"` can do.
    pub address: SocketAddr,
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, Shown(self.address))
    }
}

/// Transport protocol of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP, IP protocol 6.
    Tcp,
    /// UDP, IP protocol 17.
    Udp,
}

impl Protocol {
    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// `tcp` or `udp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The name of a network interface: 1 to 15 bytes, as the kernel has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Interface {
    bytes: [u8; Self::LONGEST],
    len: u8,
}

impl Interface {
    /// Bytes of the longest name (`IFNAMSIZ`, without its closing NUL).
    pub const LONGEST: usize = 15;

    /// None if no interface can have the name: it is empty, too long, `.` or `..`, or has a space, a control character, a
    /// slash or a colon in it (`dev_valid_name` of the kernel).
    pub fn new(name: &str) -> Option<Self> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
        if name == "." || name == ".." || name.contains(bad) {
            return None;
        }
        let mut bytes = [0; Self::LONGEST];
        let room = bytes.get_mut(..name.len()).filter(|room| !room.is_empty())?;
        room.copy_from_slice(name.as_bytes());
        let len = u8::try_from(name.len()).ok()?;
        Some(Self { bytes, len })
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Which addresses a listener is for.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Scope {
    /// Its own.
    #[default]
    Address,
    /// Those of a network, its address with a prefix of so many bits, that are not on this box: the listener is
    /// transparent.
    Network(u8),
}

/// One address, port and protocol that clients reach. Printed as `ADDR:PORT/tcp`; a transparent listener's as
/// `transparent:NETWORK:PORT/tcp`. Of one interface alone, `%NAME` stands behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ListenKey {
    /// The address; unspecified (`0.0.0.0`, `::`) for every address of the box.
    pub addr: IpAddr,
    /// The port; 0: every port of the address, which only `mode = "l4"` has.
    pub port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Which addresses it is for. Of a transparent listener `addr` is the network's and `port` the first of its ports.
    pub scope: Scope,
    /// The interface that connections come in by, and are answered by. None: whichever, and answers follow the routes.
    pub interface: Option<Interface>,
}

impl fmt::Display for ListenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Address => Shown(SocketAddr::new(self.addr, self.port)).fmt(f)?,
            Scope::Network(prefix) => {
                write!(f, "transparent:{}:{}", ShownNetwork(self.addr, prefix), self.port)?;
            }
        }
        write!(f, "/{}", self.protocol.as_str())?;
        show_interface(self.interface, f)
    }
}

/// What stands behind a listener of one interface.
pub(crate) fn show_interface(interface: Option<Interface>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    interface.map_or(Ok(()), |interface| write!(f, "%{interface}"))
}

/// A network as it is typed before a port: IPv6 in brackets.
pub(crate) struct ShownNetwork(pub(crate) IpAddr, pub(crate) u8);

impl fmt::Display for ShownNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}/{}", self.1),
            IpAddr::V6(v6) => write!(f, "[{v6}]/{}", self.1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_a_star() {
        let key = |address: &str| BackendKey {
            pool: PoolName::new("web"),
            address: address.parse().unwrap(),
        };
        assert_eq!(key("10.0.0.11:80").to_string(), "web/10.0.0.11:80");
        assert_eq!(key("10.0.0.11:0").to_string(), "web/10.0.0.11:*");
        assert_eq!(key("[2001:db8::11]:0").to_string(), "web/[2001:db8::11]:*");
        let listen = ListenKey {
            addr: "2001:db8::10".parse().unwrap(),
            port: 0,
            protocol: Protocol::Udp,
            scope: Scope::Address,
            interface: None,
        };
        assert_eq!(listen.to_string(), "[2001:db8::10]:*/udp");
        let range = |first, last| crate::plan::Listen {
            addr: listen.addr,
            first,
            last,
            protocol: Protocol::Tcp,
            scope: Scope::Address,
            interface: None,
        };
        assert_eq!(range(0, 0).to_string(), "[2001:db8::10]:*/tcp");
        assert_eq!(range(80, 80).to_string(), "[2001:db8::10]:80/tcp");
        assert_eq!(range(80, 90).to_string(), "[2001:db8::10]:80-90/tcp");
        let transparent = crate::plan::Listen {
            addr: "2001:db8::".parse().unwrap(),
            scope: Scope::Network(32),
            ..range(80, 90)
        };
        assert_eq!(transparent.to_string(), "transparent:[2001:db8::]/32:80-90/tcp");
        let key = transparent.keys().next().unwrap();
        assert_eq!(key.to_string(), "transparent:[2001:db8::]/32:80/tcp");
        assert_eq!(transparent.keys().count(), 1, "one listener for all its ports");
        let by = crate::plan::Listen {
            interface: Interface::new("eth1"),
            ..range(80, 80)
        };
        assert_eq!(by.to_string(), "[2001:db8::10]:80/tcp%eth1");
        let shown: Vec<_> = by.keys().map(|key| key.to_string()).collect();
        assert_eq!(shown, ["[2001:db8::10]:80/tcp%eth1"]);
    }

    #[test]
    fn an_interfaces_name_is_the_kernels() {
        for name in ["eth1", "eth0.100", "a", "fifteen-bytes-0", "wlan_ü"] {
            assert_eq!(
                Interface::new(name).as_ref().map(Interface::as_str),
                Some(name),
                "{name}"
            );
        }
        for name in ["", ".", "..", "sixteen-bytes-00", "a b", "a/b", "eth0:1", "a\n"] {
            assert_eq!(Interface::new(name), None, "{name:?}");
        }
    }
}
