//! Bytes as a guard and what arrives at it: what the fuzzer changes, and what the corpus holds.
//!
//! The first [`HEAD`] bytes make the world. Then, for each arrival: a byte with the pause before it (2 bits) and how
//! often the frame comes again (6 bits), the length of the frame (16 bits, little-endian), the frame.

use arbitrary::{Arbitrary, Unstructured};
use fastrand::Rng;

use crate::frame::random;
use crate::moment::Moment;
use crate::world::World;

/// Bytes that make the world.
pub const HEAD: usize = 192;
const ARRIVALS: usize = 12;
const MAX_FRAME: usize = 4096;
/// Nanoseconds: at once, a millisecond, a minute, a year.
const PAUSES: [u64; 4] = [0, 1_000_000, 60_000_000_000, 365 * 24 * 3_600_000_000_000];

/// A guard, and what arrives there.
#[derive(Clone, Debug)]
pub struct Case {
    pub world: World,
    pub arrivals: Vec<Arrival>,
}

/// A frame that comes once or more at one time.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Nanoseconds since the arrival before.
    pub pause: u64,
    pub again: usize,
    pub frame: Vec<u8>,
}

impl Case {
    /// Any bytes are a case.
    pub fn read(bytes: &[u8]) -> Self {
        let (head, mut rest) = bytes.split_at(bytes.len().min(HEAD));
        let world = World::arbitrary(&mut Unstructured::new(head))
            .unwrap_or_else(|error| panic!("any bytes make a world: {error}"));
        let mut arrivals = Vec::new();
        while let ([time, low, high, tail @ ..], true) = (rest, arrivals.len() < ARRIVALS) {
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(MAX_FRAME);
            let (frame, next) = tail.split_at(length.min(tail.len()));
            arrivals.push(Arrival {
                pause: PAUSES[usize::from(time & 3)],
                again: usize::from(time >> 2),
                frame: frame.to_vec(),
            });
            rest = next;
        }
        Self { world, arrivals }
    }

    /// The bytes of a case with frames near to what its world judges; one frame for each seed.
    pub fn write(head: &[u8], seeds: &[u64]) -> Vec<u8> {
        let mut bytes = head.to_vec();
        bytes.resize(HEAD, 0);
        let space = Self::read(&bytes).world.space();
        let mut last = Vec::new();
        for seed in seeds {
            let mut rng = Rng::with_seed(*seed);
            let mut frame = if rng.bool() {
                random::honest(&mut rng, &space).build()
            } else {
                random::frame(&mut rng, &space)
            };
            if !last.is_empty() && rng.u8(..) < 64 {
                frame = random::mutate(&mut rng, &last, &frame);
            }
            let mut again = if rng.bool() { rng.u8(..64) } else { 0 };
            if rng.u8(..) < 8 {
                // So often that no room is left for more.
                (frame, again) = (random::stray(&mut rng, &space).build(), 63);
            }
            let pause = if rng.u8(..) < 64 { rng.u8(..4) } else { 0 };
            bytes.push(again << 2 | pause);
            bytes.extend((frame.len() as u16).to_le_bytes());
            bytes.extend(&frame);
            last = frame;
        }
        bytes
    }

    /// Looks at the first and the last time that each frame arrives.
    pub fn each(&self, mut look: impl FnMut(&Moment<'_>)) {
        let mut memory = self.world.memory();
        let mut now = self.world.start;
        for Arrival { pause, again, frame } in &self.arrivals {
            now = now.saturating_add(*pause);
            for time in 0..=*again {
                if time == 0 || time == *again {
                    look(&Moment::new(&self.world, &memory, frame, now));
                }
                memory.judge(frame.as_slice(), now, &mut ());
            }
        }
    }
}
