//! `cargo xtask deploy`: puts weir where an edge box expects it.
//!
//! Owns the layout of an installation. `--root` makes it below a directory (a package's root, an image, a container's
//! layer); `--host` shows what brings it to another machine, and leaves doing that to the operator.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{build, shell, workspace::Workspace};

/// Install weir below a directory, or show how it gets to another machine.
///
/// Builds the release binary first. The layout: usr/local/bin/weir, etc/weir/weir.toml (kept if it is there already),
/// etc/weir/tunables.d, etc/systemd/system/weir.service, and the reference configuration and licences in
/// usr/local/share/doc/weir.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("place").required(true))]
pub(crate) struct Args {
    /// Install below this directory; it is made if it is not there.
    #[arg(long, value_name = "DIR", group = "place")]
    root: Option<PathBuf>,
    /// Show the commands that install on this machine over ssh. They are not run: needs --dry-run.
    #[arg(long, value_name = "USER@HOST", group = "place", requires = "dry_run")]
    host: Option<String>,
    /// Install a weir that was built by profile (`cargo xtask build --profile-guided`). That takes programs that an edge box
    /// better does without: build elsewhere, and bring it there.
    #[arg(long)]
    profile_guided: bool,
    /// Only show what would be done; build and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A file of the installation.
#[derive(Debug)]
struct Item {
    /// In the checkout, or absolute.
    from: PathBuf,
    /// Below the installation's root.
    to: &'static str,
    mode: u32,
    /// Whether one that is there already belongs to the operator.
    keep: bool,
}

const DIRS: [&str; 1] = ["etc/weir/tunables.d"];

fn items(binary: PathBuf) -> Vec<Item> {
    let file = |from: &str, to| Item {
        from: from.into(),
        to,
        mode: 0o644,
        keep: false,
    };
    vec![
        Item {
            from: binary,
            to: "usr/local/bin/weir",
            mode: 0o755,
            keep: false,
        },
        Item {
            keep: true,
            ..file("config/weir.toml", "etc/weir/weir.toml")
        },
        file("config/weir.toml", "usr/local/share/doc/weir/weir.toml"),
        file("config/systemd/weir.service", "etc/systemd/system/weir.service"),
        file("README.md", "usr/local/share/doc/weir/README.md"),
        file("CHANGELOG.md", "usr/local/share/doc/weir/CHANGELOG.md"),
        file("LICENSE-APACHE", "usr/local/share/doc/weir/LICENSE-APACHE"),
        file("LICENSE-MIT", "usr/local/share/doc/weir/LICENSE-MIT"),
        file("LICENSE-GPL2", "usr/local/share/doc/weir/LICENSE-GPL2"),
    ]
}

pub(crate) fn run(args: Args) -> Result<()> {
    let workspace = Workspace::locate()?;
    let binary = workspace.target.join(match args.profile_guided {
        true => "guided/weir",
        false => "release/weir",
    });
    if let Some(host) = &args.host {
        shell::heading(&format!("to install on {host}"));
        over_ssh(&workspace, host, args.profile_guided)
            .iter()
            .for_each(|line| shell::note(line));
        return Ok(());
    }
    let root = args.root.context("--root or --host is needed")?;
    shell::heading(&format!("install below {}", root.display()));
    let items = items(binary);
    if args.dry_run {
        for item in &items {
            let kept = if item.keep { " (unless it is there)" } else { "" };
            shell::note(&format!(
                "{} -> {:o} {}{kept}",
                item.from.display(),
                item.mode,
                root.join(item.to).display()
            ));
        }
        return Ok(());
    }
    // Before the build: what can't work should not take a minute to say so.
    for item in items.iter().filter(|i| i.from.is_relative()) {
        if !workspace.root.join(&item.from).is_file() {
            bail!("the checkout has no {}", item.from.display());
        }
    }
    build::object(&workspace, None)?;
    build::optimised_or(&workspace, args.profile_guided, true, true)?;
    for line in install(&workspace.root, &root, &items)? {
        shell::note(&line);
    }
    Ok(())
}

/// Puts `items` below `root` and says what it did with each.
fn install(checkout: &Path, root: &Path, items: &[Item]) -> Result<Vec<String>> {
    for dir in DIRS {
        let dir = root.join(dir);
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let mut done = Vec::new();
    for item in items {
        let to = root.join(item.to);
        if item.keep && to.exists() {
            done.push(format!("kept {}", to.display()));
            continue;
        }
        let dir = to.parent().context("an installed file has no directory")?;
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        // Beside it and then renamed: a weir that runs keeps its file, and nobody sees half of one.
        let mut beside = to.clone().into_os_string();
        beside.push(".new");
        let from = checkout.join(&item.from);
        fs::copy(&from, &beside)
            .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(item.mode))
            .and_then(|()| fs::rename(&beside, &to))
            .with_context(|| format!("putting {} in place", to.display()))?;
        done.push(format!("installed {}", to.display()));
    }
    Ok(done)
}

/// The commands that bring an installation to `host`: the new configuration is checked there before weir is restarted.
fn over_ssh(workspace: &Workspace, host: &str, profile_guided: bool) -> Vec<String> {
    let stage = workspace.target.join("deploy");
    let by_profile = if profile_guided { " --profile-guided" } else { "" };
    let remote = |text: &str| {
        let mut ssh = Command::new("ssh");
        ssh.args([host, text]);
        shell::show(&ssh)
    };
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "-C"])
        .arg(&stage)
        .args(["-czf", "weir.tar.gz", "."]);
    let mut scp = Command::new("scp");
    scp.args(["weir.tar.gz", &format!("{host}:weir.tar.gz")]);
    vec![
        format!("cargo xtask deploy --root {}{by_profile}", stage.display()),
        shell::show(&tar),
        shell::show(&scp),
        remote("sudo tar -xzf weir.tar.gz -C / --no-overwrite-dir --exclude=./etc"),
        // The operator's own weir.toml stays.
        remote("sudo tar -xzf weir.tar.gz -C / --no-overwrite-dir --skip-old-files ./etc && rm weir.tar.gz"),
        remote("weir check /etc/weir/weir.toml && weir doctor -c /etc/weir/weir.toml"),
        remote("sudo systemctl daemon-reload && sudo systemctl enable weir && sudo systemctl restart weir"),
    ]
}

