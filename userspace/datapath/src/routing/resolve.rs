//! From the model to ways: what the kernel would answer, for one address and for all clients.
//!
//! Pure. The rule is the kernel's: the table `local` first, then `main`, in each the longest prefix, of one prefix the
//! lowest metric. Where the answer is not plain, nothing is said.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weir_abi::{NextHop, Vlan, maps::next_hop};

use super::{Best, Hop, Link, Mac, Neighbor, Net, Routing, Tables, Unresolved, Ways};

/// Networks beyond which no way to clients is looked for: the map could not hold the answer, and looking takes time.
const MOST_NETS: usize = 1 << 17;

/// The interface that frames leave by, and the tags they get.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wire {
    ifindex: u32,
    outer_tag: u32,
    inner_tag: u32,
}

impl Routing {
    /// Puts other interfaces in the place of those there are.
    pub(crate) fn set_links(&mut self, links: BTreeMap<u32, Link>) {
        self.links = links;
    }

    /// Puts other routes in the place of those there are.
    pub(crate) fn set_tables(&mut self, tables: Tables) {
        self.tables = tables;
    }

    /// The way to one address.
    pub(crate) fn next_hop(&self, to: IpAddr) -> Result<NextHop, Unresolved> {
        let to = to.to_canonical();
        self.resolve(&self.hop(to)?, to)
    }

    /// Everything that is known in advance, for these backends and for clients.
    pub(crate) fn ways(&self, backends: &[IpAddr]) -> Ways {
        let way = |to: &IpAddr| match self.next_hop(*to) {
            Ok(way) => Some((to.to_canonical(), way)),
            Err(why) => {
                tracing::trace!(backend = %to, ?why, "no way in advance");
                None
            }
        };
        Ways {
            backends: backends.iter().filter_map(way).collect(),
            clients: self.client_routes(),
            hosts: self.hosts(),
            own: self.tables.local.clone(),
            vlans: self.vlans(),
        }
    }

    /// The ways to clients. Every network that is answered otherwise than the one around it has an entry; None: the
    /// kernel is asked.
    pub(crate) fn client_routes(&self) -> BTreeMap<Net, Option<NextHop>> {
        let mut out = BTreeMap::new();
        if self.tables.len() > MOST_NETS {
            return out;
        }
        let answer = |net: Net, best: &Best| {
            let hop = best.hop.filter(|_| !self.policy[usize::from(!net.is_v4())])?;
            // On a link each client has a link address of its own: the kernel knows them.
            hop.gateway?;
            self.resolve(&hop, net.addr()).ok()
        };
        let mut nets: BTreeMap<Net, Option<NextHop>> = self
            .tables
            .main
            .iter()
            .map(|(net, best)| (*net, answer(*net, best)))
            .collect();
        nets.entry(Net::ALL_V4).or_default();
        for net in &self.tables.local {
            nets.insert(*net, None);
        }
        // The networks around the present one whose answers are written, the nearest last; and the nearest one of the
        // table `local`, within which `main` is never asked.
        let mut around: Vec<(Net, Option<NextHop>)> = Vec::new();
        let mut local: Option<Net> = None;
        for (net, mut way) in nets {
            if local.is_some_and(|local| local.holds(net)) {
                way = None;
            } else if self.tables.local.contains(&net) {
                local = Some(net);
            }
            while around.last().is_some_and(|(outer, _)| !outer.holds(net)) {
                around.pop();
            }
            // What is in no entry is asked for.
            if around.last().and_then(|(_, way)| *way) != way {
                around.push((net, way));
                out.insert(net, way);
            }
        }
        out
    }

    /// The ways to neighbours that are known: clients on a link have link addresses of their own.
    pub(crate) fn hosts(&self) -> BTreeMap<Net, NextHop> {
        if self.neighbors.len() > MOST_NETS {
            return BTreeMap::new();
        }
        let neighbors = self.neighbors.keys();
        neighbors
            .filter_map(|&(ifindex, to)| {
                let hop = self.hop(to).ok()?;
                (hop.ifindex == ifindex && hop.gateway.is_none()).then_some(())?;
                Some((Net::around(to, 128), self.resolve(&hop, to).ok()?))
            })
            .collect()
    }

    /// What VLAN devices stand for.
    pub(crate) fn vlans(&self) -> BTreeMap<u32, Vlan> {
        let devices = self.links.iter().filter(|(_, link)| link.vlan.is_some());
        devices
            .filter_map(|(&index, _)| {
                let wire = self.wire(index)?;
                Some((
                    index,
                    Vlan {
                        ifindex: wire.ifindex,
                        outer_tag: wire.outer_tag,
                        inner_tag: wire.inner_tag,
                        reserved: 0,
                    },
                ))
            })
            .collect()
    }

