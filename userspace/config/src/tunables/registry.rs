//! The list of tunables: every name with its type, unit, range, default and effect.
//!
//! Owns the list alone. What belongs here is only what something in weir uses. Reading, setting and rendering are
//! `tunables.rs`; files are `file.rs`.

use std::time::Duration;

use super::{Applies, Kind, Tunable, Value, kind_of};

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn time(min: Duration, max: Duration) -> Kind {
    Kind::Duration {
        min,
        max,
        step: ms(1),
    }
}

/// A duration that the kernel programs count in whole seconds.
const fn seconds(min: Duration, max: Duration) -> Kind {
    Kind::Duration { min, max, step: s(1) }
}

const fn count(min: u32, max: u32) -> Kind {
    Kind::Count {
        min,
        max,
        prime: false,
    }
}

const DAY: Duration = s(86_400);

macro_rules! tunables {
    ($( $(#[doc = $doc:literal])+ $field:ident: $ty:ident = $name:literal, $kind:expr, $default:expr, $applies:ident; )*) => {
        /// Every tunable's value, typed.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct Values { $( $(#[doc = $doc])+ pub $field: $ty, )* }

        impl Default for Values {
            fn default() -> Self {
                Self { $( $field: $default, )* }
            }
        }

        #[derive(Clone, Copy)]
        #[expect(non_camel_case_types, reason = "named after the fields, by the macro")]
        enum Index { $( $field, )* }

        /// Every tunable, in the order in which it is listed.
        pub static REGISTRY: &[Tunable] = &[$( Tunable {
            name: $name,
            kind: $kind,
            applies: Applies::$applies,
            description: concat!($( $doc ),+).trim_ascii(),
        }, )*];

        impl Values {
            /// The value of `REGISTRY[index]`.
            pub(super) fn read(&self, index: usize) -> Option<Value> {
                $( if index == Index::$field as usize { return Some(self.$field.into()); } )*
                None
            }

            /// Stores a value that was checked against `REGISTRY[index]`.
            pub(super) fn write(&mut self, index: usize, value: Value) {
                $( if index == Index::$field as usize {
                    if let Some(value) = kind_of::$ty(value) { self.$field = value; }
                } )*
            }
        }
    };
}

tunables! {
    /// From the accept of a connection to the end of its TLS handshake.
    relay_timeout_handshake: Duration =
        "weir.relay.timeout.handshake", time(ms(1), DAY), s(5), Live;
    /// To connect to a backend.
    relay_timeout_connect: Duration =
        "weir.relay.timeout.connect", time(ms(1), DAY), s(1), Live;
    /// From a request's first byte to the end of its head.
    relay_timeout_request_head: Duration =
        "weir.relay.timeout.request_head", time(ms(1), DAY), s(5), Live;
    /// Silence of the client while weir waits for it.
    relay_timeout_client: Duration =
        "weir.relay.timeout.client", time(ms(1), DAY), s(25), Live;
    /// Silence of the backend while weir waits for it.
    relay_timeout_server: Duration =
        "weir.relay.timeout.server", time(ms(1), DAY), s(25), Live;
    /// Idle between two requests of a connection.
    relay_timeout_keep_alive: Duration =
        "weir.relay.timeout.keep_alive", time(ms(1), DAY), s(10), Live;
    /// Waiting for a backend to become free.
    relay_timeout_queue: Duration =
        "weir.relay.timeout.queue", time(ms(1), DAY), s(5), Live;
    /// Silence in both directions of a tunnel: mode tcp, or after an upgrade.
    relay_timeout_tunnel: Duration =
        "weir.relay.timeout.tunnel", time(ms(1), s(30 * 86_400)), s(3600), Live;
    /// Size of a request or response head.
    relay_limit_head: u64 =
        "weir.relay.limit.head", Kind::Bytes { min: 1 << 10, max: 1 << 20 }, 64 << 10, Live;
    /// Header fields of a head.
    relay_limit_headers: u32 =
        "weir.relay.limit.headers", count(1, 1024), 128, Live;
    /// Open client connections of a service at once.
    relay_limit_connections: u32 =
        "weir.relay.limit.connections", count(1, 10_000_000), 10_000, Live;
    /// Open client connections of all services of the relay together.
    relay_limit_connections_total: u32 =
        "weir.relay.limit.connections_total", count(1, 10_000_000), 100_000, Live;
    /// Requests of HTTP/2 under way at once, of all services of the relay together.
    relay_limit_streams_total: u32 =
        "weir.relay.limit.streams_total", count(1, 10_000_000), 100_000, Live;
    /// TLS handshakes under way at once, of all services of the relay together; who comes beyond is refused.
    relay_limit_handshakes: u32 =
        "weir.relay.limit.handshakes", count(1, 1_000_000), 2000, Live;
    /// Memory that each worker may hold for what was read and not taken yet; beyond it connections are closed.
    relay_limit_memory: u64 =
        "weir.relay.limit.memory", Kind::Bytes { min: 16 << 20, max: 1 << 40 }, 256 << 20, Live;
    /// Idle connections that each worker keeps for each backend at the most.
    relay_upstream_idle_max: u32 =
        "weir.relay.upstream.idle_max", count(0, 65_535), 256, Live;
    /// How long a connection to a backend is kept idle.
    relay_upstream_idle_timeout: Duration =
        "weir.relay.upstream.idle_timeout", time(ms(1), DAY), s(30), Live;
    /// Requests and connections that may wait for a pool at once.
    relay_upstream_queue: u32 =
        "weir.relay.upstream.queue", count(0, 10_000_000), 1024, Live;
    /// Backends that one request or connection is offered to.
    relay_retry_attempts: u32 =
        "weir.relay.retry.attempts", count(1, 16), 4, Live;
    /// Percent of the requests of the last ten seconds that may be sent again.
    relay_retry_budget: u32 =
        "weir.relay.retry.budget", count(0, 100), 20, Live;
    /// Requests per second that may be sent again whatever the percentage.
    relay_retry_budget_floor: u32 =
        "weir.relay.retry.budget_floor", count(0, 1_000_000), 10, Live;
    /// How long requests and connections in progress may go on after SIGTERM; a master hands over once they have ended.
    relay_drain: Duration =
        "weir.relay.drain", time(ms(0), DAY), s(30), Live;
    /// From the start of one check to the start of the next.
    check_interval: Duration =
        "weir.check.interval", time(ms(10), DAY), s(2), Live;
    /// A check that takes longer has failed.
    check_timeout: Duration =
        "weir.check.timeout", time(ms(1), DAY), s(1), Live;
    /// Successes in a row that bring a backend up.
    check_rise: u32 =
        "weir.check.rise", count(1, 1000), 2, Live;
    /// Failures in a row that take a backend down.
    check_fall: u32 =
        "weir.check.fall", count(1, 1000), 2, Live;
    /// Percent of the interval by which each check is moved at random.
    check_jitter: u32 =
        "weir.check.jitter", count(0, 50), 10, Live;
    /// Flows that the flow table holds, of all L4 services together.
    l4_flow_entries: u32 =
        "weir.l4.flow.entries", count(1024, 64 << 20), 512 << 10, Restart;
    /// New flows recorded per CPU and second; beyond it flows are forwarded unrecorded.
    l4_flow_record_limit: u32 =
        "weir.l4.flow.record_limit", count(0, 100_000_000), 50_000, Live;
    /// For how long after a ring's change an unrecorded TCP flow is taken for an older one.
    l4_flow_tcp_grace: Duration =
        "weir.l4.flow.tcp_grace", seconds(s(1), DAY), s(60), Live;
    /// The same for UDP: longer than the longest silence inside a flow.
    l4_flow_udp_grace: Duration =
        "weir.l4.flow.udp_grace", seconds(s(1), DAY), s(10), Live;
    /// For how long after a ring's change the flow table is asked at all.
    l4_flow_horizon: Duration =
        "weir.l4.flow.horizon", seconds(s(1), s(30 * 86_400)), s(3600), Live;
    /// Whether every packet of a recorded flow is counted (1) or none (0): it costs a look-up of the flow table.
    l4_flow_accounting: u32 =
        "weir.l4.flow.accounting", count(0, 1), 0, Live;
    /// Backends that L4 services may have, of all pools together.
    l4_backends: u32 =
        "weir.l4.backends", count(1, 65_535), 4096, Restart;
    /// Services with virtual addresses, of every mode.
    l4_services: u32 =
        "weir.l4.services", count(1, 65_535), 1024, Restart;
    /// Slots of all Maglev rings together; one that changes needs its slots twice for a moment.
    l4_ring_slots: u32 =
        "weir.l4.ring_slots", count(2048, 256 << 20), 4 << 20, Restart;
    /// Datagrams in fragments that may be under way at once.
    l4_fragments_entries: u32 =
        "weir.l4.fragments.entries", count(64, 1 << 20), 8192, Restart;
    /// Flows that full-nat holds, of all services together.
    l4_nat_entries: u32 =
        "weir.l4.nat.entries", count(1024, 64 << 20), 128 << 10, Restart;
    /// Silence after which the port of an open TCP flow of full-nat may be used again.
    l4_nat_tcp_idle: Duration =
        "weir.l4.nat.tcp_idle", seconds(s(60), s(30 * 86_400)), s(7200), Live;
    /// The same for UDP.
    l4_nat_udp_idle: Duration =
        "weir.l4.nat.udp_idle", seconds(s(1), DAY), s(180), Live;
    /// For how long the port of a TCP flow of full-nat that ended rests, so that backends have left TIME_WAIT.
    l4_nat_time_wait: Duration =
        "weir.l4.nat.time_wait", seconds(s(1), s(3600)), s(60), Live;
    /// Answers that XDP makes itself (echo, RST, ICMP errors) per CPU and second; beyond it the packet is dropped.
    l4_reply_limit: u32 =
        "weir.l4.reply_limit", count(0, 100_000_000), 1000, Live;
    /// SYNs to the relay per CPU and second, beyond which SYN cookies answer; 0: they never do.
    l4_syncookies_rate: u32 =
        "weir.l4.syncookies.rate", count(0, 100_000_000), 20_000, Live;
    /// Networks that are allowed or banned, those of weir.toml and those of run time together.
    l4_lists_entries: u32 =
        "weir.l4.lists.entries", count(16, 16 << 20), 256 << 10, Restart;
    /// Networks of clients that are counted for limits per source.
    l4_sources_entries: u32 =
        "weir.l4.sources.entries", count(64, 16 << 20), 64 << 10, Restart;
    /// Slots of a service's Maglev ring: a prime, about a hundred times the backends.
    l4_ring_size: u32 =
        "weir.l4.ring_size", Kind::Count { min: 251, max: 655_373, prime: true }, 65_537, Live;
}
