//! `xdp = "off"`: an HTTP and TCP relay on ordinary sockets, by a user without any privilege.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use weir_e2e_tests::{pool, service, unchecked_pool};
use weir_harness::{
    Netns, Scratch, Weir, WeirConfig,
    lab::Family,
    peer::{
        curl::{self, url},
        echo::{self, Echo},
        nginx::Nginx,
        same_bytes, write_noise,
    },
    scratch,
};

/// nobody, nogroup
const USER: (u32, u32) = (65534, 65534);

fn loopback(family: Family, port: u16) -> SocketAddr {
    match family {
        Family::V4 => ([127, 0, 0, 1], port).into(),
        Family::V6 => ([0, 0, 0, 0, 0, 0, 0, 1_u16], port).into(),
    }
}

fn both(port: u16) -> [SocketAddr; 2] {
    Family::ALL.map(|family| loopback(family, port))
}

#[test]
fn a_relay_without_privileges_serves_http_and_tcp() -> Result<()> {
    let netns = Netns::new(&scratch::unique())?;
    let nginx = Nginx::start(&netns, "b1", &both(8081))?;
    let _second = Nginx::start(&netns, "b2", &both(8082))?;
    let _echo = Echo::start(&netns, "e1", &both(7007))?;
    let listen = |port| both(port).map(|addr| addr.to_string());
    let body = pool("web", &[("127.0.0.1:8081".into(), 10), ("[::1]:8082".into(), 10)])
        + &pool("one", &[("127.0.0.1:8081".into(), 10)])
        + &unchecked_pool("echo", &[("127.0.0.1:7007".into(), 10)])
        + &service("www", "http", &listen(8000), "web", "")
        + &service("files", "http", &listen(8001), "one", "")
        + &service("echo", "tcp", &listen(9000), "echo", "");
    let mut weir = Weir::start(&netns, WeirConfig::relay_only(body, Some(USER)))?;
    weir.wait_all_up()?;

    let status = weir.status()?;
    assert_eq!(status.xdp.mode, "off");
    for process in &status.processes {
        let pid = process.pid.context("a process without id")?;
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        assert_eq!(line("CapEff:"), "0000000000000000", "{}", process.role);
        assert_eq!(line("Uid:"), "65534\t65534\t65534\t65534", "{}", process.role);
    }

    let scratch = Scratch::new()?;
    let (sent, received) = (scratch.join("sent"), scratch.join("received"));
    write_noise(&sent, 8 << 20, 9)?;
    for family in Family::ALL {
        weir.with_log(weir_e2e_tests::ask_until_all(
            &netns,
            loopback(family, 8000),
            &["b1", "b2"],
        ))?;
        let target = |path: &str| url(loopback(family, 8001), path);
        weir.with_log(curl::upload(&netns, &sent, &target("/files/up"), &[]))?;
        same_bytes(&sent, &nginx.file("up"))?;
        weir.with_log(curl::download(&netns, &target("/files/up"), &received))?;
        same_bytes(&sent, &received)?;

        let mut stream = echo::connect(&netns, loopback(family, 9000))?;
        let payload = std::fs::read(&sent)?;
        // The client ends its direction; what the server says after that arrives.
        for part in payload.chunks(64 << 10).take(16) {
            weir.with_log(echo::ping(&mut stream, part))?;
        }
        assert_eq!(weir.with_log(echo::finish(stream))?, ("e1".to_owned(), 1 << 20));
    }
    weir.stop()?;
    Ok(())
}

#[test]
fn the_server_may_end_its_direction_first() -> Result<()> {
    const SIZE: usize = 1 << 20;
    let netns = Netns::new(&scratch::unique())?;
    let listener = netns.run(|| TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?.to_string();
    let body = unchecked_pool("half", &[(address, 10)])
        + &service("half", "tcp", &["127.0.0.1:9000".into()], "half", "");
    let weir = Weir::start(&netns, WeirConfig::relay_only(body, Some(USER)))?;
    let server = thread::spawn(move || -> Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"said and done")?;
        stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        Ok(rest.len())
    });
    let mut stream = echo::connect(&netns, loopback(Family::V4, 9000))?;
    let mut said = String::new();
    weir.with_log(stream.read_to_string(&mut said).map_err(Into::into))?;
    assert_eq!(said, "said and done");
    stream
        .write_all(&vec![7; SIZE])
        .context("the other direction is still open")?;
    stream.shutdown(Shutdown::Write)?;
    let received = server.join().map_err(|_| anyhow!("the server panicked"))??;
    assert_eq!(received, SIZE);
    Ok(())
}

#[test]
fn what_needs_privileges_is_refused_with_words() -> Result<()> {
    let netns = Netns::new(&scratch::unique())?;
    let backend = [("127.0.0.1:8081".to_owned(), 10)];
    // Port 80 as nobody; an L4 service without XDP.
    netns.sysctl("ipv4/ip_unprivileged_port_start", "1024")?;
    let low = unchecked_pool("web", &backend) + &service("www", "http", &["127.0.0.1:80".into()], "web", "");
    let l4 =
        unchecked_pool("web", &backend) + &service("packets", "l4", &["127.0.0.1:8000".into()], "web", "");
    for (body, words) in [(low, ":80"), (l4, "xdp")] {
        let mut weir = Weir::launch(&netns, WeirConfig::relay_only(body, Some(USER)))?;
        let status = weir.wait_end(Duration::from_secs(20))?;
        assert!(!status.success());
        assert!(weir.log().contains(words), "no {words:?} in:\n{}", weir.log());
    }
    Ok(())
}
