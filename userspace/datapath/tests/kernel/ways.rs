//! The kernel's routes reach the maps: next hops of backends, routes to clients, and every change of them.

use std::net::IpAddr;

use aya::maps::{Array, LpmTrie, Map, MapData, lpm_trie::Key};
use tokio::sync::watch;
use weir_core::ids::Protocol;
use weir_datapath::{
    Close, Datapath, NextHops,
    routing::{Watcher, Ways},
};

use crate::lab::{Lab, Space, VIP4, VIP6, backend, bpffs, listen, nat, wait_for, wanted};

/// `weir_abi::NextHop`, by hand: a test that reads bytes does not believe the code it tests.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    ifindex: u32,
    mtu: u32,
    destination: String,
    source: String,
    flags: u32,
    tags: [u32; 2],
}

const ON_LINK: u32 = 2;

impl Entry {
    fn parse(bytes: [u8; 32]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let mac = |at: usize| {
            let bytes = bytes[at..at + 6].iter().map(|byte| format!("{byte:02x}"));
            bytes.collect::<Vec<_>>().join(":")
        };
        Self {
            ifindex: word(0),
            mtu: word(4),
            destination: mac(8),
            source: mac(14),
            flags: word(20),
            tags: [word(24), word(28)],
        }
    }
}

/// The pinned maps, as the programs see them.
struct Pinned {
    backends: Array<MapData, [u8; 32]>,
    next_hops: Array<MapData, [u8; 32]>,
    routes: LpmTrie<MapData, [u8; 16], u32>,
}

impl Pinned {
    fn open(lab: &Lab) -> Self {
        let dir = bpffs()
            .join("weir")
            .join(format!("{:016x}", weir_abi::ABI_HASH))
            .join("maps");
        let map = |name: &str| lab.weir.run(|| MapData::from_pin(dir.join(name))).unwrap();
        Self {
            backends: Map::Array(map("BACKENDS")).try_into().unwrap(),
            next_hops: Map::Array(map("NEXT_HOPS")).try_into().unwrap(),
            routes: Map::LpmTrie(map("ROUTES")).try_into().unwrap(),
        }
    }

    /// What an index into `NEXT_HOPS` names.
    fn entry(&self, number: u32) -> Option<Entry> {
        (number != 0).then(|| Entry::parse(self.next_hops.get(&number, 0).unwrap()))
    }

    /// The index that the backend of an address names.
    fn number(&self, address: &str) -> u32 {
        let address = octets(address);
        let all = (1..self.backends.len()).map(|index| self.backends.get(&index, 0).unwrap());
        let found: Vec<_> = all.filter(|bytes| bytes[..16] == address).collect();
        assert_eq!(found.len(), 1);
        u32::from_ne_bytes(found[0][24..28].try_into().unwrap())
    }

    fn backend(&self, address: &str) -> Option<Entry> {
        self.entry(self.number(address))
    }

    /// The way that a reply to a client finds.
    fn client(&self, address: &str) -> Option<Entry> {
        let number = self.routes.get(&Key::new(128, octets(address)), 0);
        self.entry(number.unwrap_or_default())
    }
}

fn octets(address: &str) -> [u8; 16] {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn index(space: &Space, name: &str) -> u32 {
    space.run(|| nix::net::if_::if_nametoindex(name)).unwrap()
}

fn mac(space: &Space, name: &str) -> String {
    let text = space.output(&format!("ip -o link show dev {name}"));
    let (_, rest) = text.split_once("link/ether ").unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

/// A box with backends on the wire and behind a router, clients behind another, and the watch over its routes.
struct Follower<'a> {
    lab: &'a Lab,
    datapath: Datapath,
    pinned: Pinned,
    ways: watch::Receiver<Option<Ways>>,
}

impl Follower<'_> {
    /// Follows until the maps are as they should be.
    fn until<T>(&mut self, what: &str, look: impl Fn(&Pinned) -> Option<T>) -> T {
        wait_for(what, || {
            if self.ways.has_changed().unwrap_or(false) {
                let ways = self.ways.borrow_and_update().clone();
                self.datapath.set_ways(&ways.unwrap()).unwrap();
            }
            look(&self.pinned)
        })
    }

    fn count(&self) -> (u64, u64) {
        let NextHops { resolved, asked } = self.datapath.next_hops();
        (resolved, asked)
    }

    fn to(&self, device: &str, destination: &str, flags: u32) -> Entry {
        Entry {
            ifindex: index(&self.lab.weir, device),
            mtu: 1500,
            destination: destination.to_owned(),
            source: mac(&self.lab.weir, device),
            flags,
            tags: [0, 0],
        }
    }
}

const BACKENDS: [&str; 4] = [
    "10.0.0.11:80",
    "10.9.1.1:80",
    "203.0.113.1:80",
    "[2001:db8:b::11]:80",
];

