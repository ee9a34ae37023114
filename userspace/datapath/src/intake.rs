//! What has the kernel take in packets that `weir_take` has marked: one rule and one route of each family.
//!
//! Owns both, over rtnetlink: the rule has marked packets routed by a table of weir's own, whose one route says that every
//! address is this box's. Packets without the mark never come to that table. Both carry [`PROTOCOL`], so an operator sees
//! whose they are; nothing else is touched, and a table of that number that others use is refused.
//!
//! The same rule and route serve every start: a successor finds them there. An orderly stop removes them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use socket2::{Domain, Protocol, Socket, Type};
use weir_abi::maps::take;

/// The number by which rules and routes of weir's are told (`proto` of `ip rule` and `ip route`); as of its addresses.
pub const PROTOCOL: u8 = crate::vips::MARK;
/// The table of the one route: `we`, as the mark has it.
pub const TABLE: u32 = take::MARK >> 16;
/// Where the rule stands: before all of the operator's, behind the table `local`.
pub const PRIORITY: u32 = 1;

/// Settings of the kernel by which answers would be routed by the mark of what they answer, back into the box.
const MUST_BE_OFF: [&str; 4] = [
    "net.ipv4.tcp_fwmark_accept",
    "net.ipv4.fwmark_reflect",
    "net.ipv6.fwmark_reflect",
    "net.ipv4.conf.all.src_valid_mark",
];

/// Why packets to other addresses can't be taken in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntakeError {
    /// The kernel refused.
    #[error("cannot {doing}: {cause}{mend}")]
    Netlink {
        /// What was being done.
        doing: String,
        /// The kernel's reason.
        cause: io::Error,
        /// What the operator can do, with leading punctuation; may be empty.
        mend: &'static str,
    },
    /// Somebody else uses the table.
    #[error(
        "the routing table {TABLE} holds {what}, which is not weir's; weir needs that table for transparent listeners and sources: move what is in it to another"
    )]
    Occupied {
        /// What is there.
        what: String,
    },
    /// A setting stands in the way.
    #[error(
        "{name} is on, by which the kernel would route more by weir's mark than the packets that carry it; `sysctl -w {name}=0`"
    )]
    Setting {
        /// The setting.
        name: &'static str,
    },
    /// A setting could not be read.
    #[error("cannot read {name}: {cause}")]
    Unreadable {
        /// The setting.
        name: &'static str,
        /// The system's reason.
        cause: io::Error,
    },
}

/// Of which families packets are taken in.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Whether there is any.
    pub const fn any(self) -> bool {
        self.v4 || self.v6
    }

    /// Those of either.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self {
            v4: self.v4 || other.v4,
            v6: self.v6 || other.v6,
        }
    }
}

/// The rules and routes of this network namespace.
#[derive(Debug)]
pub struct Intake {
    handle: Handle,
}

impl Intake {
    /// Opens a netlink socket in the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn new() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Refuses what stands in the way, before anything is changed.
    ///
    /// # Errors
    /// A setting of the kernel, or what others keep in the table.
    pub async fn check(&self, wanted: Families) -> Result<(), IntakeError> {
        if !wanted.any() {
            return Ok(());
        }
        for name in MUST_BE_OFF {
            match crate::sysctl::read(name) {
                Ok(Some(value)) if value.trim() != "0" => return Err(IntakeError::Setting { name }),
                // Without the file the kernel has no such thing.
                Ok(_) => {}
                Err(cause) => return Err(IntakeError::Unreadable { name, cause }),
            }
        }
        for version in versions(wanted) {
            for rule in self.rules(&version).await? {
                if table_of(&rule) == TABLE && !is_ours(&rule) {
                    let what = format!("a rule that leads to it (priority {})", priority(&rule));
                    return Err(IntakeError::Occupied { what });
                }
            }
            if let Some(route) = { self.routes(&version).await? }.iter().find(|r| !is_our_route(r)) {
                let what = format!("a route of protocol {:?}", route.header.protocol);
                return Err(IntakeError::Occupied { what });
            }
        }
        Ok(())
    }

