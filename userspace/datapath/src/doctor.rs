//! A look at the box before anything is touched: can weir run here, and what should be known?
//!
//! Reads only. Works without privilege and then says what it could not see. Each finding names its subject, and, where
//! something is to be done, the mend.

mod features;
mod intake;
mod interface;
mod system;
mod uplinks;
mod vrrp;

pub(crate) use system::release;
pub use uplinks::Uplink;

use std::{fmt, sync::Arc};

use serde::Serialize;
use weir_core::plan::{Listen, VrrpGroup};

/// How a finding is to be taken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, but should be known; or could not be seen.
    Note,
    /// The L4 plane will not work like this.
    Problem,
}

impl Level {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Serialize, Debug)]
pub struct Finding {
    /// What was looked at: `kernel`, `bpffs`, `interface eth0`, …
    pub subject: String,
    /// How it is to be taken.
    pub level: Level,
    /// What was found.
    pub text: String,
    /// What can be done about it.
    pub mend: Option<String>,
}

impl Finding {
    fn new(subject: impl Into<String>, level: Level, text: impl Into<String>) -> Self {
        Self {
            subject: subject.into(),
            level,
            text: text.into(),
            mend: None,
        }
    }

    fn ok(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Ok, text)
    }

    fn note(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Note, text)
    }

    fn problem(subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(subject, Level::Problem, text)
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<7} {}: {}", self.level.as_str(), self.subject, self.text)?;
        match &self.mend {
            Some(mend) => write!(f, "; {mend}"),
            None => Ok(()),
        }
    }
}

/// Everything that was found.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Debug)]
pub struct Report {
    /// In the order in which an operator would go about it.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The gravest level among the findings.
    pub fn worst(&self) -> Level {
        self.findings
            .iter()
            .map(|finding| finding.level)
            .max()
            .unwrap_or(Level::Ok)
    }
}

/// Looks at the box, and at these interfaces of the calling thread's network namespace (none: at those that are up and
/// not `lo`), at what these transparent listeners need there, at the ways out by interfaces that are named, and at what these
/// virtual routers need.
pub fn inspect(
    interfaces: &[String],
    transparent: &[Listen],
    uplinks: &[Uplink],
    groups: &[Arc<VrrpGroup>],
) -> Report {
    let mut findings = system::inspect();
    findings.extend(interface::inspect(interfaces));
    findings.extend(intake::inspect(interfaces, transparent));
    findings.extend(uplinks::inspect(uplinks));
    findings.extend(vrrp::inspect(groups));
    Report { findings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_one_line() {
        let finding = Finding::problem("bpffs", "not mounted").mend("mount it");
        assert_eq!(finding.to_string(), "problem bpffs: not mounted; mount it");
        assert_eq!(Finding::ok("kernel", "6.18").to_string(), "ok      kernel: 6.18");
    }

    #[test]
    fn the_gravest_level_counts() {
        let report = |levels: &[Level]| Report {
            findings: levels
                .iter()
                .map(|&level| Finding::new("x", level, "y"))
                .collect(),
        };
        assert_eq!(report(&[]).worst(), Level::Ok);
        assert_eq!(report(&[Level::Ok, Level::Note]).worst(), Level::Note);
        assert_eq!(report(&[Level::Problem, Level::Note]).worst(), Level::Problem);
    }

    #[test]
    fn every_box_can_be_looked_at_without_privilege() {
        let report = inspect(&["lo".into(), "nosuchif0".into()], &[], &[], &[]);
        let about = |subject: &str| {
            report
                .findings
                .iter()
                .filter(|f| f.subject == subject)
                .collect::<Vec<_>>()
        };
        for subject in [
            "kernel",
            "BTF",
            "bpffs",
            "privileges",
            "JIT",
            "eBPF object",
            "descriptors",
        ] {
            assert_eq!(about(subject).len(), 1, "{subject}: {report:?}");
        }
        assert!(
            about("interface lo").iter().any(|f| f.level == Level::Problem),
            "lo has no native XDP: {report:?}"
        );
        let missing = about("interface nosuchif0");
        assert!(
            matches!(missing[..], [f] if f.level == Level::Problem && f.text == "does not exist"),
            "{missing:?}"
        );
        assert!(
            report
                .findings
                .iter()
                .all(|f| f.level != Level::Problem || f.mend.is_some()),
            "{report:?}"
        );
    }
}
