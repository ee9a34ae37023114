//! The access log: one record per request (or TCP connection), formatted on the worker, written by a thread of its own.
//!
//! Owns formats, the buffers on the way, and what happens when the log's reader is slower than the traffic: a bounded
//! number of buffers waits, then whole buffers are dropped and the records counted. A worker never waits for the log.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

mod record;

pub(crate) use record::Record;

/// The access log's destination and form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessLog {
    /// Where records go.
    pub to: LogTarget,
    /// How they are written.
    pub format: LogFormat,
}

/// Where access records go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum LogTarget {
    /// Nowhere; then they cost nothing.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To standard error.
    Stderr,
    /// Appended to a file, which is made if it is not there.
    File(PathBuf),
}

/// How access records are written. One line each in either form.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object.
    Json,
}

/// Buffers that may wait for the writer, over all workers.
const WAITING: usize = 64;

/// A worker hands its buffer over at this size, or on its tick.
const FULL: usize = 32 << 10;

/// A buffer full of lines.
struct Batch {
    lines: Vec<u8>,
    records: u64,
}

/// The thread that writes the log.
pub(crate) struct LogThread {
    format: LogFormat,
    batches: Option<SyncSender<Batch>>,
    /// Written buffers on their way back.
    dropped: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl LogThread {
    /// None if the log is off.
    pub(crate) fn start(log: &AccessLog) -> Result<Option<Self>, (String, io::Error)> {
        let target: Box<dyn Write + Send> = match &log.to {
            LogTarget::Off => return Ok(None),
            LogTarget::Stdout => Box::new(io::stdout()),
            LogTarget::Stderr => Box::new(io::stderr()),
            LogTarget::File(path) => {
                Box::new(open(path).map_err(|error| (path.display().to_string(), error))?)
            }
        };
        let (batches, incoming) = sync_channel(WAITING);
        let dropped = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&dropped);
        let spawned = thread::Builder::new()
            .name("weir-log".into())
            .spawn(move || write_all(target, &incoming, &counter));
        let thread = spawned.map_err(|error| ("thread".to_owned(), error))?;
        Ok(Some(Self {
            format: log.format,
            batches: Some(batches),
            dropped,
            thread: Some(thread),
        }))
    }

    /// A buffer for one worker.
    pub(crate) fn buffer(&self) -> LogBuffer {
        LogBuffer {
            format: self.format,
            batches: self.batches.clone(),
            dropped: Arc::clone(&self.dropped),
            batch: Batch {
                lines: Vec::new(),
                records: 0,
            },
        }
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

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn write_all(mut target: Box<dyn Write + Send>, incoming: &Receiver<Batch>, dropped: &AtomicU64) {
    let mut failing = false;
    for batch in incoming {
        let written = target.write_all(&batch.lines).and_then(|()| target.flush());
        match written {
            Ok(()) if failing => {
                failing = false;
                tracing::info!("the access log is written again");
            }
            Ok(()) => {}
            Err(error) => {
                dropped.fetch_add(batch.records, Relaxed);
                if !failing {
                    failing = true;
                    tracing::error!(%error, "the access log can't be written; records are dropped and counted");
                }
            }
        }
    }
}

/// One worker's records on their way to the writer.
pub(crate) struct LogBuffer {
    format: LogFormat,
    batches: Option<SyncSender<Batch>>,
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
        }
        self.batch.records += 1;
        if lines.len() >= FULL {
            self.flush();
        }
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
        let capacity = self.batch.lines.len();
        let next = Batch {
            lines: Vec::with_capacity(capacity.min(2 * FULL)),
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
