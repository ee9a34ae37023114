//! The command line's side of the control socket: asks a running weir, prints what it says.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::de::DeserializeOwned;
use weir_core::plan::IpNet;

use crate::{
    admin::api::{
        Answer, Changed, Demoted, Explained, Flows, Ha, ListChange, Lists, Pools, Reloaded, Request, Status,
        Tunable, Upgraded,
    },
    cli::{ExplainWhat, FlowsArgs, ListArgs, QueryArgs, SocketArgs, SysctlArgs, Wish},
    render,
};

/// A reload checks, binds and waits for the relay; nothing else takes long.
const PATIENCE: Duration = Duration::from_secs(60);
/// `weir.relay.drain` can be as long as a day.
const DRAIN_PATIENCE: Duration = Duration::from_secs(2 * 24 * 3600);
/// But an upgrade, in which programs are verified anew; control gives up earlier.
const UPGRADE_PATIENCE: Duration = Duration::from_secs(180);

/// `weir status`
pub(crate) fn status(args: &QueryArgs) -> anyhow::Result<()> {
    show::<Status>(args, &Request::Status {}, render::status)
}

/// `weir pools`
pub(crate) fn pools(args: &QueryArgs) -> anyhow::Result<()> {
    show::<Pools>(args, &Request::Pools {}, render::pools)
}

/// `weir backend`
pub(crate) fn backend(wish: Wish, backend: &str, socket: &SocketArgs) -> anyhow::Result<()> {
    let wish = match wish {
        Wish::Drain => "drain",
        Wish::Maint => "maint",
        Wish::Ready => "ready",
    };
    let request = Request::Backend {
        backend: backend.to_owned(),
        wish: wish.to_owned(),
    };
    let changed: Changed = ask(socket, &request)?;
    if changed.from == changed.to {
        print(&format!("{} is {} already\n", changed.backend, changed.to))
    } else {
        print(&format!(
            "{}: {} -> {}\n",
            changed.backend, changed.from, changed.to
        ))
    }
}

/// `weir ha`
pub(crate) fn ha(args: &QueryArgs) -> anyhow::Result<()> {
    show::<Ha>(args, &Request::Ha {}, render::ha::text)
}

/// `weir demote`
pub(crate) fn demote(group: &str, by: u32, drain: bool, socket: &SocketArgs) -> anyhow::Result<()> {
    let request = Request::Demote {
        group: group.to_owned(),
        by,
        drain,
    };
    let patience = if drain { DRAIN_PATIENCE } else { PATIENCE };
    print(&render::ha::demoted(&ask_within::<Demoted>(
        socket, &request, patience,
    )?))
}

/// `weir flows`
pub(crate) fn flows(args: &FlowsArgs) -> anyhow::Result<()> {
    let request = Request::Flows {
        service: args.service.clone(),
        backend: args.backend.clone(),
        source: args.source.map(|net| net.to_string()),
        destination: args.destination.map(|net| net.to_string()),
        closed: args.closed,
        sort: Some(args.sort.as_str().to_owned()),
        limit: args.limit,
    };
    show::<Flows>(&args.query, &request, render::flows)
}

/// `weir explain`
pub(crate) fn explain(what: &ExplainWhat) -> anyhow::Result<()> {
    let ExplainWhat::Flow {
        src,
        dst,
        protocol,
        syn,
        query,
    } = what;
    let request = Request::Explain {
        src: src.to_string(),
        dst: dst.to_string(),
        protocol: protocol.as_str().to_owned(),
        syn: *syn,
    };
    show::<Explained>(query, &request, render::explained)
}

/// `weir reload`
pub(crate) fn reload(socket: &SocketArgs) -> anyhow::Result<()> {
    let Reloaded { generation, changes } = ask(socket, &Request::Reload {})?;
    let mut text = format!("configuration {generation} is in force\n");
    if changes.is_empty() {
        text.push_str("  nothing has changed\n");
    }
    for change in changes {
        text.push_str(&format!("  {change}\n"));
    }
    print(&text)
}

/// `weir upgrade`
pub(crate) fn upgrade(socket: &SocketArgs) -> anyhow::Result<()> {
    let Upgraded {
        from,
        from_pid,
        to,
        to_pid,
    } = ask_within(socket, &Request::Upgrade {}, UPGRADE_PATIENCE)?;
    print(&format!(
        "weir {to} (process {to_pid}) has taken the place of weir {from} (process {from_pid})\n"
    ))
}

