//! `weir explain flow`, control's side: from a request to the kernel's decision, and from that to words.
//!
//! Owns the words. The decision is `weir_datapath::explain`'s; it takes some look-ups, so it is made at once.

use std::{net::SocketAddr, sync::Arc};

use weir_abi::Reason;
use weir_core::{
    ids::{BackendKey, ListenKey},
    plan::Service,
};
use weir_datapath::explain::{Explanation, ListedAs, Protocol, Question, Rule, Shape, SlotView, WayOut};

use super::state::Control;
use crate::{
    admin::api::{self, Answer},
    render::span,
};

/// The operator's page on reasons: what each of them says.
const REASONS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reasons.md"));

impl Control {
    pub(super) fn explain(&self, src: &str, dst: &str, protocol: &str, first: bool) -> Answer {
        match self.try_explain(src, dst, protocol, first) {
            Ok(explained) => Answer::result(&explained),
            Err(error) => Answer::error(error),
        }
    }

    fn try_explain(
        &self,
        src: &str,
        dst: &str,
        protocol: &str,
        first: bool,
    ) -> Result<api::Explained, String> {
        let question = question(src, dst, protocol, first)?;
        let kernel = self
            .kernel
            .as_ref()
            .ok_or("node.xdp is \"off\": there is no L4 plane whose decision could be explained")?;
        let explanation = kernel.explain(&question).map_err(|e| format!("{e:#}"))?;
        let explanation =
            explanation.ok_or_else(|| format!("{src} and {dst}: a flow has both ends in one family"))?;
        let mut explained = in_words(&explanation);
        if explanation.reason == Reason::NoService && question.protocol == Protocol::Tcp {
            let takers = self.takers(kernel.taken_by(question.dst));
            let banned = kernel.is_banned(question.src.ip());
            take_in(&mut explained, &takers, banned.map_err(|e| format!("{e:#}"))?);
        }
        Ok(explained)
    }

    /// Transparent listeners, each with its service.
    fn takers(&self, listeners: Vec<ListenKey>) -> Vec<(ListenKey, String)> {
        let services = &self.loaded.plan.services;
        let service = |key| {
            let of = |service: &&Arc<Service>| {
                { service.listen.iter() }
                    .any(|listen| listen.is_transparent() && listen.keys().any(|k| k == key))
            };
            services.iter().find(of).map(|service| service.name.to_string())
        };
        { listeners.into_iter() }
            .filter_map(|key| Some((key, service(key)?)))
            .collect()
    }
}

/// What XDP passes and transparent listeners take in: says so.
fn take_in(explained: &mut api::Explained, takers: &[(ListenKey, String)], banned: bool) {
    let Some((_, service)) = takers.first() else {
        return;
    };
    let one = |(key, service): &(ListenKey, String)| {
        let by = key.interface.map_or_else(String::new, |interface| {
            format!("if it comes in by {interface}, ")
        });
        format!("{by}the listener {key} of service {service}")
    };
    let all: Vec<_> = takers.iter().map(one).collect();
    let all = all.join("; else ");
    // Of several it is not known by which interface the packet would come.
    if takers.iter().all(|(_, other)| other == service) {
        explained.service = Some(service.clone());
    }
    explained.why = Some(match banned {
        false => format!("XDP passes it, and weir_take takes it in for the relay: {all}"),
        true => format!(
            "XDP passes it, and weir_take drops it, since its source is banned; it would be for {all}"
        ),
    });
}

fn question(src: &str, dst: &str, protocol: &str, first: bool) -> Result<Question, String> {
    let end = |text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("{text}: write ADDRESS:PORT, as 192.0.2.10:80 or [2001:db8::10]:80"))
    };
    let protocol = [Protocol::Tcp, Protocol::Udp]
        .into_iter()
        .find(|p| p.as_str() == protocol)
        .ok_or_else(|| format!("there are no flows of protocol {protocol}; use tcp or udp"))?;
    if first && protocol == Protocol::Udp {
        return Err("udp has no SYN: each of its packets is treated alike".to_owned());
    }
    Ok(Question {
        src: end(src)?,
        dst: end(dst)?,
        protocol,
        first,
    })
}

/// What docs/reasons.md says of a reason.
fn meaning(reason: Reason) -> &'static str {
    let mut rows = REASONS.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        (name == reason.name() && cells.next()? == reason.verdict().name()).then_some(cells.next()?)
    });
    rows.next().unwrap_or_default().trim_end_matches(" |")
}

