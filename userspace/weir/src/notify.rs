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
    can_be_told() || !is_main_process()
}

/// Whether this is the process that systemd has started: its main process, unless another has taken its place.
pub(crate) fn is_main_process() -> bool {
    started_by_manager() == Some(std::process::id())
}

/// Whether systemd watches, and knows another process for the main one.
pub(crate) fn is_watched_by_another() -> bool {
    can_be_told() && !is_main_process()
}

/// The word that systemd (248 or later) gives the processes that it starts; children inherit it.
fn started_by_manager() -> Option<u32> {
    std::env::var("SYSTEMD_EXEC_PID").ok()?.parse().ok()
}

/// Whether somebody listens.
pub(crate) fn can_be_told() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, ?state, "the service manager can't be told");
    }
}
