//! The addresses of virtual routers: taken and given at once, by the thread that runs the machines.
//!
//! Touches only what has [`MARK`] (IFA_PROTO, Linux 5.18), so that nothing that an operator or [`crate::vips`] has set is ever
//! taken away, and what another process of weir has left is known again. An address that is there already without the mark
//! is used and left alone: a router that owns its addresses has them anyway.

use std::{io, net::IpAddr};

use futures_util::TryStreamExt as _;
use nix::net::if_::if_nametoindex;
use rtnetlink::{
    Handle,
    packet_route::{
        AddressFamily,
        neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};
use tokio::runtime::{Builder, Runtime};

use crate::vips::{Place, Present, VipError, errno, message, present, refused};

/// IFA_PROTO of virtual routers' addresses.
pub const MARK: u8 = 120;

/// An address that a group of routers may hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The interface.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix. One that is shorter than the whole address makes its network reachable by this interface.
    pub prefix: u8,
    /// The link address that goes with it; None: the interface's own.
    pub mac: Option<HeldMac>,
}

impl Held {
    /// Whether two are the same address in the same place.
    pub(crate) fn is_at(&self, other: &Self) -> bool {
        (&self.interface, self.address, self.prefix) == (&other.interface, other.address, other.prefix)
    }
}

/// A link address of a group, and which clients it serves of those who send to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldMac {
    /// It.
    pub mac: [u8; 6],
    /// Frames may leave from it: it is one box's.
    pub is_source: bool,
    /// Which share of the clients, from 0.
    pub share: usize,
    /// How many shares there are; 1: all clients are the group's.
    pub shares: usize,
}

/// A link address that an interface takes frames to besides its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Accepted {
    /// The interface.
    pub ifindex: u32,
    /// The link address.
    pub mac: [u8; 6],
}

/// A hold on the kernel's addresses.
#[derive(Debug)]
pub struct Addresses {
    /// Of this one only: whoever calls waits.
    runtime: Runtime,
    handle: Handle,
}

/// The entry of an interface's own filter (`bridge fdb … self permanent`).
fn forwarding(Accepted { ifindex, mac }: Accepted) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = ifindex;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}

