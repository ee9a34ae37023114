//! Virtual addresses on interfaces: added, kept, removed, over rtnetlink.
//!
//! Touches only what weir itself added. An address of weir's carries [`MARK`] (IFA_PROTO, Linux 5.18) and stands in a
//! file, which also serves older kernels; the file is written before an address is added, so a crash forgets none. An
//! address that was there before is the operator's: it is used and left alone.

use std::{
    collections::BTreeSet,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo},
    },
};
use serde::{Deserialize, Serialize};

use crate::assign::write_atomically;

/// IFA_PROTO of weir's addresses, but for those of virtual routers. The kernel itself uses 1 to 3, keepalived 18.
pub const MARK: u8 = 119;

/// Why virtual addresses could not be put right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VipError {
    /// An interface does not exist.
    #[error(
        "interface {0:?} does not exist in this network namespace; correct node.interfaces or create it first"
    )]
    NoInterface(String),
    /// The interface of a virtual router does not exist.
    #[error("interface {0:?} of a virtual router does not exist in this network namespace; create it first")]
    NoLink(String),
    /// The kernel refused.
    #[error("cannot {doing}: {cause}{mend}")]
    Netlink {
        /// What was being done, as in "add 192.0.2.10 to eth0".
        doing: String,
        /// The kernel's reason.
        cause: io::Error,
        /// What the operator can do, with leading punctuation; may be empty.
        mend: &'static str,
    },
    /// The file of weir's own addresses could not be read or written.
    #[error("cannot {doing} {}: {cause}", path.display())]
    File {
        /// `read` or `write`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        cause: io::Error,
    },
}

/// What was done about an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VipChange {
    /// It was added to an interface.
    Added {
        /// The address.
        address: IpAddr,
        /// Index of the interface.
        ifindex: u32,
    },
    /// It was weir's and is not wanted any more.
    Removed {
        /// The address.
        address: IpAddr,
        /// Index of the interface.
        ifindex: u32,
    },
}

/// One address on one interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Debug)]
pub(crate) struct Place {
    pub(crate) address: IpAddr,
    pub(crate) ifindex: u32,
}

/// An address that the box has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Present {
    pub(crate) place: Place,
    pub(crate) prefix: u8,
    pub(crate) marked: bool,
}

/// The virtual addresses of this box.
#[derive(Debug)]
pub struct Vips {
    handle: Handle,
    file: PathBuf,
}

