//! Applying plans, draining, limits, taking over, the access log, several workers.

use std::{
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use weir_core::{
    ids::ServiceName,
    plan::{Forwarded, LogFormat, LogTarget, Mode},
};
use weir_relay::{AccessLog, ApplyError, Reason};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

/// Runs a future of the relay, which needs no runtime of its own.
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_new_plan_drops_nothing() {
    let (old, new) = (Backend::new(), Backend::new());
    let lab = Lab::new(Setup::http(&[old.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = old.accept();
    server.head();
    // The plan changes while the request is on its way: other backend, other rules.
    let mut setup = Setup::http_with(&[new.at], |http| http.forwarded = Forwarded::XForwardedFor);
    setup.backends[0].1 = 5;
    lab.relay
        .apply(
            setup.plan("www", lab.at),
            vec![listener(lab.at, "www", Vec::new())],
        )
        .unwrap();
    lab.relay.set_words(&[(setup.keys()[0].clone(), UP)]);
    server.send(OK);
    assert_eq!(client.response().0, 200);
    server.ends();
    // Its next request follows the new plan, on the same connection.
    client.send(GET);
    let mut server = new.accept();
    assert!(value(&server.head(), "x-forwarded-for").is_some());
    server.send(OK);
    assert_eq!(client.response().0, 200);
    assert_eq!(lab.service().requests, 2, "counters go on");
    assert_eq!(lab.relay.snapshot().backends.len(), 1);
}

#[test]
fn a_reload_under_load_fails_no_request() {
    let backend = Backend::new();
    let at = backend.at;
    let mut setup = Setup::http(&[at]);
    setup.workers = 2;
    let lab = Lab::new(setup.clone());
    backend.serve("a");
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for i in 0..100 {
                        let mut client = lab.client();
                        for _ in 0..i % 3 + 1 {
                            client.send(GET);
                            assert_eq!(client.response(), (200, "a".into()));
                        }
                    }
                })
            })
            .collect();
        let mut applied = 0;
        while clients.iter().any(|c| !c.is_finished()) {
            lab.relay
                .apply(
                    setup.plan("www", lab.at),
                    vec![listener(lab.at, "www", Vec::new())],
                )
                .unwrap();
            applied += 1;
        }
        assert!(applied > 1);
    });
    until("all is counted", || {
        lab.service().ends[Reason::Ok as usize] == lab.service().requests
    });
    assert_eq!(lab.service().accepted, 400);
}

#[test]
fn a_listener_that_goes() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut idle = lab.client();
    idle.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(OK);
    assert_eq!(idle.response().0, 200);
    let mut busy = lab.client();
    busy.send(GET);
    server.head();
    let (other, sockets) = listen(1);
    lab.relay
        .apply(
            lab.setup.plan("other", other),
            vec![listener(other, "other", sockets)],
        )
        .unwrap();
    idle.ends();
    until("nobody listens any more", || TcpStream::connect(lab.at).is_err());
    server.send(OK);
    let head = busy.head();
    assert_eq!(value(&head, "connection").as_deref(), Some("close"), "{head}");
    busy.finish();
    busy.ends();
    let mut client = Raw::connect(other);
    client.send(GET);
    server.head();
}

#[test]
fn a_listener_that_changes_its_service() {
    let (one, two) = (Backend::new(), Backend::new());
    let lab = Lab::new(Setup::http(&[one.at]));
    let mut idle = lab.client();
    idle.send(GET);
    let mut server = one.accept();
    server.head();
    server.send(OK);
    assert_eq!(idle.response().0, 200);
    let setup = Setup::tcp(&[two.at]);
    lab.relay
        .apply(
            setup.plan("raw", lab.at),
            vec![listener(lab.at, "raw", Vec::new())],
        )
        .unwrap();
    lab.relay.set_words(&[(setup.keys()[0].clone(), UP)]);
    idle.ends();
    let mut client = lab.client();
    client.send("raw bytes");
    assert_eq!(two.accept().text(9), "raw bytes");
}

#[test]
fn plans_that_can_not_be_applied_change_nothing() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let (other, sockets) = listen(1);
    let plan = lab.setup.plan("www", lab.at);
    let result = lab
        .relay
        .apply(Arc::clone(&plan), vec![listener(other, "www", Vec::new())]);
    assert!(matches!(result, Err(ApplyError::NoSockets(key)) if key.port == other.port()));
    let result = lab
        .relay
        .apply(Arc::clone(&plan), vec![listener(other, "nobody", sockets)]);
    assert!(
        matches!(result, Err(ApplyError::NoService { service, .. }) if service == ServiceName::new("nobody"))
    );
    let twice = vec![
        listener(lab.at, "www", Vec::new()),
        listener(lab.at, "www", Vec::new()),
    ];
    assert!(matches!(lab.relay.apply(plan, twice), Err(ApplyError::Twice(_))));
    lab.client().send(GET);
    backend.accept().head();
}

