//! Rules that choose a pool: by path, host and header, what else goes by the pool, reloads, services without a pool.

use serde_json::Value;
use weir_core::ids::PoolName;
use weir_core::plan::{
    Conditions, FieldCondition, FieldValue, Http, LogFormat, PathPattern, PathRewrite, Relayed, Respond,
    Retries, Rewrite, Rule, RuleAction, Template,
};
use weir_relay::Reason;

use crate::support::*;

fn to(pool: &'static str, conditions: Conditions) -> Rule {
    Rule {
        conditions,
        action: RuleAction::Relay(Relayed {
            pool: Some(PoolName::new(pool)),
            rewrite: None,
        }),
    }
}

fn under(prefix: &str) -> Conditions {
    Conditions {
        path_prefix: vec![PathPattern::new(prefix)],
        ..Conditions::default()
    }
}

fn field(name: &str, value: FieldValue) -> FieldCondition {
    FieldCondition {
        name: name.into(),
        value,
    }
}

/// A service whose own pool answers `own`, with pools `api` and `beta` that answer their names.
fn setup(change: impl FnOnce(&mut Http)) -> Setup {
    let serve = |name| Backend::new().serve(name);
    let mut setup = Setup::http_with(&[serve("own")], change);
    setup.others = vec![("api", vec![serve("api")]), ("beta", vec![serve("beta")])];
    setup
}

fn ask(client: &mut Raw, target: &str, fields: &str) -> (u16, String) {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    client.response()
}

#[test]
fn a_rule_chooses_the_pool() {
    let lab = Lab::new(setup(|http| {
        let beta = Conditions {
            header: vec![
                field("X-Beta", FieldValue::OneOf(vec!["yes".into(), "on".into()])),
                field("cookie", FieldValue::Prefix(vec!["user=".into()])),
            ],
            ..Conditions::default()
        };
        let seen = Conditions {
            header: vec![field("X-Seen", FieldValue::Any)],
            ..Conditions::default()
        };
        let mut api = to("api", under("/api"));
        if let RuleAction::Relay(relayed) = &mut api.action {
            relayed.rewrite = Some(Rewrite {
                path: PathRewrite::Prefix {
                    strip: PathPattern::new("/api"),
                    add: Template::default(),
                },
                ..Rewrite::default()
            });
        }
        http.rules = vec![to("beta", beta), api, to("api", seen)];
    }));
    let mut client = lab.client();
    for (target, fields, expected) in [
        ("/", "", "own"),
        ("/api/x", "", "api"),
        ("/apis", "", "own"),
        // The first rule that holds decides.
        ("/api/x", "X-Beta: on\r\nCookie: user=1\r\n", "beta"),
        ("/", "x-beta: yes\r\nCookie: a=b\r\nCookie: user=2\r\n", "beta"),
        // All must hold, byte for byte.
        ("/", "X-Beta: yes\r\n", "own"),
        ("/", "X-Beta: YES\r\nCookie: user=1\r\n", "own"),
        ("/", "X-Beta: yes!\r\nCookie: user=1\r\n", "own"),
        ("/", "X-Beta: yes\r\nCookie: a=user=1\r\n", "own"),
        ("/", "X-Seen:\r\n", "api"),
        ("/", "X-Seen-Not: 1\r\n", "own"),
    ] {
        assert_eq!(
            ask(&mut client, target, fields),
            (200, expected.into()),
            "{target} {fields}"
        );
    }
    lab.ended(Reason::Ok, 11);
    let snapshot = lab.relay.snapshot();
    let requests = |pool: &str| -> u64 {
        let of = snapshot
            .backends
            .iter()
            .filter(|b| b.backend.pool.as_str() == pool);
        of.map(|b| b.counts.requests).sum()
    };
    assert_eq!((requests("pool"), requests("api"), requests("beta")), (7, 2, 2));
    let total = |pool: &str| {
        let of = snapshot.pools.iter().find(|p| p.pool.as_str() == pool).unwrap();
        (of.counts.total.count(), of.counts.active)
    };
    assert_eq!(
        (total("pool"), total("api"), total("beta")),
        ((7, 0), (2, 0), (2, 0))
    );
    assert_eq!(lab.service().requests, 11);
}

