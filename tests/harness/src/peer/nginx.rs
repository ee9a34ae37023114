//! nginx as a backend: says its name, tells what it was asked, stores and gives files, falls sick on request.
//!
//! | path | answer |
//! |---|---|
//! | `/healthz` | 200, or 503 while it is [sick](Nginx::set_sick); not logged |
//! | `/files/NAME` | GET: the file, of the type that a browser wants for html, css, js and svg; PUT: stores it (see [`Nginx::file`]) |
//! | `/slow/NAME` | the file, at [`SLOW_RATE`] bytes a second |
//! | `/status/CODE` | an empty answer with that status, for 404, 500 and 503 |
//! | anything else | `NAME CLIENT-ADDRESS SERVER-ADDRESS:PORT`, one line |

use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    command::Cmd,
    netns::Netns,
    process::{Process, whole_lines},
    scratch::Scratch,
    wait::wait_until,
};

/// Bytes a second of `/slow/`.
pub const SLOW_RATE: usize = 2 << 20;

/// What its listeners are told for PROXY headers.
const PROXY_PROTOCOL: &str = " proxy_protocol";

/// A running nginx: one master, one worker. Killed when dropped.
#[derive(Debug)]
pub struct Nginx {
    name: String,
    listen: Vec<SocketAddr>,
    process: Process,
    scratch: Scratch,
}

impl Nginx {
    /// Starts it inside a namespace and waits until it accepts connections.
    ///
    /// # Errors
    /// It is not installed, or does not come up: the error carries its own words.
    pub fn start(netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Self> {
        Self::start_in(Scratch::new()?, netns, name, listen)
    }

    /// As [`Nginx::start`], in a directory of the caller's.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_in(scratch: Scratch, netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Self> {
        Self::start_with(scratch, netns, name, listen, "")
    }

