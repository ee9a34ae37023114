//! What a bench of proxies comes to: a figure of each proxy by round, its ratio to the best peer's, and whether the target
//! is met.
//!
//! Owns how that is worked out and shown. A ratio is the median over the rounds of weir's figure to that of the best peer.

use serde_json::{Value, json};

use super::median;
use crate::shell;

/// A figure of each proxy, by round, and what weir's is to be.
pub(super) struct Outcome {
    /// The part's name.
    pub(super) part: String,
    pub(super) unit: &'static str,
    /// By proxy, in the order of [`Kind`](super::peers::Kind); weir's first.
    pub(super) figures: Vec<(&'static str, Vec<f64>)>,
    pub(super) target: Target,
    /// What else is worth to be known.
    pub(super) more: Value,
}

/// What is asked of weir's figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Target {
    /// At most this much of the best peer's.
    Ratio(f64),
    /// At most this much.
    Most(f64),
}

impl Outcome {
    fn median(&self, name: &str) -> Option<f64> {
        let (_, rounds) = self.figures.iter().find(|(of, _)| *of == name)?;
        Some(median(rounds.iter().copied()))
    }

    /// The peer with the lowest median.
    fn best(&self) -> Option<&(&'static str, Vec<f64>)> {
        let of = |(_, rounds): &&(_, Vec<f64>)| median(rounds.iter().copied());
        let peers = self.figures.iter().skip(1);
        peers.min_by(|a, b| of(a).total_cmp(&of(b)))
    }

    /// The median over the rounds of weir's figure to the best peer's.
    fn ratio(&self) -> Option<f64> {
        let (_, weir) = self.figures.first()?;
        let (_, best) = self.best()?;
        // Of what grew by nothing there is no multiple.
        if best.iter().any(|figure| *figure <= 0.0) {
            return None;
        }
        Some(median(weir.iter().zip(best).map(|(weir, best)| weir / best)))
    }

    fn is_met(&self) -> bool {
        match self.target {
            Target::Ratio(most) => self.ratio().is_some_and(|ratio| ratio <= most),
            Target::Most(most) => self.median("weir").is_some_and(|figure| figure <= most),
        }
    }

    fn row(&self) -> [String; 7] {
        let figure = |name| {
            self.median(name)
                .map_or_else(|| "-".to_owned(), |f| format!("{f:.2}"))
        };
        let target = match self.target {
            Target::Ratio(most) => format!("{most:.2}"),
            Target::Most(most) => format!("{most} {}", self.unit),
        };
        let ratio = self
            .ratio()
            .map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"));
        [
            format!("{}, {}", self.part, self.unit),
            figure("weir"),
            figure("haproxy"),
            figure("nginx"),
            ratio,
            target,
            if self.is_met() { "met" } else { "not met" }.to_owned(),
        ]
    }

    pub(super) fn report(&self) -> Value {
        let proxies: Vec<_> = self
            .figures
            .iter()
            .map(|(name, rounds)| json!({ "name": name, "median": median(rounds.iter().copied()), "rounds": rounds }))
            .collect();
        let target = match self.target {
            Target::Ratio(most) => json!({ "ratio": most }),
            Target::Most(most) => json!({ "most": most }),
        };
        json!({ "unit": self.unit, "proxies": proxies, "ratio": self.ratio(), "target": target, "met": self.is_met(), "more": self.more })
    }
}

/// Shows the medians, one line a part.
pub(super) fn show(plane: &str, outcomes: &[Outcome], markdown: bool) {
    const HEAD: [&str; 7] = ["", "weir", "haproxy", "nginx", "ratio", "target", ""];
    shell::heading(&format!("{plane}, medians"));
    if markdown {
        shell::say(&format!("| {} |", HEAD.join(" | ")));
        shell::say("|---|---|---|---|---|---|---|");
    }
    let line = |[what, weir, haproxy, nginx, ratio, target, met]: [&str; 7]| {
        format!("{what:<40}{weir:>10}{haproxy:>10}{nginx:>10}{ratio:>8}{target:>22}  {met}")
    };
    if !markdown {
        shell::note(&line(HEAD));
    }
    for outcome in outcomes {
        let row = outcome.row();
        if markdown {
            shell::say(&format!("| {} |", row.join(" | ")));
        } else {
            shell::note(&line(row.each_ref().map(String::as_str)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(target: Target) -> Outcome {
        Outcome {
            part: "keep-alive".to_owned(),
            unit: "us",
            figures: vec![
                ("weir", vec![8.0, 16.0, 9.0]),
                ("haproxy", vec![10.0, 20.0, 10.0]),
                ("nginx", vec![12.0, 12.0, 12.0]),
            ],
            target,
            more: Value::Null,
        }
    }

    #[test]
    fn ratios_are_within_rounds_and_to_the_best() {
        let outcome = outcome(Target::Ratio(0.8));
        assert_eq!(outcome.best().map(|(name, _)| *name), Some("haproxy"));
        assert!((outcome.ratio().expect("a ratio") - 0.8).abs() < 1e-9);
        assert!(outcome.is_met());
    }

    #[test]
    fn targets() {
        assert!(!outcome(Target::Ratio(0.79)).is_met());
        assert!(outcome(Target::Most(9.0)).is_met());
        assert!(!outcome(Target::Most(8.9)).is_met());
        let alone = Outcome {
            figures: vec![("weir", vec![1.0])],
            ..outcome(Target::Ratio(1.0))
        };
        assert!(alone.ratio().is_none() && !alone.is_met());
        let nothing = Outcome {
            figures: vec![("weir", vec![-156.0]), ("haproxy", vec![0.0])],
            ..outcome(Target::Most(512.0))
        };
        assert!(nothing.ratio().is_none() && nothing.is_met());
    }
}
