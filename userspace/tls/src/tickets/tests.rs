//! Tests of the keys of tickets.

use std::time::Duration;

use super::*;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

const A: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB";
const B: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

#[test]
fn boxes_with_the_same_file_open_each_others_tickets() {
    let file = format!("# the keys of both\n\n{A}\n{B}\r\n");
    let (one, two) = (
        TicketKeys::shared(file.as_bytes()).unwrap(),
        TicketKeys::shared(file.as_bytes()).unwrap(),
    );
    let (one, two) = (
        Tickets::new(Arc::new(one), b"web", 3600),
        Tickets::new(Arc::new(two), b"web", 3600),
    );
    let ticket = one.encrypt(b"session").unwrap();
    assert_eq!(two.decrypt(&ticket).unwrap(), b"session");
    assert_ne!(
        one.encrypt(b"session").unwrap(),
        ticket,
        "each has a salt of its own"
    );
    // Rotated by a new first line: old tickets open, new ones are sealed by the new key.
    let turned = Tickets::new(
        Arc::new(TicketKeys::shared(format!("{B}\n{A}").as_bytes()).unwrap()),
        b"web",
        3600,
    );
    assert_eq!(turned.decrypt(&ticket).unwrap(), b"session");
    let only_a = Tickets::new(Arc::new(TicketKeys::shared(A.as_bytes()).unwrap()), b"web", 3600);
    assert_eq!(only_a.decrypt(&turned.encrypt(b"session").unwrap()), None);
    // The file changes under a service that runs.
    two.keys.replace(B.as_bytes()).unwrap();
    assert_eq!(two.decrypt(&ticket), None);
    assert!(two.keys.replace(b"rubbish!").is_err());
    assert!(
        two.encrypt(b"x").and_then(|t| turned.decrypt(&t)).is_some(),
        "the good ones stay"
    );
}

#[test]
fn another_context_does_not_open_them() {
    let keys = Arc::new(TicketKeys::shared(A.as_bytes()).unwrap());
    let web = Tickets::new(Arc::clone(&keys), b"web", 3600);
    let api = Tickets::new(keys, b"api", 3600);
    let ticket = web.encrypt(b"session").unwrap();
    assert_eq!(api.decrypt(&ticket), None);
    assert_eq!(web.within(&[1; 32]).decrypt(&ticket), None);
}

#[test]
fn changed_tickets_do_not_open() {
    let tickets = Tickets::new(Arc::new(TicketKeys::random(3600, at(0)).unwrap()), b"", 3600);
    let ticket = tickets.encrypt(b"session").unwrap();
    for byte in 0..ticket.len() {
        let mut changed = ticket.clone();
        changed[byte] ^= 1;
        assert_eq!(tickets.decrypt(&changed), None, "byte {byte}");
        assert_eq!(tickets.decrypt(&ticket[..byte]), None, "cut at {byte}");
    }
    let empty = tickets.encrypt(b"").unwrap();
    assert_eq!(tickets.decrypt(&empty).unwrap(), b"");
}

#[test]
fn random_keys_live_two_rotations() {
    let keys = Arc::new(TicketKeys::random(100, at(1000)).unwrap());
    let tickets = Tickets::new(Arc::clone(&keys), b"", 100);
    let first = tickets.encrypt(b"1").unwrap();
    keys.rotate(at(1099));
    assert_eq!(tickets.encrypt(b"x").unwrap()[..NAME], first[..NAME], "not yet");
    keys.rotate(at(1100));
    let second = tickets.encrypt(b"2").unwrap();
    assert_ne!(second[..NAME], first[..NAME]);
    assert!(tickets.decrypt(&first).is_some());
    keys.rotate(at(1200));
    assert!(tickets.decrypt(&first).is_none());
    assert!(tickets.decrypt(&second).is_some());
    // After a long sleep nothing old is left.
    keys.rotate(at(9000));
    assert!(tickets.decrypt(&second).is_none());
    // A file's are for whoever writes the file.
    let shared = TicketKeys::shared(A.as_bytes()).unwrap();
    shared.rotate(at(u64::MAX));
    assert_eq!(shared.ring.read().unwrap().secrets.len(), 1);
}

#[test]
fn files_are_judged() {
    for (text, part) in [
        ("", "there is none"),
        ("# nothing\n", "there is none"),
        ("QUFB", "line 1: a key of 3 bytes"),
        ("\nnot base64!", "line 2: no base64"),
        (&format!("{A}\n{A}"), "line 2: this key stands there twice"),
        (&"A".repeat(400), "300 bytes"),
        (&"QUF=B".repeat(20), "no base64"),
    ] {
        let text = TicketKeys::shared(text.as_bytes()).unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    }
    let shown = format!("{:?}", TicketKeys::shared(A.as_bytes()).unwrap());
    assert_eq!(shown, "TicketKeys { rotation: None, .. }");
}
