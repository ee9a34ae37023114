//! The doctor sees what is there, and touches nothing.

use weir_datapath::{
    Close, Datapath,
    doctor::{self, Finding, Level},
};

use crate::lab::{Lab, Space, wire};

fn about(space: &Space, subject: &str, interfaces: &[&str]) -> Vec<Finding> {
    let interfaces: Vec<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
    let report = space.run(|| doctor::inspect(&interfaces, &[], &[], &[]));
    report
        .findings
        .into_iter()
        .filter(|finding| finding.subject == subject)
        .collect()
}

fn has(findings: &[Finding], level: Level, text: &str) -> bool {
    findings
        .iter()
        .any(|f| f.level == level && f.to_string().contains(text))
}

#[test]
fn a_lab_is_ready() {
    let lab = Lab::new();
    let before = (
        lab.weir.output("ip -d link"),
        lab.weir.output("ip addr"),
        lab.weir.output("sysctl net.ipv4.conf.lo"),
    );
    let report = lab
        .weir
        .run(|| doctor::inspect(&["outer".into(), "inner".into()], &[], &[], &[]));
    assert_ne!(report.worst(), Level::Problem, "{report:#?}");
    let outer = about(&lab.weir, "interface outer", &["outer"]);
    assert!(has(&outer, Level::Ok, "driver veth has native XDP"), "{outer:#?}");
    assert!(!has(&outer, Level::Note, "takes no frames"), "{outer:#?}");
    // Without names it looks at what is up.
    assert!(!about(&lab.weir, "interface inner", &[]).is_empty());
    let after = (
        lab.weir.output("ip -d link"),
        lab.weir.output("ip addr"),
        lab.weir.output("sysctl net.ipv4.conf.lo"),
    );
    assert_eq!(before, after, "nothing was touched");
}

#[test]
fn what_would_lose_packets_is_said() {
    let (weir, other) = (Space::new(), Space::new());
    wire(&weir, "outer", &other, "o0");
    weir.output("ethtool -K outer tx on");
    other.output("ethtool -K o0 gro off");
    weir.ip("link set outer mtu 4000");
    let outer = about(&weir, "interface outer", &["outer"]);
    assert!(has(&outer, Level::Note, "ethtool -K PEER gro on"), "{outer:#?}");
    assert!(
        has(&outer, Level::Note, "`ethtool -K outer tx off`"),
        "{outer:#?}"
    );
    assert!(
        !outer.iter().any(|finding| finding.to_string().contains("MTU")),
        "a veth hands frames over in pieces: {outer:#?}"
    );
    // As many tests have it: a tun device has native XDP, but not in pieces.
    weir.ip("tuntap add dev tap0 mode tap
         link set tap0 mtu 4000");
    let tap = about(&weir, "interface tap0", &["tap0"]);
    assert!(has(&tap, Level::Note, "MTU 4000 is more than fits"), "{tap:#?}");
    weir.ip("link set outer down");
    assert!(has(
        &about(&weir, "interface outer", &["outer"]),
        Level::Note,
        "is down"
    ));
    let lo = about(&weir, "interface lo", &["lo"]);
    assert!(
        has(&lo, Level::Problem, "no native XDP; node.xdp = \"generic\""),
        "{lo:#?}"
    );
}

#[test]
fn an_instance_of_weir_is_recognised() {
    let lab = Lab::new();
    let mut datapath = lab.weir.run(|| Datapath::open(lab.options())).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    let outer = about(&lab.weir, "interface outer", &["outer"]);
    assert!(has(&outer, Level::Ok, "weir's own XDP program"), "{outer:#?}");
    let running = format!("in use by the process {}", std::process::id());
    assert!(has(&about(&lab.weir, "pins", &[]), Level::Note, &running));
    drop(datapath);
    let pins = about(&lab.weir, "pins", &[]);
    assert!(
        has(
            &pins,
            Level::Note,
            "/sys/fs/bpf/weir holds pins of weir, not in use"
        ),
        "{pins:#?}"
    );
    lab.weir
        .run(|| Datapath::open(lab.options()).unwrap().close(Close::Remove))
        .unwrap();
    assert_eq!(about(&lab.weir, "pins", &[]), []);
}
