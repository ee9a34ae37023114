//! Virtual routers against keepalived, over both families, to the group and to a peer, and against one another.
//!
//! The box is on the left of a wire, the other on the right.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test waits for one report of many"
)]
mod faults;

use std::{
    fs,
    net::IpAddr,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use weir_core::vrrp::{
    Centis, Family, Vrid,
    accept::{Refused, V2},
    auth::{Keys, Mode, Sequence, Unsigned},
    machine::{Announce, Cause, Change, Config, Preempt, Router, RouterKey, State},
    wire::{Checksum, Malformed},
};
use weir_datapath::{
    vips::VipError,
    vrrp::{
        Addresses, Driver, Elsewhere, Group, Hands, Held, Link, LinkError, Report, Reported, Signing,
        Virtual, leases::LeaseError,
    },
};

use crate::lab::{DEADLINE, Space, wait_for, wire};

const VRID: u8 = 51;

/// A way in which the two may talk.
#[derive(Clone, Copy, Debug)]
struct Kind {
    own: &'static str,
    other: &'static str,
    vip: &'static str,
    is_unicast: bool,
}

/// keepalived 2.2.7 sends to peers over IPv6 with a hop limit of 64, so that is not among them.
const KINDS: [Kind; 3] = [
    Kind {
        own: "192.0.2.1",
        other: "192.0.2.2",
        vip: "192.0.2.10",
        is_unicast: false,
    },
    Kind {
        own: "192.0.2.1",
        other: "192.0.2.2",
        vip: "192.0.2.10",
        is_unicast: true,
    },
    Kind {
        own: "fe80::1",
        other: "fe80::2",
        vip: "fe80::10",
        is_unicast: false,
    },
];

const UNICAST_V6: Kind = Kind {
    is_unicast: true,
    ..KINDS[2]
};

impl Kind {
    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn family(self) -> Family {
        Family::of(Self::ip(self.own))
    }

    fn held(self, interface: &str) -> Held {
        Held {
            interface: interface.to_owned(),
            address: Self::ip(self.vip),
            prefix: self.prefix(),
            mac: None,
        }
    }

    fn prefix(self) -> u8 {
        match self.family() {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// The two, on a wire.
struct Pair {
    left: Space,
    right: Space,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            left: Space::new(),
            right: Space::new(),
        };
        pair.connect();
        pair
    }

    fn connect(&self) {
        wire(&self.left, "left", &self.right, "right");
        for (space, name, number) in [(&self.left, "left", 1), (&self.right, "right", 2)] {
            space.ip(&format!(
                "addr flush dev {name}
                 addr add 192.0.2.{number}/24 dev {name}
                 addr add fe80::{number}/64 dev {name} nodad"
            ));
        }
    }

    fn has(&self, space: &Space, vip: &str) -> bool {
        space.output("ip -o addr").contains(&format!(" {vip}/"))
    }

    /// Starts the box's thread on the left, with that priority, every 100 ms.
    fn weir(&self, kind: Kind, priority: u8) -> Weir {
        start(&self.left, "left", kind, priority, 10, None)
    }
}

fn start(space: &Space, interface: &str, kind: Kind, priority: u8, centis: u16, key: Option<u8>) -> Weir {
    start_by(Arc::default(), space, interface, kind, priority, centis, key)
}

fn start_by(
    will: Arc<Will>,
    space: &Space,
    interface: &str,
    kind: Kind,
    priority: u8,
    centis: u16,
    key: Option<u8>,
) -> Weir {
    space.run(move || {
        let link = Link::open(interface, kind.family(), Some(Kind::ip(kind.own)), &[]).unwrap();
        let group = group(interface, kind, priority, centis, key, Some(link));
        let (sender, reports) = channel();
        let hands = InKernel {
            addresses: Addresses::new().unwrap(),
            will,
        };
        let reports_to = move |report| drop(sender.send(report));
        let driver = Driver::start(vec![group], hands, reports_to).unwrap();
        Weir { driver, reports }
    })
}

/// A group of one router. Without a link: the one that it has.
fn group(
    interface: &str,
    kind: Kind,
    priority: u8,
    centis: u16,
    key: Option<u8>,
    link: Option<Link>,
) -> Group {
    let router = RouterKey {
        interface: interface.into(),
        vrid: Vrid::new(VRID).unwrap(),
        family: kind.family(),
    };
    Group {
        id: 0,
        config: Config {
            routers: vec![Router {
                key: router,
                own: Kind::ip(kind.own),
            }],
            priority,
            interval: Centis::new(centis).unwrap(),
            preempt: Preempt::Always,
            lease: Duration::from_millis(100),
            announce: Announce {
                count: 3,
                spacing: Duration::from_millis(20),
                refresh: None,
            },
        },
        routers: vec![Virtual {
            link,
            addresses: vec![Kind::ip(kind.vip)],
            peers: if kind.is_unicast {
                vec![Kind::ip(kind.other)]
            } else {
                Vec::new()
            },
            checksum: Checksum::Rfc5798,
            v2: V2::Refused,
            mac: None,
            is_router: false,
        }],
        held: vec![kind.held(interface)],
        keeps: false,
        signing: key.map(|key| Signing {
            keys: Box::new(Sum),
            key,
            mode: Mode::Enforce,
            sequence: Sequence::new(0, None),
        }),
        demotion: 0,
        last_sent: None,
        counts: Arc::default(),
    }
}

/// Signs by adding up: enough to tell keys apart. Key 9 is not known.
struct Sum;

impl Keys for Sum {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; 32]> {
        let sum = parts
            .concat()
            .iter()
            .fold(key, |sum, byte| sum.rotate_left(1) ^ byte);
        (key != 9).then_some([sum; 32])
    }
}

/// What becomes of the hands.
#[derive(Default)]
struct Will {
    /// There is no room for leases.
    refuses: AtomicBool,
    /// They die with the next lease.
    panics: AtomicBool,
}

/// Takes and gives in the kernel.
struct InKernel {
    addresses: Addresses,
    will: Arc<Will>,
}

impl Hands for InKernel {
    fn own(&mut self, _group: usize, _held: &[Held]) -> Result<(), LeaseError> {
        match self.will.refuses.load(Ordering::Relaxed) {
            true => Err(LeaseError::Full),
            false => Ok(()),
        }
    }

    fn lease(&mut self, _group: usize, _until: Option<Instant>) {
        assert!(!self.will.panics.load(Ordering::Relaxed), "as the test wants it");
    }

    fn elsewhere(&mut self, _group: usize, _until: Elsewhere) {}

    fn take(&mut self, _group: usize, held: &[Held]) -> Result<(), VipError> {
        self.addresses.take(held)
    }

    fn give(&mut self, _group: usize, held: &[Held]) -> Result<(), VipError> {
        self.addresses.give(held)
    }

    fn remember(&mut self, _group: usize, _last_sent: Option<Instant>, _sequence: u64) {}
}

struct Weir {
    driver: Driver,
    reports: Receiver<Report>,
}

impl Weir {
    /// What is reported next, of that kind; others are passed over.
    fn next<T>(&self, what: &str, pick: impl Fn(Reported) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let report = self.reports.recv_timeout(left);
            let report = report.unwrap_or_else(|_| panic!("waited in vain for {what}"));
            if let Some(found) = pick(report.what) {
                return found;
            }
        }
    }

    fn change(&self, to: State) -> Change {
        self.next(to.as_str(), |what| match what {
            Reported::Changed(change) if change.to == to => Some(change),
            _ => None,
        })
    }
}

