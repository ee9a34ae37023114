//! Source ports of `full-nat` and of the relay against those that the kernel gives out itself and that somebody listens on,
//! and among how many CPUs they are shared.
//!
//! Pure but for reading two sysctls, the list of CPUs and what is listened on. On an address of weir's own nobody else opens connections; on one that the box has
//! anyway the kernel may give a port to a local connection that weir gives to a flow, and answers would go astray.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use weir_core::{
    ids::PoolName,
    plan::{PortRange, RelayPorts, SourcePool},
};

use crate::{error::OpenError, sysctl};

/// Lists the CPUs that are there. "Possible" ones, of which per-CPU maps have a value each, may be many more.
const PRESENT: &str = "/sys/devices/system/cpu/present";
const RANGE: &str = "net.ipv4.ip_local_port_range";
const RESERVED: &str = "net.ipv4.ip_local_reserved_ports";
/// Sockets of TCP over IPv4, and over IPv6.
const TCP4: &str = "/proc/thread-self/net/tcp";
const TCP6: &str = "/proc/thread-self/net/tcp6";

/// Why source ports cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// The kernel gives the same ports out.
    #[error(
        "pool {pool}: source ports {first} to {last} overlap those that the kernel gives out itself ({RANGE} is {} to {}), \
         and {address} is an address that this box uses for connections of its own; choose other ports, list them in \
         {RESERVED}, or give an address that the box does not have: weir adds it", local.0, local.1
    )]
    Overlap {
        /// The pool.
        pool: PoolName,
        /// First port of its range.
        first: u16,
        /// Last port of its range.
        last: u16,
        /// First and last port of the kernel's range.
        local: (u16, u16),
        /// The address.
        address: IpAddr,
    },
    /// The relay's ports are among those that the kernel gives out.
    #[error(
        "pool {pool}: the relay's source ports {range} overlap those that the kernel gives out itself ({RANGE} is {} to {}): \
         it would give no connection of this box a port that the relay uses; choose other ports, list them in {RESERVED}, \
         or narrow the kernel's range", local.0, local.1
    )]
    Given {
        /// The pool.
        pool: PoolName,
        /// The ports that overlap.
        range: PortRange,
        /// First and last port of the kernel's range.
        local: (u16, u16),
    },
    /// Something listens on one of the relay's ports.
    #[error(
        "pool {pool}: something on this box listens on {listener}, and port {} of {address} is one of the relay's source \
         ports; leave it out of pools.{pool}.source: `ports` takes several ranges", listener.port()
    )]
    Listener {
        /// The pool.
        pool: PoolName,
        /// The source address.
        address: IpAddr,
        /// What is listened on.
        listener: SocketAddr,
    },
    /// A source address is not there, and weir does not add it.
    #[error(
        "pool {pool}: the source address {address} can't be used: {cause}; add it to an interface of this box, since weir \
         does that only with XDP"
    )]
    Absent {
        /// The pool.
        pool: PoolName,
        /// The address.
        address: IpAddr,
        /// The system's reason.
        cause: io::Error,
    },
    /// What the box listens on is not known.
    #[error("what this box listens on can't be read from {path}: {cause}")]
    Listeners {
        /// The file.
        path: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
    /// A sysctl could not be read.
    #[error("sysctl {name} could not be read: {cause}")]
    Sysctl {
        /// Its dotted name.
        name: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
}

/// What the kernel gives out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalPorts {
    range: (u16, u16),
    /// Ranges that it leaves out.
    reserved: Vec<(u16, u16)>,
}