/// A link address as operators write it.
pub fn shown(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Addresses {
    /// Opens a netlink socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When there can be none.
    pub fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let handle = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection()?;
            tokio::spawn(connection);
            Ok::<_, io::Error>(handle)
        })?;
        Ok(Self { runtime, handle })
    }

    /// Sees to it that the box has all of these.
    ///
    /// # Errors
    /// The first that the kernel refused; the others are there.
    pub fn take(&self, all: &[Held]) -> Result<(), VipError> {
        self.each(all, async |held, ifindex| {
            if self.present(held, ifindex).await?.is_some() {
                return Ok(());
            }
            let place = Place {
                address: held.address,
                ifindex,
            };
            let mut request = self
                .handle
                .address()
                .add(ifindex, held.address, held.prefix)
                .replace();
            *request.message_mut() = message(place, held.prefix, MARK);
            let doing = || format!("add {}/{} to {}", held.address, held.prefix, held.interface);
            request.execute().await.map_err(|error| refused(doing(), error))
        })
    }

    /// Sees to it that the box has none of these that a virtual router has taken.
    ///
    /// # Errors
    /// The first that the kernel refused; the others are gone.
    pub fn give(&self, all: &[Held]) -> Result<(), VipError> {
        let given = self.each(all, async |held, ifindex| {
            let Some(found) = self.present(held, ifindex).await?.filter(|found| found.marked) else {
                return Ok(());
            };
            let doing = || format!("remove {} from {}", held.address, held.interface);
            self.delete(found, doing).await
        });
        match given {
            // What was there has gone with it.
            Err(VipError::NoLink(_)) => Ok(()),
            given => given,
        }
    }

    /// Sees to it that the box has none but these that a virtual router has taken: what another process has left of others
    /// goes.
    ///
    /// # Errors
    /// The first that the kernel refused; the others are gone.
    pub fn give_others(&self, all: &[Held]) -> Result<(), VipError> {
        self.runtime.block_on(async {
            let listed: Result<Vec<_>, _> = self.handle.address().get().execute().try_collect().await;
            let listed = listed.map_err(|error| refused("list the addresses of this box".into(), error))?;
            let wanted: Vec<Place> = { all.iter() }
                .filter_map(|held| {
                    let ifindex = if_nametoindex(held.interface.as_str()).ok()?;
                    let address = held.address;
                    Some(Place { address, ifindex })
                })
                .collect();
            let left = { listed.iter() }
                .filter_map(|message| present(message, MARK))
                .filter(|found| found.marked && !wanted.contains(&found.place));
            let mut first = Ok(());
            for found in left {
                let address = found.place.address;
                let done = self.delete(found, || format!("remove {address}")).await;
                first = first.and(done);
            }
            first
        })
    }

    /// Has interfaces take frames to the link addresses that go with these.
    ///
    /// # Errors
    /// The first that the kernel refused; the others are there.
    pub fn accept(&self, all: &[Held]) -> Result<(), VipError> {
        self.each(all, async |held, ifindex| {
            let Some(HeldMac { mac, .. }) = held.mac else {
                return Ok(());
            };
            let mut request = { self.handle.neighbours() }.add_bridge(ifindex, &mac).replace();
            *request.message_mut() = forwarding(Accepted { ifindex, mac });
            let doing = || format!("have {} take frames to {}", held.interface, shown(mac));
            request.execute().await.map_err(|error| refused(doing(), error))
        })
    }

    /// Has interfaces take frames to these no more.
    ///
    /// # Errors
    /// The first that the kernel refused; the others are gone.
    pub fn refuse(&self, all: &[Accepted]) -> Result<(), VipError> {
        self.runtime.block_on(async {
            let mut first = Ok(());
            for it in all {
                let request = self.handle.neighbours().del(forwarding(*it));
                let done = match request.execute().await {
                    // Gone already, or its interface is.
                    Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
                    Err(error) => {
                        let doing = format!(
                            "have interface {} take frames to {} no more",
                            it.ifindex,
                            shown(it.mac)
                        );
                        Err(refused(doing, error))
                    }
                    Ok(()) => Ok(()),
                };
                first = first.and(done);
            }
            first
        })
    }

    /// One that is gone already is fine: somebody else was faster.
    async fn delete(&self, found: Present, doing: impl Fn() -> String) -> Result<(), VipError> {
        let message = message(found.place, found.prefix, MARK);
        match self.handle.address().del(message).execute().await {
            Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(error) => Err(refused(doing(), error)),
            Ok(()) => Ok(()),
        }
    }

    /// Does something for each, and goes on after an error.
    fn each(
        &self,
        all: &[Held],
        act: impl AsyncFn(&Held, u32) -> Result<(), VipError>,
    ) -> Result<(), VipError> {
        self.runtime.block_on(async {
            let mut first = Ok(());
            for held in all {
                let done = match if_nametoindex(held.interface.as_str()) {
                    Ok(ifindex) => act(held, ifindex).await,
                    Err(_) => Err(VipError::NoLink(held.interface.clone())),
                };
                first = match (first, done) {
                    // That an interface is gone says less than what the kernel says of another.
                    (Ok(()) | Err(VipError::NoLink(_)), Err(error)) => Err(error),
                    (first, _) => first,
                };
            }
            first
        })
    }

    /// The address on that interface, as the kernel has it.
    async fn present(&self, held: &Held, ifindex: u32) -> Result<Option<Present>, VipError> {
        let request = self.handle.address().get().set_link_index_filter(ifindex);
        let listed: Result<Vec<_>, _> = request.execute().try_collect().await;
        let doing = || format!("list the addresses of {}", held.interface);
        let all = listed.map_err(|error| refused(doing(), error))?;
        let wanted = Place {
            address: held.address,
            ifindex,
        };
        let mut found = all.iter().filter_map(|message| present(message, MARK));
        Ok(found.find(|found| found.place == wanted))
    }
}
