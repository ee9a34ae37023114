//! Real sockets on loopback; needs no privilege.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
};

use nix::sys::socket::{getsockopt, sockopt};
use weir_core::ids::Scope;

use super::*;

fn key(addr: &str, port: u16, protocol: Protocol) -> ListenKey {
    ListenKey {
        addr: addr.parse().unwrap(),
        port,
        protocol,
        scope: Scope::Address,
        interface: None,
    }
}

fn local(fd: &OwnedFd) -> SocketAddr {
    Socket::from(fd.try_clone().unwrap())
        .local_addr()
        .unwrap()
        .as_socket()
        .unwrap()
}

#[test]
fn a_group_shares_one_port_and_accepts() {
    for addr in ["127.0.0.1", "::1"] {
        let sockets = bind(
            key(addr, 80, Protocol::Tcp),
            How::Steered,
            3,
            &ListenOptions::default(),
        )
        .unwrap();
        assert_eq!(sockets.len(), 3);
        let at = local(&sockets[0]);
        assert!(at.ip().is_loopback());
        assert!(at.port() != 0 && at.port() != 80);
        for socket in &sockets {
            assert_eq!(local(socket), at);
            assert!(getsockopt(&socket.as_fd(), sockopt::ReusePort).unwrap());
            assert!(getsockopt(&socket.as_fd(), sockopt::TcpNoDelay).unwrap());
            let flags = nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_GETFL).unwrap();
            assert!(flags & libc::O_NONBLOCK != 0);
            let flags = nix::fcntl::fcntl(socket, nix::fcntl::FcntlArg::F_GETFD).unwrap();
            assert!(flags & libc::FD_CLOEXEC != 0);
        }
        // Whichever socket of the group the kernel picks: one of them has the connection.
        let mut client = TcpStream::connect(at).unwrap();
        client.write_all(b"x").unwrap();
        let mut accepted = sockets
            .into_iter()
            .map(TcpListener::from)
            .find_map(|listener| listener.accept().ok())
            .expect("one of the group has it")
            .0;
        accepted.set_nonblocking(false).unwrap();
        let mut byte = [0];
        accepted.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}

#[test]
fn udp_sockets_receive() {
    let sockets = bind(
        key("127.0.0.1", 53, Protocol::Udp),
        How::Steered,
        1,
        &ListenOptions::default(),
    )
    .unwrap();
    let at = local(&sockets[0]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", at).unwrap();
    let server = UdpSocket::from(sockets.into_iter().next().unwrap());
    let mut buffer = [0; 16];
    let (n, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..n], from),
        (&b"hello"[..], client.local_addr().unwrap())
    );
}

#[test]
fn zero_workers_still_get_a_socket() {
    let sockets = bind(
        key("127.0.0.1", 80, Protocol::Tcp),
        How::Steered,
        0,
        &ListenOptions::default(),
    )
    .unwrap();
    assert_eq!(sockets.len(), 1);
}

#[test]
fn a_taken_port_is_named_even_when_the_other_shares_it() {
    let holder = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    holder.set_reuse_address(true).unwrap();
    holder.set_reuse_port(true).unwrap();
    holder
        .bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())
        .unwrap();
    holder.listen(1).unwrap();
    let port = holder.local_addr().unwrap().as_socket().unwrap().port();
    let error = bind(
        key("127.0.0.1", port, Protocol::Tcp),
        How::Bound,
        2,
        &ListenOptions::default(),
    )
    .expect_err("the port is taken");
    assert_eq!(error.cause.kind(), io::ErrorKind::AddrInUse);
    let text = error.to_string();
    assert!(
        text.starts_with(&format!("cannot listen on 127.0.0.1:{port}/tcp: ")),
        "{text}"
    );
    assert!(text.contains("`ss -lntup` shows which"), "{text}");
}

#[test]
fn a_foreign_address_is_named() {
    let error = bind(
        key("203.0.113.9", 8080, Protocol::Tcp),
        How::Bound,
        1,
        &ListenOptions::default(),
    )
    .expect_err("no interface has the address");
    assert_eq!(error.cause.kind(), io::ErrorKind::AddrNotAvailable);
    assert!(
        error
            .to_string()
            .contains("no interface of this box has the address"),
        "{error}"
    );
}

#[test]
fn a_privileged_port_names_the_mend() {
    let cause = io::Error::from_raw_os_error(libc::EACCES);
    let error = ListenError::new(key("127.0.0.1", 80, Protocol::Tcp), How::Bound, cause);
    assert!(error.to_string().contains("CAP_NET_BIND_SERVICE"), "{error}");
}

#[test]
fn both_families_can_have_the_unspecified_address() {
    let options = ListenOptions {
        defer_accept: Some(Duration::from_millis(10)),
        ..ListenOptions::default()
    };
    // The kernel picks a port that is free in IPv4; somebody else may have it in IPv6, then another is tried.
    let (v4, v6) = (0..50)
        .find_map(|_| {
            let v4 = bind(key("0.0.0.0", 0, Protocol::Tcp), How::Bound, 1, &options).unwrap();
            let v6 = bind(
                key("::", local(&v4[0]).port(), Protocol::Tcp),
                How::Bound,
                1,
                &options,
            )
            .ok()?;
            Some((v4, v6))
        })
        .expect("some port is free in both families");
    assert_eq!(local(&v4[0]).port(), local(&v6[0]).port());
}

#[test]
fn a_listener_of_one_interface_is_bound_to_it() {
    let lo = Interface::new("lo").unwrap();
    for addr in ["127.0.0.1", "::1"] {
        for how in [How::Bound, How::Steered] {
            let key = ListenKey {
                interface: Some(lo),
                ..key(addr, 0, Protocol::Tcp)
            };
            let sockets = bind(key, how, 2, &ListenOptions::default()).unwrap();
            for socket in &sockets {
                assert_eq!(
                    bound_to(socket, lo),
                    nix::net::if_::if_nametoindex("lo").ok(),
                    "{key}"
                );
                assert!(!is_lost(socket, lo));
                let other = Interface::new("nosuch0").unwrap();
                assert_eq!(bound_to(socket, other), None);
                assert!(!is_lost(socket, other), "there is none of that name");
            }
            let missing = ListenKey {
                interface: Interface::new("nosuch0"),
                ..key
            };
            let told = bind(missing, how, 1, &ListenOptions::default())
                .unwrap_err()
                .to_string();
            assert!(
                told.contains("%nosuch0: No such device") && told.contains("no interface of that name"),
                "{told}"
            );
        }
        // One that is bound to none.
        let sockets = bind(
            key(addr, 0, Protocol::Tcp),
            How::Bound,
            1,
            &ListenOptions::default(),
        );
        assert!(is_lost(&sockets.unwrap()[0], lo));
    }
}
