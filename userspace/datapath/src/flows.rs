//! Looking into the tables of flows: which there are, filtered, the first of them by some order.
//!
//! Owns what an entry of `FLOWS`, or a pair of `NAT_FLOWS` and `NAT_REPLIES`, means to people. Only reads. A [`FlowView`]
//! holds descriptors of its own, so that it may be read on another thread than the [`Datapath`](crate::Datapath)'s: with a
//! million flows that takes half a second.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use weir_abi::{
    Backend, FlowKey, FlowState, NatFlow, NatReply, Settings,
    maps::{flow, nat, settings},
};
use weir_core::{
    ids::{BackendKey, ServiceName},
    plan::IpNet,
};

use crate::{error::MapError, sys, table::Table, tables::Tables};

/// Which flows are wanted; all that is set must agree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter {
    /// Flows of this service.
    pub service: Option<ServiceName>,
    /// Flows to this backend.
    pub backend: Option<BackendKey>,
    /// Flows of clients in this network.
    pub source: Option<IpNet>,
    /// Flows to virtual addresses in this network.
    pub destination: Option<IpNet>,
    /// Only flows that have ended.
    pub closed: bool,
}

/// What comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlowOrder {
    /// The youngest.
    #[default]
    Newest,
    /// What carried most bytes.
    Bytes,
    /// What carried most packets.
    Packets,
}

/// How a flow stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowStage {
    /// `full-nat`: the backend has not answered.
    Unanswered,
    /// Packets pass.
    Open,
    /// `full-nat`: one side has ended it.
    Closing,
    /// Ended.
    Closed,
}

impl FlowStage {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unanswered => "unanswered",
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }
}

/// A flow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The client.
    pub client: SocketAddr,
    /// What it reached.
    pub vip: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Its service; None: one that is forgotten.
    pub service: Option<ServiceName>,
    /// Its backend; None: one that is forgotten.
    pub backend: Option<BackendKey>,
    /// `full-nat`: what the backend takes for the client.
    pub source: Option<SocketAddr>,
    /// Seconds since it was recorded.
    pub age: u32,
    /// Seconds since it was last looked up; None: it never was.
    pub idle: Option<u32>,
    /// Packets counted; None: none were. `full-nat` counts those towards the client, otherwise those towards the backend.
    pub packets: Option<u64>,
    /// Bytes of them.
    pub bytes: Option<u64>,
    /// How it stands.
    pub stage: FlowStage,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flows {
    /// The first flows by the order asked for.
    pub flows: Vec<Flow>,
    /// How many the filter took.
    pub matched: u64,
    /// How many there are.
    pub total: u64,
    /// Every packet of a recorded flow is counted.
    pub accounting: bool,
}

/// The tables, ready to be read on any thread.
#[derive(Debug)]
pub struct FlowView {
    flows: Table<FlowKey, FlowState>,
    nat_flows: Table<FlowKey, NatFlow>,
    nat_replies: Table<FlowKey, NatReply>,
    backends: Table<u32, Backend>,
    settings: Table<u32, Settings>,
    names: Names,
}

/// Whom the numbers stand for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Names {
    pub(crate) services: BTreeMap<u32, ServiceName>,
    pub(crate) backends: BTreeMap<u32, BackendKey>,
}

impl FlowView {
    pub(crate) fn new(tables: &Tables, names: Names) -> Result<Self, MapError> {
        Ok(Self {
            flows: tables.flows.duplicate()?,
            nat_flows: tables.nat_flows.duplicate()?,
            nat_replies: tables.nat_replies.duplicate()?,
            backends: tables.backends.duplicate()?,
            settings: tables.settings.duplicate()?,
            names,
        })
    }

