//! Both planes carry what they should: HTTP, TCP and UDP, IPv4 and IPv6, small and large, one and many.

use std::{
    io::{Read, Write},
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use weir_e2e_tests::{
    HTTP, L4, PATIENT, Site, TCP, ask, ask_until_all, backend, config, pool_of, service, start,
    unchecked_pool, vip,
};
use weir_harness::{
    Cmd, Lab, Scratch, Weir, WeirConfig,
    lab::{Family, INSIDE_V4, INSIDE_V6},
    peer::{
        curl::{self, url},
        dns::{BIG, Nsd, WHO, dig},
        echo::{self, Echo},
        same_bytes, write_noise,
    },
    wait_until,
};

#[test]
fn curl_reaches_nginx_on_both_planes_in_both_families() -> Result<()> {
    let site = Site::new(2)?;
    let weir = start(&site.lab, config(&[0, 1]))?;
    let client = &site.lab.client;
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            weir.with_log(ask_until_all(client, vip(family, port), &["b1", "b2"]))
                .with_context(|| site.lab.xdp_counters())?;
        }
        // nat leaves the client's address as it is; the relay speaks for itself.
        let seen_by_nginx = |port| -> Result<String> {
            let text = curl::get(client, &url(vip(family, port), "/"), &[])?.text();
            Ok(text.split_whitespace().nth(1).unwrap_or_default().to_owned())
        };
        let inside = match family {
            Family::V4 => INSIDE_V4.to_string(),
            Family::V6 => INSIDE_V6.to_string(),
        };
        assert_eq!(seen_by_nginx(L4)?, family.client().to_string());
        assert_eq!(seen_by_nginx(HTTP)?, inside);
        assert_eq!(seen_by_nginx(TCP)?, inside);
    }
    // Every packet of the L4 plane took XDP, none the kernel's forwarding, which is off.
    assert_eq!(site.lab.router.read_sysctl("ipv4/ip_forward")?, "0");
    let metrics = weir.metrics()?;
    for reason in ["forward-nat", "return-nat", "relay"] {
        assert!(
            metrics.sum("weir_xdp_packets_total", &[("reason", reason)])? > 0.0,
            "{reason}"
        );
    }
    Ok(())
}

#[test]
fn generic_xdp_carries_both_planes_too() -> Result<()> {
    let site = Site::new(2)?;
    let mut config = WeirConfig::both_planes(config(&[0, 1]));
    config.xdp = "generic";
    let weir = Weir::start(&site.lab.router, config)?;
    weir.wait_all_up()?;
    assert_eq!(weir.status()?.xdp.mode, "generic");
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            weir.with_log(ask_until_all(&site.lab.client, vip(family, port), &["b1", "b2"]))?;
        }
    }
    Ok(())
}

#[test]
fn udp_goes_through_xdp_both_ways_and_a_flow_stays_where_it_is() -> Result<()> {
    let lab = Lab::unique(2)?;
    let mut body = String::new();
    let mut echoes = Vec::new();
    for (i, netns) in lab.backends.iter().enumerate() {
        let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(i), 7));
        echoes.push(Echo::start(netns, &format!("b{}", i + 1), &listen)?);
    }
    for family in Family::ALL {
        let backends = [0, 1].map(|i| (backend(family, i, 7), 10));
        body += &unchecked_pool(&pool_of(family, "echo"), &backends);
        let listen = [format!("{}/udp", vip(family, 7))];
        body += &service(
            &pool_of(family, "echo"),
            "l4",
            &listen,
            &pool_of(family, "echo"),
            "",
        );
    }
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        let target = vip(family, 7);
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..60_usize {
            // Empty, odd and even lengths: each has its own way through the checksum.
            let payload: Vec<u8> = (0..i * 20).map(|n| n as u8).collect();
            let answer = weir.with_log(echo::ask(&lab.client, target, &payload));
            seen.insert(answer.with_context(|| lab.xdp_counters())?);
        }
        assert_eq!(
            seen.into_iter().collect::<Vec<_>>(),
            ["b1", "b2"],
            "60 flows to {target}"
        );

        let local: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse()?;
        let socket: UdpSocket = lab.client.run(|| UdpSocket::bind(local))??;
        socket.connect(target)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let mut answers = std::collections::BTreeSet::new();
        for _ in 0..20 {
            socket.send(b"again")?;
            let mut buffer = [0; 64];
            let len = socket.recv(&mut buffer).context("no datagram back")?;
            answers.insert(buffer[..len].to_vec());
        }
        assert_eq!(
            answers.len(),
            1,
            "datagrams of one flow went to more than one backend"
        );
    }
    assert!(echoes.iter().all(|echo| echo.datagrams() > 0));
    Ok(())
}

