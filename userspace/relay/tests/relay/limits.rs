//! Bounds on connections to backends, waiting for one, and connections made in advance.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
        mpsc::{Sender, channel},
    },
    time::{Duration, Instant},
};

use weir_relay::{Cause, Reason};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const SHORT: Duration = Duration::from_millis(300);

/// Each backend has no more than so many connections.
fn bounded(mut setup: Setup, max: u32) -> Setup {
    setup.connections.max = Some(max);
    setup
}

fn queued(lab: &Lab, count: u64) {
    until(&format!("{count} wait"), || lab.pool().queued == count);
}

#[test]
fn who_waits_is_served_in_order_on_the_same_connection() {
    let backend = Backend::new();
    let lab = Lab::new(bounded(Setup::http(&[backend.at]), 1));
    let mut first = lab.client();
    first.send("GET /first HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    let mut clients = VecDeque::new();
    for i in 0..4 {
        let mut client = lab.client();
        client.send(format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n"));
        queued(&lab, i + 1);
        clients.push_back(client);
    }
    let counts = lab.backend(0);
    assert_eq!((counts.open, counts.max, counts.in_flight), (1, Some(1), 1));
    server.send(OK);
    assert_eq!(first.response().0, 200);
    for i in 0..4 {
        assert!(server.head().starts_with(&format!("GET /{i} ")), "in their order");
        server.send(OK);
        assert_eq!(clients.pop_front().unwrap().response().0, 200);
    }
    assert!(backend.is_untouched(), "one connection served all");
    let pool = lab.pool();
    assert_eq!((pool.queued, pool.queue_wait.count()), (0, 4));
    let counts = lab.backend(0);
    assert_eq!((counts.requests, counts.reused, counts.connections), (5, 4, 1));
}

/// A connection that can't be kept gives its place up, and who waits makes one of its own.
#[test]
fn a_place_that_is_given_up_is_taken() {
    for (end, status) in [
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
            200,
        ),
        ("", 502),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(bounded(Setup::http(&[backend.at]), 1));
        let mut first = lab.client();
        first.send(POST);
        let mut server = backend.accept();
        server.head();
        let mut second = lab.client();
        second.send(POST);
        queued(&lab, 1);
        server.send(end);
        drop(server);
        assert_eq!(first.response().0, status);
        let mut server = backend.accept();
        server.head();
        server.send(OK);
        assert_eq!(second.response().0, 200);
        assert_eq!(lab.backend(0).open, 1);
    }
}

#[test]
fn a_full_queue_refuses_at_once() {
    let backend = Backend::new();
    let mut setup = bounded(Setup::http(&[backend.at]), 1);
    setup.connections.queue = 1;
    let lab = Lab::new(setup);
    let mut busy = lab.client();
    busy.send(GET);
    let mut server = backend.accept();
    server.head();
    let mut waiting = lab.client();
    waiting.send(GET);
    queued(&lab, 1);
    let mut refused = lab.client();
    for i in 1..=2 {
        refused.send(GET);
        assert_eq!(refused.response().0, 503, "and the client may go on");
        lab.ended(Reason::QueueFull, i);
    }
    assert_eq!(lab.pool().queue_full, 2);
    server.send(OK);
    assert_eq!(busy.response().0, 200);
    server.head();
    server.send(OK);
    assert_eq!(waiting.response().0, 200);
    // Without a queue nobody waits.
    let backend = Backend::new();
    let mut setup = bounded(Setup::http(&[backend.at]), 1);
    setup.connections.queue = 0;
    let lab = Lab::new(setup);
    let mut busy = lab.client();
    busy.send(GET);
    let mut server = backend.accept();
    server.head();
    let mut refused = lab.client();
    refused.send(GET);
    assert_eq!(refused.response().0, 503);
    lab.ended(Reason::QueueFull, 1);
}

#[test]
fn waiting_has_its_time() {
    let backend = Backend::new();
    let lab = Lab::new(bounded(
        Setup::http_with(&[backend.at], |http| http.timeouts.queue = SHORT),
        1,
    ));
    let mut busy = lab.client();
    busy.send(GET);
    let mut server = backend.accept();
    server.head();
    let mut waiting = lab.client();
    let begun = Instant::now();
    waiting.send(GET);
    assert_eq!(waiting.response().0, 503);
    assert!(begun.elapsed() >= SHORT);
    lab.ended(Reason::QueueTimeout, 1);
    let pool = lab.pool();
    assert_eq!(
        (pool.queued, pool.queue_timeouts, pool.queue_wait.count()),
        (0, 1, 1)
    );
    assert!(pool.queue_wait.sum_us >= 300_000);
    // What it waited for goes to others, not to it.
    server.send(OK);
    assert_eq!(busy.response().0, 200);
    until("it is idle", || lab.backend(0).idle == 1);
    waiting.send(GET);
    server.head();
    server.send(OK);
    assert_eq!(waiting.response().0, 200);
}

/// A client that has gone leaves the queue to the others.
#[test]
fn who_goes_away_is_not_waited_for() {
    let backend = Backend::new();
    let lab = Lab::new(bounded(
        Setup::http_with(&[backend.at], |http| http.timeouts.queue = PATIENCE),
        1,
    ));
    let mut busy = lab.client();
    busy.send(GET);
    let mut server = backend.accept();
    server.head();
    let mut gone = lab.client();
    gone.send(GET);
    queued(&lab, 1);
    gone.reset();
    queued(&lab, 0);
    lab.ended(Reason::ClientClosed, 1);
    server.send(OK);
    assert_eq!(busy.response().0, 200);
}

#[test]
fn a_full_backend_is_passed_over() {
    let (a, b) = (Backend::new(), Backend::new());
    let mut setup = Setup::http(&[a.at, b.at]);
    setup.max_connections = vec![Some(1), None];
    let lab = Lab::new(setup);
    let mut clients = Vec::new();
    for i in 0..6 {
        let mut client = lab.client();
        client.send(GET);
        until("it is on its way", || {
            lab.backend(0).in_flight + lab.backend(1).in_flight == i + 1
        });
        clients.push(client);
    }
    let (first, second) = (lab.backend(0), lab.backend(1));
    assert_eq!((first.open, second.open), (1, 5));
    assert_eq!((first.max, second.max), (Some(1), None));
    assert_eq!(lab.pool().queue_wait.count(), 0, "nobody had to wait");
}

/// All that wait learn at once that it is no use.
#[test]
fn no_hope_no_waiting() {
    let backend = Backend::new();
    let lab = Lab::new(bounded(
        Setup::http_with(&[backend.at], |http| http.timeouts.queue = PATIENCE),
        1,
    ));
    let mut busy = lab.client();
    busy.send(GET);
    let mut server = backend.accept();
    server.head();
    let mut clients: Vec<_> = (0..3).map(|_| lab.client()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    queued(&lab, 3);
    lab.words(DOWN);
    for client in &mut clients {
        assert_eq!(client.response().0, 503);
    }
    lab.ended(Reason::NoBackend, 3);
    // What it has it finishes, and keeps no connection.
    server.send(OK);
    assert_eq!(busy.response().0, 200);
    server.ends();
    until("it is closed", || lab.backend(0).open == 0);
}

/// The bound holds however the requests come, on several workers, over TCP services and upgrades as well.
#[test]
fn the_bound_is_the_boxs() {
    const MAX: u64 = 3;
    let (open, most, served) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicUsize::new(0)),
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    {
        let (open, most, served) = (Arc::clone(&open), Arc::clone(&most), Arc::clone(&served));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (open, most, served) = (Arc::clone(&open), Arc::clone(&most), Arc::clone(&served));
                // The relay closes before it connects anew; so does this: what it has not seen the end of is counted
                // by the relay's own gauge below.
                std::thread::spawn(move || {
                    let mut raw = Raw::new(stream);
                    while let Some(head) = raw.try_head() {
                        most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                        if served.fetch_add(1, SeqCst) % 7 == 0 {
                            std::thread::yield_now();
                        }
                        open.fetch_sub(1, SeqCst);
                        let end = head.contains("/end");
                        let close = if end { "Connection: close\r\n" } else { "" };
                        raw.send(format!("HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n"));
                        if end {
                            break;
                        }
                    }
                });
            }
        });
    }
    let mut setup = bounded(
        Setup::http_with(&[at], |http| http.timeouts.queue = PATIENCE),
        u32::try_from(MAX).unwrap(),
    );
    setup.workers = 3;
    let lab = Lab::new(setup);
    let over = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..12)
            .map(|i| {
                let lab = &lab;
                scope.spawn(move || {
                    for round in 0..40 {
                        // Some stay, some come anew, to another worker perhaps; some ends cost the connection.
                        let mut client = lab.client();
                        for n in 0..3 {
                            let end = (i + round + n) % 5 == 0;
                            let path = if end { "/end" } else { "/" };
                            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
                            assert_eq!(client.response().0, 200);
                        }
                    }
                })
            })
            .collect();
        while !clients.iter().all(|c| c.is_finished()) {
            over.fetch_max(lab.backend(0).open, SeqCst);
            std::thread::park_timeout(Duration::from_millis(1));
        }
    });
    assert_eq!(served.load(SeqCst), 12 * 40 * 3);
    assert!(most.load(SeqCst) <= MAX, "{} at once", most.load(SeqCst));
    assert!(over.load(SeqCst) <= MAX, "{} connections", over.load(SeqCst));
    lab.ended(Reason::Ok, 12 * 40 * 3);
    assert!(lab.pool().queue_wait.count() > 0, "somebody had to wait");
    assert_eq!(lab.pool().queued, 0);
}

