//! A frame that may be looked at, and given or relieved of bytes at its ends.
//!
//! Owns the trait alone. In the kernel `weir-ebpf` implements it with helpers, on the host a vector does.

use crate::window::Window;

/// A frame as the driver or a test hands it over.
pub trait Frame {
    /// Its bytes; of a frame in several buffers those of the first, in which all headers lie.
    fn window(&mut self) -> Window<'_>;
    /// Gives its length in bytes, of all its buffers. Asked only when the first does not hold the whole packet, since in
    /// the kernel it is a call.
    fn whole(&self) -> impl Fn() -> usize + 'static;
    /// Takes `bytes` off its front; negative: adds as many, whose content is anything. False: it can't be done, and
    /// nothing has changed.
    fn move_front(&mut self, bytes: i32) -> bool;
    /// Cuts it to `len` bytes, not more than it has. False: it can't be done.
    fn cut(&mut self, len: u32) -> bool;
}

#[cfg(any(test, feature = "std"))]
impl Frame for std::vec::Vec<u8> {
    fn window(&mut self) -> Window<'_> {
        Window::new(self)
    }

    fn whole(&self) -> impl Fn() -> usize + 'static {
        let len = self.len();
        move || len
    }

    fn move_front(&mut self, bytes: i32) -> bool {
        match usize::try_from(bytes) {
            // The kernel leaves an Ethernet header at least.
            Ok(off) if off + 14 <= self.len() => drop(self.drain(..off)),
            Ok(_) => return false,
            Err(_) => {
                let more = bytes.unsigned_abs() as usize;
                self.splice(..0, std::iter::repeat_n(0, more));
            }
        }
        true
    }

    fn cut(&mut self, len: u32) -> bool {
        let fits = len as usize <= self.len();
        if fits {
            self.truncate(len as usize);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use super::Frame;

    #[test]
    fn a_frame_grows_and_shrinks_at_its_ends() {
        let mut frame = vec![7u8; 20];
        assert!(frame.move_front(-4));
        assert_eq!((frame.len(), frame[4]), (24, 7));
        assert!(frame.move_front(4) && frame.cut(16));
        assert_eq!(frame, [7; 16]);
        assert!(!frame.move_front(3), "an Ethernet header stays");
        assert!(!frame.cut(17));
    }
}
