//! The PROXY protocol between weir and others: HAProxy and curl in front, nginx and HAProxy behind, versions 1 and 2,
//! IPv4 and IPv6, services of mode http and tcp.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use weir_e2e_tests::{PATIENT, backend, service, start, vip};
use weir_harness::{
    Lab, Netns, Scratch, Weir, WeirConfig,
    certificate::{P256, self_signed},
    lab::Family,
    peer::{
        curl::{self, url},
        haproxy::Haproxy,
        nginx::Nginx,
    },
    scratch, wait_until,
};

const VERSIONS: [&str; 2] = ["v1", "v2"];
const MODES: [&str; 2] = ["http", "tcp"];

/// Where HAProxy stands in front of a service, as its client reaches it.
fn front(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([127, 0, 0, 1], port).into(),
        Family::V6 => ([0, 0, 0, 0, 0, 0, 0, 1_u16], port).into(),
    }
}

/// Everything that the two versions, modes and families make, with HAProxy in front: the client's own address arrives.
#[test]
fn a_client_is_known_through_every_proxy() -> Result<()> {
    let lab = Lab::unique(2)?;
    let nginx_at: Vec<SocketAddr> = Family::ALL
        .map(|family| SocketAddr::new(family.backend(0), 80))
        .to_vec();
    let _nginx = Nginx::start_proxied(&lab.backends[0], "nginx", &nginx_at)?;
    let behind: Vec<SocketAddr> = Family::ALL
        .map(|family| SocketAddr::new(family.backend(1), 80))
        .to_vec();
    let mut sections = String::from(
        "frontend behind\n  mode http\n  timeout http-request 10s\n  \
         http-request return status 200 content-type text/plain lf-string \"haproxy %[src] %[dst]\\n\"\n",
    );
    for at in &behind {
        writeln!(sections, "  bind {at} accept-proxy")?;
    }
    let _behind = Haproxy::start(&lab.backends[1], &sections, &behind)?;

    let (mut body, mut fronts, mut sections) = (String::new(), Vec::new(), String::new());
    let mut port = 8000;
    for family in Family::ALL {
        for out in VERSIONS {
            for mode in MODES {
                port += 2;
                let name = format!("{mode}-{out}-{port}");
                let backends = [0, 1].map(|i| format!("{{ address = \"{}\" }}", backend(family, i, 80)));
                // Both are checked, by connections that say that they are weir's own.
                write!(
                    body,
                    "[pools.{name}]\nproxy_protocol = \"{out}\"\nbackends = [{}]\n[pools.{name}.check]\ntype = \"http\"\n\
                     path = \"/healthz\"\n{PATIENT}\n",
                    backends.join(", ")
                )?;
                let more = format!(
                    "forwarded = \"off\"\nproxy_protocol = {{ from = [\"{}\"] }}",
                    family.client()
                );
                let more = if mode == "tcp" {
                    more.replace("forwarded = \"off\"\n", "")
                } else {
                    more
                };
                body += &service(&name, mode, &[vip(family, port).to_string()], &name, &more);
                for (i, into) in VERSIONS.iter().enumerate() {
                    let at = front(family, port + i as u16);
                    let send = if *into == "v1" {
                        "send-proxy"
                    } else {
                        "send-proxy-v2"
                    };
                    write!(
                        sections,
                        "listen in-{name}-{into}\n  bind {at}\n  server weir {} {send}\n",
                        vip(family, port)
                    )?;
                    fronts.push(at);
                }
            }
        }
    }
    let weir = start(&lab, body)?;
    let _front = Haproxy::start(&lab.client, &sections, &fronts)?;
    for at in fronts {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..4 {
            let answer = weir.with_log(curl::get(&lab.client, &url(at, "/"), &[]))?;
            let text = answer.text();
            let told: Vec<&str> = text.split_whitespace().collect();
            let own = at.ip().to_string();
            ensure!(
                answer.status == 200 && told.get(1..) == Some(&[own.as_str(), own.as_str()][..]),
                "{at}: {} {text}\n{}",
                answer.status,
                weir.log()
            );
            seen.insert(answer.who());
        }
        assert_eq!(seen.len(), 2, "both backends answer: {seen:?}");
    }
    // It is the client in the log, too.
    for client in [" 127.0.0.1:", " [::1]:"] {
        weir.wait_record(client)?;
    }
    Ok(())
}

