//! Where a service is reached.

use std::net::{IpAddr, SocketAddr};

use crate::ids::{Interface, ListenKey, Protocol, Scope, Shown, ShownNetwork, show_interface};

/// Transparent listeners of one family that a plan may have, all services together: as many as the kernel's table holds for
/// one network.
pub const MAX_TRANSPARENT: usize = 16;

/// One listen entry: an address with a range of ports, or with every port (both 0; `mode = "l4"` alone).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listen {
    /// The address.
    pub addr: IpAddr,
    /// First port; 0: every port.
    pub first: u16,
    /// Last port, at least `first`; 0: every port.
    pub last: u16,
    /// The transport.
    pub protocol: Protocol,
    /// Which addresses it is for.
    pub scope: Scope,
    /// The interface that connections come in by, and are answered by (never of `mode = "l4"`). None: whichever.
    pub interface: Option<Interface>,
}

impl Listen {
    /// One key per port; one of port 0 for every port. A transparent listener has one for all its ports.
    pub fn keys(&self) -> impl Iterator<Item = ListenKey> + use<> {
        let Self {
            addr,
            first,
            last,
            protocol,
            scope,
            interface,
        } = *self;
        let last = if self.is_transparent() { first } else { last };
        (first..=last).map(move |port| ListenKey {
            addr,
            port,
            protocol,
            scope,
            interface,
        })
    }

    /// Whether it is for addresses that are not on this box.
    pub fn is_transparent(&self) -> bool {
        matches!(self.scope, Scope::Network(_))
    }

    /// Whether it is every port of its address.
    pub fn is_every_port(&self) -> bool {
        self.first == 0
    }

    /// Whether it is a virtual address, which weir puts on the box and sk_lookup steers. Others are loopback or unspecified,
    /// and a socket is bound to them as they stand; or they are not on the box at all (a transparent listener's).
    pub fn is_virtual(&self) -> bool {
        !self.is_transparent() && Self::is_virtual_address(self.addr)
    }

    /// The same of an address.
    pub fn is_virtual_address(addr: IpAddr) -> bool {
        !addr.is_loopback() && !addr.is_unspecified()
    }
}

impl std::fmt::Display for Listen {
    /// As in the configuration: `192.0.2.10:8000-8010/tcp`, `[2001:db8::10]:*/udp`, `transparent:203.0.113.0/24:80/tcp`. Of one
    /// interface alone, `%NAME` stands behind it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.scope {
            Scope::Address => Shown(SocketAddr::new(self.addr, self.first)).fmt(f)?,
            Scope::Network(prefix) => {
                let network = ShownNetwork(self.addr, prefix);
                write!(f, "transparent:{network}:{}", self.first)?;
            }
        }
        if self.first != self.last {
            write!(f, "-{}", self.last)?;
        }
        write!(f, "/{}", self.protocol.as_str())?;
        show_interface(self.interface, f)
    }
}
