//! Real connections through `nat`: TCP and UDP, IPv4 and IPv6, before and after changes of the backends.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use weir_core::{ids::Protocol, plan::XdpMode};
use weir_datapath::{Close, Datapath, Options, Reason};

use crate::lab::{DEADLINE, Lab, VIP4, VIP6, backend, block_on, listen, nat, resolve, wait_for, wanted};

/// A TCP server in the backends' space that says its own name once per line it reads.
pub(crate) fn tcp_backend(lab: &Lab, address: &str) -> SocketAddr {
    let listener = lab.backends.run(|| TcpListener::bind(address).unwrap());
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    if stream.write_all(format!("{at}\n").as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    at
}

pub(crate) fn udp_backend(lab: &Lab, address: &str) -> SocketAddr {
    let socket = lab.backends.run(|| UdpSocket::bind(address).unwrap());
    let at = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
    at
}

/// A TCP client in the client's space.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(lab: &Lab, to: SocketAddr) -> Self {
        let stream = lab
            .client
            .run(|| TcpStream::connect_timeout(&to, DEADLINE))
            .unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    /// Asks who is at the other end.
    pub(crate) fn ask(&mut self) -> SocketAddr {
        self.ask_many(1)
    }

    /// Asks many times at once; the answers must be the same.
    fn ask_many(&mut self, times: usize) -> SocketAddr {
        self.stream.get_ref().write_all(&vec![b'?'; times]).unwrap();
        let mut found = None;
        for _ in 0..times {
            let mut line = String::new();
            self.stream.read_line(&mut line).unwrap();
            let answer: SocketAddr = line.trim_end().parse().unwrap();
            assert_eq!(*found.get_or_insert(answer), answer);
        }
        found.unwrap()
    }
}

/// Puts the virtual addresses on the box and resolves its neighbors, so that no first packet is lost.
pub(crate) fn prepare(lab: &Lab) {
    let dir = lab.state_dir();
    lab.weir.run(|| {
        block_on(async {
            let mut vips = weir_datapath::vips::Vips::new(&dir).unwrap();
            let (addresses, interfaces) = (
                [VIP4, VIP6].map(|a| a.parse().unwrap()),
                ["outer".into(), "inner".into()],
            );
            assert_eq!(vips.reconcile(&addresses, &interfaces).await.unwrap().len(), 2);
        });
    });
    for neighbor in [
        "10.0.0.11",
        "10.0.0.12",
        "2001:db8:b::11",
        "2001:db8:b::12",
        "198.51.100.2",
        "2001:db8:c::2",
    ] {
        resolve(&lab.weir, neighbor);
    }
}

/// Packets so far for a reason.
pub(crate) fn count(datapath: &Datapath, reason: Reason) -> u64 {
    let counters = datapath.counters().unwrap();
    counters.reasons.iter().find(|(r, _)| *r == reason).unwrap().1
}

