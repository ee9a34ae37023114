//! The story: all is well, a backend dies, weir notices, the backend comes back.
//!
//! Owns the order of events and the moments they are measured at. Judges nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use weir_harness::{
    Lab, Metrics, interrupt,
    peer::curl::Failed,
    settle,
    wait::{pass_time, wait_until},
};

use super::{
    screen::Screen,
    stage::{POOLS, Stage, address, check_time},
    traffic::{STREAMS, Snapshot, Traffic},
};

/// The backend that dies: the second.
pub(crate) const VICTIM: usize = 1;
/// How often the screen is drawn and weir is asked.
const TICK: Duration = Duration::from_millis(100);
/// What the machine may add to the check's time: processes wait for a processor, and we look only every so often.
pub(crate) const SLACK: Duration = Duration::from_millis(500);
/// How far the clock of a request may be off: its beginning is counted back from when we read of its end.
pub(crate) const BLUR: Duration = Duration::from_millis(100);

/// Everything measured.
pub(crate) struct Evidence {
    /// When the backend was killed.
    pub(crate) killed: Instant,
    /// When `weir pools` first said `down` of it, in every pool.
    pub(crate) noticed: Instant,
    /// From the start of its nginx to `weir pools` saying `up`, in every pool.
    pub(crate) took_to_return: Duration,
    /// When the traffic began.
    pub(crate) begin: Snapshot,
    /// Just before the kill.
    pub(crate) before_kill: Snapshot,
    /// When nothing that had begun before the notice was under way any more.
    pub(crate) outage: Snapshot,
    /// Just before the backend was started again.
    pub(crate) before_return: Snapshot,
    /// When weir had called it up again.
    pub(crate) back: Snapshot,
    /// The end.
    pub(crate) end: Snapshot,
    /// weir's counters before the traffic.
    pub(crate) metrics_before: Metrics,
    /// weir's counters after it.
    pub(crate) metrics_after: Metrics,
}

/// Lets it happen, on the screen.
pub(crate) fn tell(lab: &Lab, stage: &mut Stage<'_>, length: Duration) -> Result<Evidence> {
    let metrics_before = stage
        .weir
        .metrics()
        .context("weir's metrics before the traffic")?;
    let traffic = Traffic::start(lab)?;
    let begin = traffic.snapshot();
    let mut screen = Screen::new(begin.at);
    let part = length / 3;

    screen.say("all three backends are up");
    show_for(&mut screen, stage, &traffic, part)?;

    let victim = lab.backends.get(VICTIM).context("no backend to kill")?;
    let nginx = stage.nginx.get_mut(VICTIM).context("no backend to kill")?;
    let before_kill = traffic.snapshot();
    let killed = Instant::now();
    nginx.kill();
    screen.say("nginx on b2 was killed (SIGKILL, master and worker)");
    let noticed = wait_for_word(
        &mut screen,
        stage,
        &traffic,
        "down",
        check_time() + SLACK + Duration::from_secs(3),
    )?;
    screen.say(&format!(
        "weir says that b2 is down, {:.2} s after the kill",
        (noticed - killed).as_secs_f64()
    ));
    // What had begun by then ends within curl's 2 s, mostly at once.
    show_for(&mut screen, stage, &traffic, BLUR)?;
    let outage = traffic.snapshot();
    show_for(&mut screen, stage, &traffic, part)?;

    let before_return = traffic.snapshot();
    let started = Instant::now();
    let nginx = stage.nginx.get_mut(VICTIM).context("no backend to start")?;
    nginx.restart(victim)?;
    screen.say("nginx on b2 was started again");
    let returned = wait_for_word(&mut screen, stage, &traffic, "up", Duration::from_secs(15))?;
    screen.say(&format!(
        "weir says that b2 is up, {:.2} s after its start",
        (returned - started).as_secs_f64()
    ));
    let back = traffic.snapshot();
    show_for(&mut screen, stage, &traffic, part)?;

    let end = traffic.stop();
    screen.draw(&end, &words(stage)?);
    // Counters of the last packets and requests may be on their way still.
    let forwarded = || {
        stage
            .weir
            .metrics()?
            .sum("weir_xdp_packets_total", &[("verdict", "forward")])
    };
    settle(
        Duration::from_secs(10),
        Duration::from_millis(300),
        "the packet counter",
        forwarded,
    )?;
    let metrics_after = stage.weir.metrics().context("weir's metrics after the traffic")?;
    Ok(Evidence {
        killed,
        noticed,
        took_to_return: returned - started,
        begin,
        before_kill,
        outage,
        before_return,
        back,
        end,
        metrics_before,
        metrics_after,
    })
}

/// Lets the traffic run and shows it.
fn show_for(screen: &mut Screen, stage: &Stage<'_>, traffic: &Traffic, span: Duration) -> Result<()> {
    let end = Instant::now() + span;
    while let Some(left) = end
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
    {
        screen.draw(&traffic.snapshot(), &words(stage)?);
        pass_time(left.min(TICK))?;
    }
    Ok(())
}

/// Waits until weir has that word for the victim in every pool: the moment it was first seen.
fn wait_for_word(
    screen: &mut Screen,
    stage: &Stage<'_>,
    traffic: &Traffic,
    word: &str,
    deadline: Duration,
) -> Result<Instant> {
    let mut drawn = Instant::now();
    let result = wait_until(deadline, &format!("weir says that b2 is {word}"), || {
        let words = words(stage).map_err(|e| format!("{e:#}"))?;
        let now = Instant::now();
        let seen: Vec<&str> = words
            .iter()
            .filter_map(|states| states.get(VICTIM))
            .map(String::as_str)
            .collect();
        if seen.iter().all(|seen| *seen == word) {
            return Ok(now);
        }
        if drawn.elapsed() >= TICK {
            drawn = now;
            screen.draw(&traffic.snapshot(), &words);
        }
        Err(format!("{seen:?}"))
    });
    if interrupt::requested() {
        bail!("interrupted");
    }
    stage.weir.with_log(result)
}

/// weir's word for each backend, by pool in the order of [`POOLS`].
fn words(stage: &Stage<'_>) -> Result<Vec<Vec<String>>> {
    let pools = stage.weir.pools()?;
    POOLS
        .iter()
        .map(|(pool, family)| {
            (0..stage.nginx.len())
                .map(|i| Ok(pools.backend(pool, &address(*family, i))?.state))
                .collect()
        })
        .collect()
}

impl Evidence {
    /// From the kill to weir's word.
    pub(crate) fn reaction(&self) -> Duration {
        self.noticed - self.killed
    }

    /// Failures of a stream that weir can't be blamed for: under way when the backend was killed, or begun before weir
    /// had noticed. And the others: each is one too many.
    pub(crate) fn failures(&self, stream: usize) -> (usize, usize) {
        let excused = |failed: &Failed| failed.ended >= self.killed && failed.began <= self.noticed + BLUR;
        let failures = self.end.failures(stream);
        let until = failures.iter().filter(|failed| excused(failed)).count();
        (until, failures.len() - until)
    }

    /// The last failure before the notice, as time after the kill, over all streams.
    pub(crate) fn last_failure(&self) -> Option<Duration> {
        let all = (0..STREAMS.len()).flat_map(|stream| self.end.failures(stream));
        all.map(|failed| failed.began.saturating_duration_since(self.killed))
            .max()
    }
}
