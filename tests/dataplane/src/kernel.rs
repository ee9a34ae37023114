//! A loaded copy of the programs, with the maps as `weir-abi` describes them.
//!
//! Owns loading (the stages too, as far as the object has them), running, counters and events. `kernel/tables.rs` reads
//! and writes the other maps.

use std::fmt;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData, PerCpuArray, PerCpuValues, ProgramArray, RingBuf},
    programs::{ProgramFd, SchedClassifier, SkLookup, TestRun as _, TestRunOptions, Xdp},
    util::nr_cpus,
};
use weir_abi::{Addr16, CaptureRecord, NeighborEvent, Note, REASON_COUNT, Reason, names};

mod keys;
mod layout;
mod spare;
mod steer;
mod tables;

use spare::Lent;

pub use keys::{backend, flow_key, host_prefix, prefix, return_key, service_key};
pub use steer::Steered;

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
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Counters(pub [u64; REASON_COUNT]);

/// By name, and no zeros.
impl fmt::Debug for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons = Reason::ALL.iter().map(|reason| reason.name());
        let names = reasons.chain(Note::ALL.iter().map(|note| note.name()));
        let counted = names.zip(self.0).filter(|(_, count)| *count != 0);
        f.debug_map().entries(counted).finish()
    }
}

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
    ebpf: Lent,
}

impl Kernel {
    /// Loads the object with maps of modest size, or takes a copy that another test has done with.
    ///
    /// # Errors
    /// No object, no privilege, or the verifier refuses a program; its log is in the error.
    pub fn load() -> Result<Self> {
        if let Some(ebpf) = Lent::spare() {
            return Ok(Self { ebpf });
        }
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries(names::RINGS, 4096)
            .map_max_entries(names::FLOWS, 32_768);
        let ebpf = Lent::ordinary(load(&mut loader)?);
        Ok(Self { ebpf })
    }

    /// Loads the object as `loader` is set up.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_with(loader: &mut EbpfLoader<'_>) -> Result<Self> {
        let ebpf = Lent::special(load(loader)?);
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

    /// Runs `weir_take` on a frame that has a mark and came in by an interface: its verdict, as tc numbers it, and the mark that
    /// the frame has then.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn run_take(&self, frame: &[u8], mark: u32, ifindex: u32) -> Result<(i32, u32)> {
        // struct __sk_buff: len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority,
        // ingress_ifindex, ifindex.
        let words = [0, 0, mark, 0, 0, 0, 0, 0, 0, 0, ifindex];
        let context: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut after = vec![0; 256];
        let take: &SchedClassifier = self
            .ebpf
            .program(names::TAKE_PROGRAM)
            .context(names::TAKE_PROGRAM)?
            .try_into()?;
        let result = take.test_run(TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        })?;
        let mark = after.get(8..12).and_then(|word| word.try_into().ok());
        Ok((
            result.return_value.cast_signed(),
            u32::from_ne_bytes(mark.context("no mark")?),
        ))
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

    /// Takes all packets that were captured.
    ///
    /// # Errors
    /// The kernel refuses, or a packet is not as long as its record says.
    pub fn captured(&mut self) -> Result<Vec<(CaptureRecord, Vec<u8>)>> {
        const RECORD: usize = size_of::<CaptureRecord>();
        let mut ring = RingBuf::try_from(self.map_mut(names::CAPTURED)?)?;
        let mut out = Vec::new();
        while let Some(item) = ring.next() {
            ensure!(item.len() >= RECORD, "a packet of {} bytes", item.len());
            let word = |at: usize| u32::from_ne_bytes([item[at], item[at + 1], item[at + 2], item[at + 3]]);
            let record = CaptureRecord {
                time: u64::from(word(0)) | u64::from(word(4)) << 32,
                frame_len: word(8),
                captured: word(12),
                ifindex: word(16),
                egress: word(20),
                reason: word(24),
                reserved: word(28),
            };
            let bytes = item[RECORD..].to_vec();
            ensure!(
                bytes.len() == record.captured as usize,
                "{record:?}: {} bytes",
                bytes.len()
            );
            out.push((record, bytes));
        }
        Ok(out)
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
                addr: Addr16 {
                    words: [word(0), word(4), word(8), word(12)],
                },
                ifindex: word(16),
                reserved: word(20),
            });
        }
        Ok(out)
    }
}

/// Loads all programs, the stages where they are called from.
fn load(loader: &mut EbpfLoader<'_>) -> Result<Ebpf> {
    let object = crate::object::bytes()?;
    let mut ebpf = loader
        .load(&object)
        .context("the object and its maps (root is needed)")?;
    load_xdp(&mut ebpf, names::XDP_PROGRAM)?.context(names::XDP_PROGRAM)?;
    for (index, name) in names::STAGE_PROGRAMS {
        if let Some(program) = load_xdp(&mut ebpf, name)? {
            let mut stages = ProgramArray::try_from(ebpf.map_mut(names::STAGES).context(names::STAGES)?)?;
            stages
                .set(index, &program, 0)
                .with_context(|| format!("{name} behind {}", names::XDP_PROGRAM))?;
        }
    }
    for name in [names::STEER_PROGRAM, names::STEER_ANY_PROGRAM] {
        let steer: &mut SkLookup = ebpf.program_mut(name).context(name)?.try_into()?;
        steer.load().context(name)?;
    }
    for name in [names::TAKE_PROGRAM, names::LEAVE_PROGRAM, names::ARRIVE_PROGRAM] {
        let tc: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
        tc.load().context(name)?;
    }
    Ok(ebpf)
}

/// Loads an XDP program. None: the object has no such program.
fn load_xdp(ebpf: &mut Ebpf, name: &str) -> Result<Option<ProgramFd>> {
    let Some(program) = ebpf.program_mut(name) else {
        return Ok(None);
    };
    let program: &mut Xdp = program.try_into()?;
    program.load().with_context(|| name.to_owned())?;
    Ok(Some(program.fd()?.try_clone()?))
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
    | Map::LpmTrie(data)
    | Map::ProgramArray(data)
    | Map::RingBuf(data)) = map
    else {
        bail!("a map of a type that is not ours: {map:?}");
    };
    Ok(data)
}
