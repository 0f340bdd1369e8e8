//! Every look-up that a decision needs.

use core::borrow::Borrow;

use crate::Address;
use crate::abi::{Block, End, Limits, LimitsId, Rule, Service, ServiceId, SourceKey, Standing, State};
use crate::epoch::{Epoch, Slot};
use crate::gcra::Word;
use crate::parse::{Headers, Protocol};

/// The tables of guard: BPF maps in the kernel, plain memory elsewhere.
pub trait Tables {
    /// How a shared word of state is reached.
    type Word: Word;

    fn state(&self) -> State;

    fn epoch(&self) -> Epoch {
        Epoch::from_word(self.state().epoch)
    }

    /// Whether the policy in `slot` enforces anything; if not, nothing may be dropped.
    fn enforces(&self, slot: Slot) -> bool;

    fn service_at(&self, slot: Slot, protocol: Protocol, port: u16) -> Option<ServiceId>;

    fn service(&self, slot: Slot, id: ServiceId) -> Option<Service>;

    /// Whether `address` is one that the service is reached at. It is asked of services that name such addresses.
    fn is_destination(&self, slot: Slot, id: ServiceId, address: Address) -> bool;

    /// The rule of the longest prefix of the service around `source`.
    fn rule(&self, slot: Slot, id: ServiceId, source: Address) -> Option<Rule>;

    /// What was found out about a source that a rule lets in, unless rules or blocks have changed since.
    fn recall(&self, source: Address, slot: Slot, id: ServiceId, changes: u64) -> Standing;

    /// Remembers that.
    fn remember(&self, source: Address, slot: Slot, id: ServiceId, standing: Standing, changes: u64);

    /// The block of exactly this address.
    fn block(&self, source: Address) -> Option<BlockState<Self::Word>>;

    /// The block of the longest prefix around this address.
    fn block_around(&self, source: Address) -> Option<BlockState<Self::Word>>;

    fn limits(&self, slot: Slot, id: LimitsId) -> Option<impl Borrow<Limits>>;

    /// The limiter's state of a source, made if there is none; `None` if there is no room to make it.
    fn meter(&self, source: &SourceKey) -> Option<MeterState<Self::Word>>;

    /// The clock of the limiter, in nanoseconds; none: the clock of the decision.
    ///
    /// In the kernel it is the monotonic clock, which costs a tenth of an allowed packet less than the boot clock. It stands still while the
    /// machine is suspended, and so does what a source has used of its limits.
    fn limiter_now(&self) -> Option<u64> {
        None
    }

    /// How many connections the source has open.
    fn connections(&self, source: &SourceKey) -> u64;

    /// Notes that a SYN of the source is let through: the connection belongs to it, whatever this host translates it to.
    fn note_opening(&self, syn: &Headers, source: &SourceKey);
}

/// A [`Block`] in place.
#[derive(Clone, Copy, Debug)]
pub struct BlockState<W> {
    pub host_until: End,
    pub services_until: End,
    pub dropped: W,
}

impl<W> BlockState<W> {
    pub const fn new(block: &Block, dropped: W) -> Self {
        Self { host_until: block.host_until, services_until: block.services_until, dropped }
    }
}

/// A [`crate::abi::Meter`] in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeterState<W> {
    pub packets: W,
    pub bytes: W,
    pub connections: W,
    pub suspected_until: W,
}
