//! The command line and the metrics, as people and machines use them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use weir_e2e_tests::{HTTP, L4, Site, TCP, ask, backend, config, start, vip};
use weir_harness::{
    Cmd, Lab, Scratch, Weir, WeirConfig, lab::Family, peer::curl, settle, weir::ADMIN_HTTP, weir::binary,
};

#[test]
fn check_says_where_what_is_wrong_and_the_mend() -> Result<()> {
    let weir = binary()?;
    let scratch = Scratch::new()?;
    let check = |text: &str| -> Result<(Option<i32>, String)> {
        let file = scratch.write("weir.toml", text)?;
        let output = Cmd::new(&weir).arg("check").arg(file).run()?;
        Ok((output.status.code(), output.text() + &output.complaint()))
    };
    let pool = "[pools.web]\nbackends = [{ address = \"10.0.0.1:80\" }]\n";
    let www = "[services.www]\nlisten = [\"192.0.2.1:80\"]\nmode = \"http\"\npool = \"web\"\n";
    let good = format!("{pool}{www}[node]\nxdp = \"off\"\n");
    let (code, words) = check(&good)?;
    assert_eq!(code, Some(0), "{words}");

    let file = scratch.join("weir.toml");
    let cases = [
        // A key that is spelt wrong: line 6, first column, and the right one is offered.
        (good.replace("pool = \"web\"", "pol = \"web\""), "6:1", "pool"),
        (good.replace("pool = \"web\"", "pool = \"wob\""), "6:8", "wob"),
        (good.replace("\"http\"", "\"https\""), "5:8", "http"),
        (good.replace("192.0.2.1:80", "192.0.2.1"), "4:", "port"),
        (good.replace("10.0.0.1:80", "10.0.0.1:0"), "2:", "port"),
        (
            format!("{good}{}", www.replace("www", "again")),
            "10:11",
            "192.0.2.1:80",
        ),
        (format!("{good}[services.www"), "9:", "not TOML"),
    ];
    for (text, place, word) in cases {
        let (code, words) = check(&text)?;
        assert_eq!(code, Some(2), "{text}\n{words}");
        let place = format!("{}:{place}", file.display());
        assert!(
            words.contains(&place) && words.contains(word),
            "no {place} or {word:?} in:\n{words}\nfor:\n{text}"
        );
    }
    // All mistakes at once, not only the first.
    let (_, words) = check(
        &good
            .replace("\"http\"", "\"https\"")
            .replace("10.0.0.1:80", "10.0.0.1:0"),
    )?;
    let lines = words
        .lines()
        .filter(|line| line.contains(&file.display().to_string()))
        .count();
    assert!(lines >= 2, "{words}");

    let missing = Cmd::new(&weir)
        .arg("check")
        .arg(scratch.join("none.toml"))
        .run()?;
    assert_eq!(missing.status.code(), Some(2));
    assert!((missing.text() + &missing.complaint()).contains("none.toml"));
    Ok(())
}

