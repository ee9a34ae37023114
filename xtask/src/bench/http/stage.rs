//! The origin and the proxies: how each is set up, started and waited for.
//!
//! All proxies have the same to do: limits and timers, a rule by path, a header set and the client's address appended,
//! deferred accept; weir and HAProxy check the origin beside. Each is set up as it is in production.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use weir_harness::{Process, Scratch, interrupt};

use super::{
    super::{
        client,
        cpu::Tree,
        peers::{
            CONNECTIONS, DESCRIPTORS, Kind, Origin, PATIENCE, PROXY_CORE, SMALL, free_addresses, make_log,
            nginx_http, nginx_main, start, start_nginx,
        },
    },
    Logs,
};

/// A proxy under test.
pub(super) struct Proxy {
    pub(super) kind: Kind,
    pub(super) http: SocketAddr,
    /// Where it takes HTTP/2, begun without being asked; weir does so where it takes HTTP/1.1.
    pub(super) http2: SocketAddr,
    /// Where it relays bytes; nginx has no module for it in Debian's package.
    pub(super) tcp: Option<SocketAddr>,
    process: Process,
    /// Takes HAProxy's log, and lets it lie: cheaper for HAProxy than a reader, and no load beside.
    _syslog: Option<UdpSocket>,
}

impl Drop for Proxy {
    /// Its children are in process groups of their own: only an orderly end ends them too.
    fn drop(&mut self) {
        let _uncut = interrupt::hold();
        if let Err(error) = self.process.stop(Duration::from_secs(5)) {
            eprintln!("   {} did not end in order: {error:#}", self.kind.name());
        }
    }
}

impl Proxy {
    pub(super) fn start_all(
        scratch: &Scratch,
        binary: &Path,
        origin: &Origin,
        logs: Logs,
    ) -> Result<Vec<Self>> {
        Kind::ALL
            .into_iter()
            .map(|kind| Self::start(scratch, binary, origin, logs, kind))
            .collect()
    }

    pub(super) fn start(
        scratch: &Scratch,
        binary: &Path,
        origin: &Origin,
        logs: Logs,
        kind: Kind,
    ) -> Result<Self> {
        let logged = match logs {
            Logs::All => true,
            Logs::Weir => kind == Kind::Weir,
            Logs::None => false,
        };
        let mut proxy = match kind {
            Kind::Weir => start_weir(scratch, binary, origin.at, logged)?,
            Kind::Haproxy => start_haproxy(scratch, origin.at, logged)?,
            Kind::Nginx => start_nginx_proxy(scratch, origin.at, logged)?,
        };
        proxy.wait()?;
        Ok(proxy)
    }

    /// Its processes, once it answers.
    pub(super) fn tree(&self) -> Result<Tree> {
        Tree::of(self.process.pid())
    }

    /// Ends it, and waits until all of its processes are gone.
    ///
    /// # Errors
    /// It does not end in order.
    pub(super) fn end(mut self) -> Result<()> {
        let tree = self.tree()?;
        let ended = self.process.stop(PATIENCE);
        ended.with_context(|| format!("{} does not end: {}", self.kind.name(), self.complaint()))?;
        tree.wait_for_end(PATIENCE)
    }

    /// What it has complained of.
    pub(super) fn complaint(&self) -> String {
        self.process.stderr()
    }

    fn wait(&mut self) -> Result<()> {
        let what = format!("{} answers on {}", self.kind.name(), self.http);
        for at in [Some(self.http), self.tcp].into_iter().flatten() {
            self.process.until(PATIENCE, &what, || {
                client::get(at, SMALL.0).map(drop).map_err(|e| format!("{e:#}"))
            })?;
        }
        Ok(())
    }
}

fn start_nginx_proxy(scratch: &Scratch, origin: SocketAddr, logged: bool) -> Result<Proxy> {
    let [http, http2] = free_addresses()?;
    let log = match logged {
        true => format!(
            "{}/nginx.log combined buffer=64k flush=1s",
            scratch.path().display()
        ),
        false => "off".to_owned(),
    };
    let text = format!(
        "{}http {{ access_log {log}; {}\n\
         upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {http} deferred backlog=8192; listen {http2} http2 deferred backlog=8192; tcp_nodelay on;\n\
         location = /robots.txt {{ return 200 \"\"; }}\n\
         location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_max_temp_file_size 0;\n\
         proxy_set_header Connection \"\"; proxy_set_header Host $http_host; proxy_set_header X-Service bench;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}\n",
        nginx_main(scratch, "nginx"),
        nginx_http(scratch),
    );
    Ok(Proxy {
        kind: Kind::Nginx,
        http,
        http2,
        tcp: None,
        process: start_nginx(scratch, "nginx", PROXY_CORE, &text)?,
        _syslog: None,
    })
}

