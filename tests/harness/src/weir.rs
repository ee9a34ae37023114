//! A weir under test: its configuration file, its processes, and what it says of itself.
//!
//! Driven from outside only: the binary, signals, the control socket (by the binary's own commands) and the HTTP
//! address. The binary is `WEIR_BIN`, or `target/release/weir`.

pub mod state;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;

use crate::{
    command::{Cmd, Output},
    metrics::Metrics,
    netns::Netns,
    peer::curl,
    process::{Process, signal_pid, tail, whole_lines},
    scratch::Scratch,
    wait::wait_until,
    weir::state::{Backend, Ha, HaGroup, Pools, Status},
};

/// How long starting, stopping and applying may take. Generous: a test machine may be busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Where metrics and readiness are served, on the loopback of weir's namespace.
pub const ADMIN_HTTP: &str = "127.0.0.1:9180";

/// The binary under test.
///
/// # Errors
/// There is none: the error says how to make it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WEIR_BIN").map(PathBuf::from) {
        if !path.is_file() {
            bail!("WEIR_BIN names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let path = target.join("release/weir");
    if !path.is_file() {
        bail!(
            "{} is missing: build it with `cargo xtask build --release`, or set WEIR_BIN",
            path.display()
        );
    }
    path.canonicalize()
        .with_context(|| format!("can't resolve {}", path.display()))
}

/// What a test asks of weir; `[node]` and `[admin]` are filled in.
#[derive(Clone, Debug)]
pub struct WeirConfig {
    /// The binary. None: as [`binary`] finds it.
    pub binary: Option<PathBuf>,
    /// Value of `node.name`.
    pub node: &'static str,
    /// Value of `node.xdp`.
    pub xdp: &'static str,
    /// Value of `node.interfaces`.
    pub interfaces: Vec<&'static str>,
    /// Value of `node.workers`.
    pub workers: u16,
    /// Value of `node.hash_key`. None: weir draws one.
    pub hash_key: Option<&'static str>,
    /// Pools and services, as TOML.
    pub body: String,
    /// More arguments of `weir run`.
    pub args: Vec<&'static str>,
    /// More of its environment.
    pub env: Vec<(&'static str, OsString)>,
    /// Runs as this user and group, not as root.
    pub user: Option<(u32, u32)>,
}

impl WeirConfig {
    /// Both planes, on both interfaces of a [`Lab`](crate::Lab)'s box.
    pub fn both_planes(body: impl Into<String>) -> Self {
        Self {
            binary: None,
            node: "test-box",
            xdp: "native",
            interfaces: vec![crate::lab::OUTSIDE, crate::lab::INSIDE],
            workers: 2,
            hash_key: None,
            body: body.into(),
            args: Vec::new(),
            env: Vec::new(),
            user: None,
        }
    }

    /// The relay alone, as this user and group.
    pub fn relay_only(body: impl Into<String>, user: Option<(u32, u32)>) -> Self {
        Self {
            binary: None,
            node: "test-box",
            xdp: "off",
            interfaces: Vec::new(),
            workers: 2,
            hash_key: None,
            body: body.into(),
            args: Vec::new(),
            env: Vec::new(),
            user,
        }
    }

    fn render(&self, scratch: &Scratch, pins: Option<&Path>) -> String {
        let Self {
            binary: _,
            node,
            xdp,
            interfaces,
            workers,
            hash_key,
            body,
            args: _,
            env: _,
            user: _,
        } = self;
        let pins = pins
            .map(|path| format!("pins = \"{}\"\n", path.display()))
            .unwrap_or_default();
        let key = hash_key
            .map(|key| format!("hash_key = \"{key}\"\n"))
            .unwrap_or_default();
        format!(
            "[node]\nname = \"{node}\"\ninterfaces = {interfaces:?}\nxdp = \"{xdp}\"\nworkers = {workers}\n{pins}{key}\n\
             [admin]\nsocket = \"{}\"\nhttp = \"{ADMIN_HTTP}\"\n\n{body}",
            scratch.join("control.sock").display(),
        )
    }
}

/// A running weir. When dropped, control is killed; what it leaves then goes with the namespace and the pins'
/// file system.
#[derive(Debug)]
pub struct Weir<'n> {
    netns: &'n Netns,
    binary: PathBuf,
    config: WeirConfig,
    control: Process,
    pins: Option<PathBuf>,
    // Dropped last: the process writes into it.
    scratch: Scratch,
}

impl<'n> Weir<'n> {
    /// Starts weir inside a namespace and waits until it is ready.
    ///
    /// # Errors
    /// No binary, or it does not become ready: the error carries the end of its log.
    pub fn start(netns: &'n Netns, config: WeirConfig) -> Result<Self> {
        let mut weir = Self::launch(netns, config)?;
        weir.wait_ready()?;
        Ok(weir)
    }

    /// Starts weir inside a namespace and waits for nothing.
    ///
    /// # Errors
    /// No binary.
    pub fn launch(netns: &'n Netns, config: WeirConfig) -> Result<Self> {
        Self::launch_in(Scratch::new()?, netns, config)
    }

    /// As [`Weir::launch`], in a directory of the caller's.
    ///
    /// # Errors
    /// No binary.
    pub fn launch_in(scratch: Scratch, netns: &'n Netns, config: WeirConfig) -> Result<Self> {
        let binary = config.binary.clone().map_or_else(binary, Ok)?;
        let pins = if config.xdp == "off" {
            None
        } else {
            Some(scratch.mount_bpf()?.join("weir"))
        };
        let file = scratch.write("weir.toml", config.render(&scratch, pins.as_deref()))?;
        let binary = match config.user {
            None => binary,
            Some((uid, gid)) => {
                // Where it was built may be closed to others. Not copied by this process: what another of its threads starts
                // meanwhile would have the copy open for writing for a moment, and a file that is can't be executed.
                let copy = scratch.join("weir");
                Cmd::new("cp").args([&binary, &copy]).check()?;
                scratch.give_to(uid, gid)?;
                copy
            }
        };
        let control = Self::spawn(&binary, netns, &config, &scratch, &file)?;
        Ok(Self {
            netns,
            binary,
            config,
            control,
            pins,
            scratch,
        })
    }

    fn spawn(
        binary: &Path,
        netns: &Netns,
        config: &WeirConfig,
        scratch: &Scratch,
        file: &Path,
    ) -> Result<Process> {
        let mut cmd = Cmd::new(binary)
            .args(["run", "-c"])
            .arg(file)
            .args(&config.args)
            .env("NO_COLOR", "1")
            .inside(netns);
        for (name, value) in &config.env {
            cmd = cmd.env(name, value);
        }
        if let Some((uid, gid)) = config.user {
            cmd = cmd.user(uid, gid);
        }
        Process::start("weir", scratch, &cmd)
    }

    /// Waits until weir says that it is ready.
    ///
    /// # Errors
    /// It has ended, or is not ready in time: the error carries the end of its log.
    pub fn wait_ready(&mut self) -> Result<()> {
        let result = wait_until(PATIENCE, "weir is ready", || {
            if let Ok(Some(status)) = self.control.ended() {
                return Ok(Err(anyhow!("weir has ended by itself ({status})")));
            }
            match self.status() {
                Ok(status) if status.ready => Ok(Ok(())),
                Ok(status) => Err(format!("it waits for {:?}", status.waiting_for)),
                Err(e) => Err(format!("{e:#}")),
            }
        });
        self.with_log(result.flatten())
    }

    /// Adds the end of weir's log to an error.
    ///
    /// # Errors
    /// The one given.
    pub fn with_log<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| anyhow!("{e:#}\nweir's log ends with:\n{}", tail(&self.log())))
    }

    /// Its log: standard error, whole lines.
    pub fn log(&self) -> String {
        whole_lines(self.control.stderr())
    }

    /// Its access records: standard output, whole lines.
    pub fn access_log(&self) -> String {
        whole_lines(self.control.stdout())
    }

    /// Waits for an access record that contains `what`, and gives all records: they are written by a thread of their own,
    /// after the client has its answer and the counters have counted it.
    ///
    /// # Errors
    /// There is none in time.
    pub fn wait_record(&self, what: &str) -> Result<String> {
        Self::wait_for_words(what, "an access record", || self.access_log())
    }

    /// Waits for a line of the log that contains `what`, and gives the whole log.
    ///
    /// # Errors
    /// There is none in time.
    pub fn wait_log(&self, what: &str) -> Result<String> {
        Self::wait_for_words(what, "the log", || self.log())
    }

    fn wait_for_words(what: &str, place: &str, read: impl Fn() -> String) -> Result<String> {
        wait_until(PATIENCE, &format!("{place} says {what:?}"), || {
            let text = read();
            if text.contains(what) { Ok(text) } else { Err(text) }
        })
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.scratch.join("weir.toml")
    }

    /// Its control socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.join("control.sock")
    }

    /// Where its pins are, if it has the kernel's part.
    pub fn pins(&self) -> Option<&Path> {
        self.pins.as_deref()
    }

    /// Its directory.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Process id of control.
    pub fn control_pid(&self) -> u32 {
        self.control.pid()
    }

    /// One of weir's own commands, with the control socket as its last arguments.
    ///
    /// # Errors
    /// It could not be started or did not end in time. A failure of the command is no error here.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        let mut cmd = Cmd::new(&self.binary)
            .args(args)
            .arg("--socket")
            .arg(self.socket());
        if let Some((uid, gid)) = self.config.user {
            cmd = cmd.user(uid, gid);
        }
        cmd.inside(self.netns).deadline(PATIENCE).run()
    }

    /// As [`Weir::cli`]: its standard output if it succeeded.
    ///
    /// # Errors
    /// The command failed: the error carries its words.
    pub fn ask(&self, args: &[&str]) -> Result<String> {
        let output = self.cli(args)?;
        if !output.status.success() {
            bail!(
                "`weir {}` failed ({}): {}",
                args.join(" "),
                output.status,
                output.complaint()
            );
        }
        Ok(output.text())
    }

    /// `weir status --json`
    ///
    /// # Errors
    /// No answer, or not of the form.
    pub fn status(&self) -> Result<Status> {
        let text = self.ask(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not the form of `weir status --json`: {text}"))
    }

    /// `weir pools --json`
    ///
    /// # Errors
    /// No answer, or not of the form.
    pub fn pools(&self) -> Result<Pools> {
        let text = self.ask(&["pools", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not the form of `weir pools --json`: {text}"))
    }

    /// The group of virtual routers of that name, as `weir ha --json` shows it.
    ///
    /// # Errors
    /// No answer, not of the form, or no such group.
    pub fn group(&self, name: &str) -> Result<HaGroup> {
        let text = self.ask(&["ha", "--json"])?;
        let ha: Ha = serde_json::from_str(&text)
            .with_context(|| format!("not the form of `weir ha --json`: {text}"))?;
        let found = ha.groups.into_iter().find(|group| group.name == name);
        found.with_context(|| format!("no group {name} in {text}"))
    }

    /// Waits until a group of virtual routers is in a state (`init`, `backup`, `master`).
    ///
    /// # Errors
    /// It is not, in time: the error carries the end of weir's log.
    pub fn wait_group(&self, name: &str, state: &str) -> Result<HaGroup> {
        let result = wait_until(PATIENCE, &format!("group {name} is {state}"), || {
            let group = self.group(name).map_err(|e| format!("{e:#}"))?;
            if group.state == state {
                Ok(group)
            } else {
                Err(format!("{} ({}), {:?}", group.state, group.cause, group.shares))
            }
        });
        self.with_log(result)
    }

    /// One backend, as `weir pools --json` shows it.
    ///
    /// # Errors
    /// No answer, or no such backend.
    pub fn backend(&self, pool: &str, address: &str) -> Result<Backend> {
        self.pools()?.backend(pool, address)
    }

    /// Waits until a backend is in a state (`up`, `down`, `pending`, `probation`).
    ///
    /// # Errors
    /// It is not, in time: the error carries the end of weir's log.
    pub fn wait_state(&self, pool: &str, address: &str, state: &str, deadline: Duration) -> Result<Backend> {
        let result = wait_until(deadline, &format!("{pool}/{address} is {state}"), || {
            let backend = self.backend(pool, address).map_err(|e| format!("{e:#}"))?;
            if backend.state == state {
                Ok(backend)
            } else {
                Err(format!("{} ({})", backend.state, backend.cause))
            }
        });
        self.with_log(result)
    }

    /// Waits until every backend of every pool is up.
    ///
    /// # Errors
    /// They are not, in time: the error carries the end of weir's log.
    pub fn wait_all_up(&self) -> Result<()> {
        let result = wait_until(PATIENCE, "every backend is up", || {
            let pools = self.pools().map_err(|e| format!("{e:#}"))?;
            let waiting: Vec<String> = pools
                .all()
                .filter(|(_, backend)| backend.state != "up")
                .map(|(pool, backend)| {
                    format!(
                        "{}/{} is {} ({})",
                        pool.name, backend.address, backend.state, backend.cause
                    )
                })
                .collect();
            if waiting.is_empty() {
                Ok(())
            } else {
                Err(waiting.join(", "))
            }
        });
        self.with_log(result)
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// No answer, or not 200.
    pub fn metrics_text(&self) -> Result<String> {
        let response = curl::get(self.netns, &format!("http://{ADMIN_HTTP}/metrics"), &[])?;
        if response.status != 200 {
            bail!("/metrics answered {}", response.status);
        }
        Ok(response.text())
    }

    /// `/metrics`, read.
    ///
    /// # Errors
    /// No answer, or not of the form.
    pub fn metrics(&self) -> Result<Metrics> {
        Metrics::parse(&self.metrics_text()?)
    }

    /// Writes another configuration into the file. Nothing happens until weir is told.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn rewrite(&mut self, body: impl Into<String>) -> Result<()> {
        self.config.body = body.into();
        let text = self.config.render(&self.scratch, self.pins.as_deref());
        self.scratch.write("weir.toml", text).map(drop)
    }

    /// Changes how the next control is started, file and arguments.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn change(&mut self, change: impl FnOnce(&mut WeirConfig)) -> Result<()> {
        change(&mut self.config);
        let text = self.config.render(&self.scratch, self.pins.as_deref());
        self.scratch.write("weir.toml", text).map(drop)
    }

    /// Sends the relay or health process a signal: its process id.
    ///
    /// # Errors
    /// It does not run, or the id is not of a process in weir's namespace.
    pub fn signal_role(&self, role: &str, signal: Signal) -> Result<u32> {
        let pid = self.role_pid(role)?;
        if !self.netns.processes()?.contains(&pid) {
            bail!(
                "weir says that {role} is process {pid}, but none of that id is in {}",
                self.netns.name()
            );
        }
        signal_pid(pid, signal)?;
        Ok(pid)
    }

    /// Process id of a role (`control`, `relay`, `health`) that runs.
    ///
    /// # Errors
    /// It does not run.
    pub fn role_pid(&self, role: &str) -> Result<u32> {
        let status = self.status()?;
        let process = status.processes.iter().find(|process| process.role == role);
        process
            .filter(|process| process.state == "running")
            .and_then(|process| process.pid)
            .with_context(|| format!("no {role} process runs: {process:?}"))
    }

    /// SIGKILL for the relay or health process: its process id, which is gone.
    ///
    /// # Errors
    /// It does not run, or the id is not of a process in weir's namespace.
    pub fn kill_role(&self, role: &str) -> Result<u32> {
        self.signal_role(role, Signal::SIGKILL)
    }

    /// SIGKILL for control alone; its relay and health processes go on.
    pub fn kill_control(&mut self) {
        self.control.kill_leader();
    }

    /// Starts control again, with the same file, socket and pins. Waits until it is ready.
    ///
    /// # Errors
    /// As [`Weir::start`].
    pub fn start_again(&mut self) -> Result<()> {
        self.control = Self::spawn(
            &self.binary,
            self.netns,
            &self.config,
            &self.scratch,
            &self.config_file(),
        )?;
        self.wait_ready()
    }

    /// Has another control process take the place of the one that runs, as `weir upgrade` does, but that the other one is the
    /// test's child, too. Waits until the one before has ended, and the other one is ready.
    ///
    /// # Errors
    /// It did not come about: the error carries the end of weir's log.
    pub fn replace(&mut self) -> Result<()> {
        let mut config = self.config.clone();
        config.args.push("--replace");
        let next = Self::spawn(
            &self.binary,
            self.netns,
            &config,
            &self.scratch,
            &self.config_file(),
        )?;
        let mut before = std::mem::replace(&mut self.control, next);
        let ended = before.wait(PATIENCE).and_then(|status| match status.success() {
            true => Ok(()),
            false => bail!("the control process before ended with {status}"),
        });
        self.with_log(ended)?;
        self.wait_ready()
    }

    /// Sends control a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.control.signal(signal)
    }

    /// Waits until control has ended.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub fn wait_end(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let result = self.control.wait(deadline);
        self.with_log(result)
    }

    /// SIGTERM, and waits for the orderly end.
    ///
    /// # Errors
    /// It did not end in time, or not with success.
    pub fn stop(&mut self) -> Result<()> {
        let result = self.control.stop(PATIENCE).and_then(|status| {
            if status.success() {
                Ok(())
            } else {
                bail!("weir ended with {status}")
            }
        });
        self.with_log(result)
    }

    /// Files under the pins' directory, if there is one.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn pinned(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        let mut open: Vec<PathBuf> = self.pins.iter().filter(|path| path.exists()).cloned().collect();
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("can't read {}", dir.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    found.push(path);
                }
            }
        }
        Ok(found)
    }

    /// From now on weir, and its directory, outlive the value.
    pub fn keep(mut self) {
        self.control.keep();
        std::mem::forget(self.scratch);
    }
}