/// Two workers before a backend that may have one connection. It notes the targets it is asked for, and answers
/// `/hold` when it is told to.
struct Pair {
    lab: Lab,
    asked: Arc<Mutex<Vec<String>>>,
    let_go: Sender<()>,
    /// By worker.
    clients: [Vec<Raw>; 2],
}

impl Pair {
    /// So many clients of each worker.
    fn new(each: usize) -> Self {
        let backend = Backend::new();
        let at = backend.at;
        let (asked, (let_go, held)) = (Arc::<Mutex<Vec<String>>>::default(), channel());
        let noted = Arc::clone(&asked);
        // One connection at a time: the next is there when the relay has closed this one.
        std::thread::spawn(move || {
            loop {
                let mut raw = backend.accept();
                while let Some(head) = raw.try_head() {
                    let target = head.split(' ').nth(1).unwrap().to_owned();
                    let holds = target == "/hold";
                    noted.lock().unwrap().push(target);
                    if holds && held.recv().is_err() {
                        return;
                    }
                    raw.send(OK);
                }
            }
        });
        let mut setup = bounded(
            Setup::http_with(&[at], |http| {
                http.timeouts.queue = PATIENCE;
                http.timeouts.keep_alive = PATIENCE;
            }),
            1,
        );
        setup.workers = 2;
        let lab = Lab::new(setup);
        let mut pair = Self {
            lab,
            asked,
            let_go,
            clients: [Vec::new(), Vec::new()],
        };
        // Whom the kernel gives a connection to can't be chosen. But only one worker has the idle connection: who is
        // served by it is of that worker, who makes a new one is of the other.
        let mut holder = 1;
        for _ in 0..1000 {
            let before = pair.lab.backend(0).connections;
            let mut client = pair.lab.client();
            pair.get(&mut client);
            if pair.lab.backend(0).connections > before {
                holder = 1 - holder;
            }
            pair.clients[holder].push(client);
            if pair.clients.iter().all(|clients| clients.len() >= each) {
                return pair;
            }
        }
        panic!("all came to one worker");
    }

