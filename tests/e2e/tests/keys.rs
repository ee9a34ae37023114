//! Private keys and the files they come from: who has them, what happens when that process ends, and what becomes of
//! files that change.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use weir_e2e_tests::{Site, backend, config, pool, service, start, vip};
use weir_harness::{
    Cmd, Netns, Weir,
    certificate::{P256, pair},
    lab::Family,
    peer::{same_bytes, write_noise},
    scratch::Scratch,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A self-signed certificate with its key, as texts of PEM.
fn certificate(scratch: &Scratch) -> Result<(String, String)> {
    let [chain, key] = pair(scratch, "tmp", &["www.test"], P256)?;
    Ok((fs::read_to_string(&chain)?, fs::read_to_string(&key)?))
}

/// As a client of ACME replaces a file.
fn replace(scratch: &Scratch, name: &str, text: &str) -> Result<String> {
    let (new, path) = (scratch.join("new.tmp"), scratch.join(name));
    fs::write(&new, text)?;
    fs::rename(&new, &path)?;
    Ok(path.display().to_string())
}

fn https(chain: &str, key: &str) -> String {
    let web = pool("web", &[(backend(Family::V4, 0, 80), 1)]);
    let listen = [vip(Family::V4, 443).to_string()];
    let tls = format!("\n[services.www.tls]\ncertificates = [{{ chain = \"{chain}\", key = \"{key}\" }}]");
    web + &service("www", "http", &listen, "web", &tls)
}

/// A client that believes this certificate. Whether it was served.
fn served(netns: &Netns, ca: &str) -> Result<()> {
    let address = vip(Family::V4, 443).ip();
    Cmd::new("curl")
        .args(["-sS", "--fail", "--max-time", "5", "--cacert", ca])
        .args(["--resolve", &format!("www.test:443:{address}")])
        .args(["-o", "/dev/null", "https://www.test/"])
        .inside(netns)
        .check()
        .map(drop)
}

fn until_served(weir: &Weir<'_>, netns: &Netns, ca: &str) -> Result<()> {
    let again = || served(netns, ca).map_err(|e| format!("{e:#}"));
    weir.with_log(wait_until(PATIENCE, "a client is served", again))
}

fn s_client(netns: &Netns, args: &[&str]) -> Result<String> {
    let output = Cmd::new("openssl")
        .args(["s_client", "-connect", &vip(Family::V4, 443).to_string()])
        .args(["-servername", "www.test", "-ign_eof"])
        .args(args)
        .inside(netns)
        .stdin("GET / HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n")
        .run()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn other_pid(weir: &Weir<'_>, before: u32) -> Result<u32> {
    wait_until(PATIENCE, "another keys process runs", || {
        match weir.role_pid("keys") {
            Ok(pid) if pid != before => Ok(pid),
            Ok(pid) => Err(format!("process {pid} still")),
            Err(e) => Err(format!("{e:#}")),
        }
    })
}

/// The 32 bytes of a P-256 key, as RFC 5915 has them.
fn scalar(key: &str) -> Result<Vec<u8>> {
    let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    let (mut der, mut held, mut bits) = (Vec::new(), 0_u32, 0);
    for byte in body.bytes().filter(|b| *b != b'=') {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digit = alphabet.iter().position(|a| *a == byte).context("no base64")?;
        held = (held << 6) | u32::try_from(digit)?;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            der.push(u8::try_from(held >> bits & 0xff)?);
        }
    }
    // Version 1, then an OCTET STRING of 32 bytes.
    let begin = der
        .windows(5)
        .position(|w| w == [2, 1, 1, 4, 32])
        .context("no key in it")?;
    Ok(der.get(begin + 5..begin + 37).context("a short key")?.to_vec())
}

/// How often bytes stand in a process's memory, forward or backward.
fn found(pid: u32, wanted: &[u8]) -> Result<usize> {
    let backward: Vec<u8> = wanted.iter().rev().copied().collect();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let mut memory = fs::File::open(format!("/proc/{pid}/mem"))?;
    let (mut count, mut bytes) = (0, 0);
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (
            fields.next().context("a range")?,
            fields.next().context("rights")?,
        );
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut part = vec![0; usize::try_from(to - from)?];
        memory.seek(SeekFrom::Start(from))?;
        if memory.read_exact(&mut part).is_ok() {
            bytes += part.len();
            for way in [wanted, &backward] {
                let mut rest = part.as_slice();
                while let Some(at) = rest.iter().position(|b| b == &way[0]) {
                    rest = &rest[at..];
                    count += usize::from(rest.starts_with(way));
                    rest = &rest[1..];
                }
            }
        }
    }
    ensure!(
        bytes > 100_000,
        "only {bytes} bytes of process {pid} could be read"
    );
    Ok(count)
}

