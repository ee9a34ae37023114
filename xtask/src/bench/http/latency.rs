//! How long a request takes at a rate that is set beforehand: 70 % of what HAProxy can do.
//!
//! The client is an open loop: requests fall due at moments drawn before the round (a Poisson process, the same for all
//! proxies), and a time counts from when a request was due, not from when it could be sent. So a proxy that is late with
//! one answer is charged for all that wait behind it, which a client that waits for answers would never notice
//! ("coordinated omission").

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    num::NonZeroU64,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    thread::set_current_timer_slack,
};
use serde_json::json;

use super::{
    super::{
        client,
        outcome::{Outcome, Target},
        peers::{Kind, SMALL, go_on},
    },
    Options, Part,
    load::wrk,
    stage::Proxy,
};
use crate::shell;

/// Of HAProxy's peak.
const SHARE: f64 = 0.7;
/// Seconds that the peak is looked for.
const PEAK_SECONDS: u32 = 2;
/// After the last request was due.
const PATIENCE: Duration = Duration::from_secs(5);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n";

pub(super) fn run(proxies: &[Proxy], options: &Options) -> Result<Outcome> {
    let haproxy = proxies.iter().find(|p| p.kind == Kind::Haproxy);
    let haproxy = haproxy.context("HAProxy says what the peak is")?;
    wrk(haproxy.http, SMALL.0, 1, options.connections, None)?;
    let served = wrk(haproxy.http, SMALL.0, PEAK_SECONDS, options.connections, None)?;
    let rate = SHARE * served as f64 / f64::from(PEAK_SECONDS);
    shell::note(&format!(
        "{rate:.0} requests per second over {} connections; 99th percentile in us",
        options.connections
    ));
    let time = Duration::from_secs(options.seconds.into());
    let mut figures: Vec<_> = proxies.iter().map(|p| (p.kind.name(), Vec::new())).collect();
    let mut all = Vec::new();
    for round in 0..=options.rounds {
        let mut told = format!("{round:>2} of {}", options.rounds);
        for (proxy, (name, figures)) in proxies.iter().zip(&mut figures) {
            go_on()?;
            let schedule = schedule(rate, time, round.into());
            let times = client::beside(|| measure(proxy.http, options.connections, &schedule))
                .with_context(|| format!("{name}: {}", proxy.complaint()))?;
            // The first round warms up.
            if round > 0 {
                let [half, most, nearly] = [0.5, 0.99, 0.999].map(|share| percentile(&times, share));
                told.push_str(&format!(
                    "   {name} {most:.0} (median {half:.0}, 99.9 % {nearly:.0})"
                ));
                all.push(json!({ "name": name, "p50": half, "p99": most, "p999": nearly, "requests": times.len() }));
                figures.push(most);
            }
        }
        if round > 0 {
            shell::note(&told);
        }
    }
    // HAProxy's figure is the one that counts, and nginx has its own peak.
    figures.retain(|(name, _)| *name != Kind::Nginx.name());
    Ok(Outcome {
        part: Part::Latency.name(),
        unit: "us, 99th percentile",
        figures,
        target: Target::Ratio(1.0),
        more: json!({ "rate": rate, "rounds": all }),
    })
}

/// When requests are due, from the start of a round.
fn schedule(rate: f64, time: Duration, seed: u64) -> Vec<Duration> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        // xorshift64*: good enough to draw gaps, and the same everywhere.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let bits = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits as f64 + 0.5) / (1_u64 << 53) as f64
    };
    let mut at = 0.0;
    let mut due = Vec::new();
    loop {
        at -= uniform().ln() / rate;
        if at >= time.as_secs_f64() {
            return due;
        }
        due.push(Duration::from_secs_f64(at));
    }
}

/// Microseconds; `times` is sorted.
fn percentile(times: &[Duration], share: f64) -> f64 {
    let at = (times.len() as f64 * share) as usize;
    let time = times.get(at.min(times.len().saturating_sub(1)));
    time.map_or(f64::NAN, |time| time.as_secs_f64() * 1e6)
}

