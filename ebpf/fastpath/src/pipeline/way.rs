//! The way out for a packet: the next hop that control resolved in advance, or what the kernel's routes say.
//!
//! Owns who is asked. A look-up in the kernel's routes costs more than all the rest of a forwarded packet, so control
//! mirrors them (`NEXT_HOPS`, `ROUTES`); what it can't mirror it leaves out, and the kernel is asked: not on the short way,
//! but by the stage behind it. That stage has room for the record that later fragments follow, so first fragments go
//! there as well.

use weir_abi::{
    Addr16, NextHop, Note, Reason, Settings,
    maps::{next_hop, stage},
};

use super::{LONG, ROUTE, Stop, flow::Chosen};
use crate::{
    emit::Way,
    parse::{Fragment, Packet},
    tables::{Route, RouteQuery, Tables},
};

/// To a backend, for an IP packet of `len` bytes. `on_link`: no router may be on the way, since the packet keeps its
/// destination, which would lead back from there. (Where the kernel must be asked that is not known.)
#[inline(always)]
pub(super) fn to_backend<T: Tables, const WAY: u8>(
    packet: &Packet,
    chosen: &Chosen,
    len: u32,
    on_link: bool,
    settings: &Settings,
    tables: &mut T,
) -> Result<Way, Stop> {
    if WAY == LONG && packet.fragment == Fragment::First {
        return Err(Stop::Ask(chosen.word()));
    }
    if let Some(hop) = next_hop(chosen.backend.next_hop, tables)? {
        if on_link && hop.flags & next_hop::ON_LINK == 0 {
            return Err(Stop::Reason(Reason::NoRoute));
        }
        return fits(hop, len);
    }
    if WAY != ROUTE {
        return Err(Stop::Ask(chosen.word()));
    }
    match ask(packet, &chosen.backend.addr, len, settings, tables)? {
        Asked::Way(way) => Ok(way),
        Asked::Local => Err(Stop::Reason(Reason::NoRoute)),
    }
}

/// To the client that a reply is addressed to.
#[inline(always)]
pub(super) fn to_client<T: Tables, const WAY: u8>(
    packet: &Packet,
    settings: &Settings,
    tables: &mut T,
) -> Result<Way, Stop> {
    if WAY == LONG && packet.fragment == Fragment::First {
        return Err(Stop::Ask(0));
    }
    let len = packet.total_len as u32;
    let index = tables.client_route(&{ packet.flow.dst });
    if let Some(way) = resolved(index, len, tables)? {
        return Ok(way);
    }
    if WAY != ROUTE {
        return Err(Stop::Ask(0));
    }
    match ask(packet, &packet.flow.dst, len, settings, tables)? {
        Asked::Way(way) => Ok(way),
        // With forwarding off nothing can be told apart; then this box's own connections must not suffer.
        Asked::Local => Err(Stop::Reason(Reason::ReturnLocal)),
    }
}

/// For a packet by `full-nat`, either direction. `packet`: its flow is what it leaves as.
#[inline(always)]
pub(super) fn of_nat<T: Tables, const WAY: u8>(
    packet: &Packet,
    index: u32,
    settings: &Settings,
    tables: &mut T,
) -> Result<Way, Stop> {
    let len = packet.total_len as u32;
    if let Some(way) = resolved(index, len, tables)? {
        return Ok(way);
    }
    if WAY != ROUTE {
        return Err(Stop::Stage(stage::NAT_SEND));
    }
    match ask(packet, &packet.flow.dst, len, settings, tables)? {
        Asked::Way(way) => Ok(way),
        // Nothing of it is for this box: the stack would answer a reply with a RST.
        Asked::Local => Err(Stop::Reason(Reason::NoRoute)),
    }
}

/// The way by a next hop that was resolved in advance; None if there is none.
#[inline(always)]
fn resolved<T: Tables>(index: u32, len: u32, tables: &mut T) -> Result<Option<Way>, Stop> {
    match next_hop(index, tables)? {
        Some(hop) => fits(hop, len).map(Some),
        None => Ok(None),
    }
}

/// The next hop of this index; None if there is none.
#[inline(always)]
fn next_hop<T: Tables>(index: u32, tables: &mut T) -> Result<Option<NextHop>, Stop> {
    if index == 0 {
        return Ok(None);
    }
    Ok(Some(tables.next_hop(index).ok_or(Reason::Inconsistent)?))
}

#[inline(always)]
fn fits(hop: NextHop, len: u32) -> Result<Way, Stop> {
    let way = Way::from(hop);
    if len > way.mtu {
        return Err(Stop::TooBig(way.mtu));
    }
    Ok(way)
}

/// What fits through the way to a backend, if that is narrower than this; 0: not known.
#[inline(always)]
pub(super) fn narrower<T: Tables>(mtu: u32, backend: u32, tables: &mut T) -> u32 {
    let Some(backend) = tables.backend(backend) else {
        return mtu;
    };
    match next_hop(backend.next_hop, tables) {
        Ok(Some(hop)) if mtu == 0 || hop.mtu < mtu => hop.mtu,
        _ => mtu,
    }
}

/// What the kernel's routes say of a packet that can go somewhere.
enum Asked {
    Way(Way),
    /// To this box, or nowhere.
    Local,
}

#[inline(always)]
fn ask<T: Tables>(
    packet: &Packet,
    to: &Addr16,
    len: u32,
    settings: &Settings,
    tables: &mut T,
) -> Result<Asked, Stop> {
    tables.note(Note::RouteAsked);
    let v4 = to.is_v4();
    let query = RouteQuery {
        v4,
        // Through a tunnel to the other family the packet's own source means nothing.
        src: if v4 == packet.v4 {
            packet.flow.src
        } else {
            Addr16::default()
        },
        dst: *to,
        ports: packet.flow.ports,
        protocol: packet.protocol(),
        total_len: len as u16,
        traffic_class: if v4 == packet.v4 { packet.traffic_class } else { 0 },
        from: settings.fib_ifindex,
    };
    match tables.route(&query) {
        Route::Via { ifindex, link } => {
            let way = Way {
                ifindex,
                link,
                set_tags: false,
                tags: [0; 2],
                mtu: 0,
            };
            Ok(Asked::Way(match tables.vlan(ifindex) {
                Some(vlan) => Way {
                    ifindex: vlan.ifindex,
                    set_tags: true,
                    tags: [vlan.outer_tag, vlan.inner_tag],
                    ..way
                },
                None => way,
            }))
        }
        Route::NotForwarded | Route::Disabled => Ok(Asked::Local),
        Route::Unreachable => Err(Stop::Reason(Reason::NoRoute)),
        Route::NoNeighbor { next_hop, ifindex } => {
            tables.resolve_neighbor(&next_hop, ifindex);
            Err(Stop::Reason(Reason::NoNeighbor))
        }
        Route::TooBig { mtu } => Err(Stop::TooBig(mtu)),
        Route::Failed => Err(Stop::Reason(Reason::Internal)),
    }
}
