//! A relay under test, raw peers on both sides of it, and plans to run it by.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol as SocketProtocol, Socket, Type};
use weir_core::{
    health::{Admin, State, Word},
    ids::{BackendKey, ListenKey, PoolName, Protocol, Scope, ServiceName},
    plan::{
        self, Balance, Check, CheckKind, Connections, Forwarded, Http, Http2, HttpProtocol, Limits, Listen,
        LogFormat, LogTarget, Mode, Node, Plan, Pool, Retries, Service, Tcp, Timeouts, Wire, XdpMode,
    },
};
use weir_relay::{
    AccessLog, Back, BackendCounts, Front, Listener, Options, PoolCounts, Reason, Relay, ServiceCounts,
    TlsEnds,
};

/// No wait in these tests is longer. What takes longer has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const UP: Word = Word {
    state: State::Up,
    admin: Admin::Ready,
};
pub(crate) const DOWN: Word = Word {
    state: State::Down,
    admin: Admin::Ready,
};

/// A plan in the making.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    pub(crate) balance: Balance,
    pub(crate) backends: Vec<(SocketAddr, u16, bool)>,
    pub(crate) checked: bool,
    pub(crate) connections: Connections,
    pub(crate) retries: Retries,
    pub(crate) protocol: HttpProtocol,
    pub(crate) http2: Http2,
    /// Connections that each backend may have, where the pool's number is not theirs.
    pub(crate) max_connections: Vec<Option<u32>>,
    pub(crate) workers: u16,
    pub(crate) log: AccessLog,
    /// Further pools by name, each with these backends.
    pub(crate) others: Vec<(&'static str, Vec<SocketAddr>)>,
    /// The service has no pool of its own.
    pub(crate) no_pool: bool,
    /// Whose PROXY headers the service takes.
    pub(crate) proxy: Option<plan::ProxyIn>,
    /// What the pools' backends are told.
    pub(crate) proxy_out: Option<plan::ProxyOut>,
    /// The service ends TLS with it.
    pub(crate) front: Option<Arc<Front>>,
    /// The pools' backends are spoken to over TLS with it.
    pub(crate) back: Option<Arc<Back>>,
}

/// What the relay looks at of it is that it is there.
fn plan_backend_tls() -> plan::BackendTls {
    plan::BackendTls {
        trust: plan::BackendTrust::System,
        server_name: None,
        alpn: Vec::new(),
        certificate: None,
        policy: plan::TlsPolicy::default(),
        versions: None,
        ciphers: None,
        groups: None,
    }
}

/// What the relay looks at of it is that it is there.
fn plan_tls() -> plan::Tls {
    plan::Tls {
        certificates: Vec::new(),
        policy: plan::TlsPolicy::default(),
        versions: None,
        ciphers: None,
        groups: None,
        alpn: Vec::new(),
        unknown_names: plan::UnknownNames::default(),
        ticket_keys: None,
        clients: plan::ClientCertificates::Off,
    }
}

pub(crate) fn timeouts() -> Timeouts {
    Timeouts {
        handshake: Duration::from_secs(5),
        connect: Duration::from_secs(5),
        request_head: Duration::from_secs(10),
        client: Duration::from_secs(10),
        server: Duration::from_secs(10),
        keep_alive: Duration::from_secs(10),
        queue: Duration::from_secs(5),
        tunnel: Duration::from_secs(30),
    }
}

pub(crate) fn http() -> Http {
    Http {
        timeouts: timeouts(),
        limits: Limits {
            head: 16 << 10,
            headers: 64,
            body: None,
            body_rate: None,
            connections: 1000,
        },
        trusted_proxies: Vec::new(),
        forwarded: Forwarded::Off,
        wire: Wire {
            via: plan::Via::Off,
            ..Wire::default()
        },
        forwarded_fields: Vec::new(),
        websocket: plan::WebSocket::default(),
        request_id: None,
        http2: plan::ClientHttp2::default(),
        rewrite: plan::Rewrite::default(),
        rules: Vec::new(),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
    }
}

impl Setup {
    pub(crate) fn http(backends: &[SocketAddr]) -> Self {
        Self::http_with(backends, |_| {})
    }

