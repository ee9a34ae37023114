//! Connections for a virtual address reach the relay's socket by sk_lookup.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, OwnedFd},
};

use weir_core::{
    ids::{ListenKey, Protocol, ServiceName},
    plan::PerSource,
};
use weir_datapath::{
    Close, Datapath, Note, Reason, WantedAction, WantedService,
    listen::{self, ListenOptions},
};

use crate::{
    lab::{DEADLINE, Lab, VIP4, VIP6, listen as key, wanted},
    nat::{count, prepare, vip},
};

fn sockets(lab: &Lab, key: ListenKey, workers: u16) -> Vec<OwnedFd> {
    let options = ListenOptions::default();
    lab.weir
        .run(|| listen::bind(key, listen::How::Steered, workers, &options))
        .unwrap()
}

/// Connects from the client's space; the accepted end, whichever socket of the group has it.
fn connect(lab: &Lab, to: SocketAddr, group: &[OwnedFd]) -> (TcpStream, TcpStream) {
    let client = lab
        .client
        .run(|| TcpStream::connect_timeout(&to, DEADLINE))
        .unwrap();
    let accepted = crate::lab::wait_for("one of the group to have the connection", || {
        group
            .iter()
            .find_map(|fd| TcpListener::from(fd.try_clone().unwrap()).accept().ok())
    });
    accepted.0.set_nonblocking(false).unwrap();
    (client, accepted.0)
}

fn relayed(keys: &[ListenKey]) -> weir_datapath::Wanted {
    wanted([WantedService {
        name: ServiceName::new("www"),
        keys: keys.to_vec(),
        action: WantedAction::Relay { up: true },
        per_source: PerSource::default(),
    }])
}

#[test]
fn connections_for_a_vip_reach_the_listener() {
    let lab = Lab::new();
    prepare(&lab);
    let keys = [
        key(VIP4, 80, Protocol::Tcp),
        key(VIP6, 80, Protocol::Tcp),
        key(VIP4, 53, Protocol::Udp),
    ];
    let groups = keys.map(|key| sockets(&lab, key, 2));
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.reconcile(&relayed(&keys)).unwrap();
    let listeners: Vec<_> = keys
        .iter()
        .zip(&groups)
        .map(|(key, group)| (*key, group[0].as_fd()))
        .collect();
    datapath.steer(&listeners).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();

    for (to, group) in [(vip(VIP4, 80), &groups[0]), (vip(VIP6, 80), &groups[1])] {
        for _ in 0..8 {
            let (mut client, mut server) = connect(&lab, to, group);
            assert_eq!(
                server.local_addr().unwrap(),
                to,
                "the relay sees what the client addressed"
            );
            assert_eq!(server.peer_addr().unwrap(), client.local_addr().unwrap());
            client.write_all(b"hello").unwrap();
            let mut text = [0; 5];
            server.read_exact(&mut text).unwrap();
            assert_eq!(&text, b"hello");
        }
    }
    let client = lab.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    client.send_to(b"question", vip(VIP4, 53)).unwrap();
    let servers: Vec<_> = groups[2]
        .iter()
        .map(|fd| UdpSocket::from(fd.try_clone().unwrap()))
        .collect();
    let mut buffer = [0; 16];
    let (len, from) = crate::lab::wait_for("the datagram", || {
        servers
            .iter()
            .find_map(|socket| socket.recv_from(&mut buffer).ok())
    });
    assert_eq!(
        (&buffer[..len], from.port()),
        (&b"question"[..], client.local_addr().unwrap().port())
    );

    assert!(count(&datapath, Reason::Relay) > 0);
    let steered = datapath
        .counters()
        .unwrap()
        .notes
        .into_iter()
        .find(|(note, _)| *note == Note::Steered);
    assert!(steered.unwrap().1 >= 17, "{steered:?}");

    // A successor finds what was steered, and goes on with the sockets it was handed.
    drop(datapath);
    connect(&lab, vip(VIP4, 80), &groups[0]);
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let entries = |datapath: &Datapath| {
        datapath
            .tables()
            .into_iter()
            .find(|table| table.name == "STEER")
            .unwrap()
            .entries
    };
    assert_eq!(entries(&datapath), Some(3));
    datapath.steer(&listeners[..2]).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(entries(&datapath), Some(2));
    connect(&lab, vip(VIP4, 80), &groups[0]);

    // Not steered any more: the address is the box's, but nobody listens there.
    datapath.steer(&listeners[1..2]).unwrap();
    let refused = lab
        .client
        .run(|| TcpStream::connect_timeout(&vip(VIP4, 80), DEADLINE))
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    connect(&lab, vip(VIP6, 80), &groups[1]);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn whose_socket_is_gone_gets_no_other_programs() {
    let lab = Lab::new();
    prepare(&lab);
    let keys = [key(VIP4, 80, Protocol::Tcp), key(VIP6, 80, Protocol::Tcp)];
    let groups = keys.map(|key| sockets(&lab, key, 1));
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.reconcile(&relayed(&keys)).unwrap();
    let listeners: Vec<_> = keys
        .iter()
        .zip(&groups)
        .map(|(key, group)| (*key, group[0].as_fd()))
        .collect();
    datapath.steer(&listeners).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    // On every address, this port too.
    let other = lab.weir.run(|| TcpListener::bind("[::]:80")).unwrap();
    other.set_nonblocking(true).unwrap();
    let to = [vip(VIP4, 80), vip(VIP6, 80)];
    for (to, group) in to.into_iter().zip(&groups) {
        connect(&lab, to, group);
    }
    drop(groups);
    for to in to {
        let refused = lab
            .client
            .run(|| TcpStream::connect_timeout(&to, DEADLINE))
            .unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    }
    assert!(other.accept().is_err(), "it was given to another program");
    let notes = datapath.counters().unwrap().notes;
    let of = |wanted| {
        notes
            .iter()
            .find(|(note, _)| *note == wanted)
            .map(|(_, count)| *count)
    };
    assert_eq!((of(Note::Steered), of(Note::SteerNoSocket)), (Some(2), Some(2)));
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn what_cannot_be_steered_is_refused_by_name() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let www = key(VIP4, 80, Protocol::Tcp);
    let group = sockets(&lab, www, 1);
    let text = datapath
        .steer(&[(www, group[0].as_fd()), (www, group[0].as_fd())])
        .unwrap_err()
        .to_string();
    assert!(text.contains("192.0.2.10:80/tcp is given twice"), "{text}");
    let file = tempfile::tempfile().unwrap();
    let text = datapath.steer(&[(www, file.as_fd())]).unwrap_err().to_string();
    assert!(
        text.contains("192.0.2.10:80/tcp cannot be used for steering"),
        "{text}"
    );
    let many: Vec<_> = (1..=65)
        .map(|port| (key(VIP4, port, Protocol::Tcp), group[0].as_fd()))
        .collect();
    let text = datapath.steer(&many).unwrap_err().to_string();
    assert!(text.contains("65 needed, room for 64"), "{text}");
    datapath.steer(&[(www, group[0].as_fd())]).unwrap();
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
