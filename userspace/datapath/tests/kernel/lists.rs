//! Lists in the map: whose entries stay, whose go, and that many are quick.

use std::time::{Duration, Instant};

use weir_core::{
    ids::Protocol,
    plan::{IpNet, Lists, PerSource},
};
use weir_datapath::{Close, Datapath, Error, Listed, Options, Origin, Rule};

use crate::lab::{Lab, VIP4, backend, listen, nat, wait_for, wanted};

fn net(text: &str) -> IpNet {
    let (addr, len) = text.split_once('/').unwrap();
    IpNet::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
}

fn bans(nets: &[&str]) -> Lists {
    Lists {
        allow: Vec::new(),
        ban: nets.iter().map(|text| net(text)).collect(),
    }
}

fn shown(datapath: &mut Datapath) -> Vec<(String, Rule, Origin)> {
    let listed = datapath.lists().unwrap();
    listed
        .into_iter()
        .map(
            |Listed {
                 net, rule, origin, ..
             }| (net.to_string(), rule, origin),
        )
        .collect()
}

#[test]
fn what_was_listed_at_run_time_outlives_reloads_and_control() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath
        .set_lists(&bans(&["10.0.0.0/8", "192.0.2.0/24"]))
        .unwrap();
    datapath.ban(&[net("198.51.100.0/24")], None).unwrap();
    datapath
        .allow(&[net("10.0.0.0/8")], Some(Duration::from_secs(3600)))
        .unwrap();
    drop(datapath);

    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    datapath.set_lists(&bans(&["10.0.0.0/8"])).unwrap();
    let of = |text: &str, rule, origin| (text.to_owned(), rule, origin);
    assert_eq!(
        shown(&mut datapath),
        [
            of("10.0.0.0/8", Rule::Allow, Origin::Operator),
            of("198.51.100.0/24", Rule::Ban, Origin::Operator),
        ]
    );
    assert!(datapath.unlist(&net("10.0.0.0/8")).unwrap());
    assert_eq!(
        shown(&mut datapath).first(),
        Some(&of("10.0.0.0/8", Rule::Ban, Origin::Configuration))
    );
    let error = datapath.unlist(&net("10.0.0.0/8")).unwrap_err();
    assert!(matches!(error, Error::Configured { .. }), "{error}");
    assert!(!datapath.unlist(&net("203.0.113.0/24")).unwrap());

    // What has ended goes, whoever looks.
    datapath
        .ban(&[net("203.0.113.7/32")], Some(Duration::from_secs(1)))
        .unwrap();
    wait_for("the end of a ban", || {
        (datapath.expire_lists().unwrap() == 1).then_some(())
    });
    assert_eq!(shown(&mut datapath).len(), 2);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
    assert_eq!(std::fs::read_dir(lab.state_dir()).unwrap().count(), 0);
}

#[test]
fn lists_are_asked_for_when_something_may_be_in_them() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    let asked = |datapath: &Datapath| datapath.flags().unwrap() & weir_abi::maps::settings::LISTS != 0;
    datapath.set_lists(&Lists::default()).unwrap();
    assert!(!asked(&datapath));
    datapath.ban(&[net("10.0.0.0/8")], None).unwrap();
    assert!(asked(&datapath));
    datapath.unlist(&net("10.0.0.0/8")).unwrap();
    assert!(!asked(&datapath));
    let mut service = nat(
        "www",
        &[listen(VIP4, 80, Protocol::Tcp)],
        &[backend("10.0.0.11:80".parse().unwrap())],
    );
    service.per_source = PerSource {
        rate: Some(1),
        ban: Some(Duration::from_secs(60)),
        ..PerSource::default()
    };
    datapath.reconcile(&wanted([service])).unwrap();
    assert!(asked(&datapath), "the programs may ban somebody");
    datapath.reconcile(&wanted([])).unwrap();
    datapath.expire_lists().unwrap();
    assert!(!asked(&datapath), "they did not, and will not");
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_hundred_thousand_networks_are_quick() {
    let lab = Lab::new();
    let mut options: Options = lab.options();
    options.capacities.lists = 128 << 10;
    let mut datapath = lab.weir.run(|| Datapath::open(options)).unwrap();
    let many = |count: u32, shift: u32| Lists {
        allow: Vec::new(),
        ban: (0..count)
            .map(|n| IpNet::new((0x0a00_0000 + (n << shift)).to_be_bytes().into(), 32).unwrap())
            .collect(),
    };
    let timed = |what: &str, begin: Instant| {
        let took = begin.elapsed();
        println!("{what}: {took:?}");
        assert!(took < Duration::from_secs(10), "{what} took {took:?}");
    };
    let begin = Instant::now();
    datapath.set_lists(&many(100_000, 1)).unwrap();
    timed("100 000 added", begin);
    let begin = Instant::now();
    datapath.set_lists(&many(100_000, 1)).unwrap();
    timed("the same again", begin);
    let begin = Instant::now();
    assert_eq!(datapath.lists().unwrap().len(), 100_000);
    timed("100 000 read", begin);
    let begin = Instant::now();
    // Both together do not fit.
    datapath.set_lists(&many(100_000, 0)).unwrap();
    timed("half of them replaced", begin);
    let error = datapath.set_lists(&many(140_000, 0)).unwrap_err();
    assert!(error.to_string().contains("room for 131072"), "{error}");
    let begin = Instant::now();
    datapath.set_lists(&Lists::default()).unwrap();
    timed("all removed", begin);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}
