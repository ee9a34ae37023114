//! Holds the operator's pages to the code: every name that weir prints is explained there.

use weir_abi::{Note, Reason};

const REASONS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md"));

/// First cells of the table below a heading.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let section = REASONS
        .split("\n## ")
        .find(|s| s.starts_with(heading))
        .unwrap_or_else(|| panic!("no section {heading}"));
    let rows = section.lines().filter(|l| l.starts_with("| `"));
    rows.map(|l| {
        l.trim_matches('|')
            .split(" | ")
            .map(|c| c.trim().trim_matches('`'))
            .collect()
    })
    .collect()
}

fn names(heading: &str) -> Vec<&'static str> {
    rows(heading)
        .into_iter()
        .filter_map(|r| r.first().copied())
        .collect()
}

#[test]
fn packets() {
    let want: Vec<_> = Reason::ALL
        .iter()
        .map(|r| {
            let verdict = r.verdict().name();
            (r.name(), verdict)
        })
        .collect();
    let got: Vec<_> = rows("XDP: `weir_xdp_packets_total")
        .iter()
        .map(|r| (r[0], r[1]))
        .collect();
    assert_eq!(got, want);
    let notes: Vec<_> = Note::ALL.iter().map(|n| n.name()).collect();
    assert_eq!(names("XDP: `weir_xdp_events_total"), notes);
}

#[test]
fn requests() {
    let want: Vec<_> = weir_relay::Reason::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(names("The relay: `weir_relay_ends_total"), want);
    let want: Vec<_> = weir_relay::Cause::ALL.iter().map(|r| r.as_str()).collect();
    assert_eq!(names("The relay: `weir_relay_backend_errors_total"), want);
}

#[test]
fn checks() {
    use weir_core::health::{Failure, Phase};
    let text = String::new;
    let all = [
        Failure::Timeout(Phase::Connect),
        Failure::Refused,
        Failure::Unreachable(text()),
        Failure::Closed(Phase::Tls, text()),
        Failure::Tls(text()),
        Failure::Malformed(text()),
        Failure::Status(500),
        Failure::Internal(text()),
    ];
    let want: Vec<_> = all.iter().map(Failure::cause).collect();
    assert_eq!(names("Health checks: the cause"), want);
}

#[test]
fn adverts() {
    use weir_core::vrrp::accept::Refused;
    let want: Vec<_> = Refused::all().map(Refused::name).collect();
    assert_eq!(names("Virtual routers: `weir_vrrp_adverts_refused_total"), want);
}
