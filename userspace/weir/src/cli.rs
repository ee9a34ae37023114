//! The command line: what can be asked of weir, and the help text for it.
//!
//! Owns the argument types only. What each command does lives in `control` (run), `role` (child processes) and
//! `client` (everything that talks to a running weir).

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use weir_abi::{Reason, Verdict, maps::capture::SNAP};
use weir_core::plan::IpNet;

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
    /// Show groups of virtual routers: who is master, since when and why, what speaks against this box.
    Ha(QueryArgs),
    /// Hold something against this box as master of a group: another one that has less against it takes over.
    ///
    /// Stays until it is set anew, `weir demote GROUP 0` takes it back, or weir is stopped.
    Demote {
        /// A group of virtual routers: NAME of [vrrp.NAME].
        group: String,
        /// How much. 0: nothing any more.
        #[arg(value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=255))]
        by: u32,
        /// Have connections of the relay end first, since they can't go along: idle ones at once, others behind the response
        /// that is under way. Waits for that, at most weir.relay.drain (30s); demotes the box then.
        #[arg(long)]
        drain: bool,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Read the configuration again and apply it. Nothing changes if it has mistakes.
    Reload {
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Have the weir that was installed meanwhile take the place of the one that runs, without a gap.
    ///
    /// The program is started from where the running one was started from, with its arguments, and takes everything over:
    /// connections go on, virtual addresses stay, packets are forwarded all the while. If the new one does not come up, the
    /// old one goes on. Under systemd the unit has to have Type=notify.
    Upgrade {
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Keep networks out, for a while or for good. XDP drops what they send to any service.
    Ban(ListArgs),
    /// Let networks in, free of limits per source, whatever is said of larger networks.
    Allow(ListArgs),
    /// Take away what was said of networks at run time, by an operator or for overload.
    Unlist {
        /// For example `192.0.2.0/24` or `2001:db8::1`.
        #[arg(required = true, value_name = "NETWORK", value_parser = weir_config::args::network)]
        networks: Vec<IpNet>,
        #[command(flatten)]
        socket: SocketArgs,
    },
    /// Show the networks that are allowed or banned, by whom, and for how long.
    Lists(QueryArgs),
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
    /// Write packets that XDP has handled to a file (pcapng), with verdict and reason as the comment of each.
    ///
    /// A packet is written as it came in. The filter is applied in the kernel; all that is given must agree. Needs root,
    /// and a `weir run` of the same version with XDP; one capture can go on at a time. Ends after --count packets, after
    /// --for, with Ctrl-C, or with the weir that it watches.
    Capture(CaptureArgs),
    /// Show flows that the kernel remembers, newest first.
    ///
    /// The L4 plane places most flows without remembering them: those that are here were recorded when they began. Packets
    /// and bytes show `-` where none were counted; they are complete only with the tunable weir.l4.flow.accounting, else a
    /// flow is counted while its place in the ring has changed lately. Flows by full-nat are all here, and counted by
    /// what the backend answers.
    Flows(FlowsArgs),
    /// Say what would become of a packet, and why, by the rules and tables of the kernel as they are now.
    #[command(subcommand)]
    Explain(ExplainWhat),
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
    /// Where access records go, in place of what access_log.to says: `stdout`, `stderr`, `off`, `syslog`
    /// (or `syslog:/PATH`, `syslog:ADDRESS:PORT`; then `,FACILITY` if need be), or a file.
    #[arg(long, value_name = "WHERE")]
    pub(crate) access_log: Option<String>,
    /// Start even if flows are lost that another version of weir, whose tables have another layout, forwards.
    #[arg(long)]
    pub(crate) discard_flows: bool,
    /// Take the place of the weir that runs with the same admin.socket, if one does, without a gap. `weir upgrade` starts the
    /// new one by this; it can be started by hand, too.
    #[arg(long)]
    pub(crate) replace: bool,
}

/// [`RunArgs::replace`], as it is written.
pub(crate) const REPLACE: &str = "--replace";

#[derive(Args, Debug, Clone)]
pub(crate) struct CaptureArgs {
    /// The file to write; `-`: standard output, as in `weir capture -w - | tshark -r -`.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: PathBuf,
    #[command(flatten)]
    pub(crate) filter: FilterArgs,
    /// End after this many packets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// End after this time, such as 30s or 5m.
    #[arg(long, value_name = "DURATION", value_parser = weir_config::args::duration)]
    pub(crate) r#for: Option<Duration>,
    /// Take the directory of pinned maps from this configuration.
    #[arg(short, long, value_name = "FILE", conflicts_with = "pins")]
    pub(crate) config: Option<PathBuf>,
    /// The directory of pinned maps (node.pins). Default: /sys/fs/bpf/weir.
    #[arg(long, value_name = "DIR")]
    pub(crate) pins: Option<PathBuf>,
}

/// Which packets are captured.
#[derive(Args, Debug, Clone)]
pub(crate) struct FilterArgs {
    /// Only packets from or to this address or network.
    #[arg(long, value_name = "ADDRESS|NETWORK", value_parser = weir_config::args::network)]
    pub(crate) host: Option<IpNet>,
    /// Only packets from or to this TCP or UDP port.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) port: Option<u16>,
    /// Only this protocol: tcp, udp, icmp, icmp6, or a number.
    #[arg(long, value_name = "PROTOCOL", value_parser = crate::capture::protocol)]
    pub(crate) proto: Option<u8>,
    /// Only packets with this reason, as docs/reasons.md has them: no-backend, for example.
    #[arg(long, value_name = "REASON", value_parser = crate::capture::reason)]
    pub(crate) reason: Option<Reason>,
    /// Only packets with this verdict: forward, reply, pass or drop.
    #[arg(long, value_name = "VERDICT", value_parser = crate::capture::verdict)]
    pub(crate) verdict: Option<Verdict>,
    /// Keep this many bytes of each packet.
    #[arg(long, value_name = "BYTES", default_value_t = SNAP, value_parser = clap::value_parser!(u32).range(1..=i64::from(SNAP)))]
    pub(crate) snap: u32,
    /// Keep one of this many packets, by chance.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) sample: u32,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct LogArgs {
    /// Form of log lines (standard error), and of access records unless access_log.format says otherwise.
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,weir_relay=debug`.
    #[arg(long, env = "WEIR_LOG", default_value = "info")]
    pub(crate) log_level: String,
}

/// The access log as control tells the relay of it: `[access_log]`.
#[derive(Args, Debug, Clone)]
pub(crate) struct AccessArgs {
    /// `access_log.to`, or what `weir run` was told in its place.
    #[arg(long)]
    pub(crate) access_log: String,
    /// `access_log.format`
    #[arg(long, value_parser = access_format)]
    pub(crate) access_format: weir_core::plan::LogFormat,
    /// `access_log.null`
    #[arg(long)]
    pub(crate) access_null: bool,
}

fn access_format(word: &str) -> Result<weir_core::plan::LogFormat, String> {
    let mut all = weir_core::plan::LogFormat::ALL.into_iter();
    all.find(|(known, _)| *known == word)
        .map(|(_, format)| format)
        .ok_or_else(|| "no form of access records".to_owned())
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

#[derive(Args, Debug, Clone)]
pub(crate) struct FlowsArgs {
    /// Only flows of this service.
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// Only flows to this backend: POOL/ADDRESS or POOL/NAME.
    #[arg(long, value_name = "POOL/ADDRESS")]
    pub(crate) backend: Option<String>,
    /// Only flows of clients in this network.
    #[arg(long, value_name = "NETWORK", value_parser = weir_config::args::network)]
    pub(crate) source: Option<IpNet>,
    /// Only flows to virtual addresses in this network.
    #[arg(long, value_name = "NETWORK", value_parser = weir_config::args::network)]
    pub(crate) destination: Option<IpNet>,
    /// Only flows that have ended.
    #[arg(long)]
    pub(crate) closed: bool,
    /// What comes first.
    #[arg(long, value_enum, default_value_t = FlowSort::Newest)]
    pub(crate) sort: FlowSort,
    /// Show so many at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) limit: u32,
    #[command(flatten)]
    pub(crate) query: QueryArgs,
}

#[derive(Subcommand, Debug, Clone)]
pub(crate) enum ExplainWhat {
    /// A packet of a flow: its verdict and reason, service, slot of the ring, backend, way out, and what it becomes.
    ///
    /// Changes nothing and counts nothing. The packet has no payload. What is asked for is a packet from the middle of the
    /// flow; a TCP flow's first one is treated by another rule.
    Flow {
        /// Where it comes from: ADDRESS:PORT, as `198.51.100.7:40000` or `[2001:db8::7]:40000`.
        #[arg(value_name = "SRC", value_parser = weir_config::args::socket)]
        src: SocketAddr,
        /// Where it goes.
        #[arg(value_name = "DST", value_parser = weir_config::args::socket)]
        dst: SocketAddr,
        /// Its protocol.
        #[arg(value_enum, value_name = "PROTO")]
        protocol: FlowProtocol,
        /// TCP: the flow's first packet.
        #[arg(long)]
        syn: bool,
        #[command(flatten)]
        query: QueryArgs,
    },
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowProtocol {
    Tcp,
    Udp,
}

impl FlowProtocol {
    /// The word in a request.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowSort {
    Newest,
    Bytes,
    Packets,
}

impl FlowSort {
    /// The word in a request.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::Bytes => "bytes",
            Self::Packets => "packets",
        }
    }
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ListArgs {
    /// For example `192.0.2.0/24` or `2001:db8::1`.
    #[arg(required = true, value_name = "NETWORK", value_parser = weir_config::args::network)]
    pub(crate) networks: Vec<IpNet>,
    /// How long, for example `10m`. Default: for good.
    #[arg(long = "for", value_name = "TIME", value_parser = weir_config::args::duration)]
    pub(crate) time: Option<Duration>,
    #[command(flatten)]
    pub(crate) socket: SocketArgs,
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
        #[command(flatten)]
        access: AccessArgs,
        #[command(flatten)]
        log: LogArgs,
    },
    /// The holder of private keys, which only signs. Expects its control listener as standard input.
    Keys {
        #[command(flatten)]
        log: LogArgs,
    },
    /// The prober. Expects its control listener as standard input.
    Health {
        #[command(flatten)]
        log: LogArgs,
    },
}
