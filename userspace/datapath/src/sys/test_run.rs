//! Running a program on a packet in memory.

use std::{io, os::fd::AsFd};

use super::{address, address_mut, bpf, cmd, number};

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// Words of `struct __sk_buff`, as far as they are of interest: there are more, which are 0.
const SK_BUFF_WORDS: usize = 11;
/// Its word `mark`.
const SK_BUFF_MARK: usize = 2;
/// Its word `ifindex`.
const SK_BUFF_IFINDEX: usize = 10;

/// Runs a tc program once on a frame that comes in by an interface, in memory alone. Returns the mark that it then has.
pub(crate) fn run_classifier(program: impl AsFd, frame: &[u8], ifindex: u32) -> io::Result<u32> {
    let mut context = [0_u32; SK_BUFF_WORDS];
    if let Some(word) = context.get_mut(SK_BUFF_IFINDEX) {
        *word = ifindex;
    }
    let mut out = [0_u32; 64];
    let mut attr = TestRunAttr {
        program: number(program),
        data_size_in: u32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_in: address(frame),
        repeat: 1,
        ctx_size_in: size_of_val(&context) as u32,
        ctx_in: address(&context),
        ctx_size_out: size_of_val(&out) as u32,
        ctx_out: address_mut(&mut out),
        ..TestRunAttr::default()
    };
    // SAFETY: TestRunAttr is the `BPF_PROG_TEST_RUN` member; the kernel reads the frame and the context, whose sizes are
    // passed along, and writes at most `ctx_size_out` bytes of the context to `out`.
    unsafe { bpf(cmd::PROG_TEST_RUN, &mut attr) }?;
    Ok(out.get(SK_BUFF_MARK).copied().unwrap_or_default())
}
