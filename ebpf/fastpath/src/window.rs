//! The only door to packet memory: a window onto a frame, and headers that were proved to lie in it.
//!
//! Owns the bounds checks, and all of this crate's `unsafe`. Knows no protocol: [`crate::parse`] and [`crate::rewrite`]
//! say which bytes mean what.
//!
//! In the kernel a window is `ctx.data() .. ctx.data_end()`, and the verifier follows every access. It accepts an access
//! only if it was compared with `data_end` *through the same register*, so a header is checked once, as a whole
//! ([`Window::header`]), and read at offsets that are constants ([`Header::get`], checked at compile time).

use core::{marker::PhantomData, mem::size_of};

/// How far into a frame a window may begin. It bounds what the verifier must believe about a computed offset.
pub const MAX_OFFSET: usize = 0x3ff;

/// Plain words: any bytes are a value, and a value is only bytes.
///
/// # Safety
/// The type must have neither padding nor invalid bit patterns.
pub unsafe trait Plain: Copy {}
// SAFETY: integers and arrays of them have no padding, and every bit pattern is a value.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// A part of a frame, from some byte to the frame's end. Copies see and change the same bytes.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    start: *mut u8,
    end: *mut u8,
    frame: PhantomData<&'a mut [u8]>,
}

impl<'a> Window<'a> {
    /// A window onto a frame in ordinary memory.
    pub fn new(frame: &'a mut [u8]) -> Self {
        let range = frame.as_mut_ptr_range();
        Self {
            start: range.start,
            end: range.end,
            frame: PhantomData,
        }
    }

    /// A window onto packet memory of the kernel, as `ctx.data()` and `ctx.data_end()` give it.
    ///
    /// # Safety
    /// `start .. end` must be readable and writable for `'a`, and nothing else may hold a reference into it. In the
    /// kernel the verifier proves the first; the second holds as long as one program run makes one window.
    #[inline(always)]
    pub const unsafe fn from_raw(start: *mut u8, end: *mut u8) -> Self {
        Self {
            start,
            end,
            frame: PhantomData,
        }
    }

    /// Bytes from here to the end of the frame.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end as usize - self.start as usize
    }

    /// Whether nothing is left.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first `N` bytes, if the frame has them.
    #[inline(always)]
    pub fn header<const N: usize>(&self) -> Option<Header<'a, N>> {
        // On the host the sum cannot wrap: no object lies within N bytes of the end of the address space. In the kernel
        // the verifier knows both as packet pointers.
        if self.start as usize + N > self.end as usize {
            return None;
        }
        Some(Header {
            start: self.start,
            frame: PhantomData,
        })
    }

    /// The window that begins `offset` bytes further. None beyond [`MAX_OFFSET`]; whether it still lies in the frame is
    /// asked by [`Self::header`].
    #[inline(always)]
    pub fn skip(&self, offset: usize) -> Option<Self> {
        if is_known(offset) {
            // A number that LLVM knows needs no proof at run time, and keeps its place in the addresses of what follows.
            return (offset <= MAX_OFFSET).then_some(Self {
                start: self.start.wrapping_add(offset),
                ..*self
            });
        }
        let offset = opaque(offset);
        if offset > MAX_OFFSET {
            return None;
        }
        let start = opaque_pointer(self.start.wrapping_add(offset));
        Some(Self {
            start,
            end: self.end,
            frame: PhantomData,
        })
    }
}

/// `N` bytes that lie in the frame.
#[derive(Clone, Copy)]
pub struct Header<'a, const N: usize> {
    start: *mut u8,
    frame: PhantomData<&'a mut [u8]>,
}

impl<const N: usize> Header<'_, N> {
    /// The value at byte `AT`, as it lies in memory (network order where the protocol says so).
    #[inline(always)]
    pub fn get<T: Plain, const AT: usize>(&self) -> T {
        const { assert!(AT + size_of::<T>() <= N, "the field lies in the header") };
        // SAFETY: `header` proved N bytes to be in the frame, and the field ends before them; T is plain.
        unsafe { read(self.start.wrapping_add(AT).cast()) }
    }

    /// Writes the value at byte `AT`, as it is to lie in memory.
    #[inline(always)]
    pub fn set<T: Plain, const AT: usize>(&self, value: T) {
        const { assert!(AT + size_of::<T>() <= N, "the field lies in the header") };
        // SAFETY: as in `get`. No reference into the frame exists: windows and headers only ever hold raw pointers, and
        // they borrow the frame for themselves alone.
        unsafe { write(self.start.wrapping_add(AT).cast(), value) }
    }
}

