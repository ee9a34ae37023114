//! Every case through a relay in this process: to the byte, and once more with every byte in a segment of its own.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so does what it calls"
)]

mod http2;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use weir_conformance_tests::{
    Case, Drive, Proxy, Rigor, Setting, Step,
    case::{GET, NODE, OK, case, passed},
    cases,
    drive::Deviation,
};
use weir_core::{
    ids::{BackendKey, ListenKey, PoolName, Protocol, Scope, ServiceName},
    plan::{
        Admin, Backend, Balance, Connections, Forwarded, Http, IpNet, Limits, Listen, Mode, Node, PerSource,
        Plan, Pool, Retries, Rewrite, Service, Timeouts, Via, Wire, XdpMode,
    },
};
use weir_relay::{AccessLog, Listener, Options, Reason, Relay, ServiceCounts};

/// Cases played at once. Most of their time is waiting.
const AT_ONCE: usize = 8;

#[test]
fn to_the_byte() {
    play_all(Rigor::Bytes, |_| true);
}

/// However the bytes come, they mean the same. What is about pieces or time is played once only.
#[test]
fn in_drops() {
    play_all(Rigor::Drops, |case| case.is_about_bytes());
}

/// The driver finds what is otherwise: each wrong expectation by its sign.
#[test]
fn what_is_otherwise_is_found() {
    let patience = Rigor::Meaning(Duration::from_millis(300));
    let seen = passed("GET / HTTP/1.1\r\nHost: a\r\n");
    let other = OK.replace("ok", "ko");
    let asked = || case("wrong", "none").client(GET).origin_gets(seen.as_str());
    let told = || asked().origin(OK).client_gets(OK);
    for (case, sign) in [
        (
            case("wrong", "none")
                .client(GET)
                .origin_gets(passed("GET / HTTP/1.1\r\nHost: b\r\n")),
            "passes on otherwise",
        ),
        (
            case("wrong", "none")
                .client("GET /\r\n\r\n")
                .origin_gets(seen.as_str()),
            "answers 400",
        ),
        (
            case("wrong", "none").client("GET /").origin_gets(seen.as_str()),
            "passes nothing on",
        ),
        (case("wrong", "none").client(GET).own(400), "passes it on"),
        (asked().client_gets(OK), "does not answer"),
        (
            asked().origin(OK).client_gets(other.as_str()),
            "answers otherwise",
        ),
        (asked().origin(OK).own(502), "answers 200"),
        (asked().untouched(), "forwards"),
        (told().ends(), "keeps the client"),
        (told().origin_ends(), "keeps the origin"),
        (told().step(Step::Ended("ok", 2)), "ok is Some(1)"),
        (
            case("wrong", "none")
                .client(GET)
                .step(Step::Silence(Duration::from_secs(20))),
            "no silence",
        ),
    ] {
        let deviation = play(&case, patience).expect_err(sign);
        assert_eq!(deviation.sign, sign, "{deviation}");
    }
    let bytes = asked().origin(OK).client_gets(OK.replace("200 OK", "200 Ok"));
    let more = play(&asked().origin(OK), Rigor::Bytes).expect_err("there is more");
    assert_eq!(more.sign, "leaves more", "{more}");
    assert!(play(&bytes, patience).is_ok() && play(&bytes, Rigor::Bytes).is_err());
}

