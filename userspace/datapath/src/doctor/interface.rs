//! Interfaces: whether XDP can attach, what would be lost, who is there already.

use std::io;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::link::{
    InfoKind, InfoPortKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};

use super::{Finding, features};
use crate::sys::ethtool;

/// The largest MTU at which XDP attaches to nearly every driver that wants each frame in one buffer.
const LARGEST_MTU: u32 = 3506;

/// Drivers with native XDP, for kernels that do not say (before 6.3).
const KNOWN: [&str; 24] = [
    "bnxt_en",
    "dpaa2",
    "dpaa2-eth",
    "ena",
    "enetc",
    "fec",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mlx4_en",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "veth",
    "virtio_net",
];

/// What is known of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Link {
    index: u32,
    name: String,
    up: bool,
    mtu: u32,
    program: Option<(XdpAttached, Option<u32>)>,
    /// What the kernel calls its kind: `bond`, `vlan`. None: a card.
    kind: Option<InfoKind>,
    /// It is a port of a bond.
    bonded: bool,
}

pub(super) fn inspect(interfaces: &[String]) -> Vec<Finding> {
    let links = match links() {
        Ok(links) => links,
        Err(e) => return vec![Finding::note("interfaces", format!("cannot be listed: {e}"))],
    };
    let mut findings = Vec::new();
    if interfaces.is_empty() {
        for link in links.iter().filter(|link| link.up && link.name != "lo") {
            findings.extend(look(link));
        }
    }
    for name in interfaces {
        match links.iter().find(|link| link.name == *name) {
            Some(link) => findings.extend(look(link)),
            None => findings.push(
                Finding::problem(format!("interface {name}"), "does not exist")
                    .mend("correct node.interfaces, or create it before weir starts"),
            ),
        }
    }
    findings
}

/// All links of the calling thread's network namespace. Has a thread and a runtime of its own, so that it can be called
/// from anywhere.
fn links() -> io::Result<Vec<Link>> {
    in_a_runtime(|| async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        let task = tokio::spawn(connection);
        let messages: Result<Vec<_>, _> = handle.link().get().execute().try_collect().await;
        task.abort();
        let messages = messages.map_err(|e| io::Error::other(e.to_string()))?;
        Ok(messages.iter().filter_map(link).collect())
    })
}

/// Runs what asks netlink, on a thread with a runtime of its own.
pub(super) fn in_a_runtime<T, F>(ask: impl FnOnce() -> F + Send) -> io::Result<T>
where
    T: Send,
    F: Future<Output = io::Result<T>>,
{
    let list = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(ask())
    };
    // A thread starts in the namespaces of the one that makes it.
    let failed = || io::Error::other("the thread that asks has failed");
    std::thread::scope(|scope| scope.spawn(list).join().unwrap_or_else(|_| Err(failed())))
}

