//! Protection: floods that real clients do not notice, limits per source, lists at run time.

use std::time::Duration;

use anyhow::{Context, Result};
use weir_dataplane_tests::traffic::Simple;
use weir_e2e_tests::{HTTP, L4, Site, ask, config, pool_of, start, vip};
use weir_harness::{
    Weir,
    lab::{CLIENT_V4, CLIENT_V6, Family, Lab, OUTSIDE},
    peer::{
        curl::{self, url},
        flood::{ACK, Flood, Packets, SYN},
        same_bytes, write_noise,
    },
    wait::wait_until,
};

/// For what weir does each second, or each quarter of a minute, on a busy machine.
const SOON: Duration = Duration::from_secs(40);

fn flood(lab: &Lab, packets: Packets) -> Result<Flood> {
    Flood::start((&lab.client, "eth0"), (&lab.router, OUTSIDE), packets)
}

fn packets(weir: &Weir<'_>, reason: &str) -> Result<f64> {
    weir.metrics()?
        .sum("weir_xdp_packets_total", &[("reason", reason)])
}

fn events(weir: &Weir<'_>, event: &str) -> Result<f64> {
    weir.metrics()?.sum("weir_xdp_events_total", &[("event", event)])
}

fn until(what: &str, weir: &Weir<'_>, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    weir.with_log(wait_until(SOON, what, || match holds() {
        Ok(true) => Ok(()),
        Ok(false) => Err("not yet".to_owned()),
        Err(error) => Err(format!("{error:#}")),
    }))
}

#[test]
fn a_real_client_connects_while_syns_flood_the_relay() -> Result<()> {
    let site = Site::new(1)?;
    let router = &site.lab.router;
    let before = router.read_sysctl("ipv4/tcp_syncookies")?;
    assert_ne!(before, "2");
    // What XDP sends back reaches the client's stack.
    let _pass = site.lab.client.run(|| Simple::pass("eth0"))??;
    let weir = start(&site.lab, config(&[0]))?;
    weir.ask(&["sysctl", "-w", "weir.l4.syncookies.rate=200"])?;
    let cookies = || weir.metrics()?.sum("weir_xdp_syncookies", &[]);
    assert!(cookies()? == 0.0);

    for family in Family::ALL {
        let target = vip(family, HTTP);
        let of = |flags| Packets {
            target,
            flags,
            sources: 50_000,
            rate: 3_000,
        };
        let sent = (packets(&weir, "syn-cookie")?, packets(&weir, "cookie-invalid")?);
        let floods = [flood(&site.lab, of(SYN))?, flood(&site.lab, of(ACK))?];
        until("cookies", &weir, || Ok(cookies()? == 1.0))?;
        assert_eq!(router.read_sysctl("ipv4/tcp_syncookies")?, "2");
        assert!(weir.ask(&["status"])?.contains("answered by cookies"));
        until("answers and drops by XDP", &weir, || {
            let (answered, dropped) = (packets(&weir, "syn-cookie")?, packets(&weir, "cookie-invalid")?);
            Ok(answered > sent.0 + 1_000.0 && dropped > sent.1 + 1_000.0)
        })?;
        // Each on a connection of its own.
        weir.with_log(ask(&site.lab.client, target, 50))?;
        weir.with_log(ask(&site.lab.client, vip(family, L4), 10))?;
        assert!(floods.iter().all(|flood| flood.sent() > 1_000));
        assert!(cookies()? == 1.0, "the flood still runs");
    }

    until("an end of it", &weir, || Ok(cookies()? == 0.0))?;
    assert_eq!(router.read_sysctl("ipv4/tcp_syncookies")?, before);
    weir.wait_log("the flood of SYNs has ended")?;
    assert_eq!(weir.log().matches("a flood of SYNs to the relay").count(), 1);
    assert_eq!(weir.log().matches("the flood of SYNs has ended").count(), 1);
    weir.with_log(ask(&site.lab.client, vip(Family::V4, HTTP), 5))?;
    Ok(())
}

#[test]
fn a_weir_that_ends_in_a_flood_sets_the_kernel_back() -> Result<()> {
    let site = Site::new(1)?;
    let router = &site.lab.router;
    let before = router.read_sysctl("ipv4/tcp_syncookies")?;
    let mut weir = start(&site.lab, config(&[0]))?;
    weir.ask(&["sysctl", "-w", "weir.l4.syncookies.rate=200"])?;
    let _flood = flood(
        &site.lab,
        Packets {
            target: vip(Family::V4, HTTP),
            flags: SYN,
            sources: 1_000,
            rate: 3_000,
        },
    )?;
    until("cookies", &weir, || {
        Ok(router.read_sysctl("ipv4/tcp_syncookies")? == "2")
    })?;
    weir.stop()?;
    assert_eq!(router.read_sysctl("ipv4/tcp_syncookies")?, before);
    Ok(())
}

