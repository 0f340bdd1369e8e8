//! The generator at a pace: a call of it takes the kernel tens of milliseconds to begin and to end, so what waits must be the program.

use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context, Result};

use super::generator::{another_source, bounds};
use super::instruction::*;
use super::{ARRAY, Map, Program, Shape, send_live};

/// What the program keeps: when the next frame is due, and how many were sent.
const DUE: i16 = 0;
const SENT: i16 = 8;
const STATE: u32 = 16;

/// Nanoseconds that it makes up for if it was kept from sending.
const LAG: i32 = 10_000_000;

const XDP_DROP: i32 = 1;

/// Sends so many frames a second, and is busy waiting in between.
pub struct PacedGenerator {
    program: Program,
    state: Map,
}

impl PacedGenerator {
    /// # Errors
    /// When the kernel does not take the program.
    pub fn new(frames_a_second: f64) -> Result<Self> {
        let state = Map::new(Shape { kind: ARRAY, key: 4, value: STATE, entries: 1, flags: 0 })?;
        let interval = (1e9 / frames_a_second) as i32;
        let program = Program::load(&instructions(interval, state.as_fd().as_raw_fd()), false)?;
        Ok(Self { program, state })
    }

    /// Looks so many times whether one of a frame is due. For the frame see [`Generator::send`](super::generator::Generator::send).
    ///
    /// # Errors
    /// When the kernel does not send them.
    pub fn run(&self, frame: &[u8], interface: u32, looks: u32) -> Result<()> {
        send_live(self.program.as_fd(), frame, interface, looks)
            .context("the kernel does not send the frames")
    }

    /// Frames that were sent until now.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn sent(&self) -> Result<u64> {
        let [_, sent] = self.state.first::<{ STATE as usize / 8 }>()?;
        Ok(sent)
    }
}

fn instructions(interval: i32, state: i32) -> Vec<u64> {
    let source = another_source();
    let mut due = vec![
        // No later than it is, no earlier than what is made up for.
        copy(R2, R0),
        add(R2, -LAG),
        skip_if_greater(R1, R2, 1),
        copy(R1, R2),
        add(R1, interval),
        store64(R8, DUE, R1),
        load64(R1, R8, SENT),
        add(R1, 1),
        store64(R8, SENT, R1),
    ];
    due.extend(source);
    let mut look = load_value(R8, state).to_vec();
    look.extend([call(TIME), load64(R1, R8, DUE), skip_if_greater(R1, R0, due.len() as i16)]);
    look.extend(due);
    let mut all = bounds(look.len());
    all.extend(look);
    all.extend([set(R0, XDP_DROP), exit()]);
    all
}
