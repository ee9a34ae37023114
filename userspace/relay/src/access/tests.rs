//! The records in all forms, whatever a client sends, and a log that is read too slowly.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use weir_core::{
    ids::{BackendKey, PoolName},
    plan,
};

use super::*;
use crate::{
    http1::version::Version,
    phases::{Phase, Timers},
    reason::{Layer, Reason, Side},
};

pub(super) fn backend() -> plan::Backend {
    let key = BackendKey {
        pool: PoolName::new("web"),
        address: "[2001:db8::1]:8080".parse().unwrap(),
    };
    plan::Backend {
        quic_id: None,
        key,
        name: Arc::from("b1"),
        weight: 1,
        backup: false,
        max_connections: None,
    }
}

pub(super) fn line(target: &[u8]) -> RequestLine {
    RequestLine::new(b"GET", target, Version::Http11)
}

pub(super) fn record<'a>(line: &'a RequestLine, backend: Option<&'a plan::Backend>) -> Record<'a> {
    Record {
        time: SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_123_456),
        mode: RecordMode::Http,
        service: "www",
        pool: "web",
        backend,
        client: "192.0.2.1:4711".parse().unwrap(),
        id: None,
        sni: None,
        destination: None,
        tls: None,
        line: Some(line),
        status: Some(200),
        bytes_in: 10,
        bytes_out: 20,
        timers: Timers {
            idle: None,
            head: Some(Duration::from_micros(5)),
            queue: None,
            connect: None,
            response: None,
            first_byte: Some(Duration::from_micros(700)),
            total: Duration::from_micros(900),
        },
        end: Reason::Ok,
        phase: Phase::Last,
        detail: None,
        retries: 0,
        moved: false,
        keep_alive: true,
        reused: false,
        load: Load::default(),
    }
}