struct Keepalived {
    child: Child,
    _files: tempfile::TempDir,
}

impl Keepalived {
    fn start(pair: &Pair, kind: Kind, priority: u8) -> Self {
        let files = tempfile::tempdir().unwrap();
        let unicast = if kind.is_unicast {
            format!(
                "unicast_src_ip {}\n unicast_peer {{\n {}\n }}",
                kind.other, kind.own
            )
        } else {
            String::new()
        };
        let text = format!(
            "global_defs {{\n vrrp_version 3\n vrrp_garp_master_delay 0\n}}
             vrrp_instance edge {{
               interface right
               virtual_router_id {VRID}
               priority {priority}
               advert_int 0.1
               {unicast}
               virtual_ipaddress {{\n {}/{}\n }}
             }}",
            kind.vip,
            kind.prefix()
        );
        let path = |name: &str| files.path().join(name);
        fs::write(path("conf"), text).unwrap();
        let child = pair.right.run(|| {
            Command::new("keepalived")
                .args(["--dont-fork", "--vrrp", "--log-console", "--log-detail"])
                .arg("--use-file")
                .arg(path("conf"))
                .arg("--pid")
                .arg(path("pid"))
                .arg("--vrrp_pid")
                .arg(path("vrrp.pid"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("keepalived cannot be started ({error}): install keepalived"))
        });
        Self { child, _files: files }
    }

    /// It says that it leaves.
    fn stop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

#[test]
fn keepalived_is_relieved_takes_over_from_the_demoted_and_leaves() {
    for kind in KINDS {
        let pair = Pair::new();
        let mut keepalived = Keepalived::start(&pair, kind, 100);
        wait_for("keepalived as master", || {
            pair.has(&pair.right, kind.vip).then_some(())
        });

        // Preferred more: it relieves a master that lives.
        let weir = pair.weir(kind, 200);
        let change = weir.change(State::Master);
        let other = Kind::ip(kind.other);
        let cause = Cause::Preempts {
            source: other,
            priority: 100,
        };
        assert_eq!(change.cause, cause, "{kind:?}");
        assert!(pair.has(&pair.left, kind.vip));
        wait_for("keepalived as backup", || {
            (!pair.has(&pair.right, kind.vip)).then_some(())
        });

        // Demoted, it answers until the other is there.
        weir.driver.demote(0, 128);
        let change = weir.change(State::Backup);
        let cause = Cause::Better {
            source: other,
            priority: 100,
        };
        assert_eq!(change.cause, cause, "{kind:?}");
        wait_for("keepalived as master again", || {
            pair.has(&pair.right, kind.vip).then_some(())
        });
        assert!(!pair.has(&pair.left, kind.vip));

        // It says that it leaves: nobody waits for three intervals.
        keepalived.stop();
        let change = weir.change(State::Master);
        assert_eq!(change.cause, Cause::Left(other), "{kind:?}");

        // And the same the other way round.
        let keepalived = Keepalived::start(&pair, kind, 100);
        weir.change(State::Backup);
        drop(weir);
        assert!(!pair.has(&pair.left, kind.vip));
        wait_for("keepalived as master at last", || {
            pair.has(&pair.right, kind.vip).then_some(())
        });
        drop(keepalived);
    }
}

#[test]
fn adverts_that_may_come_from_elsewhere_are_refused() {
    let pair = Pair::new();
    let _keepalived = Keepalived::start(&pair, UNICAST_V6, 250);
    wait_for("keepalived as master", || {
        pair.has(&pair.right, UNICAST_V6.vip).then_some(())
    });
    let weir = pair.weir(UNICAST_V6, 100);
    let reason = weir.next("a refusal", |what| match what {
        Reported::Refused { reason, .. } => Some(reason),
        _ => None,
    });
    assert_eq!(reason, Refused::Malformed(Malformed::Hops));
    assert_eq!(weir.change(State::Master).cause, Cause::Silence);
}

#[test]
fn two_of_weir_sign_and_change_places_within_milliseconds() {
    for kind in [KINDS[0], UNICAST_V6] {
        let pair = Pair::new();
        let mirrored = Kind {
            own: kind.other,
            other: kind.own,
            ..kind
        };
        let left = start(&pair.left, "left", kind, 100, 1, Some(1));
        left.change(State::Master);
        // Another key of the same set, and of a higher priority: it is let in.
        let right = start(&pair.right, "right", mirrored, 200, 1, Some(2));
        let preempts = right.change(State::Master);
        let source = Kind::ip(kind.own);
        assert_eq!(
            preempts.cause,
            Cause::Preempts {
                source,
                priority: 100
            },
            "{kind:?}"
        );
        assert!(matches!(
            left.change(State::Backup).cause,
            Cause::Better { priority: 200, .. }
        ));
        drop(right);
        assert!(
            matches!(left.change(State::Master).cause, Cause::Left(_)),
            "{kind:?}"
        );

        // Who has no key, or none that is known, deposes nobody.
        let stranger = start(&pair.right, "right", mirrored, 250, 1, None);
        let reason = left.next("a refusal", |what| match what {
            Reported::Refused { reason, .. } => Some(reason),
            Reported::Changed(change) => panic!("{change:?}"),
            _ => None,
        });
        assert_eq!(reason, Refused::Unsigned(Unsigned::Missing), "{kind:?}");
        drop(stranger);
    }
}

/// As backup of a living master it stays backup; what it is sent in the name of others changes nothing.
#[test]
fn a_preferred_keepalived_stays_and_strangers_change_nothing() {
    let kind = KINDS[0];
    let pair = Pair::new();
    let _keepalived = Keepalived::start(&pair, kind, 150);
    wait_for("keepalived as master", || {
        pair.has(&pair.right, kind.vip).then_some(())
    });
    let weir = pair.weir(kind, 100);
    assert_eq!(weir.change(State::Backup).cause, Cause::Started);
    // It hears the master, whose checksum is of the other kind than RFC 9568's: as it was told to make its own.
    let forged = |payload: &'static [u8], hops: u32| {
        pair.right.run(|| {
            let link = socket2::Socket::new(
                socket2::Domain::IPV4,
                socket2::Type::RAW,
                Some(socket2::Protocol::from(112)),
            )
            .unwrap();
            link.set_multicast_ttl_v4(hops).unwrap();
            link.set_multicast_if_v4(&"192.0.2.2".parse().unwrap()).unwrap();
            let to: std::net::SocketAddr = "224.0.0.18:0".parse().unwrap();
            link.send_to(payload, &to.into()).unwrap();
        });
    };
    let leaves: &[u8] = &[0x31, VRID, 0, 1, 0, 10, 0xf4, 0xb6 + 0x10, 192, 0, 2, 10];
    for (payload, hops, reason) in [
        (leaves, 254, Refused::Malformed(Malformed::Hops)),
        (leaves, 255, Refused::Malformed(Malformed::Checksum)),
        (&leaves[..9], 255, Refused::Malformed(Malformed::Short)),
    ] {
        forged(payload, hops);
        let found = weir.next(reason.name(), |what| match what {
            Reported::Refused { reason, source } => Some((reason, source)),
            Reported::Changed(change) => panic!("{change:?}"),
            _ => None,
        });
        assert_eq!(found, (reason, Some(Kind::ip("192.0.2.2"))));
    }
}

/// What another decoder reads: no malformed field, and the checksum is good (1).
#[test]
fn tshark_reads_what_is_sent() {
    for kind in [KINDS[0], KINDS[1], KINDS[2], UNICAST_V6] {
        let pair = Pair::new();
        let weir = pair.weir(kind, 123);
        weir.change(State::Master);
        let read = pair.right.run(|| {
            let mut tshark = Command::new("tshark");
            tshark.args([
                "-i",
                "right",
                "-f",
                "ip proto 112 or ip6 proto 112",
                "-c",
                "5",
                "-n",
            ]);
            tshark.args(["-T", "fields", "-E", "separator=,"]);
            let fields = [
                "ip.ttl",
                "ipv6.hlim",
                "vrrp.version",
                "vrrp.type",
                "vrrp.virt_rtr_id",
                "vrrp.prio",
                "vrrp.addr_count",
                "vrrp.short_adver_int",
                "vrrp.checksum.status",
                "_ws.malformed",
            ];
            for field in fields {
                tshark.args(["-e", field]);
            }
            let done = tshark.output();
            done.unwrap_or_else(|error| panic!("tshark cannot be started ({error}): install tshark"))
        });
        let text = String::from_utf8(read.stdout).unwrap();
        let hops = match kind.family() {
            Family::V4 => "255,",
            Family::V6 => ",255",
        };
        let expected = format!("{hops},3,1,51,123,1,10,1,");
        assert_eq!(text.lines().collect::<Vec<_>>(), [&*expected; 5], "{kind:?}");
    }
}

/// A link that cannot be used takes its group out; it, or another one of its name, takes it in again.
#[test]
fn a_link_that_goes_and_comes_back() {
    let kind = KINDS[0];
    let pair = Pair::new();
    let weir = pair.weir(kind, 100);
    weir.change(State::Master);
    let goes_and_comes = |goes: &dyn Fn(), comes: &dyn Fn()| {
        goes();
        let cause = weir.change(State::Init).cause;
        assert!(matches!(cause, Cause::Fault(_)), "{cause:?}");
        comes();
        weir.change(State::Backup);
        weir.change(State::Master);
        assert!(pair.has(&pair.left, kind.vip));
    };
    let left = |command: &'static str| {
        let space = &pair.left;
        move || space.ip(command)
    };
    goes_and_comes(&left("link set left down"), &left("link set left up"));
    goes_and_comes(
        &left("addr del 192.0.2.1/24 dev left"),
        &left("addr add 192.0.2.1/24 dev left"),
    );
    goes_and_comes(&left("link del left"), &|| pair.connect());
}

