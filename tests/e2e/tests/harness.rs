//! The harness itself, without weir: when these fail, the other tests of this crate say nothing about weir.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::Result;
use weir_harness::{
    Cmd, Lab, Netns, Process, Scratch,
    lab::{Family, backend_v4, backend_v6},
    netns,
    peer::{
        curl::{self, Load, Reuse, url},
        dns::{BIG, Nsd, WHO, dig},
        echo::{self, Echo},
        mirror::Mirror,
        nginx::Nginx,
        same_bytes, write_noise,
    },
    scratch, wait_until,
};

#[test]
fn a_namespace_goes_with_what_runs_in_it() -> Result<()> {
    let name = scratch::unique();
    let scratch = Scratch::new()?;
    let netns = Netns::new(&name)?;
    let mut process = Process::start("sleep", &scratch, &Cmd::new("sleep").arg("60").inside(&netns))?;
    assert_eq!(netns.processes()?, [process.pid()]);
    drop(netns);
    assert!(
        !process.wait(Duration::from_secs(5))?.success(),
        "it was not killed"
    );
    assert!(netns::names(&name)?.is_empty());
    Ok(())
}

#[test]
fn a_panic_leaves_no_namespace() -> Result<()> {
    let name = scratch::unique();
    let panicked = std::thread::spawn({
        let name = name.clone();
        move || {
            let _netns = Netns::new(&name).expect("a namespace");
            panic!("as a failed assertion would");
        }
    })
    .join();
    assert!(panicked.is_err());
    assert!(netns::names(&name)?.is_empty());
    Ok(())
}

#[test]
fn what_a_dead_run_left_is_removed() -> Result<()> {
    // A process id that is certainly free: that of a process which has just ended and been waited for.
    let scratch = Scratch::new()?;
    let mut ended = Process::start("true", &scratch, &Cmd::new("true"))?;
    ended.wait(Duration::from_secs(5))?;
    let name = format!("{}{}-0-left", scratch::PREFIX, ended.pid());
    Cmd::new("ip").args(["netns", "add", &name]).check()?;

    // A run of its own, for each run cleans only once.
    let me = std::env::current_exe()?;
    Cmd::new(me)
        .args(["--exact", "a_panic_leaves_no_namespace"])
        .check()?;
    assert!(netns::names(&name)?.is_empty());
    Ok(())
}

#[test]
fn peers_answer_in_a_lab() -> Result<()> {
    let lab = Lab::unique(2)?;
    let scratch = Scratch::new()?;
    let both = |port: u16, i: usize| [(backend_v4(i), port).into(), (backend_v6(i), port).into()];
    let [first, second] = lab.backends.as_slice() else {
        panic!("two backends")
    };
    assert_eq!(lab.router.read_sysctl("ipv4/ip_forward")?, "0");

    let nginx = Nginx::start(first, "b1", &both(80, 0))?;
    let _dns = Nsd::start(second, "b2", &[backend_v4(1).into(), backend_v6(1).into()])?;
    let echo = Echo::start(first, "b1", &both(7, 0))?;
    let _mirror = Mirror::start(second, both(80, 1)[0], &["X-Twice: 1", "X-Twice: 2"])?;

    let sent = scratch.join("sent");
    write_noise(&sent, 3 << 20, 1)?;
    for (family, target) in Family::ALL.into_iter().zip(both(80, 0)) {
        let answer = curl::get(&lab.router, &url(target, "/"), &[])?;
        assert_eq!(
            (answer.status, answer.who().as_str()),
            (200, "b1"),
            "{}",
            answer.text()
        );

        curl::upload(&lab.router, &sent, &url(target, "/files/kept"), &[])?;
        same_bytes(&sent, &nginx.file("kept"))?;
        let received = scratch.join("received");
        curl::download(&lab.router, &url(target, "/files/kept"), &received)?;
        same_bytes(&sent, &received)?;

        for tcp in [false, true] {
            assert_eq!(dig(&lab.router, family.backend(1), 53, WHO, tcp)?, ["b2"]);
            assert_eq!(dig(&lab.router, family.backend(1), 53, BIG, tcp)?.len(), 16);
        }

        let target = SocketAddr::new(family.backend(0), 7);
        assert_eq!(echo::ask(&lab.router, target, b"hello")?, "b1");
        let mut stream = echo::connect(&lab.router, target)?;
        echo::ping(&mut stream, b"hello")?;
        assert_eq!(echo::finish(stream)?, ("b1".to_owned(), 5));
    }
    assert_eq!((echo.connections(), echo.datagrams()), (2, 2));

    let answer = curl::get(&lab.router, &url(both(80, 1)[0], "/x"), &["-H", "X-A: 1"])?;
    assert!(
        answer.text().starts_with("GET /x HTTP/1.1\r\n"),
        "{}",
        answer.text()
    );
    assert!(answer.text().contains("\r\nX-A: 1\r\n"), "{}", answer.text());
    assert_eq!(answer.field("x-twice"), ["1", "2"]);

    nginx.set_sick(true)?;
    assert_eq!(
        curl::get(&lab.router, &url(both(80, 0)[0], "/healthz"), &[])?.status,
        503
    );
    nginx.set_sick(false)?;
    assert_eq!(
        curl::get(&lab.router, &url(both(80, 0)[0], "/healthz"), &[])?.status,
        200
    );
    Ok(())
}

#[test]
fn a_load_accounts_for_every_request() -> Result<()> {
    let lab = Lab::unique(1)?;
    let [backend] = lab.backends.as_slice() else {
        panic!("one backend")
    };
    for (family, reuse) in Family::ALL.into_iter().zip([Reuse::Never, Reuse::KeepAlive]) {
        let target = SocketAddr::new(family.backend(0), 80);
        let mut nginx = Nginx::start(backend, "b1", &[target])?;
        let load = Load::start(&lab.router, target, reuse, 200)?;
        let some = |load: &Load| {
            let before = load.tally().ok;
            wait_until(Duration::from_secs(10), "20 more requests are answered", || {
                let tally = load.tally();
                if tally.ok >= before + 20 {
                    Ok(())
                } else {
                    Err(format!("{tally:?}"))
                }
            })
        };
        some(&load)?;
        assert_eq!(load.tally().failures.len(), 0);

        let killed = Instant::now();
        nginx.kill();
        wait_until(Duration::from_secs(10), "requests fail", || {
            let tally = load.tally();
            if tally.failed_after(killed).is_empty() {
                Err(format!("{tally:?}"))
            } else {
                Ok(())
            }
        })?;
        nginx.restart(backend)?;
        some(&load)?;

        let tally = load.stop();
        let answered: u64 = tally.by_backend.values().sum();
        assert_eq!(tally.by_backend.keys().collect::<Vec<_>>(), ["b1"]);
        // Body and figures of the request that the stop cut off may have come in part.
        assert!(
            answered.abs_diff(tally.ok) <= 1,
            "{answered} bodies, {} requests",
            tally.ok
        );
        let logged = nginx.access_log().len() as u64;
        assert!(
            logged.abs_diff(tally.ok) <= 2,
            "{logged} in nginx's log, {} requests",
            tally.ok
        );
    }
    Ok(())
}
