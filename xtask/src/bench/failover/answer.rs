//! Who answers probes: a datagram's number comes back, with the box that it came by.
//!
//! Owns the answer's form. Behind weir a backend answers, and knows the box by its source address (`full-nat`, each box has
//! its own). Beside keepalived the box itself answers, by a process of its own that dies and is stopped with it.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};
use weir_harness::Netns;

use super::SOURCES;

/// How long a thread waits before it looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);
/// A probe's number.
const NUMBER: usize = 4;

/// A probe, or an answer to one.
pub(super) fn probe(number: u32) -> [u8; NUMBER] {
    number.to_le_bytes()
}

/// The number of an answer, and the box.
pub(super) fn read(answer: &[u8]) -> Option<(u32, usize)> {
    let (number, node) = answer.split_first_chunk::<NUMBER>()?;
    let [node] = node else { return None };
    Some((u32::from_le_bytes(*number), usize::from(*node)))
}

/// Answers until it is dropped.
pub(super) struct Answerer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// At a backend: which box it was, the source address says.
    pub(super) fn start(netns: &Netns, at: SocketAddr) -> Result<Self> {
        let socket = netns.run(|| bind(at))??;
        socket.set_read_timeout(Some(TICK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            super::before_others();
            while !stopped.load(Ordering::Relaxed) {
                answer(&socket, box_of);
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ended = thread.join();
        }
    }
}

/// As a process of its own, on a box.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where, whether this box has the address or not.
    at: SocketAddr,
    /// The number of this box.
    node: u8,
}

/// Answers until it is killed.
pub(crate) fn run(args: Args) -> Result<()> {
    let socket = bind(args.at)?;
    super::before_others();
    loop {
        answer(&socket, |_| Some(args.node));
    }
}

fn bind(at: SocketAddr) -> Result<UdpSocket> {
    let bound = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None)?;
        socket.set_freebind_v4(true)?;
        socket.bind(&at.into())?;
        Ok(socket.into())
    };
    bound().with_context(|| format!("answering probes at {at}"))
}

/// Answers one datagram, if one comes in time.
fn answer(socket: &UdpSocket, node: impl Fn(IpAddr) -> Option<u8>) {
    let mut buffer = [0; NUMBER + 1];
    // What is not of a probe's length, or of no box, nobody asked.
    let Ok((NUMBER, from)) = socket.recv_from(&mut buffer) else {
        return;
    };
    if let (Some(node), Some(last)) = (node(from.ip()), buffer.last_mut()) {
        *last = node;
        // What can't be sent is lost, and counted as that.
        let _sent = socket.send_to(&buffer, from);
    }
}

fn box_of(source: IpAddr) -> Option<u8> {
    let place = SOURCES.iter().position(|it| *it == source)?;
    u8::try_from(place).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let mut bytes = probe(77).to_vec();
        assert_eq!(read(&bytes), None, "a probe is no answer");
        bytes.push(1);
        assert_eq!(read(&bytes), Some((77, 1)));
        bytes.push(1);
        assert_eq!(read(&bytes), None);
        assert_eq!((box_of(SOURCES[0]), box_of(SOURCES[1])), (Some(0), Some(1)));
        assert_eq!(box_of("10.0.0.2".parse().unwrap()), None);
    }
}
