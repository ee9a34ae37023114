//! The command line: what can be asked of weir, and the help text for it.
//!
//! Owns the argument types only. What each command does lives in `control` (run), `role` (child processes) and
//! `client` (everything that talks to a running weir).

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Kernel-assisted L4/L7 load balancer for the Linux edge box.
#[derive(Parser, Debug)]
#[command(name = "weir", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the balancer in the foreground.
    Run(RunArgs),
    /// Check a configuration file. Exit code 0: fine; 2: mistakes, one line each.
    Check {
        /// The file.
        file: PathBuf,
        /// Print nothing when the file is fine.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show the running weir: processes, services, readiness.
    Status(QueryArgs),
    /// Show pools and their backends: state, since when, why.
    Pools(QueryArgs),
    /// Say what a backend is to do.
    Backend {
        /// `drain`: keep what it has, take nothing new. `maint`: take nothing at all. `ready`: back to normal.
        #[arg(value_enum)]
        wish: Wish,
        /// POOL/ADDRESS, for example `web/10.0.0.11:8080`; or POOL/NAME.
        #[arg(value_name = "POOL/ADDRESS")]
        backend: String,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Read the configuration again and apply it. Nothing changes if it has mistakes.
    Reload {
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Show or set tunables, as sysctl(8) does.
    Sysctl(SysctlArgs),
    /// Say whether this box can run weir, and what stands in the way. Changes nothing. Exit code 0: it can; 1: it can't.
    Doctor {
        /// Interfaces to look at. Default: those of the configuration, else all that are up.
        #[arg(conflicts_with = "config")]
        interfaces: Vec<String>,
        /// Take the interfaces from this configuration.
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// A child process of `weir run`.
    #[command(subcommand, hide = true)]
    Role(Role),
}

#[derive(Args, Debug, Clone)]
pub(crate) struct RunArgs {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", default_value = "/etc/weir/weir.toml")]
    pub(crate) config: PathBuf,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    /// Where one record per request or relayed connection goes: `stdout`, `stderr`, `off`, or a file to append to, which
    /// the relay's user (node.user) must be able to write.
    #[arg(long, value_name = "WHERE", default_value = "stdout")]
    pub(crate) access_log: String,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct LogArgs {
    /// Form of log lines (standard error) and access records.
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,weir_relay=debug`.
    #[arg(long, env = "WEIR_LOG", default_value = "info")]
    pub(crate) log_level: String,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    /// The word on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

#[derive(Args, Debug, Clone)]
pub(crate) struct SocketArgs {
    /// Control socket of the running weir. Default: the one of --config, else /run/weir/control.sock (for a user other
    /// than root: weir/control.sock in $XDG_RUNTIME_DIR).
    #[arg(short, long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Take the control socket from this configuration.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct QueryArgs {
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Drain,
    Maint,
    Ready,
}

#[derive(Args, Debug, Clone)]
#[command(group(clap::ArgGroup::new("what").required(true).multiple(false)))]
pub(crate) struct SysctlArgs {
    /// Show every tunable.
    #[arg(short = 'a', long, group = "what")]
    pub(crate) all: bool,
    /// Set a tunable of the running weir.
    #[arg(short = 'w', long, value_name = "NAME=VALUE", group = "what")]
    pub(crate) write: Option<String>,
    /// Set all tunables of a file in sysctl.conf(5) syntax.
    #[arg(short = 'p', long, value_name = "FILE", group = "what")]
    pub(crate) load: Option<PathBuf>,
    /// Show one tunable.
    #[arg(value_name = "NAME", group = "what")]
    pub(crate) name: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Role {
    /// The relay: TLS, HTTP, TCP. Expects its control listener as standard input.
    Relay {
        /// Worker threads.
        #[arg(long)]
        workers: u16,
        /// See `weir run`.
        #[arg(long)]
        access_log: String,
        #[command(flatten)]
        log: LogArgs,
    },
    /// The prober. Expects its control listener as standard input.
    Health {
        #[command(flatten)]
        log: LogArgs,
    },
}