    fn get(&self, client: &mut Raw) {
        client.send(GET);
        assert_eq!(client.response().0, 200);
        until("it is idle", || self.lab.backend(0).idle == 1);
    }
}

/// An idle connection of one worker makes room for a request of the other.
#[test]
fn workers_make_room_for_each_other() {
    let mut pair = Pair::new(1);
    let (mut a, mut b) = (pair.clients[0].pop().unwrap(), pair.clients[1].pop().unwrap());
    let before = pair.lab.backend(0).connections;
    for _ in 0..20 {
        pair.get(&mut a);
        pair.get(&mut b);
    }
    let counts = pair.lab.backend(0);
    assert_eq!(counts.open, 1);
    assert!(
        counts.connections >= before + 39,
        "each of them had to have its own"
    );
}

/// Who has waited much longer on the other worker goes before those for whom the connection would be nearer.
#[test]
fn nobody_is_starved_by_the_other_worker() {
    for (here, there) in [(0, 1), (1, 0)] {
        let mut pair = Pair::new(4);
        let mut holding = pair.clients[here].pop().unwrap();
        holding.send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
        until("it is held", || pair.lab.backend(0).in_flight == 1);
        pair.asked.lock().unwrap().clear();
        let mut old = pair.clients[there].pop().unwrap();
        old.send("GET /old HTTP/1.1\r\nHost: a\r\n\r\n");
        queued(&pair.lab, 1);
        // More than the slack.
        let begun = Instant::now();
        until("time passes", || begun.elapsed() > Duration::from_millis(200));
        let mut young = Vec::new();
        for i in 0..3 {
            let mut client = pair.clients[here].pop().unwrap();
            client.send("GET /young HTTP/1.1\r\nHost: a\r\n\r\n");
            queued(&pair.lab, 2 + i);
            young.push(client);
        }
        until("the backend holds it", || pair.lab.backend(0).in_flight == 1);
        pair.let_go.send(()).unwrap();
        assert_eq!(holding.response().0, 200);
        assert_eq!(old.response().0, 200);
        for client in &mut young {
            assert_eq!(client.response().0, 200);
        }
        let asked = pair.asked.lock().unwrap();
        let asked: Vec<_> = asked.iter().filter(|target| *target != "/hold").collect();
        assert_eq!(asked, ["/old", "/young", "/young", "/young"]);
    }
}

