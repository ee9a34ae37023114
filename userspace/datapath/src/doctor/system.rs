//! The box as a whole: kernel, privileges, file systems, limits, sysctls.

use std::{fs, path::Path};

use super::Finding;
use crate::{object, pins, sysctl};

/// The oldest kernel that weir is built for: bpf links for XDP and sk_lookup, LRU maps in batches.
const FLOOR: (u32, u32) = (5, 15);

/// `CAP_*` of linux/capability.h that weir may need.
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const SYS_ADMIN: u32 = 21;
const PERFMON: u32 = 38;
const BPF: u32 = 39;

pub(super) fn inspect() -> Vec<Finding> {
    let mut findings = vec![kernel(), btf(), object(), bpffs(), privileges(), jit()];
    findings.extend(instances());
    findings.extend(sysctls());
    findings.push(descriptors());
    findings
}

pub(super) fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn kernel() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    match version(&release) {
        Some(found) if found >= FLOOR => Finding::ok("kernel", format!("Linux {release}")),
        Some(_) => Finding::problem("kernel", format!("Linux {release} is too old"))
            .mend(format!("weir needs Linux {}.{} or newer", FLOOR.0, FLOOR.1)),
        None => Finding::note("kernel", format!("release {release:?} cannot be told"))
            .mend(format!("weir needs Linux {}.{} or newer", FLOOR.0, FLOOR.1)),
    }
}

/// The kernel's release, its first two numbers.
pub(crate) fn release() -> Option<(u32, u32)> {
    version(&read("/proc/sys/kernel/osrelease")?)
}

/// The first two numbers of `6.18.44-fc-v657`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        Finding::ok("BTF", "the kernel describes its types")
    } else {
        Finding::note(
            "BTF",
            "the kernel does not describe its types: bpftool shows less",
        )
        .mend("a kernel with CONFIG_DEBUG_INFO_BTF=y")
    }
}

fn object() -> Finding {
    if object::is_embedded() {
        Finding::ok("eBPF object", "embedded in this binary")
    } else {
        Finding::problem("eBPF object", "this binary was built without it")
            .mend("build it with `cargo xtask build`, or set node.xdp = \"off\"")
    }
}

fn bpffs() -> Finding {
    let path = Path::new("/sys/fs/bpf");
    if pins::is_bpffs(path) {
        Finding::ok("bpffs", "mounted at /sys/fs/bpf")
    } else {
        Finding::note(
            "bpffs",
            "no bpf file system is mounted at /sys/fs/bpf: weir mounts one when it starts as root",
        )
        .mend("to have it mounted earlier: `bpf /sys/fs/bpf bpf defaults 0 0` in /etc/fstab")
    }
}

