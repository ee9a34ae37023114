//! Programs for measuring: the least that XDP can do, and one that hands a fresh frame to another program, run after run.
//!
//! The kernel repeats a test run on the frame as the last run left it, so a program that changes its frame would see
//! another one each time. [`Refill`] writes the headers anew, picks a flow, and tail-calls the program that is measured;
//! the same with [`bare`] behind it is the floor. A few instructions, given to bpf(2) by hand: they need no compiler, and
//! they never change with one.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use nix::libc;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;

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

fn load(program: &[u64]) -> Result<OwnedFd> {
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
        prog_flags: 0,
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

/// One instruction: operation, destination and source register, offset, immediate.
const fn insn(op: u8, dst: u8, src: u8, offset: i16, imm: u32) -> u64 {
    op as u64 | (dst as u64) << 8 | (src as u64) << 12 | (offset as u16 as u64) << 16 | (imm as u64) << 32
}

/// `XDP_TX`, and no more: the program that costs the least.
///
/// # Errors
/// No privilege.
pub fn bare() -> Result<OwnedFd> {
    load(&[insn(0xb7, 0, 0, 0, 3), insn(0x95, 0, 0, 0, 0)])
}

/// A program that gives another one a fresh frame of one of many flows.
#[derive(Debug)]
pub struct Refill {
    program: OwnedFd,
    /// Holds the program behind it.
    _target: OwnedFd,
    frame: Vec<u8>,
}

impl Refill {
    /// Loads it. `frame`: what it writes, its first 72 bytes and in whole words. `flow`: where the source port and the
    /// last byte of the source address lie, if flows are to vary, and how many there are: a power of two up to 2²⁴.
    ///
    /// # Errors
    /// No privilege, or a frame that is too short.
    pub fn load(target: BorrowedFd<'_>, frame: &[u8], flows: Option<(usize, usize, u32)>) -> Result<Self> {
        const WRITTEN: usize = 72;
        ensure!(frame.len() >= WRITTEN, "a frame of {} bytes", frame.len());
        let mut create = MapCreate {
            map_type: BPF_MAP_TYPE_PROG_ARRAY,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
        };
        let map = descriptor(bpf(BPF_MAP_CREATE, &mut create).context("a program array")?)?;
        let (key, value) = (0u32, target.as_raw_fd() as u32);
        let mut update = MapUpdate {
            map_fd: map.as_raw_fd() as u32,
            reserved: 0,
            key: &raw const key as u64,
            value: &raw const value as u64,
            flags: 0,
        };
        bpf(BPF_MAP_UPDATE_ELEM, &mut update).context("write to the program array")?;

        // r6 = context; r7 = data; leave unless the words to write lie before data_end.
        let mut code = vec![
            insn(0xbf, 6, 1, 0, 0),
            insn(0x61, 7, 1, 0, 0),
            insn(0x61, 3, 1, 4, 0),
            insn(0xbf, 4, 7, 0, 0),
            insn(0x07, 4, 0, 0, WRITTEN as u32),
        ];
        let leave_at = code.len();
        code.push(0);
        for (word, offset) in frame.chunks_exact(4).zip((0..WRITTEN as i16).step_by(4)) {
            code.push(insn(
                0x62,
                7,
                0,
                offset,
                u32::from_le_bytes([word[0], word[1], word[2], word[3]]),
            ));
        }
        if let Some((port_at, address_at, count)) = flows {
            // r0 = random & mask; low half into the port, the rest into the address.
            code.extend([
                insn(0x85, 0, 0, 0, 7),
                insn(0x57, 0, 0, 0, count - 1),
                insn(0x6b, 7, 0, port_at as i16, 0),
                insn(0x77, 0, 0, 0, 16),
                insn(0x73, 7, 0, address_at as i16, 0),
            ]);
        }
        code.extend([
            insn(0xbf, 1, 6, 0, 0),
            // r2 = the map (BPF_PSEUDO_MAP_FD), r3 = 0, tail call.
            insn(0x18, 2, 1, 0, map.as_raw_fd() as u32),
            0,
            insn(0xb7, 3, 0, 0, 0),
            insn(0x85, 0, 0, 0, 12),
        ]);
        code[leave_at] = insn(0x2d, 4, 3, (code.len() - leave_at - 1) as i16, 0);
        code.extend([insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)]);
        Ok(Self {
            program: load(&code)?,
            _target: map,
            frame: frame.to_vec(),
        })
    }

    /// Runs it `repeat` times; the last verdict.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn run(&self, repeat: u32) -> Result<u32> {
        let mut run = TestRun {
            prog_fd: self.program.as_fd().as_raw_fd() as u32,
            data_size_in: self.frame.len() as u32,
            data_in: self.frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        bpf(BPF_PROG_TEST_RUN, &mut run).context("run a program")?;
        Ok(run.retval)
    }
}
