//! Services of mode `l4`: ways of forwarding, hashes, limits, lists.

use super::*;

const BOX: &str = "[node]\ninterfaces = [\"eth0\"]\n";

fn l4(plan: &Plan, index: usize) -> &L4 {
    match &plan.services[index].mode {
        Mode::L4(l4) => l4,
        other @ (Mode::Tcp(_) | Mode::Http(_)) => panic!("{other:?}"),
    }
}

/// A service with these listeners and lines, and a pool with these backends and lines.
fn forwarding(listen: &str, service: &str, backends: &str, pool: &str) -> String {
    format!(
        "{BOX}[services.a]\nlisten = [{listen}]\nmode = \"l4\"\npool = \"web\"\n{service}\n\
         [pools.web]\nbackends = [{backends}]\n{pool}\n"
    )
}

#[test]
fn each_way_of_forwarding_takes_the_backends_that_suit_it() {
    let (v4, both) = ("\"192.0.2.10:80\"", "\"192.0.2.10:80\", \"[2001:db8::10]:80\"");
    let (port, kept) = ("{ address = \"10.0.0.11:80\" }", "{ address = \"10.0.0.11:*\" }");
    let kept_v6 = "{ address = \"[2001:db8::11]:*\" }";
    let source = "source = { addresses = [\"10.0.0.5\", \"2001:db8::5\"] }";
    let cases = [
        (Forward::Nat, v4, port.to_owned(), ""),
        (Forward::Nat, "\"192.0.2.10:80-90\"", port.to_owned(), ""),
        (
            Forward::Nat,
            "\"192.0.2.10:*\", \"192.0.2.10:*/udp\"",
            kept.to_owned(),
            "",
        ),
        (Forward::FullNat, both, format!("{port}, {kept_v6}"), source),
        (Forward::Dsr, v4, port.to_owned(), ""),
        (Forward::Dsr, both, format!("{kept}, {kept_v6}"), ""),
        (Forward::Dsr, "\"192.0.2.10:*\"", kept.to_owned(), ""),
        (Forward::Ipip, both, kept.to_owned(), ""),
        (Forward::Ipip, v4, kept_v6.to_owned(), ""),
        (Forward::Ipip, "\"192.0.2.10:8000-8999\"", kept.to_owned(), ""),
    ];
    for (forward, listen, backends, pool) in cases {
        let word = forward.as_str();
        let text = forwarding(listen, &format!("forward = \"{word}\""), &backends, pool);
        let plan = resolve(&text);
        assert_eq!(l4(&plan, 0).forward, forward, "{text}");
    }
    let plan = resolve(&forwarding(both, "forward = \"ipip\"", kept, ""));
    let backend = &plan.pools[0].backends[0];
    assert_eq!(backend.key.address, "10.0.0.11:0".parse().unwrap());
    assert_eq!(
        (&*backend.name, backend.key.to_string()),
        ("10.0.0.11:*", "web/10.0.0.11:*".into())
    );
    // A pool of any backends is checked at the port that its check names.
    let check = "check = { type = \"tcp\", port = 80 }";
    let plan = resolve(&forwarding(v4, "forward = \"dsr\"", kept, check));
    assert_eq!(plan.pools[0].check.as_ref().unwrap().port, Some(80));
}

#[test]
fn one_port_goes_before_every_port() {
    let plan = resolve(&format!(
        "{BOX}[services.every]\nlisten = [\"192.0.2.10:*\", \"192.0.2.10:*/udp\", \"[2001:db8::10]:*\"]\nmode = \"l4\"\npool = \"kept\"\n\
         [services.one]\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:8000-8009\"]\nmode = \"http\"\npool = \"web\"\n\
         [services.dns]\nlisten = [\"192.0.2.10:53/udp\"]\nmode = \"l4\"\npool = \"web\"\n\
         [pools.kept]\nbackends = [{{ address = \"10.0.0.11:*\" }}, {{ address = \"[2001:db8::11]:*\" }}]\n{POOL}"
    ));
    let shown: Vec<_> = plan.services[0].listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["192.0.2.10:*/tcp", "192.0.2.10:*/udp", "[2001:db8::10]:*/tcp"]
    );
    for listen in &plan.services[0].listen {
        let keys: Vec<_> = listen.keys().map(|key| key.port).collect();
        assert_eq!((listen.is_every_port(), keys), (true, vec![0]));
    }
}

#[test]
fn the_hash_takes_what_it_is_told_to() {
    let hash = |line: &str| {
        let text = forwarding(
            "\"192.0.2.10:443/udp\"",
            line,
            "{ address = \"10.0.0.11:443\", quic_id = \"00a1b2\" }, { address = \"10.0.0.12:443\", quic_id = \"00A1B3\" }",
            "",
        );
        l4(&resolve(&text), 0).hash
    };
    let source = |prefix_v4, prefix_v6| FlowHash::Source { prefix_v4, prefix_v6 };
    assert_eq!(hash(""), FlowHash::Flow);
    assert_eq!(hash("hash = \"flow\""), FlowHash::Flow);
    assert_eq!(hash("hash = \"source\""), source(32, 128));
    assert_eq!(hash("hash = \"source-network\""), source(24, 56));
    assert_eq!(
        hash("hash = \"source-network\"\nhash_prefix_v4 = 8\nhash_prefix_v6 = 48"),
        source(8, 48)
    );
    assert_eq!(hash("hash = \"quic\""), FlowHash::Quic { len: 3 });
    let plan = resolve(
        "[pools.a]\nbackends = [{ address = \"10.0.0.11:443\", quic_id = \"00a1\" }]\n[node]\nxdp = \"off\"\n",
    );
    let id = QuicId {
        value: 0xa100,
        len: 2,
    };
    assert_eq!(plan.pools[0].backends[0].quic_id, Some(id));
}

