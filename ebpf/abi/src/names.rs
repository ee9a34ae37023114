//! Names of programs and maps, as the kernel and `bpftool` show them.

use crate::hash::fnv;

/// The XDP program, attached to every interface of `node.interfaces`.
pub const XDP_PROGRAM: &str = "weir_xdp";
/// The XDP program behind it that takes apart what is not for the short way: ICMP, fragments, extension headers.
pub const EDGE_PROGRAM: &str = "weir_edge";
/// The XDP program behind it for `full-nat`, towards the backend.
pub const FULL_NAT_PROGRAM: &str = "weir_full_nat";
/// The XDP program behind it that begins flows by `full-nat`.
pub const NAT_NEW_PROGRAM: &str = "weir_nat_new";
/// The XDP program behind it that gives flows by `full-nat` their source ports.
pub const NAT_TAKE_PROGRAM: &str = "weir_nat_take";
/// The XDP program behind it that sends packets by `full-nat`.
pub const NAT_SEND_PROGRAM: &str = "weir_nat_send";
/// The XDP program behind it for replies by `full-nat`.
pub const NAT_RETURN_PROGRAM: &str = "weir_nat_return";
/// The XDP program behind it for SYN cookies.
pub const COOKIE_PROGRAM: &str = "weir_cookie";
/// The XDP program behind it that counts connections against limits.
pub const ADMIT_PROGRAM: &str = "weir_admit";
/// The XDP program behind it that forwards what was not taken apart on the short way.
pub const FORWARD_PROGRAM: &str = "weir_forward";
/// The XDP program behind it that asks the kernel's routes.
pub const ROUTE_PROGRAM: &str = "weir_route";
/// The XDP program behind it that answers packets.
pub const ANSWER_PROGRAM: &str = "weir_answer";
/// The XDP program behind it for ICMP and ICMPv6.
pub const ICMP_PROGRAM: &str = "weir_icmp";
/// The XDP program behind it that sends later fragments after the first.
pub const FRAGMENT_PROGRAM: &str = "weir_fragment";
/// The XDP program behind it for ICMP errors about flows by `full-nat`.
pub const NAT_ICMP_PROGRAM: &str = "weir_nat_icmp";
/// The XDP program behind it that hands adverts of virtual routers to control.
pub const ADVERT_PROGRAM: &str = "weir_advert";
/// The XDP program behind it for frames to link addresses of virtual routers.
pub const GROUP_PROGRAM: &str = "weir_group";
/// The XDP program behind it for connections of a group that several boxes share.
pub const KEEP_PROGRAM: &str = "weir_keep";
/// The XDP program behind these two: the short way.
pub const SHORT_PROGRAM: &str = "weir_short";
/// The programs behind [`XDP_PROGRAM`], with their [`stage`](crate::maps::stage)s.
pub const STAGE_PROGRAMS: [(u32, &str); 19] = [
    (crate::maps::stage::EDGE, EDGE_PROGRAM),
    (crate::maps::stage::FULL_NAT, FULL_NAT_PROGRAM),
    (crate::maps::stage::COOKIE, COOKIE_PROGRAM),
    (crate::maps::stage::ADMIT, ADMIT_PROGRAM),
    (crate::maps::stage::FORWARD, FORWARD_PROGRAM),
    (crate::maps::stage::ANSWER, ANSWER_PROGRAM),
    (crate::maps::stage::ROUTE, ROUTE_PROGRAM),
    (crate::maps::stage::CAPTURE, CAPTURE_PROGRAM),
    (crate::maps::stage::ICMP, ICMP_PROGRAM),
    (crate::maps::stage::FRAGMENT, FRAGMENT_PROGRAM),
    (crate::maps::stage::NAT_NEW, NAT_NEW_PROGRAM),
    (crate::maps::stage::NAT_TAKE, NAT_TAKE_PROGRAM),
    (crate::maps::stage::NAT_ICMP, NAT_ICMP_PROGRAM),
    (crate::maps::stage::NAT_SEND, NAT_SEND_PROGRAM),
    (crate::maps::stage::NAT_RETURN, NAT_RETURN_PROGRAM),
    (crate::maps::stage::ADVERT, ADVERT_PROGRAM),
    (crate::maps::stage::GROUP, GROUP_PROGRAM),
    (crate::maps::stage::KEEP, KEEP_PROGRAM),
    (crate::maps::stage::SHORT, SHORT_PROGRAM),
];
/// The XDP program behind all of them that hands out what is captured.
pub const CAPTURE_PROGRAM: &str = "weir_capture";
/// The sk_lookup program, attached to the network namespace.
pub const STEER_PROGRAM: &str = "weir_steer";