    /// As [`Nginx::start`], but it speaks HTTP/2 without TLS, and nothing else.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_http2(netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Self> {
        Self::start_with(Scratch::new()?, netns, name, listen, " http2")
    }

    /// As [`Nginx::start`], but every connection has to begin with a PROXY header, and what it tells is the answer: `NAME
    /// CLIENT-ADDRESS SERVER-ADDRESS`.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_proxied(netns: &Netns, name: &str, listen: &[SocketAddr]) -> Result<Self> {
        let scratch = Scratch::new()?;
        Self::start_with(scratch, netns, name, listen, PROXY_PROTOCOL)
    }

    /// As [`Nginx::start`], but over TLS, as these directives say, in HTTP/1.1 or HTTP/2 as ALPN says. Its answers have a field
    /// `X-Tls: VERSION [h2 or nothing] [the client's subject] [the name asked for] [r if the session was resumed, else .]`.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn start_tls(netns: &Netns, name: &str, listen: SocketAddr, directives: &str) -> Result<Self> {
        let told = "add_header X-Tls \"$ssl_protocol [$http2] [$ssl_client_s_dn] [$ssl_server_name] [$ssl_session_reused]\" always";
        let more = format!(
            " ssl http2; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on; ssl_session_cache shared:s:1m; {directives}; {told}"
        );
        Self::start_with(Scratch::new()?, netns, name, &[listen], &more)
    }

    fn start_with(
        scratch: Scratch,
        netns: &Netns,
        name: &str,
        listen: &[SocketAddr],
        more: &str,
    ) -> Result<Self> {
        let dir = scratch.path().display();
        let mut listens = String::new();
        for addr in listen {
            writeln!(listens, "    listen {addr} backlog=1024{more};")?;
        }
        let config = format!(
            r#"daemon off;
worker_processes 1;
user root;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 12288; }}
http {{
  log_format line '$remote_addr $server_addr $request_method $request_uri $status $request_length $bytes_sent';
  access_log {dir}/access.log line;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  client_max_body_size 0;
  keepalive_requests 1000000;
  keepalive_timeout 600s;
  types {{ text/html html; text/css css; text/javascript js; image/svg+xml svg; }}
  default_type text/plain;
  server {{
{listens}    add_header X-Backend {name} always;
    location = /healthz {{
      access_log off;
      if (-f {dir}/sick) {{ return 503; }}
      return 200 "ok\n";
    }}
    location /files/ {{ root {dir}/www; dav_methods PUT DELETE; create_full_put_path on; }}
    location /slow/ {{ alias {dir}/www/files/; limit_rate {SLOW_RATE}; }}
    location = /status/404 {{ return 404; }}
    location = /status/500 {{ return 500; }}
    location = /status/503 {{ return 503; }}
    location / {{ return 200 "{name} $remote_addr $server_addr:$server_port\n"; }}
  }}
}}
"#
        );
        let config = match more {
            PROXY_PROTOCOL => config.replace(
                "$remote_addr $server_addr:$server_port",
                "$proxy_protocol_addr $proxy_protocol_server_addr",
            ),
            _ => config,
        };
        fs::create_dir_all(scratch.join("www/files"))?;
        let path = scratch.write("nginx.conf", config)?;
        let process = Self::spawn(netns, &scratch, &path)?;
        let mut nginx = Self {
            name: name.to_owned(),
            listen: listen.to_vec(),
            process,
            scratch,
        };
        nginx.ready(netns)?;
        Ok(nginx)
    }

    fn spawn(netns: &Netns, scratch: &Scratch, config: &std::path::Path) -> Result<Process> {
        let cmd = Cmd::new("nginx")
            .arg("-p")
            .arg(scratch.path())
            .args(["-e", "stderr", "-c"])
            .arg(config);
        Process::start("nginx", scratch, &cmd.inside(netns))
            .context("a backend needs nginx (Debian and Ubuntu: package nginx-light)")
    }

    fn ready(&mut self, netns: &Netns) -> Result<()> {
        let what = format!("nginx {} accepts connections", self.name);
        let listen = &self.listen;
        self.process.until(Duration::from_secs(10), &what, || {
            for addr in listen {
                netns
                    .run(|| TcpStream::connect_timeout(addr, Duration::from_millis(500)))
                    .map_err(|e| format!("{e:#}"))?
                    .map_err(|e| format!("{addr}: {e}"))?;
            }
            Ok(())
        })
    }

    /// Its name, as in its answers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Master and worker are gone at once, as in a crash; the kernel resets their connections.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again after [`Nginx::kill`], with the same addresses and files.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn restart(&mut self, netns: &Netns) -> Result<()> {
        self.process.kill();
        self.process = Self::spawn(netns, &self.scratch, &self.scratch.join("nginx.conf"))?;
        self.ready(netns)
    }

    /// Whether health checks are told 503 from now on. Requests go on being answered.
    ///
    /// # Errors
    /// The file that says so can't be made or removed.
    pub fn set_sick(&self, sick: bool) -> Result<()> {
        let path = self.scratch.join("sick");
        if sick {
            fs::write(&path, "")
        } else {
            fs::remove_file(&path)
        }
        .with_context(|| format!("can't change {}", path.display()))
    }

    /// Where `/files/NAME` lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.join("www/files").join(name)
    }

    /// One line per request so far: client address, server address, method, URI, status, request bytes, response
    /// bytes.
    pub fn access_log(&self) -> Vec<String> {
        let text = fs::read_to_string(self.scratch.join("access.log")).unwrap_or_default();
        whole_lines(text).lines().map(str::to_owned).collect()
    }

    /// Waits until as many requests are logged, or more, and gives their lines: nginx writes one after the answer is sent.
    ///
    /// # Errors
    /// They are not there in time.
    pub fn wait_logged(&self, requests: usize) -> Result<Vec<String>> {
        wait_until(Duration::from_secs(10), "nginx has logged all requests", || {
            let lines = self.access_log();
            if lines.len() >= requests {
                Ok(lines)
            } else {
                Err(lines.join("\n"))
            }
        })
    }

    /// From now on nginx outlives the value, its files too.
    pub fn keep(mut self) {
        self.process.keep();
        std::mem::forget(self.scratch);
    }
}