/// A master stays it whatever its configuration becomes; what it has no more goes, what is new comes, and what somebody takes
/// away is back. A group that is gone leaves nothing.
#[test]
fn another_configuration_moves_nothing_but_addresses() {
    let kind = KINDS[0];
    let other = Kind {
        vip: "192.0.2.11",
        ..kind
    };
    let pair = Pair::new();
    let weir = pair.weir(kind, 100);
    weir.change(State::Master);
    let configure = |groups: Vec<Group>| weir.driver.configure(groups).blocking_recv().unwrap();
    let sees = || weir.driver.look().blocking_recv().unwrap();
    let since = sees()[0].since;

    configure(vec![group("left", other, 150, 5, None, None)]);
    assert!(pair.has(&pair.left, other.vip) && !pair.has(&pair.left, kind.vip));
    let [seen] = sees().try_into().unwrap();
    assert_eq!(
        (seen.state, seen.since, seen.priority),
        (State::Master, since, 150)
    );
    assert_eq!(seen.routers, [(true, Kind::ip(kind.own))]);
    assert!(seen.lease.is_some());

    // It is not told of a change, and adverts go on by the new configuration.
    pair.left.ip("addr del 192.0.2.11/32 dev left");
    wait_for("the address back", || {
        pair.has(&pair.left, other.vip).then_some(())
    });
    let peer = start(
        &pair.right,
        "right",
        Kind {
            own: kind.other,
            other: kind.own,
            ..other
        },
        100,
        5,
        None,
    );
    peer.change(State::Backup);
    wait_for("the master heard", || {
        let seen = peer.driver.look().blocking_recv().unwrap();
        (seen[0].heard == Some((Kind::ip(kind.own), 150))).then_some(())
    });

    // A group that is no more says that it leaves.
    configure(Vec::new());
    assert_eq!(sees(), []);
    assert!(!pair.has(&pair.left, other.vip));
    assert!(matches!(peer.change(State::Master).cause, Cause::Left(_)));
}

