//! Plays a case: a scripted client on one side of a proxy, a scripted origin on the other.
//!
//! One thread, sockets that never block, and a look at all of them in turn. A step that expects something waits until it
//! is there or can't come any more; what no step expected is a failure at the end.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use socket2::SockRef;

use crate::{
    case::{Case, Setting, Step},
    meaning::{self, OWN, Part, Way},
    own::{hide_dates, own_response},
};

/// A proxy under test.
pub trait Proxy {
    /// Where it listens.
    fn at(&self) -> SocketAddr;

    /// Bytes of clients that it has read. None: it does not say.
    fn has_read(&self) -> Option<u64> {
        None
    }

    /// Requests that ended for that reason. None: it does not say.
    fn ended(&self, _reason: &str) -> Option<u64> {
        None
    }
}

/// How closely a proxy is held to a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rigor {
    /// To the bytes, and to their pieces.
    Bytes,
    /// To the bytes of the messages; each side sends byte by byte, so chunks fall otherwise.
    Drops,
    /// To the meaning, patiently no longer than this without any news.
    Meaning(Duration),
}

/// How a proxy did otherwise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deviation {
    /// In a few words, the same each time.
    pub sign: String,
    /// With all that is known.
    pub story: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.sign, self.story)
    }
}

/// How long anything that must come may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A case being played.
pub struct Drive<'a> {
    case: &'a Case,
    proxy: &'a dyn Proxy,
    rigor: Rigor,
    origin: &'a TcpListener,
    client: Option<TcpStream>,
    client_end: End,
    connections: Vec<Connection>,
    sent: u64,
    /// What has come, and what should have by now.
    down: Stream,
    up: Stream,
    news: Instant,
}

#[derive(Default)]
struct Stream {
    seen: Vec<u8>,
    wanted: Vec<u8>,
    /// Responses of the proxy's own may have any date.
    dates: bool,
}

impl Stream {
    fn without_dates(&self) -> Vec<u8> {
        if self.dates {
            hide_dates(&self.seen)
        } else {
            self.seen.clone()
        }
    }
}

struct Connection {
    stream: TcpStream,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Open,
    Ended,
    Reset,
}

impl<'a> Drive<'a> {
    /// Plays the case through a proxy that passes on to `origin`. Afterwards both sides' connections are closed.
    ///
    /// # Errors
    /// The first thing that was otherwise.
    pub fn play(
        case: &'a Case,
        proxy: &'a dyn Proxy,
        origin: &'a TcpListener,
        rigor: Rigor,
    ) -> Result<(), Deviation> {
        let mut drive = Self {
            case,
            proxy,
            rigor,
            origin,
            client: None,
            client_end: End::Open,
            connections: Vec::new(),
            sent: 0,
            down: Stream::default(),
            up: Stream::default(),
            news: Instant::now(),
        };
        origin.set_nonblocking(true).map_err(|e| drive.broken(&e))?;
        let client = TcpStream::connect(proxy.at()).map_err(|e| drive.broken(&e))?;
        prepare(&client).map_err(|e| drive.broken(&e))?;
        drive.client = Some(client);
        for (at, step) in case.steps.iter().enumerate() {
            drive.take(step).map_err(|mut deviation| {
                deviation.story = format!("step {at}, {}: {}", show_step(step), deviation.story);
                deviation
            })?;
        }
        drive.nothing_else()
    }