fn play_all(rigor: Rigor, fits: impl Fn(&Case) -> bool) {
    let cases: Vec<_> = cases::all().into_iter().filter(fits).collect();
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
                    if let Err(deviation) = play(case, rigor) {
                        failures
                            .lock()
                            .unwrap()
                            .push(format!("{} ({}) {deviation}", case.id, case.rfc));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert!(
        failures.is_empty(),
        "{} of {}:\n{}",
        failures.len(),
        cases.len(),
        failures.join("\n")
    );
}

fn play(case: &Case, rigor: Rigor) -> Result<(), Deviation> {
    let (weir, origin) = Weir::start(case.setting);
    Drive::play(case, &weir, &origin, rigor)
}

struct Weir {
    relay: Relay,
    at: SocketAddr,
}

impl Weir {
    /// A relay, and the origin that it passes on to.
    fn start(setting: Setting) -> (Self, TcpListener) {
        let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let weir = Self::with(http(setting), origin.local_addr().unwrap());
        (weir, origin)
    }

    /// A relay that is set up like that.
    fn with(http: Http, origin: SocketAddr) -> Self {
        let relay = Relay::start(Options {
            workers: 1,
            access_log: AccessLog::default(),
        })
        .unwrap();
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let at = socket.local_addr().unwrap();
        let listener = Listener {
            key: ListenKey {
                addr: at.ip(),
                port: at.port(),
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            },
            service: ServiceName::new("www"),
            sockets: vec![OwnedFd::from(socket)],
        };
        relay
            .apply(Arc::new(plan(http, at, origin)), vec![listener])
            .unwrap();
        Self { relay, at }
    }

    fn counts(&self) -> Option<ServiceCounts> {
        let mut services = self.relay.snapshot().services;
        Some(services.pop()?.counts)
    }
}

impl Proxy for Weir {
    fn at(&self) -> SocketAddr {
        self.at
    }

    fn has_read(&self) -> Option<u64> {
        Some(self.counts()?.bytes_in)
    }

    fn ended(&self, reason: &str) -> Option<u64> {
        let reason = Reason::ALL.iter().find(|r| r.as_str() == reason);
        let reason = reason.unwrap_or_else(|| panic!("there is no reason {reason:?}"));
        self.counts()?.ends.get(*reason as usize).copied()
    }
}

fn http(setting: Setting) -> Http {
    let long = Duration::from_secs(60);
    let short = Duration::from_millis(300);
    let shorter = Duration::from_millis(200);
    let mut http = Http {
        timeouts: Timeouts {
            handshake: Duration::from_secs(5),
            connect: long,
            request_head: long,
            client: long,
            server: long,
            keep_alive: long,
            queue: long,
            tunnel: long,
        },
        limits: Limits {
            head: 16 << 10,
            headers: 64,
            body: None,
            body_rate: Some(500),
            connections: 1000,
        },
        trusted_proxies: Vec::new(),
        forwarded: Forwarded::XForwardedFor,
        forwarded_fields: Vec::new(),
        wire: Wire::default(),
        websocket: weir_core::plan::WebSocket::default(),
        // The cases are of HTTP/1.x: what asks for more is refused, or stays what it is.
        http2: weir_core::plan::ClientHttp2 {
            enabled: false,
            ..weir_core::plan::ClientHttp2::default()
        },
        request_id: None,
        rewrite: Rewrite::default(),
        rules: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    };
    let times = &mut http.timeouts;
    match setting {
        Setting::Plain => {}
        Setting::Trace => http.wire.trace = true,
        Setting::Connect => http.wire.connect = true,
        Setting::SmallBody => http.limits.body = Some(10),
        Setting::ShortHead => times.request_head = short,
        Setting::ShortClient => times.client = short,
        Setting::BodyRate => {
            times.client = short;
            http.limits.body_rate = Some(1 << 10);
        }
        Setting::ShortServer => times.server = short,
        Setting::ShortTunnel => times.tunnel = short,
        Setting::LongTunnel => {
            times.request_head = shorter;
            times.client = shorter;
            times.server = shorter;
            times.keep_alive = shorter;
        }
        Setting::ShortIdle => times.keep_alive = short,
        Setting::Trusted => http.trusted_proxies = vec![IpNet::new([127, 0, 0, 0].into(), 8).unwrap()],
        Setting::NoVia => http.wire.via = Via::Off,
    }
    http
}

fn plan(http: Http, at: SocketAddr, origin: SocketAddr) -> Plan {
    let pool = PoolName::new("pool");
    Plan {
        export: None,
        sync: None,
        vrrp: Vec::new(),
        lists: weir_core::plan::Lists::default(),
        node: Node {
            tunnel: weir_core::plan::Tunnel::default(),
            gateways: Vec::new(),
            name: NODE.into(),
            interfaces: Vec::new(),
            own_addresses: Vec::new(),
            xdp: XdpMode::Off,
            workers: None,
            user: "nobody".into(),
            pins: "/nowhere".into(),
            hash_key: None,
        },
        access_log: weir_core::plan::AccessLog::default(),
        admin: Admin {
            socket: "/nowhere".into(),
            http: None,
        },
        pools: vec![Arc::new(Pool {
            source: None,
            name: pool.clone(),
            balance: Balance::RoundRobin,
            connections: Connections::default(),
            retries: Retries::default(),
            protocol: weir_core::plan::HttpProtocol::default(),
            http2: weir_core::plan::Http2::default(),
            tls: None,
            proxy: None,
            client_source: None,
            interface: None,
            backends: vec![Backend {
                quic_id: None,
                key: BackendKey {
                    pool: pool.clone(),
                    address: origin,
                },
                name: "origin".into(),
                max_connections: None,
                weight: 1,
                backup: false,
            }],
            // Unchecked, it is up.
            check: None,
        })],
        services: vec![Arc::new(Service {
            per_source: PerSource::default(),
            proxy: None,
            tls: None,
            name: ServiceName::new("www"),
            listen: vec![Listen {
                addr: at.ip(),
                first: at.port(),
                last: at.port(),
                protocol: Protocol::Tcp,
                scope: Scope::Address,
                interface: None,
            }],
            pool: Some(pool),
            mode: Mode::Http(http),
        })],
    }
}
