//! `weir explain flow`: what it says of a connection is where the connection then goes.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_e2e_tests::{HTTP, L4, Site, backend, config, pool_of, start, vip};
use weir_harness::{Weir, lab::Family, peer::curl};

fn explain(weir: &Weir<'_>, src: &str, dst: &str, more: &[&str]) -> Result<Value> {
    let mut args = vec!["explain", "flow", src, dst, "tcp", "--json"];
    args.extend(more);
    serde_json::from_str(&weir.ask(&args)?).context("the answer as JSON")
}

#[test]
fn a_connection_goes_where_it_was_said_to_go() -> Result<()> {
    let site = Site::new(3)?;
    let weir = start(&site.lab, config(&[0, 1, 2]))?;
    // Ports of their own: a closed connection keeps its port for a while, from the other family too.
    for (family, ports) in [(Family::V4, 40_000..40_008), (Family::V6, 41_000..41_008)] {
        let target = vip(family, L4);
        let (web, service) = (pool_of(family, "web"), pool_of(family, "packets"));
        for port in ports {
            let client = SocketAddr::new(family.client(), port).to_string();
            let said = explain(&weir, &client, &target.to_string(), &["--syn"])?;
            ensure!(
                said["verdict"] == "forward" && said["reason"] == "forward-nat",
                "{said}"
            );
            ensure!(said["service"] == service.as_str(), "{said}");
            ensure!(said["rule"] == "first-packet", "{said}");
            ensure!(said["slot"]["current"] == said["backend"], "{said}");
            ensure!(said["becomes"]["src"] == client.as_str(), "{said}");

            let port = port.to_string();
            let url = curl::url(target, "/");
            let who = curl::get(&site.lab.client, &url, &["--local-port", &port])?.who();
            let index = site.nginx.iter().position(|nginx| nginx.name() == who);
            let there = backend(family, index.context("a backend of this site")?, 80);
            ensure!(
                said["backend"] == format!("{web}/{there}"),
                "{who} answered, {said}"
            );
            ensure!(said["becomes"]["dst"] == there, "{said}");

            // The middle of the same flow, asked afterwards: the same backend.
            let middle = explain(&weir, &client, &target.to_string(), &[])?;
            ensure!(middle["backend"] == said["backend"], "{middle}");
        }
    }
    // It was asked 32 times, and counted nothing of that.
    let flows = weir.ask(&["flows", "--json"])?;
    let flows: Value = serde_json::from_str(&flows)?;
    ensure!(flows["total"] == 16, "{flows}");

    let vip4 = vip(Family::V4, L4).to_string();
    let text = weir.ask(&["explain", "flow", "198.51.100.7:40000", &vip4, "tcp"])?;
    ensure!(text.starts_with("forward, forward-nat"), "{text}");
    for fact in ["service", "slot", "backend", "why", "becomes"] {
        ensure!(text.contains(&format!("\n  {fact} ")), "{text}");
    }
    let relay = explain(
        &weir,
        "198.51.100.7:40000",
        &vip(Family::V4, HTTP).to_string(),
        &["--syn"],
    )?;
    ensure!(
        relay["verdict"] == "pass" && relay["reason"] == "relay",
        "{relay}"
    );
    let nobody = explain(&weir, "198.51.100.7:40000", "192.0.2.250:9", &[])?;
    ensure!(
        nobody["reason"] == "no-service" && nobody["backend"].is_null(),
        "{nobody}"
    );

    for (args, words) in [
        (
            ["198.51.100.7:1", "[2001:db8::1]:80", "tcp"],
            "both ends in one family",
        ),
        (
            ["198.51.100.7", "192.0.2.10:80", "tcp"],
            "write 198.51.100.7:80 for port 80",
        ),
    ] {
        let output = weir.cli(&[&["explain", "flow"][..], &args[..]].concat())?;
        ensure!(!output.status.success(), "{args:?}");
        ensure!(
            output.complaint().contains(words),
            "{args:?}: {}",
            output.complaint()
        );
    }
    Ok(())
}
