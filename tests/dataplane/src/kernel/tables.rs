//! Reading and writing the maps, one function for each, as control does it or tests look at it.
//!
//! Owns the types: which key and which value a map has. Says nothing of what belongs into them: that is
//! [`World`](crate::World)'s, and the tests'.

use std::collections::HashMap as Entries;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, RingBuf, lpm_trie::Key};
use weir_abi::{
    Addr16, AdvertRecord, Backend, CaptureFilter, ClientKey, ClientState, FlowKey, FlowState, FragmentKey,
    FragmentState, GroupLink, HearKey, LinkKey, ListEntry, NatFlow, NatReply, NatSource, NextHop, Prefix,
    QuicKey, ReturnKey, ReturnTarget, ReturnVip, Service, ServiceKey, ServiceLimits, Settings, Slot,
    SteerKey, Taken, Traffic, Vlan, maps::filter, names,
};

use super::{
    Kernel,
    layout::{Layout, Raw},
};

/// One function for an entry of a map: `write` replaces it, `remove` deletes it, `read` looks it up, `all` reads the whole
/// map, `set` writes an element of an array.
macro_rules! access {
    ($( $how:ident $function:ident: $map:ident, $key:ty => $value:ty; )*) => { $( access!(@$how $function, $map, $key, $value); )* };
    (@write $function:ident, $map:ident, $key:ty, $value:ty) => {
        #[doc = concat!("Writes `", stringify!($map), "`.")]
        ///
        /// # Errors
        /// The kernel refuses.
        pub fn $function(&mut self, key: $key, value: $value) -> Result<()> {
            self.insert(names::$map, key, value)
        }
    };
    (@remove $function:ident, $map:ident, $key:ty, $value:ty) => {
        #[doc = concat!("Deletes from `", stringify!($map), "`.")]
        ///
        /// # Errors
        /// The kernel refuses; there is no such entry.
        pub fn $function(&mut self, key: $key) -> Result<()> {
            self.remove::<$key, $value>(names::$map, key)
        }
    };
    (@read $function:ident, $map:ident, $key:ty, $value:ty) => {
        #[doc = concat!("Reads `", stringify!($map), "`.")]
        ///
        /// # Errors
        /// The kernel refuses.
        pub fn $function(&self, key: $key) -> Result<Option<$value>> {
            self.get(names::$map, key)
        }
    };
    (@all $function:ident, $map:ident, $key:ty, $value:ty) => {
        #[doc = concat!("All of `", stringify!($map), "`.")]
        ///
        /// # Errors
        /// The kernel refuses.
        pub fn $function(&self) -> Result<Entries<$key, $value>> {
            self.entries(names::$map)
        }
    };
    (@set $function:ident, $map:ident, $key:ty, $value:ty) => {
        #[doc = concat!("Writes `", stringify!($map), "`.")]
        ///
        /// # Errors
        /// The kernel refuses.
        pub fn $function(&mut self, index: $key, value: $value) -> Result<()> {
            self.set(names::$map, index, value)
        }
    };
}

impl Kernel {
    access! {
        set backend: BACKENDS, u32 => Backend;
        set next_hop: NEXT_HOPS, u32 => NextHop;
        write vlan: VLANS, u32 => Vlan;
        write record_flow: FLOWS, FlowKey => FlowState;
        read flow: FLOWS, FlowKey => FlowState;
        all flows: FLOWS, FlowKey => FlowState;
        write return_target: RETURNS, ReturnKey => ReturnTarget;
        read return_flow: RETURN_FLOWS, FlowKey => ReturnVip;
        write record_return_flow: RETURN_FLOWS, FlowKey => ReturnVip;
        all return_flows: RETURN_FLOWS, FlowKey => ReturnVip;
        write record_nat_flow: NAT_FLOWS, FlowKey => NatFlow;
        read nat_flow: NAT_FLOWS, FlowKey => NatFlow;
        all nat_flows: NAT_FLOWS, FlowKey => NatFlow;
        write record_nat_reply: NAT_REPLIES, FlowKey => NatReply;
        read nat_reply: NAT_REPLIES, FlowKey => NatReply;
        all nat_replies: NAT_REPLIES, FlowKey => NatReply;
        set nat_source: NAT_SOURCES, u32 => NatSource;
        write record_fragment: FRAGMENTS, FragmentKey => FragmentState;
        read fragment: FRAGMENTS, FragmentKey => FragmentState;
        all fragments: FRAGMENTS, FragmentKey => FragmentState;
        write quic_id: QUIC_IDS, QuicKey => u32;
        write steer_entry: STEER, SteerKey => u32;
        write record_client: CLIENTS, ClientKey => ClientState;
        read client: CLIENTS, ClientKey => ClientState;
        all clients: CLIENTS, ClientKey => ClientState;
        set service_limits: SERVICE_LIMITS, u32 => ServiceLimits;
        write leased: LEASED, Addr16 => u32;
        set lease: LEASES, u32 => u64;
        write linked: LINKED, LinkKey => u32;
        set group_link: LINKS, u32 => GroupLink;
        write hear: HEARS, HearKey => u32;
    }

