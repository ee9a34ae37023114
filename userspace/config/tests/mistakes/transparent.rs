//! Transparent listeners, and the pool that is wherever the client wanted to go.

use crate::check_as_it_stands;

const NODE: &str = "[node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n";
const POOL: &str = "[pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }]\n";

/// An HTTP service with these addresses in line 2, on a box with XDP.
#[track_caller]
fn listen(addresses: &str, expected: &[&str]) {
    let service = format!("[services.www]\nlisten = [{addresses}]\nmode = \"http\"\npool = \"web\"\n");
    check_as_it_stands(&format!("{service}{POOL}{NODE}"), expected);
}

#[test]
fn each_has_its_line() {
    let apart = "2:11: services.www.listen is transparent, but not of networks and ports that can be told apart; write \
                 transparent:80, transparent:203.0.113.0/24:80 or transparent:[2001:db8::]/32:80";
    for entry in [
        "transparent:2001:db8::/32:80",
        "transparent:[2001:db8::/32:80",
        "transparent:[2001:db8::]",
        "transparent:[",
    ] {
        listen(&format!("\"{entry}\""), &[apart]);
    }
    for (entry, told) in [
        (
            "transparent:80/udp",
            "is transparent and UDP, and only TCP is taken in; write transparent:80",
        ),
        ("transparent:0", "has port 0; write a port from 1 to 65535"),
        (
            "transparent:",
            "is transparent, without a port; write transparent:80 for port 80, transparent:* for every port",
        ),
        (
            "transparent:http",
            "has `http` for its port; write a number from 1 to 65535",
        ),
        ("transparent:90-80", "is turned round (90-80); write 80-90"),
        (
            "transparent:203.0.113.5/24:80",
            "has `203.0.113.5/24`, with bits set behind its prefix; write 203.0.113.0/24 for the network, or 203.0.113.5/32 \
             for the one address",
        ),
        (
            "transparent:203.0.113.0/33:80",
            "has `203.0.113.0/33`, without a valid prefix length; write a number from 0 to 32 after the slash",
        ),
        (
            "transparent:[203.0.113.0]/24:443x",
            "has `443x` for its port; write a number from 1 to 65535",
        ),
        (
            "transparent:web.example:80",
            "has `web.example`, which is no network; write one as in 10.0.0.0/8 or 2001:db8::/32",
        ),
        (
            "transparent:224.0.0.0/8:80",
            "has 224.0.0.0, which is a multicast address; write a network of unicast addresses",
        ),
        (
            "transparent:127.0.0.0/8:80",
            "has 127.0.0.0, which no other box sends packets to; write the network of the addresses that clients reach \
             through this box",
        ),
    ] {
        listen(
            &format!("\"{entry}\""),
            &[&format!("2:11: services.www.listen {told}")],
        );
    }
}

#[test]
fn what_it_needs_has_its_line() {
    let service =
        "[services.www]\nlisten = [\"transparent:203.0.113.0/24:80\"]\nmode = \"http\"\npool = \"web\"\n";
    check_as_it_stands(
        &format!("{service}{POOL}[node]\nxdp = \"off\"\n"),
        &[
            "2:11: services.www.listen is transparent, which takes eBPF programs and routes of weir's own, but node.xdp is \
             \"off\"; write xdp = \"native\" or \"generic\" under [node], and start weir as root",
        ],
    );
    let packets = service.replace("http", "l4");
    check_as_it_stands(
        &format!("{packets}{POOL}{NODE}"),
        &[
            "2:11: services.www.listen is transparent, which mode \"l4\" can't be; write mode = \"tcp\" or \"http\", or an \
             address of this box",
        ],
    );
    check_as_it_stands(
        &format!("{service}per_source = {{ rate = 10 }}\n{POOL}{NODE}"),
        &[
            "2:11: services.www.per_source is enforced by XDP, which does not see connections to \
             transparent:203.0.113.0/24:80/tcp; write a virtual address, or a service of its own for this one",
        ],
    );
}

#[test]
fn the_same_network_and_port_twice_have_their_line() {
    listen(
        r#""transparent:203.0.113.0/24:80", "transparent:203.0.113.0/24:79-81""#,
        &[
            "2:44: services.www listens on transparent:203.0.113.0/24:80/tcp twice (also in line 2); give one of them \
             another address or port",
        ],
    );
    let entries: Vec<_> = (0..17)
        .map(|i| format!("\"transparent:203.0.113.{i}/32:80\""))
        .collect();
    listen(
        &entries.join(", "),
        &[
            "2:545: transparent:203.0.113.16/32:80/tcp is one transparent listener more for IPv4 than the 16 there may be; \
             write ranges of ports, or wider networks",
        ],
    );
}

#[test]
fn the_original_destination_has_its_lines() {
    let service = |listen: &str, mode: &str| {
        format!(
            "[services.www]\nlisten = [\"{listen}\"]\nmode = \"{mode}\"\npool = \"original-destination\"\n"
        )
    };
    check_as_it_stands(
        &format!("{}{NODE}", service("192.0.2.10:80", "http")),
        &[
            "4:8: services.www goes to \"original-destination\", but also listens on 192.0.2.10:80/tcp, which is where its \
             clients want to go then; listen transparently alone, or write a service of its own for that address",
        ],
    );
    check_as_it_stands(
        &format!("{}{NODE}", service("192.0.2.10:80", "l4")),
        &[
            "4:8: services.www.pool is \"original-destination\", which mode \"l4\" can't go to; write mode = \"tcp\" or \
             \"http\" with transparent listeners, or a pool of backends",
        ],
    );
    check_as_it_stands(
        &format!(
            "{}{NODE}[pools.original-destination]\nbackends = []\nconnections = {{ idle_min = 1 }}\n",
            service("transparent:80", "http")
        ),
        &[
            "9:1: pools.original-destination.backends does not apply to the pool original-destination, whose backends are \
             where clients want to go; remove it, or write it in a pool of another name",
            "10:28: pools.original-destination.connections.idle_min does not apply to the pool original-destination: where \
             its connections lead is not known in advance; remove it",
        ],
    );
}

