//! Which compiler can build the eBPF object on this machine.
//!
//! Stable Rust has no `core` for `bpfel-unknown-none`. Two recipes have one:
//!
//! - **debian**: Debian's BPF-capable Rust (`rustc-web` with `libstd-rust-web-dev-bpf`), `core` precompiled;
//! - **rustup**: rustup's nightly with `rust-src`, `core` built along by `-Z build-std`.
//!
//! Both link with `bpf-linker`. This module looks and describes; it installs nothing (that is `setup::bpf`) and builds
//! nothing (that is `build`).

use std::{
    env, fmt,
    path::{Path, PathBuf},
    process::Command,
};

use clap::ValueEnum;

use crate::{shell, workspace};

/// The target of the kernel programs.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The version of `bpf-linker` that is known to work with both recipes.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// The oldest compiler that builds the workspace; the same as `rust-version` in its `Cargo.toml`.
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// Compiler and linker flags of the kernel programs.
///
/// BTF and line info for the loader and the verifier's log; the v3 instruction set; and struct copies expanded as LLVM
/// does it by default, since the in-order expansion leaves byte loops (25 ns a packet).
const FLAGS: [&str; 4] = [
    "-Cdebuginfo=2",
    "-Ctarget-cpu=v3",
    "-Clink-arg=--btf",
    "-Clink-arg=--disable-expand-memcpy-in-order",
];

/// Where the compiler comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Recipe {
    /// rustup's nightly with rust-src (`-Z build-std`).
    Rustup,
    /// Debian's BPF-capable Rust.
    Debian,
}

impl Recipe {
    /// Its name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rustup => "rustup",
            Self::Debian => "debian",
        }
    }

    /// What it is, in a few words.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Rustup => "rustup's nightly with rust-src, core built by -Z build-std",
            Self::Debian => "Debian's BPF-capable Rust (rustc-web), core precompiled",
        }
    }

    /// The other one.
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Rustup => Self::Debian,
            Self::Debian => Self::Rustup,
        }
    }

    /// A command of this recipe's `cargo`, free of the toolchain that runs this task.
    fn cargo(self) -> Command {
        let mut command = match self {
            Self::Rustup => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo"]);
                command
            }
            Self::Debian => Command::new("/usr/bin/cargo"),
        };
        workspace::forget_the_toolchain(&mut command);
        if self == Self::Debian {
            // Debian's compiler is a stable one; the kernel programs need a few unstable features.
            command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// A command of this recipe's `rustc`.
    fn rustc(self) -> Command {
        let mut command = match self {
            Self::Rustup => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
            Self::Debian => Command::new("/usr/bin/rustc"),
        };
        workspace::forget_the_toolchain(&mut command);
        command
    }
}

/// A compiler of the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    pub(crate) recipe: Recipe,
    /// Such as `1.96.0`.
    pub(crate) version: String,
    /// The major version of the LLVM that writes its bitcode: the linker's must not be older.
    pub(crate) llvm: u32,
}

/// A complete toolchain: what `build` needs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    /// The `bpf-linker` to link with.
    pub(crate) linker: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compiler {
            recipe,
            version,
            llvm,
        } = &self.compiler;
        write!(
            f,
            "{} (rustc {version}, LLVM {llvm}, {})",
            recipe.what(),
            self.linker.display()
        )
    }
}

impl Toolchain {
    /// The first complete toolchain among `recipes`; else, for each, what is missing.
    pub(crate) fn find(tools: &Path, recipes: &[Recipe]) -> Result<Self, Vec<(Recipe, String)>> {
        let mut missing = Vec::new();
        for recipe in recipes {
            let found = compiler(*recipe).and_then(|compiler| {
                let linker = linker(tools, compiler.llvm)?;
                Ok(Self { compiler, linker })
            });
            match found {
                Ok(toolchain) => return Ok(toolchain),
                Err(why) => missing.push((*recipe, why)),
            }
        }
        Err(missing)
    }