/// What a client claims of addresses is no condition to go by, unless it is trusted.
#[test]
fn claims_of_strangers_choose_nothing() {
    let rules = |http: &mut Http| {
        let claimed = Conditions {
            header: vec![field(
                "X-Forwarded-Proto",
                FieldValue::OneOf(vec!["https".into()]),
            )],
            ..Conditions::default()
        };
        http.rules = vec![to("api", claimed)];
        http.forwarded = weir_core::plan::Forwarded::XForwardedFor;
    };
    let lab = Lab::new(setup(rules));
    let claim = "X-Forwarded-Proto: https\r\n";
    assert_eq!(ask(&mut lab.client(), "/", claim).1, "own");
    let lab = Lab::new(setup(|http| {
        rules(http);
        http.trusted_proxies = vec![weir_core::plan::IpNet::new("127.0.0.0".parse().unwrap(), 8).unwrap()];
    }));
    assert_eq!(ask(&mut lab.client(), "/", claim).1, "api");
}

/// Retries, the record and its counters are those of the pool that was chosen.
#[test]
fn all_else_goes_by_that_pool() {
    let mut setup = Setup::http_with(&[Backend::new().serve("own")], |http| {
        http.rules = vec![to("api", under("/api"))];
    });
    setup.others = vec![("api", vec![closed_port(), Backend::new().serve("api")])];
    setup.retries = Retries {
        attempts: 2,
        ..Retries::default()
    };
    let logged = Logged::new(setup, LogFormat::Json, false);
    let lab = &logged.lab;
    let mut client = lab.client();
    for _ in 0..4 {
        assert_eq!(ask(&mut client, "/api", "").1, "api");
    }
    assert_eq!(ask(&mut client, "/", "").1, "own");
    let snapshot = lab.relay.snapshot();
    let retries = |pool: &str| {
        let of = snapshot.pools.iter().find(|p| p.pool.as_str() == pool).unwrap();
        of.counts.retries
    };
    assert!(retries("api") > 0);
    assert_eq!(retries("pool"), 0);
    let lines = logged.lines(5);
    let records: Vec<Value> = lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        (&records[0]["pool"], &records[0]["backend_name"]),
        (&"api".into(), &"api1".into())
    );
    assert_eq!(
        (&records[4]["pool"], &records[4]["backend_name"]),
        (&"pool".into(), &"b0".into())
    );
}

#[test]
fn a_pool_of_a_rule_may_come_and_go() {
    let mut plain = setup(|_| {});
    let lab = Lab::new(plain.clone());
    let mut client = lab.client();
    assert_eq!(ask(&mut client, "/api", "").1, "own");
    let apply = |setup: &Setup| {
        let plan = setup.plan("www", lab.at);
        lab.relay
            .apply(plan, vec![listener(lab.at, "www", Vec::new())])
            .unwrap();
    };
    let mut routed = plain.clone();
    let rules = vec![to("api", under("/api"))];
    if let weir_core::plan::Mode::Http(http) = &mut routed.mode {
        http.rules = rules;
    }
    apply(&routed);
    // The same connection: its next request goes by the new plan, once the worker has it.
    until("the rule is in force", || ask(&mut client, "/api", "").1 == "api");
    assert_eq!(ask(&mut client, "/", "").1, "own");
    // Without its pool, in one go with its rule.
    plain.others.clear();
    apply(&plain);
    until("the rule is gone", || ask(&mut client, "/api", "").1 == "own");
    assert_eq!(lab.service().ends[Reason::NoBackend as usize], 0);
}

#[test]
fn a_service_may_do_without_a_pool() {
    let mut setup = setup(|http| {
        let gone = RuleAction::Respond(Respond {
            status: 404,
            body: "no".into(),
            content_type: None,
            headers: Vec::new(),
        });
        let all = Rule {
            conditions: Conditions::default(),
            action: gone,
        };
        http.rules = vec![to("api", under("/api")), all];
        http.response_headers = vec![weir_core::plan::HeaderRule {
            name: "X-Pool".into(),
            action: weir_core::plan::HeaderAction::Set(Template {
                parts: vec![weir_core::plan::TemplatePart::Variable(
                    weir_core::plan::Variable::PoolName,
                )],
            }),
        }];
    });
    setup.no_pool = true;
    let logged = Logged::new(setup, LogFormat::Json, false);
    let lab = &logged.lab;
    let mut client = lab.client();
    client.send("GET /api HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert_eq!(
        (status(&head), value(&head, "x-pool").as_deref()),
        (200, Some("api"))
    );
    assert_eq!(client.text(3), "api");
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert_eq!(
        (status(&head), value(&head, "x-pool").as_deref()),
        (404, Some(""))
    );
    assert_eq!(client.text(2), "no");
    // What can't be read is refused as ever.
    client.send("GET  HTTP/1.1\r\n\r\n");
    assert_eq!(client.response().0, 400);
    let pools: Vec<_> = logged
        .lines(3)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["pool"].clone())
        .collect();
    assert_eq!(pools, ["api".into(), Value::Null, Value::Null]);
}
