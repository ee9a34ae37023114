//! What testssl.sh finds wrong with the TLS of a service as it is by default: nothing above "low".
//!
//! It is asked for what weir decides: versions, suites, forward secrecy, the server's choices, and all the attacks that it
//! knows by name. What it finds of clients that are simulated, and of header fields, is another's.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_e2e_tests::{Site, backend, pool, service, start, vip};
use weir_harness::{Cmd, lab::Family, scratch::Scratch};

const P256: [&str; 4] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 2] = ["-newkey", "rsa:2048"];

/// What an authority of today puts into a certificate, and testssl.sh misses otherwise.
const EXTENSIONS: &str = "subjectAltName = DNS:www.test\nkeyUsage = digitalSignature\nextendedKeyUsage = serverAuth\n\
    basicConstraints = CA:false\ncrlDistributionPoints = URI:http://ours.test/list.crl\n";

/// A certificate of the authority, and its key, in one file.
fn issue(scratch: &Scratch, name: &str, key: &[&str]) -> Result<String> {
    let [request, chain, secret] = ["csr", "crt", "key"].map(|kind| scratch.join(format!("{name}.{kind}")));
    Cmd::new("openssl")
        .args(["req", "-nodes", "-subj", "/CN=www.test"])
        .args(key)
        .arg("-keyout")
        .arg(&secret)
        .arg("-out")
        .arg(&request)
        .check()?;
    Cmd::new("openssl")
        .args(["x509", "-req", "-days", "90", "-CAcreateserial", "-CA"])
        .arg(scratch.join("ours.crt"))
        .arg("-CAkey")
        .arg(scratch.join("ours.key"))
        .arg("-in")
        .arg(&request)
        .arg("-extfile")
        .arg(scratch.write(format!("{name}.ext"), EXTENSIONS)?)
        .arg("-out")
        .arg(&chain)
        .check()?;
    let both = fs::read_to_string(&chain)? + &fs::read_to_string(&secret)?;
    Ok(scratch.write(format!("{name}.pem"), both)?.display().to_string())
}

#[test]
fn testssl_finds_nothing_above_low() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    Cmd::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "90", "-subj", "/CN=ours"])
        .args(P256)
        .arg("-keyout")
        .arg(scratch.join("ours.key"))
        .arg("-out")
        .arg(scratch.join("ours.crt"))
        .check()?;
    let (p256, rsa) = (issue(&scratch, "p256", &P256)?, issue(&scratch, "rsa", &RSA)?);
    let listen = [vip(Family::V4, 443).to_string()];
    let tls = format!("\n[services.www.tls]\ncertificates = [\"{p256}\", \"{rsa}\"]\n");
    let body =
        pool("web", &[(backend(Family::V4, 0, 80), 1)]) + &service("www", "http", &listen, "web", &tls);
    let weir = start(&site.lab, body)?;
    let report = scratch.join("report.json");
    let scanned = Cmd::new("testssl")
        .args(["--quiet", "--warnings", "off", "--color", "0", "--nodns", "none"])
        .args(["--connect-timeout", "10", "--openssl-timeout", "10"])
        .args(["--ip", &Family::V4.vip().to_string(), "--add-ca"])
        .arg(scratch.join("ours.crt"))
        .arg("--jsonfile")
        .arg(&report)
        .args(["-p", "-s", "-f", "-P", "-S", "-U", "www.test:443"])
        .env("TERM", "dumb")
        .env("HOME", scratch.path())
        .deadline(Duration::from_secs(300))
        .inside(&site.lab.client)
        .run()
        .context("a look at TLS needs testssl.sh (Debian and Ubuntu: package testssl.sh)")?;
    let text = fs::read_to_string(&report).with_context(|| {
        format!(
            "testssl.sh left no report: {} {}",
            scanned.text(),
            scanned.complaint()
        )
    })?;
    let found: Vec<Value> = serde_json::from_str(&text).context("the report of testssl.sh")?;
    let of = |finding: &Value, key: &str| {
        finding
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let all: BTreeMap<_, _> = found
        .iter()
        .map(|finding| {
            (
                of(finding, "id"),
                (of(finding, "severity"), of(finding, "finding")),
            )
        })
        .collect();
    // What it says of the openssl that it uses itself is nothing of weir. Nor is whether it could try resumption: its
    // s_client leaves at the end of the handshake, which of TLS 1.3 is before a ticket can have come (RFC 8446 section
    // 4.6.1), and with none in hand it says "connect problem" the next time. Resumption is tested in tls.rs.
    let is_own = |id: &str| matches!(id, "engine_problem" | "sessionresumption_ticket");
    let bad: Vec<_> = all
        .iter()
        .filter(|(id, (severity, _))| !is_own(id) && !matches!(severity.as_str(), "OK" | "INFO" | "LOW"))
        .collect();
    ensure!(bad.is_empty(), "{bad:#?}\n{}", weir.log());
    // It has looked at all of it, and saw what is there.
    for (id, severity, said) in [
        ("SSLv3", "OK", "not offered"),
        ("TLS1", "INFO", "not offered"),
        ("TLS1_1", "INFO", "not offered"),
        ("TLS1_2", "OK", "offered"),
        ("TLS1_3", "OK", "offered with final"),
        ("PFS", "OK", "offered"),
        ("heartbleed", "OK", "not vulnerable"),
        ("ROBOT", "OK", "not vulnerable"),
        ("secure_client_renego", "OK", "not vulnerable"),
        ("SWEET32", "OK", "not vulnerable"),
        ("RC4", "OK", "not vulnerable"),
    ] {
        let (told, finding) = all
            .get(id)
            .with_context(|| format!("no finding {id}: {all:#?}"))?;
        ensure!(
            told == severity && finding.contains(said),
            "{id}: {told} {finding}"
        );
    }
    Ok(())
}
