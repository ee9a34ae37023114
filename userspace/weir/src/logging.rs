//! Logging: one subscriber for the process, to standard error, human or JSON.

use anyhow::Context;
use tracing_subscriber::{EnvFilter, fmt};

use crate::cli::{LogArgs, LogFormat};

/// Installs the subscriber. Called once, before anything logs.
///
/// # Errors
/// The filter of `--log-level` does not parse, or a subscriber is installed already.
pub(crate) fn init(args: &LogArgs, role: &'static str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.log_level).with_context(|| {
        format!(
            "--log-level {}: use error, warn, info, debug, trace or a filter",
            args.log_level
        )
    })?;
    let result = match args.log_format {
        LogFormat::Human => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            fmt()
                .with_env_filter(filter)
                .with_writer(std::io::stderr)
                .with_ansi(ansi)
                .with_target(false)
                .try_init()
        }
        LogFormat::Json => fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .json()
            .flatten_event(true)
            .try_init(),
    };
    result.map_err(|e| anyhow::anyhow!("logging can't be set up: {e}"))?;
    tracing::debug!(role, "logging");
    Ok(())
}