impl Vips {
    /// Opens a netlink socket in the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            file: state_dir.join("vips.json"),
        })
    }

    /// Puts every wanted address that the box lacks on the interface whose connected subnet holds it, else on the first
    /// (without any: on `lo`), as a host address. Removes weir's own that are not wanted or lie on another interface.
    ///
    /// # Errors
    /// When an interface does not exist or the kernel refuses. What was done before stays; the same call carries on.
    pub async fn reconcile(
        &mut self,
        wanted: &[IpAddr],
        interfaces: &[String],
    ) -> Result<Vec<VipChange>, VipError> {
        let mut indices = Vec::new();
        for name in interfaces {
            let index = nix::net::if_::if_nametoindex(name.as_str());
            indices.push(index.map_err(|_| VipError::NoInterface(name.clone()))?);
        }
        if indices.is_empty() {
            let index = nix::net::if_::if_nametoindex("lo");
            indices.push(index.map_err(|_| VipError::NoInterface("lo".into()))?);
        }
        let wanted: BTreeSet<IpAddr> = wanted.iter().map(IpAddr::to_canonical).collect();
        let recorded = self.recorded()?;
        let present = self.present().await?;
        let Changes { add, remove } = changes(&wanted, &indices, &present, &recorded);

        let still: BTreeSet<Place> = present
            .iter()
            .map(|p| p.place)
            .filter(|place| recorded.contains(place))
            .collect();
        self.record(&still.iter().chain(&add).copied().collect(), &recorded)?;
        let mut done = Vec::new();
        for &place in &add {
            self.add(place).await?;
            tracing::info!(address = %place.address, ifindex = place.ifindex, "virtual address added");
            done.push(VipChange::Added {
                address: place.address,
                ifindex: place.ifindex,
            });
        }
        for &place in &remove {
            self.delete(place).await?;
            tracing::info!(address = %place.address, ifindex = place.ifindex, "virtual address removed");
            done.push(VipChange::Removed {
                address: place.address,
                ifindex: place.ifindex,
            });
        }
        let before = still.union(&add).copied().collect();
        self.record(
            &still
                .union(&add)
                .filter(|place| !remove.contains(place))
                .copied()
                .collect(),
            &before,
        )?;
        Ok(done)
    }

    /// The addresses that weir has added and that are still there.
    ///
    /// # Errors
    /// When the addresses of the box cannot be read.
    pub async fn own(&self) -> Result<Vec<IpAddr>, VipError> {
        let recorded = self.recorded()?;
        let present = self.present().await?;
        let own = present.iter().filter(|p| recorded.contains(&p.place));
        Ok(own.map(|p| p.place.address).collect())
    }

    /// Those of `addresses` that the box has and weir has not added: others use them too.
    ///
    /// # Errors
    /// When the addresses of the box cannot be read.
    pub async fn foreign(&self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, VipError> {
        let recorded = self.recorded()?;
        let present = self.present().await?;
        let theirs = |address: &&IpAddr| {
            let address = address.to_canonical();
            present
                .iter()
                .any(|p| p.place.address == address && !p.marked && !recorded.contains(&p.place))
        };
        Ok(addresses.iter().filter(theirs).copied().collect())
    }

    /// Removes every address that weir added.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_all(&mut self) -> Result<Vec<VipChange>, VipError> {
        self.reconcile(&[], &[]).await
    }

    fn recorded(&self) -> Result<BTreeSet<Place>, VipError> {
        let file = |cause| VipError::File {
            doing: "read",
            path: self.file.clone(),
            cause,
        };
        match fs::read_to_string(&self.file) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| file(e.into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(e) => Err(file(e)),
        }
    }

    fn record(&self, places: &BTreeSet<Place>, before: &BTreeSet<Place>) -> Result<(), VipError> {
        if places == before {
            return Ok(());
        }
        let write = || -> io::Result<()> {
            if places.is_empty() {
                return match fs::remove_file(&self.file) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(()),
                };
            }
            if let Some(dir) = self.file.parent() {
                fs::create_dir_all(dir)?;
            }
            write_atomically(&self.file, &serde_json::to_vec_pretty(places)?)
        };
        write().map_err(|cause| VipError::File {
            doing: "write",
            path: self.file.clone(),
            cause,
        })
    }

    async fn present(&self) -> Result<Vec<Present>, VipError> {
        let messages: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|e| refused("list the addresses of this box".into(), e))?;
        Ok(messages.iter().filter_map(|m| present(m, MARK)).collect())
    }

    async fn add(&self, place: Place) -> Result<(), VipError> {
        let mut request = self
            .handle
            .address()
            .add(place.ifindex, place.address, width(place.address))
            .replace();
        *request.message_mut() = message(place, width(place.address), MARK);
        let doing = || format!("add {} to interface {}", place.address, place.ifindex);
        request.execute().await.map_err(|e| refused(doing(), e))
    }

    async fn delete(&self, place: Place) -> Result<(), VipError> {
        let message = message(place, width(place.address), MARK);
        match self.handle.address().del(message).execute().await {
            Err(e) if errno(&e) == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(e) => {
                let doing = format!("remove {} from interface {}", place.address, place.ifindex);
                Err(refused(doing, e))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// What must happen to addresses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    add: BTreeSet<Place>,
    remove: BTreeSet<Place>,
}

/// Compares. Pure.
fn changes(
    wanted: &BTreeSet<IpAddr>,
    interfaces: &[u32],
    present: &[Present],
    recorded: &BTreeSet<Place>,
) -> Changes {
    let ours = |p: &Present| p.marked || recorded.contains(&p.place);
    let mut out = Changes::default();
    let mut kept = BTreeSet::new();
    for &address in wanted {
        // The operator's own, wherever it lies, serves as it is.
        if present.iter().any(|p| p.place.address == address && !ours(p)) {
            continue;
        }
        let subnet = |index: u32| {
            let connected = present.iter().filter(|p| p.place.ifindex == index && !ours(p));
            connected.filter(|p| holds(p, address)).map(|p| p.prefix).max()
        };
        // Of several interfaces with such a subnet the longest prefix wins, then the first in the list.
        let mut best: Option<(u8, u32)> = None;
        for &index in interfaces {
            if let Some(prefix) = subnet(index)
                && best.is_none_or(|(longest, _)| prefix > longest)
            {
                best = Some((prefix, index));
            }
        }
        let Some(ifindex) = best
            .map(|(_, index)| index)
            .or_else(|| interfaces.first().copied())
        else {
            continue;
        };
        let place = Place { address, ifindex };
        kept.insert(place);
        if !present.iter().any(|p| p.place == place) {
            out.add.insert(place);
        }
    }
    out.remove = present
        .iter()
        .filter(|p| ours(p) && !kept.contains(&p.place))
        .map(|p| p.place)
        .collect();
    out
}

/// Whether an address lies in the subnet that another connects its interface to.
fn holds(subnet: &Present, address: IpAddr) -> bool {
    match (subnet.place.address, address) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let differ = (u32::from(a) ^ u32::from(b)).checked_shr(32 - u32::from(subnet.prefix.min(32)));
            differ.unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let differ = (u128::from(a) ^ u128::from(b)).checked_shr(128 - u32::from(subnet.prefix.min(128)));
            differ.unwrap_or(0) == 0
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The netlink message for an address of weir's, with its mark.
pub(crate) fn message(place: Place, prefix: u8, mark: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if place.address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    message.header.prefix_len = prefix;
    message.header.index = place.ifindex;
    message.header.scope = AddressScope::Universe;
    message.attributes.push(AddressAttribute::Local(place.address));
    message.attributes.push(AddressAttribute::Address(place.address));
    message
        .attributes
        .push(AddressAttribute::Protocol(AddressProtocol::Other(mark)));
    if place.address.is_ipv6() {
        // No duplicate address detection: the address must work at once, and another box of a pair may have it still.
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
        // Deprecated from the start: connections of this box's own must not take the VIP for their source.
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_valid = u32::MAX;
        lifetimes.ifa_preferred = 0;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
    }
    message
}

/// An address of this box as the kernel lists it, and whether it has that mark.
pub(crate) fn present(message: &AddressMessage, mark: u8) -> Option<Present> {
    let (mut local, mut address, mut marked) = (None, None, false);
    for attribute in &message.attributes {
        if let AddressAttribute::Local(ip) = attribute {
            local = Some(*ip);
        } else if let AddressAttribute::Address(ip) = attribute {
            address = Some(*ip);
        } else if let AddressAttribute::Protocol(protocol) = attribute {
            marked = *protocol == AddressProtocol::Other(mark);
        }
    }
    // IPv6 and ordinary interfaces have one; a point-to-point IPv4 address has the peer's in `Address`.
    let place = Place {
        address: local.or(address)?,
        ifindex: message.header.index,
    };
    Some(Present {
        place,
        prefix: message.header.prefix_len,
        marked,
    })
}

pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io().raw_os_error()
    } else {
        None
    }
}

pub(crate) fn refused(doing: String, error: rtnetlink::Error) -> VipError {
    let cause = if let rtnetlink::Error::NetlinkError(message) = &error {
        message.to_io()
    } else {
        io::Error::other(error.to_string())
    };
    let mend = match cause.raw_os_error() {
        Some(libc::EPERM) => "; weir needs root or CAP_NET_ADMIN to add virtual addresses",
        Some(libc::EACCES) => "; IPv6 is switched off on the interface (net.ipv6.conf.NAME.disable_ipv6)",
        _ => "",
    };
    VipError::Netlink { doing, cause, mend }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(address: &str, ifindex: u32) -> Place {
        Place {
            address: address.parse().unwrap(),
            ifindex,
        }
    }

    fn there(address: &str, prefix: u8, ifindex: u32, marked: bool) -> Present {
        Present {
            place: place(address, ifindex),
            prefix,
            marked,
        }
    }

    #[test]
    fn addresses_go_where_their_subnet_is() {
        let present = [
            there("10.0.0.1", 8, 2, false),
            there("10.1.0.1", 16, 3, false),
            there("2001:db8:1::1", 64, 3, false),
            there("192.0.2.7", 24, 2, false),
            there("192.0.2.9", 32, 3, true),
            there("198.51.100.1", 32, 2, false),
        ];
        let recorded = BTreeSet::from([place("198.51.100.1", 2), place("203.0.113.1", 2)]);
        let run = |wanted: &[&str]| {
            let wanted = wanted.iter().map(|a| a.parse().unwrap()).collect();
            changes(&wanted, &[2, 3], &present, &recorded)
        };
        let stale = [place("192.0.2.9", 3), place("198.51.100.1", 2)];
        let cases: [(&str, &[Place], &[Place]); 8] = [
            ("10.2.0.5", &[place("10.2.0.5", 2)], &stale),
            ("10.1.0.5", &[place("10.1.0.5", 3)], &stale),
            ("2001:db8:1::5", &[place("2001:db8:1::5", 3)], &stale),
            ("2001:db8:2::5", &[place("2001:db8:2::5", 2)], &stale),
            ("192.0.2.7", &[], &stale),
            // Marked, but on the wrong interface: added where it belongs, then taken away there.
            ("192.0.2.9", &[place("192.0.2.9", 2)], &stale),
            ("198.51.100.1", &[], &stale[..1]),
            ("203.0.113.1", &[place("203.0.113.1", 2)], &stale),
        ];
        for (address, add, remove) in cases {
            let changes = run(&[address]);
            assert_eq!(changes.add, add.iter().copied().collect(), "{address}");
            assert_eq!(changes.remove, remove.iter().copied().collect(), "{address}");
        }
        assert_eq!(run(&[]).remove.len(), 2, "the operator's own stay");
    }

    #[test]
    fn subnets_of_every_length() {
        for (address, prefix, other, expected) in [
            ("10.0.0.1", 0, "192.0.2.1", true),
            ("10.0.0.1", 8, "10.255.0.1", true),
            ("10.0.0.1", 32, "10.0.0.1", true),
            ("10.0.0.1", 32, "10.0.0.2", false),
            ("::", 0, "2001:db8::1", true),
            ("2001:db8::", 64, "2001:db8::1", true),
            ("2001:db8::", 64, "2001:db8:0:1::1", false),
            ("::", 0, "192.0.2.1", false),
        ] {
            assert_eq!(
                holds(&there(address, prefix, 1, false), other.parse().unwrap()),
                expected,
                "{address}/{prefix}"
            );
        }
    }
}