/// `weir ban` and `weir allow`
pub(crate) fn list(args: &ListArgs, ban: bool) -> anyhow::Result<()> {
    let seconds = match args.time {
        Some(time) if time.subsec_nanos() != 0 || time.is_zero() => {
            bail!("--for takes whole seconds, 1s at least")
        }
        time => time.map(|time| time.as_secs()),
    };
    let networks = args.networks.iter().map(ToString::to_string).collect();
    let request = match ban {
        true => Request::Ban { networks, seconds },
        false => Request::Allow { networks, seconds },
    };
    print(&render::list_change(&ask(&args.socket, &request)?))
}

/// `weir unlist`
pub(crate) fn unlist(networks: &[IpNet], socket: &SocketArgs) -> anyhow::Result<()> {
    let networks = networks.iter().map(ToString::to_string).collect();
    let change: ListChange = ask(socket, &Request::Unlist { networks })?;
    print(&render::list_change(&change))
}

/// `weir lists`
pub(crate) fn lists(args: &QueryArgs) -> anyhow::Result<()> {
    show::<Lists>(args, &Request::Lists {}, render::lists)
}

/// `weir sysctl`
pub(crate) fn sysctl(args: &SysctlArgs) -> anyhow::Result<()> {
    let request = if let Some(assignment) = &args.write {
        let (name, value) = assignment
            .split_once('=')
            .with_context(|| format!("-w {assignment}: write NAME=VALUE"))?;
        Request::SysctlSet {
            set: vec![(name.trim().to_owned(), value.trim().to_owned())],
        }
    } else if let Some(path) = &args.load {
        Request::SysctlSet {
            set: assignments(path)?,
        }
    } else {
        Request::Sysctl {
            name: args.name.clone(),
        }
    };
    let tunables: Vec<Tunable> = ask(&args.socket, &request)?;
    if args.json {
        return print(&format!("{}\n", serde_json::to_string_pretty(&tunables)?));
    }
    print(
        &tunables
            .iter()
            .map(|t| format!("{} = {}\n", t.name, t.value))
            .collect::<String>(),
    )
}

fn assignments(path: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}: can't be read", path.display()))?;
    let name = path.display().to_string();
    weir_config::tunables::assignments(&name, &text).map_err(|report| anyhow!("{report}"))
}

fn show<T: DeserializeOwned + serde::Serialize>(
    args: &QueryArgs,
    request: &Request,
    render: fn(&T) -> String,
) -> anyhow::Result<()> {
    let value: T = ask(&args.socket, request)?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&value)?))
    } else {
        print(&render(&value))
    }
}

/// A reader that goes away early (`weir pools | head`) is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("standard output"),
    }
}

fn ask<T: DeserializeOwned>(socket: &SocketArgs, request: &Request) -> anyhow::Result<T> {
    ask_within(socket, request, PATIENCE)
}

fn ask_within<T: DeserializeOwned>(
    socket: &SocketArgs,
    request: &Request,
    patience: Duration,
) -> anyhow::Result<T> {
    let path = socket_path(socket)?;
    let stream = UnixStream::connect(&path).map_err(|e| {
        let path = path.display();
        if [ErrorKind::NotFound, ErrorKind::ConnectionRefused].contains(&e.kind()) {
            anyhow!("no weir answers on {path}: start one with `weir run`, or name its socket with --socket")
        } else if e.kind() == ErrorKind::PermissionDenied {
            anyhow!("{path}: you may not speak to this weir; try as the user it runs as")
        } else {
            anyhow!("{path}: {e}")
        }
    })?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let mut text = serde_json::to_vec(request)?;
    text.push(b'\n');
    (&stream)
        .write_all(&text)
        .with_context(|| format!("{}: asking", path.display()))?;
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .with_context(|| format!("{}: waiting for the answer", path.display()))?;
    if line.is_empty() {
        bail!(
            "{}: weir closed the connection without an answer; look at its log",
            path.display()
        );
    }
    let answer: Answer =
        serde_json::from_str(&line).with_context(|| format!("{}: not an answer", path.display()))?;
    match answer {
        Answer {
            ok: true,
            result: Some(value),
            ..
        } => serde_json::from_value(value)
            .with_context(|| format!("{}: an answer of another version", path.display())),
        Answer { error, .. } => bail!(
            "{}",
            error.unwrap_or_else(|| "weir refused without a word".to_owned())
        ),
    }
}

fn socket_path(args: &SocketArgs) -> anyhow::Result<PathBuf> {
    if let Some(path) = &args.socket {
        return Ok(path.clone());
    }
    if let Some(config) = &args.config {
        let loaded = crate::context::load(config).map_err(|report| anyhow!("{report}"))?;
        return Ok(loaded.plan.admin.socket.clone());
    }
    Ok(crate::context::default_socket())
}