    /// `cargo build` for the kernel programs at `root`, with everything set that a build for the kernel needs.
    pub(crate) fn build(&self, root: &Path) -> Command {
        let mut command = self.compiler.recipe.cargo();
        command.arg("build");
        self.for_the_kernel(command, root)
    }

    /// `cargo clippy` for the kernel programs; `None` when this toolchain has no clippy.
    pub(crate) fn clippy(&self, root: &Path) -> Option<Command> {
        let recipe = self.compiler.recipe;
        let mut command = recipe.cargo();
        match recipe {
            Recipe::Rustup => {
                command.arg("clippy");
                shell::output(recipe.cargo().args(["clippy", "--version"])).ok()?;
            }
            Recipe::Debian => {
                // By its path: cargo would look in its own directory first and find rustup's.
                let clippy = Path::new("/usr/bin/cargo-clippy");
                command = another_program(&command, clippy.is_file().then_some(clippy)?);
                command.env("CARGO", "/usr/bin/cargo").arg("clippy");
            }
        }
        Some(self.for_the_kernel(command, root))
    }

    fn for_the_kernel(&self, mut command: Command, root: &Path) -> Command {
        command
            .current_dir(root)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_RUSTFLAGS", FLAGS.join(" "))
            .args(["--package", "weir-ebpf", "--profile", "bpf", "--target", TARGET]);
        if self.compiler.recipe == Recipe::Rustup {
            command.args(["-Z", "build-std=core"]);
        }
        command
    }
}

/// `program` in the environment of `command`.
fn another_program(command: &Command, program: &Path) -> Command {
    let mut other = Command::new(program);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => other.env(name, value),
            None => other.env_remove(name),
        };
    }
    other
}

/// The recipes in the order in which they are looked for: `forced` alone when it is given.
pub(crate) fn recipes(forced: Option<Recipe>) -> Vec<Recipe> {
    forced.map_or_else(|| vec![Recipe::Debian, Recipe::Rustup], |r| vec![r])
}

/// The compiler of `recipe`, or what it lacks.
pub(crate) fn compiler(recipe: Recipe) -> Result<Compiler, String> {
    match recipe {
        Recipe::Debian => {
            for program in ["/usr/bin/rustc", "/usr/bin/cargo"] {
                if !Path::new(program).is_file() {
                    return Err(format!("there is no {program}"));
                }
            }
        }
        Recipe::Rustup => nightly_has_source()?,
    }
    let mut command = recipe.rustc();
    let text = shell::output(command.arg("-vV")).map_err(|e| e.to_string())?;
    let compiler =
        described(recipe, &text).ok_or_else(|| format!("`{}` wrote: {text}", shell::show(&command)))?;
    if release(&compiler.version).is_none_or(|v| v < OLDEST_RUSTC) {
        let (major, minor) = OLDEST_RUSTC;
        return Err(format!(
            "its rustc is {}, weir needs {major}.{minor}",
            compiler.version
        ));
    }
    if recipe == Recipe::Debian && !has_core(recipe) {
        return Err(format!("its rustc has no core library for {TARGET}"));
    }
    Ok(compiler)
}

/// Whether rustup's nightly is there with the standard library's source.
fn nightly_has_source() -> Result<(), String> {
    if shell::find("rustup").is_none() {
        return Err("there is no rustup".into());
    }
    let mut command = Command::new("rustup");
    command.args(["component", "list", "--toolchain", "nightly", "--installed"]);
    workspace::forget_the_toolchain(&mut command);
    match shell::output(&mut command) {
        Err(_) => Err("rustup has no nightly toolchain".into()),
        Ok(list) if list.lines().any(|l| l.trim() == "rust-src") => Ok(()),
        Ok(_) => Err("rustup's nightly has no rust-src".into()),
    }
}

/// Whether `recipe` brings a compiled `core` for the kernel.
fn has_core(recipe: Recipe) -> bool {
    let mut command = recipe.rustc();
    command.args(["--print", "target-libdir", "--target", TARGET]);
    let Ok(dir) = shell::output(&mut command) else {
        return false;
    };
    let Ok(files) = std::fs::read_dir(dir.trim()) else {
        return false;
    };
    files
        .flatten()
        .any(|f| f.file_name().to_string_lossy().starts_with("libcore-"))
}

