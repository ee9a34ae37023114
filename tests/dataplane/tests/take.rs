//! What is taken in for addresses that are not on the box: by `weir_take`, at the ingress of an interface.

use anyhow::{Context as _, Result, ensure};
use weir_abi::{
    ListEntry, Note, Reason, Settings, Taken,
    maps::{settings, take},
};
use weir_dataplane_tests::{
    Frame, Kernel,
    frame::{ACK, SYN},
    kernel::{host_prefix, prefix},
};

const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
/// A mark of others' in the bits that are not weir's.
const THEIRS: u32 = 0x0000_0105;

/// The one interface that a new namespace has, and that a packet can be said to come in by.
const LO: u32 = 1;

/// A listener of one range of ports.
fn listener(first: u16, last: u16) -> Taken {
    let mut taken = Taken {
        count: 1,
        ports: [0; take::RANGES],
        sockets: [0; take::RANGES],
        interfaces: [0; take::RANGES],
    };
    taken.ports[0] = u32::from(first) | u32::from(last) << 16;
    taken
}

#[test]
fn what_a_listener_wants_is_marked_and_nothing_else() -> Result<()> {
    let mut kernel = Kernel::load()?;
    for net in ["203.0.113.0/24", "2001:db8:3::/48"] {
        kernel.taken(prefix(net), listener(80, 90))?;
    }
    for own in ["203.0.113.1", "2001:db8:3::1"] {
        let own_address = Taken {
            count: take::OWN,
            ..listener(0, 0)
        };
        kernel.taken(host_prefix(own.parse()?), own_address)?;
    }
    kernel.settings(Settings {
        flags: settings::LISTS,
        ..Settings::default()
    })?;
    let banned = ListEntry { until: 0, flags: 0 };
    kernel.list(prefix("198.51.100.66/32"), banned)?;
    let (v4, v6) = ("198.51.100.7:40000", "[2001:db8:c::7]:40000");
    let cases = [
        ("a SYN", Frame::tcp(v4, "203.0.113.9:80", SYN), true),
        ("the last port", Frame::tcp(v4, "203.0.113.255:90", SYN), true),
        ("IPv6", Frame::tcp(v6, "[2001:db8:3::9]:85", SYN), true),
        ("later packets", Frame::tcp(v4, "203.0.113.9:80", ACK), true),
        ("another port", Frame::tcp(v4, "203.0.113.9:91", SYN), false),
        ("another network", Frame::tcp(v4, "203.0.112.9:80", SYN), false),
        (
            "another network of IPv6",
            Frame::tcp(v6, "[2001:db8:4::9]:85", SYN),
            false,
        ),
        ("the box itself", Frame::tcp(v4, "203.0.113.1:80", SYN), false),
        (
            "the box itself by IPv6",
            Frame::tcp(v6, "[2001:db8:3::1]:80", SYN),
            false,
        ),
        ("UDP", Frame::udp(v4, "203.0.113.9:80"), false),
    ];
    let mut taken = 0;
    for (what, frame, is_taken) in cases {
        let (verdict, mark) = kernel.run_take(&frame.build(), THEIRS, LO).context(what)?;
        let wanted = if is_taken { THEIRS | take::MARK } else { THEIRS };
        ensure!(
            (verdict, mark) == (TC_ACT_UNSPEC, wanted),
            "{what}: {verdict}, {mark:#x}"
        );
        taken += u64::from(is_taken);
        let counted = kernel.counters()?.note(Note::TakenIn);
        ensure!(counted == taken, "{what}: {counted} taken in");
    }
    let frame = Frame::tcp("198.51.100.66:40000", "203.0.113.9:80", SYN);
    let (verdict, mark) = kernel.run_take(&frame.build(), THEIRS, LO)?;
    ensure!((verdict, mark) == (TC_ACT_SHOT, THEIRS), "{verdict}, {mark:#x}");
    let counters = kernel.counters()?;
    ensure!(
        counters.reason(Reason::Banned) == 1 && counters.note(Note::TakenIn) == taken,
        "{counters:?}"
    );
    Ok(())
}

#[test]
fn a_listener_of_one_interface_takes_nothing_in_elsewhere() -> Result<()> {
    let mut kernel = Kernel::load()?;
    for (net, ifindex) in [("203.0.113.0/24", LO), ("203.0.112.0/24", LO + 1)] {
        let mut taken = listener(80, 80);
        taken.interfaces[0] = ifindex;
        kernel.taken(prefix(net), taken)?;
    }
    for (to, wanted) in [
        ("203.0.113.9:80", THEIRS | take::MARK),
        ("203.0.112.9:80", THEIRS),
    ] {
        let frame = Frame::tcp("198.51.100.7:40000", to, SYN).build();
        let (_, mark) = kernel.run_take(&frame, THEIRS, LO)?;
        ensure!(mark == wanted, "{to}: {mark:#x}");
    }
    Ok(())
}
