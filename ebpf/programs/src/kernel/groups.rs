//! What XDP and tc alike ask about virtual routers.

use weir_abi::{Addr16, LinkKey};

use super::keys::{Words as _, key_in};
use crate::maps::{LEASED, LINKED};

/// `LINKED`: the index of a link address on an interface; 0: there is none.
#[inline(always)]
pub(crate) fn linked(mac: [u16; 3], ifindex: u32) -> u32 {
    let key = LinkKey {
        mac,
        reserved: 0,
        ifindex,
    };
    // SAFETY: copied at once, see the module.
    unsafe { LINKED.get(key_in::<LinkKey>(&key.words())) }
        .copied()
        .unwrap_or(0)
}

/// `LEASED`: see `Tables::lease`.
#[inline(always)]
pub(crate) fn leased(addr: &Addr16) -> u32 {
    // SAFETY: copied at once, see the module.
    unsafe { LEASED.get(key_in::<Addr16>(&addr.words())) }
        .copied()
        .unwrap_or(0)
}
