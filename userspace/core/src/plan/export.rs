//! `[export]`: routes by which a routing daemon on this box learns what to announce.

use std::time::Duration;

/// Host routes of the addresses that this box serves, in a kernel table of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Export {
    /// The routing table: 1 to 2^32 - 1, none of the kernel's own (253 to 255).
    pub table: u32,
    /// Which services of an address have to be up for it to be exported.
    pub when: ExportWhen,
    /// How long weir serves on after it has taken the routes back, before an orderly end begins.
    pub notice: Duration,
}

impl Export {
    /// Where the file is silent.
    pub const DEFAULT: Self = Self {
        table: 180,
        when: ExportWhen::Any,
        notice: Duration::from_secs(2),
    };
}

/// How many services of an address have to be up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExportWhen {
    /// One of them, or more.
    Any,
    /// Each.
    All,
}

impl ExportWhen {
    /// By the words of the configuration.
    pub const ALL: [(&'static str, Self); 2] = [("any", Self::Any), ("all", Self::All)];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::All => "all",
        }
    }
}
