//! Ways out by one interface: what leaves a socket that is bound to an interface with a router of its own.
//!
//! A socket that is bound to an interface is routed by the same tables as all others, but by routes through that interface
//! alone. Where the only default route leads elsewhere there is none. So for each router that the configuration names weir
//! keeps a routing table with a default route through it, and two rules by the outgoing interface: first all of `main` but its
//! default routes (the interface's own networks), then that table. What is bound to no interface never meets them.
//!
//! Owns rules and routes, over rtnetlink, with [`PROTOCOL`]; and `rp_filter` of the interfaces, which must not ask for the way
//! back by the one interface that all others take (`sysctl`). The same serves every start; an orderly stop removes it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, IpVersion, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol},
        rule::{RuleAction, RuleAttribute, RuleMessage},
    },
};
use weir_core::{ids::Interface, plan::Gateway};

use crate::{
    error::OpenError,
    intake::{self, IntakeError, PROTOCOL, errno, forgive, is_absent, priority, refused, table_of},
    sysctl,
};

/// The number of an interface's table is this and the interface's index.
pub const TABLES: u32 = 305_660_000;
/// Where the rule stands that has `main` looked at, but for its default routes. The one for the table follows.
pub const PRIORITY: u32 = 2;
/// Interfaces with larger indices have no table: no kernel gives such.
const MOST: u32 = 1_000_000;
const MAIN: u32 = 254;

/// Why the ways out by interfaces are not as they should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UplinkError {
    /// The interface is not there.
    #[error(
        "interface {0} does not exist in this network namespace; correct its name where listeners, pools and node.gateways have it, or create it first"
    )]
    NoInterface(Interface),
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] IntakeError),
    /// Somebody else uses the table.
    #[error(
        "the routing table {table}, which weir keeps for {interface}, holds {what}, which is not weir's: move it to another"
    )]
    Occupied {
        /// The table.
        table: u32,
        /// The interface.
        interface: Interface,
        /// What is there.
        what: String,
    },
    /// `rp_filter` could not be set.
    #[error(transparent)]
    Setting(#[from] OpenError),
}

/// What is kept of one family: by interface, its index and router.
type Wanted = BTreeMap<Interface, (u32, IpAddr)>;

/// Rules and routes by interface, of this network namespace.
#[derive(Debug)]
pub struct Uplinks {
    handle: Handle,
    state_dir: PathBuf,
}

