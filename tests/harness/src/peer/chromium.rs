//! Chromium without a window, which loads one page and says what became of it.
//!
//! Owns how it is started: from a directory of its own, inside a namespace, with nothing of its own accord on the network.
//! What a page is made of, and what of it must be seen, is the test's.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use crate::{command::Cmd, netns::Netns, scratch::Scratch};

/// How long a page may take on a busy machine, with the browser's start.
const DEADLINE: Duration = Duration::from_secs(90);

/// Loads a page and gives back its document as it is when all requests are answered and all timers done, as HTML.
///
/// `host` is at `address`, no other name is anywhere. `key` is what [`key_hash`] says of the one key that is trusted,
/// whoever has signed its certificate.
///
/// # Errors
/// It is not installed, or did not come to an end in 90 s (it is killed then), or failed: the error carries its words.
pub fn document(netns: &Netns, url: &str, host: &str, address: IpAddr, key: &str) -> Result<String> {
    let scratch = Scratch::new()?;
    let home = scratch.path();
    let output = Cmd::new("chromium")
        .args(["--headless", "--disable-gpu", "--disable-dev-shm-usage"])
        // Root has no sandbox, and what it loads is ours.
        .arg("--no-sandbox")
        .arg(format!("--user-data-dir={}", home.join("profile").display()))
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--disable-sync",
        ])
        .args([
            "--disable-component-update",
            "--disable-breakpad",
            "--disable-extensions",
        ])
        .arg(format!(
            "--host-resolver-rules=MAP {host} {address}, MAP * ~NOTFOUND"
        ))
        .arg(format!("--ignore-certificate-errors-spki-list={key}"))
        // Time stands still while a request is under way: this is for timers alone.
        .args(["--virtual-time-budget=10000", "--dump-dom", url])
        .env("HOME", home)
        .env("TMPDIR", home)
        .env("XDG_RUNTIME_DIR", home)
        .deadline(DEADLINE)
        .inside(netns)
        .run()
        .context("loading a page needs chromium (Debian: package chromium), and 90 s at most")?;
    ensure!(
        output.status.success(),
        "chromium: {}: {}",
        output.status,
        output.complaint()
    );
    let text = output.text();
    if text.is_empty() {
        bail!("chromium wrote no document: {}", output.complaint());
    }
    Ok(text)
}

/// The SHA-256 of the public key of a certificate in PEM, in base64, as browsers name keys.
///
/// # Errors
/// openssl is not installed, or takes it for no certificate.
pub fn key_hash(certificate: &Path) -> Result<String> {
    let openssl = |args: &[&str], input: Vec<u8>| {
        let output = Cmd::new("openssl").args(args).stdin(input).run()?;
        ensure!(
            output.status.success(),
            "openssl {args:?}: {}",
            output.complaint()
        );
        Ok(output.stdout)
    };
    let key = openssl(&["x509", "-pubkey", "-noout"], std::fs::read(certificate)?)?;
    let key = openssl(&["pkey", "-pubin", "-outform", "DER"], key)?;
    let hash = openssl(&["dgst", "-sha256", "-binary"], key)?;
    let text = openssl(&["base64"], hash)?;
    Ok(String::from_utf8(text)?.trim().to_owned())
}
