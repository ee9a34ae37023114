//! Load over TLS, for `cargo xtask bench tls`: connections that come and go, that stay, or that lie idle.
//!
//! ```text
//! tls_load ADDRESS new|resumed|keep-alive|idle|paced [connections=64] [seconds=1] [path=/] [version=1.3] [group=x25519]
//!          [identity=FILE] [rate=84]
//! ```
//!
//! One thread, one suite (AES-128-GCM), one group: so that every server has the same to do. Whose certificate it is does not
//! matter here, and nothing of it is verified. It makes what has to be there beforehand (sessions to take up again, connections
//! that stay), writes `ready`, and begins when a line comes on standard input. At the end it writes a line of JSON: requests
//! that were answered whole, how many of their connections took up a session, how many failed. `idle` writes `ready` once
//! all connections have had one answer, and holds them until the line comes. `paced` begins connections at a steady rate and
//! counts what fails; for all others a failure is the end.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    fd::OwnedFd,
};
use weir_tls::{
    Anybody, for_server,
    rustls::{
        ClientConfig, ClientConnection, HandshakeKind,
        client::Resumption,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        version,
    },
};

type Failed = Box<dyn std::error::Error>;

/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(20);
/// What one read takes.
const READ: usize = 64 << 10;
const NAME: &str = "bench.test";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    New,
    Resumed,
    KeepAlive,
    Idle,
    Paced,
}

struct Options {
    at: SocketAddr,
    mode: Mode,
    connections: usize,
    time: Duration,
    rate: f64,
    request: Vec<u8>,
    config: Arc<ClientConfig>,
}

impl Options {
    fn read() -> Result<Self, Failed> {
        let mut words = std::env::args().skip(1);
        let at = words.next().ok_or("no ADDRESS")?.parse()?;
        let mode = match words.next().as_deref() {
            Some("new") => Mode::New,
            Some("resumed") => Mode::Resumed,
            Some("keep-alive") => Mode::KeepAlive,
            Some("idle") => Mode::Idle,
            Some("paced") => Mode::Paced,
            other => return Err(format!("{other:?} is no mode").into()),
        };
        let (mut connections, mut seconds, mut rate) = (64, 1.0, 84.0);
        let (mut path, mut version, mut group) = ("/".to_owned(), "1.3".to_owned(), "x25519".to_owned());
        let mut identity = None;
        for word in words {
            let (name, value) = word.split_once('=').ok_or("write NAME=VALUE")?;
            match name {
                "connections" => connections = value.parse()?,
                "seconds" => seconds = value.parse()?,
                "rate" => rate = value.parse()?,
                "path" => path = value.to_owned(),
                "version" => version = value.to_owned(),
                "group" => group = value.to_owned(),
                "identity" => identity = Some(value.to_owned()),
                _ => return Err(format!("there is no {name}").into()),
            }
        }
        let close = match mode {
            Mode::KeepAlive | Mode::Idle => "",
            Mode::New | Mode::Resumed | Mode::Paced => "Connection: close\r\n",
        };
        Ok(Self {
            at,
            mode,
            connections,
            time: Duration::from_secs_f64(seconds),
            rate,
            request: format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n{close}\r\n").into_bytes(),
            config: configuration(&version, &group, identity.as_deref())?,
        })
    }
}

/// One suite and one group; no memory of sessions.
fn configuration(version: &str, group: &str, identity: Option<&str>) -> Result<Arc<ClientConfig>, Failed> {
    use aws_lc_rs::{cipher_suite, kx_group};
    let (suites, version) = match version {
        "1.3" => (vec![cipher_suite::TLS13_AES_128_GCM_SHA256], &version::TLS13),
        "1.2" => (
            vec![
                cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            ],
            &version::TLS12,
        ),
        _ => return Err(format!("there is no version {version}").into()),
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = suites;
    provider.kx_groups = match group {
        "x25519" => vec![kx_group::X25519],
        "X25519MLKEM768" => vec![kx_group::X25519MLKEM768],
        _ => return Err(format!("there is no group {group}").into()),
    };
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[version])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody::new(provider)));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let text = fs::read(file)?;
            let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<_, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&text)?)?
        }
    };
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// What of an answer is still to come.
#[derive(Default)]
struct Answer {
    head: Vec<u8>,
    left: Option<u64>,
}

