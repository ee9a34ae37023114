//! The VRRP machine, case by case: a folder of `tests/vrrp` has what is wanted (`config`), what happens (`input`) and what
//! must come out (`output`), each as lines.
//!
//! Times are milliseconds since the machine was made. Between two inputs the machine is called whenever it wants to be, so
//! every output stands at its time. `WEIR_UPDATE_CASES=1` writes the outputs anew: read the difference before you commit it.
#![allow(clippy::disallowed_methods, reason = "a test has to begin at some instant")]

use std::{
    env,
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, Instant},
};

use weir_core::vrrp::{
    Centis, Family, Vrid,
    demotion::{Cause, Demotion},
    machine::{Announce, Config, Heard, Machine, Output, Preempt, Router, RouterKey},
};

#[test]
fn every_case() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vrrp");
    let mut cases: Vec<_> = fs::read_dir(&dir)
        .expect("the cases are committed")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    cases.sort();
    assert!(
        cases.len() >= 20,
        "only {} cases: is the folder whole?",
        cases.len()
    );
    let mut wrong = Vec::new();
    for case in cases {
        let text = |file: &str| {
            let path = case.join(file);
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let out = Play::new(&text("config")).play(&text("input"));
        if env::var_os("WEIR_UPDATE_CASES").is_some() {
            fs::write(case.join("output"), out).expect("the output can be written");
            continue;
        }
        let expected = text("output");
        if out != expected {
            let first = out.lines().zip(expected.lines()).position(|(a, b)| a != b);
            let line = first.unwrap_or_else(|| out.lines().count().min(expected.lines().count()));
            wrong.push(format!(
                "{}, line {}: {:?} came out, {:?} is expected",
                case.display(),
                line + 1,
                out.lines().nth(line),
                expected.lines().nth(line)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

struct Play {
    base: Instant,
    machine: Machine,
    demotion: Demotion,
    /// Adverts do not leave.
    is_mute: bool,
    out: String,
}

fn number<T: std::str::FromStr>(word: Option<&str>, line: &str) -> T {
    let number = word.and_then(|word| word.parse().ok());
    number.unwrap_or_else(|| panic!("a number is missing in {line:?}"))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Play {
    fn new(text: &str) -> Self {
        let mut config = Config {
            routers: Vec::new(),
            priority: 100,
            interval: Centis::new(100).expect("a second"),
            preempt: Preempt::Always,
            lease: ms(1_000),
            announce: Announce {
                count: 1,
                spacing: ms(100),
                refresh: None,
            },
        };
        for line in lines(text) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("router") => {
                    let interface = words.next().expect("an interface");
                    let vrid = Vrid::new(number(words.next(), line)).expect("a VRID");
                    let own: IpAddr = number(words.next(), line);
                    config.routers.push(Router {
                        key: RouterKey {
                            interface: interface.into(),
                            vrid,
                            family: Family::of(own),
                        },
                        own,
                    });
                }
                Some("priority") => config.priority = number(words.next(), line),
                Some("interval") => {
                    let centis = Centis::new(number(words.next(), line));
                    config.interval = centis.expect("centiseconds");
                }
                Some("preempt") => {
                    config.preempt = match words.next() {
                        Some("never") => Preempt::Never,
                        Some("always") => Preempt::Always,
                        delay => Preempt::Delayed(ms(number(delay, line))),
                    };
                }
                Some("lease") => config.lease = ms(number(words.next(), line)),
                Some("announce") => {
                    config.announce = Announce {
                        count: number(words.next(), line),
                        spacing: ms(number(words.next(), line)),
                        refresh: words.next().map(|word| ms(number(Some(word), line))),
                    };
                }
                _ => panic!("what is {line:?}?"),
            }
        }
        let base = Instant::now();
        Self {
            base,
            machine: Machine::new(config, base),
            demotion: Demotion::NONE,
            is_mute: false,
            out: String::new(),
        }
    }

    fn play(mut self, inputs: &str) -> String {
        for line in lines(inputs) {
            let mut words = line.split_whitespace();
            let at = self.base + ms(number(words.next(), line));
            let mut event = words.next().expect("an event");
            // It should have been called long before: `wakes`, by what is named then, or by the time.
            let sleeps = event == "wakes";
            if sleeps {
                event = words.next().unwrap_or(event);
            }
            while let Some(due) = self.machine.deadline().filter(|due| !sleeps && *due <= at) {
                self.machine.handle_timeout(due);
                self.carry_out(due);
            }
            let rest: Vec<_> = words.collect();
            self.happen(event, &rest, line, at);
            self.carry_out(at);
        }
        self.out
    }

    fn happen(&mut self, event: &str, words: &[&str], line: &str, now: Instant) {
        let word = |at: usize| words.get(at).copied();
        let machine = &mut self.machine;
        match event {
            "start" => {
                let last_sent = word(0).map(|word| self.base + ms(number(Some(word), line)));
                machine.start(last_sent, now);
            }
            // Router, sender, priority, centiseconds, and for how long it has lain there.
            "heard" => {
                let lay = word(4).map_or(0, |word| number(Some(word), line));
                let heard = Heard {
                    source: number(word(1), line),
                    priority: number(word(2), line),
                    interval: Centis::new(number(word(3), line)).expect("centiseconds"),
                    arrived: now - ms(lay),
                };
                machine.handle_advert(number(word(0), line), &heard, now);
            }
            "demote" => {
                self.demotion.set(Cause::Operator, number(word(0), line));
                machine.set_demotion(self.demotion.total(), now);
            }
            "unusable" => machine.set_usable(number(word(0), line), false, now),
            "usable" => machine.set_usable(number(word(0), line), true, now),
            "mute" => self.is_mute = true,
            "unmute" => self.is_mute = false,
            "stop" => machine.stop(now),
            "priority" => {
                let config = Config {
                    priority: number(word(0), line),
                    ..machine.config().clone()
                };
                machine.set_config(config, now);
            }
            "wakes" => machine.handle_timeout(now),
            "end" => {}
            _ => panic!("what is {line:?}?"),
        }
    }

    fn carry_out(&mut self, now: Instant) {
        let since = |at: Instant| at.saturating_duration_since(self.base).as_micros() as f64 / 1_000.0;
        while let Some(output) = self.machine.poll_output() {
            let text = match output {
                Output::Shut => "shut".to_owned(),
                Output::Linger(until) => format!("linger {}", since(until)),
                Output::Advert { router, priority } => {
                    self.machine.sent(router, !self.is_mute, now);
                    format!("advert {router} {priority}")
                }
                Output::Take => "take".to_owned(),
                Output::Lease(until) => format!("lease {}", since(until)),
                Output::Announce => "announce".to_owned(),
                Output::Give => "give".to_owned(),
                Output::Changed(change) => format!("{} to {}: {}", change.from, change.to, change.cause),
                Output::Rival(Some(source)) => format!("rival {source}"),
                Output::Rival(None) => "rival gone".to_owned(),
                Output::Late(by) => format!("late {}", by.as_millis()),
            };
            let _ = writeln!(self.out, "{} {text}", since(now));
        }
    }
}

/// Without comments and what is empty.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}