#[test]
fn what_is_established_goes_on_while_syns_flood_an_l4_service() -> Result<()> {
    const SIZE: usize = 24 << 20;
    let site = Site::new(1)?;
    let mut body = config(&[0]);
    for family in Family::ALL {
        let name = pool_of(family, "packets");
        body += &format!("[services.{name}.per_source]\nrate = 20\nconnections = 100\nprefix_v6 = 64\n\n");
    }
    let weir = start(&site.lab, body)?;
    weir.ask(&["sysctl", "-w", "weir.l4.flow.record_limit=500"])?;
    let sent = site.nginx[0].file("big");
    write_noise(&sent, SIZE, 3)?;
    for family in Family::ALL {
        let target = vip(family, L4);
        let of = |sources, rate| Packets {
            target,
            flags: SYN,
            sources,
            rate,
        };
        // Many that keep within their limits, and a few that do not.
        let _many = flood(&site.lab, of(100_000, 4_000))?;
        let _few = flood(&site.lab, of(3, 2_000))?;
        let before = (
            packets(&weir, "source-rate")?,
            events(&weir, "flow-record-limited")?,
        );
        until("limits that are reached", &weir, || {
            let limited = packets(&weir, "source-rate")? > before.0 + 500.0;
            Ok(limited && events(&weir, "flow-record-limited")? > before.1 + 500.0)
        })?;
        let received = weir.scratch().join("received");
        weir.with_log(curl::download(
            &site.lab.client,
            &url(target, "/files/big"),
            &received,
        ))?;
        same_bytes(&sent, &received)?;
    }
    Ok(())
}

#[test]
fn operators_ban_allow_and_unlist_at_run_time() -> Result<()> {
    let site = Site::new(1)?;
    let mut body = config(&[0]);
    body += "[lists]\nban = [\"203.0.113.0/24\"]\n";
    let weir = start(&site.lab, body)?;
    let client = &site.lab.client;
    let quick = ["--connect-timeout", "1"];
    let answers = |family| {
        [L4, HTTP]
            .into_iter()
            .all(|port| curl::get(client, &url(vip(family, port), "/"), &quick).is_ok())
    };
    assert!(Family::ALL.into_iter().all(answers));
    let (net4, net6) = ("192.0.2.0/24", "2001:db8:1::/64");
    let said = weir.ask(&["ban", net4, net6, "--for", "10m"])?;
    assert!(said.contains(&format!("{net4}: banned for 10m")), "{said}");
    assert!(!Family::ALL.into_iter().any(answers));
    assert!(packets(&weir, "banned")? > 0.0);
    let of = |kind| weir.metrics()?.sum("weir_xdp_list_entries", &[("kind", kind)]);
    assert!(of("ban")? == 3.0 && of("allow")? == 0.0);

    // An exception for the client itself.
    let (one4, one6) = (CLIENT_V4.to_string(), CLIENT_V6.to_string());
    weir.ask(&["allow", &one4, &one6])?;
    assert!(Family::ALL.into_iter().all(answers));
    let listed: serde_json::Value = serde_json::from_str(&weir.ask(&["lists", "--json"])?)?;
    let listed = listed["lists"].as_array().context("a list")?;
    let find = |network: &str| listed.iter().find(|l| l["network"] == network).context("listed");
    assert_eq!(find("203.0.113.0/24")?["origin"], "configuration");
    assert_eq!(find(net4)?["origin"], "operator");
    assert!(
        find(net4)?["seconds_left"]
            .as_u64()
            .is_some_and(|left| (500..=600).contains(&left))
    );
    assert_eq!(find(&format!("{one6}/128"))?["rule"], "allow");

    weir.ask(&["unlist", &one4, &one6])?;
    assert!(!Family::ALL.into_iter().any(answers));
    weir.ask(&["unlist", net4, net6])?;
    assert!(Family::ALL.into_iter().all(answers));

    for (args, word) in [
        (["unlist", "203.0.113.0/24"], "configuration"),
        (["unlist", "198.51.100.0/24"], "not listed"),
        (["ban", "192.0.2.7/24"], "bits set behind its prefix"),
        (["ban", "nobody"], "no network"),
    ] {
        let refused = weir.cli(&args)?;
        assert!(!refused.status.success(), "{args:?}");
        assert!(refused.complaint().contains(word), "{}", refused.complaint());
    }

    // What has ended goes by itself.
    weir.ask(&["ban", "198.51.100.0/24", "--for", "1s"])?;
    until("the end of a ban", &weir, || Ok(of("ban")? == 1.0))?;
    assert!(!weir.ask(&["lists"])?.contains("198.51.100.0/24"));
    Ok(())
}
