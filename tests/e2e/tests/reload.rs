//! A new configuration is applied as a whole or not at all, and disturbs nothing that it does not name.

use std::{
    io::{Read, Write},
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use weir_e2e_tests::{
    HTTP, L4, Site, TCP, ask, ask_until_all, backend, config, more_answers, pool, pool_of, service, start,
    vip,
};
use weir_harness::{
    Weir,
    lab::Family,
    peer::{
        curl::{self, Load, Reuse, url},
        echo,
    },
    settle, wait_until,
    weir::PATIENCE,
};

fn wait_generation(weir: &Weir<'_>, generation: u64) -> Result<()> {
    let result = wait_until(
        PATIENCE,
        &format!("configuration {generation} is applied"),
        || {
            let status = weir.status().map_err(|e| format!("{e:#}"))?;
            if status.generation == generation {
                Ok(())
            } else {
                Err(format!("{status:?}"))
            }
        },
    );
    weir.with_log(result)
}

#[test]
fn backends_are_added_and_removed_without_a_failed_request() -> Result<()> {
    let site = Site::new(2)?;
    let client = &site.lab.client;
    let mut weir = start(&site.lab, config(&[0]))?;
    let generation = weir.status()?.generation;
    let known = weir.backend("web", &backend(Family::V4, 0, 80))?;
    let mut loads = Vec::new();
    for family in Family::ALL {
        for (port, reuse) in [(L4, Reuse::Never), (HTTP, Reuse::KeepAlive), (TCP, Reuse::Never)] {
            loads.push(Load::start(client, vip(family, port), reuse, 50)?);
        }
    }
    loads.iter().try_for_each(|load| more_answers(load, 20))?;

    weir.rewrite(config(&[0, 1]))?;
    weir.signal(Signal::SIGHUP)?;
    wait_generation(&weir, generation + 1)?;
    weir.wait_all_up()?;
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            ask_until_all(client, vip(family, port), &["b1", "b2"])?;
        }
    }
    // Nothing was forgotten of the backend that stays.
    let still = weir.backend("web", &backend(Family::V4, 0, 80))?;
    assert_eq!(
        still.checks.transitions, known.checks.transitions,
        "it was probed anew"
    );
    assert!(still.checks.passed >= known.checks.passed);

    // As an operator would: nothing new for it, then, when it has nothing left to do, out with it.
    for family in Family::ALL {
        let backend = format!("{}/{}", pool_of(family, "web"), backend(family, 0, 80));
        weir.ask(&["backend", "drain", &backend])?;
    }
    let quiet = Duration::from_millis(300);
    settle(
        Duration::from_secs(10),
        quiet,
        "the log of the backend that drains",
        || Ok(site.nginx[0].access_log().len()),
    )?;
    weir.rewrite(config(&[1]))?;
    weir.ask(&["reload"])?;
    wait_generation(&weir, generation + 2)?;
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            assert_eq!(
                ask(client, vip(family, port), 10)?
                    .into_keys()
                    .collect::<Vec<_>>(),
                ["b2"]
            );
        }
    }
    loads.iter().try_for_each(|load| more_answers(load, 20))?;
    for load in loads {
        let tally = load.stop();
        assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    }
    Ok(())
}