    pub(crate) fn http_with(backends: &[SocketAddr], change: impl FnOnce(&mut Http)) -> Self {
        let mut http = http();
        change(&mut http);
        Self::new(Mode::Http(http), backends)
    }

    pub(crate) fn tcp(backends: &[SocketAddr]) -> Self {
        Self::tcp_with(backends, |_| {})
    }

    pub(crate) fn tcp_with(backends: &[SocketAddr], change: impl FnOnce(&mut Tcp)) -> Self {
        let mut tcp = Tcp {
            timeouts: timeouts(),
            connections: 1000,
            passthrough: None,
        };
        change(&mut tcp);
        Self::new(Mode::Tcp(tcp), backends)
    }

    fn new(mode: Mode, backends: &[SocketAddr]) -> Self {
        Self {
            mode,
            balance: Balance::RoundRobin,
            backends: backends.iter().map(|b| (*b, 1, false)).collect(),
            checked: true,
            connections: Connections::default(),
            retries: Retries::default(),
            protocol: HttpProtocol::default(),
            http2: Http2::default(),
            max_connections: Vec::new(),
            workers: 1,
            log: AccessLog::default(),
            others: Vec::new(),
            no_pool: false,
            proxy: None,
            proxy_out: None,
            front: None,
            back: None,
        }
    }

    pub(crate) fn keys(&self) -> Vec<BackendKey> {
        let key = |(address, ..): &(SocketAddr, u16, bool)| BackendKey {
            pool: PoolName::new("pool"),
            address: *address,
        };
        self.backends.iter().map(key).collect()
    }

    fn other_pools(&self) -> Vec<Arc<Pool>> {
        let other = |(name, backends): &(&str, Vec<SocketAddr>)| {
            let backend = |(i, address): (usize, &SocketAddr)| plan::Backend {
                quic_id: None,
                key: BackendKey {
                    pool: PoolName::new(*name),
                    address: *address,
                },
                name: Arc::from(format!("{name}{i}")),
                weight: 1,
                backup: false,
                max_connections: None,
            };
            Arc::new(Pool {
                source: None,
                name: PoolName::new(*name),
                balance: self.balance,
                backends: backends.iter().enumerate().map(backend).collect(),
                check: None,
                connections: self.connections,
                retries: self.retries.clone(),
                protocol: self.protocol,
                http2: self.http2,
                tls: self.back.as_ref().map(|_| Box::new(plan_backend_tls())),
                proxy: self.proxy_out,
                client_source: None,
                interface: None,
            })
        };
        self.others.iter().map(other).collect()
    }

    /// The plan for a service of that name at that address.
    pub(crate) fn plan(&self, service: &str, at: SocketAddr) -> Arc<Plan> {
        let check = Check {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 2,
            port: None,
            jitter: 0,
            proxy: None,
        };
        let backend = |(i, (key, (_, weight, backup)))| plan::Backend {
            quic_id: None,
            key,
            name: Arc::from(format!("b{i}")),
            weight,
            backup,
            max_connections: self.max_connections.get(i).copied().flatten(),
        };
        let backends = self
            .keys()
            .into_iter()
            .zip(self.backends.iter().copied())
            .enumerate()
            .map(backend)
            .collect();
        Arc::new(Plan {
            export: None,
            sync: None,
            vrrp: Vec::new(),
            lists: plan::Lists::default(),
            node: Node {
                tunnel: plan::Tunnel::default(),
                gateways: Vec::new(),
                name: Arc::from("edge-1"),
                interfaces: Vec::new(),
                own_addresses: Vec::new(),
                xdp: XdpMode::Off,
                workers: None,
                user: "nobody".into(),
                pins: "/nowhere".into(),
                hash_key: None,
            },
            access_log: plan::AccessLog::default(),
            admin: plan::Admin {
                socket: "/nowhere".into(),
                http: None,
            },
            pools: [Arc::new(Pool {
                source: None,
                name: PoolName::new("pool"),
                balance: self.balance,
                backends,
                check: self.checked.then_some(check),
                connections: self.connections,
                retries: self.retries.clone(),
                protocol: self.protocol,
                http2: self.http2,
                tls: self.back.as_ref().map(|_| Box::new(plan_backend_tls())),
                proxy: self.proxy_out,
                client_source: None,
                interface: None,
            })]
            .into_iter()
            .chain(self.other_pools())
            .collect(),
            services: vec![Arc::new(Service {
                per_source: plan::PerSource::default(),
                proxy: self.proxy.clone(),
                tls: self.front.as_ref().map(|_| plan_tls()),
                name: ServiceName::new(service),
                listen: vec![Listen {
                    addr: at.ip(),
                    first: at.port(),
                    last: at.port(),
                    protocol: Protocol::Tcp,
                    scope: Scope::Address,
                    interface: None,
                }],
                pool: (!self.no_pool).then(|| PoolName::new("pool")),
                mode: self.mode.clone(),
            })],
        })
    }
}

