//! The pairs that are compared: weir's and keepalived's, at their defaults and at their fastest; and what is done to the one
//! that is master.
//!
//! Owns their configurations, and what each part means to either. Both have one virtual router with one address and the same
//! preference on both boxes, so that who has taken over stays master, and the boxes take turns.

use std::{env, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use weir_harness::{
    Cmd, Pair, Process, Scratch, Signal, Weir, WeirConfig,
    lab::{INSIDE, OUTSIDE},
    pair::{self, VIP},
    peer::keepalived::Keepalived,
    process::signal_pid,
    wait_until,
};

use super::{PORT, Part, SOURCES};

const PATIENCE: Duration = Duration::from_secs(20);
/// Where backends are checked.
pub(super) const CHECKED: u16 = 80;
/// Says that a box of keepalived's waits.
const WAITS: &str = "Entering BACKUP STATE";

/// Whose boxes, and how fast they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Setup {
    /// Adverts every 10 ms.
    WeirFastest,
    /// As it is if nothing is written: adverts every second.
    Weir,
    /// `advert_int 0.01`, version 3, in real time.
    KeepalivedFastest,
    /// As it is if nothing is written: adverts every second.
    Keepalived,
}

impl Setup {
    pub(super) const ALL: [Self; 4] = [
        Self::WeirFastest,
        Self::Weir,
        Self::KeepalivedFastest,
        Self::Keepalived,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::WeirFastest => "weir, 10 ms",
            Self::Weir => "weir, defaults",
            Self::KeepalivedFastest => "keepalived, 10 ms",
            Self::Keepalived => "keepalived, defaults",
        }
    }

    pub(super) const fn is_weir(self) -> bool {
        matches!(self, Self::WeirFastest | Self::Weir)
    }

    pub(super) const fn is_fastest(self) -> bool {
        matches!(self, Self::WeirFastest | Self::KeepalivedFastest)
    }

    /// Starts both.
    pub(super) fn start<'p>(self, pair: &'p Pair, binary: &Path) -> Result<Box<dyn Boxes + 'p>> {
        Ok(match self {
            Self::WeirFastest | Self::Weir => Box::new(Weirs::start(self, pair, binary)?),
            Self::KeepalivedFastest | Self::Keepalived => Box::new(Keepaliveds::start(self, pair)?),
        })
    }
}

/// Two boxes, of which one is master.
pub(super) trait Boxes {
    /// Which, once it is, and the other one could follow.
    fn master(&mut self) -> Result<usize>;

    /// Does to a box what the part is about, and returns once that is done.
    fn strike(&mut self, part: Part, node: usize) -> Result<()>;

    /// Has it be as before; who is master may have changed.
    fn mend(&mut self, part: Part, node: usize) -> Result<()>;
}

/// Sends a signal to all that runs on a box.
fn signal_all(pair: &Pair, node: usize, signal: Signal) -> Result<()> {
    let node = pair.boxes.get(node).context("no such box")?;
    for pid in node.processes()? {
        signal_pid(pid, signal)?;
    }
    Ok(())
}

struct Weirs<'p> {
    pair: &'p Pair,
    setup: Setup,
    boxes: [Weir<'p>; 2],
}

impl<'p> Weirs<'p> {
    fn start(setup: Setup, pair: &'p Pair, binary: &Path) -> Result<Self> {
        let start = |node: usize, name| {
            let mut config = WeirConfig::both_planes(Self::body(setup, node));
            config.binary = Some(binary.to_path_buf());
            config.node = name;
            config.workers = 1;
            Weir::start(&pair.boxes[node], config).with_context(|| format!("weir on {name}"))
        };
        let boxes = [start(0, "edge-1")?, start(1, "edge-2")?];
        for weir in &boxes {
            weir.wait_all_up()?;
        }
        Ok(Self { pair, setup, boxes })
    }

    fn body(setup: Setup, node: usize) -> String {
        // What takes part in finding out is at its fastest, too; with a margin for a machine that does other things.
        let (interval, check) = match setup.is_fastest() {
            true => (
                "interval = \"10ms\"\n",
                ", interval = \"100ms\", timeout = \"90ms\"",
            ),
            false => ("", ""),
        };
        format!(
            "[vrrp.edge]\n{interval}\
             routers = [{{ interface = \"{OUTSIDE}\", id = 51, addresses = [\"{VIP}/24\"] }}]\n\
             [pools.probes]\nbackends = [{{ address = \"{}:{PORT}\" }}]\n\
             source = {{ addresses = [\"{}\"] }}\n\
             check = {{ type = \"tcp\", port = {CHECKED}{check} }}\n\
             [services.probes]\nlisten = [\"{VIP}:{PORT}/udp\"]\nmode = \"l4\"\nforward = \"full-nat\"\npool = \"probes\"\n",
            pair::backend(0),
            SOURCES[node],
        )
    }