#[test]
fn services_come_and_go_and_their_addresses_with_them() -> Result<()> {
    let site = Site::new(1)?;
    let client = &site.lab.client;
    let web = pool("web", &[(backend(Family::V4, 0, 80), 10)]);
    let web6 = pool("web6", &[(backend(Family::V6, 0, 80), 10)]);
    let www = |family| service("www", "http", &[vip(family, HTTP).to_string()], "web", "");
    let packets = service("packets", "l4", &[vip(Family::V4, L4).to_string()], "web", "");
    let www6 = service("www6", "http", &[vip(Family::V6, HTTP).to_string()], "web6", "");

    let mut weir = start(&site.lab, format!("{web}{}", www(Family::V4)))?;
    let addresses = weir.status()?.xdp.addresses;
    assert!(
        addresses
            .iter()
            .any(|a| a.contains(&Family::V4.vip().to_string())),
        "{addresses:?}"
    );
    // A connection of the service that stays: it is to notice nothing.
    let mut open = echo::connect(client, vip(Family::V4, HTTP))?;
    let mut request_on_open = || -> Result<()> {
        open.write_all(b"GET / HTTP/1.1\r\nHost: www\r\n\r\n")?;
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        while !answer.ends_with(b":80\n") {
            let len = open.read(&mut buffer)?;
            anyhow::ensure!(len > 0, "the connection was closed after {answer:?}");
            answer.extend_from_slice(&buffer[..len]);
        }
        anyhow::ensure!(
            answer.starts_with(b"HTTP/1.1 200 "),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        Ok(())
    };
    request_on_open()?;

    weir.rewrite(format!("{web}{web6}{}{packets}{www6}", www(Family::V4)))?;
    weir.ask(&["reload"])?;
    weir.wait_all_up()?;
    for target in [vip(Family::V4, HTTP), vip(Family::V4, L4), vip(Family::V6, HTTP)] {
        weir.with_log(ask_until_all(client, target, &["b1"]))
            .with_context(|| target.to_string())?;
    }
    request_on_open()?;

    weir.rewrite(format!("{web}{}", www(Family::V4)))?;
    weir.ask(&["reload"])?;
    request_on_open()?;
    ask(client, vip(Family::V4, HTTP), 3)?;
    for target in [vip(Family::V4, L4), vip(Family::V6, HTTP)] {
        let answer = curl::get(client, &url(target, "/"), &["--max-time", "3"]);
        assert!(answer.is_err(), "{target} answers still: {answer:?}");
    }
    let addresses = weir.status()?.xdp.addresses;
    assert!(
        !addresses
            .iter()
            .any(|a| a.contains(&Family::V6.vip().to_string())),
        "{addresses:?}"
    );

    Ok(())
}

#[test]
fn a_configuration_with_mistakes_changes_nothing() -> Result<()> {
    let site = Site::new(1)?;
    let client = &site.lab.client;
    let good = config(&[0]);
    let mut weir = start(&site.lab, good.clone())?;
    let before = weir.status()?;

    weir.rewrite(good.replace("pool = \"web\"", "pool = \"wob\""))?;
    let refused = weir.cli(&["reload"])?;
    assert!(!refused.status.success());
    let words = refused.complaint();
    let file = weir.config_file();
    let place = words
        .split_once(&format!("{}:", file.display()))
        .map(|(_, rest)| rest.split(' ').next());
    let place = place
        .flatten()
        .with_context(|| format!("no FILE:LINE:COLUMN in {words}"))?;
    let numbers: Vec<_> = place.split(':').take(2).map(str::parse::<u32>).collect();
    assert!(numbers.iter().all(Result::is_ok), "{words}");
    assert!(words.contains("wob"), "{words}");

    let after = weir.status()?;
    assert_eq!(after.generation, before.generation);
    assert!(
        after.reload_error.as_ref().is_some_and(|e| e.contains("wob")),
        "{:?}",
        after.reload_error
    );
    assert_eq!(
        weir.metrics()?.sum("weir_config_last_reload_successful", &[])?,
        0.0
    );
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            ask(client, vip(family, port), 3)?;
        }
    }

    // By signal there is nobody to tell but the log and the status.
    let refusals = weir.metrics()?.sum("weir_config_refused_total", &[])?;
    weir.signal(Signal::SIGHUP)?;
    wait_until(Duration::from_secs(10), "the reload by signal is refused", || {
        let now = weir
            .metrics()
            .and_then(|m| m.sum("weir_config_refused_total", &[]));
        match now {
            Ok(now) if now > refusals => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    assert_eq!(weir.status()?.generation, before.generation);

    weir.rewrite(good)?;
    weir.ask(&["reload"])?;
    let mended = weir.status()?;
    assert_eq!(mended.reload_error, None);
    assert_eq!(
        weir.metrics()?.sum("weir_config_last_reload_successful", &[])?,
        1.0
    );
    Ok(())
}