/// A running relay with one service, `www`.
pub(crate) struct Lab {
    pub(crate) relay: Relay,
    pub(crate) at: SocketAddr,
    pub(crate) setup: Setup,
}

impl Lab {
    /// Starts it; all backends are up.
    pub(crate) fn new(setup: Setup) -> Self {
        let lab = Self::pending(setup);
        lab.words(UP);
        lab
    }

    /// Starts it; nothing is known of the backends.
    pub(crate) fn pending(setup: Setup) -> Self {
        let relay = Relay::start(Options {
            workers: setup.workers,
            access_log: setup.log.clone(),
        })
        .unwrap();
        let (at, sockets) = listen(setup.workers);
        let fronts = setup
            .front
            .iter()
            .map(|f| (ServiceName::new("www"), Arc::clone(f)))
            .collect();
        let plan = setup.plan("www", at);
        let pools = plan.pools.iter();
        let backs = setup
            .back
            .iter()
            .flat_map(|b| pools.clone().map(|pool| (pool.name.clone(), Arc::clone(b))))
            .collect();
        let ends = TlsEnds { fronts, backs };
        relay
            .apply_with(plan, vec![listener(at, "www", sockets)], &ends)
            .unwrap();
        Self { relay, at, setup }
    }

    pub(crate) fn words(&self, word: Word) {
        let words: Vec<_> = self.setup.keys().into_iter().map(|key| (key, word)).collect();
        self.relay.set_words(&words);
    }

    pub(crate) fn client(&self) -> Raw {
        Raw::connect(self.at)
    }

    pub(crate) fn service(&self) -> ServiceCounts {
        self.relay.snapshot().services[0].counts.clone()
    }

    pub(crate) fn backend(&self, index: usize) -> BackendCounts {
        self.relay.snapshot().backends[index].counts.clone()
    }

    pub(crate) fn pool(&self) -> PoolCounts {
        self.relay.snapshot().pools[0].counts.clone()
    }

    /// Waits until that many requests have ended for that reason.
    pub(crate) fn ended(&self, reason: Reason, count: u64) {
        until(&format!("{count} ends for {reason}"), || {
            self.service().ends[reason as usize] == count
        });
    }
}

/// A relay whose log is read.
pub(crate) struct Logged {
    pub(crate) lab: Lab,
    path: PathBuf,
}

impl Logged {
    pub(crate) fn new(mut setup: Setup, format: LogFormat, null: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "weir-relay-log-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        setup.log = AccessLog {
            to: LogTarget::File(path.clone()),
            format,
            null,
        };
        Self {
            lab: Lab::new(setup),
            path,
        }
    }

    /// All lines, once there are so many. A line that is being written is none yet: one write of the log can be seen in
    /// part, as far as the page of the file that it crosses.
    pub(crate) fn lines(&self, count: usize) -> Vec<String> {
        let read = || {
            let text = std::fs::read_to_string(&self.path).unwrap_or_default();
            let whole = text
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'));
            whole.map(str::to_owned).collect::<Vec<_>>()
        };
        until(&format!("{count} records"), || read().len() >= count);
        let lines = read();
        assert_eq!(lines.len(), count, "{lines:#?}");
        lines
    }

    /// The last line, once there are so many.
    pub(crate) fn last(&self, count: usize) -> String {
        self.lines(count).pop().unwrap()
    }
}

