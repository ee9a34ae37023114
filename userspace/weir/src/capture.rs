//! `weir capture`: writes packets that XDP has handled to a file, with what became of each.
//!
//! Owns the file and the life of the capture: a process of its own beside control, which it needs nothing of but the
//! pinned tables. Which packets are taken is decided in the kernel, by the filter; fetching them is `weir-datapath`'s.

mod filter;
mod pcapng;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, anyhow, bail};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use weir_abi::{CaptureFilter, maps::capture::SNAP};
use weir_datapath::capture::{Capture, Captured};

pub(crate) use self::filter::{protocol, reason, verdict};
use self::pcapng::{Packet, Writer};
use crate::cli::CaptureArgs;

/// How often the filter is renewed; it holds for [`weir_datapath::capture::HOLDS`] seconds.
const RENEW: Duration = Duration::from_secs(1);
/// Where weir pins its maps unless told otherwise.
const DEFAULT_PINS: &str = "/sys/fs/bpf/weir";
/// Longer than anybody captures: no end.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Captures until told to end.
///
/// # Errors
/// No tables, another capture, or a file that can't be written.
pub(crate) fn run(args: &CaptureArgs) -> anyhow::Result<()> {
    let pins = pins(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime")?;
    // It must be opened where it is waited for.
    let capture = runtime.block_on(async { Capture::open(&pins) })?;
    // The file is made only now: a capture that can't begin leaves none.
    let sink: Box<dyn Write> = if args.write == Path::new("-") {
        Box::new(io::stdout())
    } else {
        let file = File::create(&args.write)
            .with_context(|| format!("{}: can't be written", args.write.display()))?;
        Box::new(file)
    };
    let (written, lost) = runtime.block_on(serve(capture, args, sink))?;
    let lost = if lost > 0 {
        format!(
            ", {lost} lost: they came faster than they were written; narrow the filter, or use --snap or --sample"
        )
    } else {
        String::new()
    };
    // Standard output may be the capture itself.
    let _ = writeln!(io::stderr(), "weir capture: {written} packets{lost}");
    Ok(())
}

fn pins(args: &CaptureArgs) -> anyhow::Result<PathBuf> {
    if let Some(pins) = &args.pins {
        return Ok(pins.clone());
    }
    let Some(config) = &args.config else {
        return Ok(DEFAULT_PINS.into());
    };
    let loaded = crate::context::load(config).map_err(|report| anyhow!("{report}"))?;
    Ok(loaded.plan.node.pins.clone())
}

/// Writes what comes; how many packets were written, and how many there was no room for.
async fn serve(mut capture: Capture, args: &CaptureArgs, sink: Box<dyn Write>) -> anyhow::Result<(u64, u64)> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let filter = filter::filter(&args.filter);
    let mut output = Output::new(sink, filter.snap)?;
    let end = Instant::now() + args.r#for.unwrap_or(FOREVER);
    let most = args.count.unwrap_or(u64::MAX);
    let mut renew = interval(RENEW);
    renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whether packets may be there that were not fetched yet.
    let mut more = true;
    let mut begun = false;
    // The first tick comes at once, and begins the capture.
    while output.written < most {
        tokio::select! {
            biased;
            _ = term.recv() => break,
            _ = int.recv() => break,
            () = sleep_until(end) => break,
            _ = renew.tick() => {
                if !begin_or_go_on(&capture, &filter)? || output.flush()?.is_gone() {
                    break;
                }
                if !std::mem::replace(&mut begun, true) {
                    let _ = writeln!(io::stderr(), "weir capture: capturing; Ctrl-C ends it");
                }
            }
            ready = capture.packets(), if !more => {
                ready.context("the ring buffer")?;
                more = true;
            }
            () = std::future::ready(()), if more => more = !drain(&mut capture, &mut output, most)?,
        }
        if output.reader.is_gone() {
            break;
        }
    }
    capture.stop()?;
    while !drain(&mut capture, &mut output, most)? {}
    output.flush()?;
    Ok((output.written, capture.lost()?))
}

/// Packets written before signals and the clock are looked at again.
const BATCH: usize = 512;

