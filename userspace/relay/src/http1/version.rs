//! The versions of HTTP that a message may have come in.

/// A version of HTTP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, or a later HTTP/1 that is taken for it (RFC 9110 section 2.5).
    #[default]
    Http11,
    /// HTTP/2: its frames say where a message ends, and nothing is said of the connection in fields (RFC 9113 section
    /// 8.2.2).
    Http2,
}

impl Version {
    /// The version of HTTP/1.`minor`.
    pub const fn of_minor(minor: u8) -> Self {
        match minor {
            0 => Self::Http10,
            _ => Self::Http11,
        }
    }

    /// As `Via` and records have it: the number alone.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "1.0",
            Self::Http11 => "1.1",
            Self::Http2 => "2.0",
        }
    }

    /// Whether interim responses may be sent to whoever speaks it (RFC 9110 section 15.2).
    pub const fn has_interim(self) -> bool {
        !matches!(self, Self::Http10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let all = [Version::Http10, Version::Http11, Version::Http2];
        assert_eq!(all.map(Version::as_str), ["1.0", "1.1", "2.0"]);
        assert_eq!(all.map(Version::has_interim), [false, true, true]);
        assert_eq!([0, 1].map(Version::of_minor), all[..2]);
    }
}
