//! The proxies, as they end TLS: certificates, and how each is set up, started and waited for.
//!
//! All have the same to do behind the handshake, as in the bench `http`: limits and timers, a rule by path, a header set and
//! the client's address appended, an access log. TLS is that of each one's own defaults, tickets included, of TLS 1.2 and 1.3.

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result};
use weir_harness::{Cmd, Process, Scratch, interrupt, wait_until};

use super::{
    super::{
        cpu::Tree,
        peers::{
            CONNECTIONS, DESCRIPTORS, Kind, Origin, PATIENCE, PROXY_CORE, free_addresses, make_log,
            nginx_http, nginx_main, start, start_nginx,
        },
    },
    load::Loader,
};

/// Files of the bench, each with its certificate and its key.
pub(super) struct Certificates {
    rsa: String,
    p256: String,
    /// Whom clients are believed by.
    authority: String,
    /// A client's.
    pub(super) client: String,
}

const P256: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];

impl Certificates {
    pub(super) fn make(scratch: &Scratch) -> Result<Self> {
        let own = |name: &str, key: &[&str], subject: &str| -> Result<String> {
            let [chain, secret] = ["crt", "key"].map(|kind| scratch.join(format!("{name}.{kind}")));
            Cmd::new("openssl")
                .args(["req", "-x509", "-nodes", "-days", "30", "-subj", subject])
                .args(["-addext", "subjectAltName=DNS:bench.test", "-newkey"])
                .args(key)
                .arg("-keyout")
                .arg(&secret)
                .arg("-out")
                .arg(&chain)
                .check()?;
            both(scratch, name, &chain, &secret)
        };
        let rsa = own("rsa", &["rsa:2048"], "/CN=bench.test")?;
        let p256 = own("p256", &P256, "/CN=bench.test")?;
        own("authority", &P256, "/CN=authority of the bench")?;
        let [request, chain, secret] =
            ["csr", "crt", "key"].map(|kind| scratch.join(format!("client.{kind}")));
        Cmd::new("openssl")
            .args(["req", "-nodes", "-subj", "/O=Example/CN=client", "-newkey"])
            .args(P256)
            .arg("-keyout")
            .arg(&secret)
            .arg("-out")
            .arg(&request)
            .check()?;
        let authority = scratch.join("authority.crt");
        Cmd::new("openssl")
            .args(["x509", "-req", "-days", "30", "-CAcreateserial", "-CA"])
            .arg(&authority)
            .arg("-CAkey")
            .arg(scratch.join("authority.key"))
            .arg("-in")
            .arg(&request)
            // Without an extension it would be of version 1.
            .arg("-extfile")
            .arg(scratch.write("client.ext", "extendedKeyUsage = clientAuth\n")?)
            .arg("-out")
            .arg(&chain)
            .check()?;
        Ok(Self {
            rsa,
            p256,
            authority: authority.display().to_string(),
            client: both(scratch, "client", &chain, &secret)?,
        })
    }
}

/// Certificate and key in one file, as all three read it.
fn both(scratch: &Scratch, name: &str, chain: &Path, secret: &Path) -> Result<String> {
    let mut text = fs::read(chain).with_context(|| format!("reading {}", chain.display()))?;
    text.extend(fs::read(secret).with_context(|| format!("reading {}", secret.display()))?);
    Ok(scratch.write(format!("{name}.pem"), text)?.display().to_string())
}

