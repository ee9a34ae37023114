//! bpf(2) by hand, as far as programs of a few instructions need it.
//!
//! Owns loading them, a program array, running them, and attaching one to an interface. They need no compiler and never
//! change with one, so what is measured with them stays comparable. What they do stands in [`crate::floor`] and
//! [`crate::traffic`].

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::libc;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

const BPF_LINK_CREATE: libc::c_long = 28;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;
/// A program flag: it takes frames in several pieces. Programs that call each other must agree in it.
pub(crate) const HAS_FRAGS: u32 = 1 << 5;

/// The first fields of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The fields of `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The first fields of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The fields of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
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
    reserved: u32,
}

/// The first fields of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the attribute is a live structure of the size that is passed along, laid out as bpf(2) has it; pointers in
    // it are to live buffers of the lengths beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn descriptor(fd: libc::c_long) -> Result<OwnedFd> {
    // SAFETY: the kernel has just made this descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Loads an XDP program. The error carries the verifier's words.
pub(crate) fn load(program: &[u64], flags: u32) -> Result<OwnedFd> {
    let mut log = vec![0u8; 64 * 1024];
    let mut load = Load {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        kern_version: 0,
        prog_flags: flags,
        prog_name: [0; 16],
        prog_ifindex: 0,
        // As aya loads XDP programs: only programs that agree in it may call each other.
        expected_attach_type: BPF_XDP,
    };
    descriptor(bpf(BPF_PROG_LOAD, &mut load).with_context(|| {
        let log = String::from_utf8_lossy(&log);
        format!(
            "load a program of a few instructions (root is needed)\n{}",
            log.trim_end_matches('\0')
        )
    })?)
}

/// Sets all entries of an array to zeros; `size` bytes each, of all CPUs together where each has its own.
pub(crate) fn zero(map: BorrowedFd<'_>, entries: u32, size: usize) -> io::Result<()> {
    let zeros = vec![0_u64; size.div_ceil(8)];
    for index in 0..entries {
        let mut update = MapUpdate {
            map_fd: map.as_raw_fd().cast_unsigned(),
            reserved: 0,
            key: (&raw const index) as u64,
            value: zeros.as_ptr() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut update)?;
    }
    Ok(())
}

/// Deletes all entries of a map with keys.
pub(crate) fn delete_all(map: BorrowedFd<'_>, key_size: usize) -> io::Result<()> {
    let words = key_size.div_ceil(8);
    let map_fd = map.as_raw_fd().cast_unsigned();
    // All keys first: from a key that is deleted the kernel would begin anew, and pass all that is empty once more.
    let mut keys: Vec<Vec<u64>> = Vec::new();
    loop {
        let mut key = vec![0; words];
        // For BPF_MAP_GET_NEXT_KEY the value is the next key; behind no key stands the first.
        let mut next = MapUpdate {
            map_fd,
            reserved: 0,
            key: keys.last().map_or(0, |last| last.as_ptr() as u64),
            value: key.as_mut_ptr() as u64,
            flags: 0,
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &mut next) {
            Ok(_) => keys.push(key),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            Err(e) => return Err(e),
        }
    }
    for key in &keys {
        let mut delete = MapUpdate {
            map_fd,
            reserved: 0,
            key: key.as_ptr() as u64,
            value: 0,
            flags: 0,
        };
        match bpf(BPF_MAP_DELETE_ELEM, &mut delete) {
            Ok(_) => {}
            // A map of sockets names places without one, too.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// One instruction: operation, destination and source register, offset, immediate.
pub(crate) const fn insn(op: u8, dst: u8, src: u8, offset: i16, imm: u32) -> u64 {
    op as u64 | (dst as u64) << 8 | (src as u64) << 12 | (offset as u16 as u64) << 16 | (imm as u64) << 32
}

/// An array of one program.
pub(crate) fn program_array(program: BorrowedFd<'_>) -> Result<OwnedFd> {
    let mut create = MapCreate {
        map_type: BPF_MAP_TYPE_PROG_ARRAY,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
    };
    let map = descriptor(bpf(BPF_MAP_CREATE, &mut create).context("a program array")?)?;
    let (key, value) = (0u32, program.as_raw_fd() as u32);
    let mut update = MapUpdate {
        map_fd: map.as_raw_fd() as u32,
        reserved: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut update).context("write to the program array")?;
    Ok(map)
}

/// Runs a program `repeat` times on one frame, which each run finds as the last one left it; the last verdict.
pub(crate) fn run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32) -> Result<u32> {
    test_run(program, frame, repeat, 0, 0)
}

/// Runs a program on `count` frames that are real: its verdict is carried out, in the thread's network namespace.
pub(crate) fn run_live(program: BorrowedFd<'_>, frame: &[u8], count: u32) -> Result<()> {
    /// Frames that are handed on together, and pages that are recycled: the most that the kernel takes.
    const BATCH: u32 = 256;
    test_run(program, frame, count, BPF_F_TEST_XDP_LIVE_FRAMES, BATCH).map(drop)
}

fn test_run(program: BorrowedFd<'_>, frame: &[u8], repeat: u32, flags: u32, batch_size: u32) -> Result<u32> {
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        data_size_in: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat,
        flags,
        batch_size,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut run).context("run a program")?;
    Ok(run.retval)
}

/// Runs a program on a context alone, which it may change; its verdict.
pub(crate) fn run_context(program: BorrowedFd<'_>, context: &mut [u8]) -> Result<u32> {
    let mut run = TestRun {
        prog_fd: program.as_raw_fd() as u32,
        repeat: 1,
        ctx_size_in: context.len() as u32,
        ctx_size_out: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        ctx_out: context.as_mut_ptr() as u64,
        ..TestRun::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut run).context("run a program")?;
    Ok(run.retval)
}

/// The number that the kernel gives a socket for life (`SO_COOKIE`).
pub(crate) fn socket_cookie(socket: BorrowedFd<'_>) -> Result<u64> {
    let mut cookie = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both point to live values, and `len` says how large the first is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("SO_COOKIE");
    }
    Ok(cookie)
}

/// Attaches a program to an interface of the thread's network namespace, natively, until the value is dropped.
pub(crate) fn attach(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd> {
    let mut create = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    descriptor(bpf(BPF_LINK_CREATE, &mut create).context("attach a program")?)
}
