//! The kernel and the host side by side: the same tables, the same frame, and both must do what is expected.

use anyhow::{Result, ensure};
use weir_abi::{Note, REASON_COUNT, Reason, Verdict};
use weir_fastpath::{handle, memory::MemoryTables};

use crate::{
    Frame, Kernel, Lab, World,
    kernel::{Counters, verdict},
    lab,
    world::addr,
};

/// The same world on both sides.
pub struct Both {
    /// Where they run.
    pub lab: Lab,
    /// The kernel's side.
    pub kernel: Kernel,
    /// The host's side.
    pub memory: MemoryTables,
}

impl Both {
    /// Runs a test in a lab.
    ///
    /// # Errors
    /// What can't be set up, or what the test says.
    pub fn run(world: &World, test: impl FnOnce(&mut Self) -> Result<()> + Send) -> Result<()> {
        Lab::run(|lab| {
            let mut kernel = Kernel::load()?;
            world.to_kernel(&mut kernel)?;
            test(&mut Self {
                lab,
                kernel,
                memory: world.to_memory(lab, lab::now()?),
            })
        })
    }

    /// One frame: its reason is counted once, with these notes and nothing else; the frame comes out as `expected`, or
    /// untouched. On both sides.
    ///
    /// # Errors
    /// What was otherwise.
    pub fn check(
        &mut self,
        frame: &[u8],
        reason: Reason,
        notes: &[Note],
        expected: Option<&[u8]>,
    ) -> Result<()> {
        let expected = expected.unwrap_or(frame);
        let mut counters = [0; REASON_COUNT];
        counters[reason as usize] += 1;
        for note in notes {
            counters[note.index() as usize] += 1;
        }

        self.memory.reasons.fill(0);
        let mut copy = frame.to_vec();
        let outcome = handle(&mut copy, &mut self.memory);
        ensure!(
            outcome.reason == reason,
            "host: {} instead of {}",
            outcome.reason.name(),
            reason.name()
        );
        ensure!(
            copy == expected,
            "host: frame\n{copy:02x?}\ninstead of\n{expected:02x?}"
        );
        ensure!(
            self.memory.reasons == counters,
            "host: counters {:?} instead of {:?}",
            Counters(self.memory.reasons),
            Counters(counters)
        );

        // The kernel does not run a program on less than an Ethernet header.
        if frame.len() < 14 {
            return Ok(());
        }
        self.kernel.clear_counters()?;
        let run = self.kernel.run(frame)?;
        let seen = self.kernel.counters()?;
        ensure!(
            seen == Counters(counters),
            "kernel: counters {seen:?} instead of {:?}",
            Counters(counters)
        );
        let expected_verdict = match reason.verdict() {
            Verdict::Forward => verdict::REDIRECT,
            Verdict::Reply => verdict::TX,
            Verdict::Pass => verdict::PASS,
            Verdict::Drop => verdict::DROP,
        };
        ensure!(run.verdict == expected_verdict, "kernel: verdict {}", run.verdict);
        ensure!(
            run.frame == expected,
            "kernel: frame\n{:02x?}\ninstead of\n{expected:02x?}",
            run.frame
        );
        Ok(())
    }

    /// One frame whose reason is told and its frame not looked at. Both sides say and do the same.
    ///
    /// # Errors
    /// They differ.
    pub fn verdict(&mut self, frame: &[u8]) -> Result<Reason> {
        self.memory.reasons.fill(0);
        let mut copy = frame.to_vec();
        let reason = handle(&mut copy, &mut self.memory).reason;
        self.kernel.clear_counters()?;
        let run = self.kernel.run(frame)?;
        let seen = self.kernel.counters()?;
        ensure!(
            seen == Counters(self.memory.reasons),
            "kernel: counters {seen:?} instead of {:?}",
            self.memory.reasons
        );
        ensure!(
            run.frame == copy,
            "kernel: frame\n{:02x?}\ninstead of\n{copy:02x?}",
            run.frame
        );
        Ok(reason)
    }

    /// [`Self::check`] of a frame that must not be changed. Panics.
    #[track_caller]
    pub fn stays(&mut self, frame: &[u8], reason: Reason) {
        self.check(frame, reason, &[], None)
            .unwrap_or_else(|e| panic!("{}: {e:#}\n{frame:02x?}", reason.name()));
    }

    /// [`Self::stays`] of a frame whose way the kernel's routes are asked for.
    #[track_caller]
    pub fn asks(&mut self, frame: &[u8], reason: Reason) {
        self.check(frame, reason, &[Note::RouteAsked], None)
            .unwrap_or_else(|e| panic!("{}: {e:#}\n{frame:02x?}", reason.name()));
    }

    /// [`Self::check`] of a frame that is changed into another. Panics.
    #[track_caller]
    pub fn becomes(&mut self, frame: &Frame, reason: Reason, notes: &[Note], expected: &Frame) {
        self.check(&frame.build(), reason, notes, Some(&expected.build()))
            .unwrap_or_else(|e| panic!("{}: {e:#}\n{frame:?}", reason.name()));
    }
}

/// A frame as it leaves for backend N.
pub fn to_backend(frame: &Frame, n: u8, dst: &str) -> Frame {
    frame.clone().with(|f| {
        f.dst = addr(dst);
        f.hops -= 1;
        f.to_mac = lab::backend_mac(n);
        f.from_mac = lab::LAN_MAC;
    })
}

/// A frame as it leaves for the client.
pub fn to_client(frame: &Frame, src: &str) -> Frame {
    frame.clone().with(|f| {
        f.src = addr(src);
        f.hops -= 1;
        f.to_mac = lab::GATEWAY_MAC;
        f.from_mac = lab::WAN_MAC;
    })
}
