//! Health steers both planes, and the operator over it; everybody says the same word.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use weir_e2e_tests::{
    CHECK_TIME, HTTP, L4, QUICK, Site, TCP, ask, ask_until_all, backend, checked_config, checked_pool,
    config, more_answers, pool_of, service, start, vip,
};
use weir_harness::{
    Lab, Weir, WeirConfig,
    lab::Family,
    peer::{
        curl::{self, Load, Reuse, url},
        echo::{self, Echo},
        nginx::Nginx,
    },
    settle, wait_until,
};

/// How far the beginning of a request may be off, and the way of a word from weir's list to its ring and relay.
const BLUR: Duration = Duration::from_millis(100);

#[test]
fn a_backend_dies_and_returns_and_both_planes_follow() -> Result<()> {
    let mut site = Site::new(3)?;
    // The lab is borrowed for as long as weir runs, and backends are killed meanwhile.
    let Site { nginx, lab } = &mut site;
    let weir = start(lab, checked_config(&[0, 1, 2], QUICK))?;
    let streams = Family::ALL.into_iter().flat_map(|family| {
        [
            (family, L4, Reuse::Never),
            (family, HTTP, Reuse::KeepAlive),
            (family, TCP, Reuse::Never),
        ]
    });
    let loads = streams
        .map(|(family, port, reuse)| Load::start(&lab.client, vip(family, port), reuse, 100))
        .collect::<Result<Vec<_>>>()?;
    for load in &loads {
        more_answers(load, 50)?;
        assert_eq!(load.tally().by_backend.len(), 3, "{:?}", load.tally());
    }

    let killed = Instant::now();
    nginx[1].kill();
    for family in Family::ALL {
        weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 1, 80),
            "down",
            CHECK_TIME,
        )?;
    }
    let noticed = Instant::now();
    let from_dead = || {
        loads
            .iter()
            .map(|load| load.tally().by_backend.get("b2").copied().unwrap_or(0))
            .collect::<Vec<_>>()
    };
    // What is still being read of answers from before the kill.
    let before = settle(
        Duration::from_secs(10),
        Duration::from_millis(300),
        "the dead backend's share",
        || Ok(from_dead()),
    )?;
    for load in &loads {
        more_answers(load, 100)?;
        let late = load.tally().failed_after(noticed + BLUR).len();
        assert_eq!(
            late,
            0,
            "failed after weir had noticed: {:?}",
            load.tally().failures
        );
        let early = load
            .tally()
            .failures
            .iter()
            .filter(|failed| failed.ended < killed)
            .count();
        assert_eq!(early, 0, "failed before the kill: {:?}", load.tally().failures);
    }
    assert_eq!(from_dead(), before);

    nginx[1].restart(&lab.backends[1])?;
    for family in Family::ALL {
        weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 1, 80),
            "up",
            Duration::from_secs(10),
        )?;
    }
    for (load, before) in loads.iter().zip(before) {
        wait_until(
            Duration::from_secs(10),
            "the backend that returned answers",
            || {
                let tally = load.tally();
                if tally.by_backend.get("b2").copied().unwrap_or(0) > before {
                    Ok(())
                } else {
                    Err(format!("{tally:?}"))
                }
            },
        )?;
    }
    for load in loads {
        let tally = load.stop();
        assert_eq!(
            tally.failed_after(noticed + BLUR).len(),
            0,
            "{:?}",
            tally.failures
        );
    }
    Ok(())
}