#[cfg(test)]
mod tests {
    use weir_harness::Scratch;

    use super::*;

    fn stage() -> (Scratch, Vec<Item>) {
        let scratch = Scratch::new().expect("a directory");
        for (name, text) in [("weir", "binary"), ("weir.toml", "reference")] {
            scratch.write(name, text).expect("written");
        }
        let item = |from: &str, to, mode, keep| Item {
            from: from.into(),
            to,
            mode,
            keep,
        };
        let items = vec![
            item("weir", "usr/local/bin/weir", 0o755, false),
            item("weir.toml", "etc/weir/weir.toml", 0o644, true),
        ];
        (scratch, items)
    }

    #[test]
    fn an_installation_is_complete_and_can_be_repeated() {
        let (scratch, items) = stage();
        let root = scratch.join("root");
        let first = install(scratch.path(), &root, &items).expect("installed");
        assert!(first.iter().all(|l| l.starts_with("installed")), "{first:?}");
        let binary = root.join("usr/local/bin/weir");
        assert_eq!(
            fs::metadata(&binary).expect("there").permissions().mode() & 0o777,
            0o755
        );
        assert!(root.join("etc/weir/tunables.d").is_dir());

        fs::write(root.join("etc/weir/weir.toml"), "the operator's").expect("written");
        scratch.write("weir", "newer").expect("written");
        install(scratch.path(), &root, &items).expect("installed");
        assert_eq!(fs::read_to_string(&binary).expect("there"), "newer");
        assert_eq!(
            fs::read_to_string(root.join("etc/weir/weir.toml")).expect("there"),
            "the operator's"
        );
        let left: Vec<_> = fs::read_dir(root.join("usr/local/bin"))
            .expect("there")
            .flatten()
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn a_file_that_is_missing_is_named() {
        let (scratch, mut items) = stage();
        items[0].from = "gone".into();
        let error = install(scratch.path(), &scratch.join("root"), &items).expect_err("gone");
        assert!(format!("{error:#}").contains("gone"), "{error:#}");
    }

    #[test]
    fn the_unit_starts_what_is_installed() {
        let workspace = Workspace::locate().expect("a workspace");
        let items = items("weir".into());
        let unit = items.iter().find(|i| i.to.ends_with(".service")).expect("a unit");
        let unit = fs::read_to_string(workspace.root.join(&unit.from)).expect("it is in the checkout");
        let started: Vec<_> = unit
            .lines()
            .filter_map(|l| l.strip_prefix("ExecStart=/"))
            .collect();
        assert_eq!(started.len(), 1, "{unit}");
        assert!(
            started
                .iter()
                .all(|s| s.starts_with(&format!("{} ", items[0].to))),
            "{started:?}"
        );
    }

    #[test]
    fn on_a_host_the_operators_configuration_stays() {
        let workspace = Workspace {
            root: "/r".into(),
            target: "/r/target".into(),
        };
        let lines = over_ssh(&workspace, "admin@edge", true);
        let has = |part: &str| lines.iter().any(|l| l.contains(part));
        assert!(
            has("--exclude=./etc'") && has("--skip-old-files ./etc "),
            "{lines:?}"
        );
        assert!(lines.iter().any(|l| l.starts_with("ssh admin@edge 'weir check")));
        assert!(has("/deploy --profile-guided"), "{lines:?}");
    }
}
