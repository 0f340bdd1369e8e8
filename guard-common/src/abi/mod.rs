//! The types that lie in BPF maps: fixed width, explicit padding, plain data.
//!
//! The kernel's program and the agent may be of different builds while one takes over from the other, so
//! [`VERSION`] changes with every change of a layout or of a meaning here, and a test holds each layout against a
//! committed snapshot.

mod block;
mod connection;
mod drops;
mod fragment;
mod ids;
#[cfg(feature = "pod")]
mod pod;
mod policy;
mod state;
mod traffic;
mod watch;

pub use block::{Block, End};
pub use connection::{Correction, FlowKey, Home, Marks, OpenCount, Opening, OpeningKey, Surplus, Tracked};
pub use drops::{Budget, Evidence, Lost, Offence, OffenceKind, Sample, SampleKey, Sampled};
pub use fragment::{Fate, FragmentKey, Owed};
pub use ids::{LimitsId, ServiceId};
pub use policy::{
    Class, Limits, PORT_WORDS, Policy, PortWord, Rule, Service, ServiceName, Thresholds, port_word,
};
pub use state::{Admitted, Counter, Meter, RuleKeyV4, RuleKeyV6, SERVICE_BITS, SourceKey, Standing, State};
pub use traffic::Traffic;
pub use watch::{Allowance, Captured, SHOWN, Watch};

/// Version of everything in this module.
pub const VERSION: u32 = 7;

#[cfg(test)]
mod layout;