fn link(message: &LinkMessage) -> Option<Link> {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        up,
        mtu: 0,
        program: None,
        kind: None,
        bonded: false,
    };
    for attribute in &message.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            link.name.clone_from(name);
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::Xdp(xdp) = attribute {
            link.program = program(xdp);
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            for info in infos {
                if let LinkInfo::Kind(kind) = info {
                    link.kind = Some(kind.clone());
                } else if let LinkInfo::PortKind(kind) = info {
                    link.bonded = *kind == InfoPortKind::Bond;
                }
            }
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn program(xdp: &[LinkXdp]) -> Option<(XdpAttached, Option<u32>)> {
    let (mut attached, mut id) = (None, None);
    for attribute in xdp {
        if let LinkXdp::Attached(how) = attribute {
            attached = Some(*how);
        } else if let LinkXdp::ProgId(program) = attribute {
            id = Some(*program);
        }
    }
    attached
        .filter(|how| *how != XdpAttached::None)
        .map(|how| (how, id))
}

fn look(link: &Link) -> Vec<Finding> {
    let subject = format!("interface {}", link.name);
    let mut findings = Vec::new();
    let driver = ethtool::driver(&link.name).ok();
    findings.extend(native(link, &subject, driver.as_deref()));
    if !link.up {
        findings.push(
            Finding::note(&subject, "is down: no packet arrives")
                .mend(format!("`ip link set {} up`", link.name)),
        );
    }
    let pieces = features::of(link.index).is_ok_and(|features| features.pieces);
    findings.extend(too_large(link, &subject, pieces));
    findings.extend(bond(link, &subject));
    if let Some((how, id)) = &link.program {
        findings.push(attached(&subject, how, *id));
    }
    match ethtool::offloads(&link.name) {
        Ok(offloads) => findings.extend(offload_findings(
            &link.name,
            &subject,
            driver.as_deref(),
            offloads,
        )),
        Err(e) => findings.push(Finding::note(
            &subject,
            format!("its offloads cannot be seen: {e}"),
        )),
    }
    findings
}

/// Whether native mode works, from the kernel's own word or, failing that, from the driver's name.
fn native(link: &Link, subject: &str, driver: Option<&str>) -> Vec<Finding> {
    let shown = driver.unwrap_or("unknown");
    let none = || {
        Finding::problem(subject, format!("driver {shown} has no native XDP"))
            .mend("node.xdp = \"generic\" (slower, works on every interface)")
    };
    match features::of(link.index) {
        Ok(features) if !features.native => vec![none()],
        Ok(features) => {
            let mut findings = Vec::new();
            if features.redirects {
                findings.push(Finding::ok(subject, format!("driver {shown} has native XDP")));
            } else {
                findings.push(
                    Finding::problem(
                        subject,
                        format!("driver {shown} has native XDP, but cannot send to another interface"),
                    )
                    .mend("node.xdp = \"generic\", or let clients and backends use one interface"),
                );
            }
            if !features.is_target {
                let finding = Finding::note(subject, "takes no frames from another interface's XDP now");
                findings.push(if driver == Some("veth") {
                    finding.mend("its peer must be up with `ethtool -K PEER gro on` (set while it is up), or run XDP itself")
                } else {
                    finding.mend("many drivers do once a program is attached to this interface too, as weir does")
                });
            }
            findings
        }
        Err(e) if e.kind() == io::ErrorKind::Unsupported => match driver {
            Some(driver) if KNOWN.contains(&driver) => vec![Finding::ok(
                subject,
                format!("driver {driver} is known to have native XDP (this kernel does not say itself)"),
            )],
            _ => vec![
                Finding::note(
                    subject,
                    format!("driver {shown} is not known to have native XDP, and this kernel does not say"),
                )
                .mend("if weir cannot attach: node.xdp = \"generic\""),
            ],
        },
        Err(e) => vec![Finding::note(
            subject,
            format!("its XDP features cannot be seen: {e}"),
        )],
    }
}

/// Frames of a large MTU lie in several buffers, which not every driver hands to XDP.
fn too_large(link: &Link, subject: &str, pieces: bool) -> Option<Finding> {
    (link.mtu > LARGEST_MTU && link.name != "lo" && !pieces).then(|| {
        let text = format!(
            "MTU {} is more than fits one buffer, and its driver is not known to hand XDP several: native mode is likely \
             refused",
            link.mtu
        );
        Finding::note(subject, text).mend(format!(
            "an MTU of {LARGEST_MTU} or less, or node.xdp = \"generic\""
        ))
    })
}

/// XDP belongs on a bond, which runs it on all its ports, in the modes that tell a flow's port without the stack.
fn bond(link: &Link, subject: &str) -> Option<Finding> {
    if link.bonded {
        let text = "is a port of a bond: the kernel does not run XDP on both";
        return Some(Finding::note(subject, text).mend("name the bond in node.interfaces, not its ports"));
    }
    (link.kind == Some(InfoKind::Bond)).then(|| {
        Finding::note(
            subject,
            "is a bond: native XDP needs it in every port's driver and one of the bond modes active-backup, balance-rr, \
             balance-xor and 802.3ad (without xmit_hash_policy vlan+srcmac)",
        )
        .mend("`weir doctor PORT...` says what the ports' drivers have; else node.xdp = \"generic\"")
    })
}

/// Another program, or weir's own.
fn attached(subject: &str, how: &XdpAttached, id: Option<u32>) -> Finding {
    let mode = match how {
        XdpAttached::Driver => "native",
        XdpAttached::SocketBuffer => "generic",
        XdpAttached::Hardware => "hardware",
        XdpAttached::Multiple => "several",
        XdpAttached::None | XdpAttached::Other(_) | _ => "unknown",
    };
    let shown = id.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    match id.map(program_name) {
        Some(Ok(name)) if name == weir_abi::names::XDP_PROGRAM => Finding::ok(
            subject,
            format!("weir's own XDP program {shown} is attached ({mode} mode)"),
        ),
        Some(Ok(name)) => Finding::problem(
            subject,
            format!("the XDP program {shown} ({name:?}, {mode} mode) is attached"),
        )
        .mend("one interface takes one program: stop its owner, or `ip link set dev NAME xdp off`"),
        Some(Err(_)) | None => Finding::note(
            subject,
            format!("an XDP program ({shown}, {mode} mode) is attached; whose cannot be seen"),
        )
        .mend("`bpftool prog` as root tells; if it is not weir's, weir cannot attach"),
    }
}

fn program_name(id: u32) -> Result<String, aya::programs::ProgramError> {
    for program in aya::programs::loaded_programs() {
        let program = program?;
        if program.id() == id {
            return Ok(program.name_as_str().unwrap_or_default().to_owned());
        }
    }
    Ok(String::new())
}

fn offload_findings(
    name: &str,
    subject: &str,
    driver: Option<&str>,
    offloads: ethtool::Offloads,
) -> Vec<Finding> {
    let ethtool::Offloads {
        tx_checksum,
        lro,
        rx_vlan,
    } = offloads;
    let mut findings = Vec::new();
    if lro {
        findings.push(
            Finding::note(subject, "LRO is on: many drivers then refuse XDP")
                .mend(format!("`ethtool -K {name} lro off`")),
        );
    }
    if driver == Some("veth") {
        if tx_checksum {
            findings.push(
                Finding::note(
                    subject,
                    "a veth with checksum offload: what this box sends through it has no checksum, and must not be \
                     forwarded by XDP at the other end",
                )
                .mend(format!("`ethtool -K {name} tx off`, on its peer too")),
            );
        }
    } else if rx_vlan {
        findings.push(
            Finding::note(subject, "the card takes VLAN tags off before XDP sees them")
                .mend(format!("if VLANs are used on it: `ethtool -K {name} rxvlan off`")),
        );
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        Link {
            index: 7,
            name: "eth0".into(),
            up: true,
            mtu: 1500,
            program: None,
            kind: None,
            bonded: false,
        }
    }

    #[test]
    fn large_frames_need_a_driver_that_hands_them_over_in_pieces() {
        let large = Link { mtu: 9000, ..link() };
        let text = too_large(&large, "interface eth0", false).unwrap().to_string();
        assert!(text.contains("MTU 9000") && text.contains("3506"), "{text}");
        assert_eq!(too_large(&large, "interface eth0", true), None);
        assert_eq!(too_large(&link(), "interface eth0", false), None);
    }

    #[test]
    fn a_bond_is_named_and_not_its_ports() {
        assert_eq!(bond(&link(), "interface eth0"), None);
        let port = Link {
            bonded: true,
            ..link()
        };
        let text = bond(&port, "interface eth0").unwrap().to_string();
        assert!(text.contains("name the bond in node.interfaces"), "{text}");
        let master = Link {
            kind: Some(InfoKind::Bond),
            ..link()
        };
        let text = bond(&master, "interface bond0").unwrap().to_string();
        assert!(
            text.contains("every port's driver") && text.contains("802.3ad"),
            "{text}"
        );
    }

    #[test]
    fn offloads_that_matter_are_named() {
        let off = ethtool::Offloads {
            tx_checksum: false,
            lro: false,
            rx_vlan: false,
        };
        let run = |driver, offloads| {
            let findings = offload_findings("eth0", "interface eth0", Some(driver), offloads);
            findings
                .into_iter()
                .map(|f| f.mend.unwrap())
                .collect::<Vec<_>>()
                .join(" | ")
        };
        assert_eq!(run("ice", off), "");
        assert!(run("ice", ethtool::Offloads { lro: true, ..off }).contains("lro off"));
        assert!(run("ice", ethtool::Offloads { rx_vlan: true, ..off }).contains("rxvlan off"));
        assert_eq!(run("veth", ethtool::Offloads { rx_vlan: true, ..off }), "");
        assert!(
            run(
                "veth",
                ethtool::Offloads {
                    tx_checksum: true,
                    ..off
                }
            )
            .contains("tx off")
        );
        assert_eq!(
            run(
                "ice",
                ethtool::Offloads {
                    tx_checksum: true,
                    ..off
                }
            ),
            ""
        );
    }
}