    /// The neighbours that the ways to these backends and to clients lead over, known or not.
    pub(crate) fn needed(&self, backends: &[IpAddr]) -> BTreeSet<Neighbor> {
        let direct = backends.iter().filter_map(|to| {
            let to = to.to_canonical();
            let hop = self.hop(to).ok()?;
            Some((hop.ifindex, hop.gateway.unwrap_or(to)))
        });
        let routers = self.tables.main.iter().filter_map(|(net, best)| {
            let hop = best.hop.filter(|_| !self.policy[usize::from(!net.is_v4())])?;
            Some((hop.ifindex, hop.gateway?))
        });
        direct
            .chain(routers)
            .filter(|(ifindex, _)| self.ethernet(*ifindex).is_ok())
            .collect()
    }

    /// Those of these backends for which only the kernel can tell the next hop.
    pub(crate) fn asked(&self, backends: &[IpAddr]) -> Vec<IpAddr> {
        let asked = |to: &&IpAddr| {
            matches!(
                self.hop(to.to_canonical()),
                Err(Unresolved::Policy | Unresolved::NotPlain)
            )
        };
        backends.iter().filter(asked).copied().collect()
    }

    /// Where the routes send an address.
    fn hop(&self, to: IpAddr) -> Result<Hop, Unresolved> {
        if self.policy[usize::from(to.is_ipv6())] {
            return Err(Unresolved::Policy);
        }
        let lengths = |table: usize| {
            let fits = move |len: &&u8| to.is_ipv6() || Net::ALL_V4.len() <= **len;
            self.tables.lengths[table].iter().rev().filter(fits)
        };
        if lengths(0).any(|&len| self.tables.local.contains(&Net::around(to, len))) {
            return Err(Unresolved::Local);
        }
        let best = lengths(1).find_map(|&len| self.tables.main.get(&Net::around(to, len)));
        best.ok_or(Unresolved::NoRoute)?.hop.ok_or(Unresolved::NotPlain)
    }

    /// The way over a hop to an address: `to` counts when the hop names no router.
    fn resolve(&self, hop: &Hop, to: IpAddr) -> Result<NextHop, Unresolved> {
        let (link, source) = self.ethernet(hop.ifindex)?;
        let wire = self.wire(hop.ifindex).ok_or(Unresolved::Link(hop.ifindex))?;
        let neighbor = (hop.ifindex, hop.gateway.unwrap_or(to));
        let destination = self.neighbors.get(&neighbor);
        let destination = destination.ok_or(Unresolved::Neighbor(neighbor))?;
        let own = if to.is_ipv6() && link.mtu_v6 != 0 {
            link.mtu_v6.min(link.mtu)
        } else {
            link.mtu
        };
        let mut flags = 0;
        if hop.gateway.is_none() {
            flags |= next_hop::ON_LINK;
        }
        // What came in by a VLAN device has its tag in the frame, and leaves a plain interface without it. On a box without
        // VLAN devices tags are not weir's matter.
        if self.links.values().any(|link| link.vlan.is_some()) {
            flags |= next_hop::SET_TAGS;
        }
        Ok(NextHop {
            ifindex: wire.ifindex,
            mtu: hop.mtu.map_or(own, |mtu| mtu.min(own)),
            destination: words(destination),
            source: words(&source),
            flags,
            outer_tag: wire.outer_tag,
            inner_tag: wire.inner_tag,
        })
    }

    fn ethernet(&self, ifindex: u32) -> Result<(&Link, Mac), Unresolved> {
        let link = self.links.get(&ifindex).filter(|link| link.up);
        link.and_then(|link| Some((link, link.address?)))
            .ok_or(Unresolved::Link(ifindex))
    }

    /// The interface below all VLAN devices, if it is up and there are at most two tags.
    fn wire(&self, ifindex: u32) -> Option<Wire> {
        let (mut index, mut tags) = (ifindex, [0; 2]);
        for tag in &mut tags {
            let Some(vlan) = self.links.get(&index)?.vlan else {
                break;
            };
            *tag = on_the_wire(vlan.tpid, vlan.tci);
            index = vlan.below?;
        }
        let bottom = self.links.get(&index)?;
        (bottom.up && bottom.vlan.is_none()).then_some(())?;
        // A stacked device adds its own tag first: the one of the device below it stands before it in the frame.
        let [first, second] = tags;
        let (outer_tag, inner_tag) = if second == 0 { (first, 0) } else { (second, first) };
        Some(Wire {
            ifindex: index,
            outer_tag,
            inner_tag,
        })
    }
}

/// TPID and TCI as one word, as they lie in the frame.
fn on_the_wire(tpid: u16, tci: u16) -> u32 {
    let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// A link address as it lies in the frame.
fn words(mac: &Mac) -> [u16; 3] {
    let [a, b, c, d, e, f] = *mac;
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests;
