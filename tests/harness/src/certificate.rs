//! Certificates for tests, made by openssl: signed by themselves, or by an authority of the test's own.
//!
//! A certificate and its key are PEM, in one file.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{command::Cmd, scratch::Scratch};

/// Arguments of `openssl req -newkey` for a key of elliptic curve P-256.
pub const P256: &[&str] = &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
/// Arguments of `openssl req -newkey` for a key of RSA, 2048 bits.
pub const RSA: &[&str] = &["rsa:2048"];

/// What needs openssl when it is missing.
const WHY: &str = "a certificate needs openssl (Debian and Ubuntu: package openssl)";

/// A certificate for these names that is signed by its own key, in a file of its own, and the key in another.
///
/// # Errors
/// openssl is not installed, or refuses: its own words.
pub fn pair(scratch: &Scratch, file: &str, names: &[&str], key: &[&str]) -> Result<[PathBuf; 2]> {
    let [chain, secret] = ["chain.pem", "key.pem"].map(|part| scratch.join(format!("{file}.{part}")));
    let subject = format!("/CN={}", names.first().copied().unwrap_or("test"));
    Cmd::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "30", "-subj", &subject])
        .args(["-addext", &alternative_names(names), "-newkey"])
        .args(key)
        .arg("-keyout")
        .arg(&secret)
        .arg("-out")
        .arg(&chain)
        .check()
        .context(WHY)?;
    Ok([chain, secret])
}

/// As [`pair`], both in the file of that name. A client that trusts the file believes the certificate.
///
/// # Errors
/// As [`pair`].
pub fn self_signed(scratch: &Scratch, file: &str, names: &[&str], key: &[&str]) -> Result<PathBuf> {
    together(scratch, file, pair(scratch, file, names, key)?)
}

/// An authority that issues certificates.
#[derive(Debug)]
pub struct Authority {
    certificate: PathBuf,
    key: PathBuf,
}

impl Authority {
    /// A new one, named so.
    ///
    /// # Errors
    /// As [`pair`].
    pub fn new(scratch: &Scratch, name: &str) -> Result<Self> {
        let (certificate, key) = (
            scratch.join(format!("{name}.ca")),
            scratch.join(format!("{name}.key")),
        );
        Cmd::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "30"])
            .args(["-subj", &format!("/CN={name}"), "-newkey"])
            .args(P256)
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .check()
            .context(WHY)?;
        Ok(Self { certificate, key })
    }

    /// The file that those who believe it trust.
    pub fn certificate(&self) -> String {
        self.certificate.display().to_string()
    }

    /// A certificate for this subject (`/O=Example/CN=name`) and name, and its key, in the file of that name.
    ///
    /// # Errors
    /// As [`pair`].
    pub fn issue(&self, scratch: &Scratch, file: &str, subject: &str, name: &str) -> Result<PathBuf> {
        let [request, chain, secret] =
            ["request.tmp", "chain.tmp", "key.tmp"].map(|part| scratch.join(format!("{file}.{part}")));
        Cmd::new("openssl")
            .args(["req", "-nodes", "-subj", subject])
            .args(["-addext", &alternative_names(&[name]), "-newkey"])
            .args(P256)
            .arg("-keyout")
            .arg(&secret)
            .arg("-out")
            .arg(&request)
            .check()
            .context(WHY)?;
        Cmd::new("openssl")
            .args([
                "x509",
                "-req",
                "-days",
                "30",
                "-copy_extensions",
                "copy",
                "-CAcreateserial",
                "-CA",
            ])
            .arg(&self.certificate)
            .arg("-CAkey")
            .arg(&self.key)
            .arg("-in")
            .arg(&request)
            .arg("-out")
            .arg(&chain)
            .check()
            .context(WHY)?;
        together(scratch, file, [chain, secret])
    }
}

fn alternative_names(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("DNS:{name}")).collect();
    format!("subjectAltName={}", names.join(","))
}

/// The parts, in one file of which a reader sees all or what was there before.
fn together(scratch: &Scratch, file: &str, parts: [PathBuf; 2]) -> Result<PathBuf> {
    let mut whole = String::new();
    for part in &parts {
        whole += &fs::read_to_string(part)?;
    }
    let new = scratch.write(format!("{file}.tmp"), whole)?;
    let path = scratch.join(file);
    fs::rename(&new, &path)?;
    Ok(path)
}
