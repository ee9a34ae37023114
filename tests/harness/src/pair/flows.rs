//! Flows by L4 through a pair that tells each other of them: the boxes' configuration, and a client that holds many
//! connections and asks over all of them.
//!
//! Backends are nginx, at port 80. The gateway of the backends is a virtual address too, in one group with the clients', since
//! answers by `nat` have to come back by the box that is master. What `full-nat` puts in the client's place is the same on both
//! boxes and on no link: backends reach it by their gateway.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{GATEWAY, VIP, backend, inside};
use crate::{
    lab::{INSIDE, OUTSIDE},
    metrics::Metrics,
    netns::Netns,
    wait::wait_until,
    weir::{PATIENCE, Weir, WeirConfig},
};

/// What backends see by `full-nat`.
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 5);
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: weir.test\r\n\r\n";
/// How long all answers together may take.
const ANSWERS: Duration = Duration::from_secs(30);

/// A service of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forward {
    /// `nat`
    Nat,
    /// `full-nat`
    FullNat,
}

impl Forward {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nat, Self::FullNat];

    /// As weir writes it. The service is called so, too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
        }
    }

    /// Where clients reach it.
    pub const fn address(self) -> SocketAddr {
        let port = match self {
            Self::Nat => 80,
            Self::FullNat => 81,
        };
        SocketAddr::new(std::net::IpAddr::V4(VIP), port)
    }
}

/// weir on a box of the pair. `interval`: between adverts. `key`: the file with the boxes' key.
pub fn config(node: usize, backends: usize, interval: &str, key: &Path) -> WeirConfig {
    let list: Vec<_> = (0..backends)
        .map(|i| format!("{{ address = \"{}:80\" }}", backend(i)))
        .collect();
    let list = list.join(", ");
    let key = format!("keys = [{{ id = 1, file = \"{}\" }}]", key.display());
    let mut body = format!(
        "[vrrp.edge]\ninterval = \"{interval}\"\nrouters = [\n\
         {{ interface = \"{OUTSIDE}\", id = 51, addresses = [\"{VIP}/24\"] }},\n\
         {{ interface = \"{INSIDE}\", id = 52, addresses = [\"{GATEWAY}/24\"] }},\n]\n\
         [vrrp.edge.authentication]\n{key}\n\
         [sync]\nlocal = \"{}\"\npeers = [\"{}\"]\n{key}\n",
        inside(node),
        inside(1 - node),
    );
    for forward in Forward::ALL {
        let name = forward.name();
        let source = match forward {
            Forward::Nat => String::new(),
            Forward::FullNat => format!("source = {{ addresses = [\"{SOURCE}\"] }}\n"),
        };
        body += &format!(
            "[pools.{name}]\nbackends = [{list}]\n{source}check = {{ type = \"tcp\" }}\n\
             [services.{name}]\nlisten = [\"{}\"]\nmode = \"l4\"\nforward = \"{name}\"\npool = \"{name}\"\n",
            forward.address()
        );
    }
    let mut config = WeirConfig::both_planes(body);
    config.node = if node == 0 { "edge-1" } else { "edge-2" };
    config.hash_key = Some("00112233445566778899aabbccddeeff");
    config.workers = 1;
    config
}

/// Flows of a service that a box has in its tables and that have not ended, its own and those that it was told of.
///
/// # Errors
/// No answer, or not of the form.
pub fn held(weir: &Weir<'_>, service: &str) -> Result<u64> {
    let count = |more: &[&str]| {
        let text = weir.ask(&[&["flows", "--service", service, "--limit", "1"], more].concat())?;
        // "3 shown of 7 that match, of 9 in all"
        let last = text.lines().last().unwrap_or_default();
        let number = { last.split_whitespace() }
            .nth(3)
            .and_then(|word| word.parse::<u64>().ok());
        number.with_context(|| format!("not the last line of `weir flows`: {last:?}"))
    };
    // What has ended rests for a minute or two. It is counted first: what ends meanwhile is not taken off twice.
    let ended = count(&["--closed"])?;
    Ok(count(&[])?.saturating_sub(ended))
}

