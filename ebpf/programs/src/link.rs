//! `weir_arrive` and `weir_leave`: link addresses of virtual routers, towards the stack.
//!
//! *In.* XDP gives a frame to a group's link address the interface's own instead. A driver that judged before whom it was for
//! (veth) sticks to that, and the stack would drop it: it is said to be for this host.
//!
//! *Out.* Three rewrites, at the egress of an interface, whoever has made the packet: the stack, control, another program.
//! *ARP* whose sender is an address of a group that has a link address (`LINKS`), and *neighbor discovery* likewise, name
//! that instead of the interface's own: answers, and as much the stack's own questions, by which a neighbor would learn
//! the wrong one. *Adverts* of a group leave from its link address, and so do those two, where it alone has it
//! ([`link::SOURCE`]): that is how switches learn where it is (RFC 9568 sections 7.3 and 8.1.2). Nothing is dropped, and
//! nothing else of a frame is touched.
//!
//! What has more VLAN tags than the interface, or IPv6 extension headers, is left as it is: neither the stack nor control
//! sends such in the name of a group.

use core::mem::size_of;

use aya_ebpf::{
    helpers::generated::{
        bpf_csum_diff, bpf_l4_csum_replace, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use weir_abi::{
    Addr16, GroupLink,
    maps::{lease::SLOT_BITS, link},
};

use crate::{
    kernel::{leased, linked},
    maps::LINKS,
};

/// Ethertypes, as they lie in a packet.
const ARP: u32 = 0x0806_u16.to_be() as u32;
const IPV4: u32 = 0x0800_u16.to_be() as u32;
const IPV6: u32 = 0x86dd_u16.to_be() as u32;
/// Protocols.
const VRRP: u8 = 112;
const ICMPV6: u8 = 58;
/// Types of neighbor solicitation and advertisement (RFC 4861 sections 4.3 and 4.4).
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Of ARP for IPv4 on Ethernet: hardware and protocol type.
const ETHERNET_IPV4: u32 = 0x0001_0800_u32.to_be();

/// Where things lie in a frame without tags.
const SOURCE_AT: u32 = 6;
const L3: u32 = 14;
const ARP_SENDER_AT: u32 = L3 + 8;
const V4_PROTOCOL_AT: u32 = L3 + 9;
const V4_VRID_AT: u32 = L3 + 20 + 1;
const V6_L4: u32 = L3 + 40;
const ND_SUM_AT: u32 = V6_L4 + 2;
const ND_OPTION_AT: u32 = V6_L4 + 24;

/// `PACKET_HOST`
const TO_HOST: u32 = 0;

/// At ingress: what is to the interface's own link address is for this host.
#[inline(always)]
pub(crate) fn arrive(ctx: &TcContext) {
    let skb = ctx.skb.skb;
    // SAFETY: the context of this run, whose fields are words.
    let (kind, tagged) = unsafe {
        (
            (&raw const (*skb).pkt_type).read_volatile(),
            (&raw const (*skb).vlan_present).read_volatile(),
        )
    };
    // With a tag it is another interface's.
    if kind == TO_HOST || tagged != 0 {
        return;
    }
    if let Some(mac) = load::<[u16; 3]>(ctx, 0)
        && linked(mac, ifindex(ctx)) & link::OWN != 0
    {
        // SAFETY: the context of this run. What the helper refuses stays as it is.
        unsafe { bpf_skb_change_type(skb, TO_HOST) };
    }
}

/// At egress.
#[inline(always)]
pub(crate) fn leave(ctx: &TcContext) {
    let skb = ctx.skb.skb;
    // SAFETY: the context of this run, whose fields are words.
    let protocol = unsafe { (&raw const (*skb).protocol).read_volatile() };
    match protocol {
        ARP => arp(ctx),
        IPV4 if load::<u8>(ctx, V4_PROTOCOL_AT) == Some(VRRP) => advert(ctx, V4_VRID_AT, 1),
        IPV6 => match load::<u8>(ctx, L3 + 6) {
            Some(VRRP) => advert(ctx, V6_L4 + 1, 2),
            Some(ICMPV6) => neighbor(ctx),
            Some(_) | None => {}
        },
        _ => {}
    }
}

#[inline(always)]
fn arp(ctx: &TcContext) {
    if load::<u32>(ctx, L3) != Some(ETHERNET_IPV4) {
        return;
    }
    // Behind the sender's link address.
    let Some(sender) = load::<u32>(ctx, ARP_SENDER_AT + 6) else {
        return;
    };
    if let Some(held) = of_address(ctx, &Addr16::from_v4_word(sender)) {
        let mac = held.mac;
        store(ctx, ARP_SENDER_AT, &mac);
        source(ctx, held);
    }
}

/// The option of a link address is the first one of what the stack and control send.
#[inline(always)]
fn neighbor(ctx: &TcContext) {
    let address_at = match load::<u8>(ctx, V6_L4) {
        // In whose name it is sent, or whose it says it is.
        Some(SOLICITATION) => L3 + 8,
        Some(ADVERTISEMENT) => V6_L4 + 8,
        Some(_) | None => return,
    };
    let Some(address) = load::<[u32; 4]>(ctx, address_at) else {
        return;
    };
    let Some(held) = of_address(ctx, &Addr16::from_v6_words(address)) else {
        return;
    };
    let mac = held.mac;
    if let Some(mut old) = load::<[u16; 4]>(ctx, ND_OPTION_AT) {
        let [kind, ..] = old;
        // Source or target link-layer address, of one unit of 8 bytes.
        if kind == u16::from_ne_bytes([1, 1]) || kind == u16::from_ne_bytes([2, 1]) {
            let [x, y, z] = mac;
            let mut new = [kind, x, y, z];
            let (from, to) = (old.as_mut_ptr().cast(), new.as_mut_ptr().cast());
            // SAFETY: 8 bytes of this program's each.
            let difference = unsafe { bpf_csum_diff(from, 8, to, 8, 0) };
            store(ctx, ND_OPTION_AT, &new);
            // SAFETY: the context of this run. The sum's place was loaded past.
            unsafe { bpf_l4_csum_replace(ctx.skb.skb, ND_SUM_AT, 0, difference as u64, 0) };
        }
    }
    source(ctx, held);
}

/// An advert leaves from the link address of its virtual router.
#[inline(always)]
fn advert(ctx: &TcContext, vrid_at: u32, block: u8) {
    let Some(vrid) = load::<u8>(ctx, vrid_at) else {
        return;
    };
    let mac = [
        u16::from_ne_bytes([0, 0]),
        u16::from_ne_bytes([0x5e, 0]),
        u16::from_ne_bytes([block, vrid]),
    ];
    if let Some(held) = LINKS.get(linked(mac, ifindex(ctx)))
        && held.ifindex != 0
    {
        source(ctx, held);
    }
}

/// The link address that goes with an address on the interface that the packet leaves by.
#[inline(always)]
fn of_address(ctx: &TcContext, address: &Addr16) -> Option<&'static GroupLink> {
    let index = leased(address) >> SLOT_BITS;
    if index == 0 {
        return None;
    }
    LINKS.get(index).filter(|held| held.ifindex == ifindex(ctx))
}

#[inline(always)]
fn source(ctx: &TcContext, held: &GroupLink) {
    if held.flags & link::SOURCE != 0 {
        let mac = held.mac;
        store(ctx, SOURCE_AT, &mac);
    }
}

#[inline(always)]
fn ifindex(ctx: &TcContext) -> u32 {
    // SAFETY: the context of this run.
    unsafe { (&raw const (*ctx.skb.skb).ifindex).read_volatile() }
}

#[inline(always)]
fn load<T: Copy + Default>(ctx: &TcContext, at: u32) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the context of this run, and memory of the size that is passed along; every `T` here is integers.
    let code = unsafe {
        bpf_skb_load_bytes(
            ctx.skb.skb.cast(),
            at,
            (&raw mut value).cast(),
            size_of::<T>() as u32,
        )
    };
    (code == 0).then_some(value)
}

#[inline(always)]
fn store<T: Copy>(ctx: &TcContext, at: u32, value: &T) {
    // SAFETY: as in `load`. What the helper refuses stays as it is.
    unsafe {
        bpf_skb_store_bytes(
            ctx.skb.skb,
            at,
            (&raw const *value).cast(),
            size_of::<T>() as u32,
            0,
        )
    };
}