    /// The flows that the filter takes, the first `limit` of them by the order. Flows that come and go meanwhile may be
    /// missing, or be there twice.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn list(&self, filter: &FlowFilter, order: FlowOrder, limit: usize) -> Result<Flows, MapError> {
        let now = sys::monotonic_seconds();
        let wanted = Wanted::new(filter, &self.names);
        let mut first = First::new(order, limit);
        let mut total = 0;
        self.flows.each(|key, state| {
            total += 1;
            let row = plain(key, state, now);
            if wanted.takes(&row) {
                first.push(row);
            }
        })?;
        // The reply's key follows from the flow and the backend: the two tables are one to the reader.
        let mut failed = None;
        self.nat_flows.each(|key, flow| {
            total += 1;
            let reply = self
                .backends
                .get(&flow.backend)
                .and_then(|backend| match backend {
                    Some(backend) => self.nat_replies.get(&reply_key(key, flow, &backend)),
                    None => Ok(None),
                });
            match reply {
                Ok(reply) => {
                    let row = translated(key, flow, reply.as_ref(), now);
                    if wanted.takes(&row) {
                        first.push(row);
                    }
                }
                Err(e) => failed = Some(e),
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let accounting = self
            .settings
            .get(&0)?
            .is_some_and(|now| now.flags & settings::ACCOUNTING != 0);
        let (rows, matched) = first.finish();
        Ok(Flows {
            flows: rows.into_iter().map(|row| self.names.flow(row)).collect(),
            matched,
            total,
            accounting,
        })
    }
}

/// The reply of a flow by `full-nat`, as the backend sends it. Key of `NAT_REPLIES`.
pub(crate) fn reply_key(key: &FlowKey, flow: &NatFlow, backend: &Backend) -> FlowKey {
    let [_, _, d0, d1] = key.ports.to_ne_bytes();
    // 0: the client's destination port was kept.
    let [p0, p1] = match backend.port as u16 {
        0 => [d0, d1],
        port => port.to_ne_bytes(),
    };
    let [s0, s1] = (flow.port as u16).to_ne_bytes();
    FlowKey {
        src: backend.addr,
        dst: flow.source,
        ports: u32::from_ne_bytes([p0, p1, s0, s1]),
        proto: key.proto,
    }
}

/// An entry, numbers for names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    key: FlowKey,
    service: Option<u32>,
    backend: u32,
    source: Option<SocketAddr>,
    recorded: u32,
    age: u32,
    idle: Option<u32>,
    packets: u64,
    bytes: u64,
    stage: FlowStage,
}

fn plain(key: &FlowKey, state: &FlowState, now: u32) -> Row {
    Row {
        key: *key,
        service: Some(state.service & flow::SERVICE),
        backend: state.backend,
        source: None,
        recorded: state.recorded,
        age: now.saturating_sub(state.recorded),
        // What was never looked up carries nothing but the second it was recorded in.
        idle: (state.packets > 0 || state.seen > state.recorded).then(|| now.saturating_sub(state.seen)),
        packets: state.packets,
        bytes: state.bytes,
        stage: if state.service & flow::CLOSED != 0 {
            FlowStage::Closed
        } else {
            FlowStage::Open
        },
    }
}

fn translated(key: &FlowKey, flow: &NatFlow, reply: Option<&NatReply>, now: u32) -> Row {
    let seen = flow.seen.max(reply.map_or(0, |reply| reply.seen));
    let stage = match reply {
        Some(reply) if reply.closed != 0 => FlowStage::Closed,
        Some(reply) if reply.flags & (nat::FIN_IN | nat::FIN_OUT) != 0 => FlowStage::Closing,
        Some(reply) if reply.flags & nat::ANSWERED != 0 => FlowStage::Open,
        Some(_) | None => FlowStage::Unanswered,
    };
    Row {
        key: *key,
        service: reply.map(|reply| reply.service),
        backend: flow.backend,
        source: Some(SocketAddr::new(
            flow.source.to_ip(),
            u16::from_be(flow.port as u16),
        )),
        recorded: flow.recorded,
        age: now.saturating_sub(flow.recorded),
        idle: Some(now.saturating_sub(seen)),
        packets: reply.map_or(0, |reply| reply.packets),
        bytes: reply.map_or(0, |reply| reply.bytes),
        stage,
    }
}

/// The filter in numbers.
struct Wanted<'a> {
    filter: &'a FlowFilter,
    /// Numbers of the service that is asked for; None: any.
    services: Option<Vec<u32>>,
    backends: Option<Vec<u32>>,
}

impl<'a> Wanted<'a> {
    fn new(filter: &'a FlowFilter, names: &Names) -> Self {
        fn numbers<K: PartialEq>(named: &BTreeMap<u32, K>, wanted: &K) -> Vec<u32> {
            let is = |(number, name): (&u32, &K)| (name == wanted).then_some(*number);
            named.iter().filter_map(is).collect()
        }
        Self {
            filter,
            services: filter.service.as_ref().map(|name| numbers(&names.services, name)),
            backends: filter.backend.as_ref().map(|key| numbers(&names.backends, key)),
        }
    }

    fn takes(&self, row: &Row) -> bool {
        let within = |net: &Option<IpNet>, ip: IpAddr| net.is_none_or(|net| net.contains(ip));
        let FlowFilter {
            source,
            destination,
            closed,
            ..
        } = self.filter;
        (!closed || row.stage == FlowStage::Closed)
            && self
                .services
                .as_ref()
                .is_none_or(|ids| row.service.is_some_and(|id| ids.contains(&id)))
            && self
                .backends
                .as_ref()
                .is_none_or(|all| all.contains(&row.backend))
            && within(source, row.key.src.to_ip())
            && within(destination, row.key.dst.to_ip())
    }
}

/// The first rows by an order, in bounded memory.
struct First {
    order: FlowOrder,
    limit: usize,
    rows: Vec<Row>,
    matched: u64,
}

impl First {
    fn new(order: FlowOrder, limit: usize) -> Self {
        Self {
            order,
            limit,
            rows: Vec::new(),
            matched: 0,
        }
    }

    fn push(&mut self, row: Row) {
        self.matched += 1;
        self.rows.push(row);
        if self.rows.len() >= self.limit.saturating_mul(2).saturating_add(1024) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let order = self.order;
        self.rows.sort_by_key(|row| {
            Reverse(match order {
                FlowOrder::Newest => u64::from(row.recorded),
                FlowOrder::Bytes => row.bytes,
                FlowOrder::Packets => row.packets,
            })
        });
        self.rows.truncate(self.limit);
    }

    fn finish(mut self) -> (Vec<Row>, u64) {
        self.cut();
        (self.rows, self.matched)
    }
}

impl Names {
    fn flow(&self, row: Row) -> Flow {
        let [s0, s1, d0, d1] = row.key.ports.to_ne_bytes();
        let end = |addr: weir_abi::Addr16, port| SocketAddr::new(addr.to_ip(), u16::from_be_bytes(port));
        let counted = |n| (row.packets > 0).then_some(n);
        Flow {
            client: end(row.key.src, [s0, s1]),
            vip: end(row.key.dst, [d0, d1]),
            protocol: row.key.proto as u8,
            service: row.service.and_then(|id| self.services.get(&id).cloned()),
            backend: self.backends.get(&row.backend).cloned(),
            source: row.source,
            age: row.age,
            idle: row.idle,
            packets: counted(row.packets),
            bytes: counted(row.bytes),
            stage: row.stage,
        }
    }
}

#[cfg(test)]
mod tests;
