//! A program of known work, to hold others against: what it takes on a machine says how fast that machine is at such programs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::Result;

use super::instruction::*;
use super::{HASH, Map, Program, Shape};

const XDP_DROP: i32 = 1;
const SLOT: i16 = -8;
const PARTS: i32 = 4;
const STEPS: u32 = 24;

/// Some arithmetic over memory and a look-up in a hash, `PARTS` times.
pub struct Reference {
    program: Program,
    /// What the program asks lives as long as this.
    _table: Map,
}

impl Reference {
    /// # Errors
    /// When the kernel does not take it.
    pub fn load(multi_buffer: bool) -> Result<Self> {
        let table = Map::new(Shape { kind: HASH, key: 8, value: 8, entries: 1024, flags: 0 })?;
        let descriptor = table.as_fd().as_raw_fd();
        let mut all = Vec::new();
        for part in 0..PARTS {
            all.push(store_number64(FRAME, SLOT, part));
            for step in 0..STEPS {
                all.extend([
                    load64(R6, FRAME, SLOT),
                    xor32(R6, step),
                    add32(R6, step),
                    store64(FRAME, SLOT, R6),
                ]);
            }
            all.extend([copy(R2, FRAME), add(R2, SLOT.into())]);
            all.extend(load_map(R1, descriptor));
            all.push(call(LOOKUP));
        }
        all.extend([set(R0, XDP_DROP), exit()]);
        Ok(Self { program: Program::load(&all, multi_buffer)?, _table: table })
    }
}

impl AsFd for Reference {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}
