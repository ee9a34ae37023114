//! What is known of how HAProxy (2.6) and nginx (1.22) differ from a case, and why that is.
//!
//! Each was looked at twice: once for what the other proxy does, once for whether weir should do the same. Where both
//! take what weir refuses, it is because the project refuses what is ambiguous and they are lenient by design.

mod haproxy;
mod nginx;

/// A proxy that weir is compared with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// HAProxy, Debian's.
    Haproxy,
    /// nginx, Debian's.
    Nginx,
}

impl Peer {
    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    const fn known(self) -> &'static [Known] {
        match self {
            Self::Haproxy => haproxy::KNOWN,
            Self::Nginx => nginx::KNOWN,
        }
    }
}

/// Cases in which a peer differs in one way for one reason.
struct Known {
    why: &'static str,
    /// How it shows.
    sign: &'static str,
    /// Their names, between blanks.
    cases: &'static str,
}

/// Why a peer differs in that case in that way; None: nobody knows.
pub fn why(peer: Peer, case: &str, sign: &str) -> Option<&'static str> {
    let is = |known: &&Known| known.sign == sign && known.cases.split_ascii_whitespace().any(|c| c == case);
    peer.known().iter().find(is).map(|known| known.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_known_of_cases_that_there_are() {
        let cases = crate::cases::all();
        for known in haproxy::KNOWN.iter().chain(nginx::KNOWN) {
            for name in known.cases.split_ascii_whitespace() {
                assert!(cases.iter().any(|case| case.id == name), "{name}");
            }
        }
        assert_eq!(why(Peer::Nginx, "trace-passes", "answers 200"), None);
        assert!(why(Peer::Nginx, "trace-passes", "answers 405").is_some());
    }
}
