//! The closing table, and whether everything held that the demo is to show.
//!
//! Owns the claims: each is a sentence with the figures that it was judged by. Nothing here is measured or estimated.

use anyhow::{Result, bail};

use super::{
    stage::{BACKENDS, LAB, Stage, WEIGHTS, check_time},
    story::{Evidence, SLACK, VICTIM},
    traffic::{Plane, STREAMS, Snapshot, title},
};
use crate::shell;

/// Shows the closing table.
pub(crate) fn show(evidence: &Evidence) {
    shell::heading("what the clients saw");
    shell::say(&format!(
        "   {:<18}{:>10}{:>18}   {}",
        "", "requests", "failed before", "answers by b1/b2/b3 in % while",
    ));
    shell::say(&format!(
        "   {:<18}{:>10}{:>18}   {:^14} {:^14} {:^14}",
        "", "answered", "+ after notice", "all were up", "b2 was dead", "b2 was back"
    ));
    for (stream, which) in STREAMS.into_iter().enumerate() {
        let (until, after) = evidence.failures(stream);
        let [well, dead, back] = phases(evidence).map(|(from, to)| shares(to.answers_since(from, stream)));
        shell::say(&format!(
            "   {:<18}{:>10}{:>18}   {well:^14} {dead:^14} {back:^14}",
            title(which),
            evidence.end.answered(stream),
            format!("{until} + {after}"),
        ));
    }
    let wanted = wanted();
    let mut without = WEIGHTS.map(u64::from);
    if let Some(weight) = without.get_mut(VICTIM) {
        *weight = 0;
    }
    shell::say(&format!(
        "   {:<46}   {wanted:^14} {:^14} {wanted:^14}",
        "by the weights",
        shares(without)
    ));

    shell::heading("time to react");
    shell::note(&format!(
        "kill to `down` in weir pools: {:.2} s (the checks allow {:.2} s)",
        evidence.reaction().as_secs_f64(),
        check_time().as_secs_f64()
    ));
    match evidence.last_failure() {
        Some(last) => shell::note(&format!(
            "last failed request: begun {:.2} s after the kill",
            last.as_secs_f64()
        )),
        None => shell::note("no request failed at all"),
    }
    shell::note(&format!(
        "start of nginx to `up` and in use again: {:.2} s",
        evidence.took_to_return.as_secs_f64()
    ));

    shell::heading("packets in XDP, by what became of them and why (weir's own counters)");
    let mut counted = packets(evidence);
    counted.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    for (verdict, reason, count) in counted.iter().filter(|(_, _, count)| *count > 0) {
        shell::note(&format!("{count:>10}  {verdict:<8} {reason}"));
    }
}

/// Whether everything held.
///
/// # Errors
/// It did not: one line per claim that fell.
pub(crate) fn judge(evidence: &Evidence) -> Result<()> {
    let mut fallen = Vec::new();
    let mut claim = |held: bool, words: String| {
        if !held {
            fallen.push(words);
        }
    };
    for (stream, which) in STREAMS.into_iter().enumerate() {
        let title = title(which).split_whitespace().collect::<Vec<_>>().join(" ");
        let (_, after) = evidence.failures(stream);
        let first = evidence
            .end
            .failures(stream)
            .last()
            .map(|failed| failed.error.clone())
            .unwrap_or_default();
        claim(
            after == 0,
            format!("{title}: {after} requests failed that should not have (last: {first})"),
        );
        let [well, dead, back] = phases(evidence).map(|(from, to)| to.answers_since(from, stream));
        for (phase, answers) in [("before the kill", well), ("after the return", back)] {
            claim(
                answers.iter().all(|count| *count > 0),
                format!("{title}: {phase} not every backend answered: {}", counts(answers)),
            );
        }
        for (phase, answers) in [("before the kill", well), ("after the return", back)] {
            claim(
                far_from_weights(answers).is_none(),
                format!(
                    "{title}: {phase} the shares are {}, by the weights {}",
                    shares(answers),
                    wanted()
                ),
            );
        }
        let victim = dead.get(VICTIM).copied().unwrap_or_default();
        claim(
            victim == 0,
            format!("{title}: the dead backend answered {victim} requests"),
        );
        claim(
            dead.iter().sum::<u64>() > 0,
            format!(
                "{title}: nothing was answered while b2 was dead: {}",
                counts(dead)
            ),
        );
        let strangers = evidence.end.strangers(stream);
        claim(
            strangers == 0,
            format!("{title}: {strangers} answers came from none of the backends"),
        );
    }
    claim(
        evidence.reaction() <= check_time() + SLACK,
        format!(
            "weir took {:.2} s to notice the dead backend; the checks allow {:.2} s, and the machine {:.1} s more",
            evidence.reaction().as_secs_f64(),
            check_time().as_secs_f64(),
            SLACK.as_secs_f64()
        ),
    );
    // SYN, ACK and FIN or the request: a connection that XDP forwards has at least three packets each way.
    let connections: u64 = STREAMS
        .into_iter()
        .enumerate()
        .filter(|(_, (plane, _))| *plane == Plane::Packets)
        .map(|(stream, _)| evidence.end.answered(stream))
        .sum();
    for reason in ["forward-nat", "return-nat"] {
        let count: u64 = packets(evidence)
            .iter()
            .filter(|(_, r, _)| r == reason)
            .map(|(_, _, count)| count)
            .sum();
        claim(
            count >= 3 * connections,
            format!(
                "{connections} connections were answered on the L4 plane, but XDP counts {count} packets {reason}"
            ),
        );
    }
    if fallen.is_empty() {
        shell::heading(
            "held: both planes left the dead backend within the checks' time, and no later request failed",
        );
        return Ok(());
    }
    bail!("the demo did not show what it should:\n  {}", fallen.join("\n  "))
}