impl LocalPorts {
    /// As the sysctls of this network namespace say. They are for both families.
    ///
    /// # Errors
    /// When they cannot be read, or make no sense.
    pub fn read() -> Result<Self, PortError> {
        let text = |name| {
            let text = sysctl::read(name).map_err(|cause| PortError::Sysctl { name, cause })?;
            Ok(text.unwrap_or_default())
        };
        let strange = |name| PortError::Sysctl {
            name,
            cause: io::ErrorKind::InvalidData.into(),
        };
        let range = text(RANGE)?;
        let mut words = range.split_whitespace().map(str::parse);
        let (Some(Ok(first)), Some(Ok(last))) = (words.next(), words.next()) else {
            return Err(strange(RANGE));
        };
        let reserved = reserved(&text(RESERVED)?).ok_or_else(|| strange(RESERVED))?;
        Ok(Self {
            range: (first, last),
            reserved,
        })
    }

    /// Whether one of these ports is given out.
    fn overlaps(&self, first: u16, last: u16) -> bool {
        let (from, to) = (first.max(self.range.0), last.min(self.range.1));
        let is_reserved = |port| self.reserved.iter().any(|&(a, b)| (a..=b).contains(&port));
        (from..=to).any(|port| !is_reserved(port))
    }

    /// Checks a pool's ports; `foreign` are those of its addresses that the box has anyway.
    ///
    /// # Errors
    /// When the kernel gives some of them out on such an address.
    pub fn check(&self, pool: &PoolName, source: &SourcePool, foreign: &[IpAddr]) -> Result<(), PortError> {
        let own = source.addresses.iter().find(|address| foreign.contains(address));
        match own {
            Some(&address) if self.overlaps(source.first, source.last) => Err(PortError::Overlap {
                pool: pool.clone(),
                first: source.first,
                last: source.last,
                local: self.range,
                address,
            }),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks the ports of a pool that the relay connects from. Whose address it is makes no difference: the kernel gives no
    /// connection of any address a port that is bound to.
    ///
    /// # Errors
    /// When the kernel gives some of them out.
    pub fn check_relay(&self, pool: &PoolName, ports: &RelayPorts) -> Result<(), PortError> {
        let given = ports.all().into_iter().find(|r| self.overlaps(r.first, r.last));
        given.map_or(Ok(()), |range| {
            Err(PortError::Given {
                pool: pool.clone(),
                range,
                local: self.range,
            })
        })
    }
}

/// Where this box listens for TCP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listeners(Vec<SocketAddr>);

impl Listeners {
    /// As this network namespace has it.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read() -> Result<Self, PortError> {
        let mut all = Vec::new();
        for path in [TCP4, TCP6] {
            match std::fs::read_to_string(path) {
                Ok(text) => all.extend(text.lines().filter_map(listener)),
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(PortError::Listeners { path, cause }),
            }
        }
        Ok(Self(all))
    }

    /// Checks that nobody listens on the relay's ports of its source addresses.
    ///
    /// # Errors
    /// Who does, if so.
    pub fn check_relay(
        &self,
        pool: &PoolName,
        addresses: &[IpAddr],
        ports: &RelayPorts,
    ) -> Result<(), PortError> {
        let ranges = ports.all();
        for &address in addresses {
            let among = |port| ranges.iter().any(|range| range.contains(port));
            // One of every IPv6 address may be one of every IPv4 address, too: that is tried.
            let may =
                |ip: IpAddr| ip == address || ip.is_unspecified() && (ip.is_ipv6() || address.is_ipv4());
            let mut those = self.0.iter().filter(|at| among(at.port()) && may(at.ip()));
            if let Some(&listener) = those.find(|at| !is_free(address, at.port())) {
                return Err(PortError::Listener {
                    pool: pool.clone(),
                    address,
                    listener,
                });
            }
        }
        Ok(())
    }
}

/// Whether a connection may be bound there, be the address on this box or not.
fn is_free(address: IpAddr, port: u16) -> bool {
    use socket2::{Domain, Socket, Type};
    let at = SocketAddr::new(address, port);
    let bind = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM.cloexec(), None)?;
        socket.set_reuse_address(true)?;
        match address {
            IpAddr::V4(_) => socket.set_freebind_v4(true)?,
            IpAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.bind(&at.into())
    };
    bind().is_ok()
}

