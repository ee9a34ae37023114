//! Which requests are sent again, where, and how often.

use weir_core::plan::{Retries, RetryOn};
use weir_relay::{Cause, Reason};

use crate::support::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

fn with(setup: Setup, change: impl FnOnce(&mut Retries)) -> Setup {
    let mut setup = setup;
    change(&mut setup.retries);
    setup
}

/// A client whose first request has left an idle connection to the backend.
fn with_an_idle_connection(lab: &Lab, backend: &Backend) -> (Raw, Raw) {
    let mut client = lab.client();
    client.send(GET);
    let mut server = backend.accept();
    server.head();
    server.send(OK);
    assert_eq!(client.response().0, 200);
    until("it is idle", || lab.backend(0).idle == 1);
    (client, server)
}

/// What a kept connection's end just as it is used means, by method and by what of the request is still at hand.
#[test]
fn a_kept_connection_that_ends_as_it_is_used() {
    let put = POST.replace("POST", "PUT");
    let chunked = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n";
    for (request, again) in [
        (GET, true),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        (put.as_str(), true),
        (POST, false),
        ("PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false),
        ("PURGE / HTTP/1.1\r\nHost: a\r\n\r\n", false),
        (chunked, true),
    ] {
        let backend = Backend::new();
        let lab = Lab::new(Setup::http(&[backend.at]));
        let (mut client, mut server) = with_an_idle_connection(&lab, &backend);
        client.send(request);
        let first = server.head();
        drop(server);
        if !again {
            assert_eq!(client.response().0, 502, "{request}");
            lab.ended(Reason::BackendClosedEarly, 1);
            assert!(backend.is_untouched(), "{request}");
            continue;
        }
        let mut server = backend.accept();
        assert_eq!(server.head(), first, "the same request");
        if request.contains("body") {
            server.until("body");
        }
        if request == chunked {
            client.send("0\r\n\r\n");
            server.until("0\r\n\r\n");
        }
        server.send(OK);
        assert_eq!(status(&client.head()), 200, "{request}");
        lab.ended(Reason::Ok, 2);
        let counts = lab.backend(0);
        assert_eq!(
            (
                counts.errors[Cause::Stale as usize],
                counts.retries,
                lab.service().retries
            ),
            (1, 1, 1)
        );
        assert_eq!((counts.requests, counts.reused, counts.connections), (3, 1, 2));
    }
}

/// Once more of the body was read than came with the head, there is nothing to send again.
#[test]
fn a_body_that_is_under_way_is_not_sent_again() {
    let (backend, other) = (Backend::new(), Backend::new());
    let lab = Lab::new(Setup::http(&[backend.at, other.at]));
    let (mut client, mut server) = with_an_idle_connection(&lab, &backend);
    // The other's turn is in between.
    client.send(GET);
    let mut turn = other.accept();
    turn.head();
    turn.send(OK);
    assert_eq!(client.response().0, 200);
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    server.head();
    server.exactly(5);
    client.send("world");
    server.exactly(5);
    drop(server);
    assert_eq!(client.response().0, 502);
    lab.ended(Reason::BackendClosedEarly, 1);
    assert!(backend.is_untouched() && other.is_untouched());
}

/// A connection that ended while it was idle takes no request of any kind, so nothing has to be sent again: here the end
/// has come, and nobody has noticed it yet.
#[test]
fn what_can_not_be_sent_twice_meets_no_dead_connection() {
    for reset in [false, true] {
        for _ in 0..20 {
            let backend = Backend::new();
            let lab = Lab::new(Setup::http(&[backend.at]));
            let (mut client, server) = with_an_idle_connection(&lab, &backend);
            if reset {
                server.reset();
            } else {
                drop(server);
            }
            client.send(POST);
            let mut server = backend.accept();
            server.head();
            assert_eq!(server.text(4), "body");
            server.send(OK);
            assert_eq!(client.response().0, 200);
            lab.ended(Reason::Ok, 2);
            assert_eq!(lab.backend(0).errors.iter().sum::<u64>(), 0);
        }
    }
}

#[test]
fn a_backend_that_closes_without_an_answer_is_anothers_turn() {
    for (request, again) in [(GET, true), (POST, false)] {
        let (a, b) = (Backend::new(), Backend::new());
        let lab = Lab::new(Setup::http(&[a.at, b.at]));
        let mut client = lab.client();
        client.send(request);
        a.accept().head();
        if again {
            let mut server = b.accept();
            server.head();
            server.send(OK);
        }
        assert_eq!(client.response().0, if again { 200 } else { 502 });
        assert_eq!(lab.backend(0).errors[Cause::Closed as usize], 1);
        assert_eq!(
            (lab.backend(1).retries, lab.service().retries),
            if again { (1, 1) } else { (0, 0) }
        );
        let counts = lab.pool();
        assert_eq!((counts.retries, counts.retries_denied), (u64::from(again), 0));
        if !again {
            assert!(b.is_untouched());
        }
    }
}

/// A response that has begun is not begun again.
#[test]
fn half_a_response_head_is_an_answer() {
    let (a, b) = (Backend::new(), Backend::new());
    let lab = Lab::new(Setup::http(&[a.at, b.at]));
    let mut client = lab.client();
    client.send(GET);
    let mut server = a.accept();
    server.head();
    server.send("HTTP/1.1 200 OK\r\nCont");
    drop(server);
    assert_eq!(client.response().0, 502);
    assert!(b.is_untouched());
}

#[test]
fn as_many_attempts_as_may_be() {
    let backends: Vec<_> = (0..4).map(|_| Backend::new()).collect();
    let at: Vec<_> = backends.iter().map(|b| b.at).collect();
    let lab = Lab::new(with(Setup::http(&at), |retries| retries.attempts = 3));
    let mut client = lab.client();
    client.send(GET);
    for backend in &backends[..3] {
        drop(backend.accept());
    }
    assert_eq!(client.response().0, 502);
    lab.ended(Reason::BackendClosedEarly, 1);
    assert!(backends[3].is_untouched());
    assert_eq!(lab.service().retries, 2);
    // Refusals count as well.
    let dead: Vec<_> = (0..3).map(|_| closed_port()).collect();
    let alive = Backend::new();
    let at = [dead[0], dead[1], dead[2], alive.at];
    let lab = Lab::new(with(Setup::http(&at), |retries| retries.attempts = 3));
    let mut client = lab.client();
    client.send(POST);
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::BackendRefused, 1);
    assert!(alive.is_untouched());
}