/// curl tells of itself; who has to begin with a header and does not is refused, and it is counted.
#[test]
fn curl_speaks_it_and_strangers_do_not() -> Result<()> {
    let lab = Lab::unique(1)?;
    let at = Family::ALL.map(|family| SocketAddr::new(family.backend(0), 80));
    let _nginx = Nginx::start(&lab.backends[0], "b1", &at)?;
    let mut body = String::new();
    for family in Family::ALL {
        let name = if family == Family::V4 { "four" } else { "six" };
        write!(
            body,
            "[pools.{name}]\nbackends = [{{ address = \"{}\" }}]\n",
            backend(family, 0, 80)
        )?;
        let set = "request_headers = [{ set = \"X-Seen\", value = \"{client.address}\" }]\n\
                   response_headers = [{ set = \"X-Client\", value = \"{client.address}\" }]\n";
        let from = |network: String| format!("{set}proxy_protocol = {{ from = [\"{network}\"] }}");
        let here = from(family.client().to_string());
        body += &service(
            &format!("{name}-in"),
            "http",
            &[vip(family, 81).to_string()],
            name,
            &here,
        );
        let elsewhere = from("198.51.100.0/24".into());
        body += &service(
            &format!("{name}-not"),
            "http",
            &[vip(family, 82).to_string()],
            name,
            &elsewhere,
        );
    }
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        let (taken, not) = (vip(family, 81), vip(family, 82));
        let answer = weir.with_log(curl::get(&lab.client, &url(taken, "/"), &["--haproxy-protocol"]))?;
        assert_eq!(answer.status, 200);
        let own = family.client().to_string();
        assert_eq!(answer.field("x-client"), [own.as_str()]);
        // Without a header, where there has to be one.
        assert!(curl::get(&lab.client, &url(taken, "/"), &[]).is_err());
        // With one, where none is taken; and as anyone else.
        let answer = weir.with_log(curl::get(&lab.client, &url(not, "/"), &["--haproxy-protocol"]))?;
        assert_eq!(answer.status, 400);
        let answer = weir.with_log(curl::get(&lab.client, &url(not, "/"), &[]))?;
        assert_eq!(answer.status, 200);
    }
    wait_until(Duration::from_secs(10), "refusals are counted", || {
        let metrics = weir.metrics().map_err(|e| format!("{e:#}"))?;
        let ends = |reason| metrics.sum("weir_relay_ends_total", &[("reason", reason)]);
        match (ends("proxy-missing"), ends("proxy-unexpected")) {
            (Ok(2.0), Ok(2.0)) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    Ok(())
}

/// HAProxy ends TLS and tells the name, the id and the TLS facts on, with a checksum; weir tells them on to HAProxy.
#[test]
fn tlvs_go_from_haproxy_to_haproxy() -> Result<()> {
    let netns = Netns::new(&scratch::unique())?;
    let files = Scratch::new()?;
    let pem = self_signed(&files, "both.pem", &["a.example"], P256)?;
    let at = |port| front(Family::V4, port);
    let _behind = Haproxy::start(
        &netns,
        "frontend behind\n  mode http\n  timeout http-request 10s\n  bind 127.0.0.1:8002 accept-proxy\n  \
         http-request return status 200 content-type text/plain lf-string \
         \"haproxy %[src] %[fc_pp_authority] %[fc_pp_unique_id] %[req.fhdr(x-forwarded-proto)]\\n\"\n",
        &[at(8002)],
    )?;
    let mut body = String::new();
    for (mode, port) in [("http", 8000), ("tcp", 8001)] {
        write!(
            body,
            "[pools.{mode}]\nproxy_protocol = \"v2\"\nproxy_tlvs = [\"authority\", \"alpn\", \"ssl\", \"unique-id\", \"crc32c\"]\n\
             backends = [{{ address = \"127.0.0.1:8002\" }}]\n"
        )?;
        // That the client spoke TLS to HAProxy is told to the backend of mode http.
        let fields = if mode == "http" {
            "forwarded_fields = [\"x-forwarded-proto\"]\n"
        } else {
            ""
        };
        let more = format!("{fields}proxy_protocol = {{ from = [\"127.0.0.0/8\"] }}");
        body += &service(mode, mode, &[at(port).to_string()], mode, &more);
    }
    let weir = Weir::start(&netns, WeirConfig::relay_only(body, Some((65534, 65534))))?;
    let mut sections = String::new();
    for (mode, port) in [("http", 8000), ("tcp", 8001)] {
        write!(
            sections,
            "listen {mode}\n  bind 127.0.0.1:{} ssl crt {} alpn http/1.1\n  unique-id-format of-{mode}\n  \
             server weir 127.0.0.1:{port} send-proxy-v2 proxy-v2-options ssl,cert-cn,ssl-cipher,authority,crc32c,unique-id\n",
            port + 10,
            pem.display()
        )?;
    }
    let _front = Haproxy::start(&netns, &sections, &[at(8010), at(8011)])?;
    for (mode, port) in [("http", 8010), ("tcp", 8011)] {
        let resolve = format!("a.example:{port}:127.0.0.1");
        let target = format!("https://a.example:{port}/");
        let answer = curl::get(&netns, &target, &["-k", "--http1.1", "--resolve", &resolve]);
        let answer = weir.with_log(answer)?;
        let proto = if mode == "http" { " https" } else { "" };
        assert_eq!(
            answer.text().trim(),
            format!("haproxy 127.0.0.1 a.example of-{mode}{proto}"),
            "{}",
            weir.log()
        );
    }
    Ok(())
}
