//! The access log: one record per request (or TCP connection), formatted on the worker, written by a thread of its own.
//!
//! Owns formats, the buffers on the way, and what happens when the log's reader is slower than the traffic: a bounded
//! number of buffers waits, then whole buffers are dropped and the records counted. A worker never waits for the log.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use weir_core::plan::{LogFormat, LogTarget};

mod httplog;
mod record;
mod syslog;
mod text;

pub(crate) use record::{Load, Record, RecordMode, RequestLine};

/// The access log's destination and form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccessLog {
    /// Where records go.
    pub to: LogTarget,
    /// How they are written.
    pub format: LogFormat,
    /// Whether connections have a record over which the client sent nothing.
    pub null: bool,
}

impl AccessLog {
    /// None is kept.
    pub const OFF: Self = Self {
        to: LogTarget::Off,
        format: LogFormat::Human,
        null: false,
    };
}

impl Default for AccessLog {
    fn default() -> Self {
        Self::OFF
    }
}

/// Buffers that may wait for the writer, over all workers.
const WAITING: usize = 64;

/// A worker hands its buffer over at this size, or on its tick. Each time costs the worker's core two turns of the writer's
/// thread.
const FULL: usize = 64 << 10;

/// Buffers that are kept for the next lines.
const SPARE: usize = 4;

/// Written buffers on their way back: one that was made in one thread and freed in another costs both a lock.
type Spares = Arc<Mutex<Vec<Vec<u8>>>>;

/// A buffer full of lines.
struct Batch {
    lines: Vec<u8>,
    records: u64,
}

/// The thread that writes the log.
pub(crate) struct LogThread {
    format: LogFormat,
    null: bool,
    batches: Option<SyncSender<Batch>>,
    spares: Spares,
    /// Records that were not written.
    dropped: Arc<AtomicU64>,
    /// The file is to be opened anew.
    reopen: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl LogThread {
    /// None if the log is off.
    pub(crate) fn start(log: &AccessLog) -> Result<Option<Self>, (String, io::Error)> {
        let target = match &log.to {
            LogTarget::Off => return Ok(None),
            LogTarget::Stdout => Target::Stream(Box::new(io::stdout())),
            LogTarget::Stderr => Target::Stream(Box::new(io::stderr())),
            LogTarget::File(path) => {
                let file = open(path).map_err(|error| (path.display().to_string(), error))?;
                Target::File(path.clone(), file)
            }
            LogTarget::Syslog(to) => Target::Syslog(syslog::Sender::new(to)),
        };
        let (batches, incoming) = sync_channel(WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&dropped);
        let reopen = Arc::<AtomicBool>::default();
        let asked = Arc::clone(&reopen);
        let spares = Spares::default();
        let back = Arc::clone(&spares);
        let spawned = thread::Builder::new()
            .name("weir-log".into())
            .spawn(move || write_all(target, &incoming, &back, &counter, &asked));
        let thread = spawned.map_err(|error| ("thread".to_owned(), error))?;
        Ok(Some(Self {
            format: log.format,
            null: log.null,
            batches: Some(batches),
            spares,
            dropped,
            reopen,
            thread: Some(thread),
        }))
    }

    /// A buffer for one worker.
    pub(crate) fn buffer(&self) -> LogBuffer {
        LogBuffer {
            format: self.format,
            null: self.null,
            batches: self.batches.clone(),
            spares: Arc::clone(&self.spares),
            dropped: Arc::clone(&self.dropped),
            batch: Batch {
                lines: Vec::new(),
                records: 0,
            },
        }
    }

    /// Has a file opened anew before the next record is written: it may have been moved away.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Relaxed);
    }

    /// Records that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }
}

impl Drop for LogThread {
    /// Waits until all is written; the workers' buffers must be gone by then.
    fn drop(&mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What the thread writes to.
enum Target {
    Stream(Box<dyn Write + Send>),
    File(PathBuf, File),
    Syslog(syslog::Sender),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(_) => f.write_str("stream"),
            Self::File(path, _) => path.display().fmt(f),
            Self::Syslog(sender) => sender.to().fmt(f),
        }
    }
}