/// What a process has left that was killed goes with the next one that does not want it.
#[test]
fn what_is_left_of_others_goes() {
    let pair = Pair::new();
    let held = |address: &str, prefix| Held {
        interface: "left".into(),
        address: address.parse().unwrap(),
        prefix,
        mac: None,
    };
    let before = pair.left.output("ip -o addr");
    let (kept, left) = (held("192.0.2.10", 24), held("fe80::10", 64));
    pair.left.run(|| {
        let addresses = Addresses::new().unwrap();
        addresses.take(&[kept.clone(), left.clone()]).unwrap();
        addresses.give_others(std::slice::from_ref(&kept)).unwrap();
    });
    let shown = pair.left.output("ip -o addr");
    assert!(
        shown.contains(" 192.0.2.10/24 ") && !shown.contains(" fe80::10/"),
        "{shown}"
    );
    pair.left
        .run(|| Addresses::new().unwrap().give_others(&[]).unwrap());
    assert_eq!(pair.left.output("ip -o addr"), before);
}

#[test]
fn links_that_cannot_be_used_say_why() {
    let pair = Pair::new();
    let open = |name: &str, family, own| {
        pair.left.run(|| {
            Link::open(name, family, own, &[])
                .map(drop)
                .unwrap_err()
                .to_string()
        })
    };
    assert_eq!(
        open("nothing", Family::V4, None),
        "interface \"nothing\" does not exist in this network namespace; create it, or correct the name"
    );
    let other = Some(Kind::ip("192.0.2.77"));
    assert_eq!(
        open("left", Family::V4, other),
        "interface \"left\" does not have the address 192.0.2.77, from which adverts are to be sent"
    );
    pair.left.ip("-6 addr flush dev left");
    let error = pair
        .left
        .run(|| Link::open("left", Family::V6, None, &[]).map(drop).unwrap_err());
    assert!(matches!(error, LinkError::NoAddress { .. }));
    assert_eq!(
        error.to_string(),
        "interface \"left\" has no link-local IPv6 address to send adverts from; give it one, or name the source"
    );
}