/// One connection, and since when its request was due.
struct Connection {
    stream: TcpStream,
    due: Option<Instant>,
}

/// Sends what is due, when it is due. Answers with the time that each request took, sorted.
fn measure(at: SocketAddr, connections: u32, schedule: &[Duration]) -> Result<Vec<Duration>> {
    set_current_timer_slack(NonZeroU64::new(1)).context("asking for exact timers")?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
    let mut open = Vec::new();
    let mut whole = 0;
    for number in 0..connections {
        let mut client = client::Client::connect(at)?;
        whole = client.get_whole(SMALL.0)?;
        let stream = client.into_stream();
        stream.set_nonblocking(true)?;
        epoll::add(
            &poll,
            &stream,
            epoll::EventData::new_u64(number.into()),
            epoll::EventFlags::IN,
        )
        .context("watching a connection")?;
        open.push(Connection { stream, due: None });
    }
    let mut free: VecDeque<usize> = (0..open.len()).collect();
    let mut times = Vec::with_capacity(schedule.len());
    let mut events = Vec::with_capacity(open.len());
    let mut waiting = schedule.iter().peekable();
    let mut late: VecDeque<Instant> = VecDeque::new();
    let mut buf = vec![0; 2 * whole.max(4096)];
    let begin = Instant::now() + Duration::from_millis(1);
    while times.len() < schedule.len() {
        let now = Instant::now();
        while let Some(due) = waiting.next_if(|due| begin + **due <= now) {
            late.push_back(begin + *due);
        }
        while let Some(number) = free.front().copied().filter(|_| !late.is_empty()) {
            free.pop_front();
            let connection = open.get_mut(number).context("a connection")?;
            connection.due = late.pop_front();
            let sent = connection.stream.write(REQUEST).context("sending a request")?;
            ensure!(sent == REQUEST.len(), "a request went out in parts");
        }
        let next = waiting.peek().map_or(PATIENCE, |due| {
            (begin + **due).saturating_duration_since(Instant::now())
        });
        let timeout = Timespec::try_from(next).context("a time to wait")?;
        events.clear();
        let count = epoll::wait(&poll, spare_capacity(&mut events), Some(&timeout)).context("waiting")?;
        if count == 0 && waiting.peek().is_none() {
            bail!(
                "{} of {} requests were not answered",
                schedule.len() - times.len(),
                schedule.len()
            );
        }
        for event in events.drain(..) {
            let number = event.data.u64() as usize;
            let connection = open.get_mut(number).context("a connection")?;
            match connection.stream.read(&mut buf) {
                Ok(n) if n == whole => {}
                Ok(n) => bail!("an answer of {n} bytes, not {whole}, in one piece"),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error).context("reading an answer"),
            }
            let due = connection.due.take().context("an answer to nothing")?;
            times.push(due.elapsed());
            free.push_back(number);
        }
    }
    times.sort_unstable();
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_due_at_the_rate() {
        let due = schedule(10_000.0, Duration::from_secs(2), 7);
        assert!((19_000..21_000).contains(&due.len()), "{}", due.len());
        assert!(due.is_sorted() && due.last().is_some_and(|last| *last < Duration::from_secs(2)));
        assert_eq!(due, schedule(10_000.0, Duration::from_secs(2), 7));
        assert_ne!(due, schedule(10_000.0, Duration::from_secs(2), 8));
    }

    #[test]
    fn percentiles() {
        let times: Vec<_> = (1..=1000).map(Duration::from_micros).collect();
        assert!((percentile(&times, 0.5) - 501.0).abs() < 1e-6);
        assert!((percentile(&times, 0.99) - 991.0).abs() < 1e-6);
        assert!(percentile(&[], 0.99).is_nan());
    }
}
