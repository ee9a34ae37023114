//! TLS that is passed on: which pool a connection goes to, by its ClientHello.

use std::time::Duration;

use crate::ids::PoolName;

/// Services of mode `tcp` with `rules`: TLS is passed on as it comes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Passthrough {
    /// Rules, in order: the first that holds decides. What none takes goes to the service's pool, if it has one. Never
    /// empty.
    pub rules: Vec<HelloRule>,
    /// From the accept, or the PROXY header, to the end of the ClientHello.
    pub timeout: Duration,
}

/// An element of `services.NAME.rules` in mode `tcp`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloRule {
    /// Names, in lower case; `*.` in front stands for any subdomain. Empty: any, or none at all.
    pub sni: Vec<String>,
    /// Protocols, one of which the client offers. Empty: any, or none at all.
    pub alpn: Vec<String>,
    /// Where its connections go.
    pub pool: PoolName,
}

impl HelloRule {
    /// Whether it holds for a client that asks for this name (in lower case), and for one of whose protocols `offers`
    /// answers with true.
    pub fn holds(&self, name: Option<&str>, offers: impl Fn(&str) -> bool) -> bool {
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name));
        let named = self.sni.is_empty()
            || name.is_some_and(|name| self.sni.iter().any(|wanted| is_name(wanted, name)));
        named && (self.alpn.is_empty() || self.alpn.iter().any(|protocol| offers(protocol)))
    }

    /// Whether it holds for every client.
    pub fn holds_always(&self) -> bool {
        self.sni.is_empty() && self.alpn.is_empty()
    }
}

fn is_name(wanted: &str, name: &str) -> bool {
    match wanted.strip_prefix('*') {
        // `*.example.org`: at least one character in front of the dot.
        Some(suffix) => name.strip_suffix(suffix).is_some_and(|front| !front.is_empty()),
        None => wanted == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_protocols() {
        let rule = |sni: &[&str], alpn: &[&str]| HelloRule {
            sni: sni.iter().map(|s| (*s).to_owned()).collect(),
            alpn: alpn.iter().map(|s| (*s).to_owned()).collect(),
            pool: PoolName::new("p"),
        };
        let h2 = |protocol: &str| protocol == "h2";
        for (rule, name, holds) in [
            (rule(&[], &[]), None, true),
            (rule(&["a.example"], &[]), Some("a.example"), true),
            (rule(&["a.example"], &[]), Some("a.example."), true),
            (rule(&["a.example"], &[]), Some("b.a.example"), false),
            (rule(&["a.example"], &[]), None, false),
            (rule(&["b.example", "*.a.example"], &[]), Some("b.example"), true),
            (rule(&["*.a.example"], &[]), Some("c.b.a.example"), true),
            (rule(&["*.a.example"], &[]), Some("a.example"), false),
            (rule(&["*.a.example"], &[]), Some(".a.example"), false),
            (rule(&["*.a.example"], &[]), Some("ba.example"), false),
            (rule(&[], &["h2"]), None, true),
            (rule(&[], &["http/1.1", "h2"]), None, true),
            (rule(&["a.example"], &["h2"]), Some("a.example"), true),
            (rule(&["a.example"], &["http/1.1"]), Some("a.example"), false),
        ] {
            assert_eq!(rule.holds(name, h2), holds, "{rule:?} {name:?}");
        }
    }
}
