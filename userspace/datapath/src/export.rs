//! Routes that tell a routing daemon on this box which addresses to announce: added and taken back over rtnetlink.
//!
//! Touches only routes of its own protocol number, [`PROTOCOL`], so what a process before this one has left is found again
//! whatever became of it. The routes lie in a table that no rule leads to: they are there to be read, and change nothing about
//! where this box sends packets.

use std::{collections::BTreeSet, io, net::IpAddr};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope},
    },
};

/// `rtm_protocol` of these routes. The kernel itself uses 1 to 4, routing daemons have 8 to 18, 42, 99 and 186 to 192.
pub const PROTOCOL: u8 = 120;

/// Why routes could not be put right.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {cause}{mend}")]
pub struct ExportError {
    /// What was being done, as in "add the route of 192.0.2.10 to table 180".
    doing: String,
    /// The kernel's reason.
    cause: io::Error,
    /// What the operator can do, with leading punctuation; may be empty.
    mend: &'static str,
}

/// A host route of ours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    table: u32,
    address: IpAddr,
}

/// The exported routes of this box.
#[derive(Debug)]
pub struct Exports {
    handle: Handle,
    /// What is there, once it was read.
    present: Option<BTreeSet<Place>>,
}

impl Exports {
    /// Opens a netlink socket in the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn new() -> io::Result<Self> {
        // Only so does the kernel hand out the routes of one protocol; a box with a routing daemon may have a million others.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            present: None,
        })
    }

    /// Makes `wanted` in `table` the only routes of ours, wherever others were.
    ///
    /// # Errors
    /// When the kernel refuses. What was done before stays; the same call carries on.
    pub async fn reconcile(&mut self, wanted: &BTreeSet<IpAddr>, table: u32) -> Result<(), ExportError> {
        let wanted: BTreeSet<_> = wanted
            .iter()
            .map(|address| Place {
                table,
                address: address.to_canonical(),
            })
            .collect();
        let mut present = match self.present.take() {
            Some(present) => present,
            None => self.read().await?,
        };
        // What fails leaves what is there to be read again.
        for &place in present.difference(&wanted) {
            self.delete(place).await?;
            tracing::info!(address = %place.address, place.table, "route withdrawn");
        }
        present.retain(|place| wanted.contains(place));
        for &place in wanted.difference(&present) {
            self.add(place).await?;
            tracing::info!(address = %place.address, place.table, "route exported");
        }
        self.present = Some(wanted);
        Ok(())
    }

    /// Has the routes read again at the next call: somebody else may have taken them away.
    pub fn look_again(&mut self) {
        self.present = None;
    }

    async fn read(&self) -> Result<BTreeSet<Place>, ExportError> {
        let mut places = BTreeSet::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            message.header.protocol = RouteProtocol::Other(PROTOCOL);
            let mut routes = Box::pin(self.handle.route().get(message).execute());
            let refused = |e| refused("list the routes of this box".into(), &e);
            while let Some(route) = routes.try_next().await.map_err(refused)? {
                places.extend(place(&route));
            }
        }
        Ok(places)
    }

    async fn add(&self, place: Place) -> Result<(), ExportError> {
        let request = self.handle.route().add(message(place)).replace();
        let doing = || format!("add the route of {} to table {}", place.address, place.table);
        request.execute().await.map_err(|e| refused(doing(), &e))
    }

    async fn delete(&self, place: Place) -> Result<(), ExportError> {
        match self.handle.route().del(message(place)).execute().await {
            // It is gone already.
            Err(e) if errno(&e) == Some(libc::ESRCH) => Ok(()),
            Err(e) => {
                let doing = format!("remove the route of {} from table {}", place.address, place.table);
                Err(refused(doing, &e))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Index of `lo`, in every network namespace.
const LOOPBACK: u32 = 1;

/// The netlink message for a route of ours: by `lo`, as an address of this box's own is reached.
fn message(place: Place) -> RouteMessage {
    let mut message = match place.address {
        IpAddr::V4(address) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
            .destination_prefix(address, 32)
            .table_id(place.table)
            .output_interface(LOOPBACK)
            .build(),
        IpAddr::V6(address) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .table_id(place.table)
            .output_interface(LOOPBACK)
            .build(),
    };
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    if place.address.is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message
}

/// A route as the kernel lists it. None: it is not ours.
fn place(message: &RouteMessage) -> Option<Place> {
    let header = &message.header;
    if header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let (mut table, mut address) = (u32::from(header.table), None);
    for attribute in &message.attributes {
        if let RouteAttribute::Table(long) = attribute {
            table = *long;
        } else if let RouteAttribute::Destination(RouteAddress::Inet(v4)) = attribute {
            address = Some(IpAddr::V4(*v4));
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(v6)) = attribute {
            address = Some(IpAddr::V6(*v6));
        }
    }
    Some(Place {
        table,
        address: address?,
    })
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io().raw_os_error()
    } else {
        None
    }
}

fn refused(doing: String, error: &rtnetlink::Error) -> ExportError {
    let cause = if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io()
    } else {
        io::Error::other(error.to_string())
    };
    let mend = match cause.raw_os_error() {
        Some(libc::EPERM) => "; weir needs root or CAP_NET_ADMIN for [export]",
        Some(libc::ENETDOWN) => "; set lo up (`ip link set lo up`)",
        _ => "",
    };
    ExportError { doing, cause, mend }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_known_again() {
        for (address, table) in [
            ("192.0.2.10", 180),
            ("192.0.2.10", 254),
            ("2001:db8::10", 180),
            ("2001:db8::10", u32::MAX),
        ] {
            let ours = Place {
                table,
                address: address.parse().unwrap(),
            };
            let mut message = message(ours);
            assert_eq!(place(&message), Some(ours));
            message.header.protocol = RouteProtocol::Bird;
            assert_eq!(place(&message), None);
        }
    }
}
