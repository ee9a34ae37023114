//! A host behind one of a lab's, which becomes its router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use weir_harness::{Lab, Netns, lab::Family};

const ROUTER_V4: &str = "198.51.100.1";
const ROUTER_V6: &str = "2001:db8:9::1";
const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 2);
const NET_V4: &str = "198.51.100.0/24";
const NET_V6: &str = "2001:db8:9::/64";

/// The host.
#[derive(Debug)]
pub struct Behind {
    /// Where it is.
    pub netns: Netns,
}

impl Behind {
    /// Puts it behind `router`, over a link of this MTU; `next_hop` is where the box finds the router.
    ///
    /// # Errors
    /// There is one already.
    pub fn new(lab: &Lab, router: &Netns, next_hop: [IpAddr; 2], mtu: u32) -> Result<Self> {
        let name = format!("{}-far", router.name());
        let netns = Netns::new(&name)?;
        router.ip([format!(
            "link add far type veth peer name eth0 netns {name} mtu {mtu}"
        )])?;
        router.ip([
            format!("link set far mtu {mtu} up"),
            format!("addr add {ROUTER_V4}/24 dev far"),
            format!("addr add {ROUTER_V6}/64 dev far nodad"),
        ])?;
        router.sysctl("ipv4/ip_forward", "1")?;
        router.sysctl("ipv6/conf/all/forwarding", "1")?;
        // It says how much it takes as if a narrow link were another's: so that what comes back is too large for it.
        netns.ip([
            format!("link set eth0 mtu {mtu} up"),
            format!("addr add {}/24 dev eth0", Self::address(Family::V4)),
            format!("addr add {}/64 dev eth0 nodad", Self::address(Family::V6)),
            format!("route add default via {ROUTER_V4} advmss 1460"),
            format!("route add ::/0 via {ROUTER_V6} advmss 1440"),
        ])?;
        lead(&lab.router, next_hop)?;
        Ok(Self { netns })
    }

    /// Its address.
    pub const fn address(family: Family) -> IpAddr {
        match family {
            Family::V4 => IpAddr::V4(HOST_V4),
            Family::V6 => IpAddr::V6(HOST_V6),
        }
    }
}

/// Routes to the host, from another of the lab's.
///
/// # Errors
/// There are some already.
pub fn lead(from: &Netns, next_hop: [IpAddr; 2]) -> Result<()> {
    from.ip([
        format!("route add {NET_V4} via {}", next_hop[0]),
        format!("route add {NET_V6} via {}", next_hop[1]),
    ])
}