#[test]
fn packets_services_have_their_defaults_and_what_is_written() {
    let port = "{ address = \"10.0.0.11:80\" }";
    let plan = resolve(&forwarding("\"192.0.2.10:80\"", "", port, ""));
    let default = l4(&plan, 0);
    assert_eq!(
        (default.on_backend_down, default.mss, default.forward),
        (OnBackendDown::Remap, None, Forward::Nat)
    );
    assert_eq!(plan.services[0].per_source, PerSource::default());
    assert!(!plan.services[0].per_source.is_limited());
    assert_eq!(
        (plan.node.tunnel, plan.pools[0].source.as_ref()),
        (Tunnel::default(), None)
    );
    assert_eq!(plan.lists, Lists::default());

    let plan = resolve(&forwarding(
        "\"192.0.2.10:80\"",
        "forward = \"full-nat\"\non_backend_down = \"reset\"\nmss = 1220\n\
         per_source = { rate = 10, connections = 20, ban = \"1m30s\", prefix_v4 = 24, prefix_v6 = 48 }",
        port,
        "source = { addresses = [\"10.0.0.5\", \"2001:db8::5\"], ports = \"2000-2999\" }",
    ));
    let l4 = l4(&plan, 0);
    assert_eq!((l4.on_backend_down, l4.mss), (OnBackendDown::Reset, Some(1220)));
    assert_eq!(
        plan.services[0].per_source,
        PerSource {
            rate: Some(10),
            connections: Some(20),
            prefix_v4: 24,
            prefix_v6: 48,
            ban: Some(Duration::from_secs(90)),
        }
    );
    let source = plan.pools[0].source.as_ref().unwrap();
    assert_eq!(
        source.nat.map(|ports| (ports.first, ports.last)),
        Some((2000, 2999))
    );
    assert_eq!(source.relay, None);
    let addresses: Vec<_> = source.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.0.0.5", "2001:db8::5"]);
}

#[test]
fn limits_per_source_are_for_every_mode() {
    let plan = resolve(&format!(
        "{BOX}[services.a]\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:443/udp\"]\nmode = \"l4\"\npool = \"web\"\nper_source = {{ rate = 1 }}\n\
         [services.b]\nlisten = [\"192.0.2.11:80\"]\nmode = \"http\"\npool = \"web\"\nper_source = {{ connections = 2 }}\n\
         [services.c]\nlisten = [\"192.0.2.12:80\"]\nmode = \"tcp\"\npool = \"web\"\nper_source = {{ rate = 3, ban = \"30d\" }}\n{POOL}"
    ));
    let limits: Vec<_> = plan
        .services
        .iter()
        .map(|s| {
            (
                s.per_source.rate,
                s.per_source.connections,
                s.per_source.is_limited(),
            )
        })
        .collect();
    assert_eq!(
        limits,
        [
            (Some(1), None, true),
            (None, Some(2), true),
            (Some(3), None, true)
        ]
    );
}

#[test]
fn two_pools_share_an_address_by_their_ports() {
    let pool = |name: &str, ports: &str| {
        format!(
            "[pools.{name}]\nbackends = [{{ address = \"10.0.0.11:80\" }}]\n\
             source = {{ addresses = [\"10.0.0.5\"], ports = \"{ports}\" }}\n\
             [services.{name}]\nlisten = [\"192.0.2.1{name}:80\"]\nmode = \"l4\"\nforward = \"full-nat\"\npool = \"{name}\"\n"
        )
    };
    let plan = resolve(&format!(
        "{BOX}{}{}{}",
        pool("1", "20000-29999"),
        pool("2", "10000-19999"),
        pool("3", "1024")
    ));
    assert_eq!(plan.pools.len(), 3);
}

#[test]
fn outer_sources_are_networks() {
    let plan = resolve(
        "[node]\ninterfaces = [\"eth0\"]\n[node.tunnel]\nsource_v4 = \"10.128.0.0/9\"\nsource_v6 = \"2001:db8:f::/48\"\n",
    );
    let tunnel = plan.node.tunnel;
    assert_eq!(
        (tunnel.source_v4.to_string(), tunnel.source_v6.to_string()),
        ("10.128.0.0/9".into(), "2001:db8:f::/48".into())
    );
    let plan = resolve("[node]\ninterfaces = [\"eth0\"]\n[node.tunnel]\nsource_v4 = \"10.0.0.0/31\"\n");
    assert_eq!(plan.node.tunnel.source_v6, Tunnel::default().source_v6);
}

#[test]
fn lists_are_networks_once_each() {
    let plan = resolve(&format!(
        "{BOX}[lists]\nallow = [\"10.1.0.0/16\", \"2001:db8::1\", \"10.1.0.0/16\"]\nban = [\"0.0.0.0/0\", \"10.1.2.0/24\"]\n"
    ));
    let shown = |list: &[weir_core::plan::IpNet]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(&plan.lists.allow), ["10.1.0.0/16", "2001:db8::1/128"]);
    assert_eq!(shown(&plan.lists.ban), ["0.0.0.0/0", "10.1.2.0/24"]);
    // A section that says nothing needs nothing.
    resolve("[lists]\nallow = []\n[node]\nxdp = \"off\"\n");
}