#[test]
fn a_dns_service_answers_over_udp_and_tcp() -> Result<()> {
    let lab = Lab::unique(2)?;
    let mut servers = Vec::new();
    for (i, netns) in lab.backends.iter().enumerate() {
        let listen = Family::ALL.map(|family| family.backend(i));
        servers.push(Nsd::start(netns, &format!("b{}", i + 1), &listen)?);
    }
    let mut body = String::new();
    for family in Family::ALL {
        let name = pool_of(family, "dns");
        body += &unchecked_pool(&name, &[0, 1].map(|i| (backend(family, i, 53), 10)));
        body += &format!("[pools.{name}.check]\ntype = \"tcp\"\n{PATIENT}\n");
        let listen = ["udp", "tcp"].map(|protocol| format!("{}/{protocol}", vip(family, 53)));
        body += &service(&name, "l4", &listen, &name, "");
    }
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        for tcp in [false, true] {
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..30 {
                let answer = weir.with_log(dig(&lab.client, family.vip(), 53, WHO, tcp))?;
                assert_eq!(answer.len(), 1, "{answer:?}");
                seen.extend(answer);
            }
            assert_eq!(
                seen.into_iter().collect::<Vec<_>>(),
                ["b1", "b2"],
                "{family:?}, tcp {tcp}"
            );
            // Truncated over UDP; dig asks again over TCP by itself.
            assert_eq!(dig(&lab.client, family.vip(), 53, BIG, tcp)?.len(), 16);
        }
    }
    Ok(())
}

#[test]
fn shares_follow_the_weights() -> Result<()> {
    const FLOWS: usize = 1200;
    let lab = Lab::unique(2)?;
    let mut echoes = Vec::new();
    let mut body = String::new();
    for (i, netns) in lab.backends.iter().enumerate() {
        let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(i), 7));
        echoes.push(Echo::start(netns, &format!("b{}", i + 1), &listen)?);
    }
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &unchecked_pool(&name, &[(backend(family, 0, 7), 30), (backend(family, 1, 7), 10)]);
        body += &service(
            &pool_of(family, "packets"),
            "l4",
            &[vip(family, L4).to_string()],
            &name,
            "",
        );
        body += &service(
            &pool_of(family, "bytes"),
            "tcp",
            &[vip(family, TCP).to_string()],
            &name,
            "",
        );
    }
    let weir = start(&lab, body)?;
    for family in Family::ALL {
        // Flows are hashed with a key drawn at the start: five standard deviations. The relay counts: a round or two.
        for (port, tolerance) in [(L4, 0.065), (TCP, 0.01)] {
            let before = echoes.iter().map(Echo::connections).collect::<Vec<_>>();
            for _ in 0..FLOWS {
                let stream = weir.with_log(echo::connect(&lab.client, vip(family, port)))?;
                echo::finish(stream)?;
            }
            let taken: Vec<u64> = echoes
                .iter()
                .zip(&before)
                .map(|(echo, before)| echo.connections() - before)
                .collect();
            assert_eq!(taken.iter().sum::<u64>(), FLOWS as u64);
            let share = taken[0] as f64 / FLOWS as f64;
            assert!(
                (share - 0.75).abs() <= tolerance,
                "{family:?} {port}: {taken:?}, a share of {share}"
            );
        }
    }
    Ok(())
}

