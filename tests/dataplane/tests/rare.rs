//! What hardly ever happens: a table of fragments that refuses, a socket that is gone.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::{EbpfLoader, maps::HashMap};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use weir_abi::{FragmentKey, FragmentState, Note, Reason, maps::steer, names};
use weir_dataplane_tests::{
    Both, Frame, Kernel, Lab, World,
    both::to_backend,
    frame::{moved, pieces},
    kernel::Steered,
    lab,
    world::{TCP, UDP},
};

/// A client, a service by `nat`, its backend, and the backend's number.
const NAT: [(&str, &str, &str, u8); 2] = [
    ("198.51.100.7:40000", "192.0.2.10:53", "10.9.0.3:5353", 3),
    (
        "[2001:db8:c::7]:40000",
        "[2001:db8:2::10]:53",
        "[2001:db8:9::4]:5353",
        4,
    ),
];

#[test]
fn a_datagram_whose_way_can_not_be_recorded_loses_its_later_fragments_alone() -> Result<()> {
    let world = World::standard();
    Lab::run(|lab| {
        let mut kernel = kernel_with_room_for_one_datagram()?;
        world.to_kernel(&mut kernel)?;
        let mut memory = world.to_memory(lab, lab::now()?);
        memory.fragment_capacity = 1;
        let mut both = Both { lab, kernel, memory };
        let recorded: [&[Note]; 2] = [&[Note::FragmentRecorded], &[Note::FragmentRecordFailed]];
        // The first has the room, the second finds none, and is sent all the same.
        for ((client, vip, backend, n), notes) in NAT.into_iter().zip(recorded) {
            let [first, _] = pieces(&Frame::udp(client, vip), n);
            let sent = to_backend(&first, n, backend).build();
            both.check(&first.build(), Reason::ForwardNat, notes, Some(&sent))
                .with_context(|| format!("the first fragment from {client}"))?;
        }
        let [(client, vip, backend, n), (other, to, _, m)] = NAT;
        let [_, later] = pieces(&Frame::udp(client, vip), n);
        let sent = moved(&later, Some((client, backend)), lab::backend_mac(n), lab::LAN_MAC);
        both.check(&later.build(), Reason::ForwardNat, &[], Some(&sent))?;
        let [_, lost] = pieces(&Frame::udp(other, to), m);
        both.check(&lost.build(), Reason::Fragment, &[], None)?;
        let held = both.kernel.fragments()?.len();
        ensure!(held == 1, "{held} datagrams are known");
        Ok(())
    })
}

/// The programs, with a table of fragments that does not make room by itself, as the kernel's (LRU) does.
fn kernel_with_room_for_one_datagram() -> Result<Kernel> {
    const KEY: usize = size_of::<FragmentKey>();
    const VALUE: usize = size_of::<FragmentState>();
    // A loader takes a map of another's by its pin. The directory exists on every kernel with BPF; only this thread sees what
    // is mounted there.
    let pins = Path::new("/sys/fs/bpf");
    unshare(CloneFlags::CLONE_NEWNS).context("mounts of one's own")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("private mounts")?;
    mount(Some("bpf"), pins, Some("bpf"), MsFlags::empty(), None::<&str>).context("a bpf file system")?;
    let pin = pins.join("refuses");
    HashMap::<_, [u8; KEY], [u8; VALUE]>::create(1, 0)?.pin(&pin)?;
    Kernel::load_with(EbpfLoader::new().map_pin_path(names::FRAGMENTS, &pin))
}

