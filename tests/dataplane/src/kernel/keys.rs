//! Keys of the maps, as tests spell them: from socket addresses.
//!
//! Makes keys and plain values, no more. What they mean stands in `weir-abi`.

use std::net::{IpAddr, SocketAddr};

use weir_abi::{Addr16, Backend, FlowKey, Prefix, ReturnKey, ServiceKey, maps::port_proto};

/// The key of a service.
pub fn service_key(addr: SocketAddr, protocol: u8) -> ServiceKey {
    ServiceKey {
        addr: addr.ip().into(),
        port_proto: port_proto(addr.port().to_be(), protocol),
    }
}

/// The key of a backend's answers.
pub fn return_key(addr: SocketAddr, protocol: u8) -> ReturnKey {
    ReturnKey {
        addr: addr.ip().into(),
        port_proto: port_proto(addr.port().to_be(), protocol),
    }
}

/// The key of a flow.
pub fn flow_key(src: SocketAddr, dst: SocketAddr, protocol: u8) -> FlowKey {
    let ([a, b], [c, d]) = (src.port().to_be_bytes(), dst.port().to_be_bytes());
    FlowKey {
        src: src.ip().into(),
        dst: dst.ip().into(),
        ports: u32::from_ne_bytes([a, b, c, d]),
        proto: u32::from(protocol),
    }
}

/// A backend.
pub fn backend(addr: SocketAddr, flags: u32) -> Backend {
    Backend {
        addr: addr.ip().into(),
        port: u32::from(addr.port().to_be()),
        flags,
        ..Backend::default()
    }
}

/// A network, given as `ADDRESS/LENGTH`. Panics if it is none.
pub fn prefix(text: &str) -> Prefix {
    let parsed = text
        .split_once('/')
        .and_then(|(addr, len)| Some((addr.parse::<IpAddr>().ok()?, len.parse::<u32>().ok()?)));
    let Some((ip, len)) = parsed else {
        panic!("{text} is no network")
    };
    Prefix {
        len: if ip.is_ipv4() { 96 + len } else { len },
        addr: ip.into(),
    }
}

/// The network of one address.
pub fn host_prefix(ip: IpAddr) -> Prefix {
    Prefix {
        len: 128,
        addr: Addr16::from(ip),
    }
}
