//! The eBPF programs: `weir_xdp` at the driver, `weir_steer` at socket lookup.
//!
//! Owns the entry points and the one place where an outcome becomes a verdict. Decides nothing about a packet: that is
//! `weir-fastpath`, over the maps that [`maps`] declares and [`kernel`] reads. Maps are filled, sized, pinned and read by
//! `weir-datapath`.
//!
//! Built for `bpfel-unknown-none` by `cargo xtask build`. For any other target it is an empty program, so that the
//! workspace checks without the BPF toolchain; the modules are checked along.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    not(target_arch = "bpf"),
    allow(dead_code, reason = "the kernel calls the entry points, the host does not")
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "aya's macros repeat the entry points without their documentation"
)]

mod kernel;
mod maps;
mod steer;

use aya_ebpf::{
    bindings::{sk_action, xdp_action},
    helpers::generated::bpf_redirect,
    macros::{sk_lookup, xdp},
    programs::{SkLookupContext, XdpContext},
};
use weir_abi::Verdict;
use weir_fastpath::{Outcome, Window, handle};

use crate::kernel::Kernel;

/// Balances what is for an L4 service, and passes on what is not.
#[xdp]
pub fn weir_xdp(ctx: XdpContext) -> u32 {
    // SAFETY: packet memory between the two is the program's alone while it runs; the verifier checks every access. The
    // context is read once: pointers read anew would carry no proof.
    let frame = unsafe { Window::from_raw(ctx.data() as *mut u8, ctx.data_end() as *mut u8) };
    let outcome = handle(frame, &mut Kernel::new(&ctx));
    verdict(&ctx, outcome)
}

/// Gives connections to L7 services to the relay's sockets.
#[sk_lookup]
pub fn weir_steer(ctx: SkLookupContext) -> u32 {
    match steer::steer(&ctx) {
        steer::Steered::Socket | steer::Steered::NotOurs => sk_action::SK_PASS,
        steer::Steered::SocketGone => sk_action::SK_DROP,
    }
}

/// The one place where an outcome becomes a verdict.
#[inline(always)]
fn verdict(ctx: &XdpContext, outcome: Outcome) -> u32 {
    match outcome.reason.verdict() {
        Verdict::Pass => xdp_action::XDP_PASS,
        Verdict::Drop => xdp_action::XDP_DROP,
        // Out where it came in: no second device is involved.
        Verdict::Forward if outcome.egress as usize == ctx.ingress_ifindex() => xdp_action::XDP_TX,
        // SAFETY: a helper without pointers; it returns the verdict.
        Verdict::Forward => unsafe { bpf_redirect(outcome.egress, 0) as u32 },
    }
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