fn open(lab: &Lab) -> Datapath {
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let backends = BACKENDS.map(|address| backend(address.parse().unwrap()));
    let (v6, v4): (Vec<_>, Vec<_>) = backends.into_iter().partition(|b| b.key.address.is_ipv6());
    let services = [
        nat("www4", &[listen(VIP4, 80, Protocol::Tcp)], &v4),
        nat("www6", &[listen(VIP6, 80, Protocol::Tcp)], &v6),
    ];
    datapath.reconcile(&wanted(services)).unwrap();
    datapath
}

/// Runs the body while the watch is on; gives the datapath back.
fn following(lab: &Lab, datapath: Datapath, body: impl FnOnce(&mut Follower<'_>)) -> Datapath {
    let targets = BACKENDS.map(|address| address.parse::<std::net::SocketAddr>().unwrap().ip());
    let (sender, receiver) = watch::channel(targets.to_vec());
    let (found, ways) = watch::channel(None);
    let (asked, _asking) = watch::channel(Vec::new());
    std::thread::scope(|scope| {
        let task = scope.spawn(|| {
            lab.weir.run(|| {
                // No deadline: it ends with the body, however that ends.
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build().unwrap();
                runtime.block_on(async { Watcher::new().unwrap().run(receiver, found, asked).await });
            });
        });
        let mut follower = Follower {
            lab,
            datapath,
            pinned: Pinned::open(lab),
            ways,
        };
        body(&mut follower);
        drop(sender);
        task.join().unwrap();
        follower.datapath
    })
}

/// The box's routes: clients behind 198.51.100.2 and 2001:db8:c::2, one backend behind 10.0.0.12, one behind nobody.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.weir.ip("route add default via 198.51.100.2
         -6 route add default via 2001:db8:c::2
         route add 10.9.0.0/16 via 10.0.0.12
         route add unreachable 203.0.113.1/32");
    lab
}

/// That all is as the routes of [`lab`] give it.
fn settle(follower: &mut Follower<'_>) {
    let b0 = mac(&follower.lab.backends, "b0");
    let c0 = mac(&follower.lab.client, "c0");
    let direct = follower.to("inner", &b0, ON_LINK);
    let routed = follower.to("inner", &b0, 0);
    let client = follower.to("outer", &c0, 0);
    let near = follower.to("outer", &c0, ON_LINK);
    follower.until("the ways of backends and clients", |maps| {
        let so = maps.backend("10.0.0.11").as_ref() == Some(&direct)
            && maps.backend("10.9.1.1").as_ref() == Some(&routed)
            && maps.backend("2001:db8:b::11").as_ref() == Some(&direct)
            && maps.client("192.88.99.9").as_ref() == Some(&client)
            && maps.client("2001:db8:99::9").as_ref() == Some(&client)
            && maps.client("198.51.100.2").as_ref() == Some(&near);
        so.then_some(())
    });
    assert_eq!(follower.count(), (3, 1));
}