/// The same for kernels that do not say which interface a connection comes in by, before [`STEER_FLOOR`].
pub const STEER_ANY_PROGRAM: &str = "weir_steer_any";

/// The kernel from which on sk_lookup says which interface a connection comes in by.
pub const STEER_FLOOR: (u32, u32) = (5, 17);

/// The tc program, attached to the ingress of every interface of `node.interfaces` while something needs it.
pub const TAKE_PROGRAM: &str = "weir_take";

/// The tc program, attached to the egress of every interface of `node.interfaces` while virtual routers have link addresses of
/// their own.
pub const LEAVE_PROGRAM: &str = "weir_leave";

/// The tc program, attached to the ingress of every interface of `node.interfaces` likewise.
pub const ARRIVE_PROGRAM: &str = "weir_arrive";

/// HASH [`ServiceKey`](crate::ServiceKey) → [`Service`](crate::Service).
pub const SERVICES: &str = "SERVICES";
/// ARRAY backend index → [`Backend`](crate::Backend). Index 0 is never used: it means "no backend".
pub const BACKENDS: &str = "BACKENDS";
/// ARRAY (mmapable) of [`Slot`](crate::Slot): every service's ring lies in it at `ring_offset .. + ring_len`.
pub const RINGS: &str = "RINGS";
/// ARRAY (mmapable) of one value: the bits of [`filter`](crate::maps::filter).
pub const FILTER: &str = "FILTER";
/// ARRAY index → [`NextHop`](crate::NextHop). Index 0 is never used: it means "ask the kernel's routes".
pub const NEXT_HOPS: &str = "NEXT_HOPS";
/// LPM_TRIE [`Prefix`](crate::Prefix) → `u32`, an index into [`NEXT_HOPS`]: the way to clients; 0: ask the kernel.
pub const ROUTES: &str = "ROUTES";
/// HASH index of a VLAN device → [`Vlan`](crate::Vlan).
pub const VLANS: &str = "VLANS";
/// HASH [`FlowKey`](crate::FlowKey) → [`FlowState`](crate::FlowState). Full, it takes no more; control sweeps it.
pub const FLOWS: &str = "FLOWS";
/// HASH [`ReturnKey`](crate::ReturnKey) → [`ReturnTarget`](crate::ReturnTarget): the reverse direction of `nat`.
pub const RETURNS: &str = "RETURNS";
/// LRU_HASH [`FlowKey`](crate::FlowKey) of the reply → [`ReturnVip`](crate::ReturnVip), used only for backends that
/// several VIPs share.
pub const RETURN_FLOWS: &str = "RETURN_FLOWS";
/// HASH [`FlowKey`](crate::FlowKey) of a client → [`NatFlow`](crate::NatFlow).
pub const NAT_FLOWS: &str = "NAT_FLOWS";
/// HASH [`FlowKey`](crate::FlowKey) of the reply → [`NatReply`](crate::NatReply).
pub const NAT_REPLIES: &str = "NAT_REPLIES";
/// ARRAY index → [`NatSource`](crate::NatSource).
pub const NAT_SOURCES: &str = "NAT_SOURCES";
/// PERCPU_ARRAY service id → `u64`, how many ports were tried so far: where the search for the next one begins.
pub const NAT_CURSORS: &str = "NAT_CURSORS";
/// LRU_HASH [`FragmentKey`](crate::FragmentKey) → [`FragmentState`](crate::FragmentState).
pub const FRAGMENTS: &str = "FRAGMENTS";
/// HASH [`QuicKey`](crate::QuicKey) → `u32` backend index.
pub const QUIC_IDS: &str = "QUIC_IDS";
/// LPM_TRIE [`Prefix`](crate::Prefix) → [`ListEntry`](crate::ListEntry): networks that are allowed or banned.
pub const LISTS: &str = "LISTS";
/// LRU_HASH [`ClientKey`](crate::ClientKey) → [`ClientState`](crate::ClientState).
pub const CLIENTS: &str = "CLIENTS";
/// ARRAY service id → [`ServiceLimits`](crate::ServiceLimits).
pub const SERVICE_LIMITS: &str = "SERVICE_LIMITS";
/// ARRAY of one [`Settings`](crate::Settings).
pub const SETTINGS: &str = "SETTINGS";
/// PERCPU_ARRAY of `u64` packets, indexed by [`Reason`](crate::Reason).
pub const REASONS: &str = "REASONS";
/// PERCPU_ARRAY of [`Traffic`](crate::Traffic) by service id.
pub const SERVICE_TRAFFIC: &str = "SERVICE_TRAFFIC";
/// PERCPU_ARRAY of [`Traffic`](crate::Traffic) by backend index.
pub const BACKEND_TRAFFIC: &str = "BACKEND_TRAFFIC";
/// PERCPU_ARRAY of [`RecordLimit`](crate::RecordLimit), by [`limit`](crate::maps::limit).
pub const RECORD_LIMIT: &str = "RECORD_LIMIT";
/// ARRAY of one [`CaptureFilter`](crate::CaptureFilter).
pub const CAPTURE: &str = "CAPTURE";
/// RINGBUF of [`CaptureRecord`](crate::CaptureRecord)s, each with the bytes of its packet behind it.
pub const CAPTURED: &str = "CAPTURED";
/// PROG_ARRAY by [`stage`](crate::maps::stage).
pub const STAGES: &str = "STAGES";
/// HASH [`SteerKey`](crate::SteerKey) → `u32` index into [`SOCKETS`], and bits of [`steer`](crate::maps::steer).
pub const STEER: &str = "STEER";
/// SOCKMAP index → listening socket.
pub const SOCKETS: &str = "SOCKETS";
/// LPM_TRIE [`Prefix`](crate::Prefix) → [`Taken`](crate::Taken): who takes in connections to addresses that are not on the box.
pub const TAKEN: &str = "TAKEN";
/// RINGBUF of [`NeighborEvent`](crate::NeighborEvent). Not pinned.
pub const EVENTS: &str = "EVENTS";
/// LRU_HASH [`NeighborEvent`](crate::NeighborEvent) → `u32`, the second it was last sent in: so that a next hop is asked
/// for once a second. The programs' own; not pinned.
pub const NEIGHBORS: &str = "NEIGHBORS";
/// PERCPU_ARRAY of one value: room for what does not fit on a program's stack. The programs' own; not pinned.
pub const SCRATCH: &str = "SCRATCH";

