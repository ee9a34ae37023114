//! `explain` against the kernel: the answer is given first, then the packet goes through the program (BPF_PROG_TEST_RUN), and
//! what comes out must be the same to the byte, and counted the same.
//!
//! What is counted in a second (connections, answers, records) is judged by the clock, which explain reads a moment before
//! the program. A packet between whose answer and whose run a second begins is let through and not compared; they are
//! counted, and few. Two answers differ by design, since the kernel's secret is its own: the number of a SYN cookie, and that
//! an ACK to the relay is taken for one of a connection that there is.

mod packets;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::maps::{Array, Map, MapData};
use tokio::sync::watch;
use weir_abi::names;
use weir_core::{
    ids::{BackendKey, Protocol},
    plan::IpNet,
};
use weir_datapath::{
    Capacities, Close, Datapath, Note, Options, Tunables, Verdict,
    explain::{Explanation, Rule, WayOut},
    listen::{self, ListenOptions},
    routing::{Watcher, Ways},
};

use self::{
    packets::{Ends, Traffic},
    world::wish,
};
use crate::{
    lab::{DEADLINE, Lab, VIP4, VIP6, bpffs, listen as key, wait_for},
    nat::prepare,
};

const FLOWS: usize = 100_000;
/// Flows between two changes.
const ROUND: usize = 500;
/// Backends of each family, in every pool.
const BACKENDS: u8 = 6;

/// Numbers by chance, the same in each run (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn address(v4: bool, n: u8) -> IpAddr {
    let text = if v4 {
        format!("10.0.0.{}", 100 + n)
    } else {
        format!("2001:db8:b::{}", 100 + n)
    };
    text.parse().unwrap()
}

fn all_addresses() -> Vec<IpAddr> {
    let numbers = (0..BACKENDS).flat_map(|n| [(true, n), (false, n)]);
    numbers.map(|(v4, n)| address(v4, n)).collect()
}

/// The fields of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    rest: [u32; 11],
}

/// What the kernel's program returns for a frame, and the frame afterwards.
fn run(program: BorrowedFd<'_>, frame: &[u8]) -> (u32, Vec<u8>) {
    const BPF_PROG_TEST_RUN: libc::c_long = 10;
    let mut out = vec![0_u8; 4096];
    let mut attr = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_size_out: out.len() as u32,
        data_in: frame.as_ptr() as u64,
        data_out: out.as_mut_ptr() as u64,
        repeat: 1,
        ..TestRun::default()
    };
    // SAFETY: the kernel reads `data_size_in` bytes at `data_in`, writes at most `data_size_out` at `data_out` and the
    // results into `attr`; all three live through the call, and the sizes are theirs.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_TEST_RUN,
            std::ptr::from_mut(&mut attr),
            size_of::<TestRun>(),
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    out.truncate(attr.data_size_out as usize);
    (attr.retval, out)
}

/// The ways to all backends and to the clients, as the kernel's routes have them.
fn ways(lab: &Lab, datapath: &mut Datapath) -> Ways {
    let (sender, receiver) = watch::channel(all_addresses());
    let (found, mut ways) = watch::channel(None::<Ways>);
    let (asked, _asking) = watch::channel(Vec::new());
    std::thread::scope(|scope| {
        let task = scope.spawn(|| {
            lab.weir.run(|| {
                // No deadline: it ends when nobody wants ways any more.
                let mut builder = tokio::runtime::Builder::new_current_thread();
                let runtime = builder.enable_all().build().unwrap();
                runtime.block_on(async { Watcher::new().unwrap().run(receiver, found, asked).await });
            });
        });
        let complete = wait_for("the ways to all backends", || {
            let now = ways.borrow_and_update().clone()?;
            datapath.set_ways(&now).unwrap();
            (datapath.next_hops().asked == 0).then_some(now)
        });
        drop(sender);
        task.join().unwrap();
        complete
    })
}

/// Makes changes of rings older, by chance.
fn age(rings: &mut Array<MapData, [u8; 8]>, chance: &mut Chance) {
    // Beyond the grace of UDP, of TCP too, beyond the horizon: never near a border, so that a second more is no difference.
    let by = [600, 1200, 3000][chance.below(3) as usize];
    for index in 0..rings.len() {
        let mut slot = rings.get(&index, 0).unwrap();
        let changed = u32::from_ne_bytes(slot[4..].try_into().unwrap());
        if changed != 0 && chance.one_in(2) {
            slot[4..].copy_from_slice(&changed.saturating_sub(by).max(1).to_ne_bytes());
            rings.set(index, slot, 0).unwrap();
        }
    }
}

