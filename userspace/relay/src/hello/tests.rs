//! ClientHellos made by hand: good, bad, and cut into records and segments anywhere.

use proptest::prelude::*;

use super::*;

/// A vector behind its length in so many bytes.
fn vector(width: usize, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u64).to_be_bytes();
    [&len[8 - width..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), vector(2, content).as_slice()].concat()
}

fn sni(name: &str) -> Vec<u8> {
    let entry = [&[0], vector(2, name.as_bytes()).as_slice()].concat();
    extension(0, &vector(2, &entry))
}

fn alpn(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| vector(1, name.as_bytes())).collect();
    extension(16, &vector(2, &list))
}

/// A message with these extensions.
fn message_with(extensions: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend(vector(1, &[8; 32]));
    body.extend(vector(2, &[0x13, 1, 0x13, 2]));
    body.extend(vector(1, &[0]));
    if let Some(extensions) = extensions {
        body.extend(vector(2, extensions));
    }
    [&[1], vector(3, &body).as_slice()].concat()
}

/// Records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part| [&[22, 3, 1], vector(2, part).as_slice()].concat();
    message.chunks(size).flat_map(record).collect()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message_with(Some(extensions)), 1 << 14)
}

fn whole(bytes: &[u8]) -> Hello {
    match read(bytes) {
        Ok(Read::Whole(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_and_protocols() {
    let grease = extension(0x0a0a, &[]);
    for (extensions, name, offered) in [
        (sni("www.example.org"), Some("www.example.org"), vec![]),
        (sni("WWW.Example.ORG"), Some("www.example.org"), vec![]),
        (sni("a_b-c.1"), Some("a_b-c.1"), vec![]),
        (alpn(&["h2", "http/1.1"]), None, vec!["h2", "http/1.1"]),
        (
            [grease.clone(), alpn(&["x"]), grease, sni("b")].concat(),
            Some("b"),
            vec!["x"],
        ),
        (Vec::new(), None, vec![]),
    ] {
        let hello = whole(&hello(&extensions));
        assert_eq!(hello.sni.as_deref(), name);
        let all: Vec<_> = hello.alpn().map(|p| std::str::from_utf8(p).unwrap()).collect();
        assert_eq!(all, offered);
    }
    assert_eq!(whole(&records(&message_with(None), 1 << 14)), Hello::default());
}

/// Wherever records and segments cut it, it is the same hello, and no beginning of it is anything else.
#[test]
fn it_grows() {
    let message = message_with(Some(&[sni("www.example.org"), alpn(&["h2"])].concat()));
    let expected = whole(&records(&message, 1 << 14));
    for size in [1, 2, 3, 4, 5, 7, 50, message.len() - 1, message.len()] {
        let bytes = records(&message, size);
        assert_eq!(whole(&bytes), expected, "records of {size}");
        for cut in 0..bytes.len() {
            assert_eq!(
                read(&bytes[..cut]),
                Ok(Read::Partial),
                "records of {size}, cut at {cut}"
            );
        }
        // Early data comes behind it, in a record of its own.
        let more = [bytes.as_slice(), &[20, 3, 3, 0, 1, 1, 23, 3, 3, 0, 1]].concat();
        assert_eq!(whole(&more), expected);
    }
}

#[test]
fn what_is_no_hello() {
    let record =
        |kind, major, minor, content: &[u8]| [&[kind, major, minor], vector(2, content).as_slice()].concat();
    let good = message_with(Some(&sni("a")));
    let two = [records(&good[..9], 99), record(23, 3, 3, &good[9..])].concat();
    let behind = [good.as_slice(), &[0]].concat();
    let mut short = good.clone();
    short[3] -= 1;
    for (bytes, why) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), NoHello::NotTls),
        (b"SSH-2.0-x\r\n".to_vec(), NoHello::NotTls),
        // SSL 2.0.
        (vec![0x80, 0x2e, 1], NoHello::NotTls),
        (vec![22, 2], NoHello::NotTls),
        (vec![22, 3, 5], NoHello::NotTls),
        (vec![21, 3, 3, 0, 2, 1, 0], NoHello::NotTls),
        (vec![22, 3, 1, 0, 0], NoHello::Record),
        (vec![22, 3, 1, 0x40, 1], NoHello::Record),
        (two, NoHello::Record),
        (vec![22, 3, 1, 0, 9, 2], NoHello::Message),
        (vec![22, 3, 1, 0, 9, 1, 0, 0x40, 0], NoHello::TooLarge),
        (records(&behind, 1 << 14), NoHello::Form),
        (records(&short, 1 << 14), NoHello::Form),
        (hello(&[0, 0, 0]), NoHello::Form),
        (hello(&extension(0, &[])), NoHello::Name),
        (hello(&sni("")), NoHello::Name),
        (hello(&sni("a b")), NoHello::Name),
        (hello(&sni("a\0")), NoHello::Name),
        (hello(&sni("[::1]")), NoHello::Name),
        (hello(&sni(&"a".repeat(256))), NoHello::Name),
        (hello(&extension(0, &[0, 4, 1, 0, 1, b'a'])), NoHello::Name),
        (
            hello(&extension(0, &[0, 8, 0, 0, 1, b'a', 0, 0, 1, b'b'])),
            NoHello::Name,
        ),
        (hello(&alpn(&[])), NoHello::Protocols),
        (hello(&alpn(&[""])), NoHello::Protocols),
        (hello(&extension(16, &[0, 2, 5, b'a'])), NoHello::Protocols),
        (hello(&[sni("a"), sni("b")].concat()), NoHello::Twice),
        (hello(&[alpn(&["a"]), alpn(&["b"])].concat()), NoHello::Twice),
    ] {
        assert_eq!(read(&bytes), Err(why), "{}", bytes.escape_ascii());
    }
}

#[test]
fn parts_of_the_message_are_judged() {
    let good = message_with(Some(&sni("a")));
    let body = 4;
    let (session, suites) = (body + 34, body + 34 + 33);
    for (at, value) in [(body, 2), (session, 33), (suites + 1, 3), (suites + 1, 0)] {
        let mut wrong = good.clone();
        wrong[at] = value;
        assert_eq!(read(&records(&wrong, 1 << 14)), Err(NoHello::Form), "byte {at}");
    }
}

#[test]
fn bounds() {
    let padded = |len| message_with(Some(&[sni("a"), extension(21, &vec![0; len])].concat()));
    let rest = MAX - RECORD_HEAD - padded(0).len();
    assert_eq!(whole(&records(&padded(rest), 1 << 14)).sni.as_deref(), Some("a"));
    let large = records(&padded(rest + 1), 1 << 14);
    assert_eq!(read(&large[..12]), Err(NoHello::TooLarge));
    // It fits, but not in so many records.
    let many = records(&padded(200), 1);
    assert_eq!(read(&many[..many.len().min(MAX)]), Err(NoHello::TooLarge));
    // The heads of records count.
    let heads = records(&padded(rest), 128);
    assert_eq!(read(&heads[..MAX]), Err(NoHello::TooLarge));
    assert_eq!(read(&heads[..MAX - 1]), Ok(Read::Partial));
}

#[test]
fn every_mistake_has_its_words() {
    for (i, one) in NoHello::ALL.iter().enumerate() {
        assert_eq!(*one as usize, i);
        assert_eq!(
            NoHello::ALL
                .iter()
                .filter(|other| other.as_str() == one.as_str())
                .count(),
            1
        );
    }
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(&bytes);
    }

    #[test]
    fn any_message(body in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..64) {
        let message = [&[1], vector(3, &body).as_slice()].concat();
        let one = read(&records(&message, 1 << 14));
        prop_assert!(!matches!(one, Ok(Read::Partial)));
        prop_assert_eq!(read(&records(&message, size)), one);
    }
}