/// PERCPU_ARRAY of one value: a packet that one program has taken apart and another goes on with. The verifier then
/// follows what comes next once, not once per way of taking it apart. The programs' own; not pinned.
pub const PARKED: &str = "PARKED";

/// PERCPU_ARRAY of [`KnownService`](crate::KnownService): entries of `SERVICES` that this CPU has met. The programs' own; not
/// pinned.
pub const KNOWN_SERVICES: &str = "KNOWN_SERVICES";

/// ARRAY (mmapable) of `u64`: until when a group of virtual routers is answered for, in nanoseconds of CLOCK_MONOTONIC; 0: it
/// is not. Index 0 is [`LAG`](crate::maps::lease::LAG).
pub const LEASES: &str = "LEASES";
/// HASH [`Addr16`](crate::Addr16) → `u32` index into [`LEASES`], and into [`LINKS`] above
/// [`SLOT_BITS`](crate::maps::lease::SLOT_BITS): the addresses of virtual routers.
pub const LEASED: &str = "LEASED";
/// ARRAY index → [`GroupLink`](crate::GroupLink): link addresses of virtual routers that are not their interface's.
pub const LINKS: &str = "LINKS";
/// HASH [`LinkKey`](crate::LinkKey) → `u32` index into [`LINKS`].
pub const LINKED: &str = "LINKED";
/// HASH [`HearKey`](crate::HearKey) → `u32`, 1: where adverts that are handed to control arrive.
pub const HEARS: &str = "HEARS";
/// RINGBUF of [`AdvertRecord`](crate::AdvertRecord)s, each with the bytes of its frame behind it.
pub const ADVERTS: &str = "ADVERTS";

/// Every map that is pinned, in the order in which they are created.
pub const PINNED: [&str; 36] = [
    SERVICES,
    BACKENDS,
    RINGS,
    FILTER,
    NEXT_HOPS,
    ROUTES,
    VLANS,
    FLOWS,
    RETURNS,
    RETURN_FLOWS,
    NAT_FLOWS,
    NAT_REPLIES,
    NAT_SOURCES,
    NAT_CURSORS,
    FRAGMENTS,
    QUIC_IDS,
    LISTS,
    CLIENTS,
    SERVICE_LIMITS,
    SETTINGS,
    REASONS,
    SERVICE_TRAFFIC,
    BACKEND_TRAFFIC,
    RECORD_LIMIT,
    CAPTURE,
    CAPTURED,
    STAGES,
    STEER,
    SOCKETS,
    TAKEN,
    LEASES,
    LEASED,
    LINKS,
    LINKED,
    HEARS,
    ADVERTS,
];

pub(crate) const fn fold(mut hash: u64) -> u64 {
    let mut i = 0;
    while i < PINNED.len() {
        hash = fnv(hash, PINNED[i].as_bytes());
        i += 1;
    }
    hash
}
