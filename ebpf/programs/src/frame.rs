//! A frame of the driver as `weir-fastpath` wants it.
//!
//! Owns the helpers that measure, grow and cut a frame. Looks at no byte of it.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len},
    programs::XdpContext,
};
use weir_fastpath::{Frame, Window};

/// The frame of one run.
pub(crate) struct XdpFrame {
    ctx: *mut xdp_md,
}

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self {
            ctx: ctx.as_ptr().cast(),
        }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn window(&mut self) -> Window<'_> {
        // SAFETY: the context of this run; both are fields of it.
        let (data, end) = unsafe { ((*self.ctx).data, (*self.ctx).data_end) };
        // SAFETY: packet memory between the two is the program's alone while it runs; the verifier checks every access. A
        // window borrows the frame, so none is left when `move_front` or `cut` makes its pointers void.
        unsafe { Window::from_raw(data as usize as *mut u8, end as usize as *mut u8) }
    }

    #[inline(always)]
    fn whole(&self) -> impl Fn() -> usize + 'static {
        let ctx = self.ctx;
        // SAFETY: the context of this run.
        move || unsafe { bpf_xdp_get_buff_len(ctx) as usize }
    }

    #[inline(always)]
    fn move_front(&mut self, bytes: i32) -> bool {
        // SAFETY: the context of this run.
        unsafe { bpf_xdp_adjust_head(self.ctx, bytes) == 0 }
    }

    #[inline(always)]
    fn cut(&mut self, len: u32) -> bool {
        let whole = self.whole()() as u32;
        // SAFETY: the context of this run.
        len <= whole && unsafe { bpf_xdp_adjust_tail(self.ctx, len.wrapping_sub(whole) as i32) == 0 }
    }
}
