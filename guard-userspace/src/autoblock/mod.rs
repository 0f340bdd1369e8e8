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
//! | `memory` | who was blocked how often |
//! | `pardons` | who was let in with what it has |

mod decide;
mod evidence;
mod memory;
mod pardons;
#[cfg(test)]
mod tests;

pub use decide::{Automatic, Decision, Exemption, InForce, Rules, decide};
pub use evidence::{Evidence, Kind, Offence};
pub use memory::{Memory, Offender};
pub use pardons::Pardons;
