//! What is measured: frames, the way each must go, and what the project asks of it.

use anyhow::Result;
use weir_abi::{FlowKey, NatFlow, NatReply, Reason, maps::nat, names};
use weir_dataplane_tests::{
    Frame, Kernel, World,
    floor::Spread,
    frame::{ACK, SYN},
    kernel::flow_key,
    lab,
    world::{TCP, UDP, addr},
};

use crate::steady::Kind;
use crate::world::{self, CLIENT, NOBODY, VIP, backend_with_port, port};

/// Numbers of flows: one, a thousand, half a million.
const FLOWS: [u32; 3] = [1, 1 << 10, 1 << 19];

/// One line of the table.
pub(crate) struct Case {
    /// The mode, and what is switched on.
    pub(crate) mode: &'static str,
    /// `IPv4`, or for `ipip` inner and outer.
    pub(crate) family: &'static str,
    /// What packet.
    pub(crate) packet: &'static str,
    /// Flows that take turns.
    pub(crate) flows: u32,
    /// The packet.
    pub(crate) frame: Frame,
    /// How it must end.
    pub(crate) reason: Reason,
    /// Every run must record a flow.
    pub(crate) records: bool,
    /// The frame comes back longer.
    pub(crate) resizes: bool,
    /// At most this many nanoseconds, net.
    pub(crate) target: Option<f64>,
    /// At most this many more than the same case without protection.
    pub(crate) extra_target: Option<f64>,
    /// Fills tables for it.
    pub(crate) prepare: fn(&mut Kernel, &Self) -> Result<()>,
}

/// Cases that share a loaded object.
pub(crate) struct Group {
    pub(crate) world: fn() -> World,
    pub(crate) cases: Vec<Case>,
}

impl Case {
    fn new(mode: &'static str, packet: &'static str, flows: u32, frame: Frame, reason: Reason) -> Self {
        Self {
            mode,
            family: if frame.src.is_ipv4() { "IPv4" } else { "IPv6" },
            packet,
            flows,
            // Long enough for all headers to be written anew.
            frame: frame.with(|f| f.payload.resize(64, 0)),
            reason,
            records: false,
            resizes: false,
            target: None,
            extra_target: None,
            prepare: |_, _| Ok(()),
        }
    }

    /// For people.
    pub(crate) fn name(&self) -> String {
        let flows = match self.flows {
            1 => "1 flow".to_owned(),
            n if n < 1 << 19 => format!("{n} flows"),
            n => format!("{}k flows", n >> 10),
        };
        format!("{} {} {}, {flows}", self.mode, self.family, self.packet)
    }

    /// Whether the client is the frame's destination.
    fn is_reply(&self) -> bool {
        self.packet == REPLY
    }

    /// What its floor depends on.
    pub(crate) fn kind(&self) -> Kind {
        Kind {
            v4: self.frame.src.is_ipv4(),
            flows: self.flows,
            resizes: self.resizes,
        }
    }

    /// How flows vary.
    pub(crate) fn spread(&self) -> Option<Spread> {
        let (source_at, destination_at, ports_at) = match self.frame.src.is_ipv4() {
            true => (26, 30, 34),
            false => (34, 50, 54),
        };
        (self.flows > 1).then_some(Spread {
            ports_at,
            address_at: if self.is_reply() {
                destination_at
            } else {
                source_at
            },
            reply: self.is_reply(),
            flows: self.flows,
        })
    }
}

const TCP_PACKET: &str = "TCP";
const UDP_PACKET: &str = "UDP";
const SYN_PACKET: &str = "SYN, recorded";
const REPLY: &str = "TCP reply";

/// A mode's targets for established TCP over IPv4: up to 1 000 flows, and 500 000. UDP and IPv6 may cost 15 % more.
fn target(of: Option<[f64; 2]>, flows: u32, plain: bool) -> Option<f64> {
    let [few, many] = of?;
    let target = if flows <= 1 << 10 { few } else { many };
    Some(if plain { target } else { target * 1.15 })
}

