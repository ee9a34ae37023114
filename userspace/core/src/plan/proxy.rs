//! The PROXY protocol: from whom it is taken, and what backends are told by it.

use std::{net::IpAddr, time::Duration};

use super::IpNet;
use crate::proxy::Version;

/// `[services.NAME.proxy_protocol]`: the proxies in front of a service that tell who their clients are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyIn {
    /// Where they are; never empty. A connection from there begins with a header; from elsewhere none does.
    pub from: Vec<IpNet>,
    /// From the accept to the end of the header.
    pub timeout: Duration,
}

impl ProxyIn {
    /// Whether connections from this address begin with a header.
    pub fn is_from(&self, address: IpAddr) -> bool {
        self.from.iter().any(|network| network.contains(address))
    }
}

/// `pools.NAME.proxy_protocol` and `proxy_tlvs`: the header that every connection to a backend begins with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProxyOut {
    /// Its version.
    pub version: Version,
    /// What else it tells. Nothing in version 1.
    pub tlvs: ProxyTlvs,
}

/// What a header tells besides the addresses, as far as it is known of a connection.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ProxyTlvs {
    /// The protocol that was agreed on, or offered, by ALPN.
    pub alpn: bool,
    /// The host that the client asked for.
    pub authority: bool,
    /// What is known of the client's TLS.
    pub ssl: bool,
    /// An id of the request or connection.
    pub unique_id: bool,
    /// A checksum.
    pub crc32c: bool,
}

impl ProxyTlvs {
    /// Each by its name in the file.
    pub const fn named(self) -> [(&'static str, bool); 5] {
        [
            ("alpn", self.alpn),
            ("authority", self.authority),
            ("ssl", self.ssl),
            ("unique-id", self.unique_id),
            ("crc32c", self.crc32c),
        ]
    }
}
