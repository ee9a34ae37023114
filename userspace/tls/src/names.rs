//! Names of servers as certificates and configurations write them: exact ones, and `*.` for one label.
//!
//! Owns when a name fits (RFC 9525, 6.3). Never resolves one.

use std::fmt;

use crate::mistake::Mistake;

/// A name, or all names one label below a domain. In lower case, without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// This name.
    Exact(String),
    /// Every name with one label before this domain.
    Wildcard(String),
}

impl Pattern {
    /// Reads a pattern: `www.example.net` or `*.example.net`.
    ///
    /// # Errors
    /// What is no host name: labels of letters, digits, `-` and `_`, up to 63 bytes each, 253 in all; `*` as its whole
    /// first label only.
    pub fn read(text: &str) -> Result<Self, Mistake> {
        let bad = || Mistake::BadName(text.to_owned());
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match lower.strip_prefix("*.") {
            Some(domain) if is_host(domain) => Ok(Self::Wildcard(domain.to_owned())),
            Some(_) => Err(bad()),
            None if is_host(&lower) => Ok(Self::Exact(lower)),
            None => Err(bad()),
        }
    }

    /// Whether a name fits. It must be in lower case.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Wildcard(domain) => below(name) == Some(domain),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(domain) => write!(f, "*.{domain}"),
        }
    }
}

/// The domain that a name stands in: what a wildcard for it would name.
pub(crate) fn below(name: &str) -> Option<&str> {
    name.split_once('.')
        .filter(|(label, _)| !label.is_empty())
        .map(|(_, domain)| domain)
}

fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_name_and_what_fits() {
        for (text, fits, not) in [
            ("www.Example.net", "www.example.net", "example.net"),
            ("example.net.", "example.net", "www.example.net"),
            ("*.example.net", "www.example.net", "a.www.example.net"),
            ("*.example.net", "x_y.example.net", "example.net"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", ""),
        ] {
            let pattern = Pattern::read(text).unwrap();
            assert!(pattern.fits(fits), "{text} {fits}");
            assert!(!pattern.fits(not), "{text} {not}");
        }
        assert!(!Pattern::read("*.example.net").unwrap().fits(".example.net"));
        for bad in [
            "",
            ".",
            "*",
            "*.",
            "*.*.net",
            "a.*.net",
            "w*.example.net",
            "a..b",
            "-a.net",
            "a-.net",
            "a b",
            "bücher.de",
        ] {
            assert_eq!(Pattern::read(bad), Err(Mistake::BadName(bad.to_owned())), "{bad}");
        }
        assert!(Pattern::read(&"a".repeat(64)).is_err());
        assert!(Pattern::read(&"a.".repeat(127)).is_ok_and(|p| p.to_string().len() == 253));
        assert!(Pattern::read(&"a.".repeat(128)).is_err());
    }
}
