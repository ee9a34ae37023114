//! Figures as rows: for a terminal, for docs/performance.md, for programs.

use serde_json::{Value, json};

use crate::{
    cases::{Case, PROTECTED},
    steady::{Kind, Rounds, Steady},
};

/// Nanoseconds.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    /// Of the floor, the median.
    floor: f64,
    /// Of the case, the least.
    min: f64,
    /// Of the case, the median.
    median: f64,
    /// The least less the floor's least.
    net_min: f64,
    /// The median less the floor's.
    net: f64,
    /// The worst floor beside a round.
    worst: f64,
}

impl Figures {
    /// What rounds come to.
    pub(crate) fn of(rounds: Rounds) -> Self {
        let ((floor_min, floor), (min, median)) = (summary(rounds.floors), summary(rounds.costs));
        Self {
            worst: rounds.worst,
            floor,
            min,
            median,
            net_min: min - floor_min,
            net: median - floor,
        }
    }
}

/// The least and the median.
fn summary(mut rounds: Vec<f64>) -> (f64, f64) {
    rounds.sort_by(f64::total_cmp);
    (rounds[0], rounds[rounds.len() / 2])
}

/// A line of the table.
pub(crate) struct Row {
    mode: &'static str,
    family: &'static str,
    packet: &'static str,
    flows: u32,
    kind: Kind,
    target: Option<f64>,
    extra_target: Option<f64>,
    /// What protection adds.
    extra: Option<f64>,
    /// The figures, or how the frames ended instead.
    figures: Result<Figures, String>,
}

impl Row {
    fn from(case: &Case, figures: Result<Figures, String>) -> Self {
        Self {
            mode: case.mode,
            family: case.family,
            packet: case.packet,
            flows: case.flows,
            kind: case.kind(),
            target: case.target,
            extra_target: case.extra_target,
            extra: None,
            figures,
        }
    }

    pub(crate) fn new(case: &Case, figures: Figures) -> Self {
        Self::from(case, Ok(figures))
    }

    /// Of a case that ended otherwise than it should.
    pub(crate) fn without_figures(case: &Case, instead: &str) -> Self {
        Self::from(case, Err(instead.to_owned()))
    }

    /// Whether the machine did not run steadily while it was measured.
    pub(crate) fn disturbed(&self, steady: &Steady) -> bool {
        matches!(self.figures, Ok(Figures { worst, .. }) if steady.disturbed(self.kind, worst))
    }

    /// Whether this was measured on a steadier machine.
    pub(crate) fn steadier_than(&self, other: &Self) -> bool {
        match (&self.figures, &other.figures) {
            (Ok(own), Ok(other)) => own.worst < other.worst,
            _ => false,
        }
    }

    /// Looks for the same case without protection.
    pub(crate) fn compare(&mut self, rows: &[Self]) {
        if self.mode != PROTECTED {
            return;
        }
        let plain = rows.iter().find(|row| {
            row.mode == "nat" && (row.family, row.packet, row.flows) == (self.family, self.packet, self.flows)
        });
        if let (Some(Ok(plain)), Ok(own)) = (plain.map(|row| &row.figures), &self.figures) {
            self.extra = Some(own.net - plain.net);
        }
    }

    /// Figure and target, whichever is asked for.
    fn judged(&self) -> Option<(f64, f64)> {
        match (self.target, self.extra_target, self.extra, &self.figures) {
            (Some(target), _, _, Ok(figures)) => Some((figures.net, target)),
            (None, Some(target), Some(extra), _) => Some((extra, target)),
            _ => None,
        }
    }

    fn target_text(&self) -> String {
        match (self.target, self.extra_target) {
            (Some(target), _) => format!("{target:.0}"),
            (None, Some(extra)) => format!("+{extra:.0}"),
            _ => String::new(),
        }
    }