#[test]
fn ways_are_what_the_kernels_routes_say() {
    let lab = lab();
    let datapath = following(&lab, open(&lab), |follower| {
        settle(follower);
        let maps = &follower.pinned;
        assert_eq!(maps.number("203.0.113.1"), 0, "it cannot be reached");
        assert_eq!(
            maps.number("10.0.0.11"),
            maps.number("2001:db8:b::11"),
            "one way of both families"
        );
        // Those on the link who are not known, the box itself, broadcasts, and what is not routed: the kernel is asked.
        for asked in [
            "198.51.100.77",
            "198.51.100.1",
            "198.51.100.255",
            "127.0.0.1",
            "203.0.113.1",
            "2001:db8:c::77",
            "2001:db8:b::1",
            "fe80::1",
            "ff02::1",
        ] {
            assert_eq!(maps.client(asked), None, "{asked}");
        }
        follower.lab.weir.ip("addr add 192.88.99.9/32 dev lo");
        follower.until("the new address of the box", |maps| {
            maps.client("192.88.99.9").is_none().then_some(())
        });
    });
    let tables = datapath.tables();
    let routes = tables.iter().find(|table| table.name == "ROUTES").unwrap();
    assert!(routes.entries.is_some_and(|entries| entries > 2), "{routes:?}");
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn ways_follow_neighbours_routes_links_and_rules() {
    let lab = lab();
    let datapath = following(&lab, open(&lab), |follower| {
        settle(follower);
        let (b0, c0) = (mac(&lab.backends, "b0"), mac(&lab.client, "c0"));
        let direct = follower.to("inner", &b0, ON_LINK);

        // A link address changes: another entry, and the one that packets may just read stays as it was.
        let old = follower.pinned.number("10.0.0.11");
        lab.weir
            .ip("neigh replace 10.0.0.11 lladdr 02:00:00:00:00:99 dev inner nud permanent");
        let moved = follower.to("inner", "02:00:00:00:00:99", ON_LINK);
        follower.until("the other link address", |maps| {
            (maps.backend("10.0.0.11").as_ref() == Some(&moved)).then_some(())
        });
        assert_ne!(follower.pinned.number("10.0.0.11"), old);
        assert_eq!(follower.pinned.entry(old), Some(direct.clone()));
        assert_eq!(
            follower.pinned.number("2001:db8:b::11"),
            old,
            "the other family's is as it was"
        );

        // A route is replaced, and bounds the size.
        lab.weir.ip("route replace 10.9.0.0/16 via 10.0.0.11 mtu 1400");
        let mut routed = follower.to("inner", "02:00:00:00:00:99", 0);
        routed.mtu = 1400;
        follower.until("the other router", |maps| {
            (maps.backend("10.9.1.1").as_ref() == Some(&routed)).then_some(())
        });

        // A better route for some clients, and its end.
        lab.weir.ip("route add 192.88.99.0/24 via 10.0.0.11");
        let inside = follower.to("inner", "02:00:00:00:00:99", 0);
        follower.until("the longer prefix", |maps| {
            (maps.client("192.88.99.9").as_ref() == Some(&inside)).then_some(())
        });
        lab.weir.ip("route del 192.88.99.0/24 via 10.0.0.11");
        let client = follower.to("outer", &c0, 0);
        follower.until("the default route again", |maps| {
            (maps.client("192.88.99.9").as_ref() == Some(&client)).then_some(())
        });

        // A neighbour that is not known any more is asked for, and found again.
        lab.weir.ip("neigh del 10.0.0.11 dev inner");
        follower.until("no way without a link address", |maps| {
            (maps.number("10.0.0.11") == 0 && maps.number("10.9.1.1") == 0).then_some(())
        });
        assert_eq!(follower.count(), (1, 3));
        lab.weir
            .ip("neigh replace 10.0.0.11 lladdr 02:00:00:00:00:98 dev inner nud stale");
        let back = follower.to("inner", "02:00:00:00:00:98", ON_LINK);
        follower.until("the link address again", |maps| {
            (maps.backend("10.0.0.11").as_ref() == Some(&back)).then_some(())
        });

        // Rules of the operator's: tables say nothing by themselves. For the other family they do.
        lab.weir.ip("rule add fwmark 7 table 100");
        follower.until("no way past rules", |maps| {
            let none = maps.number("10.0.0.11") == 0 && maps.client("192.88.99.9").is_none();
            none.then_some(())
        });
        assert_eq!(follower.pinned.backend("2001:db8:b::11"), Some(direct));
        assert_eq!(follower.pinned.client("2001:db8:99::9"), Some(client.clone()));
        lab.weir.ip("rule del fwmark 7 table 100");
        follower.until("ways again", |maps| {
            (maps.number("10.0.0.11") != 0 && maps.client("192.88.99.9").as_ref() == Some(&client))
                .then_some(())
        });

        // Links go down, and up again. Without its network a backend is where the default route leads.
        lab.weir.ip("link set inner down");
        follower.until("no way by what is down", |maps| {
            let all = ["10.0.0.11", "10.9.1.1", "2001:db8:b::11"];
            all.iter()
                .all(|to| maps.backend(to).as_ref() == Some(&client))
                .then_some(())
        });
        assert_eq!(
            follower.pinned.client("192.88.99.9"),
            Some(client),
            "the other link is up"
        );
        lab.weir.ip("link set outer down");
        follower.until("no way at all", |maps| {
            (maps.client("192.88.99.9").is_none() && maps.number("10.0.0.11") == 0).then_some(())
        });
        assert_eq!(follower.count(), (0, 4));
        lab.weir.ip("link set inner up");
        let direct = follower.to("inner", &b0, ON_LINK);
        follower.until("the backend again", |maps| {
            (maps.backend("10.0.0.11").as_ref() == Some(&direct)).then_some(())
        });
    });
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_successor_takes_the_ways_over() {
    let lab = lab();
    let datapath = following(&lab, open(&lab), settle);
    let maps = Pinned::open(&lab);
    let numbers = BACKENDS.map(|address| {
        let address: std::net::SocketAddr = address.parse().unwrap();
        maps.number(&address.ip().to_string())
    });
    let client = maps.client("192.88.99.9");
    assert!(client.is_some());
    lab.weir.run(|| datapath.close(Close::Keep)).unwrap();

    // The same wish before the routes were read: what was known goes on counting.
    let datapath = open(&lab);
    let same = |maps: &Pinned| {
        BACKENDS.map(|address| {
            let address: std::net::SocketAddr = address.parse().unwrap();
            maps.number(&address.ip().to_string())
        })
    };
    assert_eq!(same(&maps), numbers);
    assert_eq!(
        datapath.next_hops(),
        NextHops {
            resolved: 3,
            asked: 1
        }
    );
    let datapath = following(&lab, datapath, |follower| {
        settle(follower);
        assert_eq!(
            same(&follower.pinned),
            numbers,
            "nothing has changed, nothing is written"
        );
        // What changed while nobody watched, and what is no more.
        follower.lab.weir.ip("route del default
             -6 route del default");
        follower.until("no route to clients", |maps| {
            let none = maps.client("192.88.99.9").is_none() && maps.client("2001:db8:99::9").is_none();
            none.then_some(())
        });
    });
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
