//! From open to close: taking over, refusing, cleaning up.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use weir_core::{ids::Protocol, plan::XdpMode};
use weir_datapath::{Attached, Close, Datapath, How, Note, OpenError, Reason};

use crate::{
    lab::{Lab, Space, VIP4, backend, bpffs, listen, nat, wait_for, wanted},
    nat::{Client, count, prepare, tcp_backend, vip},
};

fn own_pins() -> PathBuf {
    bpffs().join("weir").join(format!("{:016x}", weir_abi::ABI_HASH))
}

fn sysctls(lab: &Lab) -> Vec<String> {
    let names = [
        "ipv4/conf/lo/forwarding",
        "ipv6/conf/lo/forwarding",
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
    ];
    let read = |name| {
        fs::read_to_string(format!("/proc/sys/net/{name}"))
            .unwrap()
            .trim()
            .to_owned()
    };
    lab.weir.run(|| names.map(read).to_vec())
}

fn open(lab: &Lab) -> Datapath {
    lab.weir.run(|| Datapath::open(lab.options())).unwrap()
}

#[test]
fn everything_weir_added_goes_again() {
    let lab = Lab::new();
    let before = sysctls(&lab);
    assert_eq!(before, ["0", "0", "0", "0"], "a new namespace forwards nothing");
    let mut datapath = open(&lab);
    datapath
        .reconcile(&wanted([nat(
            "www",
            &[listen(VIP4, 80, Protocol::Tcp)],
            &[backend("10.0.0.11:80".parse().unwrap())],
        )]))
        .unwrap();
    assert!(
        !lab.weir.output("ip link").contains("xdp"),
        "nothing is attached before it is asked for"
    );
    let attached = lab.weir.run(|| datapath.attach()).unwrap();
    assert!(attached.iter().all(|a| a.how == How::New), "{attached:?}");
    assert_eq!(lab.weir.output("ip link").matches("prog/xdp").count(), 2);
    assert_eq!(
        sysctls(&lab),
        ["1", "1", "0", "0"],
        "the box itself does not become a router"
    );
    assert!(fs::read_dir(lab.state_dir()).unwrap().count() >= 2);

    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
    assert!(!lab.weir.output("ip link").contains("xdp"));
    assert_eq!(sysctls(&lab), before);
    assert!(!lab.weir.run(|| bpffs().join("weir").exists()), "no pin is left");
    assert_eq!(
        fs::read_dir(lab.state_dir()).unwrap().count(),
        0,
        "no state is left"
    );
}

#[test]
fn a_successor_takes_over_without_a_gap() {
    let lab = Lab::new();
    prepare(&lab);
    let one = tcp_backend(&lab, "10.0.0.11:0");
    let two = tcp_backend(&lab, "10.0.0.12:0");
    let key = listen(VIP4, 80, Protocol::Tcp);
    let mut datapath = open(&lab);
    datapath
        .reconcile(&wanted([nat("www", &[key], &[backend(one)])]))
        .unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    let mut old: Vec<_> = (0..10).map(|_| Client::connect(&lab, vip(VIP4, 80))).collect();
    assert!(old.iter_mut().all(|client| client.ask() == one));

    // As after a kill: nothing is told anything.
    drop(datapath);
    assert!(
        old.iter_mut().all(|client| client.ask() == one),
        "the kernel goes on alone"
    );
    assert_eq!(Client::connect(&lab, vip(VIP4, 80)).ask(), one);

    let mut datapath = open(&lab);
    let traffic = datapath.service_traffic().unwrap();
    assert!(
        traffic
            .iter()
            .any(|(name, t)| name.as_str() == "www" && t.flows == 11),
        "{traffic:?}"
    );
    let wish = wanted([nat("www", &[key], &[backend(one), backend(two)])]);
    datapath.reconcile(&wish).unwrap();
    let attached = lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(attached.len(), 3);
    assert!(attached.iter().all(|a| a.how == How::TakenOver), "{attached:?}");
    assert!(
        old.iter_mut().all(|client| client.ask() == one),
        "flows stay where they are"
    );
    let places: std::collections::BTreeSet<_> = (0..40)
        .map(|_| Client::connect(&lab, vip(VIP4, 80)).ask())
        .collect();
    assert_eq!(places, [one, two].into());
    let notes = datapath.counters().unwrap().notes;
    assert!(
        notes.iter().any(|(note, n)| *note == Note::FlowHit && *n > 0),
        "{notes:?}"
    );
    lab.weir.run(|| datapath.close(Close::Keep)).unwrap();
    assert!(old.iter_mut().all(|client| client.ask() == one));
    lab.weir.run(|| open(&lab).close(Close::Remove)).unwrap();
    assert!(!lab.weir.output("ip link").contains("xdp"));
}