#[test]
fn addresses_are_taken_and_given_and_those_of_others_left_alone() {
    let pair = Pair::new();
    let held = |address: &str, prefix| Held {
        interface: "left".into(),
        address: address.parse().unwrap(),
        prefix,
        mac: None,
    };
    let ours = [
        held("192.0.2.10", 24),
        held("fe80::10", 64),
        held("192.0.2.99", 32),
    ];
    pair.left.ip("addr add 192.0.2.99/32 dev left");
    let before = pair.left.output("ip -o addr");
    pair.left.run(|| {
        let addresses = Addresses::new().unwrap();
        addresses.take(&ours).unwrap();
        addresses.take(&ours).unwrap();
    });
    let taken = pair.left.output("ip -o addr");
    assert!(
        taken.contains(" 192.0.2.10/24 ") && taken.contains(" fe80::10/64 "),
        "{taken}"
    );
    assert!(!taken.contains("tentative"), "{taken}");
    // Another process knows them again, and leaves the operator's own.
    pair.left.run(|| {
        let addresses = Addresses::new().unwrap();
        addresses.give(&ours).unwrap();
        addresses.give(&ours).unwrap();
    });
    assert_eq!(pair.left.output("ip -o addr"), before);
    let gone = [
        held("192.0.2.10", 32),
        Held {
            interface: "nothing".into(),
            ..held("192.0.2.11", 32)
        },
    ];
    let (taken, given) = pair.left.run(|| {
        let addresses = Addresses::new().unwrap();
        (addresses.take(&gone), addresses.give(&gone))
    });
    assert_eq!(
        taken.unwrap_err().to_string(),
        "interface \"nothing\" of a virtual router does not exist in this network namespace; create it first"
    );
    given.unwrap();
    assert_eq!(pair.left.output("ip -o addr"), before);
}