    /// A service more.
    fn body_reloaded(setup: Setup, node: usize) -> String {
        Self::body(setup, node)
            + &format!(
                "[services.more]\nlisten = [\"{VIP}:81\"]\nmode = \"l4\"\npool = \"more\"\n\
                 [pools.more]\nbackends = [{{ address = \"{}:{CHECKED}\" }}]\n",
                pair::backend(0)
            )
    }
}

impl Boxes for Weirs<'_> {
    fn master(&mut self) -> Result<usize> {
        let [one, two] = &self.boxes;
        let found = wait_until(PATIENCE, "one box is master, the other one waits", || {
            let look = |weir: &Weir<'_>| weir.group("edge").map_err(|e| format!("{e:#}"));
            let (one, two) = (look(one)?, look(two)?);
            match (&*one.state, &*two.state, one.demotion + two.demotion) {
                ("master", "backup", 0) => Ok(0),
                ("backup", "master", 0) => Ok(1),
                _ => Err(format!("{one:?}, {two:?}")),
            }
        });
        one.with_log(two.with_log(found))
    }

    fn strike(&mut self, part: Part, node: usize) -> Result<()> {
        let pair = self.pair;
        let weir = self.boxes.get_mut(node).context("no such box")?;
        match part {
            Part::Killed => signal_all(pair, node, Signal::SIGKILL),
            Part::Cut => pair.cut(node, OUTSIDE, true),
            Part::Stopped => signal_all(pair, node, Signal::SIGSTOP),
            Part::Backends => pair.cut(node, INSIDE, true),
            Part::Demoted => weir.ask(&["demote", "edge"]).map(drop),
            Part::Ended => weir.signal(Signal::SIGTERM),
            Part::Reload => {
                weir.rewrite(Self::body_reloaded(self.setup, node))?;
                weir.ask(&["reload"]).map(drop)
            }
            Part::Upgrade => weir.replace(),
            Part::Crashed => {
                weir.kill_control();
                weir.start_again()
            }
            Part::Flows => bail!("flows are measured on boxes of their own"),
        }
    }

    fn mend(&mut self, part: Part, node: usize) -> Result<()> {
        let pair = self.pair;
        let weir = self.boxes.get_mut(node).context("no such box")?;
        match part {
            Part::Killed => {
                pair.boxes[node].kill_processes()?;
                weir.kill_control();
                weir.start_again()?;
            }
            Part::Cut => pair.cut(node, OUTSIDE, false)?,
            Part::Stopped => signal_all(pair, node, Signal::SIGCONT)?,
            Part::Backends => pair.cut(node, INSIDE, false)?,
            Part::Demoted => drop(weir.ask(&["demote", "edge", "0"])?),
            Part::Ended => {
                weir.wait_end(PATIENCE)?;
                weir.start_again()?;
            }
            Part::Reload => {
                weir.rewrite(Self::body(self.setup, node))?;
                weir.ask(&["reload"])?;
            }
            Part::Upgrade | Part::Crashed | Part::Flows => {}
        }
        weir.wait_all_up()
    }
}

struct Keepaliveds<'p> {
    pair: &'p Pair,
    setup: Setup,
    boxes: Vec<Answering>,
}

/// A box with keepalived, and what answers on it.
struct Answering {
    keepalived: Keepalived,
    answers: Process,
    scratch: Scratch,
}

impl<'p> Keepaliveds<'p> {
    fn start(setup: Setup, pair: &'p Pair) -> Result<Self> {
        let boxes = (0..pair.boxes.len()).map(|node| Answering::start(setup, pair, node));
        Ok(Self {
            pair,
            setup,
            boxes: boxes.collect::<Result<_>>()?,
        })
    }

    fn has_address(&self, node: usize) -> Result<bool> {
        let cmd = Cmd::new("ip").args(["-o", "-4", "addr"]);
        let shown = cmd.inside(&self.pair.boxes[node]).check()?;
        Ok(shown.contains(&format!(" {VIP}/")))
    }
}