    fn take(&mut self, step: &Step) -> Result<(), Deviation> {
        match step {
            Step::Client(bytes) => {
                self.sent += bytes.len() as u64;
                let drops = self.rigor == Rigor::Drops;
                match &mut self.client {
                    // A proxy that has answered and closed does not take more; that shows in what follows.
                    Some(client) => drop(write(client, bytes, drops)),
                    None => return Err(self.other("no client")),
                }
                Ok(())
            }
            Step::ClientEnds => {
                let _ = self.client.as_ref().map(|c| c.shutdown(Shutdown::Write));
                Ok(())
            }
            Step::ClientResets => {
                if let Some(client) = self.client.take() {
                    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                }
                Ok(())
            }
            Step::Settled => {
                let sent = self.sent;
                if self.proxy.has_read().is_some() {
                    self.until(|d| d.proxy.has_read() >= Some(sent))
                        .then_some(())
                        .ok_or_else(|| self.other("unread"))
                } else {
                    // Others don't say; the pieces may come as one to them.
                    std::thread::park_timeout(Duration::from_millis(40));
                    Ok(())
                }
            }
            Step::ClientGets(bytes) => {
                self.down.wanted.extend_from_slice(bytes);
                self.stream(false)
            }
            Step::ClientGetsDated(text) => {
                self.down.dates = true;
                self.down.wanted.extend_from_slice(text.as_bytes());
                self.stream(false)
            }
            Step::ClientGetsOwn(status, stays, to_head) => {
                self.down.dates = true;
                let own = match self.rigor {
                    Rigor::Meaning(_) => {
                        format!("HTTP/1.1 {status} x\r\n{OWN}: \r\nContent-Length: 0\r\n\r\n")
                    }
                    Rigor::Bytes | Rigor::Drops => own_response(*status, *stays, *to_head),
                };
                self.down.wanted.extend_from_slice(own.as_bytes());
                self.stream(false)
            }
            Step::ClientGetsEnd { reset } => {
                let ended = self.until(|d| d.client_end != End::Open);
                let as_wanted = match (self.rigor, self.client_end, reset) {
                    (_, End::Open, _) => false,
                    (_, _, None) => true,
                    (_, End::Reset, Some(reset)) => *reset,
                    (_, End::Ended, Some(reset)) => !*reset,
                };
                match (ended, as_wanted) {
                    (true, true) => Ok(()),
                    (true, false) => Err(self.deviation("ends otherwise")),
                    (false, _) => Err(self.deviation("keeps the client")),
                }
            }
            Step::Origin(bytes) => {
                let drops = self.rigor == Rigor::Drops;
                match self.connections.last_mut() {
                    Some(connection) => drop(write(&mut connection.stream, bytes, drops)),
                    None => return Err(self.other("no origin")),
                }
                Ok(())
            }
            Step::OriginEnds => {
                let _ = self
                    .connections
                    .last()
                    .map(|c| c.stream.shutdown(Shutdown::Write));
                Ok(())
            }
            Step::OriginResets => {
                if let Some(connection) = self.connections.pop() {
                    let _ = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
                }
                Ok(())
            }
            Step::OriginGets(bytes) => {
                self.up.wanted.extend_from_slice(bytes);
                self.stream(true)
            }
            Step::OriginGetsOnly(byte) => {
                self.look();
                let rest = self.up.seen.get(self.up.wanted.len()..).unwrap_or_default();
                if rest.is_empty() || rest.iter().any(|b| b != byte) {
                    return Err(self.deviation("passes on otherwise"));
                }
                self.up.wanted = self.up.seen.clone();
                Ok(())
            }
            Step::OriginGetsEnd => {
                let ended = self.until(|d| d.connections.last().is_none_or(|c| c.end != End::Open));
                ended
                    .then_some(())
                    .ok_or_else(|| self.deviation("keeps the origin"))
            }
            Step::Connections(count) => {
                if matches!(self.rigor, Rigor::Meaning(_)) || self.connections.len() == *count {
                    Ok(())
                } else {
                    Err(self.deviation("other connections"))
                }
            }
            Step::Untouched => {
                self.look();
                let untouched = match self.rigor {
                    // Some connect ahead.
                    Rigor::Meaning(_) => self.up.seen.is_empty(),
                    Rigor::Bytes => self.connections.is_empty(),
                    Rigor::Drops => meaning::read(&self.up.seen, Way::Up)
                        .iter()
                        .all(|part| !matches!(part, Part::Message { whole: true, .. })),
                };
                untouched.then_some(()).ok_or_else(|| self.deviation("forwards"))
            }
            Step::Silence(time) => {
                let begun = Instant::now();
                let before = self.state();
                while begun.elapsed() < *time {
                    self.look();
                    if self.state() != before {
                        return Err(self.other("no silence"));
                    }
                    std::thread::park_timeout(Duration::from_millis(1));
                }
                Ok(())
            }
            Step::ClientDrips(drop, every) => {
                let begun = Instant::now();
                while self.client_end == End::Open && self.down.seen.len() == self.down.wanted.len() {
                    if begun.elapsed() > self.patience() * 4 {
                        return Err(self.deviation("lets it drip"));
                    }
                    if let Some(client) = &mut self.client {
                        let _ = client.write(drop);
                    }
                    let until = Instant::now() + *every;
                    while Instant::now() < until {
                        self.look();
                        std::thread::park_timeout(Duration::from_millis(1));
                    }
                }
                Ok(())
            }
            Step::Ended(reason, count) => {
                let proxy = self.proxy;
                match proxy.ended(reason) {
                    None => Ok(()),
                    Some(_) => self
                        .until(|_| proxy.ended(reason) == Some(*count))
                        .then_some(())
                        .ok_or_else(|| self.other(&format!("{reason} is {:?}", proxy.ended(reason)))),
                }
            }
        }
    }