#[test]
fn tcp_services_keep_the_bound_too() {
    let backend = Backend::new();
    let lab = Lab::new(bounded(Setup::tcp(&[backend.at]), 1));
    let mut first = lab.client();
    first.send("one");
    let mut server = backend.accept();
    assert_eq!(server.text(3), "one");
    let mut second = lab.client();
    second.send("two");
    queued(&lab, 1);
    first.finish();
    assert_eq!(server.rest(), "");
    drop(server);
    first.ends();
    let mut server = backend.accept();
    assert_eq!(server.text(3), "two");
    // In vain.
    let lab = Lab::new(bounded(
        Setup::tcp_with(&[backend.at], |tcp| tcp.timeouts.queue = SHORT),
        1,
    ));
    let _first = lab.client();
    let _server = backend.accept();
    let mut second = lab.client();
    second.ends();
    lab.ended(Reason::QueueTimeout, 1);
}

/// A lowered bound cuts nothing; a raised one lets in who waits.
#[test]
fn a_bound_that_changes() {
    let backend = Backend::new();
    let mut lab = Lab::new(bounded(Setup::http(&[backend.at]), 2));
    let mut clients = [lab.client(), lab.client()];
    let mut servers = Vec::new();
    for client in &mut clients {
        client.send(GET);
        let mut server = backend.accept();
        server.head();
        servers.push(server);
    }
    let mut waiting = lab.client();
    waiting.send(GET);
    queued(&lab, 1);
    let mut change = |max| {
        lab.setup.connections.max = Some(max);
        let plan = lab.setup.plan("www", lab.at);
        lab.relay
            .apply(plan, vec![listener(lab.at, "www", Vec::new())])
            .unwrap();
    };
    change(1);
    change(3);
    let mut third = backend.accept();
    third.head();
    third.send(OK);
    assert_eq!(waiting.response().0, 200);
    for (client, server) in clients.iter_mut().zip(&mut servers) {
        server.send(OK);
        assert_eq!(client.response().0, 200);
    }
    lab.setup.connections.max = Some(1);
    let plan = lab.setup.plan("www", lab.at);
    lab.relay
        .apply(plan, vec![listener(lab.at, "www", Vec::new())])
        .unwrap();
    until("idle ones above the bound are closed", || {
        let counts = lab.backend(0);
        (counts.open, counts.idle) == (1, 1)
    });
}