pub(crate) fn vip(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn tcp_and_udp_of_both_families_reach_a_backend_and_come_back() {
    both_ways(XdpMode::Native);
}

#[test]
fn generic_mode_does_the_same() {
    both_ways(XdpMode::Generic);
}

fn both_ways(mode: XdpMode) {
    let lab = Lab::new();
    prepare(&lab);
    let mut backends = Vec::new();
    for address in ["10.0.0.11:0", "[2001:db8:b::11]:0"] {
        backends.push((tcp_backend(&lab, address), udp_backend(&lab, address)));
    }
    let mut services = Vec::new();
    for (n, (tcp, udp)) in backends.iter().enumerate() {
        let address = [VIP4, VIP6][n];
        services.push(nat(
            &format!("tcp{n}"),
            &[listen(address, 80, Protocol::Tcp)],
            &[backend(*tcp)],
        ));
        services.push(nat(
            &format!("udp{n}"),
            &[listen(address, 53, Protocol::Udp)],
            &[backend(*udp)],
        ));
    }
    let mut datapath = lab
        .weir
        .run(|| {
            Datapath::open(Options {
                mode,
                ..lab.options()
            })
        })
        .unwrap();
    datapath.reconcile(&wanted(services)).unwrap();
    assert_eq!(lab.weir.run(|| datapath.attach()).unwrap().len(), 3);

    for (n, (tcp, _)) in backends.iter().enumerate() {
        let address = [VIP4, VIP6][n];
        let mut client = Client::connect(&lab, vip(address, 80));
        assert_eq!(client.ask(), *tcp);
        // A whole buffer's worth both ways: large segments, acknowledgements, checksums.
        assert_eq!(client.ask_many(20_000), *tcp);
        let socket = lab
            .client
            .run(|| UdpSocket::bind(if n == 0 { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut buffer = [0; 2048];
        for len in [0, 1, 17, 1000, 1400] {
            socket.send_to(&vec![7; len], vip(address, 53)).unwrap();
            let (received, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..received], from), (&vec![7; len][..], vip(address, 53)));
        }
    }

    for (name, traffic) in datapath.service_traffic().unwrap() {
        assert!(
            traffic.packets_in > 0 && traffic.packets_out > 0,
            "{name}: {traffic:?}"
        );
        assert!(traffic.bytes_in > traffic.packets_in * 14, "{name}: {traffic:?}");
    }
    let traffic = datapath.backend_traffic().unwrap();
    assert_eq!(traffic.len(), 4);
    assert!(
        traffic.iter().all(|(_, t)| t.packets_in > 0 && t.packets_out > 0),
        "{traffic:?}"
    );
    let tcp = datapath.service_traffic().unwrap();
    let tcp = tcp.iter().find(|(name, _)| name.as_str() == "tcp0").unwrap();
    assert_eq!(tcp.1.flows, 1, "one SYN");
    assert!(count(&datapath, Reason::ForwardNat) > 0 && count(&datapath, Reason::ReturnNat) > 0);
    for bad in [
        Reason::Inconsistent,
        Reason::Internal,
        Reason::NoBackend,
        Reason::NoRoute,
        Reason::TooBig,
    ] {
        assert_eq!(count(&datapath, bad), 0, "{}", bad.name());
    }
    let tables = datapath.tables();
    assert_eq!(tables.len(), weir_abi::names::PINNED.len());
    // Tries hold nothing as long as they are empty.
    let services = tables.iter().find(|table| table.name == "SERVICES").unwrap();
    assert_eq!((services.capacity, services.entries), (64, Some(6)));
    assert!(
        tables
            .iter()
            .filter(|table| !["ROUTES", "LISTS", "TAKEN"].contains(&table.name))
            .all(|table| table.bytes.is_some_and(|bytes| bytes > 0)),
        "{tables:?}"
    );
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn connections_stay_while_backends_come_and_go() {
    let lab = Lab::new();
    prepare(&lab);
    let one = tcp_backend(&lab, "10.0.0.11:0");
    let two = tcp_backend(&lab, "10.0.0.12:0");
    let key = listen(VIP4, 80, Protocol::Tcp);
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let both = wanted([nat("www", &[key], &[backend(one), backend(two)])]);
    datapath
        .reconcile(&wanted([nat("www", &[key], &[backend(one)])]))
        .unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();

    let mut old: Vec<_> = (0..20).map(|_| Client::connect(&lab, vip(VIP4, 80))).collect();
    assert!(old.iter_mut().all(|client| client.ask() == one));

    datapath.reconcile(&both).unwrap();
    assert!(
        old.iter_mut().all(|client| client.ask() == one),
        "flows stay where they are"
    );
    // New ones go to both: half of the slots each, so 40 on one side alone would be a wonder (2^-39).
    let mut new: Vec<_> = (0..40).map(|_| Client::connect(&lab, vip(VIP4, 80))).collect();
    let places: std::collections::BTreeSet<_> = new.iter_mut().map(Client::ask).collect();
    assert_eq!(places, [one, two].into());

    // Drained: keeps what it has, takes nothing new.
    let mut drained = backend(one);
    drained.weight = 0;
    datapath
        .reconcile(&wanted([nat("www", &[key], &[drained.clone(), backend(two)])]))
        .unwrap();
    assert!(old.iter_mut().all(|client| client.ask() == one));
    for _ in 0..20 {
        assert_eq!(Client::connect(&lab, vip(VIP4, 80)).ask(), two);
    }

    // Dead: its flows go elsewhere, where nobody knows them: they are reset.
    drained.alive = false;
    datapath
        .reconcile(&wanted([nat("www", &[key], &[drained, backend(two)])]))
        .unwrap();
    old[0].stream.get_ref().write_all(b"?").unwrap();
    let end = old[0].stream.read(&mut [0]).unwrap_err();
    assert_eq!(end.kind(), std::io::ErrorKind::ConnectionReset);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_backend_behind_two_vips_answers_as_the_one_that_was_asked() {
    let lab = Lab::new();
    prepare(&lab);
    let udp = udp_backend(&lab, "10.0.0.11:0");
    let keys = [listen(VIP4, 53, Protocol::Udp), listen(VIP4, 5353, Protocol::Udp)];
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath
        .reconcile(&wanted([nat("dns", &keys, &[backend(udp)])]))
        .unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    let sockets = lab
        .client
        .run(|| [(); 2].map(|()| UdpSocket::bind("0.0.0.0:0").unwrap()));
    for round in 0..3 {
        for (socket, port) in sockets.iter().zip([53, 5353]) {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.send_to(&[round], vip(VIP4, port)).unwrap();
            let mut buffer = [0; 8];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&[round][..], vip(VIP4, port)));
        }
    }
    // One VIP less: shared no more, and the other still works.
    datapath
        .reconcile(&wanted([nat("dns", &keys[1..], &[backend(udp)])]))
        .unwrap();
    sockets[1].send_to(b"x", vip(VIP4, 5353)).unwrap();
    assert_eq!(sockets[1].recv_from(&mut [0; 8]).unwrap().1, vip(VIP4, 5353));
    let before = count(&datapath, Reason::NoService);
    sockets[0].send_to(b"x", vip(VIP4, 53)).unwrap();
    wait_for("the first VIP to be nobody's", || {
        (count(&datapath, Reason::NoService) > before).then_some(())
    });
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
