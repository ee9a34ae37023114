//! What `TAKEN` holds: who takes in connections to which addresses.
//!
//! Pure. A look-up of the map gives one entry, that of the longest prefix; so an entry also holds the listeners of the wider
//! networks around it, behind its own. The box's own addresses have entries that say "nobody": what is for the box itself a
//! transparent listener never gets. They end what entries within them inherit from without.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use weir_abi::{Taken, maps::take};

use crate::routing::Net;

const _: () = assert!(
    take::RANGES >= weir_core::plan::MAX_TRANSPARENT,
    "every listener of a family fits one entry"
);

/// A transparent listener and the index of its socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) net: Net,
    /// First port.
    pub(crate) first: u16,
    /// Last port.
    pub(crate) last: u16,
    /// Its index into `SOCKETS`.
    pub(crate) socket: u32,
    /// Index of the interface that it is for; 0: whichever.
    pub(crate) ifindex: u32,
}

/// The entries for these listeners, with these networks being the box's own.
pub(crate) fn entries(places: &[Place], own: &BTreeSet<Net>) -> BTreeMap<Net, Taken> {
    let nobodys = Taken {
        count: take::OWN,
        ..Taken::default()
    };
    let mut out: BTreeMap<Net, Taken> = own.iter().map(|net| (*net, nobodys)).collect();
    // IPv6's default lies around all of IPv4 in this map. Not the box's own, but no listener's.
    out.entry(Net::ALL_V4).or_default();
    for net in places.iter().map(|place| place.net) {
        out.insert(net, entry(net, places, own));
    }
    out
}

/// The sockets that take in a connection to an address and port, each with the interface that it must come in by (0: any), as
/// the programs would find them: the last of them takes what no other is for.
pub(crate) fn takers(entries: &BTreeMap<Net, Taken>, to: IpAddr, port: u16) -> Vec<(u32, u32)> {
    let Some(to) = Net::new(to, if to.is_ipv4() { 32 } else { 128 }) else {
        return Vec::new();
    };
    let nearest = { entries.iter() }
        .filter(|(net, _)| net.holds(to))
        .max_by_key(|(net, _)| net.len());
    let Some((_, taken)) = nearest.filter(|(_, taken)| taken.count & take::OWN == 0) else {
        return Vec::new();
    };
    let mut takers: Vec<(u32, u32)> = Vec::new();
    let slots = taken.ports.iter().zip(&taken.sockets).zip(&taken.interfaces);
    for ((ports, socket), interface) in slots.take(taken.count as usize) {
        let known = |(_, other): &(u32, u32)| *other == 0 || other == interface;
        if (ports & 0xffff..=ports >> 16).contains(&port.into()) && !takers.iter().any(known) {
            takers.push((*socket, *interface));
        }
    }
    takers
}

