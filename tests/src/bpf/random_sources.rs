//! A test run repeats one frame, so all that it looks up is in the cache. This program gives the frame another source address each
//! time, then calls the program under test.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use anyhow::Result;

use super::instruction::*;
use super::{Map, PROGRAMS, Program, Shape, put};

/// Where the source address of IPv4 is, in a frame without tags, and where the header ends.
const SOURCE: i16 = 14 + 12;
const END: i32 = 14 + 20;

const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

/// Addresses `first + (number << shift)`, for numbers below `count`, or for all if it is 0.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub first: u32,
    pub count: u32,
    pub shift: u32,
}

impl Range {
    pub const fn address(&self, number: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.first.wrapping_add(number << self.shift))
    }
}

/// The program under test behind one that changes the source of each packet.
pub struct RandomSources {
    program: Program,
    /// What the program calls lives as long as this.
    _programs: Map,
}

impl RandomSources {
    /// `multi_buffer` is that of the program that is called: the kernel lets only equal ones call each other.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn before(called: BorrowedFd<'_>, multi_buffer: bool, range: Range) -> Result<Self> {
        let programs = Map::new(Shape { kind: PROGRAMS, key: 4, value: 4, entries: 1, flags: 0 })?;
        put(&programs, called)?;
        let program = Program::load(&instructions(range, programs.as_fd().as_raw_fd()), multi_buffer)?;
        Ok(Self { program, _programs: programs })
    }
}

impl AsFd for RandomSources {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

/// The program that all others are compared with: it drops.
///
/// # Errors
/// When the kernel does not take it.
pub fn bare_drop(multi_buffer: bool) -> Result<Program> {
    Program::load(&[set(R0, XDP_DROP), exit()], multi_buffer)
}

fn instructions(Range { first, count, shift }: Range, programs: i32) -> Vec<u64> {
    let mut address = vec![call(RANDOM)];
    address.extend((count > 0).then_some(modulo32(R0, count)));
    address.extend([shift32(R0, shift), add32(R0, first), network_order32(R0), store32(R7, SOURCE, R0)]);
    address.push(copy(R1, R6));
    address.extend(load_map(R2, programs));
    address.extend([set(R3, 0), call(TAIL_CALL)]);
    let mut all = vec![copy(R6, R1), load32(R7, R6, 0), load32(R3, R6, 4), copy(R2, R7), add(R2, END)];
    // Too short a frame skips what makes an address.
    all.push(skip_if_greater(R2, R3, address.len() as i16));
    all.extend(address);
    all.extend([set(R0, XDP_PASS), exit()]);
    all
}
