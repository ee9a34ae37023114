//! The load of a field test, for `cargo xtask bench tls`: new TLS connections at a steady rate, with headers rewritten, while
//! the L4 plane's table holds many flows; and the memory of all of weir's processes meanwhile.
//!
//! A client, the box and a backend in namespaces. The flows are connections that are established through the L4 plane, and whose
//! ends are then forgotten without a word (`TCP_REPAIR`), for few machines let one program have so many descriptors: to weir they
//! stand. Then another program (`tls_load` of weir-tls) makes the TLS connections. A report as JSON goes to standard output.
//!
//! Arguments: TLS_LOAD (the program), CONNECTIONS (a minute), FLOWS, SECONDS.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, TcpListener},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::TcpRepair};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use weir_e2e_tests::{Site, backend, pool, service, unchecked_pool, vip};
use weir_harness::{Cmd, Netns, Scratch, Weir, WeirConfig, lab::Family, wait::pass_time, wait_until};

/// Services of the L4 plane, each at a port of its own: one has source ports for some of the flows.
const SERVICES: u16 = 4;
const L4_PORT: u16 = 8081;
const BACKEND_PORT: u16 = 7001;
/// The first of the client's ports.
const FIRST_PORT: u16 = 20_000;
const PATIENCE: Duration = Duration::from_secs(120);

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let load = args
        .next()
        .context("no TLS_LOAD: write TLS_LOAD CONNECTIONS FLOWS SECONDS")?;
    let mut number = |name: &str| -> Result<u32> {
        let text = args.next().with_context(|| format!("no {name}"))?;
        text.parse()
            .with_context(|| format!("{name} is no number: {text}"))
    };
    let (per_minute, flows, seconds) = (number("CONNECTIONS")?, number("FLOWS")?, number("SECONDS")?);
    let site = Site::new(1)?;
    let scratch = Scratch::new()?;
    let weir = Weir::start(&site.lab.router, WeirConfig::both_planes(body(&scratch)?))?;
    weir.wait_all_up()?;
    let (client, server) = (&site.lab.client, &site.lab.backends[0]);
    establish(client, server, u16::try_from(flows.div_ceil(SERVICES.into()))?)?;
    let counted = || {
        let entries = weir
            .metrics()
            .and_then(|m| m.sum("weir_xdp_flow_entries", &[("table", "flows")]));
        match entries {
            Ok(entries) if entries >= f64::from(flows) => Ok(entries),
            other => Err(format!("{other:?}")),
        }
    };
    let before = memory(&weir)?;
    wait_until(PATIENCE, "the table holds the flows", counted)?;

    let rate = f64::from(per_minute) / 60.0;
    let done = AtomicBool::new(false);
    let (report, all) = thread::scope(|scope| -> Result<_> {
        let watch = scope.spawn(|| -> Result<Vec<Memory>> {
            let mut all = vec![memory(&weir)?];
            while !done.load(Relaxed) {
                pass_time(Duration::from_millis(250))?;
                all.push(memory(&weir)?);
            }
            Ok(all)
        });
        let ran = Cmd::new(&load)
            .arg(vip(Family::V4, 443).to_string())
            .args(["paced", &format!("rate={rate}"), &format!("seconds={seconds}")])
            .stdin("go\n")
            .deadline(Duration::from_secs(u64::from(seconds) + 60))
            .inside(client)
            .check();
        done.store(true, Relaxed);
        let all = watch
            .join()
            .map_err(|_| anyhow::anyhow!("the watch has panicked"))??;
        let ran = weir.with_log(ran)?;
        let report: Value = serde_json::from_str(ran.lines().last().unwrap_or_default())
            .with_context(|| format!("the report of tls_load: {ran}"))?;
        Ok((report, all))
    })?;
    let entries = wait_until(PATIENCE, "the flows are there still", counted)?;
    let of = |process: &BTreeMap<String, u64>, what: &str| process.get(what).copied().unwrap_or_default();
    let sum = |memory: &Memory, what: &str| memory.values().map(|process| of(process, what)).sum::<u64>();
    let most = all
        .iter()
        .max_by_key(|memory| sum(memory, "pss"))
        .context("no look")?;
    let processes: Vec<_> = most
        .iter()
        .map(|(role, process)| {
            json!({ "role": role, "rss": of(process, "rss"), "pss": of(process, "pss"), "anonymous": of(process, "anonymous") })
        })
        .collect();
    let totals = |memory: &Memory| json!({ "rss": sum(memory, "rss"), "pss": sum(memory, "pss") });
    println!(
        "{:#}",
        json!({
            "flows": entries, "load": report, "processes": processes, "before": totals(&before), "most": totals(most),
            "maps": maps(weir.control_pid())?,
        })
    );
    Ok(())
}

