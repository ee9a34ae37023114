//! Access records as readers of logs see them: HAProxy's form by a strict expression, JSON by its keys, each held against
//! what client and backend saw.

use std::time::Duration;

use regex_lite::{Captures, Regex};
use serde_json::Value;
use weir_core::plan::LogFormat;
use weir_relay::Reason;

use crate::support::{Backend, DOWN, Lab, Logged, Raw, Setup, closed_port, status, until};

/// `option httplog`, every field and nothing else.
const HTTPLOG: &str = concat!(
    r"^(?P<client>[0-9a-f.:]+):(?P<port>\d+) \[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}\.\d{3}\] ",
    r"(?P<service>\S+) (?P<pool>[^\s/]+)/(?P<server><NOSRV>|\S+) ",
    r"(?P<TR>-1|\d+)/(?P<Tw>-1|\d+)/(?P<Tc>-1|\d+)/(?P<Tr>-1|\d+)/(?P<Ta>\d+) ",
    r"(?P<status>-1|\d{3}) (?P<bytes>\d+) - - (?P<state>[CScsPLRIDUK-][RQCHDLT-]--) ",
    r"(?P<act>\d+)/(?P<fe>\d+)/(?P<be>\d+)/(?P<srv>\d+)/(?P<retries>\+?\d+) 0/(?P<bq>\d+) ",
    r#""(?P<request><BADREQ>|[A-Z]+ [!-~]+ HTTP/1\.[01])"$"#,
);

/// `option tcplog`
const TCPLOG: &str = concat!(
    r"^(?P<client>[0-9a-f.:]+):(?P<port>\d+) \[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}\.\d{3}\] ",
    r"(?P<service>\S+) (?P<pool>[^\s/]+)/(?P<server><NOSRV>|\S+) ",
    r"(?P<Tw>-1|\d+)/(?P<Tc>-1|\d+)/(?P<Tt>\d+) (?P<bytes>\d+) (?P<state>[CScsPLRIDUK-][QCDL-]) ",
    r"(?P<act>\d+)/(?P<fe>\d+)/(?P<be>\d+)/(?P<srv>\d+)/(?P<retries>\+?\d+) 0/(?P<bq>\d+)$",
);

fn parse<'l>(expression: &str, line: &'l str) -> Captures<'l> {
    let expression = Regex::new(expression).unwrap();
    expression
        .captures(line)
        .unwrap_or_else(|| panic!("not in HAProxy's form: {line}"))
}

fn number(fields: &Captures<'_>, name: &str) -> i64 {
    fields[name].parse().unwrap()
}

fn impatient(backends: &[std::net::SocketAddr]) -> Setup {
    Setup::http_with(backends, |http| {
        http.timeouts.server = Duration::from_millis(100);
        http.timeouts.request_head = Duration::from_millis(100);
        http.timeouts.client = Duration::from_millis(100);
        http.timeouts.queue = Duration::from_millis(100);
    })
}

