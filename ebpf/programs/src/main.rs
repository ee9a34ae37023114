//! The eBPF programs: `weir_xdp` at the driver, `weir_steer` at socket lookup, `weir_take` and `weir_arrive` at
//! tc ingress, `weir_leave` at tc egress.
//!
//! Owns the entry points and the one place where an outcome becomes a verdict. Decides nothing about a packet: that is
//! `weir-fastpath`, over the maps that [`maps`] declares and [`kernel`] reads. Maps are filled, sized, pinned and read by
//! `weir-datapath`.
//!
//! Built for `bpfel-unknown-none` by `cargo xtask build`. For any other target it is an empty program, so that the
//! workspace checks without the BPF toolchain; the modules are checked along.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "the kernel calls the entry points, the host does not")
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "aya's macros repeat the entry points without their documentation"
)]

mod advert;
mod capture;
mod cookie;
mod frame;
mod kernel;
mod link;
mod maps;
mod steer;
mod take;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC, sk_action, xdp_action},
    helpers::generated::bpf_redirect,
    macros::{classifier, sk_lookup, xdp},
    programs::{SkLookupContext, TcContext, XdpContext},
};
use weir_abi::{
    Verdict,
    maps::{settings, stage},
};
use weir_fastpath::{
    Outcome, Step,
    pipeline::{
        admit::admit,
        answer::answer,
        cookie::cookie,
        edge::edge,
        forward::{forward, route},
        fragments::fragment,
        full_nat::{full_nat, nat_icmp, nat_new, nat_return, nat_send, nat_take},
        group::{group, keep},
        icmp::icmp,
        internal,
        lease::{advert, gate},
        short,
    },
};

use crate::{
    frame::XdpFrame,
    kernel::Kernel,
    maps::{SETTINGS, STAGES},
};