#[test]
fn metrics_are_valid_and_count_both_planes() -> Result<()> {
    const REQUESTS: usize = 25;
    let site = Site::new(2)?;
    let weir = start(&site.lab, config(&[0, 1]))?;
    let mut by_backend = std::collections::BTreeMap::<String, usize>::new();
    for port in [L4, HTTP, TCP] {
        for (who, count) in ask(&site.lab.client, vip(Family::V4, port), REQUESTS)? {
            *by_backend.entry(format!("{who} {port}")).or_default() += count;
        }
    }
    settle(
        Duration::from_secs(10),
        Duration::from_millis(300),
        "weir's counters",
        || {
            let metrics = weir.metrics()?;
            let flows = metrics.sum("weir_l4_service_flows_total", &[("service", "packets")])?;
            let requests = metrics.sum("weir_relay_requests_total", &[("service", "www")])?;
            let packets = metrics.sum("weir_l4_service_packets_total", &[("service", "packets")])?;
            Ok((flows, requests, packets))
        },
    )?;

    let text = weir.metrics_text()?;
    let output = Cmd::new("promtool")
        .args(["check", "metrics"])
        .stdin(text.clone())
        .run()
        .context("the metrics are checked by promtool (Debian and Ubuntu: package prometheus)")?;
    assert!(
        output.status.success(),
        "{}{}\n{text}",
        output.text(),
        output.complaint()
    );

    let metrics = weir.metrics()?;
    let all = REQUESTS as f64;
    assert_eq!(
        metrics.sum("weir_l4_service_flows_total", &[("service", "packets")])?,
        all
    );
    assert_eq!(
        metrics.sum("weir_relay_requests_total", &[("service", "www")])?,
        all
    );
    assert_eq!(
        metrics.sum(
            "weir_relay_responses_total",
            &[("service", "www"), ("code", "2xx")]
        )?,
        all
    );
    assert_eq!(
        metrics.sum("weir_relay_connections_total", &[("service", "bytes")])?,
        all
    );
    for (i, who) in ["b1", "b2"].into_iter().enumerate() {
        let address = backend(Family::V4, i, 80);
        let labels = [("pool", "web"), ("backend", address.as_str())];
        let seen = |port: u16| by_backend.get(&format!("{who} {port}")).copied().unwrap_or(0) as f64;
        assert_eq!(
            metrics.sum("weir_l4_backend_flows_total", &labels)?,
            seen(L4),
            "{who}"
        );
        assert_eq!(
            metrics.sum("weir_relay_backend_requests_total", &labels)?,
            seen(HTTP) + seen(TCP),
            "{who}"
        );
        let shown = weir.backend("web", &address)?;
        assert_eq!(shown.traffic.l4_flows as f64, seen(L4), "{who}");
        assert_eq!(
            shown.traffic.relay_requests as f64,
            seen(HTTP) + seen(TCP),
            "{who}"
        );
    }
    // Labels are bounded by the configuration.
    for sample in metrics.samples() {
        if let Some(service) = sample.labels.get("service") {
            assert!(
                ["packets", "packets6", "www", "www6", "bytes", "bytes6"].contains(&service.as_str()),
                "{sample:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn status_pools_readiness_and_page() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let status = weir.status()?;
    assert_eq!(status.node, "test-box");
    assert_eq!(status.xdp.mode, "native");
    assert_eq!(status.xdp.interfaces, ["outside", "inside"]);
    let mut services: Vec<_> = status
        .services
        .iter()
        .map(|s| (s.name.as_str(), s.mode.as_str(), s.state.as_str()))
        .collect();
    services.sort_unstable();
    let want = [
        ("bytes", "tcp", "up"),
        ("bytes6", "tcp", "up"),
        ("packets", "l4", "up"),
        ("packets6", "l4", "up"),
        ("www", "http", "up"),
        ("www6", "http", "up"),
    ];
    assert_eq!(services, want);
    let text = weir.ask(&["status"])?;
    for (name, _, _) in want {
        assert!(text.contains(name), "{text}");
    }
    assert!(weir.ask(&["pools"])?.contains(&backend(Family::V6, 0, 80)));
    for (path, word) in [("/healthz", ""), ("/readyz", ""), ("/", "packets")] {
        let response = curl::get(&site.lab.router, &format!("http://{ADMIN_HTTP}{path}"), &[])?;
        assert_eq!(response.status, 200, "{path}");
        assert!(response.text().contains(word), "{path}: {}", response.text());
    }
    assert_eq!(
        curl::get(&site.lab.router, &format!("http://{ADMIN_HTTP}/none"), &[])?.status,
        404
    );
    Ok(())
}

#[test]
fn doctor_looks_and_touches_nothing() -> Result<()> {
    let lab = Lab::unique(1)?;
    let before = weir_e2e_tests::traces(&lab.router)?;
    // Pins on a file system of our own: whether the machine has one at the usual place is not the test's matter.
    let scratch = Scratch::new()?;
    let pins = scratch.mount_bpf()?.join("weir");
    let file = scratch.write(
        "weir.toml",
        format!(
            "[node]\ninterfaces = [\"outside\", \"inside\"]\npins = \"{}\"\n{}",
            pins.display(),
            config(&[0])
        ),
    )?;
    let doctor = |args: &[&str]| {
        Cmd::new(binary()?)
            .arg("doctor")
            .args(args)
            .inside(&lab.router)
            .run()
    };
    let file = file.display().to_string();
    let output = doctor(&["--config", &file])?;
    let text = output.text();
    assert!(output.status.success(), "{text}{}", output.complaint());
    for word in ["outside", "inside", "veth", "BTF"] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
    let json: Value = serde_json::from_str(&doctor(&["--config", &file, "--json"])?.text())?;
    assert_ne!(json["verdict"], "problem", "{json}");
    let subjects = json["findings"].as_array().context("no list of findings")?;
    assert!(
        subjects
            .iter()
            .any(|finding| finding["subject"] == "interface outside"),
        "{json}"
    );
    let output = doctor(&["nowhere0"])?;
    assert_eq!(output.status.code(), Some(1), "{}", output.text());
    assert!((output.text() + &output.complaint()).contains("nowhere0"));
    assert_eq!(
        weir_e2e_tests::differences(&before, &weir_e2e_tests::traces(&lab.router)?),
        Vec::<String>::new()
    );
    Ok(())
}

#[test]
fn tunables_are_shown_and_set_while_weir_runs() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let name = "weir.relay.timeout.queue";
    let all = weir.ask(&["sysctl", "-a"])?;
    assert!(
        all.lines().any(|line| line.trim() == format!("{name} = 5s")),
        "{all}"
    );
    assert_eq!(weir.ask(&["sysctl", name])?.trim(), format!("{name} = 5s"));

    weir.ask(&["sysctl", "-w", &format!("{name}=100ms")])?;
    assert_eq!(weir.ask(&["sysctl", name])?.trim(), format!("{name} = 100ms"));
    // In force: with no backend that takes requests, the answer comes after the queue's time, not after 5 s.
    weir.ask(&["backend", "drain", &format!("web/{}", backend(Family::V4, 0, 80))])?;
    let asked = std::time::Instant::now();
    let response = curl::get(&site.lab.client, &curl::url(vip(Family::V4, HTTP), "/"), &[])?;
    assert_eq!(response.status, 503);
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());

    for (assignment, word) in [
        ("weir.relay.timeout.queue=soon", "soon"),
        ("weir.no.such=1", "weir.no.such"),
    ] {
        let refused = weir.cli(&["sysctl", "-w", assignment])?;
        assert!(!refused.status.success());
        assert!(refused.complaint().contains(word), "{}", refused.complaint());
    }
    assert_eq!(weir.ask(&["sysctl", name])?.trim(), format!("{name} = 100ms"));
    Ok(())
}

#[test]
fn a_second_weir_is_kept_out() -> Result<()> {
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let mut second = Cmd::new(weir.binary())
        .args(["run", "-c"])
        .arg(weir.config_file());
    second = second.inside(&site.lab.router).deadline(Duration::from_secs(20));
    let output = second.run()?;
    assert!(!output.status.success());
    assert!(!output.complaint().is_empty());
    // The first has not noticed.
    for port in [L4, HTTP, TCP] {
        weir.with_log(ask(&site.lab.client, vip(Family::V4, port), 5))?;
    }
    Ok(())
}

#[test]
fn mistakes_keep_weir_from_starting_and_leave_no_trace() -> Result<()> {
    let lab = Lab::unique(1)?;
    let before = weir_e2e_tests::traces(&lab.router)?;
    let mut config = WeirConfig::both_planes(config(&[0]));
    config.interfaces = vec!["outside", "nowhere0"];
    let mut weir = Weir::launch(&lab.router, config)?;
    let status = weir.wait_end(Duration::from_secs(20))?;
    assert!(!status.success());
    assert!(weir.log().contains("nowhere0"), "{}", weir.log());
    assert!(lab.router.processes()?.is_empty());
    assert!(weir.pinned()?.is_empty(), "{:?}", weir.pinned()?);
    assert_eq!(
        weir_e2e_tests::differences(&before, &weir_e2e_tests::traces(&lab.router)?),
        Vec::<String>::new()
    );
    Ok(())
}