/// A service of these addresses to a pool of these backends that see the client, the pool's section in line 5.
fn clients(listen: &str, backends: &str, more: &str) -> String {
    format!(
        "[services.www]\nlisten = [{listen}]\nmode = \"http\"\npool = \"web\"\n[pools.web]\nbackends = [{backends}]\nsource = \
         \"client\"\n{more}"
    )
}

const V4: &str = "{ address = \"10.0.0.11:80\" }";
const V6: &str = "{ address = \"[2001:db8:2::11]:80\" }";

#[test]
fn the_clients_address_as_source_has_its_lines() {
    let vip = "\"192.0.2.10:80\"";
    check_as_it_stands(
        &format!("{}[node]\nxdp = \"off\"\n", clients("\"127.0.0.1:80\"", V4, "")),
        &[
            "7:10: pools.web.source is the client's address, and it takes eBPF programs and routes of weir's own to get the \
             answers, but node.xdp is \"off\"; write xdp = \"native\" or \"generic\" under [node], and start weir as root",
        ],
    );
    check_as_it_stands(
        &format!("{}{NODE}", clients(vip, &format!("{V4}, {V6}"), "")),
        &[
            "7:10: pools.web.source is the client's address, and the pool has backends of both families: a client has one; \
             write a pool for each family, and a service for each",
        ],
    );
    check_as_it_stands(
        &format!(
            "{}{NODE}",
            clients("\"192.0.2.10:80\", \"[2001:db8:1::10]:80\"", V4, "")
        ),
        &[
            "2:28: services.www listens on [2001:db8:1::10]:80/tcp, which IPv6 clients reach, and pool `web` connects from \
             their addresses to IPv4 backends; write a pool for each family, and a service for each",
        ],
    );
    check_as_it_stands(
        &format!("{}{NODE}", clients(vip, V4, "connections = { idle_min = 2 }\n")),
        &[
            "8:28: pools.web.connections.idle_min has no effect: each connection comes from its client's address, so none is \
             made in advance; remove it, or source",
        ],
    );
    check_as_it_stands(
        &format!("{}{NODE}", clients(vip, V4, "protocol = \"h2c\"\n")),
        &[
            "7:10: pools.web.source is one client's address, and a connection of HTTP/2 carries many clients; remove it, or \
             write protocol = \"http/1.1\"",
        ],
    );
    let packets = format!(
        "[services.packets]\nlisten = [\"192.0.2.10:81\"]\nmode = \"l4\"\npool = \"p\"\n[pools.p]\nbackends = [{V4}]\n"
    );
    check_as_it_stands(
        &format!("{}{NODE}{packets}", clients(vip, V4, "")),
        &[
            "7:10: pools.web.source is the client's address, but 10.0.0.11:80 is also a backend of services.packets, whose \
             clients XDP takes its answers for; let the backend listen on another port for one of them, or write forward = \
             \"full-nat\" there",
        ],
    );
    check_as_it_stands(
        &format!(
            "{}{NODE}",
            clients(vip, V4, "").replace("\"client\"", "\"customer\"")
        ),
        &[
            "7:10: pools.web.source is `customer`; write source = { addresses = [\"10.0.0.5\"] } for addresses of this box, \
             \"client\" or \"client-and-port\" for the client's",
        ],
    );
}

/// XDP gives the answers of a `nat` backend to its service's clients, whoever has asked.
#[test]
fn where_clients_want_to_go_is_no_backend_of_packets() {
    let between = |listen: &str| {
        format!(
            "[services.between]\nlisten = [\"{listen}\"]\nmode = \"tcp\"\npool = \"original-destination\"\n\
             [pools.original-destination]\nsource = \"client\"\n\
             [services.packets]\nlisten = [\"192.0.2.10:80\"]\nmode = \"l4\"\npool = \"web\"\n{POOL}{NODE}"
        )
    };
    for listen in ["transparent:10.0.0.0/24:80", "transparent:10.0.0.0/8:*"] {
        let shown = match listen {
            "transparent:10.0.0.0/8:*" => "transparent:10.0.0.0/8:1-65535/tcp",
            _ => "transparent:10.0.0.0/24:80/tcp",
        };
        check_as_it_stands(
            &between(listen),
            &[&format!(
                "2:11: services.between goes to where its clients want from their own addresses, and {shown} has 10.0.0.11:80, a \
                 backend of services.packets, whose clients XDP takes its answers for; write networks without it, let the \
                 backend listen on another port, or write forward = \"full-nat\" there"
            )],
        );
    }
    for listen in [
        "transparent:10.0.0.0/24:81",
        "transparent:10.0.1.0/24:80",
        "transparent:[2001:db8::]/32:80",
    ] {
        crate::resolve(&between(listen)).unwrap_or_else(|report| panic!("{report}"));
    }
    let own = between("transparent:10.0.0.0/24:80").replace("source = \"client\"\n", "");
    crate::resolve(&own).unwrap_or_else(|report| panic!("{report}"));
    let full = between("transparent:10.0.0.0/24:80")
        .replace("mode = \"l4\"", "mode = \"l4\"\nforward = \"full-nat\"")
        .replace(
            POOL,
            &format!("{POOL}source = {{ addresses = [\"10.0.0.5\"] }}\n"),
        );
    crate::resolve(&full).unwrap_or_else(|report| panic!("{report}"));
}
