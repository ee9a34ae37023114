//! The bits of `FILTER` that a state needs: one for each address that a packet is looked up for, as its source or its
//! destination.

use std::collections::BTreeSet;

use weir_abi::Addr16;
use weir_fastpath::filter::bit;

use super::State;

/// Bits of every virtual address, of every backend that answers through this box, and of every source of `full-nat`,
/// which the answers go to.
pub(super) fn bits(state: &State) -> BTreeSet<u32> {
    let vips = state.addresses.keys().copied().map(Addr16::from);
    let backends = state.returns.keys().map(|from| Addr16::from(from.addr));
    let sources = state.sources.values().map(|source| source.addr);
    vips.chain(backends)
        .chain(sources)
        .map(|addr| bit(&addr))
        .collect()
}
