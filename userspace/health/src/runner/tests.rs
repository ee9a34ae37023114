//! Many probes, against servers in this process.

use std::{
    collections::BTreeSet,
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task::JoinHandle,
};
use weir_core::{
    health::Phase,
    ids::{BackendKey, PoolName},
    plan::{CheckKind, HttpCheck},
};

use super::*;

const LONG: Duration = Duration::from_secs(20);

struct Runner {
    commands: UnboundedSender<Command>,
    results: UnboundedReceiver<(ProbeId, ProbeResult)>,
    task: JoinHandle<()>,
}

impl Runner {
    fn new(limit: usize) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (sender, results) = mpsc::unbounded_channel();
        let task = tokio::spawn(ProbeRunner::new(Prober::new(), limit).run(receiver, sender));
        Self {
            commands,
            results,
            task,
        }
    }

    fn start(&self, id: u64, target: SocketAddr, kind: CheckKind, timeout: Duration) {
        self.commands
            .send(Command::Start(Box::new(request(id, target, kind, timeout))))
            .unwrap();
    }

    async fn result(&mut self) -> (u64, Outcome) {
        let (id, result) = soon(self.results.recv()).await.unwrap();
        (id.0, result.outcome)
    }
}

fn request(id: u64, target: SocketAddr, kind: CheckKind, timeout: Duration) -> ProbeRequest {
    let key = BackendKey {
        pool: PoolName::new("web"),
        address: target,
    };
    ProbeRequest {
        from: Vec::new(),
        interface: None,
        id: ProbeId(id),
        key,
        target,
        kind,
        proxy: None,
        timeout,
    }
}

async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("within a while")
}

fn http() -> CheckKind {
    CheckKind::Http(HttpCheck {
        protocol: weir_core::plan::HttpProtocol::Http1,
        tls: None,
        method: "GET".into(),
        path: "/".into(),
        host: None,
        status: vec![(200, 200)],
    })
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = soon(listener.accept()).await.unwrap();
    // Its probe runs, once its request is here.
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        assert_ne!(
            soon(stream.read_buf(&mut request)).await.unwrap(),
            0,
            "the request comes"
        );
    }
    stream
}

/// Waits until the other side closes.
async fn closed(stream: &mut TcpStream) {
    while soon(stream.read(&mut [0; 64])).await.is_ok_and(|read| read > 0) {}
}

async fn answer(stream: TcpStream) {
    let mut rest: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
    while !rest.is_empty() {
        stream.writable().await.unwrap();
        let sent = stream.try_write(rest).unwrap();
        rest = &rest[sent..];
    }
}

#[tokio::test]
async fn many_at_once_each_by_its_id() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(1000);
    for id in 0..100 {
        runner.start(id, target, http(), LONG);
    }
    let mut streams = vec![];
    while streams.len() < 100 {
        streams.push(accept(&listener).await);
    }
    assert!(runner.results.is_empty(), "all of them wait at the same time");
    for stream in streams {
        answer(stream).await;
    }
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        let (id, outcome) = runner.result().await;
        assert_eq!(outcome, Outcome::Passed);
        ids.insert(id);
    }
    assert_eq!(ids, (0..100).collect());
}

#[tokio::test]
async fn failures_keep_their_ids() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(10);
    let short = Duration::from_millis(200);
    runner.start(7, target, http(), short);
    let _stream = accept(&listener).await;
    assert_eq!(
        runner.result().await,
        (7, Outcome::Failed(Failure::Timeout(Phase::Response)))
    );
}

