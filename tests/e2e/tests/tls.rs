//! TLS with clients: curl in both versions of HTTP, openssl in both versions of TLS, and what becomes of strangers.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use weir_e2e_tests::{Site, backend, pool, service, start, vip};
use weir_harness::{
    Cmd, Netns, Weir,
    certificate::{self, P256, RSA},
    lab::Family,
    peer::{curl, same_bytes, write_noise},
    scratch::Scratch,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate that trusts itself: its file.
fn certificate(scratch: &Scratch, file: &str, names: &[&str], key: &[&str]) -> Result<String> {
    Ok(certificate::self_signed(scratch, file, names, key)?
        .display()
        .to_string())
}

/// The service of port 443, with these keys.
fn https(tls: &str) -> String {
    let web = pool("web", &[(backend(Family::V4, 0, 80), 1)]);
    let listen = [vip(Family::V4, 443).to_string()];
    web + &service(
        "www",
        "http",
        &listen,
        "web",
        &format!("\n[services.www.tls]\n{tls}"),
    )
}

/// What `openssl s_client` says of a handshake. It ends as soon as it has no more to say.
fn s_client(netns: &Netns, port: u16, args: &[&str]) -> Result<String> {
    let output = Cmd::new("openssl")
        .args(["s_client", "-connect", &vip(Family::V4, port).to_string()])
        .args(args)
        .inside(netns)
        .run()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

fn url(path: &str) -> String {
    format!("https://www.test:443{path}")
}

/// Arguments for curl: how the name resolves, and whom it trusts.
fn trusting(ca: &str) -> Vec<String> {
    let address = vip(Family::V4, 443).ip();
    ["--resolve", &format!("www.test:443:{address}"), "--cacert", ca]
        .map(str::to_owned)
        .to_vec()
}

fn get(weir: &Weir<'_>, netns: &Netns, path: &str, args: &[&str], ca: &str) -> Result<curl::Response> {
    let trusting = trusting(ca);
    let args: Vec<&str> = args
        .iter()
        .copied()
        .chain(trusting.iter().map(String::as_str))
        .collect();
    weir.with_log(curl::get(netns, &url(path), &args))
}

#[test]
fn curl_and_openssl_are_served() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let ca = certificate(&scratch, "www.pem", &["www.test", "*.many.test"], P256)?;
    let rsa = certificate(&scratch, "rsa.pem", &["www.test"], RSA)?;
    let weir = start(&site.lab, https(&format!("certificates = [\"{ca}\", \"{rsa}\"]")))?;
    let client = &site.lab.client;

    for (http, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let told = ["-w", "%{http_version}", http];
        let answer = get(&weir, client, "/", &told, &ca)?;
        assert_eq!(answer.status, 200);
        assert!(answer.text().ends_with(version), "{http}: {}", answer.text());
        // A body each way.
        let (sent, received) = (scratch.join("sent"), scratch.join("received"));
        write_noise(&sent, 9_000_001, 3)?;
        let run = |args: &[&str]| {
            Cmd::new("curl")
                .args(["-sS", "--fail", "--max-time", "60", http])
                .args(trusting(&ca))
                .args(args)
                .arg(url("/files/noise"))
                .inside(client)
                .check()
        };
        weir.with_log(run(&["-T", &sent.display().to_string()]))?;
        same_bytes(&sent, &site.nginx[0].file("noise"))?;
        weir.with_log(run(&["-o", &received.display().to_string()]))?;
        same_bytes(&sent, &received)?;
    }

    // Each version, each kind of certificate, and names below the wildcard.
    for version in ["-tls1_2", "-tls1_3"] {
        for (sigalgs, kind) in [
            ("ecdsa_secp256r1_sha256", "ECDSA"),
            ("rsa_pss_rsae_sha256", "RSA-PSS"),
        ] {
            let args = [
                version,
                "-servername",
                "www.test",
                "-sigalgs",
                sigalgs,
                "-alpn",
                "h2",
            ];
            let said = s_client(client, 443, &args)?;
            assert!(
                said.contains(&format!("Peer signature type: {kind}")),
                "{version} {kind}: {said}"
            );
            assert!(said.contains("ALPN protocol: h2"), "{said}");
        }
        let said = s_client(
            client,
            443,
            &[version, "-servername", "a.many.test", "-CAfile", &ca],
        )?;
        assert!(said.contains("Verify return code: 0"), "{said}");
    }
    // Sessions are taken up again, in each version.
    for version in ["-tls1_2", "-tls1_3"] {
        let session = scratch.join("session").display().to_string();
        for (what, resumed) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let said = Cmd::new("openssl")
                .args(["s_client", "-ign_eof", "-servername", "www.test", "-connect"])
                .arg(vip(Family::V4, 443).to_string())
                .args([version, what, &session])
                // The ticket of TLS 1.3 comes with the response.
                .stdin("GET / HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n")
                .inside(client)
                .run()?
                .text();
            assert!(said.contains(resumed), "{version} {what}: {said}");
        }
    }

    // Plain HTTP is told what is wrong, old clients get an alert, and each has its reason.
    let answer = curl::get(client, &format!("http://{}/", vip(Family::V4, 443)), &[])?;
    assert_eq!(answer.status, 400);
    let said = s_client(client, 443, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])?;
    assert!(said.contains("alert"), "{said}");
    for reason in ["tls-plain", "tls-unagreed"] {
        let labels = [("service", "www"), ("reason", reason)];
        wait_until(PATIENCE, reason, || {
            let count = weir
                .metrics()
                .and_then(|m| m.sum("weir_relay_ends_total", &labels));
            match count {
                Ok(count) if count > 0.0 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
    }
    Ok(())
}

/// New files are taken by a reload; files that are wrong are not, and what is served goes on.
#[test]
fn certificates_are_renewed() -> Result<()> {
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let file = certificate(&scratch, "www.pem", &["www.test"], P256)?;
    let weir = start(&site.lab, https(&format!("certificates = [\"{file}\"]")))?;
    let client = &site.lab.client;
    let old = scratch.join("old.pem").display().to_string();
    fs::copy(&file, &old)?;
    assert_eq!(get(&weir, client, "/", &[], &old)?.status, 200);
    certificate(&scratch, "www.pem", &["www.test"], P256)?;
    assert_eq!(
        get(&weir, client, "/", &[], &old)?.status,
        200,
        "before the reload"
    );
    weir.ask(&["reload"])?;
    assert_eq!(get(&weir, client, "/", &[], &file)?.status, 200, "after it");
    assert!(get(&weir, client, "/", &[], &old).is_err(), "the old one is gone");
    let new = scratch.join("new.pem").display().to_string();
    fs::copy(&file, &new)?;
    fs::write(&file, "nothing")?;
    let refused = weir.cli(&["reload"])?;
    ensure!(!refused.status.success(), "it was taken");
    let refused = refused.complaint();
    assert!(refused.contains("holds no certificate"), "{refused}");
    assert_eq!(
        get(&weir, client, "/", &[], &new)?.status,
        200,
        "what was good is kept"
    );
    Ok(())
}