#[test]
fn requests_are_shared_by_weight_over_one_connection_too() -> Result<()> {
    let site = Site::new(3)?;
    let weights = [20, 10, 10];
    let backends: Vec<_> = (0..3).map(|i| (backend(Family::V4, i, 80), weights[i])).collect();
    let listen = Family::ALL.map(|family| vip(family, HTTP).to_string());
    let body = weir_e2e_tests::pool("web", &backends) + &service("www", "http", &listen, "web", "");
    let weir = start(&site.lab, body)?;
    // One IPv6 client connection, IPv4 backends.
    let urls = url(vip(Family::V6, HTTP), "/?n=[1-400]");
    let text = weir.with_log(
        Cmd::new("curl")
            .args(["-sS", "--noproxy", "*", &urls])
            .inside(&site.lab.client)
            .check(),
    )?;
    let count = |who: &str| {
        text.lines()
            .filter(|line| line.split(' ').next() == Some(who))
            .count()
    };
    let counts = ["b1", "b2", "b3"].map(count);
    assert_eq!(counts.iter().sum::<usize>(), 400, "{text}");
    for (got, want) in counts.iter().zip([200, 100, 100]) {
        assert!(got.abs_diff(want) <= 2, "{counts:?}");
    }
    let relayed = weir
        .metrics()?
        .sum("weir_relay_requests_total", &[("service", "www")])?;
    assert_eq!(relayed, 400.0);
    Ok(())
}

#[test]
fn sixty_four_mebibytes_pass_unchanged_both_ways_on_both_planes() -> Result<()> {
    const SIZE: usize = 64 << 20;
    let site = Site::new(1)?;
    let weir = start(&site.lab, config(&[0]))?;
    let scratch = Scratch::new()?;
    let sent = scratch.join("sent");
    write_noise(&sent, SIZE, 7)?;
    let nginx = &site.nginx[0];
    std::fs::copy(&sent, nginx.file("big"))?;
    for family in Family::ALL {
        for port in [L4, HTTP, TCP] {
            let target = vip(family, port);
            let received = scratch.join("received");
            weir.with_log(curl::download(
                &site.lab.client,
                &url(target, "/files/big"),
                &received,
            ))?;
            same_bytes(&sent, &received).with_context(|| format!("down from {target}"))?;

            weir.with_log(curl::upload(
                &site.lab.client,
                &sent,
                &url(target, "/files/up"),
                &[],
            ))?;
            same_bytes(&sent, &nginx.file("up")).with_context(|| format!("up to {target}"))?;
        }
        // Without a length, in chunks.
        let chunked = ["-H", "Transfer-Encoding: chunked"];
        let target = url(vip(family, HTTP), "/files/chunked");
        weir.with_log(curl::upload(&site.lab.client, &sent, &target, &chunked))?;
        same_bytes(&sent, &nginx.file("chunked")).context("up in chunks")?;
    }
    Ok(())
}

