//! Bytes that are overwritten when they are let go: private keys between a file and whoever signs with them.
//!
//! Owns the buffer. It never grows, so that no copy is left behind where it was before.

use std::{
    fmt,
    io::{self, Read},
};

use zeroize::Zeroize;

/// A secret. Not displayed.
#[derive(Default)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads all that there is, at most so many bytes.
    ///
    /// # Errors
    /// It can't be read, or is longer.
    pub fn read(mut from: impl Read, most: u64) -> io::Result<Self> {
        // What does not fit moves to a buffer of twice the size, and the one before is overwritten.
        let mut secret = Self(vec![0; 4096]);
        let mut length = 0;
        loop {
            if length == secret.0.len() {
                let mut larger = Self(vec![0; length * 2]);
                let (begin, _) = larger.0.split_at_mut(length);
                begin.copy_from_slice(&secret.0);
                std::mem::swap(&mut secret, &mut larger);
            }
            let room = secret.0.get_mut(length..).unwrap_or_default();
            match from.read(room) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if length as u64 > most {
                return Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    format!("longer than {most} bytes"),
                ));
            }
        }
        secret.0.truncate(length);
        Ok(secret)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// All of these, one after the other.
    pub fn concat<'a>(parts: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let length = parts.clone().map(<[u8]>::len).sum();
        let mut all = Vec::with_capacity(length);
        parts.for_each(|part| all.extend_from_slice(part));
        Self(all)
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_whole_and_bounded() {
        for length in [0_usize, 1, 4095, 4096, 4097, 20_000] {
            let bytes: Vec<_> = (0..length).map(|at| at as u8).collect();
            let secret = Secret::read(bytes.as_slice(), 20_000).unwrap();
            assert_eq!(secret.bytes(), bytes);
            assert_eq!(format!("{secret:?}"), format!("Secret({length} bytes)"));
        }
        assert!(Secret::read([0; 20_001].as_slice(), 20_000).is_err());
        let both = Secret::concat([b"a".as_slice(), b"bc"].into_iter());
        assert_eq!(both.bytes(), b"abc");
    }
}