/// A proxy under test.
pub(super) struct Proxy {
    pub(super) kind: Kind,
    /// With an RSA key of 2048 bits.
    pub(super) rsa: SocketAddr,
    /// With a key on P-256.
    pub(super) p256: SocketAddr,
    /// With a key on P-256, for clients with certificates.
    pub(super) clients: SocketAddr,
    process: Process,
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
    pub(super) fn start(
        scratch: &Scratch,
        binary: &Path,
        origin: &Origin,
        certificates: &Certificates,
        kind: Kind,
    ) -> Result<Self> {
        match kind {
            Kind::Weir => start_weir(scratch, binary, origin.at, certificates),
            Kind::Haproxy => start_haproxy(scratch, origin.at, certificates),
            Kind::Nginx => start_nginx_proxy(scratch, origin.at, certificates),
        }
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

    /// Waits until it serves.
    pub(super) fn wait(&self, loader: &Loader, certificates: &Certificates) -> Result<()> {
        let identity = format!("identity={}", certificates.client);
        for (at, more) in [
            (self.rsa, None),
            (self.p256, None),
            (self.clients, Some(identity)),
        ] {
            let args: Vec<_> = ["idle", "connections=1"]
                .map(str::to_owned)
                .into_iter()
                .chain(more)
                .collect();
            let what = format!("{} answers on {at}", self.kind.name());
            wait_until(PATIENCE, &what, || {
                loader.begin(at, &args).map(drop).map_err(|e| format!("{e:#}"))
            })
            .with_context(|| self.complaint())?;
        }
        Ok(())
    }
}

fn start_weir(
    scratch: &Scratch,
    binary: &Path,
    origin: SocketAddr,
    certificates: &Certificates,
) -> Result<Proxy> {
    let [rsa, p256, clients, admin] = free_addresses()?;
    let dir = scratch.path().display();
    make_log(scratch)?;
    let service = |name: &str, at: SocketAddr, tls: &str| {
        format!(
            "[services.{name}]\nlisten = [\"{at}\"]\nmode = \"http\"\npool = \"origin\"\n\
             request_headers = [{{ set = \"X-Service\", value = \"bench\" }}]\n\
             rules = [{{ match = {{ path = \"/robots.txt\" }}, respond = {{ body = \"\" }} }}]\n\
             timeouts = {{ keep_alive = \"1h\" }}\nlimits = {{ connections = {CONNECTIONS} }}\n\
             [services.{name}.tls]\n{tls}\n"
        )
    };
    let services = [
        service("rsa", rsa, &format!("certificates = [\"{}\"]", certificates.rsa)),
        service(
            "p256",
            p256,
            &format!("certificates = [\"{}\"]", certificates.p256),
        ),
        service(
            "clients",
            clients,
            &format!(
                "certificates = [\"{}\"]\nclient_certificates = \"required\"\nclient_ca = \"{}\"",
                certificates.p256, certificates.authority
            ),
        ),
    ];
    let text = format!(
        "[node]\nname = \"bench\"\nxdp = \"off\"\nworkers = 1\n\
         [admin]\nsocket = \"{dir}/control.sock\"\nhttp = \"{admin}\"\n\
         [access_log]\nto = \"{dir}/weir.log\"\n\
         [pools.origin]\nbackends = [{{ address = \"{origin}\" }}]\n\
         check = {{ type = \"http\", interval = \"2s\" }}\n{}",
        services.concat()
    );
    let file = scratch.write("weir.toml", text)?.display().to_string();
    Ok(Proxy {
        kind: Kind::Weir,
        rsa,
        p256,
        clients,
        process: start(scratch, "weir", PROXY_CORE, binary, &["run", "-c", &file])?,
        _syslog: None,
    })
}

fn start_haproxy(scratch: &Scratch, origin: SocketAddr, certificates: &Certificates) -> Result<Proxy> {
    let [rsa, p256, clients] = free_addresses()?;
    let syslog = UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).context("a socket for HAProxy's log")?;
    let log = syslog.local_addr().context("its address")?;
    let Certificates {
        rsa: rsa_file,
        p256: p256_file,
        authority,
        ..
    } = certificates;
    let text = format!(
        "global\n  nbthread 1\n  maxconn {CONNECTIONS}\n  no strict-limits\n  ulimit-n {DESCRIPTORS}\n  log {log} local0\n\
         defaults\n  log global\n  timeout connect 1s\n  timeout client 1h\n  timeout server 25s\n  \
         timeout http-request 10s\n  timeout http-keep-alive 1h\n\
         listen http\n  mode http\n  option httplog\n  option forwardfor\n\
         \x20 bind {rsa} defer-accept backlog 8192 ssl crt {rsa_file} ssl-min-ver TLSv1.2\n\
         \x20 bind {p256} defer-accept backlog 8192 ssl crt {p256_file} ssl-min-ver TLSv1.2\n\
         \x20 bind {clients} defer-accept backlog 8192 ssl crt {p256_file} ssl-min-ver TLSv1.2 ca-file {authority} verify required\n\
         \x20 http-reuse always\n  http-request return status 200 if {{ path /robots.txt }}\n  \
         http-request set-header X-Service bench\n  option httpchk GET /\n  server origin {origin} check inter 2s\n"
    );
    let file = scratch.write("haproxy.cfg", text)?.display().to_string();
    Ok(Proxy {
        kind: Kind::Haproxy,
        rsa,
        p256,
        clients,
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

fn start_nginx_proxy(scratch: &Scratch, origin: SocketAddr, certificates: &Certificates) -> Result<Proxy> {
    let [rsa, p256, clients] = free_addresses()?;
    let server = |at: SocketAddr, file: &str, more: &str| {
        format!(
            "server {{ listen {at} ssl deferred backlog=8192; tcp_nodelay on; ssl_certificate {file}; ssl_certificate_key {file};\n\
             ssl_protocols TLSv1.2 TLSv1.3; {more}\n\
             location = /robots.txt {{ return 200 \"\"; }}\n\
             location / {{ proxy_pass http://origin; proxy_http_version 1.1; proxy_max_temp_file_size 0;\n\
             proxy_set_header Connection \"\"; proxy_set_header Host $http_host; proxy_set_header X-Service bench;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }}\n"
        )
    };
    let asks = format!(
        "ssl_verify_client on; ssl_client_certificate {};",
        certificates.authority
    );
    let text = format!(
        "{}http {{ access_log {}/nginx.log combined buffer=64k flush=1s; {}\n\
         upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; }}\n{}{}{} }}\n",
        nginx_main(scratch, "nginx"),
        scratch.path().display(),
        nginx_http(scratch),
        server(rsa, &certificates.rsa, ""),
        server(p256, &certificates.p256, ""),
        server(clients, &certificates.p256, &asks),
    );
    Ok(Proxy {
        kind: Kind::Nginx,
        rsa,
        p256,
        clients,
        process: start_nginx(scratch, "nginx", PROXY_CORE, &text)?,
        _syslog: None,
    })
}