/// Balances what is for an L4 service, and passes on what is not: the short way.
#[xdp(frags)]
#[inline(always)]
pub fn weir_xdp(ctx: XdpContext) -> u32 {
    // One look at the settings says that there is neither a capture nor a virtual router.
    let flags = SETTINGS.get(0).map_or(0, |now| now.flags);
    if flags & (settings::CAPTURE | settings::LEASES) != 0
        && let Some(step) = before(&ctx, flags)
    {
        return finish(&ctx, step);
    }
    let step = short(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// What comes before the short way.
#[inline(always)]
fn before(ctx: &XdpContext, flags: u32) -> Option<Step> {
    if flags & settings::CAPTURE != 0 {
        capture::before(ctx);
    }
    if flags & settings::LEASES != 0 {
        gate(&mut XdpFrame::new(ctx), &mut Kernel::new(ctx))
    } else {
        None
    }
}

/// Takes apart what the short way does not.
#[xdp(frags)]
pub fn weir_edge(ctx: XdpContext) -> u32 {
    let step = edge(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Takes flows by `full-nat`, towards the backend.
#[xdp(frags)]
pub fn weir_full_nat(ctx: XdpContext) -> u32 {
    let step = full_nat(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Begins flows by `full-nat`.
#[xdp(frags)]
pub fn weir_nat_new(ctx: XdpContext) -> u32 {
    let step = nat_new(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Gives flows by `full-nat` their source ports.
#[xdp(frags)]
pub fn weir_nat_take(ctx: XdpContext) -> u32 {
    let step = nat_take(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Takes ICMP errors about flows by `full-nat`.
#[xdp(frags)]
pub fn weir_nat_icmp(ctx: XdpContext) -> u32 {
    let step = nat_icmp(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Sends packets by `full-nat`.
#[xdp(frags)]
pub fn weir_nat_send(ctx: XdpContext) -> u32 {
    let step = nat_send(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Takes replies by `full-nat`.
#[xdp(frags)]
pub fn weir_nat_return(ctx: XdpContext) -> u32 {
    let step = nat_return(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Forwards what was taken apart by another program.
#[xdp(frags)]
#[inline(always)]
pub fn weir_forward(ctx: XdpContext) -> u32 {
    let step = forward(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Forwards by a way that the kernel's routes are asked for.
#[xdp(frags)]
pub fn weir_route(ctx: XdpContext) -> u32 {
    let step = route(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Takes ICMP and ICMPv6.
#[xdp(frags)]
pub fn weir_icmp(ctx: XdpContext) -> u32 {
    let step = icmp(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Sends later fragments after the first.
#[xdp(frags)]
pub fn weir_fragment(ctx: XdpContext) -> u32 {
    let step = fragment(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Answers packets.
#[xdp(frags)]
pub fn weir_answer(ctx: XdpContext) -> u32 {
    let step = answer(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Hands a packet to whoever captures, once it is known what becomes of it.
#[xdp(frags)]
pub fn weir_capture(ctx: XdpContext) -> u32 {
    capture::emit(&ctx)
}

/// Answers and checks what comes to the relay in a flood of SYNs.
#[xdp(frags)]
pub fn weir_cookie(ctx: XdpContext) -> u32 {
    let step = cookie(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Hands adverts of virtual routers to control.
#[xdp(frags)]
pub fn weir_advert(ctx: XdpContext) -> u32 {
    let step = advert(&mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Takes frames to link addresses of virtual routers.
#[xdp(frags)]
pub fn weir_group(ctx: XdpContext) -> u32 {
    let step = group(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Tells whether TCP is of a connection that this box has.
#[xdp(frags)]
pub fn weir_keep(ctx: XdpContext) -> u32 {
    let step = keep(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// The short way, for what comes from these two.
#[xdp(frags)]
#[inline(always)]
pub fn weir_short(ctx: XdpContext) -> u32 {
    let step = short(&mut XdpFrame::new(&ctx), &mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Counts connections against the limits of their services.
#[xdp(frags)]
pub fn weir_admit(ctx: XdpContext) -> u32 {
    let step = admit(&mut Kernel::new(&ctx));
    finish(&ctx, step)
}

/// Gives connections to L7 services to the relay's sockets.
#[sk_lookup]
pub fn weir_steer(ctx: SkLookupContext) -> u32 {
    steered(steer::steer::<true>(&ctx))
}

/// The same on kernels that do not say which interface a connection comes in by (before Linux 5.17).
#[sk_lookup]
pub fn weir_steer_any(ctx: SkLookupContext) -> u32 {
    steered(steer::steer::<false>(&ctx))
}

#[inline(always)]
fn steered(steered: steer::Steered) -> u32 {
    match steered {
        steer::Steered::Socket | steer::Steered::NotOurs => sk_action::SK_PASS,
        steer::Steered::Refused => sk_action::SK_DROP,
    }
}

/// Takes in packets to addresses that are not on the box, as far as the relay has a use for them.
#[classifier]
pub fn weir_take(ctx: TcContext) -> i32 {
    match take::take(&ctx) {
        // Other programs of the interface, if there are any, have their turn.
        take::Take::Pass => TC_ACT_UNSPEC,
        take::Take::Drop => TC_ACT_SHOT,
    }
}

/// Has what leaves in the name of virtual routers bear their link address.
#[classifier]
pub fn weir_leave(ctx: TcContext) -> i32 {
    link::leave(&ctx);
    // Other programs of the interface, if there are any, have their turn.
    TC_ACT_UNSPEC
}

/// Has the stack take what is to their link address.
#[classifier]
pub fn weir_arrive(ctx: TcContext) -> i32 {
    link::arrive(&ctx);
    TC_ACT_UNSPEC
}

/// Ends a program, or goes on with another.
#[inline(always)]
fn finish(ctx: &XdpContext, step: Step) -> u32 {
    match step {
        Step::Done(outcome) => verdict(ctx, outcome),
        Step::Stage(stage) => {
            go_on(ctx, stage);
            let outcome = internal(&mut Kernel::new(ctx));
            verdict(ctx, outcome)
        }
    }
}

/// Goes on with the program of a stage. Comes back only if there is none.
///
/// The kernel makes a tail call by a constant index a plain jump, and any other an indirect one, which costs several times
/// that where retpolines are used.
#[inline(always)]
fn go_on(ctx: &XdpContext, stage: u32) {
    match stage {
        stage::EDGE => jump::<{ stage::EDGE }>(ctx),
        stage::FULL_NAT => jump::<{ stage::FULL_NAT }>(ctx),
        stage::COOKIE => jump::<{ stage::COOKIE }>(ctx),
        stage::FORWARD => jump::<{ stage::FORWARD }>(ctx),
        stage::ROUTE => jump::<{ stage::ROUTE }>(ctx),
        stage::ANSWER => jump::<{ stage::ANSWER }>(ctx),
        stage::ICMP => jump::<{ stage::ICMP }>(ctx),
        stage::FRAGMENT => jump::<{ stage::FRAGMENT }>(ctx),
        stage::NAT_NEW => jump::<{ stage::NAT_NEW }>(ctx),
        stage::NAT_SEND => jump::<{ stage::NAT_SEND }>(ctx),
        stage::NAT_RETURN => jump::<{ stage::NAT_RETURN }>(ctx),
        stage::NAT_TAKE => jump::<{ stage::NAT_TAKE }>(ctx),
        stage::NAT_ICMP => jump::<{ stage::NAT_ICMP }>(ctx),
        stage::ADMIT => jump::<{ stage::ADMIT }>(ctx),
        stage::ADVERT => jump::<{ stage::ADVERT }>(ctx),
        stage::GROUP => jump::<{ stage::GROUP }>(ctx),
        stage::KEEP => jump::<{ stage::KEEP }>(ctx),
        stage::SHORT => jump::<{ stage::SHORT }>(ctx),
        // `CAPTURE` is called by the one who captures.
        _ => {}
    }
}

#[inline(always)]
fn jump<const STAGE: u32>(ctx: &XdpContext) {
    // SAFETY: the context of this run.
    unsafe { STAGES.tail_call(ctx, STAGE) };
    // What is the same at the end of several ways LLVM would do in one place, by an index that is no constant.
    #[cfg(target_arch = "bpf")]
    // SAFETY: no instructions.
    unsafe {
        core::arch::asm!("/* no program of stage {0} */", const STAGE, options(nomem, nostack, preserves_flags));
    }
}

/// The one place where an outcome becomes a verdict.
#[inline(always)]
fn verdict(ctx: &XdpContext, outcome: Outcome) -> u32 {
    let verdict = match outcome.reason.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        Verdict::Reply => xdp_action::XDP_TX,
        // Out where it came in: no second device is involved.
        Verdict::Forward if outcome.egress as usize == ctx.ingress_ifindex() => xdp_action::XDP_TX,
        // SAFETY: a helper without pointers; it returns the verdict.
        Verdict::Forward => unsafe { bpf_redirect(outcome.egress, 0) as u32 },
    };
    capture::after(ctx, outcome, verdict);
    verdict
}

/// Some helpers are open to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: a program that could panic would be refused by the verifier, and is by the tests.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