/// Reads `rustc -vV`.
fn described(recipe: Recipe, text: &str) -> Option<Compiler> {
    let field = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
    let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
    Some(Compiler {
        recipe,
        version: field("release:")?.into(),
        llvm,
    })
}

/// The first two numbers of a version.
fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

/// A `bpf-linker` that links what a compiler with LLVM `llvm` writes, or why there is none.
pub(crate) fn linker(tools: &Path, llvm: u32) -> Result<PathBuf, String> {
    let own = tools.join("bin/bpf-linker");
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let candidates = [
        Some(own),
        shell::find("bpf-linker"),
        home.map(|h| h.join("bin/bpf-linker")),
    ];
    let mut why = "there is no bpf-linker".to_owned();
    for file in candidates.into_iter().flatten().filter(|f| f.is_file()) {
        match fits(&file, llvm) {
            Ok(()) => return Ok(file),
            Err(reason) => why = format!("{}: {reason}", file.display()),
        }
    }
    Err(why)
}

/// Whether a linker has the version that is known to work and an LLVM that is new enough.
fn fits(linker: &Path, llvm: u32) -> Result<(), String> {
    let mut command = Command::new(linker);
    let text = shell::output(command.arg("--version")).map_err(|e| e.to_string())?;
    let version = text.trim().trim_start_matches("bpf-linker").trim();
    if release(version) != release(LINKER_VERSION) {
        return Err(format!(
            "it is version {version}, known to work is {LINKER_VERSION}"
        ));
    }
    // A static linker names no library: the build itself will tell.
    let libraries = shell::output(Command::new("ldd").arg(linker)).unwrap_or_default();
    match shared_llvm(&libraries) {
        Some(own) if own < llvm => Err(format!("its LLVM is {own}, the compiler's is {llvm}")),
        Some(_) | None => Ok(()),
    }
}

/// The major version of the LLVM library in what `ldd` writes.
fn shared_llvm(libraries: &str) -> Option<u32> {
    let rest = libraries.split("libLLVM").nth(1)?;
    let digits = rest.trim_start_matches(".so").trim_start_matches(['-', '.']);
    digits.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_describes_itself() {
        let text = "rustc 1.96.0 (x 2026-05-25)\nbinary: rustc\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        let expected = Compiler {
            recipe: Recipe::Debian,
            version: "1.96.0".into(),
            llvm: 22,
        };
        assert_eq!(described(Recipe::Debian, text), Some(expected));
        assert_eq!(described(Recipe::Debian, "rustc 1.96.0"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(release("1.100.0") > Some(OLDEST_RUSTC));
        assert!(release("1.97.0-nightly") > Some(OLDEST_RUSTC));
        assert!(release("1.85.0") < Some(OLDEST_RUSTC));
        assert_eq!(release("unknown"), None);
    }

    #[test]
    fn the_linkers_llvm_is_read_from_its_libraries() {
        let cases = [
            (
                "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)",
                Some(22),
            ),
            ("\tlibLLVM-16.so.1 => /usr/lib/libLLVM-16.so.1 (0x0)", Some(16)),
            ("\tstatically linked", None),
        ];
        for (text, expected) in cases {
            assert_eq!(shared_llvm(text), expected, "{text}");
        }
    }

    #[test]
    fn a_forced_recipe_is_the_only_one() {
        assert_eq!(recipes(Some(Recipe::Rustup)), [Recipe::Rustup]);
        assert_eq!(recipes(None).len(), 2);
        assert_eq!(Recipe::Rustup.other().other(), Recipe::Rustup);
    }

    #[test]
    fn a_linker_of_another_version_is_refused() {
        let missing = linker(Path::new("/nonexistent"), 9999);
        // Whatever this machine has, none has an LLVM that new, unless it is linked statically.
        if let Err(why) = missing {
            assert!(
                why.contains("no bpf-linker") || why.contains("LLVM") || why.contains("version"),
                "{why}"
            );
        }
        assert!(fits(Path::new("/bin/echo"), 1).is_err());
    }
}
