//! What the tests stand on: namespaces without names, wires between them, a datapath in one, waiting with a deadline.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};
use weir_core::{
    ids::{BackendKey, ListenKey, PoolName, Protocol, Scope, ServiceName},
    plan::{Forward, PerSource, XdpMode},
};
use weir_datapath::{
    Capacities, Options, Tunables, Wanted, WantedAction, WantedBackend, WantedForward, WantedService,
};

/// How long anything may take. Generous: a busy machine is no failure.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `what` gives something.
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A network and mount namespace.
#[derive(Debug)]
pub(crate) struct Space {
    net: OwnedFd,
    mounts: OwnedFd,
}

impl Space {
    /// A new pair with `lo` up and a bpf file system at [`bpffs`].
    pub(crate) fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests need root: run `cargo xtask test` as root"
        );
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces can be made");
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                    .expect("mounts can be made private");
                // The directory exists on every kernel with BPF; only this namespace sees what is mounted here.
                mount(Some("bpf"), bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>)
                    .expect("a bpf file system can be mounted");
                ip("link set lo up");
                let open =
                    |name: &str| OwnedFd::from(File::open(format!("/proc/thread-self/ns/{name}")).unwrap());
                Self {
                    net: open("net"),
                    mounts: open("mnt"),
                }
            });
            made.join().expect("a namespace")
        })
    }

    /// A new network namespace that shares the mounts of another, and with them the pins.
    pub(crate) fn beside(other: &Self) -> Self {
        Self {
            mounts: other.mounts.try_clone().unwrap(),
            ..Self::new()
        }
    }

    /// Runs a closure inside. Sockets and runtimes made there stay there.
    pub(crate) fn run<R: Send>(&self, inside: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_FS).unwrap();
                setns(&self.net, CloneFlags::CLONE_NEWNET).unwrap();
                setns(&self.mounts, CloneFlags::CLONE_NEWNS).unwrap();
                inside()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs `ip` inside; several commands, one per line.
    pub(crate) fn ip(&self, commands: &str) {
        self.run(|| {
            commands
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .for_each(ip)
        });
    }

    /// Output of a command inside.
    pub(crate) fn output(&self, command: &str) -> String {
        self.run(|| output(command))
    }

    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_fd().as_raw_fd())
    }
}

/// Where each space has a bpf file system.
pub(crate) fn bpffs() -> &'static Path {
    Path::new("/sys/fs/bpf")
}

fn output(command: &str) -> String {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a command");
    let output = Command::new(program)
        .args(words)
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be started ({e}): install iproute2 and ethtool"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "`{command}` failed: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

fn ip(arguments: &str) {
    output(&format!("ip {arguments}"));
}

/// A wire: `left` in one space, `right` in the other, both up. Set as XDP needs it on a veth: no checksum offload, and
/// GRO so that frames that XDP sends are received.
pub(crate) fn wire(a: &Space, left: &str, b: &Space, right: &str) {
    a.ip(&format!(
        "link add {left} type veth peer name {right} netns {}",
        b.path()
    ));
    for (space, name) in [(a, left), (b, right)] {
        space.ip(&format!("link set {name} up"));
    }
    // Only now: a veth tells its peer that it can receive frames from XDP only when GRO is switched on while it is up.
    for (space, name) in [(a, left), (b, right)] {
        space.output(&format!("ethtool -K {name} gro on tx off"));
    }
}

/// A client, the balancer and two backends on one inner network:
///
/// ```text
/// client 198.51.100.2 ── outer 198.51.100.1 │ box │ inner 10.0.0.1 ── 10.0.0.11, 10.0.0.12 backends
/// 2001:db8:c::2          2001:db8:c::1               2001:db8:b::1    2001:db8:b::11, ::12
/// ```
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) client: Space,
    pub(crate) weir: Space,
    pub(crate) backends: Space,
    pub(crate) state: tempfile::TempDir,
}

/// The virtual addresses that [`Lab::new`] routes to the box, outside every connected subnet.
pub(crate) const VIP4: &str = "192.0.2.10";
pub(crate) const VIP6: &str = "2001:db8:a::10";