#[test]
fn a_backend_is_cut_off_and_comes_back() -> Result<()> {
    let site = Site::new(2)?;
    let lab = &site.lab;
    let weir = start(lab, checked_config(&[0, 1], QUICK))?;
    let mut loads = Vec::new();
    for family in Family::ALL {
        for (port, reuse) in [(L4, Reuse::Never), (HTTP, Reuse::KeepAlive)] {
            loads.push(Load::start(&lab.client, vip(family, port), reuse, 100)?);
        }
    }
    loads.iter().try_for_each(|load| more_answers(load, 50))?;
    // No reset, no refusal, no ICMP: nothing comes back any more.
    lab.switch.ip(["link set b2 nomaster"])?;
    for family in Family::ALL {
        let down = weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 1, 80),
            "down",
            CHECK_TIME,
        )?;
        assert!(
            down.cause.contains("timeout") || down.cause.contains("unreachable"),
            "{}",
            down.cause
        );
    }
    let noticed = Instant::now();
    for load in &loads {
        more_answers(load, 100)?;
        let late = load.tally().failed_after(noticed + BLUR).len();
        assert_eq!(
            late,
            0,
            "failed after weir had noticed: {:?}",
            load.tally().failures
        );
    }
    lab.switch.ip(["link set b2 master bridge"])?;
    for family in Family::ALL {
        weir.wait_state(
            &pool_of(family, "web"),
            &backend(family, 1, 80),
            "up",
            Duration::from_secs(15),
        )?;
        for port in [L4, HTTP] {
            ask_until_all(&lab.client, vip(family, port), &["b1", "b2"])?;
        }
    }
    for load in loads {
        let tally = load.stop();
        assert_eq!(
            tally.failed_after(noticed + BLUR).len(),
            0,
            "{:?}",
            tally.failures
        );
    }
    Ok(())
}

#[test]
fn every_transition_is_logged_once_and_everybody_says_the_same_word() -> Result<()> {
    let mut site = Site::new(1)?;
    let Site { nginx, lab } = &mut site;
    let address = backend(Family::V4, 0, 80);
    let body = checked_pool("web", &[(address.clone(), 10)], QUICK)
        + &service("www", "http", &[vip(Family::V4, HTTP).to_string()], "web", "");
    let mut config = WeirConfig::both_planes(body);
    config.args = vec!["--log-format", "json"];
    let weir = Weir::start(&lab.router, config)?;
    weir.wait_all_up()?;

    let same_word = |state: &str, admin: &str, in_use: bool| -> Result<()> {
        let shown = weir.backend("web", &address)?;
        assert_eq!(
            (shown.state.as_str(), shown.admin.as_str(), shown.in_use),
            (state, admin, in_use)
        );
        let metrics = weir.metrics()?;
        for word in ["pending", "up", "down", "probation"] {
            let labels = [("pool", "web"), ("backend", &address), ("state", word)];
            assert_eq!(
                metrics.sum("weir_backend_state", &labels)?,
                f64::from(u8::from(word == state)),
                "{word}"
            );
        }
        for word in ["ready", "drain", "maint"] {
            let labels = [("pool", "web"), ("backend", &address), ("admin", word)];
            assert_eq!(
                metrics.sum("weir_backend_admin", &labels)?,
                f64::from(u8::from(word == admin)),
                "{word}"
            );
        }
        let labels = [("pool", "web"), ("backend", address.as_str())];
        assert_eq!(
            metrics.sum("weir_backend_in_use", &labels)?,
            f64::from(u8::from(in_use))
        );
        let table = weir.ask(&["pools"])?;
        let row = table
            .lines()
            .find(|line| line.contains(&address))
            .context("no row for the backend")?;
        assert!(row.contains(state), "{row:?} does not say {state}");
        Ok(())
    };
    same_word("up", "ready", true)?;
    let status =
        || -> Result<u16> { Ok(curl::get(&lab.client, &url(vip(Family::V4, HTTP), "/"), &[])?.status) };
    assert_eq!(status()?, 200);

    // Sick: it answers requests, but its check with 503.
    nginx[0].set_sick(true)?;
    let down = weir.wait_state("web", &address, "down", CHECK_TIME)?;
    assert!(down.cause.contains("503"), "cause: {}", down.cause);
    same_word("down", "ready", false)?;
    assert_eq!(status()?, 503);

    nginx[0].set_sick(false)?;
    weir.wait_state("web", &address, "up", Duration::from_secs(10))?;
    same_word("up", "ready", true)?;
    assert_eq!(status()?, 200);

    weir.ask(&["backend", "drain", &format!("web/{address}")])?;
    same_word("up", "drain", false)?;
    weir.ask(&["backend", "maint", &format!("web/{address}")])?;
    same_word("up", "maint", false)?;
    weir.ask(&["backend", "ready", &format!("web/{address}")])?;
    same_word("up", "ready", true)?;

    // What the log says of the backend, in order; nothing twice.
    let changes: Vec<[String; 3]> = weir
        .log()
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|fields| fields["backend"] == address.as_str() && !fields["to"].is_null())
        .map(|fields| ["from", "to", "admin"].map(|key| fields[key].as_str().unwrap_or_default().to_owned()))
        .collect();
    let want = [
        ["pending", "up", "ready"],
        ["up", "down", "ready"],
        ["down", "probation", "ready"],
        ["probation", "up", "ready"],
        ["up", "up", "drain"],
        ["up", "up", "maint"],
        ["up", "up", "ready"],
    ];
    assert_eq!(changes, want, "{}", weir.log());
    Ok(())
}

