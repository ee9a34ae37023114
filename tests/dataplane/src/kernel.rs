//! A loaded copy of the programs, with the maps as `weir-abi` describes them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, RingBuf},
    programs::{SkLookup, TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use weir_abi::{
    Backend, FlowKey, FlowState, NeighborEvent, Note, REASON_COUNT, Reason, RecordLimit, ReturnKey,
    ReturnTarget, ReturnVip, Service, ServiceKey, Settings, Slot, Traffic, maps::port_proto, names,
};

/// A key or value of `weir-abi`, as aya wants it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Raw<T>(T);

/// The layouts of `weir-abi`: integers and arrays of them, without padding.
trait Layout: Copy + 'static {}
macro_rules! layouts { ($($ty:ty)*) => { $(
    impl Layout for $ty {}
    // SAFETY: weir-abi asserts at compile time that it has no padding, and every bit pattern is a value.
    unsafe impl Pod for Raw<$ty> {}
)* } }
layouts! {
    ServiceKey Service Backend Slot FlowKey FlowState ReturnKey ReturnTarget ReturnVip Settings RecordLimit Traffic
    NeighborEvent
}

/// A verdict as XDP numbers it.
pub mod verdict {
    /// `XDP_DROP`
    pub const DROP: u32 = 1;
    /// `XDP_PASS`
    pub const PASS: u32 = 2;
    /// `XDP_TX`
    pub const TX: u32 = 3;
    /// `XDP_REDIRECT`
    pub const REDIRECT: u32 = 4;
}

/// What one run did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// One of [`verdict`].
    pub verdict: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// Counters of all CPUs together: reasons, then notes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters(pub [u64; REASON_COUNT]);

impl Counters {
    /// How often a verdict had this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// How often this happened.
    pub fn note(&self, note: Note) -> u64 {
        self.0[note.index() as usize]
    }
}

/// The programs, loaded, and their maps.
pub struct Kernel {
    ebpf: Ebpf,
}

impl Kernel {
    /// Loads the object with maps of modest size.
    ///
    /// # Errors
    /// No object, no privilege, or the verifier refuses a program; its log is in the error.
    pub fn load() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries(names::RINGS, 4096)
            .map_max_entries(names::FLOWS, 32_768);
        Self::load_with(&mut loader)
    }

    /// Loads the object as `loader` is set up.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(loader: &mut EbpfLoader<'_>) -> Result<Self> {
        let object = crate::object::bytes()?;
        let mut ebpf = loader
            .load(&object)
            .context("the object and its maps (root is needed)")?;
        let xdp: &mut Xdp = ebpf
            .program_mut(names::XDP_PROGRAM)
            .context(names::XDP_PROGRAM)?
            .try_into()?;
        xdp.load().context(names::XDP_PROGRAM)?;
        let steer: &mut SkLookup = ebpf
            .program_mut(names::STEER_PROGRAM)
            .context(names::STEER_PROGRAM)?
            .try_into()?;
        steer.load().context(names::STEER_PROGRAM)?;
        Ok(Self { ebpf })
    }

    /// The object behind it.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// `weir_xdp`.
    ///
    /// # Errors
    /// Not in the object.
    pub fn xdp(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program(names::XDP_PROGRAM)
            .context(names::XDP_PROGRAM)?
            .try_into()?)
    }

    /// Runs `weir_xdp` on a frame that came in by `lo`.
    ///
    /// # Errors
    /// The kernel refuses the run: a frame under 14 bytes, for one.
    pub fn run(&self, frame: &[u8]) -> Result<Run> {
        self.run_from(frame, None)
    }

    /// Runs `weir_xdp` on a frame that came in by an interface of the thread's namespace.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_from(&self, frame: &[u8], ifindex: Option<u32>) -> Result<Run> {
        let mut out = vec![0; frame.len() + 64];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Option<Vec<u8>> = ifindex.map(|ifindex| {
            [0, frame.len() as u32, 0, ifindex, 0, 0]
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect()
        });
        let result = self.xdp()?.test_run(TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: context.as_deref(),
            ..TestRunOptions::default()
        })?;
        out.truncate(result.data_size_out as usize);
        Ok(Run {
            verdict: result.return_value,
            frame: out,
        })
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("no map {name}"))
    }

    fn map_mut(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }

    fn insert<K: Layout, V: Layout>(&mut self, name: &str, key: K, value: V) -> Result<()>
    where
        Raw<K>: Pod,
        Raw<V>: Pod,
    {
        let mut map: HashMap<&mut MapData, Raw<K>, Raw<V>> = self.map_mut(name)?.try_into()?;
        map.insert(Raw(key), Raw(value), 0)
            .with_context(|| format!("write to {name}"))
    }

    fn get<K: Layout, V: Layout>(&self, name: &str, key: K) -> Result<Option<V>>
    where
        Raw<K>: Pod,
        Raw<V>: Pod,
    {
        let map: HashMap<&MapData, Raw<K>, Raw<V>> = self.map(name)?.try_into()?;
        match map.get(&Raw(key), 0) {
            Ok(Raw(value)) => Ok(Some(value)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(e) => Err(anyhow!(e)),
        }
    }

    /// Writes `SERVICES`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn service(&mut self, key: ServiceKey, service: Service) -> Result<()> {
        self.insert(names::SERVICES, key, service)
    }

    /// Writes `BACKENDS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn backend(&mut self, index: u32, backend: Backend) -> Result<()> {
        let mut map: Array<&mut MapData, Raw<Backend>> = self.map_mut(names::BACKENDS)?.try_into()?;
        Ok(map.set(index, Raw(backend), 0)?)
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

    /// Writes `SETTINGS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn settings(&mut self, settings: Settings) -> Result<()> {
        let mut map: Array<&mut MapData, Raw<Settings>> = self.map_mut(names::SETTINGS)?.try_into()?;
        Ok(map.set(0, Raw(settings), 0)?)
    }

    /// Writes `FLOWS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn record_flow(&mut self, key: FlowKey, state: FlowState) -> Result<()> {
        self.insert(names::FLOWS, key, state)
    }

    /// Reads `FLOWS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flow(&self, key: FlowKey) -> Result<Option<FlowState>> {
        self.get(names::FLOWS, key)
    }

    /// All of `FLOWS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn flows(&self) -> Result<std::collections::HashMap<FlowKey, FlowState>> {
        let map: HashMap<&MapData, Raw<FlowKey>, Raw<FlowState>> = self.map(names::FLOWS)?.try_into()?;
        map.iter()
            .map(|entry| entry.map(|(Raw(k), Raw(v))| (k, v)).map_err(|e| anyhow!(e)))
            .collect()
    }

    /// Writes `RETURNS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn return_target(&mut self, key: ReturnKey, target: ReturnTarget) -> Result<()> {
        self.insert(names::RETURNS, key, target)
    }

    /// Reads `RETURN_FLOWS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn return_flow(&self, key: FlowKey) -> Result<Option<ReturnVip>> {
        self.get(names::RETURN_FLOWS, key)
    }

    /// All of `RETURN_FLOWS`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn return_flows(&self) -> Result<std::collections::HashMap<FlowKey, ReturnVip>> {
        let map: HashMap<&MapData, Raw<FlowKey>, Raw<ReturnVip>> =
            self.map(names::RETURN_FLOWS)?.try_into()?;
        map.iter()
            .map(|entry| entry.map(|(Raw(k), Raw(v))| (k, v)).map_err(|e| anyhow!(e)))
            .collect()
    }

    /// All counters.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counters(&self) -> Result<Counters> {
        let map: PerCpuArray<&MapData, u64> = self.map(names::REASONS)?.try_into()?;
        let mut out = [0; REASON_COUNT];
        for (counter, index) in out.iter_mut().zip(0..) {
            *counter = map.get(&index, 0)?.iter().sum();
        }
        Ok(Counters(out))
    }

    /// Sets all counters back to 0.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear_counters(&mut self) -> Result<()> {
        let cpus = nr_cpus().map_err(|(file, e)| anyhow!("{file}: {e}"))?;
        let mut map: PerCpuArray<&mut MapData, u64> = self.map_mut(names::REASONS)?.try_into()?;
        for index in 0..REASON_COUNT as u32 {
            map.set(index, PerCpuValues::try_from(vec![0; cpus])?, 0)?;
        }
        Ok(())
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

    /// Takes all events that are queued.
    ///
    /// # Errors
    /// The kernel refuses, or an event has another size than `weir-abi` says.
    pub fn events(&mut self) -> Result<Vec<NeighborEvent>> {
        let mut ring = RingBuf::try_from(self.map_mut(names::EVENTS)?)?;
        let mut out = Vec::new();
        while let Some(item) = ring.next() {
            ensure!(
                item.len() == size_of::<NeighborEvent>(),
                "an event of {} bytes",
                item.len()
            );
            let word = |at: usize| u32::from_ne_bytes([item[at], item[at + 1], item[at + 2], item[at + 3]]);
            out.push(NeighborEvent {
                addr: weir_abi::Addr16 {
                    words: [word(0), word(4), word(8), word(12)],
                },
                ifindex: word(16),
                reserved: word(20),
            });
        }
        Ok(out)
    }
}