impl Answering {
    fn start(setup: Setup, pair: &Pair, node: usize) -> Result<Self> {
        let netns = &pair.boxes[node];
        let scratch = Scratch::new()?;
        let answers = Self::answers(pair, node, &scratch)?;
        let mut keepalived = Keepalived::start(netns, &Self::config(setup, &scratch))?;
        keepalived.wait_log(WAITS, PATIENCE)?;
        Ok(Self {
            keepalived,
            answers,
            scratch,
        })
    }

    fn answers(pair: &Pair, node: usize, scratch: &Scratch) -> Result<Process> {
        let cmd = Cmd::new(env::current_exe().context("this program's own file")?)
            .arg("answer-probes")
            .arg(format!("{VIP}:{PORT}"))
            .arg(node.to_string())
            .inside(&pair.boxes[node]);
        let process = Process::start("answers", scratch, &cmd)?;
        scratch.write("answers.pid", process.pid().to_string())?;
        Ok(process)
    }

    fn config(setup: Setup, scratch: &Scratch) -> String {
        let (globals, keys) = match setup.is_fastest() {
            true => ("vrrp_version 3\nvrrp_rt_priority 40\n", "advert_int 0.01\n"),
            false => ("", ""),
        };
        format!(
            "global_defs {{\n{globals}script_user root\n}}\n\
             vrrp_script answers {{\nscript \"/bin/sh -c 'kill -0 $(cat {})'\"\n}}\n\
             vrrp_instance edge {{\nstate BACKUP\nnopreempt\ninterface {OUTSIDE}\nvirtual_router_id 51\n{keys}\
             virtual_ipaddress {{\n{VIP}/24\n}}\ntrack_script {{\nanswers\n}}\n}}\n",
            scratch.join("answers.pid").display()
        )
    }
}

impl Boxes for Keepaliveds<'_> {
    fn master(&mut self) -> Result<usize> {
        wait_until(PATIENCE, "one box has the address", || {
            let has = |node| self.has_address(node).map_err(|e| format!("{e:#}"));
            match (has(0)?, has(1)?) {
                (true, false) => Ok(0),
                (false, true) => Ok(1),
                found => Err(format!("{found:?}")),
            }
        })
    }

    fn strike(&mut self, part: Part, node: usize) -> Result<()> {
        let pair = self.pair;
        let it = self.boxes.get_mut(node).context("no such box")?;
        match part {
            Part::Killed => signal_all(pair, node, Signal::SIGKILL),
            Part::Cut => pair.cut(node, OUTSIDE, true),
            Part::Stopped => signal_all(pair, node, Signal::SIGSTOP),
            Part::Backends => {
                it.answers.kill();
                Ok(())
            }
            Part::Ended => it.keepalived.signal(Signal::SIGTERM),
            Part::Reload => it.keepalived.signal(Signal::SIGHUP),
            Part::Upgrade => {
                it.keepalived.stop(PATIENCE)?;
                let config = Answering::config(self.setup, &it.scratch);
                it.keepalived = Keepalived::start(&pair.boxes[node], &config)?;
                it.keepalived.wait_log(WAITS, PATIENCE)
            }
            Part::Demoted | Part::Crashed | Part::Flows => bail!("keepalived is not measured by this"),
        }
    }

    fn mend(&mut self, part: Part, node: usize) -> Result<()> {
        let pair = self.pair;
        match part {
            Part::Killed | Part::Ended => {
                pair.boxes[node].kill_processes()?;
                // keepalived that was killed leaves it.
                let cmd = Cmd::new("ip").args(["addr", "del", &format!("{VIP}/24"), "dev", OUTSIDE]);
                cmd.inside(&pair.boxes[node]).run()?;
                let it = Answering::start(self.setup, pair, node)?;
                *self.boxes.get_mut(node).context("no such box")? = it;
                Ok(())
            }
            Part::Cut => pair.cut(node, OUTSIDE, false),
            Part::Stopped => signal_all(pair, node, Signal::SIGCONT),
            Part::Backends => {
                let it = self.boxes.get_mut(node).context("no such box")?;
                it.answers = Answering::answers(pair, node, &it.scratch)?;
                Ok(())
            }
            Part::Demoted | Part::Reload | Part::Upgrade | Part::Crashed | Part::Flows => Ok(()),
        }
    }
}
