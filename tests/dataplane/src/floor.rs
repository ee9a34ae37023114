//! Programs for measuring: the least that XDP can do, and one that hands a fresh frame to another program, run after run.
//!
//! The kernel repeats a test run on the frame as the last run left it, so a program that changes its frame would see
//! another one each time. [`Refill`] gives the frame its length back, writes the headers anew, picks a flow, and
//! tail-calls the program that is measured; the same with [`bare`] behind it is the floor.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Result, ensure};

use crate::raw::{HAS_FRAGS, insn, load, program_array, run};

/// `XDP_TX`, and no more: the program that costs the least.
///
/// # Errors
/// No privilege.
pub fn bare() -> Result<OwnedFd> {
    load(&[insn(0xb7, 0, 0, 0, 3), insn(0x95, 0, 0, 0, 0)], 0)
}

/// Which flows a [`Refill`] hands on: one of many, drawn anew for each frame. The number's low 16 bits become the
/// client's port as it lies in the packet, the rest the last byte of the client's address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spread {
    /// Where both ports lie.
    pub ports_at: usize,
    /// Where the last word of the client's address lies.
    pub address_at: usize,
    /// The client is the frame's destination.
    pub reply: bool,
    /// How many there are: a power of two up to 2²⁴.
    pub flows: u32,
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
    /// Bytes that are written anew: all headers, and what an encapsulated packet's would be.
    const WRITTEN: usize = 74;

    /// Loads it. `frame`: what it writes. `spread`: how flows vary, if they do. `resizes`: the program behind it may
    /// change the frame's length at its head; whoever compares two passes the same for both, since it costs something.
    ///
    /// The header's words are written whole, in the places where a program reads them: a read that had to gather its
    /// bytes from two writes of a moment ago would wait, as it never does for a frame that a driver hands over.
    ///
    /// # Errors
    /// No privilege, or a frame that is too short.
    pub fn load(target: BorrowedFd<'_>, frame: &[u8], spread: Option<Spread>, resizes: bool) -> Result<Self> {
        ensure!(frame.len() >= Self::WRITTEN, "a frame of {} bytes", frame.len());
        let map = program_array(target)?;
        let code = code(frame, spread, resizes, &map);
        // A program may call only one that takes frames in pieces if it does so itself, and the other way round.
        let program = load(&code, 0).or_else(|_| load(&code, HAS_FRAGS))?;
        Ok(Self {
            program,
            _target: map,
            frame: frame.to_vec(),
        })
    }

    /// Runs it `repeat` times; the last verdict.
    ///
    /// # Errors
    /// The kernel refuses the run.
    pub fn run(&self, repeat: u32) -> Result<u32> {
        run(self.program.as_fd(), &self.frame, repeat)
    }
}

/// r6 = context, r7 = data.
fn code(frame: &[u8], spread: Option<Spread>, resizes: bool, map: &OwnedFd) -> Vec<u64> {
    use std::os::fd::AsRawFd as _;

    let load_data = [insn(0x61, 7, 6, 0, 0), insn(0x61, 3, 6, 4, 0)];
    let mut code = vec![insn(0xbf, 6, 1, 0, 0)];
    code.extend(load_data);
    if resizes {
        // bpf_xdp_adjust_head(context, data_end - data - length), 0 included.
        code.extend([
            insn(0xbf, 2, 3, 0, 0),
            insn(0x1f, 2, 7, 0, 0),
            insn(0x17, 2, 0, 0, frame.len() as u32),
            insn(0xbf, 1, 6, 0, 0),
            insn(0x85, 0, 0, 0, 44),
        ]);
        code.extend(load_data);
    }
    // Leave unless what is written lies before data_end.
    code.extend([
        insn(0xbf, 4, 7, 0, 0),
        insn(0x07, 4, 0, 0, Refill::WRITTEN as u32),
    ]);
    let leave_at = code.len();
    code.push(0);
    let word = |at: usize| u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]);
    let stores = [0, 4, 8].into_iter().chain((14..Refill::WRITTEN).step_by(4));
    for at in stores {
        code.push(insn(0x62, 7, 0, at as i16, word(at)));
    }
    let ether_type = u32::from(u16::from_le_bytes([frame[12], frame[13]]));
    code.push(insn(0x6a, 7, 0, 12, ether_type));
    if let Some(Spread {
        ports_at,
        address_at,
        reply,
        flows,
    }) = spread
    {
        // r0 = random & mask; r2 = its low half and the other port; r0 = the address with the rest in the last byte.
        code.extend([
            insn(0x85, 0, 0, 0, 7),
            insn(0x57, 0, 0, 0, flows - 1),
            insn(0xbf, 2, 0, 0, 0),
        ]);
        code.extend(match reply {
            false => [
                insn(0x54, 2, 0, 0, 0xffff),
                insn(0x44, 2, 0, 0, word(ports_at) & 0xffff_0000),
            ],
            true => [
                insn(0x64, 2, 0, 0, 16),
                insn(0x44, 2, 0, 0, word(ports_at) & 0xffff),
            ],
        });
        code.extend([
            insn(0x63, 7, 2, ports_at as i16, 0),
            insn(0x77, 0, 0, 0, 16),
            insn(0x64, 0, 0, 0, 24),
            insn(0x44, 0, 0, 0, word(address_at) & 0x00ff_ffff),
            insn(0x63, 7, 0, address_at as i16, 0),
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
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 100;

    /// `XDP_TX` for a frame of [`LEN`] bytes, which it makes 20 bytes longer; `XDP_DROP` for any other.
    fn lengthens() -> Result<OwnedFd> {
        load(
            &[
                insn(0x61, 2, 1, 0, 0),
                insn(0x61, 3, 1, 4, 0),
                insn(0x1f, 3, 2, 0, 0),
                insn(0xb7, 0, 0, 0, 1),
                insn(0x55, 3, 0, 3, LEN as u32),
                insn(0xb7, 2, 0, 0, -20i32 as u32),
                insn(0x85, 0, 0, 0, 44),
                insn(0xb7, 0, 0, 0, 3),
                insn(0x95, 0, 0, 0, 0),
            ],
            0,
        )
    }

    #[test]
    fn each_run_gets_a_frame_of_the_same_length() -> Result<()> {
        let program = lengthens()?;
        let refill = Refill::load(program.as_fd(), &[0; LEN], None, true)?;
        for runs in [1, 2, 100] {
            ensure!(
                refill.run(runs)? == 3,
                "the last of {runs} runs had another length"
            );
        }
        // Without it the second run sees what the first left.
        let refill = Refill::load(program.as_fd(), &[0; LEN], None, false)?;
        ensure!(refill.run(1)? == 3 && refill.run(2)? == 1);
        Ok(())
    }
}
