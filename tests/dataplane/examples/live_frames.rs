//! Sends UDP by XDP, or swallows it: the two ends of `cargo xtask bench l4`, each run in its own network namespace.
//!
//! ```text
//! live_frames source INTERFACE TO_MAC FROM_MAC SOURCE:PORT DESTINATION:PORT FLOWS SECONDS
//! live_frames sink INTERFACE...
//! live_frames pass INTERFACE...
//! live_frames wire INTERFACE INTERFACE
//! ```
//!
//! `source` sends 64-byte frames as fast as they go and says how many in how many nanoseconds; the checksum is 0, so that
//! nobody on the way has one to verify. `sink` says `ready` and drops what comes until it is killed; `pass` hands it to the
//! stack; `wire` sends what comes to one of two out of the other.

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use weir_dataplane_tests::{
    Frame,
    traffic::{LEN, Simple, Source},
};

/// Frames of one call into the kernel: well under a tenth of a second.
const CHUNK: u32 = 250_000;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["source", interface, to, from, src, dst, flows, seconds] => {
            let frame = Frame::udp(src, dst).with(|f| {
                f.no_checksum = true;
                f.payload = Vec::new();
            });
            let headers = frame.transport_at() + 8;
            let ports_at = frame.transport_at();
            let frame = frame.with(|f| f.payload.resize(LEN.saturating_sub(headers), 0));
            let frame = Frame {
                to_mac: mac(to)?,
                from_mac: mac(from)?,
                ..frame
            };
            let Ok(bytes) = frame.build().try_into() else {
                bail!("the headers alone are longer than {LEN} bytes")
            };
            let source = Source::load(interface, bytes, ports_at, flows.parse().context("FLOWS")?)?;
            let time = Duration::from_secs_f64(seconds.parse().context("SECONDS")?);
            let start = Instant::now();
            let mut sent = 0u64;
            while start.elapsed() < time {
                source.send(CHUNK)?;
                sent += u64::from(CHUNK);
            }
            println!("{sent} {}", start.elapsed().as_nanos());
            Ok(())
        }
        ["wire", one, other] => stay(vec![Simple::wire(one, other)?, Simple::wire(other, one)?]),
        [what @ ("sink" | "pass"), ref interfaces @ ..] if !interfaces.is_empty() => {
            let attach = if what == "sink" {
                Simple::sink
            } else {
                Simple::pass
            };
            stay(
                interfaces
                    .iter()
                    .map(|interface| attach(interface))
                    .collect::<Result<_>>()?,
            )
        }
        _ => bail!("see the head of this program's source for its arguments"),
    }
}

/// Whoever started this ends it; the programs go with it.
fn stay(_attached: Vec<Simple>) -> Result<()> {
    println!("ready");
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

/// Six bytes in hexadecimal, with colons between.
fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()
        .with_context(|| format!("{text}: no link address"))?;
    bytes
        .try_into()
        .map_err(|_| anyhow::anyhow!("{text}: no link address"))
}
