//! Certificates and lists of revoked ones, as answers show them.

use serde::{Deserialize, Serialize};

/// A certificate that a service shows its clients, or the relay a pool's backends.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq)]
pub(crate) struct TlsFile {
    /// Empty: it is a pool's.
    pub(crate) service: String,
    /// Empty: it is a service's.
    #[serde(default)]
    pub(crate) pool: String,
    /// The file of its chain.
    pub(crate) file: String,
    pub(crate) subject: String,
    pub(crate) names: Vec<String>,
    /// The kind of its key.
    pub(crate) key: String,
    /// Its validity, in seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Why what stands in its files now is not what is served.
    pub(crate) trouble: Option<String>,
}

/// Lists of revoked certificates of a service's clients.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TlsList {
    pub(crate) service: String,
    pub(crate) file: String,
    /// The earliest nextUpdate, in seconds since 1970.
    pub(crate) next_update: i64,
}
