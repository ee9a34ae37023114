//! Living through change: programs are exchanged under traffic, and another layout loses no flow unasked.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
};

use weir_core::ids::Protocol;
use weir_datapath::{Close, Datapath, How, OpenError, Options, Reason};

use crate::{
    lab::{DEADLINE, Lab, VIP4, backend, bpffs, listen, nat, wanted},
    nat::{Client, count, prepare, tcp_backend, udp_backend, vip},
};

fn own_pins() -> std::path::PathBuf {
    bpffs().join("weir").join(format!("{:016x}", weir_abi::ABI_HASH))
}

/// How often the programs are exchanged.
const EXCHANGES: u32 = 12;
/// Clients of the stream; every second one sends large datagrams.
const CLIENTS: usize = 16;

/// Sends datagrams in rounds, each when all answers to the one before are there, until told to stop and for some rounds
/// after. A lost packet, of whatever direction, is an answer that does not come. Returns datagrams sent.
fn stream(to: SocketAddr, stop: &AtomicBool) -> u64 {
    let sockets: Vec<UdpSocket> = (0..CLIENTS)
        .map(|_| {
            let socket = UdpSocket::bind("198.51.100.2:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        })
        .collect();
    let mut sent = 0_u64;
    let mut after = 0;
    let mut buffer = [0; 4096];
    while after < 10 {
        after += u32::from(stop.load(Ordering::Relaxed));
        let datagram = |nth: usize| {
            let mut datagram = vec![nth as u8; if nth.is_multiple_of(2) { 64 } else { 1400 }];
            datagram[..8].copy_from_slice(&sent.to_be_bytes());
            datagram
        };
        for (nth, socket) in sockets.iter().enumerate() {
            socket.send(&datagram(nth)).unwrap();
        }
        for (nth, socket) in sockets.iter().enumerate() {
            let len = socket
                .recv(&mut buffer)
                .unwrap_or_else(|e| panic!("client {nth} after {sent} datagrams: an answer is lost ({e})"));
            assert!(buffer[..len] == datagram(nth), "client {nth}: another answer");
        }
        sent += CLIENTS as u64;
    }
    sent
}

#[test]
fn no_packet_is_lost_while_programs_are_exchanged() {
    let lab = Lab::new();
    prepare(&lab);
    let one = udp_backend(&lab, "10.0.0.11:0");
    let wish = wanted([nat("dns", &[listen(VIP4, 53, Protocol::Udp)], &[backend(one)])]);
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.reconcile(&wish).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    let program = |link: &str| {
        let text = lab.weir.output(&format!("ip -d link show dev {link}"));
        let (_, rest) = text.split_once("prog/xdp id ").unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    };

    let stop = AtomicBool::new(false);
    let (datapath, sent) = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| lab.client.run(|| stream(vip(VIP4, 53), &stop)));
        let mut before = program("outer");
        for _ in 0..EXCHANGES {
            let forwarded = count(&datapath, Reason::ForwardNat);
            // As after a kill. No next hops were given, so every packet asks the kernel's routes, in a stage of its own: until
            // the last link is updated the old stages are in use beside the new ones.
            drop(datapath);
            datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
            datapath.reconcile(&wish).unwrap();
            let attached = lab.weir.run(|| datapath.attach()).unwrap();
            assert!(attached.iter().all(|a| a.how == How::TakenOver), "{attached:?}");
            let now = program("outer");
            assert_ne!(before, now, "another program is there");
            before = now;
            let stages = lab.weir.run(|| {
                let names = fs::read_dir(own_pins().join("maps")).unwrap();
                let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
                names.filter(|name| name.starts_with("STAGES")).count()
            });
            assert_eq!(stages, 1, "the old ones go when nothing has them any more");
            assert!(
                count(&datapath, Reason::ForwardNat) > forwarded,
                "it was exchanged under traffic"
            );
        }
        stop.store(true, Ordering::Relaxed);
        match traffic.join() {
            Ok(sent) => (datapath, sent),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    });
    assert_eq!(
        [Reason::ForwardNat, Reason::ReturnNat].map(|reason| count(&datapath, reason)),
        [sent, sent],
        "all generations together have counted all of them"
    );
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

/// What another version, whose tables have another layout, would leave: pins under another hash, and a state file that
/// this version does not read.
fn fabricate_other_version(lab: &Lab) -> std::path::PathBuf {
    let other = bpffs().join("weir/0123456789abcdef");
    lab.weir.run(|| fs::rename(own_pins(), &other)).unwrap();
    fs::remove_file(lab.state_dir().join("assignment.json")).unwrap();
    other
}

#[test]
fn flows_of_another_layout_are_not_lost_unasked() {
    let lab = Lab::new();
    prepare(&lab);
    let one = tcp_backend(&lab, "10.0.0.11:0");
    let two = tcp_backend(&lab, "10.0.0.12:0");
    let wish = wanted([nat(
        "www",
        &[listen(VIP4, 80, Protocol::Tcp)],
        &[backend(one), backend(two)],
    )]);
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.reconcile(&wish).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    let key = datapath.hash_key();
    let mut clients: Vec<_> = (0..10).map(|_| Client::connect(&lab, vip(VIP4, 80))).collect();
    let places: Vec<_> = clients.iter_mut().map(Client::ask).collect();
    drop(datapath);
    let other = fabricate_other_version(&lab);

    let error = lab.weir.run(|| Datapath::open(lab.options())).unwrap_err();
    assert!(
        matches!(&error, OpenError::OtherLayout { dir, flows: 10, translated: 0 } if *dir == other),
        "{error}"
    );
    for part in [
        "/sys/fs/bpf/weir/0123456789abcdef",
        "10 recorded flows",
        "start this one with --discard-flows",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(
        !lab.weir.run(|| own_pins().exists()),
        "nothing is left of the attempt"
    );
    let asked: Vec<_> = clients.iter_mut().map(Client::ask).collect();
    assert_eq!(asked, places, "the other version goes on");

    let options = Options {
        discard_flows: true,
        ..lab.options()
    };
    let mut datapath = lab.weir.run(|| Datapath::open(options)).unwrap();
    assert_eq!(datapath.hash_key(), key, "the other version's key is kept");
    datapath.reconcile(&wish).unwrap();
    let attached = lab.weir.run(|| datapath.attach()).unwrap();
    assert!(attached.iter().all(|a| a.how == How::TakenOver), "{attached:?}");
    assert!(!lab.weir.run(|| other.exists()));
    let asked: Vec<_> = clients.iter_mut().map(Client::ask).collect();
    assert_eq!(
        asked, places,
        "with the same key and the same backends the hash alone keeps every flow where it was"
    );
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn what_forwards_nothing_any_more_is_in_nobodys_way() {
    let lab = Lab::new();
    prepare(&lab);
    let one = tcp_backend(&lab, "10.0.0.11:0");
    let wish = wanted([nat("www", &[listen(VIP4, 80, Protocol::Tcp)], &[backend(one)])]);
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.reconcile(&wish).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(Client::connect(&lab, vip(VIP4, 80)).ask(), one);
    drop(datapath);
    let other = fabricate_other_version(&lab);
    lab.weir.run(|| {
        for entry in fs::read_dir(other.join("links")).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    });
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.reconcile(&wish).unwrap();
    let attached = lab.weir.run(|| datapath.attach()).unwrap();
    assert!(attached.iter().all(|a| a.how == How::New), "{attached:?}");
    assert!(!lab.weir.run(|| other.exists()));
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
