//! TLS that is passed on: HAProxy with certificates of its own behind, curl and openssl in front.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::Result;
use weir_e2e_tests::{service, vip};
use weir_harness::{
    Cmd, Lab, Scratch, Weir, WeirConfig,
    certificate::{P256, self_signed},
    lab::Family,
    peer::{curl, haproxy::Haproxy},
    wait_until,
};

/// The name and the protocol choose the backend; its own certificate is what the client sees, and nothing is decrypted on
/// the way: curl verifies against that one certificate.
#[test]
fn name_and_protocol_choose() -> Result<()> {
    let lab = Lab::unique(1)?;
    let files = Scratch::new()?;
    // A TLS server for each name, on ports of its own: they answer with the name that they have.
    let names = [("a.example", 8001), ("b.example", 8002), ("h2.example", 8003)];
    let (mut sections, mut listen, mut body) = (String::new(), Vec::new(), String::new());
    let mut certs = BTreeMap::new();
    for (name, port) in names {
        let pem = self_signed(&files, &format!("{name}.pem"), &[name], P256)?;
        write!(
            sections,
            "frontend {name}\n  mode http\n  timeout http-request 10s\n"
        )?;
        let mut backends = Vec::new();
        for family in Family::ALL {
            let at = std::net::SocketAddr::new(family.backend(0), port);
            writeln!(sections, "  bind {at} ssl crt {} alpn h2,http/1.1", pem.display())?;
            backends.push(format!("{{ address = \"{at}\" }}"));
            listen.push(at);
        }
        writeln!(
            sections,
            "  http-request return status 200 content-type text/plain lf-string \"{name} %[ssl_fc_sni] %[ssl_fc_alpn]\\n\""
        )?;
        writeln!(body, "[pools.\"{name}\"]\nbackends = [{}]", backends.join(", "))?;
        certs.insert(name, pem);
    }
    let _servers = Haproxy::start(&lab.backends[0], &sections, &listen)?;
    let listens = Family::ALL.map(|family| vip(family, 443).to_string());
    let rules = "rules = [\n{ match = { sni = [\"a.example\", \"*.a.example\"] }, pool = \"a.example\" },\n\
                 { match = { alpn = \"h2\" }, pool = \"h2.example\" },\n\
                 { match = { sni = \"b.example\" }, pool = \"b.example\" },\n]";
    let text = service("tls", "tcp", &listens, "none", rules).replace("pool = \"none\"\n", "");
    let weir = Weir::start(&lab.router, WeirConfig::both_planes(body + &text))?;
    for family in Family::ALL {
        let at = vip(family, 443);
        for (asked, http, server, alpn) in [
            ("a.example", "--http1.1", "a.example", "http/1.1"),
            ("a.example", "--http2", "a.example", "h2"),
            ("b.example", "--http1.1", "b.example", "http/1.1"),
            ("h2.example", "--http2", "h2.example", "h2"),
        ] {
            let resolve = match family {
                Family::V4 => format!("{asked}:443:{}", at.ip()),
                Family::V6 => format!("{asked}:443:[{}]", at.ip()),
            };
            let ca = certs[server].display().to_string();
            let answer = curl::get(
                &lab.client,
                &format!("https://{asked}/"),
                &[http, "--resolve", &resolve, "--cacert", &ca],
            );
            let answer = weir.with_log(answer)?;
            assert_eq!(answer.text().trim(), format!("{server} {asked} {alpn}"));
        }
        // By its certificate, as openssl shows it; TLS 1.2 too.
        for version in ["-tls1_2", "-tls1_3"] {
            let shown = Cmd::new("openssl")
                .args([
                    "s_client",
                    version,
                    "-connect",
                    &at.to_string(),
                    "-servername",
                    "x.a.example",
                ])
                .stdin("")
                .inside(&lab.client)
                .run()?;
            assert!(
                shown.text().contains("CN = a.example"),
                "{version}: {}",
                shown.text()
            );
        }
        // Nobody's name.
        let refused = Cmd::new("openssl")
            .args([
                "s_client",
                "-connect",
                &at.to_string(),
                "-servername",
                "c.example",
            ])
            .stdin("")
            .inside(&lab.client)
            .run()?;
        let told = refused.complaint();
        assert!(told.contains("unrecognized name"), "{told}");
        // HTTP in plain text is told so.
        let plain = weir.with_log(curl::get(&lab.client, &format!("http://{at}/"), &[]))?;
        assert_eq!(plain.status, 400);
    }
    wait_until(Duration::from_secs(10), "refusals are counted", || {
        let metrics = weir.metrics().map_err(|e| format!("{e:#}"))?;
        let ends = |reason| metrics.sum("weir_relay_ends_total", &[("reason", reason)]);
        match (ends("hello-unrouted"), ends("hello-plain")) {
            (Ok(2.0), Ok(2.0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    weir.wait_record("sni=x.a.example")?;
    Ok(())
}