/// The kernel's JIT takes loads and stores of any alignment from packet memory. `read_unaligned` would be split into
/// bytes by LLVM, which knows nothing of that.
///
/// # Safety
/// `at` must be readable for the size of `T`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn read<T: Plain>(at: *const T) -> T {
    // SAFETY: the caller's; alignment is the verifier's business, see above.
    unsafe { at.read() }
}

/// # Safety
/// `at` must be writable for the size of `T`.
#[cfg(target_arch = "bpf")]
#[inline(always)]
unsafe fn write<T: Plain>(at: *mut T, value: T) {
    // SAFETY: the caller's; alignment is the verifier's business, see `read`.
    unsafe { at.write(value) }
}

/// # Safety
/// `at` must be readable for the size of `T`.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn read<T: Plain>(at: *const T) -> T {
    // SAFETY: the caller's.
    unsafe { at.read_unaligned() }
}

/// # Safety
/// `at` must be writable for the size of `T`.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
unsafe fn write<T: Plain>(at: *mut T, value: T) {
    // SAFETY: the caller's.
    unsafe { at.write_unaligned(value) }
}

/// Makes LLVM forget what it knows about `x`, so that it neither computes it a second time nor drops the check that
/// follows: check and access then use one register, as the verifier wants. One move instruction; an empty template
/// would leave two line records for one instruction, which the kernel refuses.
#[inline(always)]
pub fn opaque(x: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x;
        // SAFETY: moves a register onto itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) x, options(pure, nomem, nostack, preserves_flags))
        };
        x
    }
    #[cfg(not(target_arch = "bpf"))]
    x
}

/// Whether LLVM knows the number when it compiles this very place.
#[inline(always)]
const fn is_known(x: usize) -> bool {
    #[cfg(target_arch = "bpf")]
    {
        core::intrinsics::is_val_statically_known(x)
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        _ = x;
        false
    }
}

/// Makes the *verifier* forget what it knows about `x`, so that ways through the program that differ only in an offset
/// meet again and are not followed one by one to the end: with six extension headers of several kinds, that is the
/// difference between half a million steps and a tenth of it. What is forgotten must be bounded again before it is used
/// as an offset ([`Window::skip`] does).
///
/// `noise` is any number that came from the packet. Taken in and out again it changes nothing, but the verifier, which
/// follows bits and not equations, is left with a number of which it knows no more than of `noise`.
#[inline(always)]
pub fn forget(x: usize, noise: usize) -> usize {
    opaque(x ^ noise) ^ noise
}

/// [`opaque`] for a pointer.
#[inline(always)]
fn opaque_pointer(x: *mut u8) -> *mut u8 {
    #[cfg(target_arch = "bpf")]
    {
        let mut x = x;
        #[allow(
            clippy::pointers_in_nomem_asm_block,
            reason = "the pointer itself is moved, nothing is read through it"
        )]
        // SAFETY: moves a register onto itself.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) x, options(pure, nomem, nostack, preserves_flags))
        };
        x
    }
    #[cfg(not(target_arch = "bpf"))]
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_all_there_or_not_at_all() {
        let mut frame = [1u8, 2, 3, 4, 5];
        let w = Window::new(&mut frame);
        assert_eq!(w.len(), 5);
        assert!(w.header::<6>().is_none());
        let h = w.header::<5>().unwrap();
        assert_eq!(h.get::<u16, 3>(), u16::from_ne_bytes([4, 5]));
        h.set::<u16, 3>(u16::from_ne_bytes([8, 9]));
        assert_eq!(
            w.skip(3).unwrap().header::<2>().unwrap().get::<[u8; 2], 0>(),
            [8, 9]
        );
        assert_eq!(frame, [1, 2, 3, 8, 9]);
    }

    #[test]
    fn beyond_the_end_there_is_nothing() {
        let mut frame = [0u8; 20];
        let w = Window::new(&mut frame);
        assert!(w.skip(20).unwrap().header::<0>().is_some());
        assert!(w.skip(20).unwrap().header::<1>().is_none());
        assert!(w.skip(21).unwrap().header::<0>().is_none());
        assert!(w.skip(MAX_OFFSET + 1).is_none());
    }
}
