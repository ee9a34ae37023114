//! HMAC-SHA-256, by which boxes know each other: adverts of virtual routers, and what they tell each other of flows.

use aws_lc_rs::hmac;
use weir_core::vrrp::auth::{Keys, MAC};

/// Secrets by the numbers of their keys.
pub(super) struct Secrets(Vec<(u8, hmac::Key)>);

impl Secrets {
    /// Of these keys.
    pub(super) fn new<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = (u8, K)>) -> Self {
        let made = |(id, secret): (u8, K)| (id, hmac::Key::new(hmac::HMAC_SHA256, secret.as_ref()));
        Self(keys.into_iter().map(made).collect())
    }
}

impl Keys for Secrets {
    fn mac(&self, key: u8, parts: &[&[u8]]) -> Option<[u8; MAC]> {
        let (_, key) = self.0.iter().find(|(id, _)| *id == key)?;
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().try_into().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_mac_is_hmac_sha_256() {
        let keys = Secrets::new([(7, b"Jefe")]);
        let mac = keys.mac(7, &[b"what do ya want ", b"for nothing?"]).unwrap();
        assert_eq!(
            mac[..8],
            [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e],
            "{mac:02x?}"
        );
        assert_eq!(keys.mac(8, &[b""]), None);
    }
}
