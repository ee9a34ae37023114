//! Texts too long for a packet, as sealed memory files; and secrets, which are overwritten once they are read.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::fd::OwnedFd,
};

use anyhow::{Context, ensure};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::memfd::{MFdFlags, memfd_create},
};
use weir_tls::Secret;

/// Longest text that is read, in bytes: a configuration has at most 16 MiB.
const MAX_TEXT: u64 = 40 << 20;
/// What makes a memory file safe to read: nobody can change it any more.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Longest secret that is read, in bytes.
const MAX_SECRET: u64 = 4 << 20;
/// What makes a secret's length safe to rely on. It is not sealed against writing: its reader overwrites it.
const SECRET_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// A memory file that holds a secret, for one reader.
pub(crate) fn secret(name: &str, content: &Secret) -> anyhow::Result<OwnedFd> {
    let fd =
        memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).context("memfd_create")?;
    let mut file = File::from(fd);
    file.write_all(content.bytes())
        .context("write to a memory file")?;
    file.rewind().context("rewind a memory file")?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SECRET_SEALS | SealFlag::F_SEAL_SEAL))
        .context("seal a memory file")?;
    Ok(file.into())
}

/// Takes the secret out of such a file: zeros are left.
///
/// # Errors
/// It is no such file, or too long.
pub(crate) fn read_secret(fd: OwnedFd) -> anyhow::Result<Secret> {
    let mut file = File::from(fd);
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).context("not a memory file")?;
    ensure!(
        SealFlag::from_bits_truncate(seals).contains(SECRET_SEALS),
        "a memory file that is not sealed"
    );
    let length = file.metadata().context("size of a memory file")?.len();
    ensure!(
        length <= MAX_SECRET,
        "a secret of {length} bytes is over the limit of {MAX_SECRET}"
    );
    file.rewind().context("rewind a memory file")?;
    let secret = Secret::read(&mut file, MAX_SECRET).context("read a memory file")?;
    file.rewind().context("rewind a memory file")?;
    std::io::copy(&mut std::io::repeat(0).take(length), &mut file).context("overwrite a memory file")?;
    Ok(secret)
}

/// A sealed memory file that holds the text: its receiver may rely on it not changing.
pub(crate) fn text(name: &str, content: &[u8]) -> anyhow::Result<OwnedFd> {
    let fd =
        memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).context("memfd_create")?;
    let mut file = File::from(fd);
    file.write_all(content).context("write to a memory file")?;
    file.rewind().context("rewind a memory file")?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS | SealFlag::F_SEAL_SEAL)).context("seal a memory file")?;
    Ok(file.into())
}

/// The text of such a file.
///
/// # Errors
/// It is no sealed memory file (a file of another kind could block its reader), or too long, or not UTF-8.
pub(crate) fn read_text(fd: OwnedFd) -> anyhow::Result<String> {
    let mut file = File::from(fd);
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS).context("not a memory file")?;
    ensure!(
        SealFlag::from_bits_truncate(seals).contains(SEALS),
        "a memory file that is not sealed"
    );
    let length = file.metadata().context("size of a memory file")?.len();
    ensure!(
        length <= MAX_TEXT,
        "a text of {length} bytes is over the limit of {MAX_TEXT}"
    );
    file.rewind().context("rewind a memory file")?;
    let mut content = String::new();
    file.take(MAX_TEXT)
        .read_to_string(&mut content)
        .context("read a memory file")?;
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_once() {
        let fd = secret("weir-test", &Secret::from(b"very secret".to_vec())).unwrap();
        let mut copy = File::from(fd.try_clone().unwrap());
        assert_eq!(read_secret(fd).unwrap().bytes(), b"very secret");
        copy.rewind().unwrap();
        let mut left = Vec::new();
        copy.read_to_end(&mut left).unwrap();
        assert_eq!(left, [0; 11]);
        assert!(
            read_secret(File::open("/dev/null").unwrap().into()).is_err(),
            "not a memory file"
        );
        assert!(
            read_secret(text("weir-test", b"x").unwrap()).is_err(),
            "can't be overwritten"
        );
    }

    #[test]
    fn a_text_survives_and_is_sealed() {
        let long = "x".repeat(1 << 20);
        let fd = text("weir-test", long.as_bytes()).unwrap();
        let mut copy = File::from(fd.try_clone().unwrap());
        assert!(copy.write_all(b"other").is_err(), "sealed against writing");
        assert_eq!(read_text(fd).unwrap(), long);
        let open = memfd_create("weir-test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        assert!(read_text(open).is_err(), "not sealed");
        assert!(
            read_text(File::open("/dev/null").unwrap().into()).is_err(),
            "not a memory file"
        );
    }
}