/// Checks that the source addresses of a pool are on this box.
///
/// # Errors
/// The first that is not.
pub fn check_present(pool: &PoolName, addresses: &[IpAddr]) -> Result<(), PortError> {
    for &address in addresses {
        std::net::UdpSocket::bind((address, 0)).map_err(|cause| PortError::Absent {
            pool: pool.clone(),
            address,
            cause,
        })?;
    }
    Ok(())
}

/// One line of `/proc/net/tcp` or `tcp6`; None if it is none of a listening socket. Addresses stand in words of 32 bits, each
/// as the machine has it in memory.
fn listener(line: &str) -> Option<SocketAddr> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next()?;
    if fields.nth(1)? != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, to) in bytes.chunks_exact_mut(4).enumerate() {
                to.copy_from_slice(&word(at)?);
            }
            bytes.into()
        }
        _ => return None,
    };
    Some((ip, port).into())
}

/// How many CPUs are there, those without work included: one more than the highest number.
///
/// # Errors
/// When the kernel does not say.
pub(crate) fn present_cpus() -> Result<u32, OpenError> {
    let cpus = std::fs::read_to_string(PRESENT)
        .and_then(|text| cpus(&text).ok_or_else(|| io::ErrorKind::InvalidData.into()));
    cpus.map_err(|cause| OpenError::File {
        doing: "cannot read",
        path: PRESENT.into(),
        cause,
    })
}

/// `0-3,8`: 9.
fn cpus(text: &str) -> Option<u32> {
    let last = text.trim().rsplit([',', '-']).next()?;
    last.parse::<u32>().ok()?.checked_add(1)
}

/// `8080,9000-9100`; None if it is anything else.
fn reserved(text: &str) -> Option<Vec<(u16, u16)>> {
    let ranges = text.split(',').map(str::trim).filter(|range| !range.is_empty());
    ranges
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_that_are_given_out_on_the_boxs_own_addresses_are_refused() {
        let own: IpAddr = "10.0.0.1".parse().unwrap();
        let added: IpAddr = "10.0.0.2".parse().unwrap();
        let check = |first, last, reserved_text: &str, foreign: &[IpAddr]| {
            let local = LocalPorts {
                range: (32_768, 60_999),
                reserved: reserved(reserved_text).unwrap(),
            };
            let source = SourcePool {
                addresses: vec![added, own],
                first,
                last,
            };
            local.check(&PoolName::new("web"), &source, foreign)
        };
        let error = check(1024, 40_000, "", &[own]).unwrap_err().to_string();
        for part in [
            "pool web",
            "1024 to 40000",
            "ip_local_port_range is 32768 to 60999",
            "10.0.0.1",
            "choose other ports",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(check(1024, 40_000, "", &[]).is_ok(), "weir's own address");
        assert!(check(1024, 32_767, "", &[own]).is_ok());
        assert!(check(61_000, 65_535, "", &[own]).is_ok());
        assert!(check(60_999, 65_535, "", &[own]).is_err());
        assert!(check(40_000, 40_010, "8080,40000-40005,40006-40010", &[own]).is_ok());
        assert!(check(40_000, 40_010, "40000-40009", &[own]).is_err());
    }

    #[test]
    fn this_box_says_what_it_gives_out() {
        let found = LocalPorts::read().unwrap();
        assert!(found.range.0 <= found.range.1);
        assert_eq!(reserved("1-x"), None);
        assert_eq!(reserved(""), Some(vec![]));
    }

    #[test]
    fn cpus_are_counted_up_to_the_last_one() {
        for (text, want) in [
            ("0\n", Some(1)),
            ("0-3\n", Some(4)),
            ("0-1,4-7", Some(8)),
            ("0,2", Some(3)),
            ("", None),
            ("all", None),
        ] {
            assert_eq!(cpus(text), want, "{text:?}");
        }
        assert!(present_cpus().unwrap() >= 1);
    }
}
