//! Next hops get resolved: before the first packet for backends, after it for whatever else a packet needs.

use std::net::{IpAddr, TcpListener};

use tokio::sync::watch;
use weir_core::ids::Protocol;
use weir_datapath::{Close, Datapath, Reason, neighbors::Neighbors};

use crate::{
    lab::{Lab, Space, VIP4, VIP6, backend, block_on, listen, nat, wait_for, wanted},
    nat::{Client, count, prepare, tcp_backend, vip},
};

fn is_resolved(space: &Space, neighbor: &str) -> bool {
    space
        .output(&format!("ip neigh show to {neighbor}"))
        .contains("lladdr")
}

/// Runs `neighbors` in the box while the body runs here.
fn while_running<T>(
    lab: &Lab,
    datapath: &mut Datapath,
    targets: &[&str],
    body: impl FnOnce(&Datapath) -> T,
) -> T {
    let events = datapath.take_events();
    assert!(events.is_some() && datapath.take_events().is_none());
    let (sender, receiver) = watch::channel(Vec::new());
    let targets: Vec<IpAddr> = targets.iter().map(|text| text.parse().unwrap()).collect();
    std::thread::scope(|scope| {
        let task = scope.spawn(|| {
            lab.weir.run(|| {
                block_on(async {
                    Neighbors::new(events).unwrap().run(receiver).await;
                });
            });
        });
        sender.send(targets).unwrap();
        let value = body(datapath);
        drop(sender);
        task.join().unwrap();
        value
    })
}

#[test]
fn next_hops_of_backends_are_resolved_before_the_first_packet() {
    let lab = Lab::new();
    lab.weir.ip("route add 10.9.0.0/16 via 10.0.0.12");
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    // One on the wire, one behind a router, one of this box, one that no route leads to.
    let targets = [
        "10.0.0.11",
        "10.9.1.1",
        "10.0.0.1",
        "203.0.113.1",
        "2001:db8:b::11",
    ];
    while_running(&lab, &mut datapath, &targets, |_| {
        for neighbor in ["10.0.0.11", "10.0.0.12", "2001:db8:b::11"] {
            assert!(!lab.weir.output("ip neigh").contains("10.0.0.1 "));
            wait_for(neighbor, || is_resolved(&lab.weir, neighbor).then_some(()));
        }
    });
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_next_hop_that_a_packet_needs_is_resolved_after_its_event() {
    for (address, at) in [(VIP4, "10.0.0.11"), (VIP6, "2001:db8:b::11")] {
        let lab = Lab::new();
        prepare(&lab);
        let server = lab
            .backends
            .run(|| TcpListener::bind((at, 0)).unwrap().local_addr().unwrap());
        let server = tcp_backend(&lab, &server.to_string());
        let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
        let keys = [listen(address, 80, Protocol::Tcp)];
        datapath
            .reconcile(&wanted([nat("www", &keys, &[backend(server)])]))
            .unwrap();
        lab.weir.run(|| datapath.attach()).unwrap();
        lab.weir.ip("neigh flush dev inner");
        assert!(!is_resolved(&lab.weir, at));
        while_running(&lab, &mut datapath, &[], |datapath| {
            // The first SYN is lost and asks; the client repeats it.
            assert_eq!(Client::connect(&lab, vip(address, 80)).ask(), server);
            assert!(count(datapath, Reason::NoNeighbor) > 0);
        });
        assert!(is_resolved(&lab.weir, at));
        lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
    }
}