#[test]
fn listeners_can_be_taken_over() {
    let backend = Backend::new();
    let mut setup = Setup::http(&[backend.at]);
    setup.workers = 2;
    let lab = Lab::new(setup.clone());
    let mut all = lab.relay.listeners().unwrap();
    let (key, service, sockets) = all.pop().unwrap();
    assert!(all.is_empty());
    assert_eq!(
        (key.port, service.as_str(), sockets.len()),
        (lab.at.port(), "www", 2)
    );
    // Handed back, they are known as the same.
    lab.relay
        .apply(setup.plan("www", lab.at), vec![listener(lab.at, "www", sockets)])
        .unwrap();
    lab.client().send(GET);
    backend.accept().head();
}

#[test]
fn idle_connections_to_a_backend_that_is_down_are_closed() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(OK);
    assert_eq!(client.response().0, 200);
    lab.words(DOWN);
    server.ends();
    assert_eq!(lab.backend(0).idle, 0);
}

#[test]
fn the_limit_on_connections() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http_with(&[backend.at], |http| {
        http.limits.connections = 2
    }));
    let mut clients = [lab.client(), lab.client()];
    until("both are in", || lab.service().open == 2);
    let mut third = lab.client();
    third.send(GET);
    let (answer, _) = third.rest_or_reset();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 503 "),
        "{answer}"
    );
    lab.ended(Reason::LimitConnections, 1);
    assert_eq!(lab.service().refused, 1);
    let server = std::thread::spawn(move || {
        let mut server = backend.accept();
        for _ in 0..2 {
            server.head();
            server.send(OK);
        }
    });
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.response().0, 200, "those that are in are served");
    }
    server.join().unwrap();
}

#[test]
fn a_drain_lets_requests_finish() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut idle = lab.client();
    idle.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(OK);
    assert_eq!(idle.response().0, 200);
    let mut busy = lab.client();
    busy.send(GET);
    server.head();
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| block_on(lab.relay.drain(PATIENCE)));
        idle.ends();
        until("nobody listens any more", || TcpStream::connect(lab.at).is_err());
        assert!(!drained.is_finished());
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
        let head = busy.head();
        assert_eq!(value(&head, "connection").as_deref(), Some("close"));
        assert_eq!(busy.text(4), "done");
        busy.finish();
        busy.ends();
        assert_eq!(drained.join().unwrap(), 0);
    });
    server.ends();
    assert_eq!(lab.service().open, 0);
}

#[test]
fn a_drain_serves_what_is_on_its_way() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    // One has connected and not said anything, the other has begun.
    let mut fresh = lab.client();
    let mut begun = lab.client();
    begun.send("POST /x HTTP/1.1\r\nHo");
    until("both are in, the beginning is read", || {
        let service = lab.service();
        service.open == 2 && service.bytes_in > 0
    });
    std::thread::scope(|scope| {
        let drained = scope.spawn(|| block_on(lab.relay.drain(PATIENCE)));
        until("nobody listens any more", || TcpStream::connect(lab.at).is_err());
        fresh.send(GET);
        begun.send("st: a\r\nContent-Length: 0\r\n\r\n");
        for _ in 0..2 {
            let mut server = backend.accept();
            server.head();
            server.send(OK);
        }
        for client in [&mut fresh, &mut begun] {
            let head = client.head();
            assert_eq!(
                (status(&head), value(&head, "connection").as_deref()),
                (200, Some("close"))
            );
        }
        drop((fresh, begun));
        assert_eq!(drained.join().unwrap(), 0);
    });
}

/// Before its addresses move: whoever comes is served, nobody is kept.
#[test]
fn who_is_eased_out_loses_nothing() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut idle = lab.client();
    idle.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(OK);
    assert_eq!(idle.response().0, 200);
    let mut busy = lab.client();
    busy.send(GET);
    server.head();
    std::thread::scope(|scope| {
        let eased = scope.spawn(|| block_on(lab.relay.ease(PATIENCE)));
        idle.ends();
        assert!(!eased.is_finished(), "a request is under way");
        // Another one comes meanwhile, and is not waited for.
        let mut late = lab.client();
        late.send(GET);
        let mut other = backend.accept();
        other.head();
        other.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert_eq!(value(&late.head(), "connection").as_deref(), Some("close"));
        server.send(OK);
        assert_eq!(value(&busy.head(), "connection").as_deref(), Some("close"));
        drop(busy);
        assert_eq!(eased.join().unwrap(), 0);
    });
    // It was called off: connections are kept again.
    lab.relay.serve_on();
    let mut kept = lab.client();
    for _ in 0..2 {
        kept.send(GET);
        server.head();
        server.send(OK);
        assert_eq!(value(&kept.head(), "connection"), None);
    }
    // And again. What does not end in time is counted.
    assert_eq!(block_on(lab.relay.ease(Duration::from_millis(100))), 0);
    kept.ends();
    let mut upgraded = lab.client();
    lab.relay.serve_on();
    upgraded.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    server.head();
    server.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    upgraded.head();
    assert_eq!(block_on(lab.relay.ease(Duration::from_millis(100))), 1);
    server.send("goes on");
    assert_eq!(upgraded.text(7), "goes on");
}