#[test]
fn httplog_says_what_client_and_backend_saw() {
    let backend = Backend::new();
    let logged = Logged::new(Setup::http(&[backend.at]), LogFormat::Httplog, false);
    let mut client = logged.lab.client();
    let address = client.stream.local_addr().unwrap();
    client.send("GET /a\"b?c=d HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    // Time passes at the backend, by the clock that the record is held against. A busy machine may let the relay learn of
    // its connection only then.
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_millis(25) {
        std::hint::spin_loop();
    }
    let answer = "HTTP/1.1 201 Created\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello";
    server.send(answer);
    assert_eq!(client.response(), (201, "hello".into()));
    let line = logged.last(1);
    let fields = parse(HTTPLOG, &line);
    assert_eq!(
        (&fields["client"], &fields["port"]),
        ("127.0.0.1", address.port().to_string().as_str())
    );
    assert_eq!(
        (&fields["service"], &fields["pool"], &fields["server"]),
        ("www", "pool", "b0")
    );
    assert_eq!((&fields["status"], &fields["state"]), ("201", "----"));
    assert_eq!(number(&fields, "bytes"), answer.len() as i64);
    assert_eq!(&fields["request"], "GET /a#22b?c=d HTTP/1.1");
    let [head, queue, connect, response, total] = ["TR", "Tw", "Tc", "Tr", "Ta"].map(|t| number(&fields, t));
    assert!(
        head >= 0 && queue == 0 && connect >= 0 && connect + response >= 20,
        "{line}"
    );
    // Each is cut down to whole milliseconds.
    assert!(total >= head + queue + connect + response, "{line}");
    assert_eq!(
        ["act", "fe", "be", "srv", "retries", "bq"].map(|t| number(&fields, t)),
        [1, 1, 0, 0, 0, 0]
    );
}

#[test]
fn httplog_has_haproxys_letters() {
    // What the client sends, what the backend does with it; then server, times that are not there, status and state.
    struct Case {
        request: &'static str,
        answer: Option<&'static str>,
        want: (&'static str, [bool; 4], &'static str, &'static str),
    }
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const NONE: [bool; 4] = [false; 4];
    let cases = [
        Case {
            request: GET,
            answer: Some(""),
            want: ("b0", [true, true, true, false], "502", "SH--"),
        },
        Case {
            request: GET,
            answer: Some("nonsense\r\n\r\n"),
            want: ("b0", [true, true, true, false], "502", "PH--"),
        },
        Case {
            request: GET,
            answer: Some("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"),
            want: ("b0", [true; 4], "200", "SD--"),
        },
        Case {
            request: "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            answer: None,
            want: ("<NOSRV>", NONE, "400", "PR--"),
        },
        Case {
            request: "GET / HTTP/1.1\r\nHo",
            answer: None,
            want: ("<NOSRV>", NONE, "408", "cR--"),
        },
    ];
    for Case {
        request,
        answer,
        want,
    } in cases
    {
        let backend = Backend::new();
        let logged = Logged::new(impatient(&[backend.at]), LogFormat::Httplog, false);
        let mut client = logged.lab.client();
        client.send(request);
        if let Some(answer) = answer {
            let mut server = backend.accept();
            server.head();
            server.send(answer);
            drop(server);
        }
        let _ = client.rest_or_reset();
        let line = logged.last(1);
        let fields = parse(HTTPLOG, &line);
        let there = ["TR", "Tw", "Tc", "Tr"].map(|t| number(&fields, t) >= 0);
        assert_eq!(
            (&fields["server"], there, &fields["status"], &fields["state"]),
            want,
            "{line}"
        );
        let request = if there[0] { "GET / HTTP/1.1" } else { "<BADREQ>" };
        assert_eq!(&fields["request"], request, "{line}");
    }
}

#[test]
fn httplog_of_backends_that_can_not_be_had() {
    let silent = Backend::new();
    let refuses = Logged::new(impatient(&[closed_port()]), LogFormat::Httplog, false);
    let late = Logged::new(impatient(&[silent.at]), LogFormat::Httplog, false);
    let down = Logged::new(impatient(&[silent.at]), LogFormat::Httplog, false);
    down.lab.words(DOWN);
    for (logged, server, there, status_line, state) in [
        (&refuses, "b0", [true, true, false, false], 503, "SC--"),
        (&late, "b0", [true, true, true, false], 504, "sH--"),
        (&down, "<NOSRV>", [true, false, false, false], 503, "SC--"),
    ] {
        let mut client = logged.lab.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(status(&client.head()), status_line);
        let line = logged.last(1);
        let fields = parse(HTTPLOG, &line);
        let times = ["TR", "Tw", "Tc", "Tr"].map(|t| number(&fields, t) >= 0);
        assert_eq!(
            (&fields["server"], times, &fields["state"]),
            (server, there, state),
            "{line}"
        );
    }
}

#[test]
fn a_retry_shows() {
    let backend = Backend::new().serve("b1");
    let mut setup = Setup::http(&[closed_port(), backend]);
    setup.balance = weir_core::plan::Balance::RoundRobin;
    let logged = Logged::new(setup, LogFormat::Httplog, false);
    let mut client = logged.lab.client();
    // One of two requests begins at the backend that refuses.
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response(), (200, "b1".into()));
    }
    let lines = logged.lines(2);
    let retries: Vec<_> = lines
        .iter()
        .map(|l| parse(HTTPLOG, l)["retries"].to_owned())
        .collect();
    assert!(retries.contains(&"+1".to_owned()), "{lines:#?}");
    assert!(lines.iter().all(|l| &parse(HTTPLOG, l)["server"] == "b1"));
}

#[test]
fn tcplog() {
    let backend = Backend::new();
    let logged = Logged::new(Setup::tcp(&[backend.at]), LogFormat::Httplog, false);
    let mut client = logged.lab.client();
    client.send("ping");
    client.finish();
    let mut server = backend.accept();
    assert_eq!(server.rest(), "ping");
    server.send("pong!");
    drop(server);
    assert_eq!(client.rest(), "pong!");
    let line = logged.last(1);
    let fields = parse(TCPLOG, &line);
    assert_eq!(
        (&fields["server"], &fields["state"], &fields["bytes"]),
        ("b0", "--", "5")
    );
    assert!(number(&fields, "Tw") == 0 && number(&fields, "Tc") >= 0, "{line}");

    let refused = Logged::new(Setup::tcp(&[closed_port()]), LogFormat::Httplog, false);
    let mut client = refused.lab.client();
    client.ends();
    let line = refused.last(1);
    let fields = parse(TCPLOG, &line);
    assert_eq!((&fields["state"], number(&fields, "Tc")), ("SC", -1), "{line}");
}