impl Drop for Logged {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        // Leaves the core to what is waited for; how long is of no account to the outcome.
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub(crate) fn listener(at: SocketAddr, service: &str, sockets: Vec<OwnedFd>) -> Listener {
    let key = ListenKey {
        addr: at.ip(),
        port: at.port(),
        protocol: Protocol::Tcp,
        scope: Scope::Address,
        interface: None,
    };
    Listener {
        key,
        service: ServiceName::new(service),
        sockets,
    }
}

/// A group of listening sockets on a port of the system's choice.
pub(crate) fn listen(workers: u16) -> (SocketAddr, Vec<OwnedFd>) {
    let mut at = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let mut sockets = Vec::new();
    for _ in 0..workers {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(SocketProtocol::TCP)).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&at.into()).unwrap();
        socket.listen(128).unwrap();
        at = socket.local_addr().unwrap().as_socket().unwrap();
        sockets.push(OwnedFd::from(socket));
    }
    (at, sockets)
}

/// A scripted backend: the test accepts and answers by hand.
pub(crate) struct Backend {
    listener: TcpListener,
    pub(crate) at: SocketAddr,
}

impl Backend {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // On Linux this bounds accept as well.
        socket2::SockRef::from(&listener)
            .set_read_timeout(Some(PATIENCE))
            .unwrap();
        let at = listener.local_addr().unwrap();
        Self { listener, at }
    }

    pub(crate) fn accept(&self) -> Raw {
        Raw::new(self.listener.accept().unwrap().0)
    }

    /// Nobody has connected.
    pub(crate) fn is_untouched(&self) -> bool {
        self.listener.set_nonblocking(true).unwrap();
        let accepted = self.listener.accept();
        self.listener.set_nonblocking(false).unwrap();
        matches!(accepted, Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Answers every request on every connection with its own name, until the process ends.
    pub(crate) fn serve(self, name: &'static str) -> SocketAddr {
        let at = self.at;
        std::thread::spawn(move || {
            for stream in self.listener.incoming().flatten() {
                std::thread::spawn(move || {
                    let mut raw = Raw::new(stream);
                    while let Some(head) = raw.try_head() {
                        assert!(head.starts_with("GET "), "{head}");
                        raw.send(format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
                            name.len()
                        ));
                    }
                });
            }
        });
        at
    }
}

/// An address where nobody listens.
pub(crate) fn closed_port() -> SocketAddr {
    // Bound, not listening, and kept for the life of the process: nobody else gets the port.
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(SocketProtocol::TCP)).unwrap();
    socket
        .bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())
        .unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    std::mem::forget(socket);
    at
}

/// One end of a connection, byte by byte.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    ahead: Vec<u8>,
}

