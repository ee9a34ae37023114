//! Leases of virtual routers on the wire: a master whose thread stops falls silent; adverts by way of the programs.

use std::{
    net::{IpAddr, UdpSocket},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use weir_core::vrrp::{
    Centis, Family, Vrid,
    accept::V2,
    machine::{Announce, Cause, Change, Config, Preempt, Router, RouterKey, State},
    wire::Checksum,
};
use weir_datapath::{
    Close, Datapath, Note, Reason,
    vips::VipError,
    vrrp::{
        Addresses, Driver, Elsewhere, Group, Hands, Held, Link, Report, Reported, Ring, Virtual,
        leases::{LeaseError, Leases},
    },
};

use crate::lab::{DEADLINE, Lab, Space, bpffs, wait_for};

/// Of the outer network, so that the client asks for their link addresses.
const VIPS: [&str; 2] = ["198.51.100.10", "2001:db8:c::10"];
const LEASE: Duration = Duration::from_millis(100);
const PORT: u16 = 7;

fn ips() -> [IpAddr; 2] {
    VIPS.map(|text| text.parse().unwrap())
}

fn pins() -> std::path::PathBuf {
    bpffs().join("weir")
}

/// What the programs counted for a reason.
fn counted(datapath: &Datapath, reason: Reason) -> u64 {
    let counters = datapath.counters().unwrap();
    let found = counters.reasons.iter().find(|(of, _)| *of == reason);
    found.map_or(0, |(_, count)| *count)
}

/// Where the hands wait, if they are told to, and what they were last told.
#[derive(Default)]
struct Gate {
    is_shut: Mutex<bool>,
    opened: Condvar,
    until: Mutex<Option<Instant>>,
}

impl Gate {
    fn set(&self, is_shut: bool) {
        *self.is_shut.lock().unwrap() = is_shut;
        self.opened.notify_all();
    }
}

/// Gives leases to the programs and addresses to the kernel.
struct InKernel {
    gate: Arc<Gate>,
    leases: Leases,
    addresses: Addresses,
}

impl Hands for InKernel {
    fn lease(&mut self, group: usize, until: Option<Instant>) {
        let mut is_shut = self.gate.is_shut.lock().unwrap();
        while *is_shut {
            is_shut = self.gate.opened.wait(is_shut).unwrap();
        }
        self.leases.set(group, until);
        *self.gate.until.lock().unwrap() = until;
    }

    fn own(&mut self, _group: usize, _held: &[Held]) -> Result<(), LeaseError> {
        Ok(())
    }

    fn elsewhere(&mut self, _group: usize, _until: Elsewhere) {}

    fn take(&mut self, _group: usize, held: &[Held]) -> Result<(), VipError> {
        self.addresses.take(held)
    }

    fn give(&mut self, _group: usize, held: &[Held]) -> Result<(), VipError> {
        self.addresses.give(held)
    }

    fn remember(&mut self, _group: usize, _last_sent: Option<Instant>, _sequence: u64) {}
}

/// Addresses as a group has them.
fn held(addresses: &[IpAddr]) -> Vec<Held> {
    let held = |address: &IpAddr| Held {
        interface: "lo".to_owned(),
        address: *address,
        prefix: if address.is_ipv4() { 32 } else { 128 },
        mac: None,
    };
    addresses.iter().map(held).collect()
}

/// A group of both families on an interface.
fn group(interface: &str, owns: [&str; 2], priority: u8) -> Group {
    let mut routers = Vec::new();
    let mut links = Vec::new();
    for (own, vip) in owns.into_iter().zip(ips()) {
        let own: IpAddr = own.parse().unwrap();
        let link = Link::open(interface, Family::of(own), Some(own), &[]).unwrap();
        let key = RouterKey {
            interface: interface.into(),
            vrid: Vrid::new(9).unwrap(),
            family: Family::of(own),
        };
        routers.push(Router { key, own });
        links.push(Virtual {
            link: Some(link),
            addresses: vec![vip],
            peers: Vec::new(),
            checksum: Checksum::Rfc5798,
            v2: V2::Refused,
            mac: None,
            is_router: false,
        });
    }
    Group {
        id: 0,
        held: Vec::new(),
        keeps: false,
        demotion: 0,
        counts: Arc::default(),
        config: Config {
            routers,
            priority,
            interval: Centis::new(5).unwrap(),
            preempt: Preempt::Always,
            lease: LEASE,
            announce: Announce {
                count: 2,
                spacing: Duration::from_millis(20),
                refresh: None,
            },
        },
        routers: links,
        signing: None,
        last_sent: None,
    }
}

fn told(sender: Sender<Report>) -> impl Fn(Report) + Send {
    move |report| drop(sender.send(report))
}

fn next<T>(reports: &Receiver<Report>, pick: impl Fn(Reported) -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let report = reports.recv_timeout(left).expect("a report before the deadline");
        if let Some(found) = pick(report.what) {
            return found;
        }
    }
}