#[test]
fn json_says_whose_doing_it_was() {
    let backend = Backend::new();
    let logged = Logged::new(impatient(&[backend.at]), LogFormat::Json, false);
    let mut client = logged.lab.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = backend.accept();
    server.head();
    assert_eq!(status(&client.head()), 504);
    let record: Value = serde_json::from_str(&logged.last(1)).unwrap();
    let text = |name: &str| record[name].as_str().unwrap().to_owned();
    assert_eq!(
        ["end", "side", "layer", "phase", "backend_name", "version"].map(text),
        [
            "backend-timeout-response",
            "backend",
            "l7",
            "response",
            "b0",
            "1.1"
        ]
    );
    assert!(record["response_us"].is_null() && record.get("id").is_none());
    for time in ["idle_us", "head_us", "queue_us", "connect_us", "total_us"] {
        assert!(record[time].is_u64(), "{time}: {record}");
    }
    assert!(record["total_us"].as_u64() >= Some(100_000), "{record}");
}

#[test]
fn a_client_that_goes_is_told_with_its_phase() {
    let backend = Backend::new();
    let logged = Logged::new(Setup::http(&[backend.at]), LogFormat::Json, false);
    let mut client = logged.lab.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    let mut server = backend.accept();
    server.head();
    drop(client);
    let record: Value = serde_json::from_str(&logged.last(1)).unwrap();
    assert_eq!(
        (
            &record["end"],
            &record["side"],
            &record["layer"],
            &record["phase"]
        ),
        (
            &"client-closed".into(),
            &"client".into(),
            &"l4".into(),
            &"response".into()
        )
    );
}

#[test]
fn connections_without_data_are_counted_and_written_only_if_asked_for() {
    let backend = Backend::new();
    // In TCP mode the backend gets its connection all the same.
    let end_of = |setup: &Setup, client: Raw, bytes: &str| {
        let tcp = matches!(setup.mode, weir_core::plan::Mode::Tcp(_));
        client.finish();
        if tcp {
            assert_eq!(backend.accept().rest(), bytes);
        }
        drop(client);
    };
    for setup in [Setup::http(&[backend.at]), Setup::tcp(&[backend.at])] {
        let quiet = Logged::new(setup.clone(), LogFormat::Json, false);
        end_of(&setup, quiet.lab.client(), "");
        until("it is counted", || quiet.lab.service().null == 1);
        // The log is written in order: what comes after is the first there.
        let mut client = quiet.lab.client();
        client.send("x");
        end_of(&setup, client, "x");
        let record: Value = serde_json::from_str(&quiet.last(1)).unwrap();
        assert_eq!(record["bytes_in"], 1);

        let told = Logged::new(setup.clone(), LogFormat::Json, true);
        end_of(&setup, told.lab.client(), "");
        let record: Value = serde_json::from_str(&told.last(1)).unwrap();
        assert_eq!(
            (&record["bytes_in"], &record["status"]),
            (&0.into(), &Value::Null)
        );
        assert_eq!(told.lab.service().null, 1);
    }
}

#[test]
fn an_idle_connection_that_ends_is_not_null() {
    let backend = Backend::new().serve("b0");
    let logged = Logged::new(Setup::http(&[backend]), LogFormat::Json, true);
    let mut client = logged.lab.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response(), (200, "b0".into()));
    drop(client);
    until("it has ended", || logged.lab.service().open == 0);
    assert_eq!(logged.lab.service().null, 0);
    logged.lines(1);
}

#[test]
fn idle_time_runs_between_requests() {
    let backend = Backend::new().serve("b0");
    let logged = Logged::new(Setup::http(&[backend]), LogFormat::Json, false);
    let mut client = logged.lab.client();
    let began = std::time::Instant::now();
    for turn in 1..=2 {
        // The client waits before each request, by its own clock.
        while began.elapsed() < Duration::from_millis(30) * turn {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response(), (200, "b0".into()));
    }
    let records = logged.lines(2);
    let records = records.iter().map(|l| serde_json::from_str::<Value>(l).unwrap());
    for record in records {
        assert!(record["idle_us"].as_u64() > Some(0), "{record}");
        assert!(
            record["total_us"].as_u64() >= record["first_byte_us"].as_u64(),
            "{record}"
        );
    }
}

#[test]
fn latencies_are_counted_by_service_and_by_pool() {
    let backend = Backend::new().serve("b0");
    let lab = Lab::new(Setup::http(&[backend]));
    let mut client = lab.client();
    for _ in 0..3 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response(), (200, "b0".into()));
    }
    client.send("nonsense\r\n\r\n");
    client.rest_or_reset();
    lab.ended(Reason::ClientBadRequest, 1);
    let (service, pool) = (lab.service(), lab.pool());
    assert_eq!((service.total.count(), service.first_byte.count()), (4, 3));
    assert_eq!(
        (pool.total.count(), pool.response.count(), pool.connect.count()),
        (3, 3, 1),
        "one connection was made and used again"
    );
    assert_eq!((pool.active, pool.queue_wait.count()), (0, 0));
    assert!(pool.response.sum_us <= service.total.sum_us);
}