/// What was counted, by name.
#[derive(Default, PartialEq, Eq, Debug)]
struct Tally(BTreeMap<String, u64>);

impl Tally {
    fn count(&mut self, name: impl Into<String>) {
        *self.0.entry(name.into()).or_default() += 1;
    }

    fn notes(&mut self, explained: &Explanation) {
        explained.notes.iter().for_each(|note| self.count(note.name()));
    }

    /// `listed`: the backends whose traffic is told. The rest of a datagram follows its first piece to one that is gone.
    fn add(&mut self, explained: &Explanation, listed: &BTreeSet<BackendKey>) {
        self.count(explained.reason.name());
        self.notes(explained);
        if explained.reason.verdict() == Verdict::Forward
            && let Some(backend) = &explained.backend
            && listed.contains(backend)
        {
            self.count(backend.to_string());
        }
    }

    /// What the kernel has counted so far.
    fn of(datapath: &Datapath) -> Self {
        let counters = datapath.counters().unwrap();
        let reasons = counters
            .reasons
            .into_iter()
            .map(|(r, n)| (r.name().to_owned(), n));
        // Cookies are made for a socket, which the kernel finds by way of `weir_steer`: that counts for itself.
        let notes = counters
            .notes
            .into_iter()
            .filter(|(note, _)| *note != Note::Steered);
        let notes = notes.map(|(note, n)| (note.name().to_owned(), n));
        let backends = datapath.backend_traffic().unwrap().into_iter();
        let backends = backends.map(|(key, t)| (key.to_string(), t.packets_in + t.packets_out));
        let all = reasons.chain(notes).chain(backends);
        Self(all.filter(|(_, n)| *n != 0).collect())
    }

    /// Packets that were counted.
    fn verdicts(&self) -> u64 {
        let reasons = weir_datapath::Reason::ALL.iter();
        reasons.filter_map(|reason| self.0.get(reason.name())).sum()
    }

    fn merge(&mut self, other: &Self) {
        for (name, n) in &other.0 {
            *self.0.entry(name.clone()).or_default() += n;
        }
    }

    /// What differs from another: how often here, how often there.
    fn differences<'a>(&'a self, other: &'a Self) -> BTreeMap<&'a str, (u64, u64)> {
        let of = |tally: &Self, name: &str| tally.0.get(name).copied().unwrap_or(0);
        let names = self.0.keys().chain(other.0.keys());
        let both = names.map(|name| (name.as_str(), (of(self, name), of(other, name))));
        both.filter(|(_, (here, there))| here != there).collect()
    }

    /// The difference to an earlier one.
    fn since(&self, before: &Self) -> Self {
        let new = self.0.iter().map(|(name, n)| {
            let before = before.0.get(name).copied().unwrap_or(0);
            (name.clone(), n - before)
        });
        Self(new.filter(|(_, n)| *n != 0).collect())
    }
}

/// Seconds of a clock that the programs or explain read.
fn second(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one timespec to `now`.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut now) }, 0);
    now.tv_sec
}

/// A connection to each service of the relay in each family, from the client's stack to that of the box.
fn connect(lab: &Lab, groups: &[OwnedFd]) -> Vec<(TcpStream, TcpStream)> {
    let listeners = groups.iter().map(|fd| TcpListener::from(fd.try_clone().unwrap()));
    listeners
        .zip(relay_keys())
        .map(|(listener, key)| {
            let to = SocketAddr::new(key.addr, key.port);
            let client = lab.client.run(|| TcpStream::connect_timeout(&to, DEADLINE));
            let accepted = wait_for("the connection", || listener.accept().ok());
            (client.unwrap(), accepted.0)
        })
        .collect()
}

fn relay_keys() -> Vec<weir_core::ids::ListenKey> {
    let both = world::RELAY.map(|port| [VIP4, VIP6].map(|vip| key(vip, port, Protocol::Tcp)));
    both.concat()
}

/// A frame without what of a SYN cookie's answer only the kernel knows: the number, the MSS, the checksum.
fn without_cookie(mut frame: Vec<u8>) -> Vec<u8> {
    let at = if frame[12] == 0x81 { 18 } else { 14 };
    let tcp = at + if frame[at] >> 4 == 4 { 20 } else { 40 };
    for range in [4..8, 16..18, 22..24] {
        frame[tcp..][range].fill(0);
    }
    frame
}

/// What is the same in all rounds.
struct Bench<'a> {
    program: BorrowedFd<'a>,
    datapath: &'a Datapath,
}

