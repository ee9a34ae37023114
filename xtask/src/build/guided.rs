//! `--profile-guided`: weir built twice, the second time by what the first one did under load.
//!
//! Owns the three steps and where they leave what they make, all of it below `target/guided`: a weir that counts which way it
//! goes, its run under the load that `bench` measures by, and the build that lays out by these counts what is hot and what is not.
//! The compiler must bring its own `llvm-profdata`, since the counts' form is that of one LLVM.
//!
//! The build that counts is left as it is while nothing has changed, and so are its counts: running it again is quick.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash as _, Hasher as _},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use weir_harness::Scratch;

use super::told;
use crate::{bench, setup, shell, workspace, workspace::Workspace};

/// Whose counts are taken: the relay, where control is root.
const NOBODY: u32 = 65_534;

/// Builds it, and returns where it is.
pub(super) fn binary(workspace: &Workspace) -> Result<PathBuf> {
    // First what may be missing: nobody waits for minutes to be told so.
    let rustc = Rustc::ask(workspace)?;
    let profdata = rustc.profdata(workspace)?;
    setup::ensure(workspace, &[setup::Task::Bench], None)?;
    let place = workspace.target.join("guided");

    shell::heading("weir that counts which way it goes");
    let counting = rustc.build(workspace, &place.join("counting"), "-Cprofile-generate")?;
    let profile = place.join("weir.profdata");
    if is_older(&profile, &counting)? {
        count(workspace, &counting, &profdata, &profile)?;
    } else {
        shell::note(&format!(
            "{} is of this build: no new load is needed",
            workspace.shorten(&profile)
        ));
    }

    shell::heading("weir, optimised by what it did");
    let begin = Instant::now();
    // Cargo knows a flag, not what lies behind the path in it.
    let known = known_by_content(&place, &profile)?;
    let flag = format!("-Cprofile-use={}", known.display());
    let built = rustc.build(workspace, &place.join("optimised"), &flag)?;
    let binary = place.join("weir");
    // Another file, not other bytes in the same: one that runs keeps its own.
    let beside = place.join("weir.new");
    fs::copy(&built, &beside)
        .and_then(|_| fs::rename(&beside, &binary))
        .with_context(|| format!("copying {} to {}", built.display(), binary.display()))?;
    told(workspace, &binary, begin)?;
    Ok(binary)
}

/// The compiler that builds weir.
struct Rustc {
    /// The triple that it builds for by itself.
    host: String,
    /// Where its own tools lie.
    tools: PathBuf,
}

impl Rustc {
    fn ask(workspace: &Workspace) -> Result<Self> {
        let rustc = |args: &[&str]| {
            let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
            command.args(args).current_dir(&workspace.root);
            shell::output(&mut command).context("asking the compiler for its name and place")
        };
        let about = rustc(&["-vV"])?;
        let host = { about.lines() }.find_map(|line| line.strip_prefix("host: "));
        let host = host
            .with_context(|| format!("`rustc -vV` names no host: {about}"))?
            .to_owned();
        let libraries = rustc(&["--print", "target-libdir"])?;
        let tools = Path::new(libraries.trim()).with_file_name("bin");
        Ok(Self { host, tools })
    }

    /// `llvm-profdata` of the compiler's own LLVM; asks rustup for it if it is missing.
    fn profdata(&self, workspace: &Workspace) -> Result<PathBuf> {
        let file = self.tools.join("llvm-profdata");
        if !file.is_file() && shell::find("rustup").is_some() {
            shell::note("adding llvm-tools to the toolchain");
            let mut rustup = Command::new("rustup");
            rustup
                .args(["component", "add", "llvm-tools"])
                .current_dir(&workspace.root);
            workspace::forget_the_outer_cargo(&mut rustup);
            shell::output_within(&mut rustup, Duration::from_secs(300)).context("adding llvm-tools")?;
        }
        if !file.is_file() {
            bail!(
                "there is no {}: a build by profile needs `rustup component add llvm-tools`, or a toolchain that has it",
                file.display()
            );
        }
        Ok(file)
    }