/// Waits until a box holds so many flows of a service: its own, or those that it was told of.
///
/// # Errors
/// It does not in time.
pub fn wait_held(weir: &Weir<'_>, forward: Forward, count: u64) -> Result<()> {
    let what = format!("{count} flows by {} are held", forward.name());
    let result = wait_until(PATIENCE, &what, || match held(weir, forward.name()) {
        Ok(held) if held == count => Ok(()),
        other => Err(format!("{other:?}")),
    });
    weir.with_log(result)
}

/// Waits until a box holds its peer's flows.
///
/// # Errors
/// It does not in time.
pub fn wait_joined(weir: &Weir<'_>) -> Result<()> {
    let result = wait_until(PATIENCE, "the flows of the other box are held", || {
        let metrics = weir.metrics().map_err(|e| format!("{e:#}"))?;
        let sum = |metrics: &Metrics, name| metrics.sum(name, &[]).unwrap_or(-1.0);
        match (
            sum(&metrics, "weir_sync_unfinished"),
            sum(&metrics, "weir_sync_peer_joined"),
        ) {
            (0.0, 1.0) => Ok(()),
            found => Err(format!("unfinished and joined: {found:?}")),
        }
    });
    weir.with_log(result)
}

/// Connections of a client, all of them open.
#[derive(Debug)]
pub struct Flows(Vec<TcpStream>);

/// What became of connections over which something was asked.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Tally {
    /// They were answered.
    pub answered: usize,
    /// They were reset.
    pub reset: usize,
    /// They were closed, broke otherwise, or were answered wrongly.
    pub broken: usize,
    /// No answer came in time.
    pub silent: usize,
}

impl Flows {
    /// Opens so many, from inside a namespace, and asks once over each.
    ///
    /// # Errors
    /// One can't be opened or is not answered.
    pub fn open(client: &Netns, to: SocketAddr, count: usize) -> Result<Self> {
        client.run(|| {
            let open = |i| {
                let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.write_all(REQUEST)?;
                hear(&mut stream, Instant::now() + PATIENCE)?;
                std::io::Result::Ok(stream).with_context(|| format!("flow {i} of {count}, to {to}"))
            };
            (0..count).map(open).collect::<Result<_>>().map(Self)
        })?
    }

    /// Sends a request over each, whatever becomes of it.
    pub fn ask(&mut self) {
        for stream in &mut self.0 {
            // What is wrong with it shows when its answer is read.
            let _sent = stream.write_all(REQUEST);
        }
    }

    /// Reads the answer of each: for all of them together at most half a minute.
    pub fn hear(&mut self) -> Tally {
        let end = Instant::now() + ANSWERS;
        let mut tally = Tally::default();
        for stream in &mut self.0 {
            let slot = match hear(stream, end).map_err(|error| error.kind()) {
                Ok(()) => &mut tally.answered,
                Err(ErrorKind::ConnectionReset) => &mut tally.reset,
                Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => &mut tally.silent,
                Err(_) => &mut tally.broken,
            };
            *slot += 1;
        }
        tally
    }
}

/// Reads one answer.
fn hear(stream: &mut TcpStream, end: Instant) -> std::io::Result<()> {
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            len => answer.extend_from_slice(buffer.get(..len).unwrap_or_default()),
        }
        if is_whole(&answer).map_err(std::io::Error::other)? {
            return Ok(());
        }
    }
}

/// Whether an answer of the harness's nginx, one line behind a head, is there in full.
fn is_whole(answer: &[u8]) -> Result<bool> {
    const START: &[u8] = b"HTTP/1.1 200 ";
    let known = START.len().min(answer.len());
    if answer.get(..known) != START.get(..known) {
        bail!("no answer: {:?}", String::from_utf8_lossy(answer));
    }
    let head = answer.windows(4).position(|at| at == b"\r\n\r\n");
    Ok(head.is_some_and(|head| answer.len() > head + 4 && answer.ends_with(b"\n")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_with_their_last_line() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nb1 x\n";
        for len in 0..whole.len() {
            assert!(!is_whole(&whole[..len]).unwrap(), "{len}");
        }
        assert!(is_whole(whole).unwrap());
        assert!(is_whole(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").is_err());
    }
}