#[tokio::test]
async fn no_more_tasks_than_the_limit() {
    let (_listener, target) = listen().await;
    let mut probes = Probes::new(Prober::new());
    for id in 0..6 {
        probes.start(request(id, target, http(), LONG));
    }
    let counts = |probes: &Probes| (probes.tasks.len(), probes.running.len(), probes.waiting.len());
    probes.fill(2);
    probes.fill(2);
    assert_eq!(counts(&probes), (2, 2, 4));
    // A stopped task takes its room until it has ended.
    probes.cancel(ProbeId(0));
    probes.fill(2);
    assert_eq!(counts(&probes), (2, 1, 4));
    let joined = soon(probes.tasks.join_next_with_id()).await.unwrap();
    assert_eq!(probes.joined(joined), None);
    probes.fill(2);
    assert_eq!(counts(&probes), (2, 2, 3));
    assert_eq!(probes.ids.len(), 2);
}

#[tokio::test]
async fn those_beyond_the_limit_come_later() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(2);
    for id in 0..6 {
        runner.start(id, target, http(), LONG);
    }
    let mut open = vec![accept(&listener).await, accept(&listener).await];
    for last in 0..6 {
        answer(open.remove(0)).await;
        assert_eq!(runner.result().await.1, Outcome::Passed);
        if last < 4 {
            open.push(accept(&listener).await);
        }
    }
}

#[tokio::test]
async fn a_limit_of_none_is_one() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(0);
    runner.start(1, target, http(), LONG);
    answer(accept(&listener).await).await;
    assert_eq!(runner.result().await, (1, Outcome::Passed));
}

#[tokio::test]
async fn cancelled_while_running() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(10);
    runner.start(1, target, http(), LONG);
    let mut stream = accept(&listener).await;
    runner.commands.send(Command::Cancel(ProbeId(1))).unwrap();
    closed(&mut stream).await;
    // The next result is of the next probe.
    runner.start(2, target, http(), LONG);
    answer(accept(&listener).await).await;
    assert_eq!(runner.result().await, (2, Outcome::Passed));
    assert!(runner.results.is_empty());
}

#[tokio::test]
async fn cancelled_while_waiting() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(1);
    for id in 1..=3 {
        runner.start(id, target, http(), LONG);
    }
    let first = accept(&listener).await;
    runner.commands.send(Command::Cancel(ProbeId(2))).unwrap();
    runner.commands.send(Command::Cancel(ProbeId(99))).unwrap();
    answer(first).await;
    assert_eq!(runner.result().await.0, 1);
    answer(accept(&listener).await).await;
    assert_eq!(runner.result().await.0, 3);
}

#[tokio::test]
async fn cancelled_all() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(2);
    for id in 1..=5 {
        runner.start(id, target, http(), LONG);
    }
    let mut open = [accept(&listener).await, accept(&listener).await];
    runner.commands.send(Command::CancelAll).unwrap();
    for stream in &mut open {
        closed(stream).await;
    }
    runner.start(6, target, http(), LONG);
    answer(accept(&listener).await).await;
    assert_eq!(runner.result().await.0, 6);
}

#[tokio::test]
async fn an_id_that_comes_twice_means_the_later_probe() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(10);
    runner.start(1, target, http(), LONG);
    let mut first = accept(&listener).await;
    runner.start(1, target, http(), LONG);
    closed(&mut first).await;
    answer(accept(&listener).await).await;
    assert_eq!(runner.result().await, (1, Outcome::Passed));
    assert!(runner.results.is_empty());
}

#[tokio::test]
async fn it_ends_when_nobody_commands_it() {
    let (listener, target) = listen().await;
    let mut runner = Runner::new(10);
    runner.start(1, target, http(), LONG);
    let mut stream = accept(&listener).await;
    drop(runner.commands);
    soon(runner.task).await.unwrap();
    closed(&mut stream).await;
    assert_eq!(soon(runner.results.recv()).await, None);
}

#[tokio::test]
async fn it_ends_when_nobody_takes_results() {
    let (listener, target) = listen().await;
    let runner = Runner::new(10);
    runner.start(1, target, http(), LONG);
    let mut stream = accept(&listener).await;
    drop(runner.results);
    soon(runner.task).await.unwrap();
    closed(&mut stream).await;
}