#[test]
fn human_form() {
    let backend = backend();
    let mut out = Vec::new();
    record(&line(b"/a\"b\\c"), Some(&backend)).human(&mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "2023-11-14T22:13:20.123456Z www web/b1 192.0.2.1:4711 \"GET /a\\\"b\\\\c\" 200 in=10 out=20 head=5us queue=- \
         connect=- response=- first_byte=700us total=900us ok keep-alive\n"
    );
    let mut out = Vec::new();
    let line = line(b"/");
    let failed = Record {
        end: Reason::BackendBadResponse,
        phase: Phase::Response,
        detail: Some("chunk"),
        retries: 2,
        id: Some("a b"),
        destination: Some("[2001:db8::5]:80".parse().unwrap()),
        reused: true,
        keep_alive: false,
        ..record(&line, None)
    };
    failed.human(&mut out);
    let text = String::from_utf8(out).unwrap();
    let end = " backend-bad-response(chunk) phase=response retries=2 id=a\\x20b destination=[2001:db8::5]:80 reused\n";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn json_form() {
    let backend = backend();
    let line = line(b"/");
    let form = |record: Record<'_>| {
        let mut out = Vec::new();
        record.json(&mut out);
        String::from_utf8(out).unwrap()
    };
    let destination = Some("203.0.113.5:80".parse().unwrap());
    let taken_in = form(Record {
        destination,
        ..record(&line, Some(&backend))
    });
    assert!(
        taken_in.contains(r#""destination":"203.0.113.5:80""#),
        "{taken_in}"
    );
    let ok = form(record(&line, Some(&backend)));
    assert!(!ok.contains("destination"), "{ok}");
    assert_eq!(
        ok,
        concat!(
            r#"{"time":"2023-11-14T22:13:20.123456Z","mode":"http","service":"www","pool":"web","#,
            r#""backend":"[2001:db8::1]:8080","backend_name":"b1","client":"192.0.2.1:4711","method":"GET","#,
            r#""target":"/","version":"1.1","status":200,"bytes_in":10,"bytes_out":20,"idle_us":null,"head_us":5,"#,
            r#""queue_us":null,"connect_us":null,"response_us":null,"first_byte_us":700,"total_us":900,"end":"ok","#,
            r#""side":null,"layer":null,"phase":null,"detail":null,"retries":0,"keep_alive":true,"reused":false}"#,
            "\n"
        )
    );
    let failed = form(Record {
        end: Reason::BackendTimeoutResponse,
        phase: Phase::Response,
        id: Some("4f\"\n"),
        ..record(&line, Some(&backend))
    });
    let value: serde_json::Value = serde_json::from_str(&failed).unwrap();
    assert_eq!(
        (&value["side"], &value["layer"], &value["phase"], &value["id"]),
        (
            &"backend".into(),
            &"l7".into(),
            &"response".into(),
            &"4f\"\n".into()
        )
    );
}

#[test]
fn httplog_form() {
    let backend = backend();
    let plain = line(b"/index.html?a=b");
    let odd = RequestLine::new(b"P#T", b"/\"\x01\xff {|}", Version::Http10);
    let ms = |n| Some(Duration::from_millis(n));
    let timers = Timers {
        idle: ms(1),
        head: ms(10),
        queue: ms(0),
        connect: ms(30),
        response: ms(69),
        first_byte: ms(99),
        total: Duration::from_micros(109_999),
    };
    let load = Load {
        connections: 5,
        service: 4,
        pool: 3,
        backend: 2,
        ahead: 7,
    };
    let good = Record {
        timers,
        load,
        ..record(&plain, Some(&backend))
    };
    let cases = [
        (
            good.clone(),
            "192.0.2.1:4711 [14/Nov/2023:22:13:20.123] www web/b1 10/0/30/69/109 200 20 - - ---- 5/4/3/2/0 0/7 \
             \"GET /index.html?a=b HTTP/1.1\"",
        ),
        (
            Record {
                client: "[::ffff:192.0.2.1]:1".parse().unwrap(),
                retries: 2,
                moved: true,
                end: Reason::BackendCut,
                phase: Phase::Data,
                ..good.clone()
            },
            "192.0.2.1:1 [14/Nov/2023:22:13:20.123] www web/b1 10/0/30/69/109 200 20 - - SD-- 5/4/3/2/+2 0/7 \
             \"GET /index.html?a=b HTTP/1.1\"",
        ),
        (
            Record {
                client: "[2001:db8::7]:1".parse().unwrap(),
                line: Some(&odd),
                backend: None,
                status: None,
                timers: Timers::default(),
                load: Load::default(),
                end: Reason::NoBackend,
                phase: Phase::Connect,
                ..good.clone()
            },
            "2001:db8::7:1 [14/Nov/2023:22:13:20.123] www web/<NOSRV> -1/-1/-1/-1/0 -1 20 - - SC-- 0/0/0/0/0 0/0 \
             \"P#23T /#22#01#FF {|} HTTP/1.0\"",
        ),
        (
            Record {
                line: None,
                end: Reason::ClientTimeoutHead,
                phase: Phase::Request,
                ..good.clone()
            },
            "192.0.2.1:4711 [14/Nov/2023:22:13:20.123] www web/b1 10/0/30/69/109 200 20 - - cR-- 5/4/3/2/0 0/7 \
             \"<BADREQ>\"",
        ),
        (
            Record {
                backend: None,
                timers: Timers {
                    head: ms(1),
                    ..Timers::default()
                },
                ..good.clone()
            },
            "192.0.2.1:4711 [14/Nov/2023:22:13:20.123] www web/<NOSRV> 1/-1/-1/-1/0 200 20 - - LR-- 5/4/3/2/0 0/7 \
             \"GET /index.html?a=b HTTP/1.1\"",
        ),
        (
            Record {
                mode: RecordMode::Tcp,
                line: None,
                status: None,
                ..good
            },
            "192.0.2.1:4711 [14/Nov/2023:22:13:20.123] www web/b1 0/30/109 20 -- 5/4/3/2/0 0/7",
        ),
    ];
    for (record, want) in cases {
        let mut out = Vec::new();
        record.httplog(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("{want}\n"));
    }
}

/// docs/reasons.md says of each reason whose doing it is, where it came about, and what HAProxy's letter for it is.
#[test]
fn the_document_has_the_letters() {
    const REASONS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md"));
    let rows = |heading: &str| -> Vec<Vec<&str>> {
        let section = REASONS.split("\n## ").find(|s| s.starts_with(heading)).unwrap();
        let cells = |row: &'static str| {
            row.trim_matches('|')
                .split(" | ")
                .map(|c| c.trim().trim_matches('`'))
                .collect()
        };
        section
            .lines()
            .filter(|l| l.starts_with("| `"))
            .map(cells)
            .collect()
    };
    let letters: Vec<Vec<String>> = Reason::ALL
        .iter()
        .map(|reason| {
            let letter = httplog::state(*reason, Phase::Data).cause.to_string();
            let (side, layer) = (reason.side(), reason.layer());
            vec![
                reason.to_string(),
                side.map_or("-", Side::as_str).to_owned(),
                layer.map_or("-", Layer::as_str).to_owned(),
                letter,
            ]
        })
        .collect();
    let told = rows("The relay: `weir_relay_ends_total");
    let told: Vec<Vec<&str>> = told.iter().map(|row| row[..4].to_vec()).collect();
    assert_eq!(told, letters);
    let phases: Vec<(String, String)> = Phase::ALL
        .iter()
        .map(|phase| (phase.to_string(), httplog::letter(*phase).to_string()))
        .collect();
    let told = rows("The relay: phases");
    let told: Vec<(String, String)> = told.iter().map(|row| (row[0].into(), row[1].into())).collect();
    assert_eq!(told, phases);
}

