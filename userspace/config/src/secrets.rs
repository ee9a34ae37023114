//! Files of keys that sign adverts.
//!
//! Owns what such a file may hold and who may read it. A key goes from here to who signs, and is in no plan, message or log.

use std::{fs::File, io::Read, os::unix::fs::MetadataExt, path::Path};

/// The shortest key: less can be guessed.
const SHORTEST: usize = 16;
/// The longest.
const LONGEST: u64 = 1024;

/// The key that a file holds: its content without white space at both ends, 16 to 1 024 bytes.
///
/// # Errors
/// What is wrong with the file, as it goes on behind "names FILE, which", and the mend.
pub fn read(path: &Path) -> Result<Vec<u8>, (String, &'static str)> {
    const DRAW: &str = "write 32 random bytes into it with `openssl rand -hex 32`, the same on all boxes";
    let unreadable = |error: std::io::Error| {
        (
            format!("cannot be read: {error}"),
            "name a file that weir may read; `openssl rand -hex 32` draws a key",
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(("is no file".into(), DRAW));
    }
    if metadata.mode() & 0o007 != 0 {
        return Err((
            format!("is open to everybody (mode {:o})", metadata.mode() & 0o7777),
            "`chmod 600` it: who can read it can depose a master",
        ));
    }
    let mut bytes = Vec::new();
    file.take(LONGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LONGEST {
        return Err((format!("is longer than {LONGEST} bytes"), DRAW));
    }
    let key = bytes.trim_ascii();
    if key.len() < SHORTEST {
        return Err((
            format!(
                "holds {} bytes, less than the {SHORTEST} of the shortest key",
                key.len()
            ),
            DRAW,
        ));
    }
    Ok(key.to_vec())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn what_is_a_key_and_what_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let with = |content: &[u8], mode: u32| {
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            read(&path).map_err(|(what, _)| what)
        };
        assert_eq!(with(b" 0123456789abcdef\n", 0o600).unwrap(), b"0123456789abcdef");
        assert_eq!(with(&[7; 1024], 0o640).unwrap(), [7; 1024]);
        for (content, mode, what) in [
            (&b"0123456789abcdef"[..], 0o644, "is open to everybody (mode 644)"),
            (
                b"0123456789abcde\n\n",
                0o600,
                "holds 15 bytes, less than the 16 of the shortest key",
            ),
            (&[7; 1025], 0o600, "is longer than 1024 bytes"),
        ] {
            assert_eq!(with(content, mode).unwrap_err(), what);
        }
        assert_eq!(read(dir.path()).unwrap_err().0, "is no file");
        let (what, _) = read(&dir.path().join("none")).unwrap_err();
        assert!(what.starts_with("cannot be read: "), "{what}");
    }
}