#[test]
fn a_connection_goes_to_its_socket_or_to_nobodys() -> Result<()> {
    let mut kernel = Kernel::load()?;
    let clients: [SocketAddr; 2] = ["198.51.100.7:40000".parse()?, "[2001:db8:c::7]:40000".parse()?];
    let vips: [SocketAddr; 2] = ["192.0.2.10:443".parse()?, "[2001:db8:2::10]:443".parse()?];
    let loopback = ["127.0.0.1:0", "[::1]:0"];
    for (nth, (from, to)) in clients.into_iter().zip(vips).enumerate() {
        let [tcp_at, udp_at] = [0, 1].map(|i| 2 * nth as u32 + i);
        let (tcp, udp) = (TcpListener::bind(loopback[nth])?, UdpSocket::bind(loopback[nth])?);
        let asked = |kernel: &mut Kernel, protocol| -> Result<(Steered, [u64; 2])> {
            kernel.clear_counters()?;
            let steered = kernel.look_up(from, to, protocol)?;
            let counters = kernel.counters()?;
            Ok((
                steered,
                [Note::Steered, Note::SteerNoSocket].map(|note| counters.note(note)),
            ))
        };
        ensure!(
            asked(&mut kernel, TCP)? == (Steered::Passed, [0, 0]),
            "{to} is nobody's yet"
        );

        // Known, and no socket there: the kernel must not look on, for it might find another program's.
        kernel.steer(to, TCP, tcp_at)?;
        kernel.steer(to, UDP, udp_at)?;
        for protocol in [TCP, UDP] {
            ensure!(
                asked(&mut kernel, protocol)? == (Steered::Dropped, [0, 1]),
                "{to}/{protocol}"
            );
        }
        kernel.socket(tcp_at, &tcp)?;
        kernel.socket(udp_at, &udp)?;
        ensure!(
            asked(&mut kernel, TCP)? == (Steered::to(&tcp)?, [1, 0]),
            "{to}/tcp"
        );
        ensure!(
            asked(&mut kernel, UDP)? == (Steered::to(&udp)?, [1, 0]),
            "{to}/udp"
        );
        for (other, protocol) in [
            (SocketAddr::new(to.ip(), 444), TCP),
            (SocketAddr::new(from.ip(), 443), TCP),
        ] {
            let steered = kernel.look_up(from, other, protocol)?;
            ensure!(steered == Steered::Passed, "{other}: {steered:?}");
        }

        // A socket of the other protocol is none.
        kernel.steer(to, UDP, tcp_at)?;
        ensure!(
            asked(&mut kernel, UDP)? == (Steered::Dropped, [0, 1]),
            "{to}: TCP for UDP"
        );
        // What is closed leaves the map by itself.
        drop(tcp);
        ensure!(
            asked(&mut kernel, TCP)? == (Steered::Dropped, [0, 1]),
            "{to}: closed"
        );
    }
    Ok(())
}

/// What comes in by no interface that has a listener of its own: the others are met end to end, since a run has none.
#[test]
fn where_interfaces_have_listeners_the_rest_goes_to_that_of_all_or_to_nobody() -> Result<()> {
    const FAR: u32 = 3;
    let mut kernel = Kernel::load()?;
    let pairs = [
        ("198.51.100.7:40000", "192.0.2.10:443", "127.0.0.1:0"),
        ("[2001:db8:c::7]:40000", "[2001:db8:2::10]:443", "[::1]:0"),
    ];
    for (nth, (from, to, loopback)) in pairs.into_iter().enumerate() {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse()?, to.parse()?);
        let first = 4 * nth as u32;
        let (far, anyone) = (TcpListener::bind(loopback)?, TcpListener::bind(loopback)?);
        kernel.socket(first, &far)?;
        kernel.socket(first + 1, &anyone)?;
        kernel.steer_by(to, TCP, FAR, first)?;
        let asked = |kernel: &mut Kernel| -> Result<(Steered, [u64; 2])> {
            kernel.clear_counters()?;
            let steered = kernel.look_up(from, to, TCP)?;
            let counters = kernel.counters()?;
            Ok((
                steered,
                [Note::Steered, Note::SteerInterface].map(|note| counters.note(note)),
            ))
        };
        kernel.steer(to, TCP, steer::BY_INTERFACE | steer::NOBODY)?;
        ensure!(
            asked(&mut kernel)? == (Steered::Dropped, [0, 1]),
            "{to}: nobody's"
        );
        kernel.steer(to, TCP, steer::BY_INTERFACE | (first + 1))?;
        ensure!(asked(&mut kernel)? == (Steered::to(&anyone)?, [1, 0]), "{to}");
        // Where the kernel says no interface there are only listeners of all.
        kernel.steer(to, TCP, first + 1)?;
        let steered = kernel.look_up_in(names::STEER_ANY_PROGRAM, from, to, TCP)?;
        ensure!(steered == Steered::to(&anyone)?, "{to}: {steered:?}");
    }
    Ok(())
}