#[test]
fn pins_of_another_version_are_replaced_and_removed() {
    let lab = Lab::new();
    prepare(&lab);
    let one = tcp_backend(&lab, "10.0.0.11:0");
    let wish = wanted([nat("www", &[listen(VIP4, 80, Protocol::Tcp)], &[backend(one)])]);
    let mut datapath = open(&lab);
    datapath.reconcile(&wish).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    drop(datapath);
    let other = bpffs().join("weir/0123456789abcdef");
    lab.weir.run(|| fs::rename(own_pins(), &other)).unwrap();
    fs::remove_file(lab.state_dir().join("assignment.json")).unwrap();

    let mut datapath = open(&lab);
    assert!(
        lab.weir.run(|| other.exists()),
        "what still forwards is not removed before its successor does"
    );
    assert_eq!(
        Client::connect(&lab, vip(VIP4, 80)).ask(),
        one,
        "the old version still forwards"
    );
    datapath.reconcile(&wish).unwrap();
    let attached = lab.weir.run(|| datapath.attach()).unwrap();
    assert!(attached.iter().all(|a| a.how == How::TakenOver), "{attached:?}");
    assert!(!lab.weir.run(|| other.exists()));
    let before = count(&datapath, Reason::ForwardNat);
    assert_eq!(Client::connect(&lab, vip(VIP4, 80)).ask(), one);
    assert!(
        count(&datapath, Reason::ForwardNat) > before,
        "by the maps of this version"
    );
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn maps_without_their_state_file_are_emptied() {
    let lab = Lab::new();
    prepare(&lab);
    let one = tcp_backend(&lab, "10.0.0.11:0");
    let wish = wanted([nat("www", &[listen(VIP4, 80, Protocol::Tcp)], &[backend(one)])]);
    let mut datapath = open(&lab);
    datapath.reconcile(&wish).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(Client::connect(&lab, vip(VIP4, 80)).ask(), one);
    drop(datapath);

    fs::remove_file(lab.state_dir().join("assignment.json")).unwrap();
    let mut datapath = open(&lab);
    let services = datapath
        .tables()
        .into_iter()
        .find(|table| table.name == "SERVICES")
        .unwrap();
    assert_eq!(services.entries, Some(0));
    assert!(datapath.service_traffic().unwrap().is_empty());
    datapath.reconcile(&wish).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(Client::connect(&lab, vip(VIP4, 80)).ask(), one);
    assert_eq!(datapath.service_traffic().unwrap()[0].1.flows, 1, "counted anew");
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn the_hash_key_is_kept_with_the_pins() {
    let lab = Lab::new();
    let key = |datapath: &Datapath| datapath.hash_key();
    let datapath = open(&lab);
    let drawn = key(&datapath);
    assert_ne!(drawn, [0, 0]);
    drop(datapath);
    let datapath = open(&lab);
    assert_eq!(key(&datapath), drawn);
    drop(datapath);
    let mut options = lab.options();
    options.hash_key = Some([1, 2]);
    let datapath = lab.weir.run(|| Datapath::open(options)).unwrap();
    assert_eq!(key(&datapath), [1, 2]);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_pinned_map_of_another_size_is_refused() {
    let lab = Lab::new();
    drop(open(&lab));
    let mut options = lab.options();
    options.capacities.returns = 65;
    let error = lab.weir.run(|| Datapath::open(options)).unwrap_err();
    assert!(
        matches!(&error, OpenError::PinMismatch { map, what: "max_entries", .. } if map == "RETURNS"),
        "{error}"
    );
    let text = error.to_string();
    for part in [
        "the pinned map RETURNS",
        "max_entries 64",
        "needs 65",
        "remove the directory /sys/fs/bpf/weir/",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_pinned_map_of_another_type_is_refused() {
    let lab = Lab::new();
    drop(open(&lab));
    lab.weir.run(|| {
        let path = own_pins().join("maps/SERVICES");
        fs::remove_file(&path).unwrap();
        fs::rename(own_pins().join("maps/RETURN_FLOWS"), &path).unwrap();
    });
    let error = lab.weir.run(|| Datapath::open(lab.options())).unwrap_err();
    assert!(
        matches!(&error, OpenError::PinMismatch { map, what: "type", .. } if map == "SERVICES"),
        "{error}"
    );
}

#[test]
fn a_second_control_is_refused_by_name() {
    let lab = Lab::new();
    let first = open(&lab);
    let error = lab.weir.run(|| Datapath::open(lab.options())).unwrap_err();
    let us = std::process::id() as i32;
    assert!(
        matches!(&error, OpenError::Locked { pid: Some(pid), .. } if *pid == us),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("another weir control process (pid {us})")),
        "{error}"
    );
    lab.weir.run(|| first.close(Close::Remove)).unwrap();
    lab.weir.run(|| open(&lab).close(Close::Remove)).unwrap();
}

#[test]
fn without_a_bpf_file_system_the_mend_is_named() {
    let lab = Lab::new();
    let mut options = lab.options();
    options.pins = lab.state_dir().join("pins");
    let error = lab.weir.run(|| Datapath::open(options)).unwrap_err();
    assert!(matches!(error, OpenError::NoBpffs { .. }), "{error}");
}

#[test]
fn interfaces_that_refuse_say_why() {
    let lab = Lab::new();
    let attempt = |interface: &str, mode| {
        let mut options = lab.options();
        options.interfaces = vec![interface.into()];
        options.mode = mode;
        lab.weir.run(|| {
            let mut datapath = Datapath::open(options).unwrap();
            let result = datapath.attach().map_err(|e| e.to_string());
            datapath.close(Close::Remove).unwrap();
            result
        })
    };
    let text = attempt("eth9", XdpMode::Native).unwrap_err();
    assert!(text.contains("interface \"eth9\" does not exist"), "{text}");

    // What a veth receives is as large as its peer's MTU: more than a buffer, but the programs take it in pieces.
    lab.client.ip("link set c0 mtu 9000");
    assert_eq!(attempt("outer", XdpMode::Native).unwrap().len(), 2);

    lab.weir.ip(
        "link add few numrxqueues 1 numtxqueues 1 type veth peer name many numrxqueues 1 numtxqueues 4
         link set few up
         link set many up",
    );
    let text = attempt("few", XdpMode::Native).unwrap_err();
    assert!(
        text.contains("interface few in native mode: it has too few queues")
            && text.contains("give both ends as many"),
        "{text}"
    );
    assert_eq!(
        attempt("few", XdpMode::Generic).unwrap().len(),
        2,
        "generic mode takes it"
    );

    // lo has no XDP in its driver, and what is native never becomes generic by itself.
    let text = attempt("lo", XdpMode::Native).unwrap_err();
    assert!(
        text.contains("its driver has no XDP") && text.contains("xdp = \"generic\""),
        "{text}"
    );
    assert!(!lab.weir.output("ip link").contains("xdp"));

    let mut options = lab.options();
    options.mode = XdpMode::Off;
    assert!(matches!(
        lab.weir.run(|| Datapath::open(options)),
        Err(OpenError::Off)
    ));
}

#[test]
fn an_interface_that_another_program_has_is_refused() {
    let lab = Lab::new();
    let mut other = lab.options();
    other.pins = bpffs().join("other");
    let state = tempfile::tempdir().unwrap();
    other.state_dir = state.path().to_owned();
    other.interfaces = vec!["inner".into()];
    let mut other = lab.weir.run(|| Datapath::open(other)).unwrap();
    lab.weir.run(|| other.attach()).unwrap();
    let mut datapath = open(&lab);
    let text = lab.weir.run(|| datapath.attach()).unwrap_err().to_string();
    assert!(
        text.contains("interface inner") && text.contains("another XDP program"),
        "{text}"
    );
    lab.weir.run(|| other.close(Close::Remove)).unwrap();
    assert_eq!(
        lab.weir.run(|| datapath.attach()).unwrap().len(),
        3,
        "then it can be had"
    );
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn interfaces_come_and_go_and_change_their_mode() {
    let lab = Lab::new();
    let programs = || lab.weir.output("ip link").matches("prog/xdp").count();
    let mut datapath = open(&lab);
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(programs(), 2);
    datapath.set_interfaces(vec!["outer".into()]);
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(programs(), 1, "detached from what is not in the list any more");
    drop(datapath);

    let mut options = lab.options();
    options.mode = XdpMode::Generic;
    let mut datapath = lab.weir.run(|| Datapath::open(options)).unwrap();
    lab.weir.run(|| datapath.attach()).unwrap();
    assert_eq!(lab.weir.output("ip link").matches("xdpgeneric").count(), 2);

    // An interface that was made anew has the old one's name and nothing else.
    lab.weir.ip("link delete outer");
    crate::lab::wire(&lab.weir, "outer", &lab.client, "c1");
    let attached = lab.weir.run(|| datapath.attach()).unwrap();
    let how = |name: &str| {
        attached
            .iter()
            .find(|a| a.interface.as_deref() == Some(name))
            .unwrap()
            .how
    };
    assert_eq!((how("outer"), how("inner")), (How::New, How::TakenOver));
    assert_eq!(programs(), 2);
    lab.weir.run(|| datapath.close(Close::Remove)).unwrap();
}

#[test]
fn a_directory_that_others_may_write_to_is_refused() {
    let lab = Lab::new();
    let own = own_pins();
    lab.weir.run(|| {
        fs::create_dir_all(&own).unwrap();
        std::os::unix::fs::chown(&own, Some(65534), None).unwrap();
    });
    let error = lab.weir.run(|| Datapath::open(lab.options())).unwrap_err();
    assert!(
        matches!(&error, OpenError::Unsafe { path, owner: 65534, .. } if *path == own),
        "{error}"
    );
    lab.weir
        .run(|| fs::set_permissions(own.parent().unwrap(), PermissionsExt::from_mode(0o777)))
        .unwrap();
    let error = lab.weir.run(|| Datapath::open(lab.options())).unwrap_err();
    assert!(
        error.to_string().contains("mode 777: others could change"),
        "{error}"
    );
}

#[test]
fn one_directory_of_state_belongs_to_one_process() {
    let lab = Lab::new();
    let first = open(&lab);
    let mut options = lab.options();
    options.pins = bpffs().join("another");
    let error = lab.weir.run(|| Datapath::open(options)).unwrap_err();
    assert!(
        matches!(&error, OpenError::Locked { path, .. } if *path == lab.state_dir()),
        "{error}"
    );
    drop(first);
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let lab = Lab::new();
    let mut options = lab.options();
    // More than the kernel makes of one map.
    options.capacities.ring_slots = u32::MAX;
    let error = lab.weir.run(|| Datapath::open(options)).unwrap_err();
    assert!(matches!(error, OpenError::Load { .. }), "{error}");
    assert!(error.to_string().contains("lower the capacities"), "{error}");
    assert!(!lab.weir.run(|| bpffs().join("weir").exists()));
    assert_eq!(sysctls(&lab)[..2], ["0", "0"]);
}

#[test]
fn pins_of_another_namespace_are_refused_while_it_lives() {
    let lab = Lab::new();
    let mut datapath = open(&lab);
    lab.weir.run(|| datapath.attach()).unwrap();
    drop(datapath);
    let other = Space::beside(&lab.weir);
    let mut options = lab.options();
    options.interfaces.clear();
    let mut datapath = other.run(|| Datapath::open(options)).unwrap();
    let error = other.run(|| datapath.attach()).unwrap_err();
    assert!(matches!(error, OpenError::OtherNamespace { .. }), "{error}");
    assert_eq!(
        lab.weir.output("ip link").matches("prog/xdp").count(),
        2,
        "nothing of it was touched"
    );

    // Once the namespace is gone its links are dead.
    let Lab {
        weir,
        client,
        backends,
        state,
    } = lab;
    drop((weir, client, backends));
    let attached = wait_for("the namespace to go", || other.run(|| datapath.attach()).ok());
    assert!(
        matches!(
            attached[..],
            [Attached {
                interface: None,
                how: How::New
            }]
        ),
        "{attached:?}"
    );
    other.run(|| datapath.close(Close::Remove)).unwrap();
    drop(state);
}
