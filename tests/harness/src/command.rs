//! Running a command to its end: with a deadline, inside a namespace, and with an error that says all of it.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{netns::Netns, process, wait::wait_until};

/// A command to run to its end.
#[derive(Debug)]
pub struct Cmd<'a> {
    program: OsString,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
    inside: Option<&'a Netns>,
    uid: Option<(u32, u32)>,
    stdin: Vec<u8>,
    deadline: Duration,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it complained of.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn complaint(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }
}

impl<'a> Cmd<'a> {
    /// A command, found through `PATH` or among an administrator's programs. The deadline is 30 s unless said
    /// otherwise.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            envs: Vec::new(),
            inside: None,
            uid: None,
            stdin: Vec::new(),
            deadline: Duration::from_secs(30),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Runs it inside a network namespace.
    pub fn inside(mut self, netns: &'a Netns) -> Self {
        self.inside = Some(netns);
        self
    }

    /// Runs it as another user, without any privilege.
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.uid = Some((uid, gid));
        self
    }

    /// What it reads from standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it and gives back how it ended, whatever its exit status.
    ///
    /// # Errors
    /// It could not be started or did not end in time.
    pub fn run(self) -> Result<Output> {
        let mut command = self.command();
        let piped = if self.stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        };
        command.stdin(piped).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(&mut command)?;
        let stdout = child.stdout.take().map(collect);
        let stderr = child.stderr.take().map(collect);
        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin.clone();
            // A command that does not read its input has its reasons: its exit status and complaint tell them.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let ended = wait_until(self.deadline, &format!("`{}` ends", self.line()), || {
            child
                .try_wait()
                .map_err(|e| e.to_string())?
                .ok_or_else(|| "still running".to_owned())
        });
        let status = match ended {
            Ok(status) => status,
            Err(e) => {
                // Its own process group: whatever it started goes with it.
                process::kill_group(child.id());
                let _gone = child.wait();
                return Err(e);
            }
        };
        let take = |reader: Option<thread::JoinHandle<Vec<u8>>>| {
            reader.and_then(|thread| thread.join().ok()).unwrap_or_default()
        };
        Ok(Output {
            status,
            stdout: take(stdout),
            stderr: take(stderr),
        })
    }

    /// Runs it, and gives back its standard output if it succeeded.
    ///
    /// # Errors
    /// As [`Cmd::run`]; or it failed: the error carries the command, its status and its complaint.
    pub fn check(self) -> Result<String> {
        let line = self.line();
        let output = self.run()?;
        if !output.status.success() {
            bail!("`{line}` failed ({}): {}", output.status, output.complaint());
        }
        Ok(output.text())
    }

    /// The standard library's form of it, in a process group of its own, so that Ctrl-C at the terminal reaches only
    /// us. Namespace and standard streams are the caller's to add.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(find(&self.program));
        command
            .args(&self.args)
            .envs(self.envs.iter().map(|(k, v)| (k, v)))
            .process_group(0);
        if let Some((uid, gid)) = self.uid {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts `command` where this says.
    pub(crate) fn spawn(&self, command: &mut Command) -> Result<Child> {
        let spawned = match self.inside {
            Some(netns) => netns.run(|| command.spawn())?,
            None => command.spawn(),
        };
        spawned
            .map_err(|e| {
                if e.kind() == std::io::ErrorKind::NotFound {
                    anyhow!("`{}` is not installed", PathBuf::from(&self.program).display())
                } else {
                    anyhow!(e)
                }
            })
            .with_context(|| format!("can't start `{}`", self.line()))
    }

    /// As one would type it.
    pub(crate) fn line(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| word.to_string_lossy().into_owned())
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Where a program lies. Names with a slash, and those found nowhere, stay as they are.
fn find(program: &OsStr) -> PathBuf {
    // Root's PATH lacks these after a plain `su`.
    const ADMIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
    let path = PathBuf::from(program);
    if path.components().count() > 1 {
        return path;
    }
    let dirs = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&dirs)
        .chain(ADMIN.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .unwrap_or(path)
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe ends the output like its end does.
        let _read = pipe.read_to_end(&mut bytes);
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_the_command_its_status_and_its_complaint() {
        let error = Cmd::new("sh")
            .args(["-c", "echo no such luck >&2; exit 3"])
            .check()
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "`sh -c echo no such luck >&2; exit 3` failed (exit status: 3): no such luck"
        );
    }

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let big = vec![b'x'; 1 << 20];
        let output = Cmd::new("cat").stdin(big.clone()).run().unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, big);
    }

    #[test]
    fn a_deadline_kills_it() {
        let error = Cmd::new("sleep")
            .arg("60")
            .deadline(Duration::from_millis(50))
            .run()
            .unwrap_err()
            .to_string();
        assert!(error.contains("`sleep 60` ends"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("weir-no-such-program").run().unwrap_err();
        assert!(
            format!("{error:#}").contains("`weir-no-such-program` is not installed"),
            "{error:#}"
        );
    }
}