/// A way of forwarding, as it is measured.
struct Mode {
    name: &'static str,
    port: u16,
    reason: Reason,
    targets: Option<[f64; 2]>,
    /// Inner and outer family, where a header is put around.
    families: Option<[&'static str; 2]>,
}

const MODES: [Mode; 5] = [
    Mode {
        name: "nat",
        port: port::NAT,
        reason: Reason::ForwardNat,
        targets: Some([90.0, 130.0]),
        families: None,
    },
    Mode {
        name: "dsr",
        port: port::DSR,
        reason: Reason::ForwardDsr,
        targets: Some([70.0, 100.0]),
        families: None,
    },
    Mode {
        name: "ipip",
        port: port::IPIP,
        reason: Reason::ForwardIpip,
        targets: Some([70.0, 100.0]),
        families: Some(["4 in 4", "6 in 6"]),
    },
    Mode {
        name: "ipip",
        port: port::IPIP_CROSS,
        reason: Reason::ForwardIpip,
        targets: Some([70.0, 100.0]),
        families: Some(["4 in 6", "6 in 4"]),
    },
    Mode {
        name: "full-nat",
        port: port::FULL_NAT,
        reason: Reason::ForwardFullNat,
        targets: None,
        families: None,
    },
];

/// The cases of one mode in one family.
fn of_mode(mode: &Mode, family: usize) -> Vec<Case> {
    let vip = format!("{}:{}", VIP[family], mode.port);
    let mut cases = Vec::new();
    for (packet, frame) in [
        (TCP_PACKET, Frame::tcp(CLIENT[family], &vip, ACK)),
        (UDP_PACKET, Frame::udp(CLIENT[family], &vip)),
        (SYN_PACKET, Frame::tcp(CLIENT[family], &vip, SYN)),
    ] {
        for flows in FLOWS {
            let mut case = Case::new(mode.name, packet, flows, frame.clone(), mode.reason);
            case.resizes = mode.families.is_some();
            if let Some(families) = mode.families {
                case.family = families[family];
            }
            if packet == SYN_PACKET {
                case.records = mode.reason != Reason::ForwardFullNat;
                case.target = (flows == 1 << 10 && case.records).then_some(250.0);
            } else {
                case.target = target(mode.targets, flows, family == 0 && packet == TCP_PACKET);
            }
            if mode.reason == Reason::ForwardFullNat {
                case.prepare = full_nat_flows;
            }
            cases.push(case);
        }
    }
    cases
}

/// Replies, and packets that are not for this box.
fn others(family: usize) -> Vec<Case> {
    let mut cases = Vec::new();
    for flows in FLOWS {
        let reply = Frame::tcp(&backend_with_port(family, 1), CLIENT[family], ACK);
        cases.push(Case::new("nat", REPLY, flows, reply, Reason::ReturnNat));
    }
    for flows in FLOWS {
        let reply = Frame::tcp(&backend_with_port(family, 1), NAT_SOURCE[family], ACK);
        cases.push(Case {
            prepare: full_nat_flows,
            ..Case::new("full-nat", REPLY, flows, reply, Reason::ReturnFullNat)
        });
    }
    for flows in FLOWS {
        let nobody = Frame::tcp(CLIENT[family], &format!("{}:80", NOBODY[family]), ACK);
        cases.push(Case {
            target: Some(20.0),
            ..Case::new("-", "for nobody", flows, nobody, Reason::NoService)
        });
    }
    let closed = format!("{}:{}", VIP[family], port::CLOSED);
    let closed = Frame::tcp(CLIENT[family], &closed, ACK);
    cases.push(Case::new(
        "-",
        "for a port without a service",
        1,
        closed,
        Reason::NoService,
    ));
    cases
}

/// All that is measured.
pub(crate) fn groups() -> Vec<Group> {
    let mut plain: Vec<Case> = Vec::new();
    for mode in &MODES {
        for family in 0..2 {
            plain.extend(of_mode(mode, family));
        }
    }
    for family in 0..2 {
        plain.extend(others(family));
    }
    let protected = (0..2)
        .flat_map(|family| of_mode(&MODES[0], family))
        .map(|case| Case {
            mode: PROTECTED,
            target: None,
            extra_target: Some(40.0),
            ..case
        })
        .collect();
    let mut groups = vec![
        Group {
            world: world::plain,
            cases: plain,
        },
        Group {
            world: world::protected,
            cases: protected,
        },
    ];
    for (mode, world, reason) in [
        (LEASED, world::leased as fn() -> World, None),
        (LEASED_EXACTLY, world::leased_exactly, None),
        (LAPSED, world::lapsed, Some(Reason::NotMaster)),
    ] {
        let under_lease = |family| {
            let mut cases = of_mode(&MODES[0], family);
            cases.retain(|case| case.packet == TCP_PACKET);
            cases.extend(others(family).into_iter().filter(|case| {
                // What is not to the address may be from it.
                reason.is_none() && case.reason != Reason::ReturnFullNat
            }));
            cases
        };
        let cases = (0..2).flat_map(under_lease).map(|case| Case {
            mode,
            target: None,
            reason: reason.unwrap_or(case.reason),
            ..case
        });
        groups.push(Group {
            world,
            cases: cases.collect(),
        });
    }
    groups
}

/// `nat` and others where there are virtual routers, by the coarse clock.
const LEASED: &str = "leased";
/// The same by the exact one.
const LEASED_EXACTLY: &str = "leased, exact clock";
/// On a box that is not master.
const LAPSED: &str = "not master";

/// `nat` behind lists and limits.
pub(crate) const PROTECTED: &str = "nat, protected";

/// The source address and port that one flow by `full-nat` has: of others they differ as clients do.
const NAT_SOURCE: [&str; 2] = ["10.9.1.7:40000", "[2001:db8:9:1::7]:40000"];

/// Flows of `full-nat`, both directions, as if their SYNs had been seen: all at one backend.
fn full_nat_flows(kernel: &mut Kernel, case: &Case) -> Result<()> {
    // An object without the mode shall not make anybody wait for its tables.
    if kernel.ebpf().program(names::FULL_NAT_PROGRAM).is_none() {
        return Ok(());
    }
    kernel.clear_nat_flows()?;
    if case.packet == SYN_PACKET {
        return Ok(());
    }
    let family = usize::from(case.frame.src.is_ipv6());
    let protocol = if case.frame.tcp.is_some() { TCP } else { UDP };
    let vip = addr(&format!("{}:{}", VIP[family], port::FULL_NAT));
    let backend = addr(&backend_with_port(family, 1));
    let index = 1 + family as u32 * 2 * u32::from(lab::BACKENDS);
    let now = lab::now()?;
    for n in 0..case.flows {
        let (mut client, mut source) = (
            flow_key(addr(CLIENT[family]), vip, protocol),
            flow_key(backend, addr(NAT_SOURCE[family]), protocol),
        );
        if case.flows > 1 {
            // As `Spread` has it.
            client.ports = client.ports & 0xffff_0000 | n & 0xffff;
            client.src.words[3] = client.src.words[3] & 0x00ff_ffff | n >> 16 << 24;
            source.ports = source.ports & 0xffff | n << 16;
            source.dst.words[3] = source.dst.words[3] & 0x00ff_ffff | n >> 16 << 24;
        }
        record(kernel, client, source, index, now)?;
    }
    Ok(())
}

fn record(kernel: &mut Kernel, client: FlowKey, reply: FlowKey, backend: u32, now: u32) -> Result<()> {
    kernel.record_nat_flow(
        client,
        NatFlow {
            source: reply.dst,
            port: reply.ports >> 16,
            backend,
            recorded: now,
            seen: now,
        },
    )?;
    kernel.record_nat_reply(
        reply,
        NatReply {
            client: client.src,
            vip: client.dst,
            ports: client.ports.rotate_left(16),
            backend,
            seen: now,
            flags: nat::ANSWERED,
            ..NatReply::default()
        },
    )
}
