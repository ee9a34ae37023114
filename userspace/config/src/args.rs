//! Values on the command line, read by the same rules as in the file.
//!
//! Owns nothing but the doors to `net` and `units`, whose mistakes become one line each.

use std::{net::SocketAddr, time::Duration};

use weir_core::plan::IpNet;

use crate::{net, units};

/// A network in CIDR form, or one address.
///
/// # Errors
/// What is wrong, and the mend.
pub fn network(text: &str) -> Result<IpNet, String> {
    net::parse_network(text).map_err(|trouble| trouble.line())
}

/// An address and port: `10.0.0.11:8080`, `[2001:db8::11]:8080`.
///
/// # Errors
/// What is wrong, and the mend.
pub fn socket(text: &str) -> Result<SocketAddr, String> {
    net::parse_socket(text).map_err(|trouble| trouble.line())
}

/// A duration such as `500ms` or `1m30s`.
///
/// # Errors
/// What is wrong, and the mend.
pub fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).map_err(|trouble| trouble.line())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_say_what_and_how() {
        assert_eq!(network("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(network("2001:db8::1").unwrap().prefix(), 128);
        let error = network("10.0.0.1/8").unwrap_err();
        assert!(error.contains("write 10.0.0.0/8"), "{error}");
        assert_eq!(socket("[2001:db8::7]:80").unwrap().port(), 80);
        let error = socket("198.51.100.7").unwrap_err();
        assert!(error.contains("198.51.100.7:"), "{error}");
        assert_eq!(duration("1m30s").unwrap(), Duration::from_secs(90));
        assert!(duration("90").unwrap_err().contains("no unit"));
    }
}
