//! Automatic blocks: whether a source that the kernel reports is blocked, for how long, and on what evidence.
//!
//! ```text
//! offence ──> spared? ──> blocked already? ──> how often before? ──> block, twice as long as the last one
//!             (policy,                          (memory)
//!              host)
//! ```
//!
//! Nothing here reads a clock or asks the kernel. Times are milliseconds of a clock that nobody sets, the kernel's; what was before this
//! boot is negative.
//!
//! | module | what it does |
//! | --- | --- |
//! | `decide` | the decision |
//! | `evidence` | what a block goes by, as figures and in words |
//! | `targets` | whether the source is blocked as a whole, or single addresses of it |
//! | `memory` | who was blocked how often |
//! | `hypothetical` | who would have been blocked, had the service not only monitored |
//! | `pardons` | who was let in with what it has |

mod decide;
mod evidence;
mod hypothetical;
mod memory;
mod pardons;
mod targets;
#[cfg(test)]
mod tests;

pub use decide::{Automatic, Decision, Exemption, InForce, Rules, decide};
pub use evidence::{Evidence, Kind, Offence};
pub use hypothetical::{Hypothetical, WouldBlock};
pub use memory::{Memory, Offender};
pub use pardons::Pardons;
pub use targets::targets;