    /// Waits until what has come on one side is what should have.
    fn stream(&mut self, up: bool) -> Result<(), Deviation> {
        let came = self.until(|d| d.agrees(up) == Some(true));
        if came {
            return Ok(());
        }
        Err(self.deviation(&self.sign(up)))
    }

    /// What was seen on either side instead, in a few words.
    fn sign(&self, up: bool) -> String {
        let count = |stream: &Stream, up: bool| {
            let way = self.way(up);
            (
                meaning::read(&stream.seen, way).len(),
                meaning::read(&stream.wanted, way).len(),
            )
        };
        let ((seen_up, wanted_up), (seen_down, wanted_down)) =
            (count(&self.up, true), count(&self.down, false));
        let answer = || {
            let seen = meaning::read(&self.down.seen, self.way(false));
            let status = seen.last().and_then(Part::status);
            status.map_or_else(
                || "answers in no words".to_owned(),
                |status| format!("answers {status}"),
            )
        };
        let end = |otherwise: &str| match self.client_end {
            End::Open => otherwise.to_owned(),
            End::Ended | End::Reset => "closes".to_owned(),
        };
        match up {
            true if seen_up >= wanted_up => "passes on otherwise".into(),
            true if seen_down > wanted_down => answer(),
            true => end("passes nothing on"),
            false if seen_down < wanted_down && seen_up > wanted_up => "passes it on".into(),
            false if seen_down < wanted_down => end("does not answer"),
            false if self.last_status_is_wanted() => "answers otherwise".into(),
            false => answer(),
        }
    }

    fn last_status_is_wanted(&self) -> bool {
        let last = |bytes: &[u8]| {
            let parts = meaning::read(bytes, self.way(false));
            parts.iter().filter_map(Part::status).next_back()
        };
        last(&self.down.seen) == last(&self.down.wanted)
    }

    fn way(&self, up: bool) -> Way {
        match up {
            true => Way::Up,
            false => Way::Down {
                to_head: self.case.to_head,
                to_connect: self.case.setting == Setting::Connect,
            },
        }
    }

    /// Whether one side has what it should; more may be there already, for the steps to come. None: it may still come.
    fn agrees(&self, up: bool) -> Option<bool> {
        let stream = if up { &self.up } else { &self.down };
        match self.rigor {
            Rigor::Bytes => {
                let seen = stream.without_dates();
                if seen.starts_with(&stream.wanted) {
                    return Some(true);
                }
                (!stream.wanted.starts_with(&seen)).then_some(false)
            }
            Rigor::Drops | Rigor::Meaning(_) => {
                let way = self.way(up);
                let (wanted, seen) = (
                    meaning::read(&stream.wanted, way),
                    meaning::read(&stream.seen, way),
                );
                let first = seen.get(..wanted.len())?;
                meaning::same(&wanted, first).then_some(true)
            }
        }
    }