#[test]
fn idle_connections_have_their_time_and_number() {
    let backend = Backend::new();
    let mut setup = Setup::http(&[backend.at]);
    (setup.connections.idle_max, setup.connections.idle_timeout) = (1, SHORT);
    let lab = Lab::new(setup);
    let mut clients = [lab.client(), lab.client()];
    let mut servers = Vec::new();
    for client in &mut clients {
        client.send(GET);
        let mut server = backend.accept();
        server.head();
        servers.push(server);
    }
    for (client, server) in clients.iter_mut().zip(&mut servers) {
        server.send(OK);
        assert_eq!(client.response().0, 200);
    }
    until("one is kept", || lab.backend(0).open <= 1);
    for server in &mut servers {
        server.ends();
    }
    until("both are counted out", || {
        let counts = lab.backend(0);
        (counts.open, counts.idle) == (0, 0)
    });
}

#[test]
fn connections_are_made_in_advance() {
    let backend = Backend::new();
    let mut setup = Setup::http(&[backend.at]);
    setup.connections.idle_min = 2;
    let lab = Lab::pending(setup);
    // Not to a backend that nothing is known of.
    assert!(backend.is_untouched());
    lab.words(UP);
    let mut ready = [backend.accept(), backend.accept()];
    until("both are idle", || lab.backend(0).idle == 2);
    let counts = lab.backend(0);
    assert_eq!((counts.warmed, counts.connections, counts.requests), (2, 2, 0));
    // One is used, and the number is made up again.
    let mut client = lab.client();
    client.send(GET);
    ready[1].head();
    let third = backend.accept();
    until("two are idle", || lab.backend(0).idle == 2);
    ready[1].send(OK);
    assert_eq!(client.response().0, 200);
    assert_eq!(lab.backend(0).reused, 1);
    // What the backend ends is replaced, once the number falls short: three are idle, then one.
    let made = lab.backend(0).warmed;
    drop(third);
    ready.swap(0, 1);
    let [last, first] = ready;
    drop(first);
    until("one is made", || lab.backend(0).warmed == made + 1);
    let mut ready = [last, backend.accept()];
    until("it is idle", || lab.backend(0).idle == 2);
    // Down: none is kept, none is made.
    lab.words(DOWN);
    for server in &mut ready {
        server.ends();
    }
    until("all are closed", || lab.backend(0).open == 0);
    let made = lab.backend(0).warmed;
    // More than one round of the clock that makes them.
    let begun = Instant::now();
    until("time passes", || begun.elapsed() > Duration::from_millis(1500));
    assert_eq!(lab.backend(0).warmed, made);
    assert!(backend.is_untouched());
}

/// A backend that is up but refuses is not asked over and over.
#[test]
fn making_in_advance_does_not_spin() {
    let mut setup = Setup::http(&[closed_port()]);
    setup.connections.idle_min = 8;
    let lab = Lab::new(setup);
    let refused = || lab.backend(0).errors[Cause::Refused as usize];
    until("it was tried", || refused() > 0);
    let begun = Instant::now();
    until("time passes", || begun.elapsed() > Duration::from_millis(2500));
    assert!(refused() <= 3 * 8, "{} tries", refused());
    assert_eq!(lab.backend(0).open, 0);
}

#[test]
fn nothing_is_made_in_advance_beyond_the_bound_or_in_a_drain() {
    let backend = Backend::new();
    let mut setup = bounded(Setup::http(&[backend.at]), 3);
    setup.connections.idle_min = 8;
    let lab = Lab::new(setup);
    let mut ready: Vec<_> = (0..3).map(|_| backend.accept()).collect();
    until("they are idle", || lab.backend(0).idle == 3);
    assert_eq!(lab.backend(0).open, 3);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(lab.relay.drain(PATIENCE));
    for server in &mut ready {
        server.ends();
    }
    assert!(backend.is_untouched());
    assert_eq!(lab.backend(0).open, 0);
}

