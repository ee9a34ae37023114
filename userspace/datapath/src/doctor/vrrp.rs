//! What virtual routers need of the box.

use std::{net::IpAddr, sync::Arc};

use nix::sys::resource::{Resource, getrlimit};
use weir_core::plan::{GroupMac, VrrpGroup};

use super::{Finding, intake::tcx, system};
use crate::vrrp::{self, LinkError};

/// `CAP_*` of linux/capability.h.
const NET_RAW: u32 = 13;
const SYS_NICE: u32 = 23;

/// Looks at what these need. Nothing is said where there are none.
pub(super) fn inspect(groups: &[Arc<VrrpGroup>]) -> Vec<Finding> {
    if groups.is_empty() {
        return Vec::new();
    }
    let mut findings = vec![kernel(), sockets(), real_time()];
    if groups.iter().any(|group| group.mac != GroupMac::Own) {
        findings.push(tcx("link addresses", "those of virtual routers"));
    }
    let shared: Vec<IpAddr> = groups.iter().flat_map(|group| group.addresses()).collect();
    for router in groups.iter().flat_map(|group| &group.routers) {
        let (id, interface) = (router.id, &router.interface);
        let subject = format!("virtual router {id} on {interface}");
        findings.push(
            match vrrp::look_at(interface, router.family(), router.source, &shared) {
                Ok((own, true)) => Finding::ok(subject, format!("adverts come from {own}")),
                Ok((own, false)) => Finding::note(subject, format!("has {own}, but the link is down"))
                    .mend("bring it up: weir takes no part as long as it is down"),
                Err(error @ LinkError::NoInterface(_)) => Finding::problem(subject, error.to_string()),
                Err(error) => {
                    Finding::problem(subject, error.to_string()).mend("weir does not start like this")
                }
            },
        );
    }
    findings
}

fn kernel() -> Finding {
    match vrrp::check_kernel() {
        Ok(()) => Finding::ok("virtual routers", "the kernel remembers whose an address is"),
        Err(error) => Finding::problem("virtual routers", error.to_string()),
    }
}

fn sockets() -> Finding {
    match system::has_capability(NET_RAW) {
        Some(true) => Finding::ok("adverts", "may be sent and received"),
        Some(false) => Finding::problem("adverts", "this process may not open raw sockets")
            .mend("run weir as root, or with CAP_NET_RAW"),
        None => Finding::note(
            "adverts",
            "/proc/self/status does not tell whether they may be sent",
        ),
    }
}

fn real_time() -> Finding {
    const SUBJECT: &str = "real time";
    let share = system::read("/proc/sys/kernel/sched_rt_runtime_us");
    if share.as_deref() == Some("0") {
        return Finding::note(
            SUBJECT,
            "threads in real time get no time here: a busy box gives its addresses away",
        )
        .mend("`sysctl -w kernel.sched_rt_runtime_us=950000`");
    }
    let limit = getrlimit(Resource::RLIMIT_RTPRIO).map_or(0, |(soft, _)| soft);
    match system::has_capability(SYS_NICE) {
        _ if limit >= vrrp::REAL_TIME => Finding::ok(SUBJECT, "the thread of virtual routers may run before all others"),
        Some(true) => Finding::ok(SUBJECT, "the thread of virtual routers may run before all others"),
        Some(false) | None => Finding::note(
            SUBJECT,
            "the thread of virtual routers may not run before all others: a busy box gives its addresses away",
        )
        .mend("CAP_SYS_NICE, or a limit of real-time priority (LimitRTPRIO=40 in the unit, without RestrictRealtime)"),
    }
}