/// TLS with headers rewritten before nginx, and the services of the L4 plane.
fn body(scratch: &Scratch) -> Result<String> {
    let [chain, key] = ["www.crt", "www.key"].map(|name| scratch.join(name));
    Cmd::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "30", "-subj", "/CN=bench.test"])
        .args([
            "-addext",
            "subjectAltName=DNS:bench.test",
            "-newkey",
            "rsa:2048",
            "-keyout",
        ])
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .check()?;
    let mut text = pool("web", &[(backend(Family::V4, 0, 80), 1)]);
    text.push_str(&service(
        "www",
        "http",
        &[vip(Family::V4, 443).to_string()],
        "web",
        &format!(
            "request_headers = [{{ set = \"X-TLS-Version\", value = \"{{tls.version}}\" }}, {{ remove = \"User-Agent\" }}]\n\
             response_headers = [{{ set = \"Strict-Transport-Security\", value = \"max-age=31536000\" }}]\n\
             [services.www.tls]\ncertificates = [{{ chain = \"{}\", key = \"{}\" }}]",
            chain.display(),
            key.display()
        ),
    ));
    for at in 0..SERVICES {
        let name = format!("l4-{at}");
        text.push_str(&unchecked_pool(
            &name,
            &[(backend(Family::V4, 0, BACKEND_PORT + at), 1)],
        ));
        let listen = [vip(Family::V4, L4_PORT + at).to_string()];
        text.push_str(&service(&name, "l4", &listen, &name, ""));
    }
    Ok(text)
}

/// So many connections to each service of the L4 plane, which both ends have forgotten.
fn establish(client: &Netns, server: &Netns, each: u16) -> Result<()> {
    let mut listeners = Vec::new();
    for at in 0..SERVICES {
        let address = SocketAddr::new(Family::V4.backend(0), BACKEND_PORT + at);
        listeners.push(server.run(|| TcpListener::bind(address))??);
    }
    thread::scope(|scope| {
        let threads: Vec<_> = listeners
            .iter()
            .zip(0..)
            .map(|(listener, at)| {
                let to = vip(Family::V4, L4_PORT + at);
                scope
                    .spawn(move || client.run(|| (0..each).try_for_each(|number| flow(number, to, listener))))
            })
            .collect();
        for thread in threads {
            let made = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread has panicked"))?;
            made?.context("connecting through the L4 plane")?;
        }
        Ok(())
    })
}

/// A connection from a port of its own.
fn flow(number: u16, to: SocketAddr, listener: &TcpListener) -> Result<()> {
    let from = SocketAddr::new(Family::V4.client(), FIRST_PORT + number);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Each service has connections from the same ports.
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    let (accepted, _) = listener.accept()?;
    // Closed in this state a connection ends without a segment.
    setsockopt(&socket, TcpRepair, &1)?;
    setsockopt(&accepted, TcpRepair, &1)?;
    Ok(())
}

/// By role: bytes by what the kernel calls them.
type Memory = BTreeMap<String, BTreeMap<String, u64>>;

/// What each of weir's processes holds now, but for pages of the kernel's maps that it has mapped: those count as maps
/// (proc_pid_smaps(5)).
fn memory(weir: &Weir<'_>) -> Result<Memory> {
    let mut pids = BTreeMap::from([("control".to_owned(), weir.control_pid())]);
    let processes = weir.status()?.processes;
    pids.extend(processes.into_iter().filter_map(|p| Some((p.role, p.pid?))));
    ensure!(pids.len() == 4, "control, relay, health and keys, not {pids:?}");
    pids.into_iter()
        .map(|(role, pid)| {
            let path = format!("/proc/{pid}/smaps");
            let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
            let mut sums = BTreeMap::new();
            let mut is_map = false;
            for line in text.lines() {
                let mut words = line.split_ascii_whitespace();
                let (Some(first), Some(second)) = (words.next(), words.next()) else {
                    continue;
                };
                if let Some(name) = first.strip_suffix(':') {
                    let kib: u64 = second.parse().unwrap_or_default();
                    if !is_map {
                        *sums.entry(name.to_ascii_lowercase()).or_default() += kib * 1024;
                    }
                } else {
                    is_map = line.ends_with("anon_inode:bpf-map");
                }
            }
            Ok((role, sums))
        })
        .collect()
}

/// Bytes of the maps that a process holds, each once.
fn maps(pid: u32) -> Result<u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))
        .context("descriptors of control")?
        .flatten()
    {
        // One may be closed since.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if value("map_type:").is_some()
            && let (Some(id), Some(bytes)) = (value("map_id:"), value("memlock:"))
        {
            found.insert(id, bytes);
        }
    }
    Ok(found.values().sum())
}
