//! The cases of `tests/conformance` through whole proxies: the weir binary, to the byte; HAProxy and nginx, by what they
//! say, so that a case that good proxies fail is looked at twice.
//!
//! How the others differ is in the table of deviations, with the reason. One that is not there fails the test; all are
//! written to a report.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Socket, Type};
use weir_conformance_tests::{
    Case, Drive, Proxy, Rigor, Setting, cases,
    deviations::{self, Peer},
    drive::Deviation,
};
use weir_harness::{Cmd, Process, Scratch};

/// How long a proxy may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long another proxy is waited for without any news, before that counts as its answer.
const NEWS: Duration = Duration::from_millis(1500);
/// How often a case that went strangely is played again.
const AGAIN: usize = 2;
/// Cases played at once. Most of their time is waiting.
const AT_ONCE: usize = 24;

/// A case with its own origin, and its own entrance to the proxy.
struct Lane {
    case: Case,
    origin: TcpListener,
    origin_at: SocketAddr,
    at: SocketAddr,
    /// Bound where the proxy will listen, so that nobody else is given the port before. Never listens.
    _held: Socket,
}

impl Proxy for Lane {
    fn at(&self) -> SocketAddr {
        self.at
    }
}

/// Each with ports of its own.
fn lanes() -> Result<Vec<Lane>> {
    let lane = |case| -> Result<Lane> {
        let origin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("finding a free port")?;
        let held = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // The proxy, which says so too, may bind beside it.
        held.set_reuse_address(true)?;
        held.set_reuse_port(true)?;
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .context("finding a free port")?;
        Ok(Lane {
            case,
            origin_at: origin.local_addr()?,
            origin,
            at: held.local_addr()?.as_socket().context("no address")?,
            _held: held,
        })
    };
    cases::all().into_iter().map(lane).collect()
}

#[test]
fn weir_to_the_byte() -> Result<()> {
    let scratch = Scratch::new()?;
    let lanes = lanes()?;
    let binary = weir_harness::weir::binary()?;
    let file = scratch.write("weir.toml", weir_config(&scratch, &lanes)?)?;
    let cmd = Cmd::new(binary)
        .args(["run", "-c"])
        .arg(&file)
        .args(["--access-log", "off"]);
    let mut weir = start("weir", &scratch, &cmd, &lanes)?;
    let mut failures = play(&lanes, Rigor::Bytes);
    // No namespace takes its children along.
    weir.stop(PATIENCE)?;
    failures.retain(|_, outcome| outcome.is_some());
    let told: String = failures
        .iter()
        .filter_map(|(id, outcome)| Some(format!("\n{id} {}", outcome.as_ref()?)))
        .collect();
    ensure!(
        failures.is_empty(),
        "{} of {} cases:{told}",
        failures.len(),
        lanes.len()
    );
    Ok(())
}

#[test]
fn haproxy_by_what_it_says() -> Result<()> {
    let scratch = Scratch::new()?;
    let lanes = lanes()?;
    let file = scratch.write("haproxy.cfg", haproxy_config(&lanes))?;
    let cmd = Cmd::new("haproxy").args(["-db", "-f"]).arg(&file);
    let _haproxy = start("haproxy", &scratch, &cmd, &lanes)?;
    compare(Peer::Haproxy, &lanes)
}

#[test]
fn nginx_by_what_it_says() -> Result<()> {
    let scratch = Scratch::new()?;
    let lanes = lanes()?;
    let file = scratch.write("nginx.conf", nginx_config(scratch.path(), &lanes))?;
    let cmd = Cmd::new("nginx")
        .arg("-p")
        .arg(scratch.path())
        .args(["-e", "stderr", "-c"])
        .arg(&file);
    let _nginx = start("nginx", &scratch, &cmd, &lanes)?;
    compare(Peer::Nginx, &lanes)
}

/// Starts a proxy and waits until it listens everywhere.
fn start(name: &str, scratch: &Scratch, cmd: &Cmd<'_>, lanes: &[Lane]) -> Result<Process> {
    let mut process = Process::start(name, scratch, cmd)
        .with_context(|| format!("starting {name}; `cargo xtask setup` gets what the tests need"))?;
    process.until(PATIENCE, &format!("{name} listens"), || {
        // An entrance that takes a connection is all that is asked; its case comes later.
        for lane in lanes {
            TcpStream::connect(lane.at).map_err(|error| format!("{}: {error}", lane.at))?;
        }
        Ok(())
    })?;
    Ok(process)
}