/// Connections of all services count against one bound; each is refused as its mode has it.
#[test]
fn all_services_share_one_limit() {
    let backend = Backend::new();
    let setup = Setup::http(&[backend.at]);
    let lab = Lab::new(setup.clone());
    let (tcp_at, sockets) = listen(1);
    let mut plan = (*setup.plan("www", lab.at)).clone();
    let tcp = Setup::tcp(&[backend.at]).plan("mail", tcp_at);
    plan.services.extend(tcp.services.iter().cloned());
    let listeners = vec![
        listener(lab.at, "www", Vec::new()),
        listener(tcp_at, "mail", sockets),
    ];
    lab.relay.apply(Arc::new(plan), listeners).unwrap();
    lab.relay.set_connections(2);
    let http = lab.client();
    until("one is open", || lab.relay.snapshot().open == 1);
    let relayed = Raw::connect(tcp_at);
    let _server = backend.accept();
    until("two are open", || lab.relay.snapshot().open == 2);
    let mut refused = lab.client();
    assert_eq!(refused.response().0, 503);
    refused.ends();
    let (bytes, reset) = Raw::connect(tcp_at).rest_or_reset();
    assert_eq!((bytes.as_str(), reset), ("", true));
    // What a client sees of it goes before the count.
    until("each has refused one", || {
        let snapshot = lab.relay.snapshot();
        snapshot.services.iter().all(|service| {
            let counts = &service.counts;
            (counts.refused, counts.ends[Reason::LimitTotal as usize]) == (1, 1)
        })
    });
    // Room again.
    drop(relayed);
    until("one is open", || lab.relay.snapshot().open == 1);
    let mut client = lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    server.send("HTTP/1.1 204 N\r\n\r\n");
    assert_eq!(client.response().0, 204);
    drop(http);
}

/// Heads that are not whole, and requests ahead of their time, count in the worker's memory.
#[test]
fn heads_that_do_not_end_are_bounded() {
    const HEAD: usize = 12 << 10;
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    lab.relay.set_memory(3 * HEAD as u64);
    let part = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(HEAD - 64));
    let mut slow = Vec::new();
    for count in 1..=3 {
        let mut client = lab.client();
        client.send(&part);
        slow.push(client);
        until("it is held", || {
            lab.relay.snapshot().held == (count * part.len()) as u64
        });
    }
    let mut client = lab.client();
    client.send(&part);
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::LimitMemory, 1);
    // Whole, one of them is held no longer.
    let mut first = slow.remove(0);
    first.send("\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    assert_eq!(lab.relay.snapshot().held, 2 * part.len() as u64);
    // What comes behind a request waits, and is held.
    server.send("HTTP/1.1 204 N\r\n\r\n");
    assert_eq!(first.response().0, 204);
    first.send(format!("GET / HTTP/1.1\r\nHost: a\r\n\r\n{part}"));
    server.head();
    assert_eq!(lab.relay.snapshot().held, 3 * part.len() as u64);
    drop((first, slow, server));
    until("nothing is held", || lab.relay.snapshot().held == 0);
}

/// Heads of responses that are not whole count as well.
#[test]
fn heads_of_responses_that_do_not_end_are_bounded() {
    const HEAD: usize = 12 << 10;
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    lab.relay.set_memory(3 * HEAD as u64);
    let part = format!("HTTP/1.1 204 N\r\nX: {}", "x".repeat(HEAD - 64));
    let mut slow = Vec::new();
    for count in 1..=3 {
        let mut client = lab.client();
        client.send(GET);
        let mut server = backend.accept();
        server.head();
        server.send(&part);
        slow.push((client, server));
        until("it is held", || {
            lab.relay.snapshot().held == (count * part.len()) as u64
        });
    }
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(&part);
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::LimitMemory, 1);
    // Whole, one of them is held no longer.
    let (mut first, mut server) = slow.remove(0);
    server.send("\r\n\r\n");
    assert_eq!(first.response().0, 204);
    assert_eq!(lab.relay.snapshot().held, 2 * part.len() as u64);
    drop(slow);
    until("nothing is held", || lab.relay.snapshot().held == 0);
}