    /// Empties `FLOWS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear_flows(&mut self) -> Result<()> {
        for key in self.flows()?.into_keys() {
            self.remove::<FlowKey, FlowState>(names::FLOWS, key)?;
        }
        Ok(())
    }

    /// Empties `NAT_FLOWS` and `NAT_REPLIES`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear_nat_flows(&mut self) -> Result<()> {
        for key in self.nat_flows()?.into_keys() {
            self.remove::<FlowKey, NatFlow>(names::NAT_FLOWS, key)?;
        }
        for key in self.nat_replies()?.into_keys() {
            self.remove::<FlowKey, NatReply>(names::NAT_REPLIES, key)?;
        }
        Ok(())
    }

    /// Writes `RINGS` from `offset` on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn ring(&mut self, offset: u32, slots: &[Slot]) -> Result<()> {
        let mut map: Array<&mut MapData, Raw<Slot>> = self.map_mut(names::RINGS)?.try_into()?;
        for (index, slot) in (offset..).zip(slots) {
            map.set(index, Raw(*slot), 0)?;
        }
        Ok(())
    }

    /// Writes `FILTER`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn filter(&mut self, bits: &[u64; filter::WORDS]) -> Result<()> {
        let mut value = self.filter_value()?;
        value[..filter::WORDS].copy_from_slice(bits);
        self.set(names::FILTER, 0, value)
    }

    fn filter_value(&self) -> Result<[u64; filter::VALUE]> {
        let map: Array<&MapData, Raw<[u64; filter::VALUE]>> = self.map(names::FILTER)?.try_into()?;
        Ok(map.get(&0, 0)?.0)
    }

    /// Has the programs look services up anew, as control does after each change of `SERVICES`.
    fn next_epoch(&mut self) -> Result<()> {
        let mut value = self.filter_value()?;
        value[filter::EPOCH] += 1;
        self.set(names::FILTER, 0, value)
    }

    /// Writes `SERVICES`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn service(&mut self, key: ServiceKey, service: Service) -> Result<()> {
        self.insert(names::SERVICES, key, service)?;
        self.next_epoch()
    }

    /// Deletes from `SERVICES`.
    ///
    /// # Errors
    /// The kernel refuses; there is no such entry.
    pub fn remove_service(&mut self, key: ServiceKey) -> Result<()> {
        self.remove::<ServiceKey, Service>(names::SERVICES, key)?;
        self.next_epoch()
    }

    /// Writes `SETTINGS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settings(&mut self, settings: Settings) -> Result<()> {
        self.set(names::SETTINGS, 0, settings)
    }

    /// Writes `CAPTURE`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn capture(&mut self, filter: CaptureFilter) -> Result<()> {
        self.set(names::CAPTURE, 0, filter)
    }

    /// Writes `ROUTES`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn route(&mut self, net: Prefix, next_hop: u32) -> Result<()> {
        self.insert_prefix(names::ROUTES, net, next_hop)
    }

    /// Writes `LISTS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn list(&mut self, net: Prefix, entry: ListEntry) -> Result<()> {
        self.insert_prefix(names::LISTS, net, entry)
    }

    /// Writes `TAKEN`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn taken(&mut self, net: Prefix, taken: Taken) -> Result<()> {
        self.insert_prefix(names::TAKEN, net, taken)
    }

    /// Deletes from `LISTS`.
    ///
    /// # Errors
    /// The kernel refuses; there is no such entry.
    pub fn remove_list(&mut self, net: Prefix) -> Result<()> {
        let mut map: LpmTrie<&mut MapData, _, Raw<ListEntry>> = self.map_mut(names::LISTS)?.try_into()?;
        map.remove(&Key::new(net.len, Raw(net.addr)))
            .context("delete from LISTS")
    }

    /// All of `LISTS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn lists(&self) -> Result<Entries<Prefix, ListEntry>> {
        let map: LpmTrie<&MapData, Raw<Addr16>, Raw<ListEntry>> = self.map(names::LISTS)?.try_into()?;
        map.iter()
            .map(|entry| {
                let (key, Raw(value)) = entry.map_err(|e| anyhow!(e))?;
                let net = Prefix {
                    len: key.prefix_len(),
                    addr: key.data().0,
                };
                Ok((net, value))
            })
            .collect()
    }

    /// Takes all adverts that were handed out.
    ///
    /// # Errors
    /// The kernel refuses, or a frame is not as long as its record says.
    pub fn adverts(&mut self) -> Result<Vec<(AdvertRecord, Vec<u8>)>> {
        const RECORD: usize = size_of::<AdvertRecord>();
        let mut ring = RingBuf::try_from(self.map_mut(names::ADVERTS)?)?;
        let mut out = Vec::new();
        while let Some(item) = ring.next() {
            ensure!(item.len() >= RECORD, "an advert of {} bytes", item.len());
            let word = |at: usize| u32::from_ne_bytes([item[at], item[at + 1], item[at + 2], item[at + 3]]);
            let record = AdvertRecord {
                time: u64::from(word(0)) | u64::from(word(4)) << 32,
                ifindex: word(8),
                len: word(12),
            };
            let bytes = item[RECORD..].to_vec();
            ensure!(
                bytes.len() == record.len as usize,
                "{record:?}: {} bytes",
                bytes.len()
            );
            out.push((record, bytes));
        }
        Ok(out)
    }

    /// Traffic of a service, of all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn service_traffic(&self, id: u32) -> Result<Traffic> {
        self.traffic(names::SERVICE_TRAFFIC, id)
    }

    /// Traffic of a backend, of all CPUs together.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn backend_traffic(&self, index: u32) -> Result<Traffic> {
        self.traffic(names::BACKEND_TRAFFIC, index)
    }

    fn traffic(&self, name: &str, index: u32) -> Result<Traffic> {
        let map: PerCpuArray<&MapData, Raw<Traffic>> = self.map(name)?.try_into()?;
        Ok(map
            .get(&index, 0)?
            .iter()
            .fold(Traffic::default(), |sum, Raw(one)| Traffic {
                packets_in: sum.packets_in + one.packets_in,
                bytes_in: sum.bytes_in + one.bytes_in,
                packets_out: sum.packets_out + one.packets_out,
                bytes_out: sum.bytes_out + one.bytes_out,
                flows: sum.flows + one.flows,
            }))
    }

    pub(super) fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("no map {name}"))
    }

    pub(super) fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn insert<K: Layout, V: Layout>(&mut self, name: &str, key: K, value: V) -> Result<()> {
        let mut map: HashMap<&mut MapData, Raw<K>, Raw<V>> = self.map_mut(name)?.try_into()?;
        map.insert(Raw(key), Raw(value), 0)
            .with_context(|| format!("write to {name}"))
    }

    fn remove<K: Layout, V: Layout>(&mut self, name: &str, key: K) -> Result<()> {
        let mut map: HashMap<&mut MapData, Raw<K>, Raw<V>> = self.map_mut(name)?.try_into()?;
        map.remove(&Raw(key))
            .with_context(|| format!("delete from {name}"))
    }

    fn get<K: Layout, V: Layout>(&self, name: &str, key: K) -> Result<Option<V>> {
        let map: HashMap<&MapData, Raw<K>, Raw<V>> = self.map(name)?.try_into()?;
        match map.get(&Raw(key), 0) {
            Ok(Raw(value)) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(anyhow!(e)),
        }
    }

    fn entries<K: Layout + Eq + std::hash::Hash, V: Layout>(&self, name: &str) -> Result<Entries<K, V>> {
        let map: HashMap<&MapData, Raw<K>, Raw<V>> = self.map(name)?.try_into()?;
        map.iter()
            .map(|entry| entry.map(|(Raw(k), Raw(v))| (k, v)).map_err(|e| anyhow!(e)))
            .collect()
    }

    fn set<V: Layout>(&mut self, name: &str, index: u32, value: V) -> Result<()> {
        let mut map: Array<&mut MapData, Raw<V>> = self.map_mut(name)?.try_into()?;
        map.set(index, Raw(value), 0)
            .with_context(|| format!("write to {name}"))
    }

    fn insert_prefix<V: Layout>(&mut self, name: &str, net: Prefix, value: V) -> Result<()> {
        let mut map: LpmTrie<&mut MapData, _, Raw<V>> = self.map_mut(name)?.try_into()?;
        map.insert(&Key::new(net.len, Raw(net.addr)), Raw(value), 0)
            .with_context(|| format!("write to {name}"))
    }
}