    /// Has packets of these families, and no others, taken in. What is right already stays untouched.
    ///
    /// # Errors
    /// When the kernel refuses. What was done before stays; the same call carries on.
    pub async fn reconcile(&self, wanted: Families) -> Result<(), IntakeError> {
        for (version, is_wanted) in [(IpVersion::V4, wanted.v4), (IpVersion::V6, wanted.v6)] {
            let rules: Vec<_> = { self.rules(&version).await? }
                .into_iter()
                .filter(is_ours)
                .collect();
            let routes: Vec<_> = { self.routes(&version).await? }
                .into_iter()
                .filter(is_our_route)
                .collect();
            // The route before the rule that leads to it; away in the other order.
            if is_wanted && routes.is_empty() {
                self.add_route(&version).await?;
            }
            let keep = is_wanted.then(|| rules.iter().position(is_whole)).flatten();
            if is_wanted && keep.is_none() {
                self.add_rule(&version).await?;
            }
            for (_, rule) in { rules.into_iter().enumerate() }.filter(|(nth, _)| Some(*nth) != keep) {
                let gone = self.handle.rule().del(rule).execute().await;
                forgive(gone, &[libc::ENOENT], || "remove weir's ip rule".into())?;
            }
            if !is_wanted {
                for route in routes {
                    let gone = self.handle.route().del(route).execute().await;
                    forgive(gone, &[libc::ESRCH], || {
                        format!("remove weir's route from table {TABLE}")
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Of which families packets are taken in now.
    ///
    /// # Errors
    /// When the rules cannot be listed.
    pub async fn present(&self) -> Result<Families, IntakeError> {
        Ok(Families {
            v4: { self.rules(&IpVersion::V4).await? }.iter().any(is_ours),
            v6: { self.rules(&IpVersion::V6).await? }.iter().any(is_ours),
        })
    }

    async fn rules(&self, version: &IpVersion) -> Result<Vec<RuleMessage>, IntakeError> {
        match self
            .handle
            .rule()
            .get(version.clone())
            .execute()
            .try_collect()
            .await
        {
            Ok(rules) => Ok(rules),
            Err(error) if errno(&error).is_some_and(is_absent) => Ok(Vec::new()),
            Err(error) => Err(refused("list the ip rules".into(), &error)),
        }
    }

    /// What is in the table.
    async fn routes(&self, version: &IpVersion) -> Result<Vec<RouteMessage>, IntakeError> {
        let mut message = match version {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        message.header.table = 0;
        let all: Result<Vec<RouteMessage>, _> =
            self.handle.route().get(message).execute().try_collect().await;
        match all {
            Ok(routes) => Ok(routes.into_iter().filter(is_in_table).collect()),
            Err(error) if errno(&error).is_some_and(is_absent) => Ok(Vec::new()),
            Err(error) => Err(refused(format!("list the routes of table {TABLE}"), &error)),
        }
    }

    async fn add_route(&self, version: &IpVersion) -> Result<(), IntakeError> {
        let doing = || format!("add a local route to table {TABLE}");
        let lo = nix::net::if_::if_nametoindex("lo").map_err(|cause| IntakeError::Netlink {
            doing: doing(),
            cause: cause.into(),
            mend: "; the loopback interface is missing",
        })?;
        let message = match version {
            IpVersion::V4 => local(RouteMessageBuilder::<Ipv4Addr>::new(), lo),
            IpVersion::V6 => local(RouteMessageBuilder::<Ipv6Addr>::new(), lo),
        };
        let added = self.handle.route().add(message).execute().await;
        forgive(added, &[libc::EEXIST], doing)
    }

    async fn add_rule(&self, version: &IpVersion) -> Result<(), IntakeError> {
        let request = self
            .handle
            .rule()
            .add()
            .table_id(TABLE)
            .action(RuleAction::ToTable)
            .priority(PRIORITY)
            .fw_mark(take::MARK);
        let mut request = match version {
            IpVersion::V4 => request.v4().message_mut().clone(),
            IpVersion::V6 => request.v6().message_mut().clone(),
        };
        request.attributes.push(RuleAttribute::FwMask(take::MASK));
        request
            .attributes
            .push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        let mut add = self.handle.rule().add();
        *add.message_mut() = request;
        let added = add.execute().await;
        forgive(added, &[libc::EEXIST], || {
            format!("add an ip rule that leads to table {TABLE}")
        })
    }

    /// What the kernel would do with a marked packet to an address, coming in by an interface: whether it is taken in.
    ///
    /// # Errors
    /// When the kernel gives no answer.
    pub async fn is_taken_in(&self, from: IpAddr, to: IpAddr, interface: u32) -> Result<bool, IntakeError> {
        let mut message = RouteMessage::default();
        let (family, width) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = width;
        message.header.source_prefix_length = width;
        message.attributes = vec![
            RouteAttribute::Destination(to.into()),
            RouteAttribute::Source(from.into()),
            RouteAttribute::Iif(interface),
            RouteAttribute::Mark(take::MARK),
        ];
        let answers: Result<Vec<RouteMessage>, _> =
            self.handle.route().get(message).execute().try_collect().await;
        match answers {
            Ok(answers) => Ok(answers.iter().any(|route| route.header.kind == RouteType::Local)),
            Err(error) => Err(refused(
                format!("ask for the route of a marked packet to {to}"),
                &error,
            )),
        }
    }
}

/// Makes sockets that may be bound to addresses of others, by whoever has them: TCP, of one family, not blocking, each
/// address as often as there are ports, which are chosen when they connect unless they are named.
///
/// # Errors
/// Without privilege, or no descriptor is left.
pub fn client_sockets(v6: bool, count: usize) -> io::Result<Vec<OwnedFd>> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let one = |_| {
        let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        if v6 {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        crate::sys::set_transparent(&socket, v6)?;
        crate::sys::set_int_option(&socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        Ok(socket.into())
    };
    (0..count).map(one).collect()
}

fn versions(wanted: Families) -> impl Iterator<Item = IpVersion> {
    let v4 = wanted.v4.then_some(IpVersion::V4);
    v4.into_iter().chain(wanted.v6.then_some(IpVersion::V6))
}

/// Every address is this box's.
fn local<T>(builder: RouteMessageBuilder<T>, lo: u32) -> RouteMessage {
    builder
        .output_interface(lo)
        .table_id(TABLE)
        .protocol(RouteProtocol::Other(PROTOCOL))
        .scope(RouteScope::Host)
        .kind(RouteType::Local)
        .build()
}

fn is_in_table(route: &RouteMessage) -> bool {
    table_of_route(route) == TABLE
}

/// The table that a route is in.
pub(crate) fn table_of_route(route: &RouteMessage) -> u32 {
    let named = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    named.unwrap_or_else(|| route.header.table.into())
}

fn is_our_route(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(PROTOCOL)
}

pub(crate) fn table_of(rule: &RuleMessage) -> u32 {
    let named = rule.attributes.iter().find_map(|attribute| {
        if let RuleAttribute::Table(table) = attribute {
            Some(*table)
        } else {
            None
        }
    });
    named.unwrap_or_else(|| rule.header.table.into())
}

pub(crate) fn priority(rule: &RuleMessage) -> u32 {
    let named = rule.attributes.iter().find_map(|attribute| {
        if let RuleAttribute::Priority(priority) = attribute {
            Some(*priority)
        } else {
            None
        }
    });
    named.unwrap_or(0)
}

/// Whether a rule is one that weir has installed: it concerns marked packets alone.
pub(crate) fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
    table_of(rule) == TABLE
        && has(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
        && has(RuleAttribute::FwMark(take::MARK))
}

/// Whether it is as it would be installed now.
fn is_whole(rule: &RuleMessage) -> bool {
    rule.attributes.contains(&RuleAttribute::FwMask(take::MASK)) && priority(rule) == PRIORITY
}

/// The kernel knows no rules, or not the family.
pub(crate) fn is_absent(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
}

pub(crate) fn errno(error: &rtnetlink::Error) -> Option<i32> {
    if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io().raw_os_error()
    } else {
        None
    }
}

/// An error, unless it says that all is as it should be.
pub(crate) fn forgive(
    result: Result<(), rtnetlink::Error>,
    harmless: &[i32],
    doing: impl FnOnce() -> String,
) -> Result<(), IntakeError> {
    match result {
        Err(error) if !errno(&error).is_some_and(|errno| harmless.contains(&errno)) => {
            Err(refused(doing(), &error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(crate) fn refused(doing: String, error: &rtnetlink::Error) -> IntakeError {
    let cause = if let rtnetlink::Error::NetlinkError(message) = error {
        message.to_io()
    } else {
        io::Error::other(error.to_string())
    };
    let mend = match cause.raw_os_error() {
        Some(libc::EPERM) => "; weir needs root or CAP_NET_ADMIN",
        Some(libc::EACCES) => "; IPv6 is switched off on lo (net.ipv6.conf.lo.disable_ipv6)",
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
            "; this kernel lacks the family, or policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)"
        }
        Some(libc::ENETDOWN) => "; the loopback interface is down: `ip link set lo up`",
        _ => "",
    };
    IntakeError::Netlink { doing, cause, mend }
}
