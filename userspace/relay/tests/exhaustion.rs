//! What happens when descriptors run out. A process of its own, because the limit is the process's.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, and so does what it calls"
)]

#[path = "relay/support.rs"]
#[expect(dead_code, reason = "shared with the other tests, not all of it is used here")]
mod support;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Backend, Raw, Setup, UP, listen, listener, until};
use weir_relay::{AccessLog, Options, Relay};

/// Connections wait in the queue, the worker does not spin, and all is served once there are descriptors again.
#[test]
fn connections_wait_for_descriptors() {
    let backend = Backend::new();
    let setup = Setup::http(&[backend.at]);
    backend.serve("a");
    let relay = Relay::start(Options {
        workers: 1,
        access_log: AccessLog::default(),
    })
    .unwrap();
    let (at, sockets) = listen(1);
    // The system takes the connections; the relay does not know of the listener yet.
    let mut clients: Vec<_> = (0..5).map(|_| Raw::connect(at)).collect();
    let before = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        maximum: before.maximum,
    };
    setrlimit(Resource::Nofile, none).unwrap();
    relay
        .apply(setup.plan("www", at), vec![listener(at, "www", sockets)])
        .unwrap();
    relay.set_words(&[(setup.keys()[0].clone(), UP)]);
    let paused = || relay.snapshot().accept_paused;
    until("accepting is put off, and tried again", || paused() >= 3);
    let (count, begun) = (paused(), std::time::Instant::now());
    until("it is tried again later", || paused() >= count + 3);
    assert!(begun.elapsed().as_millis() >= 150, "it spins");
    assert_eq!(relay.snapshot().services[0].counts.accepted, 0);
    setrlimit(Resource::Nofile, before).unwrap();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response(), (200, "a".into()));
    }
}