impl Lab {
    pub(crate) fn new() -> Self {
        assert!(
            weir_datapath::is_embedded(),
            "this test needs the eBPF object: `cargo xtask build`, or WEIR_EBPF_OBJECT=/path/to/weir.o"
        );
        let lab = Self {
            client: Space::new(),
            weir: Space::new(),
            backends: Space::new(),
            state: tempfile::tempdir().unwrap(),
        };
        wire(&lab.weir, "outer", &lab.client, "c0");
        wire(&lab.weir, "inner", &lab.backends, "b0");
        lab.weir.ip("addr add 198.51.100.1/24 dev outer
             addr add 2001:db8:c::1/64 dev outer nodad
             addr add 10.0.0.1/24 dev inner
             addr add 2001:db8:b::1/64 dev inner nodad");
        lab.client.ip("addr add 198.51.100.2/24 dev c0
             addr add 2001:db8:c::2/64 dev c0 nodad
             route add default via 198.51.100.1
             -6 route add default via 2001:db8:c::1");
        lab.backends.ip("addr add 10.0.0.11/24 dev b0
             addr add 10.0.0.12/24 dev b0
             addr add 2001:db8:b::11/64 dev b0 nodad
             addr add 2001:db8:b::12/64 dev b0 nodad
             route add default via 10.0.0.1
             -6 route add default via 2001:db8:b::1");
        lab
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state.path().to_owned()
    }

    /// Small maps: each test makes its own.
    pub(crate) fn options(&self) -> Options {
        Options {
            pins: bpffs().join("weir"),
            state_dir: self.state_dir(),
            interfaces: vec!["outer".into(), "inner".into()],
            mode: XdpMode::Native,
            hash_key: None,
            discard_flows: false,
            tunables: Tunables::default(),
            capacities: Capacities {
                service_keys: 64,
                services: 16,
                backends: 64,
                ring_slots: 1 << 16,
                flows: 1024,
                returns: 64,
                return_flows: 1024,
                nat_flows: 1024,
                fragments: 64,
                lists: 1024,
                clients: 64,
                sockets: 64,
                events: 4096,
            },
        }
    }
}

pub(crate) fn listen(addr: &str, port: u16, protocol: Protocol) -> ListenKey {
    ListenKey {
        addr: addr.parse().unwrap(),
        port,
        protocol,
        scope: Scope::Address,
        interface: None,
    }
}

pub(crate) fn backend(address: SocketAddr) -> WantedBackend {
    WantedBackend {
        key: BackendKey {
            pool: PoolName::new("pool"),
            address,
        },
        weight: 1,
        alive: true,
        quic_id: None,
    }
}

pub(crate) fn nat(name: &str, keys: &[ListenKey], backends: &[WantedBackend]) -> WantedService {
    WantedService {
        name: ServiceName::new(name),
        keys: keys.to_vec(),
        action: WantedAction::Forward(WantedForward::new(Forward::Nat, 1009, backends.to_vec())),
        per_source: PerSource::default(),
    }
}

pub(crate) fn wanted(services: impl IntoIterator<Item = WantedService>) -> Wanted {
    Wanted {
        services: services.into_iter().collect(),
    }
}

/// Runs a future with a deadline, in a runtime of its own on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(DEADLINE, future)
            .await
            .expect("it ends before the deadline")
    })
}

/// Has the kernel of a space resolve the link address of a neighbor, by sending to it.
pub(crate) fn resolve(space: &Space, neighbor: &str) {
    let target: IpAddr = neighbor.parse().unwrap();
    space.run(|| {
        let from: SocketAddr = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }
            .parse()
            .unwrap();
        let socket = std::net::UdpSocket::bind(from).unwrap();
        wait_for(&format!("the link address of {neighbor}"), || {
            // Errors are the neighbor's refusals of the datagram before: they came back, so it is there.
            let _: io::Result<usize> = socket.send_to(b"x", (target, 9));
            output(&format!("ip neigh show to {neighbor}"))
                .contains("lladdr")
                .then_some(())
        });
    });
}