#[test]
fn json_form_survives_any_target() {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let backend = backend();
    for target in [b"/".as_slice(), b"/\"\\\n\r\x00\x1b[31m", &all, "/ü".as_bytes()] {
        let mut out = Vec::new();
        record(&line(target), Some(&backend)).json(&mut out);
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
    let target = Target::Stream(Box::new(Stuck(wait)));
    let thread = thread::spawn(move || {
        let spares = Spares::default();
        write_all(target, &incoming, &spares, &counter, &AtomicBool::new(false))
    });
    let mut buffer = LogBuffer {
        format: LogFormat::Human,
        null: false,
        batches: Some(batches),
        spares: Spares::default(),
        dropped: Arc::clone(&dropped),
        batch: Batch {
            lines: Vec::new(),
            records: 0,
        },
    };
    let mut pushed = 0;
    while dropped.load(Relaxed) == 0 {
        buffer.push(&record(&line(b"/"), None));
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
        null: false,
    };
    let thread = LogThread::start(&log).unwrap().unwrap();
    let mut buffer = thread.buffer();
    buffer.push(&record(&line(b"/one"), None));
    buffer.flush();
    buffer.push(&record(&line(b"/two"), None));
    drop(buffer);
    drop(thread);
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], "before");
    assert!(lines[1].contains("/one") && lines[2].contains("/two"));
}

#[test]
fn a_file_that_was_moved_away_is_made_anew() {
    let path = std::env::temp_dir().join(format!("weir-relay-moved-{}", std::process::id()));
    let moved = path.with_extension("1");
    let log = AccessLog {
        to: LogTarget::File(path.clone()),
        format: LogFormat::Httplog,
        null: false,
    };
    let thread = LogThread::start(&log).unwrap().unwrap();
    let mut buffer = thread.buffer();
    buffer.push(&record(&line(b"/one"), None));
    drop(buffer);
    std::fs::rename(&path, &moved).unwrap();
    // The first record may be written before or after; the second is told after the file is to be opened anew.
    thread.reopen();
    let mut buffer = thread.buffer();
    buffer.push(&record(&line(b"/two"), None));
    drop(buffer);
    drop(thread);
    let new = std::fs::read_to_string(&path).unwrap();
    let old = std::fs::read_to_string(&moved).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::remove_file(&moved).unwrap();
    assert!(new.contains("/two"), "{new}");
    assert!((old + &new).contains("/one"));
}