    /// Builds weir with one more flag, in a target directory of its own.
    fn build(&self, workspace: &Workspace, out: &Path, flag: &str) -> Result<PathBuf> {
        let mut cargo = workspace.cargo();
        // With a target named, the flags are for weir alone, and not for what runs during the build.
        cargo
            .args(["build", "--release", "--package", "weir", "--target", &self.host])
            .arg("--target-dir")
            .arg(out)
            .env("WEIR_EBPF_OBJECT", workspace.object())
            .env("RUSTFLAGS", with_given(env::var("RUSTFLAGS").ok(), flag));
        shell::run(&mut cargo).context("building the weir binary")?;
        Ok(out.join(&self.host).join("release/weir"))
    }
}

/// The flags that are in the environment already, and another one.
fn with_given(given: Option<String>, flag: &str) -> String {
    match given.filter(|given| !given.trim().is_empty()) {
        Some(given) => format!("{given} {flag}"),
        None => flag.to_owned(),
    }
}

/// Whether a file is older than another, or not there.
fn is_older(file: &Path, than: &Path) -> Result<bool> {
    let time = |file: &Path| -> std::io::Result<SystemTime> { fs::metadata(file)?.modified() };
    let than = time(than).with_context(|| format!("looking at {}", than.display()))?;
    Ok(!time(file).is_ok_and(|time| time >= than))
}

/// Puts load on a weir that counts, and makes a profile of its counts.
fn count(workspace: &Workspace, counting: &Path, profdata: &Path, profile: &Path) -> Result<()> {
    let scratch = Scratch::new()?;
    let counts = scratch.join("counts");
    fs::create_dir(&counts).with_context(|| format!("making {}", counts.display()))?;
    if shell::is_root() {
        chown(&counts, Some(NOBODY), Some(NOBODY)).context("giving the relay a place for its counts")?;
    }
    // Each process leaves a file of its own where this variable says.
    let starter = scratch.write(
        "weir-that-counts",
        format!(
            "#!/bin/sh\nLLVM_PROFILE_FILE='{}/%m-%p.profraw' exec '{}' \"$@\"\n",
            counts.display(),
            counting.display()
        ),
    )?;
    fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).context("making a script of it")?;
    bench::train(workspace, &scratch, &starter)?;
    let entries = fs::read_dir(&counts).with_context(|| format!("reading {}", counts.display()))?;
    let files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    if files.is_empty() {
        bail!(
            "weir left no counts in {}: it was not ended in order",
            counts.display()
        );
    }
    let mut merge = Command::new(profdata);
    merge.arg("merge").arg("-o").arg(profile).args(&files);
    shell::output(&mut merge).context("making a profile of the counts")?;
    shell::note(&format!(
        "{}: counts of {} processes",
        workspace.shorten(profile),
        files.len()
    ));
    Ok(())
}

/// A profile under a name that is another one whenever its content is.
fn known_by_content(place: &Path, profile: &Path) -> Result<PathBuf> {
    let bytes = fs::read(profile).with_context(|| format!("reading {}", profile.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let dir = place.join("profiles");
    let file = dir.join(format!("{:016x}.profdata", hasher.finish()));
    if !file.is_file() {
        let _old = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(&file, &bytes))
            .with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_stay() {
        let flag = "-Cprofile-generate";
        assert_eq!(with_given(None, flag), flag);
        assert_eq!(with_given(Some("  ".into()), flag), flag);
        let given = with_given(Some("-Ctarget-cpu=native".into()), flag);
        assert_eq!(given, "-Ctarget-cpu=native -Cprofile-generate");
    }

    #[test]
    fn a_profile_is_known_by_its_content() -> Result<()> {
        let scratch = Scratch::new()?;
        let mut names = Vec::new();
        for content in ["one", "one", "two"] {
            let profile = scratch.write("weir.profdata", content)?;
            let known = known_by_content(scratch.path(), &profile)?;
            assert_eq!(fs::read_to_string(&known)?, content);
            names.push(known);
        }
        assert!(names[0] == names[1] && names[1] != names[2], "{names:?}");
        // The one before is gone.
        assert!(!names[0].exists());
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_older() -> Result<()> {
        let scratch = Scratch::new()?;
        let built = scratch.write("built", "")?;
        assert!(is_older(&scratch.join("profile"), &built)?);
        let profile = scratch.write("profile", "")?;
        let later = SystemTime::now() + Duration::from_secs(5);
        fs::File::options()
            .write(true)
            .open(&built)?
            .set_modified(later)?;
        assert!(is_older(&profile, &built)?);
        assert!(!is_older(&built, &profile)?);
        Ok(())
    }
}