#[test]
fn pending_until_the_first_checks_are_through() -> Result<()> {
    let lab = Lab::unique(1)?;
    let address = backend(Family::V4, 0, 80);
    // The backend's host swallows every packet: checks neither pass nor fail until their timeout.
    lab.backends[0].ip(["route add blackhole 10.0.0.1/32"])?;
    let body = format!(
        "[pools.web]\nbackends = [{{ address = \"{address}\" }}]\n[pools.web.check]\ntype = \"http\"\npath = \"/healthz\"\n\
         interval = \"12s\"\ntimeout = \"11s\"\nrise = 1\nfall = 1\n\n"
    ) + &service(
        "www",
        "http",
        &[vip(Family::V4, HTTP).to_string()],
        "web",
        "timeouts = { queue = \"100ms\" }\n",
    ) + &service("packets", "l4", &[vip(Family::V4, L4).to_string()], "web", "");
    let weir = Weir::launch(&lab.router, WeirConfig::both_planes(body))?;
    weir.wait_state("web", &address, "pending", Duration::from_secs(10))?;
    assert!(!weir.backend("web", &address)?.in_use);
    // No traffic for it, and weir is not ready: it knows nothing yet.
    assert!(!weir.status()?.ready);
    let response = wait_until(Duration::from_secs(5), "the relay serves", || {
        curl::get(&lab.client, &url(vip(Family::V4, HTTP), "/"), &[]).map_err(|e| format!("{e:#}"))
    })?;
    assert_eq!(response.status, 503);
    assert_eq!(weir.backend("web", &address)?.state, "pending");

    let _nginx = Nginx::start(&lab.backends[0], "b1", &[address.parse()?])?;
    lab.backends[0].ip(["route del blackhole 10.0.0.1/32"])?;
    let up = weir.wait_state("web", &address, "up", Duration::from_secs(30))?;
    assert!(up.in_use);
    assert_eq!(ask(&lab.client, vip(Family::V4, HTTP), 1)?.len(), 1);
    assert_eq!(ask(&lab.client, vip(Family::V4, L4), 1)?.len(), 1);
    Ok(())
}