impl Raw {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            ahead: Vec::new(),
        }
    }

    pub(crate) fn connect(at: SocketAddr) -> Self {
        Self::new(TcpStream::connect(at).unwrap())
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn finish(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }

    fn fill(&mut self) -> usize {
        let mut buf = [0; 16 << 10];
        let n = self.stream.read(&mut buf).unwrap();
        self.ahead.extend_from_slice(&buf[..n]);
        n
    }

    /// Bytes up to and including `end`. None if the connection ends before anything came.
    pub(crate) fn try_until(&mut self, end: &str) -> Option<String> {
        loop {
            if let Some(at) = self.ahead.windows(end.len()).position(|w| w == end.as_bytes()) {
                let rest = self.ahead.split_off(at + end.len());
                let part = std::mem::replace(&mut self.ahead, rest);
                return Some(String::from_utf8(part).unwrap());
            }
            if self.fill() == 0 {
                assert!(
                    self.ahead.is_empty(),
                    "ended after {:?}",
                    String::from_utf8_lossy(&self.ahead)
                );
                return None;
            }
        }
    }

    pub(crate) fn until(&mut self, end: &str) -> String {
        self.try_until(end)
            .unwrap_or_else(|| panic!("ended before {end:?}"))
    }

    pub(crate) fn try_head(&mut self) -> Option<String> {
        self.try_until("\r\n\r\n")
    }

    pub(crate) fn head(&mut self) -> String {
        self.until("\r\n\r\n")
    }

    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.ahead.len() < count {
            assert_ne!(
                self.fill(),
                0,
                "ended after {} of {count} bytes",
                self.ahead.len()
            );
        }
        let rest = self.ahead.split_off(count);
        std::mem::replace(&mut self.ahead, rest)
    }

    /// As [`Self::exactly`]; None if the other side ends, or breaks off, before anything came.
    pub(crate) fn try_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.ahead.is_empty() {
            let mut buf = [0; 16 << 10];
            match self.stream.read(&mut buf) {
                Ok(0) => return None,
                Ok(n) => self.ahead.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
        Some(self.exactly(count))
    }

    /// What was read and not looked at yet.
    pub(crate) fn take_ahead(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.ahead)
    }

    /// Whether there is something to read.
    pub(crate) fn peeks(&self) -> bool {
        !self.ahead.is_empty() || matches!(self.stream.peek(&mut [0]), Ok(n) if n > 0)
    }

    pub(crate) fn text(&mut self, count: usize) -> String {
        String::from_utf8(self.exactly(count)).unwrap()
    }

    /// All until the other side ends in order.
    pub(crate) fn rest(&mut self) -> String {
        while self.fill() > 0 {}
        String::from_utf8(std::mem::take(&mut self.ahead)).unwrap()
    }

    /// All until the other side ends or breaks off; true if it broke off.
    pub(crate) fn rest_or_reset(&mut self) -> (String, bool) {
        let mut buf = [0; 16 << 10];
        let reset = loop {
            match self.stream.read(&mut buf) {
                Ok(0) => break false,
                Ok(n) => self.ahead.extend_from_slice(&buf[..n]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break true,
                Err(error) => panic!("{error}"),
            }
        };
        (
            String::from_utf8_lossy(&std::mem::take(&mut self.ahead)).into_owned(),
            reset,
        )
    }

    /// The other side has ended, or has broken off, without another byte.
    pub(crate) fn ends(&mut self) {
        let (rest, _) = self.rest_or_reset();
        assert_eq!(rest, "");
    }

    /// A response with a `Content-Length`: status and body.
    pub(crate) fn response(&mut self) -> (u16, String) {
        let head = self.head();
        let length = value(&head, "content-length").map_or(0, |v| v.parse().unwrap());
        (status(&head), self.text(length))
    }
}

pub(crate) fn status(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().trim().parse().unwrap()
}

/// The values of a field, joined by `|`.
pub(crate) fn value(head: &str, name: &str) -> Option<String> {
    let field = |line: &str| {
        let (field, value) = line.split_once(':')?;
        field.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    };
    let values: Vec<_> = head.split("\r\n").skip(1).filter_map(field).collect();
    (!values.is_empty()).then(|| values.join("|"))
}

/// Bytes that depend on their place, so that any that is lost, doubled or moved shows.
pub(crate) fn pattern(from: usize, count: usize, seed: u64) -> Vec<u8> {
    let words = (from / 8) as u64..(from + count).div_ceil(8) as u64;
    let mut bytes = Vec::with_capacity(count + 16);
    for word in words {
        bytes.extend_from_slice(&(word + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    }
    bytes.drain(..from % 8);
    bytes.truncate(count);
    bytes
}

pub(crate) fn write_pattern_from(mut to: &TcpStream, from: usize, count: usize, seed: u64) {
    to.write_all(&pattern(from, count, seed)).unwrap();
}

pub(crate) fn write_pattern(to: &TcpStream, total: usize, seed: u64) {
    const PIECE: usize = 1 << 20;
    for from in (0..total).step_by(PIECE) {
        write_pattern_from(to, from, PIECE.min(total - from), seed);
    }
}

/// Reads that many bytes of the pattern, with a pause of the mind now and then; answers how many.
pub(crate) fn check_pattern(mut from: &TcpStream, total: usize, seed: u64) -> usize {
    let mut buf = vec![0; 300_000];
    let mut got = 0;
    while got < total {
        let most = buf.len().min(total - got);
        let n = from.read(&mut buf[..most]).unwrap();
        assert_ne!(n, 0, "ended after {got} of {total} bytes");
        assert!(
            buf[..n] == pattern(got, n, seed),
            "differs between {got} and {}",
            got + n
        );
        got += n;
    }
    got
}
