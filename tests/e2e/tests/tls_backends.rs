//! TLS with backends: nginx behind it in both versions of HTTP, with a client's certificate, and what becomes of pools whose
//! backends can't be believed.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use weir_e2e_tests::{PATIENT, backend, service, start, vip};
use weir_harness::{
    Lab,
    certificate::Authority,
    lab::Family,
    peer::{
        curl::{self, url},
        nginx::Nginx,
    },
    scratch::Scratch,
    wait_until,
};

const PATIENCE: Duration = Duration::from_secs(15);

fn pool(name: &str, protocol: &str, tls: &str) -> String {
    let address = backend(Family::V4, 0, 8443);
    format!(
        "[pools.{name}]\nprotocol = \"{protocol}\"\nbackends = [{{ address = \"{address}\" }}]\n\
         [pools.{name}.tls]\n{tls}\n"
    )
}

#[test]
fn backends_are_spoken_to_over_tls() -> Result<()> {
    let lab = Lab::unique(1)?;
    let scratch = Scratch::new()?;
    let ours = Authority::new(&scratch, "ours")?;
    let server = ours.issue(&scratch, "server.pem", "/CN=server", "web.test")?;
    let identity = ours.issue(&scratch, "weir.pem", "/O=Example/CN=weir", "weir.test")?;
    let (server, identity) = (server.display(), identity.display());
    let stranger = Authority::new(&scratch, "stranger")?.certificate();
    let authority = ours.certificate();
    let directives = format!(
        "ssl_certificate {server}; ssl_certificate_key {server}; ssl_client_certificate {authority}; \
         ssl_verify_client optional"
    );
    let address = backend(Family::V4, 0, 8443).parse()?;
    let _nginx = Nginx::start_tls(&lab.backends[0], "b1", address, &directives)?;

    let verified = format!("ca = \"{authority}\"\nserver_name = \"web.test\"\ncertificate = \"{identity}\"");
    let check = |pool: &str| format!("[pools.{pool}.check]\ntype = \"http\"\npath = \"/healthz\"\n{PATIENT}");
    let pools = [
        pool("one", "http/1.1", &verified),
        check("one"),
        pool("two", "h2", &verified),
        check("two"),
        pool("anybody", "http/1.1", "verify = false"),
        pool(
            "stranger",
            "http/1.1",
            &format!("ca = \"{stranger}\"\nserver_name = \"web.test\""),
        ),
        pool("address", "http/1.1", &format!("ca = \"{authority}\"")),
        pool("changing", "h2", &verified.replace("ours.ca", "changing.ca")),
    ];
    let changing = scratch.join("changing.ca");
    fs::copy(&authority, &changing)?;
    let services = [
        ("one", "http", 81),
        ("two", "http", 82),
        ("anybody", "http", 83),
        ("stranger", "http", 84),
        ("address", "http", 85),
        ("changing", "http", 86),
        ("bytes", "tcp", 87),
    ]
    .map(|(name, mode, port)| {
        let pool = if mode == "tcp" { "one" } else { name };
        service(name, mode, &[vip(Family::V4, port).to_string()], pool, "")
    });
    let weir = start(&lab, pools.concat() + &services.concat())?;
    let get = |port| weir.with_log(curl::get(&lab.client, &url(vip(Family::V4, port), "/"), &[]));

    // nginx says by which version, in which protocol, to whom, and whether the session was resumed.
    for (port, http2) in [(81, ""), (82, "h2"), (87, "")] {
        for _ in 0..3 {
            let answer = get(port)?;
            let told = answer.field("x-tls").join("|");
            ensure!(answer.status == 200, "port {port}: {}", answer.status);
            assert!(
                told.starts_with(&format!("TLSv1.3 [{http2}] [CN=weir,O=Example] [web.test]")),
                "port {port}: {told}"
            );
        }
    }
    // Of a connection per client the second resumes what the first began.
    let resumed = get(87)?;
    let told = resumed.field("x-tls").join("|");
    assert!(told.ends_with("[r]"), "{told}");
    assert_eq!(get(83)?.status, 200);

    for (port, name, reason) in [
        (84, "stranger", "backend-certificate"),
        (85, "address", "backend-certificate"),
    ] {
        assert_eq!(get(port)?.status, 502, "{name}");
        let metrics = weir.metrics()?;
        let labels = [("service", name), ("reason", reason)];
        ensure!(
            metrics.sum("weir_relay_ends_total", &labels)? > 0.0,
            "{name}: no {reason}"
        );
        let labels = [("pool", name), ("cause", "certificate")];
        ensure!(
            metrics.sum("weir_relay_backend_errors_total", &labels)? > 0.0,
            "{name}"
        );
    }
    let status = weir.ask(&["status"])?;
    assert!(status.contains("pool anybody: verify = false"), "{status}");
    assert!(status.contains("pool one"), "{status}");
    let shown = weir.ask(&["pools"])?;
    assert!(
        shown.contains("TLS, verified for the name web.test by"),
        "{shown}"
    );

    // Another authority is taken in while weir runs: what was believed is not any more.
    assert_eq!(get(86)?.status, 200);
    fs::copy(&stranger, &changing)?;
    wait_until(PATIENCE, "the new authority holds", || {
        let answer = get(86)?;
        ensure!(answer.status == 502, "{}", answer.status);
        Ok(())
    })?;
    Ok(())
}
