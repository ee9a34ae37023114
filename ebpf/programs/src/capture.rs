//! A capture: the frame as it came in, kept until it is known what became of it.
//!
//! Owns the copy in `SCRATCH` and the way into the ring buffer `CAPTURED`. Which packets are kept is
//! `weir_fastpath::capture`'s; who asks for them is `weir capture`, by `CAPTURE` and a bit of `SETTINGS`.
//!
//! [`before`] runs where a frame enters (`weir_xdp`), [`after`] where an outcome has become a verdict, in whatever program
//! that is: a stage runs on the same CPU as the program before it, and so finds the same copy. What the filter takes is
//! handed out by a stage of its own ([`emit`]), which gives the verdict back: the verifier then follows it once, and it
//! needs no stack of the programs that decide. Without a capture all of it costs the tests of one bit.

use core::mem::size_of;

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_ringbuf_output, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
    },
    programs::XdpContext,
};
use weir_abi::{
    CaptureRecord, Note,
    maps::{capture::SNAP, settings, stage},
    spec::SCRATCH_ADVERT_AT,
};
use weir_fastpath::{
    Outcome,
    capture::{matches, sampled, wants},
    window::{forget, opaque},
};

use crate::{
    kernel::{bump, seconds},
    maps::{CAPTURE, CAPTURED, SCRATCH, SETTINGS, STAGES},
};

const RECORD: usize = size_of::<CaptureRecord>();
const BYTES: usize = SNAP as usize;
const _: () = assert!(RECORD + BYTES == SCRATCH_ADVERT_AT);

/// Where the verdict's number begins above the reason's.
const VERDICT_SHIFT: u32 = 16;

/// What `SCRATCH` holds: the record, and the frame's beginning behind it, as both go into the ring buffer.
/// `record.captured` is 0 while there is no frame of this run in it. On the way to the stage `record.reserved` is what the
/// program would have returned, and the verdict's number stands above the reason's.
#[repr(C)]
struct Kept {
    record: CaptureRecord,
    bytes: [u8; BYTES],
}

/// Whether a capture may be going on.
#[inline(always)]
fn is_on() -> bool {
    SETTINGS
        .get(0)
        .is_some_and(|now| now.flags & settings::CAPTURE != 0)
}

#[inline(always)]
fn kept() -> Option<&'static mut Kept> {
    let kept = SCRATCH.get_ptr_mut(0)?.cast::<Kept>();
    // SAFETY: the value has exactly these bytes and 8-byte alignment, and every bit pattern is a value; it is this CPU's,
    // and no other program of ours runs on it until this one and the stages behind it are through.
    Some(unsafe { &mut *kept })
}

/// Keeps the frame, before anything is changed in it. Called where [`settings::CAPTURE`] is set.
#[inline(always)]
pub(crate) fn before(ctx: &XdpContext) {
    let Some(kept) = kept() else { return };
    kept.record.captured = 0;
    let Some(filter) = CAPTURE.get(0) else { return };
    if filter.until < seconds() {
        return;
    }
    let ctx = ctx.as_ptr().cast();
    // SAFETY: the context of this run.
    let frame_len = unsafe { bpf_xdp_get_buff_len(ctx) } as u32;
    let len = opaque(frame_len.min(filter.snap) as usize);
    if len == 0 || len > BYTES {
        return;
    }
    // SAFETY: the context of this run, and `len` bytes of the copy, at most all of it.
    if unsafe { bpf_xdp_load_bytes(ctx, 0, kept.bytes.as_mut_ptr().cast(), len as u32) } == 0 {
        kept.record.frame_len = frame_len;
        kept.record.captured = len as u32;
    }
}

/// Goes on with the stage that hands the frame out, if it was kept. Comes back if it was not.
///
/// The verifier is made to forget what it knows of the outcome: the many ways through a program that end here are then
/// one, and what follows is followed once.
#[inline(always)]
pub(crate) fn after(ctx: &XdpContext, outcome: Outcome, verdict: u32) {
    if !is_on() {
        return;
    }
    let noise = ctx.ingress_ifindex();
    let what = forget(
        outcome.reason as usize | (outcome.reason.verdict() as usize) << VERDICT_SHIFT,
        noise,
    );
    let (egress, verdict) = (
        forget(outcome.egress as usize, noise),
        forget(verdict as usize, noise),
    );
    let Some(kept) = kept() else { return };
    if kept.record.captured == 0 {
        return;
    }
    kept.record.reason = what as u32;
    kept.record.egress = egress as u32;
    kept.record.reserved = verdict as u32;
    // SAFETY: the context of this run. Comes back only if there is no such program.
    unsafe { STAGES.tail_call(ctx, stage::CAPTURE) };
    bump(Note::CaptureLost.index());
}

/// Hands the frame out; the verdict that was given.
#[inline(always)]
pub(crate) fn emit(ctx: &XdpContext) -> u32 {
    // Never none: the program before this one had it.
    let Some(kept) = kept() else {
        return xdp_action::XDP_ABORTED;
    };
    let verdict = kept.record.reserved;
    let what = kept.record.reason;
    let captured = kept.record.captured as usize;
    // A capture that begins between the two ends of a run must not find the frame of another.
    kept.record.captured = 0;
    let Some(filter) = CAPTURE.get(0) else {
        return verdict;
    };
    let reason = what & ((1 << VERDICT_SHIFT) - 1);
    if !wants(filter, reason, what >> VERDICT_SHIFT) {
        return verdict;
    }
    // SAFETY: a helper without arguments.
    if !sampled(filter, unsafe { bpf_get_prandom_u32() }) || !matches(filter, &kept.bytes, captured) {
        return verdict;
    }
    // SAFETY: a helper without arguments.
    kept.record.time = unsafe { bpf_ktime_get_ns() };
    kept.record.reason = reason;
    kept.record.ifindex = ctx.ingress_ifindex() as u32;
    kept.record.reserved = 0;
    kept.record.captured = captured as u32;
    let len = opaque(RECORD + captured);
    if len > SCRATCH_ADVERT_AT {
        return verdict;
    }
    // SAFETY: the ring buffer, and `len` bytes of the value, at most all of it.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const CAPTURED).cast_mut().cast(),
            (&raw mut *kept).cast(),
            len as u64,
            0,
        )
    };
    kept.record.captured = 0;
    if result != 0 {
        bump(Note::CaptureLost.index());
    }
    verdict
}