/// Plays all cases; None: as it should be.
fn play(lanes: &[Lane], rigor: Rigor) -> BTreeMap<&'static str, Option<Deviation>> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(lane) = lanes.get(next.fetch_add(1, Relaxed)) {
                    let outcome = Drive::play(&lane.case, lane, &lane.origin, rigor).err();
                    outcomes
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(lane.case.id, outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Holds a peer's outcomes against what is known, and writes the report.
fn compare(peer: Peer, lanes: &[Lane]) -> Result<()> {
    let outcomes = play(lanes, Rigor::Meaning(NEWS));
    let mut report = String::new();
    let mut unknown = String::new();
    let (mut same, mut differ, mut strange) = (0, 0, 0);
    for lane in lanes {
        let Case { id, rfc, .. } = lane.case;
        let mut outcome = outcomes.get(id).cloned().flatten();
        // Once more, alone: with some, what they do hangs on what comes first.
        let is_strange = |outcome: &Option<Deviation>| {
            let sign = outcome.as_ref().map(|deviation| deviation.sign.as_str());
            sign.is_some_and(|sign| deviations::why(peer, id, sign).is_none())
        };
        for _ in 0..AGAIN {
            if is_strange(&outcome) {
                outcome = Drive::play(&lane.case, lane, &lane.origin, Rigor::Meaning(NEWS)).err();
            }
        }
        let Some(deviation) = outcome else {
            same += 1;
            continue;
        };
        differ += 1;
        let why = deviations::why(peer, id, &deviation.sign);
        let _ = writeln!(
            report,
            "{id} ({rfc}): {}; {}",
            deviation.sign,
            why.unwrap_or("UNKNOWN")
        );
        if why.is_none() {
            strange += 1;
            let _ = write!(unknown, "\n{id} ({rfc}) {deviation}");
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("conformance-{}.txt", peer.as_str()));
    let head = format!("{}: {same} cases as weir, {differ} otherwise\n", peer.as_str());
    std::fs::write(&file, head.clone() + &report).with_context(|| format!("writing {}", file.display()))?;
    println!("{head}{report}the same in {}", file.display());
    if strange > 0 {
        bail!(
            "{strange} deviations of {} are not in the table of deviations: look at each twice, then list it with its \
             reason{unknown}",
            peer.as_str()
        );
    }
    ensure!(same > differ, "{head}is it set up as it should be?");
    Ok(())
}

/// Milliseconds that a setting gives to head, client, server, keep-alive and tunnel.
struct Times {
    head: u32,
    client: u32,
    server: u32,
    idle: u32,
    tunnel: u32,
}

fn times(setting: Setting) -> Times {
    const LONG: u32 = 60_000;
    let mut times = Times {
        head: LONG,
        client: LONG,
        server: LONG,
        idle: LONG,
        tunnel: LONG,
    };
    match setting {
        Setting::ShortHead => times.head = 300,
        Setting::ShortClient | Setting::BodyRate => times.client = 300,
        Setting::ShortServer => times.server = 300,
        Setting::ShortTunnel => times.tunnel = 300,
        Setting::ShortIdle => times.idle = 300,
        Setting::LongTunnel => {
            times.head = 200;
            times.client = 200;
            times.server = 200;
            times.idle = 200;
        }
        Setting::Plain
        | Setting::Trace
        | Setting::Connect
        | Setting::SmallBody
        | Setting::Trusted
        | Setting::NoVia => {}
    }
    times
}

fn weir_config(scratch: &Scratch, lanes: &[Lane]) -> Result<String> {
    let admin = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let mut text = format!(
        "[node]\nname = \"{}\"\nxdp = \"off\"\nworkers = 1\n[admin]\nsocket = \"{}/control.sock\"\nhttp = \"{admin}\"\n",
        weir_conformance_tests::case::NODE,
        scratch.path().display(),
    );
    for (i, lane) in lanes.iter().enumerate() {
        let Times {
            head,
            client,
            server,
            idle,
            tunnel,
        } = times(lane.case.setting);
        let (keys, limits) = match lane.case.setting {
            Setting::Trace => ("allow_trace = true", ""),
            Setting::Connect => ("allow_connect = true", ""),
            Setting::NoVia => ("via = \"off\"", ""),
            Setting::Trusted => ("trusted_proxies = [\"127.0.0.0/8\"]", ""),
            Setting::SmallBody => ("", "body = \"10B\""),
            Setting::BodyRate => ("", "body_rate = \"1KiB\""),
            Setting::Plain
            | Setting::ShortHead
            | Setting::ShortClient
            | Setting::ShortServer
            | Setting::ShortTunnel
            | Setting::LongTunnel
            | Setting::ShortIdle => ("", ""),
        };
        let _ = write!(
            text,
            "[pools.p{i}]\nbackends = [{{ address = \"{}\" }}]\n\
             [services.s{i}]\nlisten = [\"{}\"]\nmode = \"http\"\npool = \"p{i}\"\nhttp2 = {{ enabled = false }}\n{keys}\n\
             [services.s{i}.timeouts]\nrequest_head = \"{head}ms\"\nclient = \"{client}ms\"\nserver = \"{server}ms\"\n\
             keep_alive = \"{idle}ms\"\ntunnel = \"{tunnel}ms\"\n\
             [services.s{i}.limits]\nhead = \"16KiB\"\nheaders = 64\n{limits}\n",
            lane.origin_at, lane.at,
        );
    }
    Ok(text)
}

fn haproxy_config(lanes: &[Lane]) -> String {
    let mut text = "global\n  nbthread 1\n  maxconn 4000\ndefaults\n  mode http\n  timeout connect 5s\n  http-reuse always\n"
        .to_owned();
    for (i, lane) in lanes.iter().enumerate() {
        let Times {
            head,
            client,
            server,
            idle,
            tunnel,
        } = times(lane.case.setting);
        let rule = match lane.case.setting {
            Setting::SmallBody => {
                "http-request deny deny_status 413 if { req.hdr_val(content-length) gt 10 }"
            }
            Setting::Plain
            | Setting::Trace
            | Setting::Connect
            | Setting::ShortHead
            | Setting::ShortClient
            | Setting::BodyRate
            | Setting::ShortServer
            | Setting::ShortTunnel
            | Setting::LongTunnel
            | Setting::ShortIdle
            | Setting::Trusted
            | Setting::NoVia => "",
        };
        let _ = write!(
            text,
            "frontend f{i}\n  bind {}\n  timeout client {client}\n  timeout http-request {head}\n  \
             timeout http-keep-alive {idle}\n  {rule}\n  default_backend b{i}\n\
             backend b{i}\n  timeout server {server}\n  timeout tunnel {tunnel}\n  server s {}\n",
            lane.at, lane.origin_at,
        );
    }
    text
}

fn nginx_config(dir: &Path, lanes: &[Lane]) -> String {
    let dir = dir.display();
    let mut text = format!(
        "daemon off; worker_processes 1; worker_rlimit_nofile 16384; pid {dir}/nginx.pid; error_log stderr error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; server_tokens off;\n\
         client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
         uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}\n\
         proxy_http_version 1.1; proxy_buffering off; proxy_request_buffering off; proxy_next_upstream off;\n\
         proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade;\n\
         proxy_set_header Connection $connection_upgrade; proxy_pass_header Server; proxy_pass_header Date;\n\
         large_client_header_buffers 4 16k; proxy_buffer_size 16k; proxy_buffers 8 16k;\n\
         proxy_busy_buffers_size 16k; client_max_body_size 0;\n"
    );
    for (i, lane) in lanes.iter().enumerate() {
        let Times {
            head,
            client,
            server,
            idle,
            tunnel,
        } = times(lane.case.setting);
        let body = match lane.case.setting {
            Setting::SmallBody => "client_max_body_size 10;",
            Setting::Plain
            | Setting::Trace
            | Setting::Connect
            | Setting::ShortHead
            | Setting::ShortClient
            | Setting::BodyRate
            | Setting::ShortServer
            | Setting::ShortTunnel
            | Setting::LongTunnel
            | Setting::ShortIdle
            | Setting::Trusted
            | Setting::NoVia => "",
        };
        // Its tunnels have the time of its backends.
        let server = if tunnel < server { tunnel } else { server };
        let _ = writeln!(
            text,
            "upstream u{i} {{ server {} max_fails=0; keepalive 4; }}\n\
             server {{ listen {}; client_header_timeout {head}ms; client_body_timeout {client}ms; send_timeout {client}ms;\n\
             keepalive_timeout {idle}ms; proxy_read_timeout {server}ms; {body} location / {{ proxy_pass http://u{i}; }} }}",
            lane.origin_at, lane.at,
        );
    }
    text.push_str("}\n");
    text
}
