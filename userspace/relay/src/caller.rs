//! Who is at the other end of a client's connection, as far as weir is told: by the system, or by a proxy's PROXY header.

use std::{net::SocketAddr, rc::Rc};

use weir_core::proxy::{Header, Origin, Read, Tlvs, Version, read};

/// The other end of a connection, whatever is spoken on it.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The client. Where a proxy speaks for itself, or does not tell, that is the proxy.
    pub(crate) address: SocketAddr,
    /// What else is known of where it came from and was going: what a proxy told, if one did, and what a transparent
    /// listener took it in for.
    pub(crate) told: Option<Rc<Told>>,
    /// The name that it asked for by SNI, where its TLS is passed on.
    pub(crate) sni: Option<Rc<str>>,
}

/// What a PROXY header told, or the address that is not on this box.
pub(crate) struct Told {
    /// Where the client connected to.
    pub(crate) server: Option<SocketAddr>,
    /// Where the connection was going, if a transparent listener took it in.
    pub(crate) destination: Option<SocketAddr>,
    /// The client came to the proxy over TLS.
    pub(crate) secure: bool,
    /// The header, if it has TLVs: they are read from it when they are wanted.
    header: Box<[u8]>,
}

impl Caller {
    /// A client that has connected by itself.
    pub(crate) const fn direct(address: SocketAddr) -> Self {
        Self {
            address,
            told: None,
            sni: None,
        }
    }

    /// One that was going to an address which is not on this box.
    pub(crate) fn taken_in(address: SocketAddr, destination: SocketAddr) -> Self {
        let told = Told {
            secure: false,
            server: Some(destination),
            destination: Some(destination),
            header: Box::default(),
        };
        Self {
            told: Some(Rc::new(told)),
            ..Self::direct(address)
        }
    }

    /// Where the connection was going, if a transparent listener took it in.
    pub(crate) fn destination(&self) -> Option<SocketAddr> {
        self.told.as_ref()?.destination
    }

    /// One that `proxy` told of; `bytes` is the whole header.
    pub(crate) fn told(proxy: &Self, header: &Header<'_>, bytes: &[u8]) -> Self {
        let (address, server) = match header.origin {
            Origin::Client { source, destination } => (source, Some(destination)),
            Origin::Local | Origin::Unknown | Origin::Unix => (proxy.address, None),
        };
        let destination = proxy.destination();
        let kept = match header.version {
            Version::V2 if header.tlvs != Tlvs::NONE => bytes,
            Version::V1 | Version::V2 => &[],
        };
        let told = Told {
            server: server.or(destination),
            destination,
            secure: header.tlvs.ssl.is_some_and(|ssl| ssl.is_tls()),
            header: kept.into(),
        };
        Self {
            address,
            told: Some(Rc::new(told)),
            sni: None,
        }
    }
}

impl Told {
    /// What was told besides the addresses.
    pub(crate) fn tlvs(&self) -> Tlvs<'_> {
        // Of a connection that was taken in there is none.
        if self.header.is_empty() {
            return Tlvs::NONE;
        }
        match read(&self.header) {
            Ok(Read::Whole(header)) => header.tlvs,
            // There was nothing to keep.
            Ok(Read::Partial) | Err(_) => Tlvs::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_core::proxy::{Announced, write};

    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn told(version: Version, announced: &Announced<'_>) -> Caller {
        let mut bytes = Vec::new();
        write(&mut bytes, version, announced);
        let Ok(Read::Whole(header)) = read(&bytes) else {
            panic!("{}", bytes.escape_ascii());
        };
        Caller::told(&Caller::direct(at("10.0.0.1:1")), &header, &bytes)
    }

    #[test]
    fn what_was_told_is_kept() {
        let mut announced = Announced {
            addresses: Some((at("192.0.2.7:40000"), at("198.51.100.1:443"))),
            authority: Some(b"a.example"),
            ..Announced::default()
        };
        for (version, authority) in [(Version::V1, None), (Version::V2, Some("a.example"))] {
            let caller = told(version, &announced);
            assert_eq!(caller.address, at("192.0.2.7:40000"));
            let told = caller.told.unwrap();
            assert_eq!(told.server, Some(at("198.51.100.1:443")));
            assert_eq!(told.tlvs().authority, authority);
        }
        announced.addresses = None;
        let caller = told(Version::V2, &announced);
        assert_eq!(caller.address, at("10.0.0.1:1"));
        assert_eq!(caller.told.unwrap().server, None);
    }
}