/// Refusals cost no backend anything: the budget is not asked, and the client does not notice.
#[test]
fn refusals_are_free() {
    let backend = Backend::new();
    let at = backend.serve("a");
    let lab = Lab::new(with(Setup::http(&[closed_port(), at]), |retries| {
        (retries.budget, retries.floor) = (0, 0);
    }));
    let mut client = lab.client();
    for _ in 0..20 {
        client.send(GET);
        assert_eq!(client.response(), (200, "a".into()));
    }
    lab.ended(Reason::Ok, 20);
    let counts = lab.pool();
    assert_eq!((counts.retries, counts.retries_denied), (10, 0));
    assert_eq!(lab.backend(1).retries, 10);
}

#[test]
fn what_on_does_not_name_makes_no_try() {
    let nothing = RetryOn {
        connect: false,
        closed: false,
        timeout: false,
        statuses: Vec::new(),
    };
    let other = Backend::new();
    let lab = Lab::new(with(Setup::http(&[closed_port(), other.at]), |retries| {
        retries.on = nothing.clone();
    }));
    let mut client = lab.client();
    client.send(GET);
    assert_eq!(client.response().0, 503);
    lab.ended(Reason::BackendRefused, 1);
    let closing = Backend::new();
    let lab = Lab::new(with(Setup::http(&[closing.at, other.at]), |retries| {
        retries.on = nothing
    }));
    let mut client = lab.client();
    client.send(GET);
    drop(closing.accept());
    assert_eq!(client.response().0, 502);
    assert!(other.is_untouched());
}