    /// At the end nothing is left over on either side. weir is shown the end of both sides, and must have nothing more to
    /// say until it ends the client's connection too.
    fn nothing_else(&mut self) -> Result<(), Deviation> {
        if self.rigor == Rigor::Bytes && self.client.is_some() {
            let _ = self.client.as_ref().map(|c| c.shutdown(Shutdown::Write));
            self.until(|d| d.client_end != End::Open || d.connections.iter().any(|c| c.end != End::Open));
            for connection in &self.connections {
                let _ = connection.stream.shutdown(Shutdown::Write);
            }
            if !self.until(|d| d.client_end != End::Open) {
                return Err(self.deviation("leaves more"));
            }
        }
        self.look();
        for up in [true, false] {
            let stream = if up { &self.up } else { &self.down };
            let way = self.way(up);
            let all = match self.rigor {
                Rigor::Bytes => stream.without_dates() == stream.wanted,
                // A body that breaks off may be shorter than what was on its way.
                Rigor::Drops | Rigor::Meaning(_) => {
                    meaning::read(&stream.seen, way).len() <= meaning::read(&stream.wanted, way).len()
                        || up && self.case.ends_in_refusal()
                }
            };
            if !all {
                return Err(self.deviation("leaves more"));
            }
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        match self.rigor {
            Rigor::Bytes | Rigor::Drops => PATIENCE,
            Rigor::Meaning(patience) => patience,
        }
    }

    /// Looks at all sockets until it holds. False: there was no news for too long, or there can't be any.
    fn until(&mut self, holds: impl Fn(&Self) -> bool) -> bool {
        self.news = Instant::now();
        loop {
            self.look();
            if holds(self) {
                return true;
            }
            if self.rigor == Rigor::Bytes
                && (self.agrees(true) == Some(false) || self.agrees(false) == Some(false))
            {
                return false;
            }
            if self.news.elapsed() > self.patience() {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    /// Takes what has come, on all sockets.
    fn look(&mut self) {
        while let Ok((stream, _)) = self.origin.accept() {
            self.news = Instant::now();
            if prepare(&stream).is_ok() {
                self.connections.push(Connection {
                    stream,
                    end: End::Open,
                });
            }
        }
        let before = self.state();
        if let Some(client) = &mut self.client {
            receive(client, &mut self.client_end, &mut self.down.seen);
        }
        for connection in &mut self.connections {
            receive(&mut connection.stream, &mut connection.end, &mut self.up.seen);
        }
        if self.state() != before {
            self.news = Instant::now();
        }
    }

    fn state(&self) -> (usize, usize, End, usize) {
        let ended = self.connections.iter().filter(|c| c.end != End::Open).count();
        (self.down.seen.len(), self.up.seen.len(), self.client_end, ended)
    }

    fn broken(&self, error: &io::Error) -> Deviation {
        self.other(&format!("sockets: {error}"))
    }

    fn other(&self, what: &str) -> Deviation {
        self.deviation(what)
    }

    fn deviation(&self, sign: &str) -> Deviation {
        let ends: Vec<_> = self.connections.iter().map(|c| c.end).collect();
        Deviation {
            sign: sign.to_owned(),
            story: format!(
                "\n  origin saw    {}\n  should have   {}\n  client got    {}\n  should have   {}\n  client {:?}, origin {ends:?}",
                show(&self.up.seen),
                show(&self.up.wanted),
                show(&self.down.seen),
                show(&self.down.wanted),
                self.client_end,
            ),
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)
}

/// Sends all, in one piece or byte by byte; never longer than a full buffer of the other side's for ever.
fn write(stream: &mut TcpStream, bytes: &[u8], drops: bool) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut rest = bytes;
    while !rest.is_empty() {
        let piece = rest.get(..if drops { 1 } else { rest.len() }).unwrap_or_default();
        match stream.write(piece) {
            Ok(n) => rest = rest.get(n..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::park_timeout(Duration::from_millis(1));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(stream: &mut TcpStream, end: &mut End, seen: &mut Vec<u8>) {
    let mut buf = [0; 64 << 10];
    while *end == End::Open {
        match stream.read(&mut buf) {
            Ok(0) => *end = End::Ended,
            Ok(n) => seen.extend_from_slice(buf.get(..n).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => *end = End::Reset,
        }
    }
}

fn show_step(step: &Step) -> String {
    match step {
        Step::Client(bytes) => format!("client sends {}", show(bytes)),
        Step::Origin(bytes) => format!("origin sends {}", show(bytes)),
        Step::ClientGets(bytes) => format!("client gets {}", show(bytes)),
        Step::OriginGets(bytes) => format!("origin gets {}", show(bytes)),
        Step::ClientEnds
        | Step::ClientResets
        | Step::Settled
        | Step::ClientGetsOwn(..)
        | Step::ClientGetsDated(_)
        | Step::ClientGetsEnd { .. }
        | Step::OriginEnds
        | Step::OriginResets
        | Step::OriginGetsOnly(_)
        | Step::OriginGetsEnd
        | Step::Connections(_)
        | Step::Untouched
        | Step::Silence(_)
        | Step::ClientDrips(..)
        | Step::Ended(..) => format!("{step:?}"),
    }
}

/// Bytes as text, shortened in the middle.
fn show(bytes: &[u8]) -> String {
    const MOST: usize = 1200;
    let text = bytes.escape_ascii().to_string();
    match (
        text.get(..MOST / 2),
        text.get(text.len().saturating_sub(MOST / 2)..),
    ) {
        (Some(start), Some(end)) if text.len() > MOST => format!("\"{start} … {end}\""),
        _ => format!("\"{text}\""),
    }
}
