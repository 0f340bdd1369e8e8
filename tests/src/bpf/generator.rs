//! A program that sends a frame of TCP on and on, each time from another of 65,536 sources: faster than a socket could.
//!
//! `BPF_PROG_TEST_RUN` runs it on real frames (`BPF_F_TEST_XDP_LIVE_FRAMES`, Linux 5.18) and sends what it returns `XDP_TX` for from the
//! interface that the frames are said to have come by.

use std::os::fd::AsFd;

use anyhow::{Context, Result};

use super::instruction::*;
use super::{Program, send_live};

/// Where IPv4 has its identification and the lower half of its source, in a frame without tags.
const IDENTIFICATION: i16 = 14 + 4;
const SOURCE: i16 = 14 + 14;
/// The lower half of TCP's.
const SEQUENCE: i16 = 14 + 20 + 6;
const END: i32 = 14 + 20 + 8;

const XDP_ABORTED: i32 = 0;
const XDP_TX: i32 = 3;

/// The identification of a frame whose source ends in `.0.0`, for [`Generator::send`].
pub const IDENTIFIED: u16 = 0xffff;

pub struct Generator {
    program: Program,
}

impl Generator {
    /// # Errors
    /// When the kernel does not take the program.
    pub fn new() -> Result<Self> {
        Ok(Self { program: Program::load(&instructions(), false)? })
    }

    /// One that sends the frame as it is.
    ///
    /// # Errors
    /// When the kernel does not take the program.
    pub fn of_one_source() -> Result<Self> {
        Ok(Self { program: Program::load(&[set(R0, XDP_TX), exit()], false)? })
    }

    /// Sends `count` frames from an interface of this thread's namespace. The identification and the sequence number go down as the source goes up,
    /// so that the sums of both headers stay the same: the frame has the identification [`IDENTIFIED`], a sequence number whose lower half is 0,
    /// and a source that ends in `.0.0`.
    ///
    /// # Errors
    /// When the kernel does not send them.
    pub fn send(&self, frame: &[u8], interface: u32, count: u32) -> Result<()> {
        send_live(self.program.as_fd(), frame, interface, count)
            .context("the kernel does not send the frames")
    }
}

fn instructions() -> Vec<u64> {
    let source = another_source();
    let mut all = bounds(source.len());
    all.extend(source);
    all.extend([set(R0, XDP_ABORTED), exit()]);
    all
}

/// Has R7 be the frame; skips so many instructions if that is too short.
pub(super) fn bounds(count: usize) -> Vec<u64> {
    let end = [load32(R7, R1, 0), load32(R3, R1, 4), copy(R2, R7), add(R2, END)];
    end.into_iter().chain([skip_if_greater(R2, R3, count as i16)]).collect()
}

/// Gives the frame in R7 another source, and sends it.
pub(super) const fn another_source() -> [u64; 7] {
    [
        call(RANDOM),
        store16(R7, SOURCE, R0),
        xor32(R0, 0xffff),
        store16(R7, IDENTIFICATION, R0),
        store16(R7, SEQUENCE, R0),
        set(R0, XDP_TX),
        exit(),
    ]
}
