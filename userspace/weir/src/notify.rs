//! What systemd is told of this process (sd_notify(3)): that it serves, and which process is the main one after an upgrade.
//!
//! Nothing is told, and nothing is missing, where nobody listens: without NOTIFY_SOCKET.

use sd_notify::NotifyState;
use tracing::debug;

/// This process serves.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Another process takes this one's place as the unit's main process.
pub(crate) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
}

/// Whether the end of this process would not be taken for the end of weir, though another has its place: systemd does not watch
/// it, or can be told.
pub(crate) fn can_change_main_process() -> bool {
    let word = |name| std::env::var(name).ok();
    may_change(
        word("SYSTEMD_EXEC_PID").as_deref(),
        word("NOTIFY_SOCKET").is_some(),
        std::process::id(),
    )
}

/// `started`: the process that systemd (248 or later) has started itself; children inherit the word.
fn may_change(started: Option<&str>, can_be_told: bool, own: u32) -> bool {
    can_be_told || started.and_then(|pid| pid.parse().ok()) != Some(own)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, ?state, "the service manager can't be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_main_process_of_a_unit_that_tells_nothing_can_not_be_another() {
        for (started, can_be_told, may) in [
            (Some("7"), false, false),
            (Some("7"), true, true),
            // A shell that systemd has started, and weir from it.
            (Some("6"), false, true),
            (Some("x"), false, true),
            (None, false, true),
        ] {
            assert_eq!(
                may_change(started, can_be_told, 7),
                may,
                "{started:?} {can_be_told}"
            );
        }
    }
}
