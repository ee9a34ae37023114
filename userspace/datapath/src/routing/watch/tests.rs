//! What messages make due.

use rtnetlink::packet_route::{
    AddressFamily,
    link::LinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::RouteMessage,
};

use super::*;

const ROUTER: Neighbor = (3, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 254)));

fn watcher() -> Watcher {
    Watcher {
        sockets: None,
        routing: Routing::default(),
        due: Due::default(),
        needed: [ROUTER].into(),
    }
}

fn neighbor(last: u8, state: NeighbourState, mac: u8) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.ifindex = 3;
    message.header.state = state;
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, last].into())),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, mac]),
    ];
    message
}

#[test]
fn only_changes_of_link_addresses_count() {
    let mut watcher = watcher();
    let ways = Due {
        ways: true,
        ..Due::default()
    };
    let new = |last, state, mac| RouteNetlinkMessage::NewNeighbour(neighbor(last, state, mac));
    for (what, message, due, known) in [
        ("found", new(254, NeighbourState::Reachable, 1), ways, Some(1)),
        (
            "the same",
            new(254, NeighbourState::Stale, 1),
            Due::default(),
            Some(1),
        ),
        (
            "asked",
            new(254, NeighbourState::Probe, 1),
            Due::default(),
            Some(1),
        ),
        ("another", new(254, NeighbourState::Reachable, 2), ways, Some(2)),
        ("silent", new(254, NeighbourState::Failed, 2), ways, None),
        (
            "asked anew",
            new(254, NeighbourState::Incomplete, 2),
            Due::default(),
            None,
        ),
        ("back", new(254, NeighbourState::Permanent, 2), ways, Some(2)),
        ("a client\'s", new(9, NeighbourState::Reachable, 3), ways, Some(2)),
        (
            "gone",
            RouteNetlinkMessage::DelNeighbour(neighbor(254, NeighbourState::Reachable, 2)),
            ways,
            None,
        ),
    ] {
        watcher.due = Due::default();
        watcher.hear(message.into());
        assert_eq!(watcher.due, due, "{what}");
        let mac = watcher.routing.neighbors.get(&ROUTER);
        assert_eq!(mac.map(|mac| mac[5]), known, "{what}");
    }
}

#[test]
fn anything_else_is_read_anew_and_after_a_loss_everything() {
    let topology = Due {
        topology: true,
        ways: true,
        neighbors: false,
    };
    for message in [
        RouteNetlinkMessage::NewLink(LinkMessage::default()),
        RouteNetlinkMessage::DelRoute(RouteMessage::default()),
        RouteNetlinkMessage::NewRule(RuleMessage::default()),
    ] {
        let mut watcher = watcher();
        watcher.hear(message.into());
        assert_eq!(watcher.due, topology);
    }
    let mut watcher = watcher();
    let overrun = NetlinkPayload::Overrun(Vec::new());
    watcher.hear(NetlinkMessage::new(Default::default(), overrun));
    assert_eq!(watcher.due, EVERYTHING);
}
