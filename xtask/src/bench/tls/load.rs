//! The load: the example `tls_load` of weir-tls, on the core of the load, begun when it is told to.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::super::peers::OTHER_CORE;
use crate::{shell, workspace::Workspace};

/// The program.
#[derive(Clone)]
pub(super) struct Loader(PathBuf);

/// One run of it, which has made what has to be there beforehand. Ended when dropped.
pub(super) struct Waiting {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Loader {
    pub(super) fn build(workspace: &Workspace) -> Result<Self> {
        shell::heading("load over TLS");
        let mut cargo = workspace.cargo();
        cargo.args([
            "build",
            "--release",
            "--package",
            "weir-tls",
            "--example",
            "tls_load",
        ]);
        shell::run(&mut cargo).context("building the example tls_load")?;
        Ok(Self(workspace.target.join("release/examples/tls_load")))
    }

    pub(super) fn program(&self) -> &PathBuf {
        &self.0
    }

    /// Starts it, and waits until it is ready to begin.
    pub(super) fn begin(&self, at: SocketAddr, args: &[String]) -> Result<Waiting> {
        let mut child = Command::new("taskset")
            .args(["-c", &OTHER_CORE.to_string()])
            .arg(&self.0)
            .arg(at.to_string())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting tls_load")?;
        let out = child.stdout.take().context("its standard output")?;
        let mut waiting = Waiting {
            child,
            out: BufReader::new(out),
        };
        let line = waiting.line()?;
        ensure!(line == "ready", "tls_load says `{line}`{}", waiting.complaint());
        Ok(waiting)
    }
}

impl Waiting {
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out
            .read_line(&mut line)
            .context("reading what tls_load says")?;
        Ok(line.trim().to_owned())
    }

    fn complaint(&mut self) -> String {
        let mut text = String::new();
        if let Some(err) = &mut self.child.stderr {
            let _read = std::io::Read::read_to_string(err, &mut text);
        }
        format!(": {}", text.trim())
    }

    /// Has it begin. Answers with its report, once it is at its end.
    ///
    /// # Errors
    /// Something of it failed: figures with failures in them mean nothing.
    pub(super) fn go(mut self) -> Result<Value> {
        let mut stdin = self.child.stdin.take().context("its standard input")?;
        stdin.write_all(b"go\n").context("telling tls_load to begin")?;
        let line = self.line()?;
        if line.is_empty() {
            bail!("tls_load failed{}", self.complaint());
        }
        serde_json::from_str(&line).with_context(|| format!("reading the report of tls_load: {line}"))
    }
}
