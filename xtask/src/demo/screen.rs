//! The live view: a block of lines that is drawn over on a terminal, and one line a second otherwise.
//!
//! Owns the look of figures while they grow. Takes none itself.

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use super::{
    stage::{BACKENDS, POOLS},
    traffic::{STREAMS, Snapshot, title},
};
use crate::shell;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Span that rates are shown over.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What shows the traffic.
pub(crate) struct Screen {
    begin: Instant,
    terminal: bool,
    /// Lines of the block on the screen, to be drawn over.
    drawn: usize,
    last_line: Option<Instant>,
    /// What rates are counted from.
    earlier: Option<Snapshot>,
    rates: [u64; STREAMS.len()],
}

impl Screen {
    pub(crate) fn new(begin: Instant) -> Self {
        let terminal = std::io::stdout().is_terminal();
        if !terminal {
            shell::note(
                "answers by b1/b2/b3, failed requests, per stream; then weir's word for each backend",
            );
        }
        Self {
            begin,
            terminal,
            drawn: 0,
            last_line: None,
            earlier: None,
            rates: [0; STREAMS.len()],
        }
    }

    /// An event: stays on the screen, above the block.
    pub(crate) fn say(&mut self, text: &str) {
        let mut out = self.rewound();
        out.push_str(&format!(
            "   {:5.1} s  {text}\n",
            self.begin.elapsed().as_secs_f64()
        ));
        write(&out);
    }

    /// The figures of now.
    pub(crate) fn draw(&mut self, snapshot: &Snapshot, words: &[Vec<String>]) {
        self.count_rates(snapshot);
        if self.terminal {
            let block = self.block(snapshot, words);
            let mut out = self.rewound();
            self.drawn = block.len();
            for line in block {
                out.push_str(&line);
                out.push('\n');
            }
            write(&out);
        } else if self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
            self.last_line = Some(Instant::now());
            write(&self.line(snapshot, words));
        }
    }

    /// Moves to the block's first line and clears it, if there is one.
    fn rewound(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }

    fn count_rates(&mut self, snapshot: &Snapshot) {
        let Some(earlier) = &self.earlier else {
            self.earlier = Some(snapshot.clone());
            return;
        };
        let span = snapshot.at.saturating_duration_since(earlier.at);
        if span >= RATE_OVER {
            for (stream, rate) in self.rates.iter_mut().enumerate() {
                let count = snapshot.answered(stream).saturating_sub(earlier.answered(stream));
                *rate = (count as f64 / span.as_secs_f64()).round() as u64;
            }
            self.earlier = Some(snapshot.clone());
        }
    }

    fn block(&self, snapshot: &Snapshot, words: &[Vec<String>]) -> Vec<String> {
        let mut lines = vec![String::new()];
        let mut head = format!(
            "   {:<18}",
            format!("{:.0} s", self.begin.elapsed().as_secs_f64())
        );
        (1..=BACKENDS).for_each(|i| head.push_str(&format!("{:>9}", format!("b{i}"))));
        head.push_str(&format!("{:>10}{:>9}", "failed", "a second"));
        lines.push(head);
        for (stream, which) in STREAMS.into_iter().enumerate() {
            let mut line = format!("   {:<18}", title(which));
            for count in all(snapshot, stream) {
                line.push_str(&format!("{count:>9}"));
            }
            let rate = self.rates.get(stream).copied().unwrap_or_default();
            line.push_str(&format!("{:>10}{rate:>9}", snapshot.failures(stream).len()));
            lines.push(line);
        }
        for ((pool, _), states) in POOLS.iter().zip(words) {
            let mut line = format!("   {:<18}", format!("weir pools: {pool}"));
            states.iter().for_each(|state| line.push_str(&coloured(state)));
            lines.push(line);
        }
        lines
    }

    fn line(&self, snapshot: &Snapshot, words: &[Vec<String>]) -> String {
        let mut line = format!("   {:5.1} s ", self.begin.elapsed().as_secs_f64());
        for (stream, which) in STREAMS.into_iter().enumerate() {
            let counts = all(snapshot, stream).map(|count| count.to_string()).join("/");
            let name: Vec<_> = title(which).split_whitespace().map(str::to_owned).collect();
            let name = [name.first(), name.last()]
                .into_iter()
                .flatten()
                .cloned()
                .collect::<Vec<_>>()
                .join(" ");
            line.push_str(&format!(
                " {name} {counts} ({} failed) ",
                snapshot.failures(stream).len()
            ));
        }
        let words: Vec<String> = words.iter().map(|states| states.join("/")).collect();
        format!("{line} {}\n", words.join(" "))
    }
}

/// Answers of a stream by backend since the beginning.
fn all(snapshot: &Snapshot, stream: usize) -> [u64; BACKENDS] {
    let nothing = Snapshot {
        at: snapshot.at,
        streams: Vec::new(),
    };
    snapshot.answers_since(&nothing, stream)
}

/// A state as a cell: green when up, red when down, yellow between.
fn coloured(state: &str) -> String {
    let colour = match state {
        "up" => 32,
        "down" => 31,
        _ => 33,
    };
    format!("\x1b[{colour}m{state:>9}\x1b[0m")
}

fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    // Nobody may be reading any more (a closed pipe): the story goes on all the same.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