#[test]
fn the_key_is_in_the_keys_process_alone() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let (chain, key) = certificate(&scratch)?;
    let ca = replace(&scratch, "www.pem", &chain)?;
    let weir = start(&site.lab, https(&ca, &replace(&scratch, "www.key", &key)?))?;
    for version in ["-tls1_2", "-tls1_3"] {
        let said = weir.with_log(s_client(&site.lab.client, &[version]))?;
        ensure!(said.contains("200 OK"), "{said}");
    }
    let scalar = scalar(&key)?;
    let text: Vec<_> = key.lines().nth(1).context("a line")?.bytes().collect();
    let keys = weir.role_pid("keys")?;
    assert!(found(keys, &scalar)? > 0, "this is how it would look");
    for role in ["relay", "health"] {
        let pid = weir.role_pid(role)?;
        assert_eq!(found(pid, &scalar)?, 0, "{role}");
        assert_eq!(found(pid, &text)?, 0, "{role}");
    }
    let status = fs::read_to_string(format!("/proc/{keys}/status"))?;
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert!(!status.contains("Uid:\t0"), "{status}");
    // What is not dumpable belongs to root in /proc, whoever runs it.
    assert_eq!(fs::metadata(format!("/proc/{keys}/mem"))?.uid(), 0);
    let limits = fs::read_to_string(format!("/proc/{keys}/limits"))?;
    let core = limits
        .lines()
        .find(|l| l.starts_with("Max core file size"))
        .unwrap_or_default();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    assert!(
        weir.metrics()?
            .sum("weir_tls_certificate_not_after_timestamp_seconds", &[])?
            > 1.7e9
    );
    Ok(())
}

#[test]
fn without_tls_there_is_no_keys_process() -> Result<()> {
    let site = Site::new(1)?;
    let mut weir = start(&site.lab, config(&[0]))?;
    assert!(weir.role_pid("keys").is_err());
    // It comes and goes with the services that need it.
    let scratch = Scratch::new()?;
    let (chain, key) = certificate(&scratch)?;
    let ca = replace(&scratch, "www.pem", &chain)?;
    weir.rewrite(https(&ca, &replace(&scratch, "www.key", &key)?))?;
    weir.ask(&["reload"])?;
    until_served(&weir, &site.lab.client, &ca)?;
    let pid = weir.role_pid("keys")?;
    weir.rewrite(config(&[0]))?;
    weir.ask(&["reload"])?;
    wait_until(PATIENCE, "the keys process ends", || {
        match site.lab.router.processes() {
            Ok(pids) if !pids.contains(&pid) => Ok(()),
            Ok(_) => Err("it runs".to_owned()),
            Err(e) => Err(format!("{e:#}")),
        }
    })?;
    assert!(weir.role_pid("keys").is_err());
    Ok(())
}

#[test]
fn a_keys_process_that_is_killed_costs_a_few_handshakes() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let (chain, key) = certificate(&scratch)?;
    let ca = replace(&scratch, "www.pem", &chain)?;
    let weir = start(&site.lab, https(&ca, &replace(&scratch, "www.key", &key)?))?;
    let client = &site.lab.client;
    until_served(&weir, client, &ca)?;
    let (sent, received) = (site.nginx[0].file("noise"), scratch.join("received"));
    write_noise(&sent, 6_000_000, 5)?;
    thread::scope(|scope| -> Result<()> {
        // Three seconds long, over one connection.
        let download = scope.spawn(|| {
            let address = vip(Family::V4, 443).ip();
            Cmd::new("curl")
                .args([
                    "-sS",
                    "--fail",
                    "--max-time",
                    "60",
                    "--limit-rate",
                    "2M",
                    "--cacert",
                    &ca,
                ])
                .args(["--resolve", &format!("www.test:443:{address}"), "-o"])
                .arg(&received)
                .arg("https://www.test/files/noise")
                .inside(client)
                .check()
        });
        thread::sleep(Duration::from_millis(500));
        for _ in 0..2 {
            let before = weir.kill_role("keys")?;
            until_served(&weir, client, &ca)?;
            other_pid(&weir, before)?;
        }
        let ended = download
            .join()
            .map_err(|_| anyhow::anyhow!("the download panicked"))?;
        weir.with_log(ended.map(drop))
    })?;
    same_bytes(&sent, &received)?;
    // The relay can go, too.
    weir.kill_role("relay")?;
    until_served(&weir, client, &ca)
}