impl Answer {
    /// Takes bytes of it. True: it is whole.
    fn take(&mut self, bytes: &[u8]) -> Result<bool, Failed> {
        let length = bytes.len() as u64;
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(length).ok_or("more than the answer has")?;
            return Ok(*left == 0);
        }
        self.head.extend_from_slice(bytes);
        let Some(end) = self.head.windows(4).position(|w| w == b"\r\n\r\n") else {
            return Ok(false);
        };
        let text = String::from_utf8_lossy(self.head.get(..end).unwrap_or_default()).to_ascii_lowercase();
        if !text.starts_with("http/1.1 200") {
            return Err(format!("it answers `{}`", text.lines().next().unwrap_or_default()).into());
        }
        let body = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let body: u64 = body.ok_or("it answers without a length")?.trim().parse()?;
        let come = (self.head.len() - end - 4) as u64;
        self.head.clear();
        let left = body.checked_sub(come).ok_or("more than the answer has")?;
        self.left = Some(left);
        Ok(left == 0)
    }
}

/// A connection under way.
struct Connection {
    socket: TcpStream,
    tls: ClientConnection,
    answer: Answer,
    whole: bool,
    begun: Instant,
    watched_for: epoll::EventFlags,
}

/// How far a connection is after a step.
#[derive(PartialEq, Eq)]
enum Step {
    Waits,
    /// The answer is whole, and the connection stays.
    Answered,
    /// The other side has ended it.
    Ended,
}

impl Connection {
    fn open(options: &Options, config: &Arc<ClientConfig>) -> Result<Self, Failed> {
        let begun = Instant::now();
        let socket = TcpStream::connect_timeout(&options.at, PATIENCE)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut tls = ClientConnection::new(Arc::clone(config), ServerName::try_from(NAME)?)?;
        // Goes out behind the handshake.
        tls.writer().write_all(&options.request)?;
        let mut connection = Self {
            socket,
            tls,
            answer: Answer::default(),
            whole: false,
            begun,
            watched_for: epoll::EventFlags::IN,
        };
        connection.send()?;
        Ok(connection)
    }

    fn ask(&mut self, request: &[u8]) -> Result<(), Failed> {
        self.answer = Answer::default();
        self.whole = false;
        self.tls.writer().write_all(request)?;
        self.send()
    }