#[test]
fn a_drain_cuts_what_does_not_finish() {
    let backend = Backend::new();
    let lab = Lab::new(Setup::http(&[backend.at]));
    let mut upgraded = lab.client();
    upgraded.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    let mut tunnel = backend.accept();
    tunnel.head();
    tunnel.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n");
    upgraded.head();
    let mut waiting = lab.client();
    waiting.send(GET);
    let mut server = backend.accept();
    server.head();
    let begun = Instant::now();
    let within = Duration::from_millis(200);
    assert_eq!(block_on(lab.relay.drain(within)), 2);
    assert!(begun.elapsed() >= within);
    upgraded.ends();
    tunnel.ends();
    waiting.ends();
    server.ends();
    lab.ended(Reason::Drained, 2);
}

#[test]
fn dropping_the_relay_ends_everything() {
    let backend = Backend::new();
    let Lab { relay, at, .. } = Lab::new(Setup::http(&[backend.at]));
    let mut client = Raw::connect(at);
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    drop(relay);
    client.ends();
    server.ends();
    assert!(TcpStream::connect(at).is_err());
}

#[test]
fn access_records() {
    let path = std::env::temp_dir().join(format!("weir-relay-records-{}", std::process::id()));
    let backend = Backend::new();
    let mut setup = Setup::http(&[backend.at]);
    setup.log = AccessLog {
        to: LogTarget::File(path.clone()),
        format: LogFormat::Json,
        null: false,
    };
    let lab = Lab::new(setup);
    let mut client = lab.client();
    let request = "POST /a\"b?c HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let answer = "HTTP/1.1 201 Created\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello";
    client.send(request);
    let mut server = backend.accept();
    server.head();
    server.send(answer);
    assert_eq!(client.response().0, 201);
    client.send("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    assert_eq!(client.response().0, 400);
    let address = client.stream.local_addr().unwrap();
    drop(client);
    let read = || std::fs::read_to_string(&path).unwrap();
    until("both are written", || read().lines().count() == 2);
    let text = read();
    std::fs::remove_file(&path).unwrap();
    let records: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let first = &records[0];
    assert_eq!(first["service"], "www");
    assert_eq!(first["pool"], "pool");
    assert_eq!(first["backend"], lab.setup.backends[0].0.to_string());
    assert_eq!(first["client"], address.to_string());
    assert_eq!(first["method"], "POST");
    assert_eq!(first["target"], "/a\"b?c");
    assert_eq!(first["status"], 201);
    assert_eq!(first["bytes_in"], request.len());
    assert_eq!(first["bytes_out"], answer.len());
    assert_eq!(first["end"], "ok");
    assert_eq!(first["keep_alive"], true);
    assert_eq!(first["reused"], false);
    for timer in ["head_us", "connect_us", "first_byte_us", "total_us"] {
        assert!(first[timer].is_u64(), "{timer} {first}");
    }
    let second = &records[1];
    assert_eq!(
        (&second["end"], &second["detail"]),
        (&"client-bad-request".into(), &"host-twice".into())
    );
    assert_eq!(
        (&second["status"], &second["backend"]),
        (&400.into(), &serde_json::Value::Null)
    );
}

#[test]
fn workers_share_the_load() {
    let backend = Backend::new();
    let mut setup = Setup::http_with(&[backend.at], |_| {});
    setup.workers = 2;
    let lab = Lab::new(setup);
    backend.serve("a");
    for _ in 0..50 {
        let mut client = lab.client();
        client.send(GET);
        assert_eq!(client.response(), (200, "a".into()));
    }
    // Connections of both workers, or of one by a small chance (2 in 2^50); the sum is what counts.
    until("all is counted", || lab.service().ends[Reason::Ok as usize] == 50);
    assert_eq!(lab.backend(0).requests, 50);
    assert!(matches!(lab.setup.mode, Mode::Http(_)));
}