#[test]
fn sessions_are_resumed_while_nobody_signs() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let (chain, key) = certificate(&scratch)?;
    let ca = replace(&scratch, "www.pem", &chain)?;
    let weir = start(&site.lab, https(&ca, &replace(&scratch, "www.key", &key)?))?;
    let client = &site.lab.client;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = scratch.join(version).display().to_string();
        let said = s_client(client, &[version, "-sess_out", &session])?;
        ensure!(said.contains("200 OK"), "{said}");
    }
    let stopped = weir.signal_role("keys", Signal::SIGSTOP)?;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = scratch.join(version).display().to_string();
        let said = s_client(client, &[version, "-sess_in", &session])?;
        ensure!(
            said.contains("Reused") && said.contains("200 OK"),
            "{version}: {said}"
        );
    }
    assert!(served(client, &ca).is_err(), "a new session needs a signature");
    // One that hangs is replaced.
    other_pid(&weir, stopped)?;
    until_served(&weir, client, &ca)
}

#[test]
fn keys_are_there_while_control_is_not() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let (chain, key) = certificate(&scratch)?;
    let ca = replace(&scratch, "www.pem", &chain)?;
    let mut weir = start(&site.lab, https(&ca, &replace(&scratch, "www.key", &key)?))?;
    let client = &site.lab.client;
    until_served(&weir, client, &ca)?;
    let before = weir.role_pid("keys")?;
    weir.kill_control();
    for _ in 0..5 {
        served(client, &ca)?;
    }
    weir.start_again()?;
    assert_eq!(weir.role_pid("keys")?, before);
    served(client, &ca)?;
    weir.stop()?;
    assert!(!site.lab.router.processes()?.contains(&before));
    Ok(())
}

#[test]
fn files_that_change_are_taken_in_if_they_hold() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let (first, second, third) = (
        certificate(&scratch)?,
        certificate(&scratch)?,
        certificate(&scratch)?,
    );
    let path = replace(&scratch, "www.pem", &first.0)?;
    let weir = start(&site.lab, https(&path, &replace(&scratch, "www.key", &first.1)?))?;
    let client = &site.lab.client;
    until_served(&weir, client, &path)?;
    let generation = || weir.metrics()?.sum("weir_config_applied_total", &[]);
    let before = generation()?;
    // Renewed.
    replace(&scratch, "www.key", &second.1)?;
    replace(&scratch, "www.pem", &second.0)?;
    until_served(&weir, client, &path)?;
    assert_eq!(generation()? - before, 1.0);
    // Broken: the one before goes on, and it is told everywhere, once.
    let good = replace(&scratch, "second.pem", &second.0)?;
    replace(&scratch, "www.pem", &third.0)?;
    let failed = || {
        let failed = weir
            .metrics()
            .and_then(|m| m.sum("weir_tls_certificate_reload_failed", &[("file", &path)]));
        match failed {
            Ok(1.0) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    };
    wait_until(PATIENCE, "the metric tells", failed)?;
    thread::sleep(Duration::from_secs(5));
    served(client, &good)?;
    assert_eq!(
        weir.metrics()?
            .sum("weir_tls_certificate_reload_failures_total", &[("file", &path)])?,
        1.0
    );
    let status = weir.ask(&["status"])?;
    assert!(
        status.contains("has changed and does not hold") && status.contains("the key is not"),
        "{status}"
    );
    let told = weir.log().matches("does not hold; what was served").count();
    assert_eq!(told, 1);
    assert!(
        weir.cli(&["reload"])?.status.code() != Some(0),
        "a reload says so, too"
    );
    served(client, &good)?;
    // Mended.
    replace(&scratch, "www.key", &third.1)?;
    until_served(&weir, client, &path)?;
    let status = weir.ask(&["status"])?;
    assert!(!status.contains("does not hold"), "{status}");
    assert_eq!(
        weir.metrics()?.sum("weir_tls_certificate_reload_failed", &[])?,
        0.0
    );
    Ok(())
}
