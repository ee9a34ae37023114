//! What a ClientHello says before anybody has answered it: the name that it asks for (RFC 6066 section 3).
//!
//! Reads no more than it needs, and judges nothing: that is rustls'. What is not whole, or not as it should be, has no
//! name.

/// The longest handshake message that is joined from records.
const LONGEST: usize = 64 << 10;

/// The name, in lower case, that a connection's first bytes ask for.
pub(super) fn server_name(records: &[u8]) -> Option<String> {
    let message = joined(records)?;
    let mut body = Bytes(message.get(4..)?);
    // legacy_version, random.
    body.take(2 + 32)?;
    body.list8()?;
    // cipher_suites, legacy_compression_methods.
    body.list16()?;
    body.list8()?;
    let mut extensions = Bytes(body.list16()?);
    while let Some(kind) = extensions.u16() {
        let data = extensions.list16()?;
        if kind != 0 {
            continue;
        }
        let mut names = Bytes(Bytes(data).list16()?);
        while let Some(kind) = names.u8() {
            let name = names.list16()?;
            if kind == 0 {
                let name = std::str::from_utf8(name).ok()?;
                let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
                let is_name = !name.is_empty() && name.len() <= 253 && name.bytes().all(sound);
                return is_name.then(|| name.to_ascii_lowercase());
            }
        }
    }
    None
}

/// The ClientHello, put together from the records that it may be spread over.
fn joined(records: &[u8]) -> Option<Vec<u8>> {
    let mut records = Bytes(records);
    let mut message = Vec::new();
    loop {
        if records.u8()? != 22 {
            return None;
        }
        records.take(2)?;
        message.extend_from_slice(records.list16()?);
        let &[1, a, b, c, ..] = message.as_slice() else {
            match message.first() {
                Some(1) if message.len() < 4 => continue,
                _ => return None,
            }
        };
        let length = 4 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
        if length > LONGEST {
            return None;
        }
        if message.len() >= length {
            message.truncate(length);
            return Some(message);
        }
    }
}

/// Bytes that are taken from the front.
struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().copied().map(u16::from_be_bytes)
    }

    /// What a length of one byte stands before.
    fn list8(&mut self) -> Option<&'b [u8]> {
        let n = self.u8()?;
        self.take(n.into())
    }

    /// What a length of two bytes stands before.
    fn list16(&mut self) -> Option<&'b [u8]> {
        let n = self.u16()?;
        self.take(n.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello that asks for `name`, in records of `size` bytes.
    fn hello(name: &[u8], size: usize) -> Vec<u8> {
        let u16 = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
        let mut names = vec![0];
        names.extend_from_slice(&u16(name.len()));
        names.extend_from_slice(name);
        // Another extension before it.
        let mut extensions = vec![0, 43, 0, 3, 2, 3, 4, 0, 0];
        extensions.extend_from_slice(&u16(names.len() + 2));
        extensions.extend_from_slice(&u16(names.len()));
        extensions.extend_from_slice(&names);
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[1, 9, 0, 2, 19, 1, 1, 0]);
        body.extend_from_slice(&u16(extensions.len()));
        body.extend_from_slice(&extensions);
        let mut message = vec![1, 0];
        message.extend_from_slice(&u16(body.len()));
        message.extend_from_slice(&body);
        message
            .chunks(size)
            .flat_map(|part| {
                let mut record = vec![22, 3, 1];
                record.extend_from_slice(&u16(part.len()));
                record.extend_from_slice(part);
                record
            })
            .collect()
    }

    #[test]
    fn the_name_is_found_in_one_record_and_in_many() {
        for size in [1, 3, 40, 10_000] {
            let records = hello(b"WWW.example.net", size);
            assert_eq!(
                server_name(&records).as_deref(),
                Some("www.example.net"),
                "{size}"
            );
            for cut in 0..records.len() {
                assert_eq!(server_name(&records[..cut]), None, "{size} {cut}");
            }
        }
        for bad in [&b""[..], b"a b", b"a\0b", b"\xff", &[b'a'; 254]] {
            assert_eq!(server_name(&hello(bad, 10_000)), None);
        }
        assert_eq!(server_name(b"GET / HTTP/1.1\r\n"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = server_name(&bytes);
            let _ = server_name(&[&[22, 3, 1, 1, 0x80, 1, 0, 1][..], &bytes].concat());
        }
    }
}