    fn met_text(&self, steady: &Steady) -> String {
        let word = match self.judged() {
            None => "",
            Some((figure, target)) if figure <= target => "yes",
            Some(_) => "no",
        };
        let mark = if self.disturbed(steady) { " *" } else { "" };
        match self.extra {
            Some(extra) => format!("{word} ({extra:+.0}){mark}"),
            None => format!("{word}{mark}"),
        }
    }
}

/// The head of the table, for a terminal.
pub(crate) fn head() {
    println!(
        "   {:<15}{:<8}{:<30}{:>8}{:>8}{:>8}{:>8}{:>8}{:>7}{:>8}  met",
        "ns per packet", "family", "packet", "flows", "bare", "min", "median", "net", "ratio", "target"
    );
}

/// A line of it.
pub(crate) fn line(row: &Row, steady: &Steady) {
    let begin = format!(
        "   {:<15}{:<8}{:<30}{:>8}",
        row.mode, row.family, row.packet, row.flows
    );
    match &row.figures {
        Ok(Figures {
            floor,
            min,
            median,
            net,
            ..
        }) => println!(
            "{begin}{floor:>8.1}{min:>8.1}{median:>8.1}{net:>8.1}{:>7.2}{:>8}  {}",
            median / floor,
            row.target_text(),
            row.met_text(steady)
        ),
        Err(instead) => println!("{begin}  not measured: {instead}"),
    }
}

/// How steady the machine was.
pub(crate) fn machine(steady: &Steady, rows: &[Row]) {
    println!(
        "   {} of {} rounds were left out, since the floor beside them was slow; rows with * had no others, in the end {}; targets not \
         met: {}",
        steady.left_out,
        steady.rounds,
        rows.iter().filter(|row| row.disturbed(steady)).count(),
        rows.iter()
            .filter(|row| row.judged().is_some_and(|(figure, target)| figure > target))
            .count(),
    );
}

/// Rows for docs/performance.md: the flows of a case side by side.
pub(crate) fn markdown(rows: &[Row]) {
    println!("| mode | family | packet | 1 flow | 1 000 flows | 500 000 flows | target |");
    println!("|---|---|---|---|---|---|---|");
    let mut rest = rows;
    while let Some(first) = rest.first() {
        let same = rest
            .iter()
            .take_while(|row| (row.mode, row.family, row.packet) == (first.mode, first.family, first.packet))
            .count();
        let (rows, behind) = rest.split_at(same);
        rest = behind;
        let net = |flows: u32| match rows.iter().find(|row| row.flows == flows).map(|row| &row.figures) {
            Some(Ok(figures)) => format!("{:.0}", figures.net),
            Some(Err(_)) => "-".to_owned(),
            None => String::new(),
        };
        let mut targets: Vec<String> = rows
            .iter()
            .map(Row::target_text)
            .filter(|text| !text.is_empty())
            .collect();
        targets.dedup();
        println!(
            "| {} | {} | {} | {} | {} | {} | {} |",
            first.mode,
            first.family,
            first.packet,
            net(1),
            net(1 << 10),
            net(1 << 19),
            targets.join(" / ")
        );
    }
}

/// For programs.
pub(crate) fn json(rows: &[Row], steady: &Steady) -> Value {
    rows.iter()
        .map(|row| {
            let figures = row.figures.as_ref();
            let of = |get: fn(&Figures) -> f64| figures.ok().map(get);
            json!({
                "mode": row.mode, "family": row.family, "packet": row.packet, "flows": row.flows,
                "bare_ns": of(|f| f.floor), "min_ns": of(|f| f.min), "median_ns": of(|f| f.median),
                "net_min_ns": of(|f| f.net_min), "net_ns": of(|f| f.net), "ratio": of(|f| f.median / f.floor),
                "disturbed": row.disturbed(steady), "ended": figures.err(),
                "target_ns": row.target, "extra_ns": row.extra, "extra_target_ns": row.extra_target,
                "met": row.judged().map(|(figure, target)| figure <= target),
            })
        })
        .collect()
}
