//! Limits from what was seen: `guard recommend`.
//!
//! ```text
//! the kernel's counts, at each look ─> sampler ─> seen (kept over restarts) ─> propose ─> lines of a policy
//! ```

mod histogram;
mod limits;
mod lines;
mod propose;
mod sampler;
mod seen;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use limits::Limits;
pub use lines::names;
pub use propose::{Busiest, Dropped, DroppedMeanwhile, OwnLimits, Proposal, propose};
pub use sampler::{Known, Look, Sampler};
pub use seen::{Profile, Seen};

/// Which proposals are asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecommendQuery {
    /// How many times what was seen.
    pub headroom: f64,
}

/// What is to be done about watching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObserveRequest {
    /// Watch all services for so many milliseconds, those that enforce as well.
    pub lasts: Option<u64>,
    /// Forget what was seen.
    #[serde(default)]
    pub reset: bool,
}
