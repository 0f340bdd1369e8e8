//! What must hold whatever arrives.
//!
//! One function for each property serves the property tests, the fuzz targets and the replay of their corpora:
//!
//! ```text
//! proptest ──> seeds ──> bytes of a case ─┐
//! libFuzzer ──> bytes of a case ──────────┼──> case (world, arrivals) ──> moment ──> properties
//! committed corpus ───────────────────────┘
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`case`](mod@case) | bytes as a guard and what arrives at it |
//! | [`world`] | a guard as it may stand: policy, blocks, connections |
//! | [`moment`] | one arrival, and the same arrival at another guard |
//! | [`property`] | what holds for every arrival |
//! | [`policy`] | what holds for every text of a policy |
//! | [`http`] | what holds for every request of a client |
//! | [`frame`] | frames of any shape, honest and not |
//! | [`seeds`] | what fuzzing starts with |

pub mod case;
pub mod frame;
pub mod http;
pub mod moment;
pub mod policy;
pub mod property;
pub mod seeds;
pub mod world;
