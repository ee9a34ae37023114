//! How a task runs other programs and what it shows meanwhile.
//!
//! Owns the look of the screen (headings, notes, the command line before it runs, the time it took) and the words of
//! an error when a command fails. Decides nothing about what is run: that is each task's business.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader, Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// Directories that hold an administrator's programs and are missing from many users' `PATH`.
const ADMIN_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Starts a part of the work on the screen.
pub(crate) fn heading(text: &str) {
    say(&format!("\n== {text}"));
}

/// One line below a heading.
pub(crate) fn note(text: &str) {
    say(&format!("   {text}"));
}

/// One line as it is.
pub(crate) fn say(text: &str) {
    // Nobody may be reading any more (a closed pipe): the work goes on all the same.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// The last words of a task that failed: the error, then what led to it.
pub(crate) fn error(error: &anyhow::Error) {
    let mut text = format!("\nerror: {error}");
    for cause in error.chain().skip(1) {
        text.push_str(&format!("\n  because: {cause}"));
    }
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A time for people: `0.4 s`, `12 s`, `3 min 20 s`.
pub(crate) fn took(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        _ => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

/// Runs `command` with the screen as its own, and fails when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = show(command);
    run_as(&line, command)
}

/// As [`run`], for a command whose arguments are not for reading: `line` is shown in their place.
pub(crate) fn run_as(line: &str, command: &mut Command) -> Result<()> {
    note(&format!("$ {line}"));
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// Runs `command` quietly and returns what it wrote to standard output.
///
/// # Errors
/// The command can't be started, or fails; then its standard error is part of the message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| cannot_start(command))?;
    if !done.status.success() {
        let words = String::from_utf8_lossy(&done.stderr);
        bail!("`{}` failed ({}): {}", show(command), done.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// What [`stream`] saw.
pub(crate) struct Streamed {
    /// Whether the command ended with status 0.
    pub(crate) ok: bool,
    /// How it ended, in words.
    pub(crate) status: String,
}

/// Runs `command`, copies its standard output to the screen line by line and shows each line to `each` too.
pub(crate) fn stream(command: &mut Command, mut each: impl FnMut(&str)) -> Result<Streamed> {
    note(&format!("$ {}", show(command)));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    if let Some(out) = child.stdout.take() {
        let mut lines = BufReader::new(out);
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines
                .read_until(b'\n', &mut line)
                .context("reading the output of a command")?
                == 0
            {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches('\n');
            say(text);
            each(text);
        }
    }
    let status = child.wait().context("waiting for a command")?;
    Ok(Streamed {
        ok: status.success(),
        status: status.to_string(),
    })
}

/// Runs `command` quietly, but no longer than `limit`; for what may wait for a network that is not there.
///
/// # Errors
/// It can't be started, fails, or is still running after `limit` (then it is ended).
pub(crate) fn output_within(command: &mut Command, limit: Duration) -> Result<String> {
    let line = show(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| cannot_start(command))?;
    let out = collect(child.stdout.take());
    let err = collect(child.stderr.take());
    let end = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().context("waiting for a command")? {
            break status;
        }
        if Instant::now() >= end {
            child.kill().context("ending a command that took too long")?;
            child.wait().context("waiting for a command")?;
            bail!("`{line}` had no result after {}", took(limit));
        }
        thread::sleep(Duration::from_millis(50));
    };
    let (out, err) = (joined(out), joined(err));
    if !status.success() {
        bail!("`{line}` failed ({status}): {}", err.trim());
    }
    Ok(out)
}

fn collect(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        if let Some(mut from) = from {
            // What was read until an error is still the best there is to show.
            let _ = from.read_to_end(&mut all);
        }
        all
    })
}

fn joined(thread: thread::JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
}

/// The command as one would type it; arguments with special characters in quotes.
pub(crate) fn show(command: &Command) -> String {
    let quoted = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    let mut line = quoted(command.get_program());
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&quoted(arg));
    }
    line
}

fn cannot_start(command: &Command) -> String {
    format!("cannot start `{}`", command.get_program().to_string_lossy())
}

/// Where `program` lies: in `PATH`, or where administrators' programs lie.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(ADMIN_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    effective_uid(&status) == Some(0)
}

/// The effective user of a `/proc/PID/status`.
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|l| l.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_for_people() {
        let cases = [
            (400, "0.4 s"),
            (12_300, "12 s"),
            (119_999, "119 s"),
            (200_000, "3 min 20 s"),
        ];
        for (ms, expected) in cases {
            assert_eq!(took(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn a_shown_command_can_be_typed() {
        let mut command = Command::new("echo");
        command.args(["plain", "--a=b", "two words", "it's", ""]);
        assert_eq!(show(&command), r"echo plain --a=b 'two words' 'it'\''s' ''");
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let begin = Instant::now();
        let result = output_within(Command::new("sleep").arg("60"), Duration::from_millis(200));
        assert!(result.is_err_and(|e| e.to_string().contains("no result after 0.2 s")));
        assert!(begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_failure_carries_the_words_of_the_command() {
        let failed = output(Command::new("sh").args(["-c", "echo out; echo why >&2; exit 3"]));
        let text = failed.expect_err("status 3").to_string();
        assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
    }

    #[test]
    fn the_effective_user_decides() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(0));
        assert_eq!(effective_uid("Name:\tx\n"), None);
    }

    #[test]
    fn programs_are_found_where_administrators_keep_them() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program-anywhere").is_none());
    }
}
