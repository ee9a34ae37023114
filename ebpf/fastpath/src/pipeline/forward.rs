//! Forwards what was not forwarded on the short way, by the same rules.
//!
//! Owns nothing but the entries: the ways are the short way's, in a longer form.

use super::{LONG, ROUTE, Step, any_way, go_on_parked, internal};
use crate::{frame::Frame, tables::Tables};

/// Goes on with the packet that was parked: with a closer look at TCP's options.
#[inline(always)]
pub fn forward<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    with_parked::<_, _, LONG>(frame, tables)
}

/// Goes on with the packet that was parked, by a way that the kernel is asked for.
#[inline(always)]
pub fn route<F: Frame, T: Tables>(frame: &mut F, tables: &mut T) -> Step {
    with_parked::<_, _, ROUTE>(frame, tables)
}

#[inline(always)]
fn with_parked<F: Frame, T: Tables, const WAY: u8>(frame: &mut F, tables: &mut T) -> Step {
    let Some((mut packet, chosen)) = tables.parked().map(|parked| (parked.packet(), parked.chosen)) else {
        return Step::Done(internal(tables));
    };
    let result = any_way::<_, _, WAY>(frame, &mut packet, true, chosen, tables);
    go_on_parked(result, tables)
}
