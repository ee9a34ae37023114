//! A client that asks a thousand times a second, and two that are bound to one box each: how long nobody answered, and whether
//! both boxes did.
//!
//! Owns the clock of the measurement and what is made of it. The client believes the link (ARP), as any client does. The two
//! witnesses don't: each sends to one box's link address whatever happens, so what they are answered says which boxes would
//! answer at that moment.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use weir_harness::Netns;

use super::answer;

/// Between two probes.
const EVERY: Duration = Duration::from_millis(1);
/// After the last probe.
const LATE: Duration = Duration::from_millis(500);

/// The client, and the witness of each box.
pub(super) const LANES: usize = 3;

/// One probe.
#[derive(Clone, Copy, Default, Debug)]
struct Probe {
    /// Since the beginning.
    sent: Duration,
    /// When it was answered first, and by which box.
    answered: Option<(Duration, usize)>,
    /// How often it was answered.
    answers: u32,
}

/// A thread that probes, until it is asked what came of it.
pub(super) struct Prober {
    began: Instant,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<[Vec<Probe>; LANES]>>,
}

impl Prober {
    /// Begins, in these namespaces.
    pub(super) fn start(clients: &[Netns], to: SocketAddr) -> Result<Self> {
        let [client, first, second] = clients else {
            bail!("a client and two witnesses are needed, not {}", clients.len());
        };
        let open = |netns: &Netns| -> Result<UdpSocket> {
            let socket = netns.run(|| UdpSocket::bind("0.0.0.0:0"))??;
            socket.connect(to).with_context(|| format!("probing {to}"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets = [open(client)?, open(first)?, open(second)?];
        let (began, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || probe(&sockets, began, &stopped));
        Ok(Self {
            began,
            stop,
            thread: Some(thread),
        })
    }

    /// What has come of it, where something was done to the boxes at `event`.
    pub(super) fn finish(mut self, event: Instant) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(Ok(lanes)) = self.thread.take().map(JoinHandle::join) else {
            bail!("the thread that probes has panicked");
        };
        Ok(Seen::of(&lanes, event.saturating_duration_since(self.began)))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn probe(sockets: &[UdpSocket; LANES], began: Instant, stop: &AtomicBool) -> [Vec<Probe>; LANES] {
    super::before_others();
    let mut lanes: [Vec<Probe>; LANES] = Default::default();
    let mut due = began;
    let mut last = None;
    while last.is_none_or(|last: Instant| last.elapsed() < LATE) {
        if last.is_none() {
            for (socket, probes) in sockets.iter().zip(&mut lanes) {
                let number = u32::try_from(probes.len()).unwrap_or(u32::MAX);
                probes.push(Probe {
                    sent: began.elapsed(),
                    ..Probe::default()
                });
                // What can't be sent (nobody has the address) is not answered either.
                let _sent = socket.send(&answer::probe(number));
            }
        }
        if stop.load(Ordering::Relaxed) {
            last.get_or_insert_with(Instant::now);
        }
        due += EVERY;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        for (socket, probes) in sockets.iter().zip(&mut lanes) {
            hear(socket, probes, began);
        }
    }
    lanes
}

fn hear(socket: &UdpSocket, probes: &mut [Probe], began: Instant) {
    let mut buffer = [0; 16];
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                let answer = buffer.get(..len).and_then(answer::read);
                let Some((number, node)) = answer else { continue };
                if let Some(probe) = probes.get_mut(number as usize) {
                    probe.answers += 1;
                    probe.answered.get_or_insert_with(|| (began.elapsed(), node));
                }
            }
            // A refusal that came by ICMP is one of the probes' that are lost.
            Err(error) if error.kind() != ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// What the client and the witnesses have seen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Seen {
    /// The longest time between two answers to the client, from the event on. None: there was none any more.
    pub(super) gap: Option<Duration>,
    /// The same before the event, where nothing happened: what the machine itself makes of it.
    pub(super) quiet: Duration,
    /// The client's probes that nobody answered, from the event on.
    pub(super) lost: usize,
    /// Probes that both boxes would have answered, from the event on.
    pub(super) both: usize,
    /// The client's probes that were answered twice.
    pub(super) doubled: usize,
}

impl Seen {
    fn of([client, first, second]: &[Vec<Probe>; LANES], event: Duration) -> Self {
        let mut answers: Vec<_> = client
            .iter()
            .filter_map(|probe| Some(probe.answered?.0))
            .collect();
        answers.sort_unstable();
        let mut gap = None;
        let mut quiet = Duration::ZERO;
        for (before, after) in answers.iter().zip(answers.iter().skip(1)) {
            let time = *after - *before;
            if *after > event {
                gap = gap.max(Some(time));
            } else {
                quiet = quiet.max(time);
            }
        }
        let by = |probe: &Probe, node| probe.answered.is_some_and(|(_, by)| by == node);
        let both = first
            .iter()
            .zip(second)
            .filter(|(first, second)| first.sent >= event && by(first, 0) && by(second, 1));
        Self {
            gap,
            quiet,
            lost: { client.iter() }
                .filter(|probe| probe.sent >= event && probe.answered.is_none())
                .count(),
            both: both.count(),
            doubled: client.iter().filter(|probe| probe.answers > 1).count(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    /// A probe a millisecond, answered a tenth later by the box that is named, or not.
    fn lane(boxes: &[Option<usize>]) -> Vec<Probe> {
        { (0..).zip(boxes) }
            .map(|(time, node)| Probe {
                sent: ms(time),
                answered: node.map(|node| (ms(time) + Duration::from_micros(100), node)),
                answers: u32::from(node.is_some()),
            })
            .collect()
    }

    #[test]
    fn gaps_losses_and_two_that_answer() {
        let (a, b) = (Some(0), Some(1));
        let client = lane(&[a, a, a, None, None, b, b]);
        let first = lane(&[a, a, a, None, a, a, None]);
        let second = lane(&[None, None, None, b, None, b, b]);
        let seen = Seen::of(&[client, first, second], ms(2));
        assert_eq!((seen.gap, seen.quiet), (Some(ms(3)), ms(1)));
        assert_eq!((seen.lost, seen.both, seen.doubled), (2, 1, 0));
    }

    #[test]
    fn a_witness_counts_for_its_own_box_alone() {
        // Whoever has the other box's link address by mistake proves nothing.
        let seen = Seen::of(&[lane(&[Some(0)]), lane(&[Some(1)]), lane(&[Some(1)])], ms(0));
        assert_eq!(seen.both, 0);
    }

    #[test]
    fn silence_to_the_end_is_no_gap_of_any_length() {
        let client = lane(&[Some(0), Some(0), None, None]);
        let seen = Seen::of(&[client, lane(&[]), lane(&[])], ms(2));
        assert_eq!((seen.gap, seen.lost), (None, 2));
    }
}
