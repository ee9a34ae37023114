//! The kernel's routes as values: links, neighbours, routes and rules, and what follows from them for packets.
//!
//! XDP could ask the kernel's FIB for each packet; that costs more than all the rest of the way together. So control
//! asks once: [`Routing`] is a model of what the kernel would answer, filled from netlink by [`watch`], and [`Ways`] is
//! the answer for every backend and for clients by network, which the datapath writes into `NEXT_HOPS`, `BACKENDS`,
//! `ROUTES` and `VLANS`.
//!
//! The model never guesses. What it does not mirror to the letter (policy rules, several next hops, encapsulations,
//! routes that may be dead, neighbours that are not known) has no way here, and the programs then ask the kernel as they
//! would without it.
//!
//! This file and [`net`] and [`resolve`] are pure. [`decode`] knows netlink's messages, [`watch`] alone does I/O.

mod decode;
mod net;
mod resolve;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weir_abi::{NextHop, Vlan};

pub use self::{net::Net, watch::Watcher};

/// A link address.
pub(crate) type Mac = [u8; 6];

/// An interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link {
    /// Whether it is set up (`IFF_UP`).
    pub(crate) up: bool,
    /// Its link address; None: it is no Ethernet.
    pub(crate) address: Option<Mac>,
    /// Largest IP packet in bytes.
    pub(crate) mtu: u32,
    /// The same for IPv6, where it has one of its own; 0: it has not.
    pub(crate) mtu_v6: u32,
    /// What it stands for, when it is a VLAN device.
    pub(crate) vlan: Option<VlanDevice>,
}

/// What a VLAN device adds, and to which interface's frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct VlanDevice {
    /// Index of the interface below; None: it lies in another network namespace.
    pub(crate) below: Option<u32>,
    /// TPID, host order.
    pub(crate) tpid: u16,
    /// TCI that frames of priority 0 get, host order.
    pub(crate) tci: u16,
}

/// A route of the tables `local` and `main`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    pub(crate) net: Net,
    pub(crate) table: Table,
    /// The lowest wins.
    pub(crate) metric: u32,
    /// Where it leads; None: not to one next hop of an interface, or only under conditions.
    pub(crate) hop: Option<Hop>,
}

/// The tables that the kernel asks by default: first `local`, then `main`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    Local,
    Main,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hop {
    /// Index of the interface.
    pub(crate) ifindex: u32,
    /// The router; None: the network is on the link.
    pub(crate) gateway: Option<IpAddr>,
    /// The route's own bound on the packet's size.
    pub(crate) mtu: Option<u32>,
}

/// A neighbour: the interface it is on, and its address.
pub(crate) type Neighbor = (u32, IpAddr);

/// Why there is no way to an address in advance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unresolved {
    /// There are rules besides the kernel's three, so that tables say nothing by themselves.
    Policy,
    /// No route leads there.
    NoRoute,
    /// It is this box, or a broadcast or multicast address.
    Local,
    /// The route is of a kind that only the kernel itself can follow.
    NotPlain,
    /// The interface is not there, down, no Ethernet, or lies under more than two VLAN tags.
    Link(u32),
    /// The next hop's link address is not known.
    Neighbor(Neighbor),
}

/// What the routes say of one network, after all routes to it were seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Best {
    metric: u32,
    /// None: the kernel alone can tell.
    hop: Option<Hop>,
}

/// The kernel's routing as far as it is mirrored.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Routing {
    links: BTreeMap<u32, Link>,
    /// Those whose link address is known and good.
    pub(crate) neighbors: BTreeMap<Neighbor, Mac>,
    tables: Tables,
    /// Whether rules decide, for IPv4 and for IPv6.
    pub(crate) policy: [bool; 2],
}

/// The routes of both families.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Tables {
    local: BTreeSet<Net>,
    main: BTreeMap<Net, Best>,
    /// Every prefix length that occurs in each of them.
    lengths: [BTreeSet<u8>; 2],
}

impl Tables {
    /// Takes a route in.
    pub(crate) fn add(&mut self, route: Route) {
        let Route {
            net,
            table,
            metric,
            hop,
        } = route;
        match table {
            Table::Local => {
                self.lengths[0].insert(net.len());
                self.local.insert(net);
            }
            Table::Main => {
                self.lengths[1].insert(net.len());
                let best = self.main.entry(net).or_insert(Best { metric, hop });
                if metric < best.metric {
                    *best = Best { metric, hop };
                } else if metric == best.metric && best.hop != hop {
                    // Several of the same metric: which of them is taken the kernel decides flow by flow.
                    best.hop = None;
                }
            }
        }
    }

    /// How many networks are known.
    pub(crate) fn len(&self) -> usize {
        self.local.len() + self.main.len()
    }
}

/// The ways out of the box as far as they are known in advance.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ways {
    /// To backends, by address. One that is not in here is asked for packet by packet.
    pub backends: BTreeMap<IpAddr, NextHop>,
    /// To clients: the longest prefix counts. None: the kernel is asked, as for networks that no prefix holds.
    pub clients: BTreeMap<Net, Option<NextHop>>,
    /// To clients on the box's own links, each a network of one address: as far as there is room for them.
    pub hosts: BTreeMap<Net, NextHop>,
    /// What is this box's own: its addresses, and whatever else the table `local` holds. Empty: it is not known.
    pub own: BTreeSet<Net>,
    /// What VLAN devices stand for, by their index.
    pub vlans: BTreeMap<u32, Vlan>,
}