fn entry(net: Net, places: &[Place], own: &BTreeSet<Net>) -> Taken {
    let around = |other: Net| other.holds(net) && other.is_v4() == net.is_v4();
    // Beyond the nearest network of the box's own nothing counts, unless a listener names that very network.
    let named = |own: &Net| places.iter().any(|place| place.net == *own);
    let wall = { own.iter() }
        .filter(|own| around(**own) && !named(own))
        .max_by_key(|own| own.len());
    let mut inside: Vec<_> = { places.iter() }
        .filter(|place| around(place.net) && wall.is_none_or(|wall| wall.holds(place.net)))
        .collect();
    // Nearest first, and of one network those of an interface before the one of all.
    inside.sort_by_key(|place| {
        let everywhere = place.ifindex == 0;
        (std::cmp::Reverse(place.net.len()), everywhere, place.first)
    });
    let mut taken = Taken::default();
    let slots = { taken.ports.iter_mut().zip(&mut taken.sockets) }.zip(&mut taken.interfaces);
    for (((ports, socket), interface), place) in slots.zip(inside) {
        *ports = u32::from(place.last) << 16 | u32::from(place.first);
        *socket = place.socket;
        *interface = place.ifindex;
        taken.count += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Net {
        let (addr, prefix) = text.split_once('/').unwrap();
        Net::new(addr.parse().unwrap(), prefix.parse().unwrap()).unwrap()
    }

    fn place(text: &str, first: u16, last: u16, socket: u32) -> Place {
        let net = net(text);
        Place {
            net,
            first,
            last,
            socket,
            ifindex: 0,
        }
    }

    fn by(ifindex: u32, place: Place) -> Place {
        Place { ifindex, ..place }
    }

    /// As `weir_take` and `weir_steer` look it up.
    fn find(entries: &BTreeMap<Net, Taken>, to: &str, port: u16) -> Option<u32> {
        find_by(entries, to, port, 7)
    }

    fn find_by(entries: &BTreeMap<Net, Taken>, to: &str, port: u16, ifindex: u32) -> Option<u32> {
        let to = Net::new(to.parse().ok()?, if to.contains(':') { 128 } else { 32 })?;
        let (_, taken) = { entries.iter() }
            .filter(|(net, _)| net.holds(to))
            .max_by_key(|(net, _)| net.len())?;
        (0..(taken.count & !take::OWN) as usize)
            .find(|&i| {
                (taken.ports[i] & 0xffff..=taken.ports[i] >> 16).contains(&port.into())
                    && [0, ifindex].contains(&taken.interfaces[i])
            })
            .map(|i| taken.sockets[i])
    }

    #[test]
    fn the_narrower_network_goes_first_and_the_wider_ones_behind_it() {
        let places = [
            place("0.0.0.0/0", 80, 80, 1),
            place("0.0.0.0/0", 8000, 8999, 2),
            place("203.0.113.0/24", 443, 443, 3),
            place("203.0.113.7/32", 80, 80, 4),
            place("2001:db8::/32", 80, 80, 5),
        ];
        let own = ["127.0.0.0/8", "10.0.0.1/32", "::1/128", "2001:db8::1/128"];
        let entries = entries(&places, &own.map(net).into());
        for (to, port, socket) in [
            ("198.51.100.1", 80, Some(1)),
            ("198.51.100.1", 8500, Some(2)),
            ("198.51.100.1", 9000, None),
            ("198.51.100.1", 443, None),
            ("203.0.113.1", 443, Some(3)),
            ("203.0.113.1", 80, Some(1)),
            ("203.0.113.7", 80, Some(4)),
            ("203.0.113.7", 443, Some(3)),
            ("203.0.113.7", 8000, Some(2)),
            ("10.0.0.1", 80, None),
            ("127.0.0.1", 80, None),
            ("2001:db8::7", 80, Some(5)),
            ("2001:db8::1", 80, None),
            ("2001:db9::1", 80, None),
        ] {
            assert_eq!(find(&entries, to, port), socket, "{to}:{port}");
        }
    }

    #[test]
    fn a_listener_of_an_interface_goes_before_one_of_all_and_takes_nothing_elsewhere() {
        let places = [
            place("0.0.0.0/0", 1, u16::MAX, 1),
            by(2, place("0.0.0.0/0", 80, 80, 2)),
            by(3, place("0.0.0.0/0", 80, 80, 3)),
            by(3, place("203.0.113.0/24", 80, 80, 4)),
        ];
        let entries = entries(&places, &BTreeSet::new());
        for (to, ifindex, socket) in [
            ("198.51.100.1", 2, 2),
            ("198.51.100.1", 3, 3),
            ("198.51.100.1", 4, 1),
            ("203.0.113.1", 2, 2),
            ("203.0.113.1", 3, 4),
            ("203.0.113.1", 4, 1),
        ] {
            assert_eq!(
                find_by(&entries, to, 80, ifindex),
                Some(socket),
                "{to} by {ifindex}"
            );
        }
        let takers = |to: &str, port| takers(&entries, to.parse().unwrap(), port);
        assert_eq!(takers("198.51.100.1", 80), [(2, 2), (3, 3), (1, 0)]);
        assert_eq!(takers("203.0.113.1", 80), [(4, 3), (2, 2), (1, 0)]);
        assert_eq!(takers("203.0.113.1", 81), [(1, 0)]);
        assert_eq!(takers("2001:db8::1", 81), []);
        assert_eq!(find_by(&entries, "198.51.100.1", 81, 3), Some(1));
    }

    #[test]
    fn ipv6_for_all_is_not_for_ipv4() {
        let entries = entries(&[place("::/0", 80, 80, 1)], &BTreeSet::new());
        assert_eq!(
            entries.get(&Net::ALL_V4),
            Some(&Taken::default()),
            "nor the box's own"
        );
        assert_eq!(find(&entries, "2001:db8::1", 80), Some(1));
        assert_eq!(find(&entries, "192.0.2.1", 80), None);
    }

    #[test]
    fn what_is_made_local_by_hand_is_not_taken_unless_it_is_named() {
        let own = BTreeSet::from([net("203.0.113.0/24")]);
        let wide = place("0.0.0.0/0", 80, 80, 1);
        assert_eq!(find(&entries(&[wide], &own), "203.0.113.1", 80), None);
        let inside = [wide, place("203.0.113.7/32", 443, 443, 2)];
        let within = entries(&inside, &own);
        assert_eq!(find(&within, "203.0.113.7", 443), Some(2));
        assert_eq!(
            find(&within, "203.0.113.7", 80),
            None,
            "nothing from beyond the wall"
        );
        let named = [wide, place("203.0.113.0/24", 443, 443, 2)];
        let named = entries(&named, &own);
        assert_eq!(find(&named, "203.0.113.1", 443), Some(2));
        assert_eq!(find(&named, "203.0.113.1", 80), Some(1));
    }
}
