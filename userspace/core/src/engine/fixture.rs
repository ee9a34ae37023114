//! Plans for tests.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    ids::{BackendKey, PoolName},
    plan::{Admin, Backend, Balance, Check, CheckKind, Node, Plan, Pool, XdpMode},
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
            name: key.address.to_string().into(),
            key,
            weight: 1,
            backup: false,
        }
    };
    Pool {
        name: PoolName::new(name),
        balance: Balance::RoundRobin,
        backends: (0..backends).map(backend).collect(),
        check,
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
    }
}

pub(crate) fn plan(pools: impl IntoIterator<Item = Pool>) -> Arc<Plan> {
    Arc::new(Plan {
        node: Node {
            name: "box".into(),
            interfaces: vec![],
            xdp: XdpMode::Off,
            workers: None,
            user: "nobody".into(),
            pins: "/sys/fs/bpf/weir".into(),
            hash_key: None,
        },
        admin: Admin {
            socket: "/run/weir/control.sock".into(),
            http: None,
        },
        pools: pools.into_iter().map(Arc::new).collect(),
        services: vec![],
    })
}