/// Records that could not be written, and why.
struct Lost {
    records: u64,
    error: io::Error,
}

impl Target {
    fn write(&mut self, batch: &Batch) -> Result<(), Lost> {
        let Batch { lines, records } = batch;
        let written = match self {
            Self::Stream(stream) => stream.write_all(lines).and_then(|()| stream.flush()),
            Self::File(_, file) => file.write_all(lines),
            Self::Syslog(sender) => return sender.send(lines),
        };
        written.map_err(|error| Lost {
            records: *records,
            error,
        })
    }

    /// Opens a file anew; one that can't be opened is kept as it is.
    fn reopen(&mut self) {
        let Self::File(path, file) = self else { return };
        match open(path) {
            Ok(new) => *file = new,
            Err(error) => tracing::error!(path = %path.display(), %error,
                "the access log can't be opened again; the file that was open is written on; check that its directory exists and that the relay's user may write there"),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(
    mut target: Target,
    incoming: &Receiver<Batch>,
    spares: &Spares,
    dropped: &AtomicU64,
    reopen: &AtomicBool,
) {
    let mut failing = false;
    for batch in incoming {
        if reopen.swap(false, Relaxed) {
            target.reopen();
        }
        match target.write(&batch) {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the access log is written again");
            }
            Ok(()) => {}
            Err(Lost { records, error }) => {
                dropped.fetch_add(records, Relaxed);
                if !failing {
                    failing = true;
                    tracing::error!(to = %target, %error,
                        "the access log can't be written; records are dropped and counted; check that it is there and that the relay's user (node.user) may write to it");
                }
            }
        }
        give_back(spares, batch.lines);
    }
}

fn give_back(spares: &Spares, mut lines: Vec<u8>) {
    lines.clear();
    // Nothing under the lock leaves it half-changed.
    let mut spares = spares.lock().unwrap_or_else(PoisonError::into_inner);
    if spares.len() < SPARE && lines.capacity() <= 2 * FULL {
        spares.push(lines);
    }
}

/// One worker's records on their way to the writer.
pub(crate) struct LogBuffer {
    format: LogFormat,
    null: bool,
    batches: Option<SyncSender<Batch>>,
    spares: Spares,
    dropped: Arc<AtomicU64>,
    batch: Batch,
}

impl LogBuffer {
    /// Adds a record.
    pub(crate) fn push(&mut self, record: &Record<'_>) {
        let lines = &mut self.batch.lines;
        match self.format {
            LogFormat::Human => record.human(lines),
            LogFormat::Json => record.json(lines),
            LogFormat::Httplog => record.httplog(lines),
        }
        self.batch.records += 1;
        if lines.len() >= FULL {
            self.flush();
        }
    }

    /// Whether the form says how busy the relay was.
    pub(crate) const fn tells_load(&self) -> bool {
        matches!(self.format, LogFormat::Httplog)
    }

    /// Whether connections have a record over which the client sent nothing.
    pub(crate) const fn has_null(&self) -> bool {
        self.null
    }

    /// Whether nothing waits to be handed over.
    pub(crate) fn is_empty(&self) -> bool {
        self.batch.records == 0
    }

    /// Hands over what there is.
    pub(crate) fn flush(&mut self) {
        if self.is_empty() {
            return;
        }
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let room = || Vec::with_capacity(self.batch.lines.len().min(FULL));
        let next = Batch {
            lines: spare.unwrap_or_else(room),
            records: 0,
        };
        let batch = std::mem::replace(&mut self.batch, next);
        let Some(batches) = &self.batches else { return };
        match batches.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => {
                self.dropped.fetch_add(batch.records, Relaxed);
                self.batch.lines = batch.lines;
                self.batch.lines.clear();
            }
        }
    }
}

impl Drop for LogBuffer {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests;