#[test]
fn drain_keeps_what_is_open_and_maint_takes_nothing() -> Result<()> {
    let site = Site::new(2)?;
    let lab = &site.lab;
    let mut echoes = Vec::new();
    let mut body = config(&[0, 1]);
    let address = |family, i| backend(family, i, 7);
    for (i, netns) in lab.backends.iter().enumerate() {
        let listen = Family::ALL.map(|family| std::net::SocketAddr::new(family.backend(i), 7));
        echoes.push(Echo::start(netns, &format!("b{}", i + 1), &listen)?);
    }
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &weir_e2e_tests::unchecked_pool(&name, &[0, 1].map(|i| (address(family, i), 10)));
        body += &service(
            &pool_of(family, "l4-echo"),
            "l4",
            &[vip(family, 7).to_string()],
            &name,
            "",
        );
        body += &service(
            &pool_of(family, "tcp-echo"),
            "tcp",
            &[vip(family, 8).to_string()],
            &name,
            "",
        );
    }
    let weir = start(lab, body)?;
    for family in Family::ALL {
        let pool = pool_of(family, "echo");
        for port in [7, 8] {
            // Enough connections that both backends have some.
            let mut open = Vec::new();
            while echoes.iter().any(|echo| echo.connections() == 0) || open.len() < 16 {
                let mut stream = echo::connect(&lab.client, vip(family, port))?;
                echo::ping(&mut stream, b"hello")?;
                open.push(stream);
                assert!(open.len() < 200, "one backend gets no connection");
            }
            weir.ask(&["backend", "drain", &format!("{pool}/{}", address(family, 0))])?;
            let before = echoes[0].connections();
            for _ in 0..20 {
                let stream = echo::connect(&lab.client, vip(family, port))?;
                assert_eq!(
                    weir.with_log(echo::finish(stream))?.0,
                    "b2",
                    "new connections while b1 drains"
                );
            }
            assert_eq!(echoes[0].connections(), before);
            let mut kept = 0;
            for mut stream in open {
                weir.with_log(echo::ping(&mut stream, b"still there"))
                    .context("open while b1 drains")?;
                kept += usize::from(echo::finish(stream)?.0 == "b1");
            }
            assert!(kept > 0, "no connection was b1's");
            weir.ask(&["backend", "ready", &format!("{pool}/{}", address(family, 0))])?;
        }
        let web = pool_of(family, "web");
        weir.ask(&["backend", "maint", &format!("{web}/{}", backend(family, 0, 80))])?;
        for port in [L4, HTTP, TCP] {
            assert_eq!(
                ask(&lab.client, vip(family, port), 20)?
                    .into_keys()
                    .collect::<Vec<_>>(),
                ["b2"]
            );
        }
        weir.ask(&["backend", "ready", &format!("{web}/{}", backend(family, 0, 80))])?;
        for port in [L4, HTTP, TCP] {
            ask_until_all(&lab.client, vip(family, port), &["b1", "b2"])?;
        }
    }
    let refused = weir.cli(&["backend", "drain", "web/10.9.9.9:80"])?;
    assert!(!refused.status.success());
    assert!(
        refused.complaint().contains("10.9.9.9"),
        "{}",
        refused.complaint()
    );
    Ok(())
}

#[test]
fn a_backup_is_used_only_when_no_other_is_up() -> Result<()> {
    let mut site = Site::new(2)?;
    let Site { nginx, lab } = &mut site;
    let [first, second] = [0, 1].map(|i| backend(Family::V4, i, 80));
    let body = format!(
        "[pools.web]\nbackends = [{{ address = \"{first}\" }}, {{ address = \"{second}\", backup = true }}]\n\
         [pools.web.check]\ntype = \"http\"\npath = \"/healthz\"\n{QUICK}\n"
    ) + &service("www", "http", &[vip(Family::V4, HTTP).to_string()], "web", "")
        + &service("packets", "l4", &[vip(Family::V4, L4).to_string()], "web", "");
    let weir = start(lab, body)?;
    let only = |who: &str| -> Result<()> {
        for port in [HTTP, L4] {
            let answers = weir.with_log(ask(&lab.client, vip(Family::V4, port), 20))?;
            assert_eq!(answers.into_keys().collect::<Vec<_>>(), [who], "port {port}");
        }
        Ok(())
    };
    only("b1")?;
    nginx[0].kill();
    weir.wait_state("web", &first, "down", CHECK_TIME)?;
    only("b2")?;
    nginx[0].restart(&lab.backends[0])?;
    weir.wait_state("web", &first, "up", Duration::from_secs(10))?;
    only("b1")
}