    fn send(&mut self) -> Result<(), Failed> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn step(&mut self, buf: &mut [u8], plain: &mut [u8]) -> Result<Step, Failed> {
        loop {
            let n = match self.socket.read(buf) {
                Ok(0) if self.whole => return Ok(Step::Ended),
                Ok(0) => return Err("the connection ended before its answer".into()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            };
            self.take(buf.get(..n).unwrap_or_default(), plain)?;
        }
        self.send()?;
        Ok(match self.whole {
            true => Step::Answered,
            false => Step::Waits,
        })
    }

    /// One read, which waits.
    fn once(&mut self, buf: &mut [u8], plain: &mut [u8]) -> Result<(), Failed> {
        let n = self.socket.read(buf)?;
        if n == 0 {
            return Err("the connection ended before its answer".into());
        }
        self.take(buf.get(..n).unwrap_or_default(), plain)?;
        self.send()
    }

    /// Takes records that have come, all of them.
    fn take(&mut self, mut records: &[u8], plain: &mut [u8]) -> Result<(), Failed> {
        while !records.is_empty() {
            if self.tls.read_tls(&mut records)? == 0 {
                break;
            }
            self.tls.process_new_packets()?;
            loop {
                match self.tls.reader().read(plain) {
                    Ok(0) => break,
                    Ok(n) => self.whole = self.answer.take(plain.get(..n).unwrap_or_default())?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// A place for one connection at a time, with sessions of its own.
struct Slot {
    config: Arc<ClientConfig>,
    connection: Option<Connection>,
}

#[derive(Default)]
struct Tally {
    requests: u64,
    resumed: u64,
    failed: u64,
    first_failure: Option<String>,
    /// Of connections: from their beginning to the whole answer.
    times: Vec<Duration>,
}

struct Load {
    options: Options,
    poll: OwnedFd,
    slots: Vec<Slot>,
    /// A connection that stays asks again once it was answered.
    asks_on: bool,
    tally: Tally,
    buf: Vec<u8>,
    plain: Vec<u8>,
}

impl Load {
    fn new(options: Options) -> Result<Self, Failed> {
        let slots = match options.mode {
            Mode::Idle | Mode::Paced => 0,
            Mode::New | Mode::Resumed | Mode::KeepAlive => options.connections,
        };
        let slot = |_| Slot {
            config: match options.mode {
                Mode::Resumed => for_server(&options.config),
                Mode::New | Mode::KeepAlive | Mode::Idle | Mode::Paced => Arc::clone(&options.config),
            },
            connection: None,
        };
        Ok(Self {
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: (0..slots).map(slot).collect(),
            options,
            asks_on: false,
            tally: Tally::default(),
            buf: vec![0; READ],
            plain: vec![0; READ],
        })
    }

    fn begin(&mut self, number: usize) -> Result<(), Failed> {
        let slot = self.slots.get_mut(number).ok_or("a slot")?;
        let connection = Connection::open(&self.options, &slot.config)?;
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.poll, &connection.socket, data, connection.watched_for)?;
        slot.connection = Some(connection);
        Ok(())
    }

    /// Waits for events until then, and takes a step of each connection that has one. Answers with the slots that are free.
    fn turn(&mut self, until: Instant) -> Result<Vec<usize>, Failed> {
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        let mut events = Vec::with_capacity(256);
        epoll::wait(&self.poll, spare_capacity(&mut events), Some(&timeout))?;
        let mut free = Vec::new();
        for event in events {
            let number = event.data.u64() as usize;
            match self.step(number) {
                Ok(false) => {}
                Ok(true) => free.push(number),
                Err(error) if self.options.mode == Mode::Paced => {
                    self.tally.failed += 1;
                    self.tally.first_failure.get_or_insert_with(|| error.to_string());
                    self.slots.get_mut(number).ok_or("a slot")?.connection = None;
                    free.push(number);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(free)
    }

    /// True: the connection has ended.
    fn step(&mut self, number: usize) -> Result<bool, Failed> {
        let slot = self.slots.get_mut(number).ok_or("a slot")?;
        let Some(connection) = &mut slot.connection else {
            return Ok(false);
        };
        let had = connection.whole;
        let mut step = connection.step(&mut self.buf, &mut self.plain)?;
        if connection.whole && !had {
            self.tally.requests += 1;
            let resumed = connection.tls.handshake_kind() == Some(HandshakeKind::Resumed);
            self.tally.resumed += u64::from(resumed);
            if self.options.mode != Mode::KeepAlive {
                self.tally.times.push(connection.begun.elapsed());
            }
        }
        if step == Step::Answered && self.asks_on && self.options.mode == Mode::KeepAlive {
            connection.ask(&self.options.request)?;
            step = Step::Waits;
        }
        if step == Step::Ended {
            slot.connection = None;
            return Ok(true);
        }
        let wanted = match connection.tls.wants_write() {
            true => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            false => epoll::EventFlags::IN,
        };
        if wanted != connection.watched_for {
            connection.watched_for = wanted;
            let data = epoll::EventData::new_u64(number as u64);
            epoll::modify(&self.poll, &connection.socket, data, wanted)?;
        }
        Ok(false)
    }

    /// One connection of each slot, to its answer.
    fn prime(&mut self) -> Result<(), Failed> {
        let end = Instant::now() + PATIENCE;
        for number in 0..self.slots.len() {
            self.begin(number)?;
        }
        while (self.tally.requests as usize) < self.slots.len() {
            if Instant::now() > end {
                return Err("no answers".into());
            }
            self.turn(end)?;
        }
        if self.options.mode != Mode::KeepAlive {
            for slot in &mut self.slots {
                slot.connection = None;
            }
        }
        self.tally = Tally::default();
        Ok(())
    }

    /// Keeps all slots busy for the time, then sees what is under way to its end.
    fn fill(&mut self) -> Result<Duration, Failed> {
        let stays = self.options.mode == Mode::KeepAlive;
        let begun = Instant::now();
        let end = begun + self.options.time;
        self.asks_on = true;
        for number in 0..self.slots.len() {
            match self
                .slots
                .get_mut(number)
                .and_then(|slot| slot.connection.as_mut())
            {
                Some(connection) => connection.ask(&self.options.request)?,
                None => self.begin(number)?,
            }
        }
        while Instant::now() < end {
            for number in self.turn(end)? {
                self.begin(number)?;
            }
        }
        self.asks_on = false;
        let late = end + PATIENCE;
        let is_busy = |slot: &Slot| slot.connection.as_ref().is_some_and(|c| !(stays && c.whole));
        while self.slots.iter().any(is_busy) {
            if Instant::now() > late {
                return Err("answers have not come".into());
            }
            self.turn(late)?;
        }
        Ok(begun.elapsed())
    }

    /// Begins connections at the rate for the time, and sees them to their ends.
    fn pace(&mut self) -> Result<Duration, Failed> {
        let begun = Instant::now();
        let gap = Duration::from_secs_f64(1.0 / self.options.rate);
        let count = (self.options.time.as_secs_f64() * self.options.rate) as u32;
        let mut free = Vec::new();
        let mut due = 0;
        let end = begun + self.options.time + PATIENCE;
        loop {
            while due < count && begun + gap * due <= Instant::now() {
                due += 1;
                let number = free.pop().unwrap_or_else(|| {
                    self.slots.push(Slot {
                        config: Arc::clone(&self.options.config),
                        connection: None,
                    });
                    self.slots.len() - 1
                });
                if let Err(error) = self.begin(number) {
                    self.tally.failed += 1;
                    self.tally.first_failure.get_or_insert_with(|| error.to_string());
                    free.push(number);
                }
            }
            if due == count && self.slots.iter().all(|slot| slot.connection.is_none()) {
                return Ok(begun.elapsed());
            }
            let now = Instant::now();
            if now >= end {
                let open = self.slots.iter().filter(|slot| slot.connection.is_some()).count();
                self.tally.failed += open as u64;
                self.tally
                    .first_failure
                    .get_or_insert_with(|| format!("{open} connections without an end"));
                return Ok(begun.elapsed());
            }
            let next = if due < count { begun + gap * due } else { end };
            free.extend(self.turn(next.max(now))?);
        }
    }

    /// Connections that have had one answer each, and nothing of which but the socket is kept.
    fn idle(&mut self) -> Result<Vec<TcpStream>, Failed> {
        let mut open = Vec::with_capacity(self.options.connections);
        while open.len() < self.options.connections {
            let mut connection = Connection::open(&self.options, &self.options.config)?;
            connection.socket.set_nonblocking(false)?;
            connection.socket.set_read_timeout(Some(PATIENCE))?;
            while !connection.whole {
                connection.once(&mut self.buf, &mut self.plain)?;
            }
            open.push(connection.socket);
        }
        Ok(open)
    }
}

fn main() -> Result<(), Failed> {
    let mut load = Load::new(Options::read()?)?;
    let mut idle = Vec::new();
    match load.options.mode {
        Mode::Resumed | Mode::KeepAlive => load.prime()?,
        Mode::Idle => idle = load.idle()?,
        Mode::New | Mode::Paced => {}
    }
    println!("ready");
    std::io::stdin().read_line(&mut String::new())?;
    drop(idle);
    let took = match load.options.mode {
        Mode::Idle => return Ok(()),
        Mode::Paced => load.pace()?,
        Mode::New | Mode::Resumed | Mode::KeepAlive => load.fill()?,
    };
    let tally = &mut load.tally;
    tally.times.sort_unstable();
    let percentile = |share: f64| {
        let at = (tally.times.len() as f64 * share) as usize;
        let time = tally.times.get(at.min(tally.times.len().saturating_sub(1)));
        time.map_or_else(
            || "null".to_owned(),
            |time| format!("{:.3}", time.as_secs_f64() * 1e3),
        )
    };
    println!(
        "{{\"requests\":{},\"resumed\":{},\"failed\":{},\"first_failure\":{:?},\"seconds\":{:.3},\
         \"milliseconds\":{{\"p50\":{},\"p99\":{},\"p100\":{}}}}}",
        tally.requests,
        tally.resumed,
        tally.failed,
        tally.first_failure.as_deref().unwrap_or_default(),
        took.as_secs_f64(),
        percentile(0.5),
        percentile(0.99),
        percentile(1.0),
    );
    Ok(())
}
