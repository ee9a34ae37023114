//! The records in both forms, whatever a client sends, and a log that is read too slowly.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use weir_core::{
    ids::{BackendKey, PoolName},
    plan,
};

use super::*;
use crate::reason::Reason;

fn backend() -> plan::Backend {
    let key = BackendKey {
        pool: PoolName::new("web"),
        address: "[2001:db8::1]:8080".parse().unwrap(),
    };
    plan::Backend {
        key,
        name: Arc::from("b1"),
        weight: 1,
        backup: false,
    }
}

fn record<'a>(target: &'a [u8], backend: Option<&'a plan::Backend>) -> Record<'a> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456),
        service: "www",
        pool: "web",
        backend,
        client: "192.0.2.1:4711".parse().unwrap(),
        method: Some(b"GET"),
        target: Some(target),
        status: Some(200),
        bytes_in: 10,
        bytes_out: 20,
        head: Some(Duration::from_micros(5)),
        connect: None,
        first_byte: Some(Duration::from_micros(700)),
        total: Some(Duration::from_micros(900)),
        end: Reason::Ok,
        detail: None,
        retries: 0,
        keep_alive: true,
        reused: false,
    }
}

#[test]
fn human_form() {
    let backend = backend();
    let mut out = Vec::new();
    record(b"/a\"b\\c", Some(&backend)).human(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "2023-11-14T22:13:20.123456Z www web/b1 192.0.2.1:4711 \"GET /a\\\"b\\\\c\" 200 in=10 out=20 head=5us connect=- \
         first_byte=700us total=900us ok keep-alive\n"
    );
}

#[test]
fn json_form_survives_any_target() {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let backend = backend();
    for target in [b"/".as_slice(), b"/\"\\\n\r\x00\x1b[31m", &all, "/ü".as_bytes()] {
        let mut out = Vec::new();
        record(target, Some(&backend)).json(&mut out);
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), 1, "one line");
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(value["backend"], "[2001:db8::1]:8080");
        assert_eq!(value["end"], "ok");
        assert_eq!(value["total_us"], 900);
        assert_eq!(value["connect_us"], serde_json::Value::Null);
        if target.is_ascii() {
            assert_eq!(value["target"].as_str().unwrap().as_bytes(), target);
        } else {
            assert!(value["target"].as_str().unwrap().is_ascii());
        }
    }
}

#[test]
fn a_reader_that_never_reads_costs_records_but_no_time() {
    // A writer that waits until it is let go, as a full pipe does.
    struct Stuck(Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (go, wait) = sync_channel::<()>(0);
    let (batches, incoming) = sync_channel(WAITING);
    let dropped = Arc::<AtomicU64>::default();
    let counter = Arc::clone(&dropped);
    let thread = thread::spawn(move || write_all(Box::new(Stuck(wait)), &incoming, &counter));
    let mut buffer = LogBuffer {
        format: LogFormat::Human,
        batches: Some(batches),
        dropped: Arc::clone(&dropped),
        batch: Batch {
            lines: Vec::new(),
            records: 0,
        },
    };
    let mut pushed = 0;
    while dropped.load(Relaxed) == 0 {
        buffer.push(&record(b"/", None));
        pushed += 1;
        assert!(pushed < 1_000_000, "nothing is ever dropped");
    }
    assert!(buffer.batch.lines.len() <= FULL + 1024);
    drop(go);
    drop(buffer);
    thread.join().unwrap();
}

#[test]
fn a_file_is_appended_to() {
    let path = std::env::temp_dir().join(format!("weir-relay-access-{}", std::process::id()));
    std::fs::write(&path, "before\n").unwrap();
    let log = AccessLog {
        to: LogTarget::File(path.clone()),
        format: LogFormat::Json,
    };
    let thread = LogThread::start(&log).unwrap().unwrap();
    let mut buffer = thread.buffer();
    buffer.push(&record(b"/one", None));
    buffer.flush();
    buffer.push(&record(b"/two", None));
    drop(buffer);
    drop(thread);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], "before");
    assert!(lines[1].contains("/one") && lines[2].contains("/two"));
}