fn in_words(explanation: &Explanation) -> api::Explained {
    let Explanation {
        reason,
        notes,
        service,
        slot,
        backend,
        rule,
        record,
        listed,
        way,
        becomes,
        egress,
    } = explanation;
    let key = |key: &BackendKey| key.to_string();
    api::Explained {
        verdict: reason.verdict().name().to_owned(),
        reason: reason.name().to_owned(),
        meaning: meaning(*reason).to_owned(),
        service: service.as_ref().map(ToString::to_string),
        slot: slot.as_ref().map(|slot| api::Slot {
            index: slot.index,
            of: slot.of,
            current: slot.current.as_ref().map(key),
            previous: slot.previous.as_ref().map(key),
            changed_seconds: slot.changed,
        }),
        backend: backend.as_ref().map(key),
        rule: rule.map(|rule| rule.as_str().to_owned()),
        why: why(explanation),
        record: record.as_ref().map(|record| api::Record {
            backend: record.backend.as_ref().map(key),
            age_seconds: record.age,
            closed: record.closed,
        }),
        listed: listed.map(list),
        way: way.map(|way| out(way, *egress)),
        becomes: becomes.as_ref().map(|shape| {
            let Shape { outer, src, dst } = shape;
            api::Becomes {
                src: end(*src),
                dst: end(*dst),
                outer_src: outer.map(|(src, _)| src.to_string()),
                outer_dst: outer.map(|(_, dst)| dst.to_string()),
            }
        }),
        notes: notes.iter().map(|note| note.name().to_owned()).collect(),
    }
}

/// Port 0 is that of a packet without ports.
fn end(end: SocketAddr) -> String {
    if end.port() == 0 {
        end.ip().to_string()
    } else {
        end.to_string()
    }
}

fn list(listed: ListedAs) -> String {
    let what = match listed {
        ListedAs { allowed: true, .. } => "allowed",
        ListedAs { overload: true, .. } => "banned by a service's limits",
        ListedAs { .. } => "banned",
    };
    match listed.left {
        Some(left) => format!("{what}, for {} more", span(left.into())),
        None => what.to_owned(),
    }
}

fn out(way: WayOut, egress: u32) -> api::Way {
    match way {
        WayOut::Asked => api::Way {
            asked: true,
            interface: None,
            link: None,
            mtu: None,
        },
        WayOut::Resolved { ifindex, link, mtu } => {
            let ifindex = if egress == 0 { ifindex } else { egress };
            let link: Vec<_> = link.iter().map(|byte| format!("{byte:02x}")).collect();
            api::Way {
                asked: false,
                interface: Some(weir_datapath::explain::interface(ifindex)),
                link: Some(link.join(":")),
                mtu: Some(mtu),
            }
        }
    }
}

/// Why this backend, in a sentence.
fn why(explanation: &Explanation) -> Option<String> {
    let changed = match &explanation.slot {
        Some(SlotView {
            changed: Some(ago), ..
        }) => format!("its slot changed {} ago", span((*ago).into())),
        _ => "its slot has not changed".to_owned(),
    };
    Some(match explanation.rule? {
        Rule::First => "the first packet of a flow takes the slot's present backend".to_owned(),
        Rule::Stable => match &explanation.slot {
            Some(SlotView {
                changed: Some(ago), ..
            }) => {
                let ago = span((*ago).into());
                format!(
                    "its slot changed {ago} ago, longer than any flow is remembered: the slot alone decides"
                )
            }
            _ => "its slot has not changed for as long as flows are remembered: the slot alone decides"
                .to_owned(),
        },
        Rule::Recorded => format!("{changed}, and the flow table knows the flow"),
        Rule::Remapped => {
            "the flow table knows the flow, but its backend is dead: the slot's present one takes it over"
                .to_owned()
        }
        Rule::Reset => "the flow's backend is dead, and the service resets such flows".to_owned(),
        Rule::Predecessor => format!(
            "{changed} and the flow is not recorded: within the grace time it is taken for an older one and stays with \
             the backend before"
        ),
        Rule::Present => format!(
            "{changed} and the flow is not recorded; the backend before is gone or the grace time is over: the present \
             one takes it"
        ),
        Rule::ServerId => "the server id in the QUIC connection id names it".to_owned(),
        Rule::Translated => "full-nat has the flow in its table".to_owned(),
        Rule::NewTranslation => {
            "full-nat makes an entry for the flow, with the slot's present backend".to_owned()
        }
        Rule::Answer => "the packet comes from this backend".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_it_means() {
        for reason in Reason::ALL {
            let meaning = meaning(*reason);
            assert!(
                meaning.ends_with('.') && !meaning.contains('|'),
                "{}: {meaning}",
                reason.name()
            );
        }
    }

    #[test]
    fn questions_are_refused_with_the_mend() {
        assert!(question("[2001:db8::7]:1", "[2001:db8::10]:80", "tcp", true).is_ok());
        for (src, dst, protocol, first, words) in [
            (
                "198.51.100.7",
                "192.0.2.10:80",
                "tcp",
                false,
                "198.51.100.7: write ADDRESS:PORT",
            ),
            (
                "198.51.100.7:1",
                "www:80",
                "tcp",
                false,
                "www:80: write ADDRESS:PORT",
            ),
            ("198.51.100.7:1", "192.0.2.10:80", "sctp", false, "use tcp or udp"),
            ("198.51.100.7:1", "192.0.2.10:80", "udp", true, "udp has no SYN"),
        ] {
            let error = question(src, dst, protocol, first).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