impl Uplinks {
    /// Opens a netlink socket in the network namespace of the calling thread. Must be called inside a runtime.
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn new(state_dir: &Path) -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        let state_dir = state_dir.to_owned();
        Ok(Self { handle, state_dir })
    }

    /// Refuses what is in the way, before anything is changed.
    ///
    /// # Errors
    /// An interface is missing, or what others keep in a table of weir's.
    pub async fn check(&self, named: &BTreeSet<Interface>, gateways: &[Gateway]) -> Result<(), UplinkError> {
        for interface in named {
            index(*interface)?;
        }
        for (version, wanted) in by_family(gateways)? {
            if wanted.is_empty() {
                continue;
            }
            let rules = self.rules(&version).await?;
            let routes = self.routes(&version).await?;
            for (interface, (index, _)) in wanted {
                let table = TABLES + index;
                let rule = rules.iter().find(|r| table_of(r) == table && !is_ours(r));
                let rule = rule.map(|rule| format!("a rule that leads to it (priority {})", priority(rule)));
                let route = routes.iter().find(|(of, r)| *of == table && !is_our_route(r));
                let route = route.map(|(_, r)| format!("a route of protocol {:?}", r.header.protocol));
                if let Some(what) = rule.or(route) {
                    return Err(UplinkError::Occupied {
                        table,
                        interface,
                        what,
                    });
                }
            }
        }
        Ok(())
    }

    /// Has what is bound to these interfaces leave by their routers, and keeps `rp_filter` of those that are `named` loose
    /// where it would be strict. What is right already stays untouched, what is not wanted any more goes.
    ///
    /// # Errors
    /// When an interface is missing or the kernel refuses. What was done before stays; the same call carries on.
    pub async fn reconcile(
        &self,
        named: &BTreeSet<Interface>,
        gateways: &[Gateway],
    ) -> Result<(), UplinkError> {
        let names: BTreeSet<_> = named.iter().map(Interface::as_str).collect();
        sysctl::loosen(&self.state_dir, &names)?;
        for (version, wanted) in by_family(gateways)? {
            let rules: Vec<_> = { self.rules(&version).await? }
                .into_iter()
                .filter(is_ours)
                .collect();
            let routes: Vec<_> = { self.routes(&version).await? }
                .into_iter()
                .filter(|(_, route)| is_our_route(route))
                .collect();
            // The route before the rules that lead to it; away in the other order.
            for (interface, (index, router)) in &wanted {
                let right = |(table, route): &(u32, RouteMessage)| {
                    *table == TABLES + index && leads_by(route, *index, *router)
                };
                if !routes.iter().any(right) {
                    self.add_route(*interface, *index, *router).await?;
                }
            }
            let mut missing: BTreeSet<(Interface, Step)> = { wanted.keys() }
                .flat_map(|interface| [(*interface, Step::Near), (*interface, Step::Out)])
                .collect();
            for rule in rules {
                let known = which(&rule).filter(|(interface, step)| {
                    let index = wanted.get(interface).map(|(index, _)| *index);
                    index.is_some_and(|index| step.table(index) == table_of(&rule))
                });
                if known.is_none_or(|known| !missing.remove(&known)) {
                    let gone = self.handle.rule().del(rule).execute().await;
                    forgive(gone, &[libc::ENOENT], || "remove an ip rule of weir's".into())?;
                }
            }
            for (interface, step) in missing {
                if let Some((index, _)) = wanted.get(&interface) {
                    self.add_rule(&version, interface, step, *index).await?;
                }
            }
            for (table, route) in routes {
                let kept = wanted.values();
                if !{ kept }
                    .any(|(index, router)| table == TABLES + index && leads_by(&route, *index, *router))
                {
                    let gone = self.handle.route().del(route).execute().await;
                    let doing = || format!("remove weir's route from table {table}");
                    forgive(gone, &[libc::ESRCH], doing)?;
                }
            }
        }
        Ok(())
    }

    async fn rules(&self, version: &IpVersion) -> Result<Vec<RuleMessage>, IntakeError> {
        let asked = self.handle.rule().get(version.clone()).execute();
        match asked.try_collect().await {
            Ok(rules) => Ok(rules),
            Err(error) if errno(&error).is_some_and(is_absent) => Ok(Vec::new()),
            Err(error) => Err(refused("list the ip rules".into(), &error)),
        }
    }

    /// What is in tables of weir's, each with its table.
    async fn routes(&self, version: &IpVersion) -> Result<Vec<(u32, RouteMessage)>, IntakeError> {
        let mut message = match version {
            IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        message.header.table = 0;
        let all: Result<Vec<RouteMessage>, _> =
            self.handle.route().get(message).execute().try_collect().await;
        match all {
            Ok(routes) => Ok({ routes.into_iter() }
                .map(|route| (intake::table_of_route(&route), route))
                .filter(|(table, _)| is_table(*table))
                .collect()),
            Err(error) if errno(&error).is_some_and(is_absent) => Ok(Vec::new()),
            Err(error) => Err(refused("list the routes".into(), &error)),
        }
    }

    async fn add_route(&self, interface: Interface, index: u32, router: IpAddr) -> Result<(), UplinkError> {
        let table = TABLES + index;
        // The router is on the interface's link, whatever networks the interface has.
        let mut message = match router {
            IpAddr::V4(router) => RouteMessageBuilder::<Ipv4Addr>::new()
                .output_interface(index)
                .table_id(table)
                .protocol(RouteProtocol::Other(PROTOCOL))
                .gateway(router)
                .build(),
            IpAddr::V6(router) => RouteMessageBuilder::<Ipv6Addr>::new()
                .output_interface(index)
                .table_id(table)
                .protocol(RouteProtocol::Other(PROTOCOL))
                .gateway(router)
                .build(),
        };
        message.header.flags |= RouteFlags::Onlink;
        // Another router than before takes its place.
        let added = self.handle.route().add(message).replace().execute().await;
        if let Err(error) = &added
            && errno(error) == Some(libc::ENETDOWN)
        {
            // A link that comes up later gets its route then.
            tracing::warn!(%interface, %router, "the interface is down: nothing leaves by it");
            return Ok(());
        }
        let doing = || format!("add a default route by {interface} and {router} to table {table}");
        Ok(forgive(added, &[libc::EEXIST], doing)?)
    }

    async fn add_rule(
        &self,
        version: &IpVersion,
        interface: Interface,
        step: Step,
        index: u32,
    ) -> Result<(), IntakeError> {
        let request = { self.handle.rule().add() }
            .table_id(step.table(index))
            .action(RuleAction::ToTable)
            .priority(step.priority());
        let mut message = match version {
            IpVersion::V4 => request.v4().message_mut().clone(),
            IpVersion::V6 => request.v6().message_mut().clone(),
        };
        message
            .attributes
            .push(RuleAttribute::Oifname(interface.to_string()));
        message
            .attributes
            .push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
        if step == Step::Near {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        let mut add = self.handle.rule().add();
        *add.message_mut() = message;
        let added = add.execute().await;
        forgive(added, &[libc::EEXIST], || {
            format!("add an ip rule for what leaves by {interface}")
        })
    }

    /// By which router a packet to an address goes out that leaves by this interface. None: it is on the interface's own link.
    ///
    /// # Errors
    /// There is no way there by it.
    pub(crate) async fn way_out(&self, index: u32, to: IpAddr) -> Result<Option<IpAddr>, IntakeError> {
        let mut message = RouteMessage::default();
        let (family, width) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.address_family = family;
        message.header.destination_prefix_length = width;
        // The route itself: without one the kernel would take IPv4 for being on the link.
        message.header.flags = RouteFlags::FibMatch;
        message.attributes = vec![RouteAttribute::Destination(to.into()), RouteAttribute::Oif(index)];
        let answers: Result<Vec<RouteMessage>, _> =
            self.handle.route().get(message).execute().try_collect().await;
        let doing = || format!("find a way to {to}");
        let answers = answers.map_err(|error| refused(doing(), &error))?;
        let by = |route: &&RouteMessage| route.attributes.contains(&RouteAttribute::Oif(index));
        let Some(route) = answers.iter().find(by) else {
            return Err(IntakeError::Netlink {
                doing: doing(),
                cause: io::Error::from_raw_os_error(libc::ENETUNREACH),
                mend: "",
            });
        };
        Ok(gateway(route))
    }
}

/// Of the two rules of an interface, one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    /// `main`, but for its default routes.
    Near,
    /// The table of weir's.
    Out,
}

