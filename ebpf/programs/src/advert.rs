//! Adverts of virtual routers on their way to control: the frame with the time at which it arrived.
//!
//! Owns the copy into the ring buffer `ADVERTS`. Which frames those are is `weir_fastpath::pipeline::lease`'s; nothing in them
//! is believed here. What finds no room goes up to the stack, where control's sockets take it.

use core::mem::size_of;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_ktime_get_ns, bpf_ringbuf_output, bpf_xdp_get_buff_len, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use weir_abi::{
    AdvertRecord,
    maps::advert::MOST,
    spec::{SCRATCH_ADVERT_AT, SCRATCH_BYTES},
};
use weir_fastpath::window::opaque;

use crate::maps::{ADVERTS, SCRATCH};

const RECORD: usize = size_of::<AdvertRecord>();
const BYTES: usize = MOST as usize;

/// As it goes into the ring buffer.
#[repr(C)]
struct Item {
    record: AdvertRecord,
    bytes: [u8; BYTES],
}

/// Copies the frame. Whether there was room.
#[inline(always)]
pub(crate) fn hand_out(ctx: &XdpContext) -> bool {
    const {
        assert!(
            size_of::<Item>() + SCRATCH_ADVERT_AT == SCRATCH_BYTES && SCRATCH_ADVERT_AT.is_multiple_of(8)
        );
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: the value has these bytes there, aligned to 8, and every bit pattern is a value; they are this CPU's, and no
    // other program of ours runs on it until this one and the stages behind it are through.
    let item = unsafe { &mut *scratch.cast::<u8>().add(SCRATCH_ADVERT_AT).cast::<Item>() };
    // SAFETY: a helper without arguments.
    item.record.time = unsafe { bpf_ktime_get_ns() };
    item.record.ifindex = ctx.ingress_ifindex() as u32;
    let md = ctx.as_ptr().cast();
    // SAFETY: the context of this run.
    let len = opaque(unsafe { bpf_xdp_get_buff_len(md) } as usize);
    if len == 0 || len > BYTES {
        return false;
    }
    item.record.len = len as u32;
    // SAFETY: the context of this run, and `len` bytes of the item, at most all of it.
    if unsafe { bpf_xdp_load_bytes(md, 0, item.bytes.as_mut_ptr().cast(), len as u32) } != 0 {
        return false;
    }
    let len = opaque(RECORD + len);
    if len > size_of::<Item>() {
        return false;
    }
    // SAFETY: the ring buffer, and `len` bytes of the item, at most all of it.
    let result = unsafe {
        bpf_ringbuf_output(
            (&raw const ADVERTS).cast_mut().cast(),
            (&raw mut *item).cast(),
            len as u64,
            0,
        )
    };
    result == 0
}
