//! A daemon's socket, bound by the test: what comes of records, and of a daemon that comes, goes or does not read.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::UNIX_EPOCH,
};

use regex_lite::Regex;
use weir_core::plan::{Facility, LogFormat, LogTarget};

use super::*;
use crate::access::{AccessLog, LogThread};

/// A socket's path, removed again.
struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "weir-syslog-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }

    fn bind(&self) -> UnixDatagram {
        let daemon = UnixDatagram::bind(&self.0).unwrap();
        daemon.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        daemon
    }

    fn word(&self) -> String {
        format!("syslog:{}", self.0.display())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn sender(word: &str) -> Sender {
    Sender::new(&Syslog::from_word(word).unwrap())
}

fn received(daemon: &UnixDatagram) -> String {
    let mut buf = [0; 2 * LONGEST];
    let n = daemon.recv(&mut buf).unwrap();
    String::from_utf8(buf[..n].to_vec()).unwrap()
}

#[test]
fn a_datagram_for_each_record() {
    let place = Place::new();
    let daemon = place.bind();
    sender(&place.word()).send(b"one\ntwo\n").ok().unwrap();
    let local = Regex::new(r"^<134>[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d weir\[\d+\]: (one|two)$").unwrap();
    for expected in ["one", "two"] {
        let text = received(&daemon);
        let read = local.captures(&text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(&read[1], expected);
    }
    sender(&format!("{},mail,rfc5424", place.word()))
        .send(b"three\n")
        .ok()
        .unwrap();
    let new =
        Regex::new(r"^<22>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [!-~]+ weir \d+ - - three$").unwrap();
    let text = received(&daemon);
    assert!(new.is_match(&text), "{text}");
}

#[test]
fn by_udp_the_newer_form() {
    let daemon = UdpSocket::bind("127.0.0.1:0").unwrap();
    daemon.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let at = daemon.local_addr().unwrap();
    sender(&format!("syslog:{at}")).send(b"one\n").ok().unwrap();
    let mut buf = [0; LONGEST];
    let n = daemon.recv(&mut buf).unwrap();
    let text = std::str::from_utf8(&buf[..n]).unwrap();
    assert!(
        text.starts_with("<134>1 ") && text.ends_with(" - - one"),
        "{text}"
    );
}

#[test]
fn dates_of_the_older_form() {
    let date = |secs| Date(UNIX_EPOCH + Duration::from_secs(secs)).to_string();
    assert_eq!(date(0), "Jan  1 00:00:00");
    assert_eq!(date(1_234_567_890), "Feb 13 23:31:30");
}

#[test]
fn what_is_too_long_is_cut_off() {
    let place = Place::new();
    let daemon = place.bind();
    sender(&place.word()).send(&[b'x'; 3 * LONGEST]).ok().unwrap();
    assert_eq!(received(&daemon).len(), LONGEST);
}

/// A daemon that starts late, and one that starts anew, get what comes then.
#[test]
fn the_daemon_may_come_and_go() {
    let place = Place::new();
    let mut sender = sender(&place.word());
    let lost = sender.send(b"one\ntwo\n").unwrap_err();
    assert_eq!((lost.records, lost.error.kind()), (2, ErrorKind::NotFound));
    let daemon = place.bind();
    sender.send(b"three\n").ok().unwrap();
    assert!(received(&daemon).ends_with(": three"));
    drop(daemon);
    let lost = sender.send(b"four\n").unwrap_err();
    assert_eq!(
        (lost.records, lost.error.kind()),
        (1, ErrorKind::ConnectionRefused)
    );
    std::fs::remove_file(&place.0).unwrap();
    let daemon = place.bind();
    sender.send(b"five\n").ok().unwrap();
    assert!(received(&daemon).ends_with(": five"));
    // In the middle of what is sent: nothing is lost if another is there already.
    std::fs::remove_file(&place.0).unwrap();
    let next = place.bind();
    drop(daemon);
    sender.send(b"six\nseven\n").ok().unwrap();
    assert!(received(&next).ends_with(": six"));
    assert!(received(&next).ends_with(": seven"));
}

/// A daemon that never reads costs its records, and no more than a moment of the log's thread.
#[test]
fn a_daemon_that_does_not_read_costs_records() {
    let place = Place::new();
    let daemon = place.bind();
    let mut sender = sender(&place.word());
    let lines = "x\n".repeat(5000);
    let lost = sender.send(lines.as_bytes()).unwrap_err();
    assert_eq!(lost.error.kind(), ErrorKind::WouldBlock);
    daemon.set_nonblocking(true).unwrap();
    let mut got = 0;
    while daemon.recv(&mut [0; 256]).is_ok() {
        got += 1;
    }
    assert_eq!(got + lost.records, 5000);
    sender.send(b"again\n").ok().unwrap();
    daemon.set_nonblocking(false).unwrap();
    assert!(received(&daemon).ends_with(": again"));
}

#[test]
fn the_log_counts_what_was_lost() {
    let place = Place::new();
    let log = AccessLog {
        to: LogTarget::Syslog(Syslog {
            to: SyslogTo::Path(place.0.clone()),
            facility: Facility::LOCAL0,
            form: SyslogForm::Rfc3164,
        }),
        format: LogFormat::Httplog,
        null: false,
    };
    let thread = LogThread::start(&log).unwrap().unwrap();
    let mut buffer = thread.buffer();
    let backend = crate::access::tests::backend();
    buffer.push(&crate::access::tests::record(
        &crate::access::tests::line(b"/lost"),
        Some(&backend),
    ));
    drop(buffer);
    while thread.dropped() == 0 {
        std::thread::yield_now();
    }
    let daemon = place.bind();
    let mut buffer = thread.buffer();
    buffer.push(&crate::access::tests::record(
        &crate::access::tests::line(b"/kept"),
        Some(&backend),
    ));
    drop(buffer);
    let text = received(&daemon);
    assert!(
        text.starts_with("<134>") && text.contains("/kept") && !text.ends_with('\n'),
        "{text}"
    );
    assert_eq!(thread.dropped(), 1);
}
