//! Families of what boxes tell each other of flows.

use weir_core::sync::{NotTaken, Refused};

use super::{Families, Labels, Scrape, flag};

/// All of them; none without peers.
pub(super) fn families(out: &mut Families, scrape: &Scrape) {
    let Some(sync) = &scrape.sync else {
        return;
    };
    out.gauge(
        "weir_sync_unfinished",
        "1 while a peer may have flows that this box does not know of yet, since it has started.",
        &[],
        flag(sync.unfinished),
    );
    let report = &sync.report;
    for peer in &report.peers {
        let address = peer.address.ip().to_string();
        let labels: Labels<'_> = &[("peer", &address)];
        out.gauge(
            "weir_sync_peer_up",
            "1 while the peer is heard.",
            labels,
            flag(peer.there),
        );
        out.gauge(
            "weir_sync_peer_joined",
            "1 while all flows of the peer are held, as far as it has told of them.",
            labels,
            flag(peer.there && peer.holds && peer.joining.is_none()),
        );
        out.gauge(
            "weir_sync_lag_seconds",
            "For how long the oldest entry has been waiting to be sent to the peer.",
            labels,
            peer.lag.as_secs_f64(),
        );
        for (direction, datagrams, entries) in [
            ("out", peer.counts.datagrams_sent, peer.counts.sent),
            ("in", peer.counts.datagrams_received, peer.counts.received),
        ] {
            let labels: Labels<'_> = &[("peer", &address), ("direction", direction)];
            out.counter(
                "weir_sync_datagrams_total",
                "Datagrams sent to the peer, and taken from it.",
                labels,
                datagrams,
            );
            out.counter(
                "weir_sync_entries_total",
                "Flows that the peer was told of, and that it told of.",
                labels,
                entries,
            );
        }
        out.counter(
            "weir_sync_entries_dropped_total",
            "Flows that the peer was not told of in time: its queue was full.",
            labels,
            peer.counts.dropped,
        );
    }
    for refused in Refused::ALL {
        out.counter(
            "weir_sync_datagrams_refused_total",
            "Datagrams that were not taken.",
            &[("reason", refused.name())],
            report.refused.get(&refused).copied().unwrap_or(0),
        );
    }
    out.counter(
        "weir_sync_entries_taken_total",
        "Flows of peers that were written into this box's tables.",
        &[],
        report.taken,
    );
    for why in NotTaken::ALL {
        out.counter(
            "weir_sync_entries_refused_total",
            "Flows of peers that were not.",
            &[("reason", why.name())],
            report.not_taken.get(&why).copied().unwrap_or(0),
        );
    }
    out.counter(
        "weir_sync_looks_total",
        "Looks through the tables of flows.",
        &[],
        report.looks,
    );
    out.gauge(
        "weir_sync_look_seconds",
        "CPU time of the last look through the tables of flows.",
        &[],
        report.look.as_secs_f64(),
    );
}