/// Renews the filter. False: weir has ended, and nothing comes any more.
fn begin_or_go_on(capture: &Capture, filter: &CaptureFilter) -> anyhow::Result<bool> {
    if capture.is_orphaned() {
        let _ = writeln!(io::stderr(), "weir capture: weir has ended");
        return Ok(false);
    }
    capture.renew(filter)?;
    Ok(true)
}

/// Writes packets that are there, up to a number of them. True: no more are there, or none are wanted.
fn drain(capture: &mut Capture, output: &mut Output, most: u64) -> anyhow::Result<bool> {
    for _ in 0..BATCH {
        if output.written >= most || output.reader.is_gone() {
            return Ok(true);
        }
        let Some(packet) = capture.next_packet() else {
            return Ok(true);
        };
        output.packet(&packet)?;
    }
    Ok(false)
}

/// Whether somebody still reads what is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reader {
    There,
    /// The other end of a pipe was closed: an orderly end.
    Gone,
}

impl Reader {
    fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

/// The file.
struct Output {
    writer: Writer<BufWriter<Box<dyn Write>>>,
    /// Numbers of interfaces in the file, and their names, by index in the kernel.
    interfaces: HashMap<u32, (u32, String)>,
    snap: u32,
    /// What CLOCK_MONOTONIC lacks to the time of day, in nanoseconds.
    offset: u64,
    written: u64,
    reader: Reader,
}

impl Output {
    fn new(sink: Box<dyn Write>, snap: u32) -> anyhow::Result<Self> {
        let application = format!("weir {}", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            writer: Writer::new(BufWriter::new(sink), &application).context("writing the capture")?,
            interfaces: HashMap::new(),
            snap: snap.min(SNAP),
            offset: offset()?,
            written: 0,
            reader: Reader::There,
        })
    }

    fn packet(&mut self, packet: &Captured) -> anyhow::Result<()> {
        let result = self.try_packet(packet);
        self.judge(result)?;
        self.written += u64::from(self.reader == Reader::There);
        Ok(())
    }

    fn try_packet(&mut self, packet: &Captured) -> io::Result<()> {
        let interface = match self.interfaces.get(&packet.ifindex) {
            Some((number, _)) => *number,
            None => {
                let name = interface_name(packet.ifindex);
                let number = self.writer.interface(&name, self.snap)?;
                self.interfaces.insert(packet.ifindex, (number, name));
                number
            }
        };
        self.writer.packet(&Packet {
            interface,
            time: packet.time.wrapping_add(self.offset),
            len: packet.frame_len,
            bytes: &packet.bytes,
            comment: &self.comment(packet),
        })
    }

    fn comment(&self, packet: &Captured) -> String {
        let (verdict, reason) = (packet.reason.verdict().name(), packet.reason.name());
        let mut comment = format!("verdict={verdict} reason={reason}");
        if packet.egress != 0 {
            let known = self.interfaces.get(&packet.egress);
            let name = known.map_or_else(|| interface_name(packet.egress), |(_, name)| name.clone());
            comment.push_str(&format!(" egress={name}"));
        }
        comment
    }

    fn flush(&mut self) -> anyhow::Result<Reader> {
        let result = self.writer.flush();
        self.judge(result)?;
        Ok(self.reader)
    }

    fn judge(&mut self, result: io::Result<()>) -> anyhow::Result<()> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => self.reader = Reader::Gone,
            other => other.context("writing the capture")?,
        }
        Ok(())
    }
}

fn interface_name(index: u32) -> String {
    match nix::net::if_::if_indextoname(index) {
        Ok(name) => name.to_string_lossy().into_owned(),
        // It has gone since, or lies in another network namespace.
        Err(_) => format!("if{index}"),
    }
}

/// The clocks are read one after the other: the error is what lies between, a microsecond.
fn offset() -> anyhow::Result<u64> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| anyhow!("the clock of this box stands before 1970: set it"))?;
    let monotonic = nix::time::ClockId::CLOCK_MONOTONIC.now().context("the clock")?;
    let monotonic = Duration::from(monotonic);
    let Some(offset) = now.checked_sub(monotonic) else {
        bail!("the clock of this box says that it was started before 1970: set it");
    };
    u64::try_from(offset.as_nanos()).context("the clock of this box stands after 2554: set it")
}
