//! A table of blocks that is allocated when it is made, against one that grows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use std::os::fd::{AsFd, AsRawFd};

use super::cost::Effort;
use super::spread::Spread;
use crate::bpf::instruction::*;
use crate::bpf::{HASH, Map, NO_PREALLOC, Program, Shape, time};

/// Of keys and values: those of guard's table of blocked addresses.
const KEY: usize = 16;
const VALUE: usize = size_of::<guard_common::abi::Block>();
/// Room of both tables.
pub const ROOM: u32 = 1 << 20;

/// One of the two tables, filled.
#[derive(Clone, Debug)]
pub struct Table {
    pub preallocated: bool,
    pub entries: u32,
    pub filled_in: Duration,
    pub bytes: u64,
    /// Nanoseconds of a look-up of a key that is there, a new one each time.
    pub hit: Spread,
    /// ... that is not there.
    pub miss: Spread,
}

/// Both tables with so many entries.
///
/// # Errors
/// When the kernel refuses something.
pub fn measure(entries: u32, effort: Effort) -> Result<[Table; 2]> {
    super::stay_on_one_cpu()?;
    let tables = [Candidate::fill(true, entries)?, Candidate::fill(false, entries)?];
    let base = Program::load(&look_up(None, 0, entries), false)?;
    let frame = [0; 64];
    let mut measured = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    for _ in 0..effort.rounds {
        let base = f64::from(time(base.as_fd(), &frame, effort.packets)?);
        for (table, (hit, miss)) in tables.iter().zip(&mut measured) {
            hit.push(f64::from(time(table.hit.as_fd(), &frame, effort.packets)?) - base);
            miss.push(f64::from(time(table.miss.as_fd(), &frame, effort.packets)?) - base);
        }
    }
    let [first, second] = measured;
    let [preallocated, grown] = tables;
    Ok([preallocated.row(entries, first)?, grown.row(entries, second)?])
}

struct Candidate {
    preallocated: bool,
    map: Map,
    filled_in: Duration,
    hit: Program,
    miss: Program,
}

impl Candidate {
    fn fill(preallocated: bool, entries: u32) -> Result<Self> {
        let flags = if preallocated { 0 } else { NO_PREALLOC };
        let map = Map::new(Shape { kind: HASH, key: KEY as u32, value: VALUE as u32, entries: ROOM, flags })?;
        let keys: Vec<[u8; KEY]> = (0..entries).map(key).collect();
        let values = vec![[0; VALUE]; keys.len()];
        let start = Instant::now();
        map.write_all(&keys, &values).context("the table does not take its entries")?;
        let filled_in = start.elapsed();
        let descriptor = Some(map.as_fd().as_raw_fd());
        let hit = Program::load(&look_up(descriptor, 0, entries), false)?;
        let miss = Program::load(&look_up(descriptor, entries, entries), false)?;
        Ok(Self { preallocated, map, filled_in, hit, miss })
    }

    fn row(self, entries: u32, (hit, miss): (Vec<f64>, Vec<f64>)) -> Result<Table> {
        let Self { preallocated, map, filled_in, .. } = self;
        let (hit, miss) = (Spread::of(hit), Spread::of(miss));
        Ok(Table { preallocated, entries, filled_in, bytes: map.memory()?, hit, miss })
    }
}

fn key(number: u32) -> [u8; KEY] {
    let mut key = [0; KEY];
    key[KEY - 4..].copy_from_slice(&number.to_ne_bytes());
    key
}

/// Looks one of `count` keys up, from `first` on; without a map only makes the key.
fn look_up(map: Option<i32>, first: u32, count: u32) -> Vec<u64> {
    let mut all = vec![store_number64(FRAME, -16, 0), store_number64(FRAME, -8, 0), call(RANDOM)];
    all.extend([
        modulo32(R0, count),
        add32(R0, first),
        store32(FRAME, -4, R0),
        copy(R2, FRAME),
        add(R2, -16),
    ]);
    if let Some(map) = map {
        all.extend(load_map(R1, map));
        all.push(call(LOOKUP));
    }
    all.extend([set(R0, 1), exit()]);
    all
}