#[test]
fn a_used_up_budget_makes_the_first_failure_the_answer() {
    let (a, b) = (Backend::new(), Backend::new());
    let mut setup = with(Setup::http(&[a.at, b.at]), |retries| {
        (retries.budget, retries.floor) = (50, 0);
    });
    let log = std::env::temp_dir().join(format!("weir-retries-{}.log", std::process::id()));
    setup.log = weir_relay::AccessLog {
        to: weir_core::plan::LogTarget::File(log.clone()),
        format: weir_core::plan::LogFormat::Json,
        null: false,
    };
    let lab = Lab::new(setup);
    let mut client = lab.client();
    // One request, half of which may be sent again: none.
    client.send(GET);
    drop(a.accept());
    assert_eq!(client.response().0, 502);
    assert_eq!(lab.pool().retries_denied, 1);
    // Two: one.
    client.send(GET);
    drop(b.accept());
    let mut server = a.accept();
    server.head();
    server.send(OK);
    assert_eq!(client.response().0, 200);
    let counts = lab.pool();
    assert_eq!((counts.retries, counts.retries_denied), (1, 1));
    until("the records are written", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.lines().count() == 2)
    });
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let details: Vec<_> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["detail"].clone())
        .collect();
    assert_eq!(details, ["retry budget used up".into(), serde_json::Value::Null]);
}

#[test]
fn statuses_and_timeouts_when_asked_for() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy";
    for (request, again) in [(GET, true), (POST, false)] {
        let (a, b) = (Backend::new(), Backend::new());
        let lab = Lab::new(with(Setup::http(&[a.at, b.at]), |retries| {
            retries.on.statuses = vec![502, 503];
        }));
        let mut client = lab.client();
        client.send(request);
        let mut server = a.accept();
        server.head();
        server.send(busy);
        if again {
            let mut server = b.accept();
            server.head();
            server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            assert_eq!(client.response(), (200, "ok".into()));
            assert_eq!(lab.backend(0).errors[Cause::Status as usize], 1);
            // Another answers so as well: nobody is left, so that is the answer.
            client.send(GET);
            server.head();
            server.send(busy);
            let mut server = a.accept();
            server.head();
            server.send(busy);
        }
        assert_eq!(client.response(), (503, "busy".into()), "{request}");
    }
    let (a, b) = (Backend::new(), Backend::new());
    let mut setup = Setup::http_with(&[a.at, b.at], |http| {
        http.timeouts.server = std::time::Duration::from_millis(300);
    });
    setup.retries.on.timeout = true;
    let lab = Lab::new(setup);
    let mut client = lab.client();
    client.send(GET);
    let mut silent = a.accept();
    silent.head();
    let mut server = b.accept();
    server.head();
    server.send(OK);
    assert_eq!(client.response().0, 200);
    silent.ends();
}

/// By header rules that name the backend, each try has its own head.
#[test]
fn the_head_is_the_present_backends() {
    use weir_core::plan::{HeaderAction, HeaderRule, Template, TemplatePart, Variable};
    let (a, b) = (Backend::new(), Backend::new());
    let lab = Lab::new(Setup::http_with(&[a.at, b.at], |http| {
        http.request_headers = vec![HeaderRule {
            name: "X-To".into(),
            action: HeaderAction::Set(Template {
                parts: vec![TemplatePart::Variable(Variable::BackendName)],
            }),
        }];
    }));
    let mut client = lab.client();
    client.send("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    let mut server = a.accept();
    assert_eq!(value(&server.head(), "x-to").as_deref(), Some("b0"));
    drop(server);
    let mut server = b.accept();
    assert_eq!(value(&server.head(), "x-to").as_deref(), Some("b1"));
    assert_eq!(server.text(2), "hi");
    server.send(OK);
    assert_eq!(client.response().0, 200);
}
