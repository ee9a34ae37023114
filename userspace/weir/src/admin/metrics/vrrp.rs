//! Families of virtual routers.

use weir_core::vrrp::machine::State;
use weir_datapath::vrrp::Counted;

use super::{Families, Labels, Scrape, flag};

/// What is counted of a group.
#[derive(Clone, Debug)]
pub(crate) struct Vrrp {
    pub(crate) group: String,
    /// What it became, why, and how often.
    pub(crate) transitions: Vec<(&'static str, &'static str, u64)>,
    /// What each cause of demotion adds.
    pub(crate) shares: Vec<(String, u32)>,
    pub(crate) counted: Counted,
}

/// All of them.
pub(super) fn families(out: &mut Families, scrape: &Scrape) {
    for group in &scrape.status.ha {
        let labels: Labels<'_> = &[("group", &group.name)];
        for state in State::ALL.map(State::as_str) {
            out.gauge(
                "weir_vrrp_state",
                "1 for the state that a group of virtual routers is in here.",
                &[("group", &group.name), ("state", state)],
                flag(group.state == state),
            );
        }
        out.gauge(
            "weir_vrrp_priority",
            "What this box announces, or would: less than 10 while it is demoted.",
            labels,
            f64::from(group.announced),
        );
        out.gauge(
            "weir_vrrp_rival",
            "1 while another box is master at the same time.",
            labels,
            flag(group.rival.is_some()),
        );
        out.gauge(
            "weir_vrrp_address_trouble",
            "1 while addresses are not as they should be.",
            labels,
            flag(group.trouble.is_some()),
        );
    }
    for it in &scrape.vrrp {
        counters(out, it);
    }
    if !scrape.vrrp.is_empty() {
        out.counter(
            "weir_vrrp_thread_deaths_total",
            "Times the thread of virtual routers has died of a panic, and was started again.",
            &[],
            scrape.vrrp_deaths,
        );
    }
}

fn counters(out: &mut Families, it: &Vrrp) {
    let group = ("group", it.group.as_str());
    for (cause, share) in &it.shares {
        out.gauge(
            "weir_vrrp_demotion",
            "How much speaks against this box as master, by cause.",
            &[group, ("cause", cause)],
            f64::from(*share),
        );
    }
    for (to, cause, count) in &it.transitions {
        out.counter(
            "weir_vrrp_transitions_total",
            "Changes of the state, by what it became and why.",
            &[group, ("to", to), ("cause", cause)],
            *count,
        );
    }
    let Counted {
        sent,
        unsent,
        taken,
        refused,
        unsigned,
        late,
        late_by,
    } = &it.counted;
    for (name, help, count) in [
        ("weir_vrrp_adverts_sent_total", "Adverts sent.", sent),
        (
            "weir_vrrp_unsent_total",
            "Adverts and announcements that could not be sent.",
            unsent,
        ),
        (
            "weir_vrrp_adverts_taken_total",
            "Adverts of other boxes that were let pass.",
            taken,
        ),
        (
            "weir_vrrp_late_total",
            "Times the thread was late by more than half an interval.",
            late,
        ),
    ] {
        out.counter(name, help, &[group], *count);
    }
    out.gauge(
        "weir_vrrp_late_seconds",
        "By how much it was late in all since the start.",
        &[group],
        late_by.as_secs_f64(),
    );
    for (reason, count) in refused {
        out.counter(
            "weir_vrrp_adverts_refused_total",
            "Adverts that were refused, by reason.",
            &[group, ("reason", reason.name())],
            *count,
        );
    }
    for (reason, count) in unsigned {
        out.counter(
            "weir_vrrp_adverts_unsigned_total",
            "Adverts that were let pass, and that enforced signatures would refuse.",
            &[group, ("reason", reason.name())],
            *count,
        );
    }
}