/// How to look around in a lab that is left up.
pub(crate) fn how_to_enter(stage: &Stage<'_>) {
    let socket = stage.weir.socket();
    let weir = stage.weir.binary().display();
    shell::heading("the lab is left up");
    for line in [
        format!("enter the box:     nsenter --net=/run/netns/{LAB}-box"),
        format!("enter the client:  nsenter --net=/run/netns/{LAB}-client"),
        format!("ask weir:          {weir} status --socket {}", socket.display()),
        format!("                   {weir} pools --socket {}", socket.display()),
        format!(
            "                   {weir} backend drain web/b3 --socket {}",
            socket.display()
        ),
        format!("send a request:    nsenter --net=/run/netns/{LAB}-client curl http://192.0.2.10/"),
        format!("                   nsenter --net=/run/netns/{LAB}-client curl http://192.0.2.10:8080/"),
        format!("metrics:           nsenter --net=/run/netns/{LAB}-box curl http://127.0.0.1:9180/metrics"),
        format!("configuration:     {}", stage.weir.config_file().display()),
        "remove it:         cargo xtask demo --down".to_owned(),
    ] {
        shell::note(&line);
    }
}

/// Where to go from here.
pub(crate) fn how_to_go_on() {
    shell::heading("to look further");
    for line in [
        "cargo xtask demo --keep   leaves the lab up and says how to enter it",
        "config/weir.toml          every key, with comments",
        "weir check FILE           says what is wrong with a configuration, and where",
        "weir doctor               says whether this machine's interfaces can do this",
    ] {
        shell::note(line);
    }
}

/// All well, the backend dead and noticed, the backend back: from and to.
fn phases(evidence: &Evidence) -> [(&Snapshot, &Snapshot); 3] {
    let Evidence {
        begin,
        before_kill,
        outage,
        before_return,
        back,
        end,
        ..
    } = evidence;
    [(begin, before_kill), (outage, before_return), (back, end)]
}

fn wanted() -> String {
    shares(WEIGHTS.map(u64::from))
}

/// The first share that is off by more than 10 points, if there are answers enough to tell: with 500 flows that a hash
/// places, that is more than four standard deviations.
fn far_from_weights(answers: [u64; BACKENDS]) -> Option<usize> {
    let all = answers.iter().sum::<u64>();
    let weights = WEIGHTS.iter().map(|w| f64::from(*w)).sum::<f64>();
    let far = |(count, weight): (&u64, &u16)| {
        (*count as f64 / all as f64 - f64::from(*weight) / weights).abs() > 0.1
    };
    if all < 500 {
        None
    } else {
        answers.iter().zip(&WEIGHTS).position(far)
    }
}

/// `50/25/25`: answers in percent.
fn shares(answers: [u64; BACKENDS]) -> String {
    let all = answers.iter().sum::<u64>().max(1);
    answers
        .map(|count| format!("{:.0}", 100.0 * count as f64 / all as f64))
        .join("/")
}

fn counts(answers: [u64; BACKENDS]) -> String {
    answers.map(|count| count.to_string()).join("/")
}

/// Packets seen by XDP while the traffic ran: verdict, reason, count.
fn packets(evidence: &Evidence) -> Vec<(String, String, u64)> {
    let label = |labels: &std::collections::BTreeMap<String, String>, name: &str| {
        labels.get(name).cloned().unwrap_or_default()
    };
    let after = evidence.metrics_after.find("weir_xdp_packets_total", &[]);
    after
        .map(|sample| {
            let reason = label(&sample.labels, "reason");
            let before = evidence
                .metrics_before
                .sum(&sample.name, &[("reason", &reason)])
                .unwrap_or_default();
            (
                label(&sample.labels, "verdict"),
                reason,
                (sample.value - before).max(0.0) as u64,
            )
        })
        .collect()
}
