//! Where services listen: ranges, protocols, families, networks.

use super::*;

#[test]
fn listen_addresses_have_ranges_protocols_and_families() {
    let plan = resolve(
        "[services.dns]\nlisten = [\"192.0.2.10:53/udp\", \"192.0.2.10:53\", \"[2001:db8::10]:8000-8003/tcp\"]\n\
         mode = \"l4\"\npool = \"web\"\nring_size = 1009\n\
         [pools.web]\nbackends = [{ address = \"10.0.0.11:80\" }, { address = \"[2001:db8::11]:80\" }]\n\
         [node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n",
    );
    let (v4, v6) = ("192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap());
    let service = plan.service(&ServiceName::new("dns")).unwrap();
    assert_eq!(
        service.listen,
        [
            Listen {
                addr: v4,
                first: 53,
                last: 53,
                protocol: Protocol::Udp,
                scope: Scope::Address,
                interface: None,
            },
            Listen {
                addr: v4,
                first: 53,
                last: 53,
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            },
            Listen {
                addr: v6,
                first: 8000,
                last: 8003,
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            },
        ]
    );
    assert_eq!(
        service.mode,
        Mode::L4(L4 {
            hash: Default::default(),
            mss: Default::default(),
            on_backend_down: Default::default(),
            forward: Forward::Nat,
            ring_size: 1009
        })
    );
}

#[test]
fn transparent_listeners_have_networks_and_ports() {
    let plan = resolve(
        "[services.out]\nlisten = [\"transparent:80\", \"transparent:203.0.113.0/24:1000-1010/tcp\", \
         \"transparent:[2001:db8::]/32:443\", \"transparent:203.0.113.5:*\"]\n\
         mode = \"tcp\"\npool = \"original-destination\"\n\
         [node]\ninterfaces = [\"eth0\"]\nxdp = \"generic\"\n",
    );
    let service = plan.service(&ServiceName::new("out")).unwrap();
    let listens: Vec<_> = service.listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        listens,
        [
            "transparent:0.0.0.0/0:80/tcp",
            "transparent:[::]/0:80/tcp",
            "transparent:203.0.113.0/24:1000-1010/tcp",
            "transparent:[2001:db8::]/32:443/tcp",
            "transparent:203.0.113.5/32:1-65535/tcp",
        ]
    );
    assert!(
        service
            .listen
            .iter()
            .all(|l| l.is_transparent() && l.keys().count() == 1)
    );
    assert_eq!(plan.transparent().count(), 5);
    let pool = plan.pool(&PoolName::new("original-destination")).unwrap();
    assert!(pool.is_original_destination() && pool.backends.len() == 1);
    assert!(pool.backends[0].is_original_destination() && pool.check.is_none());
}

#[test]
fn listeners_that_only_look_alike_go_together() {
    // One port by both protocols and families; a virtual address beside the wildcard; neighbouring ranges.
    resolve(&format!(
        "[services.a]\nlisten = [\"0.0.0.0:80\", \"[::]:80\", \"192.0.2.10:8000-8009\"]\nmode = \"http\"\npool = \"web\"\n\
         [services.b]\nlisten = [\"192.0.2.10:80\", \"192.0.2.10:8010\"]\nmode = \"tcp\"\npool = \"web\"\n\
         [services.c]\nlisten = [\"192.0.2.10:80/udp\"]\nmode = \"l4\"\npool = \"web\"\n\
         {POOL}[node]\ninterfaces = [\"eth0\"]\n"
    ));
    // Without XDP the same address and the wildcard exclude each other, but not across families.
    resolve(&format!(
        "[services.a]\nlisten = [\"0.0.0.0:80\", \"[::1]:80\"]\nmode = \"http\"\npool = \"web\"\n{POOL}[node]\nxdp = \"off\"\n"
    ));
    // A service may feed another one.
    resolve(&format!(
        "[services.a]\nlisten = [\"127.0.0.1:81\"]\nmode = \"http\"\npool = \"b\"\n\
         [services.b]\nlisten = [\"127.0.0.1:82\"]\nmode = \"http\"\npool = \"web\"\n\
         [pools.b]\nbackends = [{{ address = \"127.0.0.1:82\" }}]\n{POOL}[node]\nxdp = \"off\"\n"
    ));
}
