//! Virtual addresses come, stay and go; the operator's own are left alone.

use std::net::IpAddr;

use weir_datapath::vips::{VipChange, VipError, Vips};

use crate::lab::{Space, block_on, wire};

fn space() -> (Space, Space) {
    let (weir, other) = (Space::new(), Space::new());
    wire(&weir, "outer", &other, "o0");
    wire(&weir, "inner", &other, "i0");
    weir.ip("addr add 198.51.100.1/24 dev outer
         addr add 10.0.0.1/24 dev inner
         addr add 2001:db8:b::1/64 dev inner nodad
         addr add 10.0.0.99/32 dev inner");
    (weir, other)
}

fn reconcile(
    weir: &Space,
    state: &std::path::Path,
    wanted: &[&str],
    interfaces: &[&str],
) -> Result<Vec<VipChange>, VipError> {
    let wanted: Vec<IpAddr> = wanted.iter().map(|text| text.parse().unwrap()).collect();
    let interfaces: Vec<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
    weir.run(|| block_on(async { Vips::new(state).unwrap().reconcile(&wanted, &interfaces).await }))
}

const BOTH: [&str; 2] = ["outer", "inner"];

#[test]
fn addresses_come_and_go_and_others_stay() {
    let (weir, _other) = space();
    let state = tempfile::tempdir().unwrap();
    let before = weir.output("ip -o addr");
    let show = |text: &str| weir.output(&format!("ip -o addr show to {text}"));

    let wanted = [
        "192.0.2.10",
        "10.0.0.10",
        "2001:db8:b::10",
        "2001:db8:a::10",
        "10.0.0.99",
    ];
    let done = reconcile(&weir, state.path(), &wanted, &BOTH).unwrap();
    assert_eq!(done.len(), 4, "the operator's own serves as it is: {done:?}");
    for (address, interface) in [
        ("192.0.2.10/32", "outer"),
        ("10.0.0.10/32", "inner"),
        ("2001:db8:b::10/128", "inner"),
        ("2001:db8:a::10/128", "outer"),
    ] {
        let line = show(address);
        assert!(line.contains(interface) && line.contains(address), "{line}");
        assert!(!line.contains("tentative"), "{line}");
        assert_eq!(
            address.contains(':'),
            line.contains("deprecated"),
            "no source for this box's own: {line}"
        );
    }
    assert_eq!(
        reconcile(&weir, state.path(), &wanted, &BOTH).unwrap(),
        [],
        "the same again does nothing"
    );

    // Another process, without the file that the first one kept: the mark tells.
    std::fs::remove_file(state.path().join("vips.json")).unwrap();
    let done = reconcile(&weir, state.path(), &["192.0.2.10", "10.0.0.99"], &BOTH).unwrap();
    assert_eq!(done.len(), 3);
    assert!(
        done.iter()
            .all(|change| matches!(change, VipChange::Removed { .. })),
        "{done:?}"
    );
    assert!(show("10.0.0.10").is_empty());

    // On another interface when the first is not in the list any more.
    let done = reconcile(&weir, state.path(), &["192.0.2.10"], &["inner"]).unwrap();
    assert!(
        matches!(done[..], [VipChange::Added { .. }, VipChange::Removed { .. }]),
        "{done:?}"
    );
    assert!(show("192.0.2.10").contains("inner"));

    let remove = weir.run(|| block_on(async { Vips::new(state.path()).unwrap().remove_all().await }));
    assert_eq!(remove.unwrap().len(), 1);
    assert_eq!(weir.output("ip -o addr"), before);
    assert_eq!(
        std::fs::read_dir(state.path()).unwrap().count(),
        0,
        "no state is left"
    );
}

#[test]
fn without_interfaces_addresses_go_to_lo() {
    let (weir, _other) = space();
    let state = tempfile::tempdir().unwrap();
    reconcile(&weir, state.path(), &["192.0.2.10"], &[]).unwrap();
    assert!(weir.output("ip -o addr show to 192.0.2.10").contains(" lo "));
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    let (weir, _other) = space();
    let state = tempfile::tempdir().unwrap();
    let error = reconcile(&weir, state.path(), &["192.0.2.10"], &["eth9"]).unwrap_err();
    assert!(
        error.to_string().contains("interface \"eth9\" does not exist"),
        "{error}"
    );
}

#[test]
fn an_address_that_somebody_else_adds_again_is_his() {
    let (weir, _other) = space();
    let state = tempfile::tempdir().unwrap();
    reconcile(&weir, state.path(), &["192.0.2.10"], &BOTH).unwrap();
    weir.ip("addr add 192.0.2.10/32 dev inner");
    let done = reconcile(&weir, state.path(), &[], &BOTH).unwrap();
    assert_eq!(done.len(), 1);
    assert!(
        weir.output("ip -o addr show to 192.0.2.10").contains("inner"),
        "weir's goes, the other stays"
    );
}