/// What came of a round, or of all.
#[derive(Default, Debug)]
struct Came {
    /// As it was explained.
    tally: Tally,
    rules: BTreeMap<&'static str, u64>,
    /// Packets that were not compared.
    left_out: usize,
}

impl Bench<'_> {
    /// Some packets, explained and run.
    fn round(&self, traffic: &mut Traffic, chance: &mut Chance, cookies: bool, all: &mut Came) {
        let listed = self.datapath.backend_traffic().unwrap();
        let listed = listed.into_iter().map(|(key, _)| key).collect();
        let mut before = Tally::of(self.datapath);
        let mut tally = Tally::default();
        for _ in 0..ROUND {
            let asked = traffic.next(chance);
            let mut frame = asked.frame.clone();
            let began = second(libc::CLOCK_MONOTONIC_COARSE);
            let explained = self.datapath.explain_frame(&mut frame).unwrap();
            let (returned, out) = run(self.program, &asked.frame);
            // Of what only the kernel's routes know (the rest of a datagram whose backend is gone), explain says so.
            let asked_routes = explained.way == Some(WayOut::Asked);
            if second(libc::CLOCK_MONOTONIC) != began || asked_routes {
                let kernel = Tally::of(self.datapath).since(&before);
                assert_eq!(kernel.verdicts(), tally.verdicts() + 1, "a packet has one reason");
                all.tally.merge(&tally);
                (before, tally) = (Tally::of(self.datapath), Tally::default());
                all.left_out += 1;
                continue;
            }
            // Explain takes it for one of a connection that there is; the kernel knows better.
            let stray = cookies && asked.stray_ack && explained.reason.name() == "relay";
            let fits: &[u32] = match explained.reason.verdict() {
                Verdict::Pass if stray => &[1],
                Verdict::Drop => &[1],
                Verdict::Pass => &[2],
                // By the interface it came in by, or by another.
                Verdict::Forward | Verdict::Reply => &[3, 4],
            };
            assert!(
                fits.contains(&returned),
                "the kernel says {returned}, not {explained:?}: {:02x?}",
                asked.frame
            );
            if explained.reason.name() == "syn-cookie" {
                assert_eq!(without_cookie(out), without_cookie(frame), "{explained:?}");
            } else {
                assert_eq!(out, frame, "{explained:?}: {:02x?}", asked.frame);
            }
            if stray {
                tally.count("cookie-invalid");
                tally.notes(&explained);
                continue;
            }
            tally.add(&explained, &listed);
            if explained.reason.verdict() == Verdict::Forward
                && let Some(shape) = explained.becomes.as_ref().filter(|shape| shape.outer.is_none())
            {
                let answer = explained.rule == Some(Rule::Answer);
                traffic.went(&asked, shape.src, shape.dst, answer);
            }
            if let Some(rule) = explained.rule {
                *all.rules.entry(rule.as_str()).or_insert(0) += 1;
            }
        }
        let kernel = Tally::of(self.datapath).since(&before);
        assert!(
            kernel == tally,
            "(explained, counted): {:?}",
            tally.differences(&kernel)
        );
        all.tally.merge(&tally);
    }
}

