//! Attaching: one XDP link per interface and mode, one sk_lookup link for the network namespace, and one tc link per
//! interface and direction while something needs it, all pinned.
//!
//! A link that is pinned already, by this version or another, gets the new program by an update: packets meet the old or
//! the new one, never none. Only bpf links are made: a netlink attachment could not be told from another program's, and
//! would not go with its pin. The mode is always said outright: native never becomes generic by itself.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use weir_abi::names;
use weir_core::plan::XdpMode;

use crate::{
    error::OpenError,
    pins::{Pins, remove_version},
    sys::{self, LinkTarget},
};

/// `BPF_SK_LOOKUP`, `BPF_XDP`, `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` of `enum bpf_attach_type`.
const ATTACH_SK_LOOKUP: u32 = 36;
const ATTACH_XDP: u32 = 37;
const ATTACH_TCX_INGRESS: u32 = 46;
const ATTACH_TCX_EGRESS: u32 = 47;
/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE`.
const XDP_GENERIC: u32 = 1 << 1;
const XDP_NATIVE: u32 = 1 << 2;
/// Name of the sk_lookup link's pin.
const STEER: &str = "steer";

/// What came of attaching to one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The interface; None: the network namespace (sk_lookup).
    pub interface: Option<String>,
    /// How.
    pub how: How,
}

/// How a program came to its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// Newly attached.
    New,
    /// A pinned link of an earlier process was given the new program, without a gap.
    TakenOver,
}

/// The links of this process. The pins keep them when it ends.
#[derive(Debug, Default)]
pub(crate) struct Links {
    held: Vec<OwnedFd>,
}

/// How XDP attaches, as a word and as a flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Native,
    Generic,
}

impl Mode {
    /// None for [`XdpMode::Off`].
    pub(crate) fn of(mode: XdpMode) -> Option<Self> {
        match mode {
            XdpMode::Native => Some(Self::Native),
            XdpMode::Generic => Some(Self::Generic),
            XdpMode::Off => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn flag(self) -> u32 {
        match self {
            Self::Native => XDP_NATIVE,
            Self::Generic => XDP_GENERIC,
        }
    }
}

/// The programs that are attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Programs<'a> {
    pub(crate) xdp: BorrowedFd<'a>,
    pub(crate) steer: BorrowedFd<'a>,
    /// None: it is not to be attached.
    pub(crate) take: Option<BorrowedFd<'a>>,
    /// At ingress and egress, for link addresses. None: they are not to be attached.
    pub(crate) links: Option<[BorrowedFd<'a>; 2]>,
}

/// The pin's name for an interface.
fn pin_name(mode: Mode, interface: &str) -> String {
    named(&format!("xdp-{}-", mode.as_str()), interface)
}

/// bpffs takes no dot in a name, interfaces (VLANs) often have one.
fn named(kind: &str, interface: &str) -> String {
    let mut name = kind.to_owned();
    for c in interface.chars() {
        match c {
            '.' => name.push_str("%2e"),
            '%' => name.push_str("%25"),
            c => name.push(c),
        }
    }
    name
}

/// Attaches the programs everywhere they belong, takes over what is pinned, detaches what is not wanted any more and
/// removes the directories of other versions once nothing of theirs is needed.
pub(crate) fn attach(
    pins: &Pins,
    interfaces: &[String],
    mode: Mode,
    programs: &Programs<'_>,
) -> Result<(Links, Vec<Attached>), OpenError> {
    let &Programs {
        xdp,
        steer,
        take,
        links: link_addresses,
    } = programs;
    // All names first: a typing error must not leave half the interfaces attached.
    let mut indices = Vec::with_capacity(interfaces.len());
    for name in interfaces {
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|_| OpenError::NoInterface { name: name.clone() })?;
        indices.push((name, index));
    }
    let others = pins.others().map_err(|cause| OpenError::File {
        doing: "cannot list the pins in",
        path: pins.links(),
        cause,
    })?;
    let places: Vec<PathBuf> = std::iter::once(pins.links())
        .chain(others.iter().map(|dir| dir.join("links")))
        .collect();

    let netns = File::open("/proc/thread-self/ns/net").map_err(|cause| OpenError::Steer { cause })?;
    let stat = nix::sys::stat::fstat(&netns).map_err(|e| OpenError::Steer { cause: e.into() })?;
    let netns_inode = stat.st_ino as u32;
    for place in &places {
        require_namespace(place, netns_inode)?;
    }

    let mut links = Links::default();
    let mut done = Vec::new();
    let mut wanted = vec![STEER.to_owned()];
    for &(name, index) in &indices {
        let pin = pin_name(mode, name);
        let other = pin_name(
            if mode == Mode::Native {
                Mode::Generic
            } else {
                Mode::Native
            },
            name,
        );
        // The mode of a link cannot be changed: the old one goes first. The one gap there is.
        for place in &places {
            if detach(&place.join(&other))? {
                tracing::warn!(
                    interface = name,
                    mode = mode.as_str(),
                    "XDP mode changed: attached anew, with a gap"
                );
            }
        }
        let how = match take_over(&places, &pin, index, xdp)? {
            Some(link) => {
                links.held.push(link);
                How::TakenOver
            }
            None => {
                let link = sys::link_create(xdp, LinkTarget::Interface(index), ATTACH_XDP, mode.flag())
                    .map_err(|cause| refused(name, mode, &cause))?;
                pin_link(&link, &pins.links().join(&pin))?;
                links.held.push(link);
                How::New
            }
        };
        tracing::debug!(interface = name, mode = mode.as_str(), how = ?how, "XDP attached");
        done.push(Attached {
            interface: Some(name.clone()),
            how,
        });
        wanted.push(pin);
    }

    let how = match take_over(&places, STEER, netns_inode, steer)? {
        Some(link) => {
            links.held.push(link);
            How::TakenOver
        }
        None => {
            let link = sys::link_create(steer, LinkTarget::Namespace(netns.as_fd()), ATTACH_SK_LOOKUP, 0)
                .map_err(|cause| OpenError::Steer { cause })?;
            pin_link(&link, &pins.links().join(STEER))?;
            links.held.push(link);
            How::New
        }
    };
    done.push(Attached { interface: None, how });

    let [arrive, leave] = match link_addresses {
        Some([arrive, leave]) => [Some(arrive), Some(leave)],
        None => [None, None],
    };
    // The kind of the pin's name; the program's is its own.
    let directions = [
        ("tc-", names::TAKE_PROGRAM, take, ATTACH_TCX_INGRESS),
        ("arrive-", names::ARRIVE_PROGRAM, arrive, ATTACH_TCX_INGRESS),
        ("leave-", names::LEAVE_PROGRAM, leave, ATTACH_TCX_EGRESS),
    ];
    for (kind, program, fd, attach_type) in directions {
        let Some(fd) = fd else { continue };
        for &(name, index) in &indices {
            let pin = named(kind, name);
            let link = match take_over(&places, &pin, index, fd)? {
                Some(link) => link,
                None => {
                    let link = sys::link_create(fd, LinkTarget::Interface(index), attach_type, 0)
                        .map_err(|cause| refused_tc(program, name, cause))?;
                    pin_link(&link, &pins.links().join(&pin))?;
                    tracing::info!(interface = name, program, "tc program attached");
                    link
                }
            };
            links.held.push(link);
            wanted.push(pin);
        }
    }

    drop_unwanted(&pins.links(), &wanted)?;
    for dir in others {
        drop_unwanted(&dir.join("links"), &[])?;
        remove_version(&dir).map_err(file("cannot remove", &dir))?;
        tracing::info!(directory = %dir.display(), "pins of another version removed");
    }
    Ok((links, done))
}

/// The kernel's refusal of a tc link.
fn refused_tc(program: &'static str, interface: &str, cause: io::Error) -> OpenError {
    OpenError::Tc {
        program,
        name: interface.to_owned(),
        mend: match cause.raw_os_error() {
            Some(libc::EINVAL) => "; it takes Linux 6.6 or newer (TCX links)",
            Some(libc::EPERM) => "; weir needs root, or CAP_BPF and CAP_NET_ADMIN",
            _ => "",
        },
        cause,
    }
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |cause| OpenError::File { doing, path, cause }
}

/// Refuses links of another network namespace that is still there: an XDP link tells its interface by a number that
/// means another interface here. The sk_lookup link beside it tells the namespace.
fn require_namespace(place: &Path, ours: u32) -> Result<(), OpenError> {
    let path = place.join(STEER);
    let link = match sys::open_pin(&path) {
        Ok(link) => link,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(file("cannot open the pinned link", &path)(e)),
    };
    let shape = sys::link_shape(&link).map_err(file("cannot inspect the pinned link", &path))?;
    if shape.target == 0 || shape.target == ours {
        Ok(())
    } else {
        Err(OpenError::OtherNamespace {
            path: place.to_owned(),
        })
    }
}

fn pin_link(link: &OwnedFd, path: &Path) -> Result<(), OpenError> {
    sys::pin(link, path).map_err(file("cannot pin a link at", path))
}

/// Gives the new program to a pinned link that still leads to `target`, wherever it is pinned, and pins it in the first
/// place. None if there is none.
fn take_over(
    places: &[PathBuf],
    name: &str,
    target: u32,
    program: BorrowedFd<'_>,
) -> Result<Option<OwnedFd>, OpenError> {
    let mut taken = None;
    for (nth, place) in places.iter().enumerate() {
        let path = place.join(name);
        let link = match sys::open_pin(&path) {
            Ok(link) => link,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(file("cannot open the pinned link", &path)(e)),
        };
        let shape = sys::link_shape(&link).map_err(file("cannot inspect the pinned link", &path))?;
        if taken.is_some() || shape.target != target {
            // A second one, or one whose interface or namespace is gone or was made anew.
            fs::remove_file(&path).map_err(file("cannot remove", &path))?;
            continue;
        }
        sys::link_update(&link, program).map_err(file("cannot replace the program of", &path))?;
        if let (true, Some(own)) = (nth > 0, places.first()) {
            let own = own.join(name);
            pin_link(&link, &own)?;
            fs::remove_file(&path).map_err(file("cannot remove", &path))?;
        }
        taken = Some(link);
    }
    Ok(taken)
}

/// Detaches and unpins a link. False if there is none.
fn detach(path: &Path) -> Result<bool, OpenError> {
    let link = match sys::open_pin(path) {
        Ok(link) => link,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(file("cannot open the pinned link", path)(e)),
    };
    // A link whose interface is gone is detached already.
    if let Err(e) = sys::link_detach(&link) {
        tracing::debug!(link = %path.display(), error = %e, "link could not be detached");
    }
    fs::remove_file(path).map_err(file("cannot remove", path))?;
    Ok(true)
}

/// Detaches all links in a directory but those named.
pub(crate) fn drop_unwanted(dir: &Path, wanted: &[String]) -> Result<(), OpenError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(file("cannot list", dir)(e)),
    };
    for entry in entries {
        let path = entry.map_err(file("cannot list", dir))?.path();
        let is_wanted = wanted
            .iter()
            .any(|name| path.file_name() == Some(OsStr::new(name)));
        if !is_wanted && detach(&path)? {
            tracing::info!(link = %path.display(), "link detached");
        }
    }
    Ok(())
}

/// The kernel's refusal in an operator's words.
fn refused(interface: &str, mode: Mode, cause: &io::Error) -> OpenError {
    let generic = "set node.xdp = \"generic\" (slower, works on every interface)";
    let (cause, mend) = match (cause.raw_os_error(), mode) {
        (Some(libc::EOPNOTSUPP), Mode::Native) => {
            (
                "its driver has no XDP (a bond: that of one of its ports, or the bond's mode)".to_owned(),
                format!("{generic}, or use an interface whose driver has it"),
            )
        }
        (Some(libc::ERANGE), Mode::Native) => (
            "its MTU is more than fits one buffer, and its driver hands XDP no frames in several".to_owned(),
            format!("lower the MTU (3506 fits nearly everywhere), or {generic}"),
        ),
        (Some(libc::ENOSPC), Mode::Native) => (
            "it has too few queues for XDP (a veth: its peer has more transmit queues than it has receive queues)"
                .to_owned(),
            format!("give both ends as many queues, or {generic}"),
        ),
        (Some(libc::EBUSY), _) => (
            "another XDP program is attached to it".to_owned(),
            "`ip link show` names it; detach it with `ip link set dev NAME xdp off` or stop its owner".to_owned(),
        ),
        (Some(libc::EEXIST), _) => (
            "another XDP program is attached to it in the other mode, or to the bond that it is a port of".to_owned(),
            "`ip link show` names it; detach it, or set node.xdp to that mode; name the bond in node.interfaces, not its \
             ports"
                .to_owned(),
        ),
        (Some(libc::EPERM), _) => (
            "not permitted".to_owned(),
            "weir needs root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON; or set node.xdp = \"off\"".to_owned(),
        ),
        (Some(libc::EINVAL), Mode::Native) => (
            format!("{cause} (a driver refuses so when an offload such as LRO is on)"),
            format!("`dmesg` may say why; switch LRO off with `ethtool -K {interface} lro off`, or {generic}"),
        ),
        _ => (cause.to_string(), "`dmesg` may say why".to_owned()),
    };
    OpenError::Attach {
        name: interface.to_owned(),
        mode: mode.as_str(),
        cause,
        mend,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pin_names_have_no_dot_and_stay_apart() {
        assert_eq!(pin_name(Mode::Native, "eth0"), "xdp-native-eth0");
        assert_eq!(pin_name(Mode::Generic, "eth0.100"), "xdp-generic-eth0%2e100");
        assert_ne!(pin_name(Mode::Native, "a.b"), pin_name(Mode::Native, "a%2eb"));
    }

    #[test]
    fn refusals_name_interface_mode_cause_and_mend() {
        let cases = [
            (
                libc::EOPNOTSUPP,
                Mode::Native,
                "its driver has no XDP",
                "xdp = \"generic\"",
            ),
            (libc::ERANGE, Mode::Native, "its MTU is more", "3506"),
            (
                libc::EBUSY,
                Mode::Native,
                "another XDP program",
                "ip link set dev NAME xdp off",
            ),
            (libc::EEXIST, Mode::Generic, "in the other mode", "that mode"),
            (libc::ENOSPC, Mode::Native, "too few queues", "as many queues"),
            (libc::EPERM, Mode::Generic, "not permitted", "CAP_NET_ADMIN"),
            (libc::EIO, Mode::Generic, "nput/output error", "dmesg"),
        ];
        for (errno, mode, cause, mend) in cases {
            let text = refused("eth7", mode, &io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.contains("eth7") && text.contains(mode.as_str()), "{text}");
            assert!(text.contains(cause) && text.contains(mend), "{text}");
        }
    }
}