/// What the kernel knows of a map, whatever its type.
///
/// # Errors
/// A type that the object has no map of.
pub fn map_data(map: &Map) -> Result<&MapData> {
    let (Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::SockMap(data)
    | Map::RingBuf(data)) = map
    else {
        bail!("a map of a type that is not ours: {map:?}");
    };
    Ok(data)
}

/// The key of a service.
pub fn service_key(addr: SocketAddr, protocol: u8) -> ServiceKey {
    ServiceKey {
        addr: addr.ip().into(),
        port_proto: port_proto(addr.port().to_be(), protocol),
    }
}

/// The key of a backend's answers.
pub fn return_key(addr: SocketAddr, protocol: u8) -> ReturnKey {
    ReturnKey {
        addr: addr.ip().into(),
        port_proto: port_proto(addr.port().to_be(), protocol),
    }
}

/// The key of a flow.
pub fn flow_key(src: SocketAddr, dst: SocketAddr, protocol: u8) -> FlowKey {
    let ([a, b], [c, d]) = (src.port().to_be_bytes(), dst.port().to_be_bytes());
    FlowKey {
        src: src.ip().into(),
        dst: dst.ip().into(),
        ports: u32::from_ne_bytes([a, b, c, d]),
        proto: u32::from(protocol),
    }
}

/// A backend.
pub fn backend(addr: SocketAddr, flags: u32) -> Backend {
    Backend {
        addr: addr.ip().into(),
        port: u32::from(addr.port().to_be()),
        flags,
    }
}
