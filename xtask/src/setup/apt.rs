//! Packages of Debian and Ubuntu.
//!
//! Owns the calls of apt and dpkg: only what is missing, never more than asked for (no recommended packages), and no
//! service started by it. Which packages are wanted is the caller's knowledge.

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::shell;

/// Installs "$@" without letting a package start its service: a policy that says no, if the machine has none of its
/// own, for as long as apt runs, and removed however it ends.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && [ -d "${policy%/*}" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install --no-install-recommends "$@" || exit
"#;

/// Whether the package lists were brought up to date by this process.
static UPDATED: AtomicBool = AtomicBool::new(false);

/// Installs those of `packages` that are missing.
///
/// # Errors
/// There is no apt, this isn't root (the message has the command to run), or apt fails.
pub(super) fn install(packages: &[String]) -> Result<()> {
    let missing = missing(packages)?;
    if missing.is_empty() {
        return Ok(());
    }
    if !shell::is_root() {
        bail!(
            "packages are missing and only root can install them. Run\n  sudo apt-get update && sudo apt-get install \
             --no-install-recommends {}\nand this again",
            missing.join(" ")
        );
    }
    if missing.iter().any(|p| candidate(p).is_none()) {
        update()?;
        let unknown: Vec<_> = missing
            .iter()
            .filter(|p| candidate(p).is_none())
            .map(String::as_str)
            .collect();
        if !unknown.is_empty() {
            bail!(
                "apt offers no package {}: enable the archive that has it in /etc/apt/sources.list.d (Debian: main and \
                 -security; Ubuntu: universe), or install the program by hand",
                unknown.join(", ")
            );
        }
    }
    shell::note(&format!(
        "installing {} (services are not started)",
        missing.join(" ")
    ));
    let begin = Instant::now();
    if let Err(first) = run_installation(&missing) {
        if UPDATED.load(Ordering::Relaxed) {
            return Err(first.context("apt could not install the packages: its messages are above"));
        }
        // Most often the lists are older than the archive.
        update()?;
        run_installation(&missing).context("apt could not install the packages: its messages are above")?;
    }
    shell::note(&format!("installed after {}", shell::took(begin.elapsed())));
    if Path::new("/run/systemd/system").is_dir() {
        shell::note(
            "nothing was started, but Debian enables services for the next boot: `systemctl disable` what you",
        );
        shell::note("do not want (nginx, nsd, haproxy, keepalived, prometheus)");
    }
    Ok(())
}

/// Whether this machine has apt at all.
pub(super) fn here() -> bool {
    shell::find("apt-get").is_some() && shell::find("dpkg-query").is_some()
}

/// Those of `packages` that are not installed.
pub(super) fn missing(packages: &[String]) -> Result<Vec<String>> {
    if !here() {
        bail!(
            "this machine has no apt (Debian, Ubuntu): install by its own means what these packages bring: {}",
            packages.join(" ")
        );
    }
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(packages);
    // It fails when one of them is unknown, and still lists the others.
    let listed = query.output().context("cannot start `dpkg-query`")?.stdout;
    let listed = String::from_utf8_lossy(&listed);
    let installed = |package: &str| listed.lines().any(|l| l == format!("{package} installed"));
    Ok(packages.iter().filter(|p| !installed(p)).cloned().collect())
}

/// The version of `package` that apt would install.
pub(super) fn candidate(package: &str) -> Option<String> {
    let mut command = Command::new("apt-cache");
    let text = shell::output(command.args(["policy", package]).env("LC_ALL", "C")).ok()?;
    let version = text
        .lines()
        .find_map(|l| l.trim().strip_prefix("Candidate:"))?
        .trim();
    (version != "(none)").then(|| version.to_owned())
}

/// Brings the package lists up to date, once.
pub(super) fn update() -> Result<()> {
    if UPDATED.swap(true, Ordering::Relaxed) || !shell::is_root() {
        return Ok(());
    }
    shell::note("bringing apt's package lists up to date");
    let mut command = Command::new("apt-get");
    command.args([
        "-q",
        "-o",
        "DPkg::Lock::Timeout=300",
        "-o",
        "Acquire::Retries=2",
        "update",
    ]);
    shell::run(&mut command)
        .context("apt's lists can't be had: check the network and /etc/apt/sources.list.d")
}

fn run_installation(packages: &[String]) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", INSTALL, "install"]).args(packages);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.env("NEEDRESTART_MODE", "l");
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    shell::run_as(&line, &mut command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed_is_not_missing() {
        if !here() {
            return assert!(missing(&["dpkg".into()]).is_err());
        }
        let missing = missing(&["dpkg".into(), "no-such-package-anywhere".into()]).expect("dpkg answers");
        assert_eq!(missing, ["no-such-package-anywhere"]);
        assert_eq!(candidate("no-such-package-anywhere"), None);
    }
}