fn change(reports: &Receiver<Report>, to: State) -> Change {
    #[expect(clippy::wildcard_enum_match_arm, reason = "one report of many")]
    next(reports, |what| match what {
        Reported::Changed(change) if change.to == to => Some(change),
        _ => None,
    })
}

/// Answers datagrams at every address of the space, until it is dropped.
struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Echo {
    fn start(space: &Space) -> Self {
        // Of both families.
        let socket = space.run(|| UdpSocket::bind(("::", PORT)).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    let _ = socket.send_to(&bytes[..len], from);
                }
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Asks the virtual addresses, each datagram with a number of its own.
struct Asker {
    sockets: Vec<(UdpSocket, IpAddr)>,
    sent: u64,
}

impl Asker {
    fn new(client: &Space) -> Self {
        let open = |ip: IpAddr| {
            let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_nonblocking(true).unwrap();
            (socket, ip)
        };
        Self {
            sockets: client.run(|| ips().map(open).into_iter().collect()),
            sent: 0,
        }
    }

    /// Sends one datagram to each.
    fn ask(&mut self) {
        self.sent += 1;
        for (socket, ip) in &self.sockets {
            // What nobody has the link address of is refused sooner or later.
            let _ = socket.send_to(&self.sent.to_ne_bytes(), (*ip, PORT));
        }
    }

    /// The highest numbers that were answered by now.
    fn answered(&self) -> Vec<u64> {
        let highest = |(socket, _): &(UdpSocket, IpAddr)| {
            let mut highest = 0;
            let mut bytes = [0; 8];
            for _ in 0..10_000 {
                match socket.recv(&mut bytes) {
                    Ok(8) => highest = highest.max(u64::from_ne_bytes(bytes)),
                    Ok(_) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    // An ICMP error of the client's own kernel.
                    Err(_) => {}
                }
            }
            highest
        };
        self.sockets.iter().map(highest).collect()
    }

    /// Asks until both answer to what is asked from now on.
    fn until_answered(&mut self, what: &str) {
        let before = self.sent;
        let mut highest = vec![0; self.sockets.len()];
        wait_for(what, || {
            self.ask();
            thread::sleep(Duration::from_millis(5));
            for (highest, now) in highest.iter_mut().zip(self.answered()) {
                *highest = now.max(*highest);
            }
            highest.iter().all(|number| *number > before).then_some(())
        });
    }
}

#[test]
fn a_master_whose_thread_is_stopped_is_silent_when_its_lease_ends() {
    let lab = Lab::new();
    lab.weir.ip("addr add fe80::1/64 dev outer nodad");
    let datapath = lab.weir.run(|| {
        let mut datapath = Datapath::open(lab.options()).unwrap();
        datapath.attach().unwrap();
        datapath
    });
    let gate = Arc::new(Gate::default());
    let (sender, reports) = channel();
    let (driver, leases) = lab.weir.run(|| {
        let leases = Leases::open(&pins()).unwrap();
        leases.register(0, &held(&ips())).unwrap();
        leases.settle().unwrap();
        let held = |address: IpAddr| Held {
            interface: "outer".into(),
            address,
            prefix: if address.is_ipv4() { 32 } else { 128 },
            mac: None,
        };
        let hands = InKernel {
            gate: Arc::clone(&gate),
            leases: leases.clone(),
            addresses: Addresses::new().unwrap(),
        };
        let mut group = group("outer", ["198.51.100.1", "fe80::1"], 100);
        group.held = ips().map(held).to_vec();
        let ring = Ring::open(&pins(), leases.clone()).unwrap();
        let driver = Driver::start_with(vec![group], hands, told(sender), Some(ring)).unwrap();
        (driver, leases)
    });
    let _echo = Echo::start(&lab.weir);
    let mut asker = Asker::new(&lab.client);
    change(&reports, State::Master);
    asker.until_answered("answers of the master");

    for round in 0..2 {
        // The thread stops: it does nothing any more, the addresses stay where they are.
        gate.set(true);
        // What it has said before it stopped holds until then.
        let until = wait_for("the end of the lease", || {
            asker.ask();
            let until = gate.until.lock().unwrap().expect("a master has a lease");
            (Instant::now() > until).then_some(until)
        });
        let _ = asker.answered();
        // Nothing that is asked from now on is answered, whatever the client still knows or forgets of link addresses.
        let last = asker.sent;
        let refused = counted(&datapath, Reason::NotMaster);
        assert!(
            lab.weir.output("ip -o addr").contains(VIPS[0]),
            "the address is there"
        );
        for nth in 0..20 {
            if nth == 10 {
                lab.client.output("ip neigh flush dev c0");
            }
            asker.ask();
            thread::sleep(Duration::from_millis(10));
        }
        for (vip, highest) in VIPS.iter().zip(asker.answered()) {
            assert!(
                highest <= last,
                "round {round}: {vip} has answered {highest}, asked after {last}, {:?} after its lease",
                until.elapsed()
            );
        }
        assert!(counted(&datapath, Reason::NotMaster) >= refused + 10);
        // Its link address is asked for as well, by then, and not told.
        for vip in VIPS {
            let known = lab.client.output(&format!("ip neigh show to {vip} dev c0"));
            assert!(!known.contains("lladdr"), "{vip}: {known}");
        }

        // It goes on: late, so it listens first, and nobody else is there.
        gate.set(false);
        asker.until_answered("answers once the thread goes on");
    }

    drop(driver);
    leases.remove().unwrap();
    assert!(!lab.weir.output("ip -o addr").contains(VIPS[0]));
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn leases_outlive_control_and_go_with_an_orderly_stop() {
    let lab = Lab::new();
    lab.weir.ip(&format!(
        "addr add {}/32 dev outer
         addr add {}/128 dev outer nodad",
        VIPS[0], VIPS[1]
    ));
    let open = || {
        lab.weir.run(|| {
            let mut datapath = Datapath::open(lab.options()).unwrap();
            let leases = Leases::open(&pins()).unwrap();
            datapath.attach().unwrap();
            (datapath, leases)
        })
    };
    let error = lab.weir.run(|| Leases::open(&pins())).unwrap_err();
    assert!(matches!(error, LeaseError::NoTables { .. }), "{error}");
    let _echo = Echo::start(&lab.weir);
    let mut asker = Asker::new(&lab.client);
    let is_silent = |why: &str, asker: &mut Asker, datapath: &Datapath| {
        let (before, last) = (counted(datapath, Reason::NotMaster), asker.sent);
        wait_for(why, || {
            asker.ask();
            thread::sleep(Duration::from_millis(1));
            (counted(datapath, Reason::NotMaster) >= before + 20).then_some(())
        });
        assert!(asker.answered().iter().all(|number| *number <= last), "{why}");
    };
    let far = || Some(Instant::now() + Duration::from_secs(3600));

    let (datapath, leases) = open();
    asker.until_answered("answers where there is no group");
    leases.register(0, &held(&ips())).unwrap();
    is_silent("silence before a lease was given", &mut asker, &datapath);
    leases.set(0, far());
    asker.until_answered("answers under a lease");
    datapath.close(Close::Keep).unwrap();
    drop(leases);

    // Nobody is there, and the programs go by what was said last. The successor numbers its groups otherwise.
    asker.until_answered("answers while control is away");
    let (datapath, leases) = open();
    leases
        .register(1, &held(&["203.0.113.1".parse().unwrap()]))
        .unwrap();
    leases.register(3, &held(&ips())).unwrap();
    leases.settle().unwrap();
    asker.until_answered("answers under the lease of the process before");
    leases.set(1, None);
    asker.until_answered("answers whatever another group's lease");
    leases.set(3, None);
    is_silent("silence once the lease is shut", &mut asker, &datapath);
    leases.set(3, Some(Instant::now()));
    is_silent("silence with a lease that is over", &mut asker, &datapath);

    // A group that loses its addresses, and one that goes: what is nobody's is fenced no more.
    leases.register(3, &held(&ips()[1..])).unwrap();
    is_silent("silence until it is settled", &mut asker, &datapath);
    leases.unregister(3);
    leases.settle().unwrap();
    asker.until_answered("answers of addresses that are no group's");
    leases.register(0, &held(&ips())).unwrap();
    is_silent("silence of a group that is new", &mut asker, &datapath);
    datapath.close(Close::Keep).unwrap();
    drop(leases);

    // A successor without groups, and an orderly stop.
    let (datapath, leases) = open();
    is_silent(
        "silence under a lease that was never given",
        &mut asker,
        &datapath,
    );
    leases.settle().unwrap();
    asker.until_answered("answers where there are no groups any more");
    let too_many = leases.register(5000, &held(&ips())).unwrap_err();
    assert!(
        matches!(too_many, LeaseError::TooMany { group: 5000 }),
        "{too_many}"
    );
    leases.register(0, &held(&ips())).unwrap();
    leases.remove().unwrap();
    asker.until_answered("answers after an orderly stop");
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn adverts_come_by_the_programs_and_count_by_their_arrival() {
    let lab = Lab::new();
    lab.weir.ip("addr add fe80::1/64 dev outer nodad");
    lab.client.ip("addr add fe80::2/64 dev c0 nodad");
    let datapath = lab.weir.run(|| {
        let mut datapath = Datapath::open(lab.options()).unwrap();
        datapath.attach().unwrap();
        datapath
    });
    let hands = |space: &Space, gate: &Arc<Gate>, leases: Leases| InKernel {
        gate: Arc::clone(gate),
        leases,
        addresses: space.run(|| Addresses::new().unwrap()),
    };
    let gates: [Arc<Gate>; 2] = Default::default();
    let leases = lab.weir.run(|| Leases::open(&pins()).unwrap());
    leases.register(0, &held(&ips())).unwrap();
    let (sender, reports) = channel();
    let driver = lab.weir.run(|| {
        let group = group("outer", ["198.51.100.1", "fe80::1"], 100);
        let ring = Ring::open(&pins(), leases.clone()).unwrap();
        let hands = hands(&lab.weir, &gates[0], leases.clone());
        Driver::start_with(vec![group], hands, told(sender), Some(ring)).unwrap()
    });
    change(&reports, State::Master);
    let before = counted(&datapath, Reason::Advert);
    assert_eq!(before, 0, "nobody else is there");

    // The other box has no programs on the wire, and no leases that anybody asks for.
    let other = |priority| {
        let (sender, reports) = channel();
        let driver = lab.client.run(|| {
            let group = group("c0", ["198.51.100.2", "fe80::2"], priority);
            let hands = hands(
                &lab.client,
                &gates[1],
                lab.weir.run(|| Leases::open(&pins()).unwrap()),
            );
            Driver::start(vec![group], hands, told(sender)).unwrap()
        });
        (driver, reports)
    };
    let (rival, of_rival) = other(200);
    assert!(matches!(
        change(&of_rival, State::Master).cause,
        Cause::Preempts { .. }
    ));
    let yields = change(&reports, State::Backup);
    assert!(
        matches!(yields.cause, Cause::Better { priority: 200, .. }),
        "{yields:?}"
    );
    wait_for("adverts by the programs", || {
        (counted(&datapath, Reason::Advert) >= 20).then_some(())
    });
    // Also the last one, by which it leaves.
    drop(rival);
    let takes = change(&reports, State::Master);
    assert!(matches!(takes.cause, Cause::Left(_)), "{takes:?}");
    let lost = datapath.counters().unwrap().notes;
    assert!(lost.contains(&(Note::AdvertLost, 0)), "{lost:?}");

    // Nobody fetches them any more: they are left to the stack again, so others on the box may have them.
    drop(driver);
    let handed = counted(&datapath, Reason::Advert);
    let (_rival, of_rival) = other(200);
    change(&of_rival, State::Master);
    assert_eq!(counted(&datapath, Reason::Advert), handed);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