impl Step {
    const fn priority(self) -> u32 {
        match self {
            Self::Near => PRIORITY,
            Self::Out => PRIORITY + 1,
        }
    }

    const fn table(self, index: u32) -> u32 {
        match self {
            Self::Near => MAIN,
            Self::Out => TABLES + index,
        }
    }
}

/// The index of an interface.
fn index(interface: Interface) -> Result<u32, UplinkError> {
    match nix::net::if_::if_nametoindex(interface.as_str()) {
        Ok(index) if index < MOST => Ok(index),
        Ok(_) | Err(_) => Err(UplinkError::NoInterface(interface)),
    }
}

fn by_family(gateways: &[Gateway]) -> Result<[(IpVersion, Wanted); 2], UplinkError> {
    let (mut v4, mut v6) = (Wanted::new(), Wanted::new());
    for gateway in gateways {
        let family = match gateway.address {
            IpAddr::V4(_) => &mut v4,
            IpAddr::V6(_) => &mut v6,
        };
        family.insert(gateway.interface, (index(gateway.interface)?, gateway.address));
    }
    Ok([(IpVersion::V4, v4), (IpVersion::V6, v6)])
}

const fn is_table(table: u32) -> bool {
    table >= TABLES && table - TABLES < MOST
}

/// Whether a rule is one that weir has installed for what leaves by an interface. Packets that XDP sends are routed as if from
/// the box itself and bound to nothing, so no such rule concerns them.
pub(crate) fn is_ours(rule: &RuleMessage) -> bool {
    which(rule).is_some()
}

/// The interface of a rule of weir's, and which of the two it is.
fn which(rule: &RuleMessage) -> Option<(Interface, Step)> {
    let has = |wanted: RuleAttribute| rule.attributes.contains(&wanted);
    if !has(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL))) {
        return None;
    }
    let interface = rule.attributes.iter().find_map(|attribute| {
        if let RuleAttribute::Oifname(name) = attribute {
            Interface::new(name)
        } else {
            None
        }
    })?;
    match (table_of(rule), priority(rule)) {
        (MAIN, PRIORITY) if has(RuleAttribute::SuppressPrefixLen(0)) => Some((interface, Step::Near)),
        (table, at) if at == PRIORITY + 1 && is_table(table) => Some((interface, Step::Out)),
        _ => None,
    }
}

fn is_our_route(route: &RouteMessage) -> bool {
    route.header.protocol == RouteProtocol::Other(PROTOCOL)
}

/// Whether a default route leads by an interface and a router.
fn leads_by(route: &RouteMessage, index: u32, router: IpAddr) -> bool {
    route.header.destination_prefix_length == 0
        && route.attributes.contains(&RouteAttribute::Oif(index))
        && gateway(route) == Some(router)
}

fn gateway(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Gateway(RouteAddress::Inet(v4)) = attribute {
            Some(IpAddr::V4(*v4))
        } else if let RouteAttribute::Gateway(RouteAddress::Inet6(v6)) = attribute {
            Some(IpAddr::V6(*v6))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(attributes: &[RuleAttribute]) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.attributes = attributes.to_vec();
        rule
    }

    #[test]
    fn rules_of_others_are_not_weirs() {
        let by = RuleAttribute::Oifname("eth1".into());
        let ours = RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
        let table = RuleAttribute::Table(TABLES + 3);
        let main = RuleAttribute::Table(MAIN);
        let [second, third] = [PRIORITY, PRIORITY + 1].map(RuleAttribute::Priority);
        let near = RuleAttribute::SuppressPrefixLen(0);
        let eth1 = Interface::new("eth1").unwrap();
        for (attributes, is) in [
            (
                vec![by.clone(), ours.clone(), table.clone(), third.clone()],
                Some((eth1, Step::Out)),
            ),
            (
                vec![
                    by.clone(),
                    ours.clone(),
                    main.clone(),
                    second.clone(),
                    near.clone(),
                ],
                Some((eth1, Step::Near)),
            ),
            (vec![by.clone(), table.clone(), third.clone()], None),
            (vec![ours.clone(), table, third], None),
            (vec![by, ours, main, second], None),
        ] {
            assert_eq!(which(&rule(&attributes)), is, "{attributes:?}");
        }
    }
}