fn privileges() -> Finding {
    let status = read("/proc/self/status").unwrap_or_default();
    let Some(effective) = capabilities(&status) else {
        return Finding::note("privileges", "/proc/self/status does not tell them");
    };
    let has = |cap: u32| effective & 1 << cap != 0;
    if has(NET_ADMIN) && (has(SYS_ADMIN) || (has(BPF) && has(PERFMON))) {
        return Finding::ok("privileges", "enough for both planes");
    }
    let missing: Vec<_> = [
        ("CAP_BPF", has(BPF) || has(SYS_ADMIN)),
        ("CAP_PERFMON", has(PERFMON) || has(SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(NET_ADMIN)),
    ]
    .into_iter()
    .filter(|(_, has)| !has)
    .map(|(name, _)| name)
    .collect();
    let ports = if has(NET_BIND_SERVICE) {
        ""
    } else {
        ", ports from 1024 on only"
    };
    Finding::note(
        "privileges",
        format!("without {}: the relay only{ports}", missing.join(", ")),
    )
    .mend("run weir as root, or set node.xdp = \"off\"")
}

/// Whether this process has a capability. None: it can't be told.
pub(super) fn has_capability(cap: u32) -> Option<bool> {
    let status = read("/proc/self/status")?;
    Some(capabilities(&status)? & 1 << cap != 0)
}

/// The effective set in the text of /proc/self/status.
fn capabilities(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn jit() -> Finding {
    match read("/proc/sys/net/core/bpf_jit_enable").as_deref() {
        Some("0") => Finding::note("JIT", "off: eBPF programs are interpreted, many times slower")
            .mend("`sysctl -w net.core.bpf_jit_enable=1`"),
        Some(_) => Finding::ok("JIT", "on"),
        // Only root may read it; a kernel may also be built with the JIT always on, which is the rule.
        None => Finding::note("JIT", "cannot be seen without privilege"),
    }
}

/// Pins of weir under /sys/fs/bpf: of a running instance, or left by one that was killed.
fn instances() -> Vec<Finding> {
    let root = Path::new("/sys/fs/bpf");
    if !pins::is_bpffs(root) {
        return Vec::new();
    }
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(e) => {
            return vec![Finding::note(
                "pins",
                format!("/sys/fs/bpf cannot be listed: {e}"),
            )];
        }
    };
    let mut findings = Vec::new();
    for path in entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
    {
        let versions = pins::versions(&path).unwrap_or_default();
        if versions.is_empty() {
            continue;
        }
        let state = match pins::holder_of(&path) {
            Some(pid) => format!("in use by the process {pid}"),
            None => "not in use by any process; the kernel goes on with what is pinned".to_owned(),
        };
        let own = format!("{:016x}", weir_abi::ABI_HASH);
        let other = versions
            .iter()
            .any(|dir| dir.file_name().is_none_or(|name| name != own.as_str()));
        let of = if other {
            " (some of another version, which this one replaces)"
        } else {
            ""
        };
        findings.push(Finding::note(
            "pins",
            format!("{} holds pins of weir{of}, {state}", path.display()),
        ));
    }
    findings
}

fn sysctls() -> Vec<Finding> {
    let mut findings = Vec::new();
    let number = |name: &str| {
        sysctl::read(name)
            .ok()
            .flatten()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(depth @ 0..4096) = number("net.core.somaxconn") {
        findings.push(
            Finding::note(
                "sysctl net.core.somaxconn",
                format!("{depth} connections may wait to be accepted"),
            )
            .mend("4096 or more lets bursts wait instead of being refused"),
        );
    }
    if number("net.ipv4.tcp_syncookies") == Some(0) {
        findings.push(
            Finding::note(
                "sysctl net.ipv4.tcp_syncookies",
                "off: a SYN flood fills the relay's queues",
            )
            .mend("`sysctl -w net.ipv4.tcp_syncookies=1`"),
        );
    }
    let range = sysctl::read("net.ipv4.ip_local_port_range").ok().flatten();
    if let Some(ports) = range.as_deref().and_then(port_range) {
        let text = format!("{ports} ports for the relay's connections to each backend");
        let subject = "sysctl net.ipv4.ip_local_port_range";
        findings.push(if ports < 28_000 {
            Finding::note(subject, text)
                .mend("`sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"` gives more")
        } else {
            Finding::ok(subject, text)
        });
    }
    if number("net.ipv4.conf.all.rp_filter") == Some(1) {
        findings.push(
            Finding::note(
                "sysctl net.ipv4.conf.all.rp_filter",
                "strict: packets for the relay are dropped when the way back leads through another interface",
            )
            .mend("2 (loose) if the box has several ways out"),
        );
    }
    if number("net.ipv4.ip_forward") == Some(1) {
        findings.push(Finding::ok(
            "sysctl net.ipv4.ip_forward",
            "on; weir does not need it",
        ));
    }
    findings
}

/// How many ports a range such as `32768 60999` holds.
fn port_range(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace().map(str::parse::<u64>);
    let (low, high) = (words.next()?.ok()?, words.next()?.ok()?);
    Some((high + 1).saturating_sub(low))
}

fn descriptors() -> Finding {
    let limits = read("/proc/self/limits").unwrap_or_default();
    match open_files(&limits) {
        Some(hard) if hard < 65_536 => Finding::note(
            "descriptors",
            format!(
                "at most {hard} per process: about {} relayed connections",
                hard.saturating_sub(100) / 2
            ),
        )
        .mend("raise RLIMIT_NOFILE (LimitNOFILE= in the unit)"),
        Some(hard) => Finding::ok("descriptors", format!("at most {hard} per process")),
        None => Finding::note("descriptors", "/proc/self/limits does not tell the limit"),
    }
}

/// The hard limit in the text of /proc/self/limits.
fn open_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases() {
        assert_eq!(version("6.18.44-fc-v657"), Some((6, 18)));
        assert_eq!(version("5.15.0-1-amd64"), Some((5, 15)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("linux"), None);
        assert!((5, 4) < FLOOR && (5, 15) >= FLOOR && (6, 0) >= FLOOR);
    }

    #[test]
    fn texts_of_proc() {
        assert_eq!(
            capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            Some(0x1ff_ffff_ffff)
        );
        assert_eq!(capabilities("Name:\tx\n"), None);
        let limits =
            "Max processes   1 2 processes\nMax open files            1024                 20000  files\n";
        assert_eq!(open_files(limits), Some(20_000));
        assert_eq!(open_files("Max open files  1 unlimited files"), Some(u64::MAX));
        assert_eq!(port_range("32768\t60999"), Some(28_232));
        assert_eq!(port_range("x"), None);
    }
}
