//! A bare relay for measurements: `relay LISTEN MODE BACKEND…`, with MODE `http` or `tcp`, one worker, no access log.
//! Runs until it is killed.
//!
//! Not how weir is run: the `weir` binary resolves a configuration and hands the relay its sockets.

use std::{env, net::SocketAddr, os::fd::OwnedFd, process::ExitCode, sync::Arc, thread, time::Duration};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use weir_core::{
    ids::{BackendKey, ListenKey, PoolName, Protocol, Scope, ServiceName},
    plan::{
        Admin, Backend, Balance, Forwarded, Http, Limits, Listen, Mode, Node, Plan, Pool, Rewrite, Service,
        Tcp, Timeouts, Wire, XdpMode,
    },
};
use weir_relay::{AccessLog, Listener, Options, Relay};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}; usage: relay LISTEN http|tcp BACKEND…");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = env::args().skip(1);
    let at: SocketAddr = args.next().ok_or("no address to listen at")?.parse()?;
    let http = match args.next().as_deref() {
        Some("http") => true,
        Some("tcp") => false,
        _ => return Err("no mode".into()),
    };
    let backends = args.map(|a| a.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    if backends.is_empty() {
        return Err("no backend".into());
    }
    let relay = Relay::start(Options {
        workers: 1,
        access_log: AccessLog::default(),
    })?;
    let key = ListenKey {
        addr: at.ip(),
        port: at.port(),
        protocol: Protocol::Tcp,
        scope: Scope::Address,
        interface: None,
    };
    let listener = Listener {
        key,
        service: ServiceName::new("bench"),
        sockets: vec![listen(at)?],
    };
    relay.apply(Arc::new(plan(at, http, &backends)), vec![listener])?;
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn listen(at: SocketAddr) -> std::io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(SocketProtocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&at.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

fn plan(at: SocketAddr, http: bool, backends: &[SocketAddr]) -> Plan {
    let minute = Duration::from_secs(60);
    let timeouts = Timeouts {
        handshake: Duration::from_secs(5),
        connect: minute,
        request_head: minute,
        client: minute,
        server: minute,
        keep_alive: minute,
        queue: minute,
        tunnel: minute,
    };
    let mode = if http {
        Mode::Http(Http {
            timeouts,
            limits: Limits {
                head: 64 << 10,
                headers: 128,
                body: None,
                body_rate: None,
                connections: 10_000,
            },
            trusted_proxies: Vec::new(),
            forwarded: Forwarded::XForwardedFor,
            wire: Wire::default(),
            http2: weir_core::plan::ClientHttp2::default(),
            forwarded_fields: Vec::new(),
            websocket: weir_core::plan::WebSocket::default(),
            request_id: None,
            rewrite: Rewrite::default(),
            rules: Vec::new(),
            request_headers: Vec::new(),
            response_headers: Vec::new(),
        })
    } else {
        Mode::Tcp(Tcp {
            timeouts,
            connections: 10_000,
            passthrough: None,
        })
    };
    let pool = PoolName::new("bench");
    let backend = |address: &SocketAddr| Backend {
        quic_id: None,
        key: BackendKey {
            pool: pool.clone(),
            address: *address,
        },
        name: address.to_string().into(),
        weight: 1,
        backup: false,
        max_connections: None,
    };
    Plan {
        export: None,
        sync: None,
        vrrp: Vec::new(),
        lists: weir_core::plan::Lists::default(),
        node: Node {
            tunnel: weir_core::plan::Tunnel::default(),
            gateways: Vec::new(),
            name: "bench".into(),
            interfaces: Vec::new(),
            own_addresses: Vec::new(),
            xdp: XdpMode::Off,
            workers: Some(1),
            user: String::new(),
            pins: "/".into(),
            hash_key: None,
        },
        access_log: weir_core::plan::AccessLog::default(),
        admin: Admin {
            socket: "/".into(),
            http: None,
        },
        pools: vec![Arc::new(Pool {
            source: None,
            name: pool.clone(),
            balance: Balance::RoundRobin,
            backends: backends.iter().map(backend).collect(),
            check: None,
            connections: weir_core::plan::Connections::default(),
            retries: weir_core::plan::Retries::default(),
            protocol: weir_core::plan::HttpProtocol::default(),
            http2: weir_core::plan::Http2::default(),
            tls: None,
            proxy: None,
            client_source: None,
            interface: None,
        })],
        services: vec![Arc::new(Service {
            per_source: weir_core::plan::PerSource::default(),
            proxy: None,
            tls: None,
            name: ServiceName::new("bench"),
            listen: vec![Listen {
                addr: at.ip(),
                first: at.port(),
                last: at.port(),
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            }],
            pool: Some(pool),
            mode,
        })],
    }
}
