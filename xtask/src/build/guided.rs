//! `--profile-guided`: weir built twice, the second time by what the first one did under load.
//!
//! Owns the three steps and where they leave what they make, all of it below `target/guided`: a weir that counts which way it
//! goes, its run under the load that `bench` measures by, and the build that lays out by these counts what is hot and what is not.
//! The compiler must bring its own `llvm-profdata`, since the counts' form is that of one LLVM.
//!
//! While the build that counts has not changed, its counts are taken again: running it once more is quick.

use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash as _, Hasher as _},
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use weir_harness::Scratch;

use super::told;
use crate::{bench, setup, shell, workspace, workspace::Workspace};

/// Whose counts are taken: the relay, where control is root.
const NOBODY: u32 = 65_534;

/// Processes of a weir: control, relay, health and, with TLS, keys. The load starts one without and one with.
const PROCESSES: usize = 3 + 4;

/// Builds it, and returns where it is.
pub(super) fn binary(workspace: &Workspace, may_install: bool) -> Result<PathBuf> {
    // First what may be missing: nobody waits for minutes to be told so.
    bench::may_train()?;
    let rustc = Rustc::ask(workspace)?;
    let profdata = rustc.profdata(workspace, may_install)?;
    if may_install {
        setup::ensure(workspace, &[setup::Task::Profile], None)?;
    }
    let place = workspace.target.join("guided");

    shell::heading("weir that counts which way it goes");
    let counting = rustc.build(workspace, &place.join("counting"), "-Cprofile-generate")?;
    // Named by what was counted: another build has another one.
    let profile = place.join(format!("{:016x}.profdata", fingerprint(&counting)?));
    if profile.is_file() {
        shell::note(&format!(
            "{} is of this build: no new load is needed",
            workspace.shorten(&profile)
        ));
    } else {
        count(workspace, &counting, &profdata, &profile)?;
    }

    shell::heading("weir, optimised by what it did");
    let begin = Instant::now();
    let flag = format!("-Cprofile-use={}", profile.display());
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
    fn profdata(&self, workspace: &Workspace, may_install: bool) -> Result<PathBuf> {
        let file = self.tools.join("llvm-profdata");
        if may_install && !file.is_file() && shell::find("rustup").is_some() {
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
            .env("CARGO_ENCODED_RUSTFLAGS", with_given(given_flags(), flag));
        shell::run(&mut cargo).context("building the weir binary")?;
        Ok(out.join(&self.host).join("release/weir"))
    }
}

/// Between flags in `CARGO_ENCODED_RUSTFLAGS`, where they may have blanks in them.
const BETWEEN: &str = "\x1f";

/// The flags in the environment, as cargo reads them.
fn given_flags() -> String {
    match env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(encoded) => encoded,
        Err(_) => {
            let flags = env::var("RUSTFLAGS").unwrap_or_default();
            flags.split_whitespace().collect::<Vec<_>>().join(BETWEEN)
        }
    }
}

/// Flags, and another one.
fn with_given(given: String, flag: &str) -> String {
    match given.is_empty() {
        true => flag.to_owned(),
        false => format!("{given}{BETWEEN}{flag}"),
    }
}

/// A number that is another one whenever the file is.
fn fingerprint(file: &Path) -> Result<u64> {
    let bytes = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    Ok(hasher.finish())
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
            counting.display().to_string().replace('\'', "'\\''")
        ),
    )?;
    fs::set_permissions(&starter, fs::Permissions::from_mode(0o755)).context("making a script of it")?;
    bench::train(workspace, &scratch, &starter)?;
    let entries = fs::read_dir(&counts).with_context(|| format!("reading {}", counts.display()))?;
    let files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    if files.len() < PROCESSES {
        bail!(
            "of {PROCESSES} processes only {} left their counts: the others were not ended in order",
            files.len()
        );
    }
    // What was built by an older profile is of no use any more: every flag of it is another one.
    let place = profile.parent().context("the profile has no directory")?;
    for old in fs::read_dir(place)
        .with_context(|| format!("reading {}", place.display()))?
        .flatten()
        .map(|entry| entry.path())
    {
        if old.extension().is_some_and(|it| it == "profdata") {
            fs::remove_file(&old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    let _optimised_by_it = fs::remove_dir_all(place.join("optimised"));
    // Beside it and then renamed: one that is there is whole.
    let beside = profile.with_extension("new");
    let mut merge = Command::new(profdata);
    merge.arg("merge").arg("-o").arg(&beside).args(&files);
    shell::output(&mut merge).context("making a profile of the counts")?;
    fs::rename(&beside, profile).with_context(|| format!("writing {}", profile.display()))?;
    shell::note(&format!(
        "{}: counts of {} processes",
        workspace.shorten(profile),
        files.len()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_environment_stay() {
        let flag = "-Cprofile-use=a b";
        assert_eq!(with_given(String::new(), flag), flag);
        let given = with_given("-Ctarget-cpu=native".into(), flag);
        assert_eq!(given, "-Ctarget-cpu=native\u{1f}-Cprofile-use=a b");
    }

    #[test]
    fn files_are_told_apart_by_their_content() -> Result<()> {
        let scratch = Scratch::new()?;
        let mut numbers = Vec::new();
        for content in ["one", "one", "two"] {
            numbers.push(fingerprint(&scratch.write("weir", content)?)?);
        }
        assert!(
            numbers[0] == numbers[1] && numbers[1] != numbers[2],
            "{numbers:?}"
        );
        assert!(fingerprint(&scratch.join("none")).is_err());
        Ok(())
    }
}
