//! Traffic out of nothing: frames that XDP sends from a program of a few instructions, and a place where they end.
//!
//! The kernel runs a program on frames of its own (`BPF_F_TEST_XDP_LIVE_FRAMES`) and carries its verdict out, which costs
//! 35 ns per frame: no socket and no other generator comes near it. Frames are recycled as whoever had them last left
//! them, so the program writes every byte anew. A veth takes redirected frames only while the device at its other end
//! polls by NAPI. What is done with the traffic in between, and what it costs, is the bench's matter.

use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;

use crate::raw::{attach, insn, load, run_live};

/// Bytes of a frame: with the checksum that the wire adds one of 64 bytes would be 4 shorter; here it is 64 without.
pub const LEN: usize = 64;

/// A source of frames that differ in their source port alone.
#[derive(Debug)]
pub struct Source {
    program: OwnedFd,
    frame: [u8; LEN],
}

impl Source {
    /// Frames like `frame` out of an interface of the thread's network namespace, of `flows` flows drawn at random: a
    /// power of two up to 2¹⁵. `ports_at`: where the source port lies; ports are from 32 768 on. The transport checksum
    /// must not cover them: UDP's is 0.
    ///
    /// # Errors
    /// No such interface, no privilege, or a number of flows that is none.
    pub fn load(interface: &str, frame: [u8; LEN], ports_at: usize, flows: u32) -> Result<Self> {
        ensure!(
            flows.is_power_of_two() && flows <= 1 << 15,
            "{flows} flows: no power of two up to 32768"
        );
        let ifindex = if_nametoindex(interface).with_context(|| format!("index of {interface}"))?;
        // r6 = context, r7 = data; leave unless the frame's bytes lie before data_end.
        let mut code = vec![
            insn(0xbf, 6, 1, 0, 0),
            insn(0x61, 7, 1, 0, 0),
            insn(0x61, 3, 1, 4, 0),
            insn(0xbf, 4, 7, 0, 0),
            insn(0x07, 4, 0, 0, LEN as u32),
        ];
        let leave_at = code.len();
        code.push(0);
        for (word, at) in frame.chunks_exact(4).zip((0..LEN as i16).step_by(4)) {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            code.push(insn(0x62, 7, 0, at, word));
        }
        code.extend([
            // r0 = 32768 + (random & mask), in network order, into the source port.
            insn(0x85, 0, 0, 0, 7),
            insn(0x57, 0, 0, 0, flows - 1),
            insn(0x07, 0, 0, 0, 1 << 15),
            insn(0xdc, 0, 0, 0, 16),
            insn(0x6b, 7, 0, ports_at as i16, 0),
            // bpf_redirect(ifindex, 0)
            insn(0xb7, 1, 0, 0, ifindex),
            insn(0xb7, 2, 0, 0, 0),
            insn(0x85, 0, 0, 0, 23),
            insn(0x95, 0, 0, 0, 0),
        ]);
        code[leave_at] = insn(0x2d, 4, 3, (code.len() - leave_at - 1) as i16, 0);
        code.extend([insn(0xb7, 0, 0, 0, 1), insn(0x95, 0, 0, 0, 0)]);
        Ok(Self {
            program: load(&code, 0)?,
            frame,
        })
    }

    /// Sends this many frames, as fast as they go. Those that the other end has no room for are lost.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn send(&self, count: u32) -> Result<()> {
        run_live(self.program.as_fd(), &self.frame, count)
    }
}

/// A program on an interface that does the same to every frame.
#[derive(Debug)]
pub struct Simple {
    _link: OwnedFd,
}

impl Simple {
    /// Drops, on an interface of the thread's network namespace, until the value is dropped. The driver counts the frames
    /// (`xdp_drops` of `ethtool -S`).
    ///
    /// # Errors
    /// No such interface, no privilege, or another XDP program is there.
    pub fn sink(interface: &str) -> Result<Self> {
        Self::attach(interface, 1)
    }

    /// Passes to the stack likewise.
    ///
    /// # Errors
    /// As [`Self::sink`].
    pub fn pass(interface: &str) -> Result<Self> {
        Self::attach(interface, 2)
    }

    /// Sends everything out of another interface likewise, as frames that a driver received: in memory of their own, which
    /// a copy of what the stack sent has been made into before.
    ///
    /// # Errors
    /// As [`Self::sink`].
    pub fn wire(interface: &str, to: &str) -> Result<Self> {
        let to = if_nametoindex(to).with_context(|| format!("index of {to}"))?;
        let code = [
            // bpf_redirect(to, 0)
            insn(0xb7, 1, 0, 0, to),
            insn(0xb7, 2, 0, 0, 0),
            insn(0x85, 0, 0, 0, 23),
            insn(0x95, 0, 0, 0, 0),
        ];
        Self::run(interface, &code)
    }

    fn attach(interface: &str, verdict: u32) -> Result<Self> {
        Self::run(interface, &[insn(0xb7, 0, 0, 0, verdict), insn(0x95, 0, 0, 0, 0)])
    }

    fn run(interface: &str, code: &[u64]) -> Result<Self> {
        let ifindex = if_nametoindex(interface).with_context(|| format!("index of {interface}"))?;
        let program = load(code, 0)?;
        let link = attach(program.as_fd(), ifindex).with_context(|| format!("XDP at {interface}"))?;
        Ok(Self { _link: link })
    }
}
