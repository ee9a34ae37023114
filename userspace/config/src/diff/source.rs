//! What changes in `[pools.NAME.source]`.

use weir_core::plan::{PortRange, Source};

use super::{Keys, list_or_none};

pub(super) fn changed(keys: &mut Keys<'_>, old: Option<&Source>, new: Option<&Source>) {
    let (Some(old), Some(new)) = (old, new) else {
        keys.compare("source", &old, &new, |source| {
            if source.is_some() { "on" } else { "none" }.into()
        });
        return;
    };
    // Every field is named, so that a new one can't be forgotten.
    let Source {
        addresses,
        nat: _,
        relay: _,
    } = old;
    keys.compare("source.addresses", addresses, &new.addresses, |list| {
        list_or_none(&list.iter().map(ToString::to_string).collect::<Vec<_>>())
    });
    let ((ports, relay_ports), (new_ports, new_relay_ports)) = (written(old), written(new));
    keys.compare("source.ports", &ports, &new_ports, |ranges| show(ranges));
    keys.compare("source.relay_ports", &relay_ports, &new_relay_ports, |ranges| {
        show(ranges)
    });
    let reset = |source: &Source| source.relay.as_ref().is_some_and(|relay| relay.reset);
    keys.compare("source.close", &reset(old), &reset(new), |reset| {
        if *reset { "reset" } else { "fin" }.into()
    });
}

/// `ports` and `relay_ports`, as they could be written.
fn written(source: &Source) -> (Vec<PortRange>, Vec<PortRange>) {
    let relay = source.relay.as_ref().and_then(|relay| relay.ports.as_ref());
    let relay = relay.map(|ports| ports.all()).unwrap_or_default();
    match source.nat {
        Some(nat) => (vec![nat], relay),
        None => (relay, Vec::new()),
    }
}

fn show(ranges: &[PortRange]) -> String {
    match ranges.is_empty() {
        true => "the kernel's choice".into(),
        false => ranges
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    }
}
