//! One arrival at a guard, and the same arrival at another guard.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use guard_common::abi::{Class, Meter, SourceKey};
use guard_common::observe::{Observer, Step};
use guard_common::parse::{Headers, Kind, Malformed};
use guard_common::{Address, Packet, Verdict};
use guard_userspace::blocks::nested::Ends;
use guard_userspace::memory::{Fragments, Memory};

use crate::world::World;

/// Bytes of a frame that are shown: the headers of most.
const SHOWN: usize = 200;

/// A frame at a guard whose sources have sent before.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    pub world: &'a World,
    pub frame: &'a [u8],
    /// Nanoseconds.
    pub now: u64,
    /// The limiter's state of every source.
    pub meters: HashMap<SourceKey, Meter>,
    /// What is remembered of fragments.
    pub fragments: Fragments,
    /// What the guard says.
    pub seen: Seen,
}

/// A verdict and what led to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub verdict: Verdict,
    pub kind: Result<Kind, Malformed>,
    pub headers: Headers,
    /// Whether a rule was found, and what it says.
    pub class: Option<Class>,
    /// The limiter's state after it.
    pub meters: HashMap<SourceKey, Meter>,
}

impl<'a> Moment<'a> {
    pub fn new(world: &'a World, before: &Memory, frame: &'a [u8], now: u64) -> Self {
        let (meters, fragments) = (before.meters(), before.fragments());
        let seen = judge(&mut world.memory(), frame, (&meters, &fragments), now);
        Self { world, frame, now, meters, fragments, seen }
    }

    /// The same arrival at another guard.
    pub fn at(&self, world: &World) -> Seen {
        judge(&mut world.memory(), self.frame, (&self.meters, &self.fragments), self.now)
    }

    /// Judges other packets in the place of this frame.
    pub fn instead<P: Packet>(&self) -> impl FnMut(&P) -> Seen {
        let mut memory = self.world.memory();
        move |packet| judge(&mut memory, packet, (&self.meters, &self.fragments), self.now)
    }

    /// Where the frame is from, where guard can read it.
    pub fn source(&self) -> Option<IpAddr> {
        let source = self.seen.headers.source;
        (source != Address::default()).then(|| source.into())
    }

    /// Whether the source is one that a block of the whole host names. The trusted pass all the same, and neighbour discovery.
    pub fn is_host_blocked(&self) -> bool {
        let holds = |ends: &Ends| ends.host.is_after(|| self.now);
        let mut blocks = self.world.blocks.iter();
        self.source().is_some_and(|source| blocks.any(|(net, ends)| net.contains(&source) && holds(ends)))
    }

    /// The number of the service that the frame is for and the source that it is from, where the frame says both: a later fragment does not.
    pub fn guarded(&self) -> Option<(usize, IpAddr)> {
        if self.seen.kind == Ok(Kind::Fragment) {
            return None;
        }
        let id = self.seen.verdict.service;
        let index = usize::from(id.get()).checked_sub(1)?;
        Some((index, self.seen.headers.source.into()))
    }
}

/// All that is needed to see by hand what went wrong.
impl fmt::Display for Moment<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let World { policy, blocks, connections, .. } = self.world;
        writeln!(f, "{:?} at {} ns, after {:?}", self.seen, self.now, self.meters)?;
        let head = self.frame.get(..SHOWN).unwrap_or(self.frame);
        writeln!(f, "frame of {} bytes {head:02x?}", self.frame.len())?;
        writeln!(f, "blocks {blocks:?}\nconnections {connections:?}\n\n{}", policy.to_toml())
    }
}

/// Decides about a frame as if nothing but what this tells had come before.
fn judge(
    memory: &mut Memory,
    frame: &(impl Packet + ?Sized),
    (meters, fragments): (&HashMap<SourceKey, Meter>, &Fragments),
    now: u64,
) -> Seen {
    memory.set_meters(meters);
    memory.set_fragments(fragments);
    let mut steps = Steps::default();
    let verdict = memory.judge(frame, now, &mut steps);
    let (kind, headers) = steps.parsed.unwrap_or_else(|| panic!("every frame is parsed"));
    Seen { verdict, kind, headers, class: steps.class, meters: memory.meters() }
}

#[derive(Default)]
struct Steps {
    parsed: Option<(Result<Kind, Malformed>, Headers)>,
    class: Option<Class>,
}

impl Observer for Steps {
    fn step(&mut self, step: Step) {
        match step {
            Step::Parsed(kind, headers) => self.parsed = Some((kind, headers)),
            Step::Rule(rule) => self.class = rule.map(|rule| rule.class()),
            Step::Policy(_)
            | Step::Service(_)
            | Step::Elsewhere(_)
            | Step::Block { .. }
            | Step::Limits(..)
            | Step::Source { .. }
            | Step::Limit { .. }
            | Step::Connections { .. } => {}
        }
    }
}