fn start_weir(scratch: &Scratch, binary: &Path, origin: SocketAddr, logged: bool) -> Result<Proxy> {
    let [http, tcp, admin] = free_addresses()?;
    let dir = scratch.path().display();
    let log = match logged {
        true => format!("{dir}/weir.log"),
        false => "off".to_owned(),
    };
    if logged {
        make_log(scratch)?;
    }
    let text = format!(
        "[node]\nname = \"bench\"\nxdp = \"off\"\nworkers = 1\n\
         [admin]\nsocket = \"{dir}/control.sock\"\nhttp = \"{admin}\"\n\
         [access_log]\nto = \"{log}\"\n\
         [pools.origin]\nbackends = [{{ address = \"{origin}\" }}]\n\
         check = {{ type = \"http\", interval = \"2s\" }}\n\
         [services.http]\nlisten = [\"{http}\"]\nmode = \"http\"\npool = \"origin\"\n\
         request_headers = [{{ set = \"X-Service\", value = \"bench\" }}]\n\
         rules = [{{ match = {{ path = \"/robots.txt\" }}, respond = {{ body = \"\" }} }}]\n\
         timeouts = {{ keep_alive = \"1h\" }}\nlimits = {{ connections = {CONNECTIONS} }}\n\
         [services.tcp]\nlisten = [\"{tcp}\"]\nmode = \"tcp\"\npool = \"origin\"\n"
    );
    let file = scratch.write("weir.toml", text)?.display().to_string();
    Ok(Proxy {
        kind: Kind::Weir,
        http,
        http2: http,
        tcp: Some(tcp),
        process: start(scratch, "weir", PROXY_CORE, binary, &["run", "-c", &file])?,
        _syslog: None,
    })
}

fn start_haproxy(scratch: &Scratch, origin: SocketAddr, logged: bool) -> Result<Proxy> {
    let [http, http2, tcp] = free_addresses()?;
    let syslog = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a socket for HAProxy's log")?;
    let log = match logged {
        true => format!("log {} local0", syslog.local_addr().context("its address")?),
        false => String::new(),
    };
    let text = format!(
        "global\n  nbthread 1\n  maxconn {CONNECTIONS}\n  no strict-limits\n  ulimit-n {DESCRIPTORS}\n  {log}\n\
         defaults\n  log global\n  timeout connect 1s\n  timeout client 1h\n  timeout server 25s\n  \
         timeout http-request 10s\n  timeout http-keep-alive 1h\n\
         listen http\n  mode http\n  option httplog\n  bind {http} defer-accept backlog 8192\n  \
         bind {http2} proto h2 defer-accept backlog 8192\n  option forwardfor\n  \
         http-reuse always\n  http-request return status 200 if {{ path /robots.txt }}\n  \
         http-request set-header X-Service bench\n  option httpchk GET /\n  server origin {origin} check inter 2s\n\
         listen tcp\n  mode tcp\n  option tcplog\n  bind {tcp} backlog 8192\n  server origin {origin} check inter 2s\n"
    );
    let file = scratch.write("haproxy.cfg", text)?.display().to_string();
    Ok(Proxy {
        kind: Kind::Haproxy,
        http,
        http2,
        tcp: Some(tcp),
        process: start(
            scratch,
            "haproxy",
            PROXY_CORE,
            Path::new("haproxy"),
            &["-db", "-q", "-f", &file],
        )?,
        _syslog: Some(syslog),
    })
}

/// Proxies that relay bytes.
pub(super) fn relaying(proxies: &[Proxy]) -> Result<usize> {
    let count = proxies.iter().take_while(|proxy| proxy.tcp.is_some()).count();
    if count < 2 {
        bail!("only {count} proxies relay bytes");
    }
    Ok(count)
}
