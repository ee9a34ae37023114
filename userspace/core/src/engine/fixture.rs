//! Plans for tests.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    ids::{BackendKey, PoolName},
    plan::{
        Admin, Backend, Balance, Check, CheckKind, Connections, Http2, HttpProtocol, Node, Plan, Pool,
        Retries, XdpMode,
    },
};

/// The `index`-th backend of a pool made here.
pub(crate) fn key(pool: &str, index: usize) -> BackendKey {
    let host = u8::try_from(index + 1).unwrap();
    BackendKey {
        pool: PoolName::new(pool),
        address: SocketAddr::from((Ipv4Addr::new(10, 0, 0, host), 80)),
    }
}

pub(crate) fn pool(name: &str, backends: usize, check: Option<Check>) -> Pool {
    let backend = |index| {
        let key = key(name, index);
        Backend {
            quic_id: None,
            name: key.address.to_string().into(),
            key,
            weight: 1,
            backup: false,
            max_connections: None,
        }
    };
    Pool {
        source: None,
        name: PoolName::new(name),
        balance: Balance::RoundRobin,
        backends: (0..backends).map(backend).collect(),
        check,
        connections: Connections::default(),
        retries: Retries::default(),
        protocol: HttpProtocol::default(),
        http2: Http2::default(),
        tls: None,
        proxy: None,
        client_source: None,
        interface: None,
    }
}

/// Every 2 s with a timeout of 1 s.
pub(crate) fn check(rise: u32, fall: u32) -> Check {
    Check {
        kind: CheckKind::Tcp,
        interval: Duration::from_secs(2),
        timeout: Duration::from_secs(1),
        rise,
        fall,
        port: None,
        jitter: 10,
        proxy: None,
    }
}

pub(crate) fn plan(pools: impl IntoIterator<Item = Pool>) -> Arc<Plan> {
    Arc::new(Plan {
        export: None,
        sync: None,
        vrrp: Vec::new(),
        lists: crate::plan::Lists::default(),
        node: Node {
            tunnel: crate::plan::Tunnel::default(),
            gateways: Vec::new(),
            name: "box".into(),
            interfaces: vec![],
            own_addresses: vec![],
            xdp: XdpMode::Off,
            workers: None,
            user: "nobody".into(),
            pins: "/sys/fs/bpf/weir".into(),
            hash_key: None,
        },
        access_log: crate::plan::AccessLog::default(),
        admin: Admin {
            socket: "/run/weir/control.sock".into(),
            http: None,
        },
        pools: pools.into_iter().map(Arc::new).collect(),
        services: vec![],
    })
}