#[test]
fn what_is_explained_is_what_the_kernel_does() {
    // Windows of limits and blocks of ports are each CPU's own.
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).unwrap();

    let lab = Lab::new();
    prepare(&lab);
    lab.weir.ip("route add default via 198.51.100.2
         -6 route add default via 2001:db8:c::2");
    let tunables = Tunables {
        udp_grace: 400,
        tcp_grace: 800,
        horizon: 1600,
        nat_time_wait: 100_000,
        nat_tcp_idle: 100_000,
        nat_udp_idle: 100_000,
        ..Tunables::default()
    };
    let options = Options {
        tunables,
        capacities: Capacities {
            backends: 1024,
            flows: 1 << 17,
            return_flows: 1 << 17,
            nat_flows: 1 << 17,
            fragments: 1 << 14,
            clients: 1 << 16,
            ..lab.options().capacities
        },
        ..lab.options()
    };
    let mut chance = Chance(7);
    let mut datapath = lab.weir.run(|| Datapath::open(options)).unwrap();
    let all = wish(&mut chance, true);
    lab.weir.run(|| datapath.reconcile(&all)).unwrap();
    let groups: Vec<_> = relay_keys()
        .into_iter()
        .flat_map(|key| {
            let bind = || listen::bind(key, listen::How::Steered, 1, &ListenOptions::default());
            lab.weir.run(bind).unwrap()
        })
        .collect();
    let listeners: Vec<_> = relay_keys()
        .into_iter()
        .zip(groups.iter().map(OwnedFd::as_fd))
        .collect();
    datapath.steer(&listeners).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    let connections = connect(&lab, &groups);

    lab.weir.ip(
        "neigh replace 198.51.100.2 lladdr 02:00:00:00:01:01 dev outer nud permanent
         neigh replace 2001:db8:c::2 lladdr 02:00:00:00:01:01 dev outer nud permanent",
    );
    for address in all_addresses() {
        let commands = format!("neigh replace {address} lladdr 02:00:00:00:02:01 dev inner nud permanent");
        lab.weir.ip(&commands);
    }
    let ways = ways(&lab, &mut datapath);
    // From now on no packet but the test's.
    lab.client.ip("link set c0 down");
    lab.backends.ip("link set b0 down");

    let link = lab.weir.output("ip -j link show dev outer");
    let (_, id) = link.split_once("\"prog\":{\"id\":").unwrap();
    let id: u32 = id
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let mut programs = aya::programs::loaded_programs().flatten();
    let program = programs.find(|program| program.id() == id).unwrap().fd().unwrap();

    let maps = bpffs().join(format!("weir/{:016x}/maps", weir_abi::ABI_HASH));
    let rings = lab
        .weir
        .run(|| MapData::from_pin(maps.join(names::RINGS)))
        .unwrap();
    let mut rings = Array::<_, [u8; 8]>::try_from(Map::Array(rings)).unwrap();
    let banned = [("203.0.7.0", 24), ("2001:db8:cc::700", 120)];
    let banned = banned.map(|(addr, len)| IpNet::new(addr.parse().unwrap(), len).unwrap());
    lab.weir.run(|| datapath.ban(&banned, None)).unwrap();

    let ends = |(client, _): &(TcpStream, TcpStream)| {
        let (src, dst) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        (src, dst, Protocol::Tcp)
    };
    let mut traffic = Traffic::new(connections.iter().map(ends).collect::<Vec<Ends>>());
    let mut came = Came::default();
    // The kernel's stack is asked for sockets of the namespace that the program runs in.
    lab.weir.run(|| {
        for round in 0..FLOWS / ROUND {
            if round % 4 == 0 {
                datapath.reconcile(&wish(&mut chance, false)).unwrap();
                datapath.set_ways(&ways).unwrap();
            }
            if round % 3 == 0 {
                age(&mut rings, &mut chance);
            }
            let mut most = |few: u32| if chance.one_in(4) { few } else { u32::MAX };
            let now = Tunables {
                record_limit: most(0),
                reply_limit: most(0),
                // Above it, SYNs are answered by cookies.
                cookie_rate: most(3),
                accounting: most(0) == 0,
                ..tunables
            };
            datapath.tune(now).unwrap();
            let cookies = chance.one_in(2);
            datapath.set_syncookies(cookies).unwrap();
            let bench = Bench {
                program: program.as_fd(),
                datapath: &datapath,
            };
            bench.round(&mut traffic, &mut chance, cookies, &mut came);
        }
    });
    println!("{came:?}");
    assert!(
        came.left_out < FLOWS / 20,
        "{} packets not compared",
        came.left_out
    );
    for rule in [
        Rule::First,
        Rule::Stable,
        Rule::Recorded,
        Rule::Remapped,
        Rule::Predecessor,
        Rule::Present,
        Rule::ServerId,
        Rule::Answer,
        Rule::Reset,
        Rule::Translated,
        Rule::NewTranslation,
    ] {
        assert!(
            came.rules.contains_key(rule.as_str()),
            "no flow met {rule:?}: {came:?}"
        );
    }
    for name in [
        "forward-nat",
        "forward-dsr",
        "forward-ipip",
        "forward-full-nat",
        "forward-icmp",
        "return-nat",
        "return-full-nat",
        "return-icmp",
        "echo-reply",
        "too-big-sent",
        "too-big",
        "ttl-expired-sent",
        "ttl-expired",
        "reset-sent",
        "reply-limited",
        "syn-cookie",
        "cookie-invalid",
        "relay",
        "icmp",
        "fragment",
        "banned",
        "source-rate",
        "source-connections",
        "nat-unknown",
        "no-service",
        "quic-id",
        "quic-fallback",
        "fragment-recorded",
        "flow-record-limited",
        "source-banned",
        "source-uncounted",
        "mss-clamped",
    ] {
        assert!(came.tally.0.contains_key(name), "no packet met {name}: {came:?}");
    }
    // What no packet may bring about.
    for name in ["inconsistent", "internal"] {
        assert!(!came.tally.0.contains_key(name), "a packet met {name}: {came:?}");
    }
    drop(connections);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