#[test]
fn two_hundred_connections_are_open_at_once() -> Result<()> {
    const COUNT: usize = 200;
    let site = Site::new(2)?;
    let mut echoes = Vec::new();
    let mut body = config(&[0, 1]);
    for (i, netns) in site.lab.backends.iter().enumerate() {
        let listen = Family::ALL.map(|family| SocketAddr::new(family.backend(i), 7));
        echoes.push(Echo::start(netns, &format!("b{}", i + 1), &listen)?);
    }
    for family in Family::ALL {
        let name = pool_of(family, "echo");
        body += &unchecked_pool(&name, &[0, 1].map(|i| (backend(family, i, 7), 10)));
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
    let weir = start(&site.lab, body)?;
    let client = &site.lab.client;
    for family in Family::ALL {
        for port in [7, 8] {
            let mut open = Vec::new();
            for i in 0..COUNT {
                let stream = weir.with_log(echo::connect(client, vip(family, port)));
                open.push(stream.with_context(|| format!("connection {i}"))?);
            }
            let payload: Vec<u8> = (0..8 << 10).map(|n: u32| (n % 251) as u8).collect();
            for stream in &mut open {
                echo::ping(stream, &payload)?;
            }
            for stream in open {
                let (_, count) = weir.with_log(echo::finish(stream))?;
                assert_eq!(count, payload.len() as u64);
            }
        }

        // HTTP: every request is sent before the first answer is read.
        let mut open = Vec::new();
        for i in 0..COUNT {
            let mut stream = echo::connect(client, vip(family, HTTP))?;
            stream.write_all(
                format!("GET /?n={i} HTTP/1.1\r\nHost: www\r\nConnection: close\r\n\r\n").as_bytes(),
            )?;
            open.push(stream);
        }
        for mut stream in open {
            let mut answer = String::new();
            weir.with_log(stream.read_to_string(&mut answer).map_err(Into::into))?;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(
                answer.contains("\r\n\r\nb1 ") || answer.contains("\r\n\r\nb2 "),
                "{answer}"
            );
        }

        // And by curl, each with a body of 1 MiB.
        for nginx in &site.nginx {
            write_noise(&nginx.file("some"), 1 << 20, 3)?;
        }
        for port in [L4, HTTP] {
            let urls = url(vip(family, port), &format!("/files/some?n=[1-{COUNT}]"));
            let text = Cmd::new("curl")
                .args([
                    "-sS",
                    "--noproxy",
                    "*",
                    "-Z",
                    "--parallel-immediate",
                    "--parallel-max",
                    "200",
                ])
                .args([
                    "--max-time",
                    "30",
                    "-w",
                    "%{http_code} %{size_download}\\n",
                    "-o",
                    "/dev/null",
                ])
                .arg(urls)
                .deadline(Duration::from_secs(60))
                .inside(client);
            let output = weir.with_log(text.run())?;
            let complete = output
                .text()
                .lines()
                .filter(|line| *line == "200 1048576")
                .count();
            let all = if complete == COUNT {
                Ok(())
            } else {
                Err(anyhow!(
                    "{complete} of {COUNT} at port {port}: {}\n{}",
                    output.text(),
                    output.complaint()
                ))
            };
            weir.with_log(all)?;
        }
    }
    Ok(())
}

#[test]
fn with_no_backend_up_requests_get_503_and_flows_are_dropped() -> Result<()> {
    let lab = Lab::unique(1)?;
    // Nobody listens yet: the check can't pass.
    let name = "web";
    let body = weir_e2e_tests::pool(name, &[(backend(Family::V4, 0, 80), 10)])
        + &service("www", "http", &[vip(Family::V4, HTTP).to_string()], name, "")
        + &service("packets", "l4", &[vip(Family::V4, L4).to_string()], name, "");
    let weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    weir.wait_state(name, &backend(Family::V4, 0, 80), "down", Duration::from_secs(10))?;
    let response = curl::get(&lab.client, &url(vip(Family::V4, HTTP), "/"), &[])?;
    assert_eq!(response.status, 503, "{}", response.text());
    let refused = ask(&lab.client, vip(Family::V4, L4), 1).expect_err("no backend is up");
    assert!(
        weir.metrics()?
            .sum("weir_xdp_packets_total", &[("reason", "no-backend")])?
            > 0.0,
        "{refused:#}"
    );
    Ok(())
}

#[test]
fn next_hops_of_backends_are_known_before_the_first_packet() -> Result<()> {
    let lab = Lab::unique(1)?;
    let name = "web";
    let body = weir_e2e_tests::pool(name, &[(backend(Family::V4, 0, 80), 10)])
        + &service("packets", "l4", &[vip(Family::V4, L4).to_string()], name, "");
    let weir = Weir::start(&lab.router, WeirConfig::both_planes(body))?;
    let known = wait_until(Duration::from_secs(10), "the next hop is known", || {
        let metrics = weir.metrics()?;
        let count = |state| metrics.sum("weir_xdp_next_hops", &[("state", state)]);
        match (count("resolved")?, count("asked")?) {
            (1.0, 0.0) => Ok(()),
            other => Err(anyhow!("{other:?}")),
        }
    });
    weir.with_log(known)
}
