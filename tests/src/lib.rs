//! Guard under test.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`frame`] | frames of any shape, honest and not |
//! | [`demo`] | guard at work, for people to see |
//! | [`guard`] | an agent on a host of a test network |
//! | [`kernel`] | the program in the kernel, one frame at a time |
//! | [`listener`] | what arrives, counted |
//! | [`net`] | test networks |
//! | [`raw`] | frames onto a wire |
//! | [`scene`] | the network that most tests use |
//! | [`stale`] | what tests that died have left |
//! | [`wait`] | waiting for something to become true |

pub mod demo;
pub mod frame;
pub mod guard;
pub mod kernel;
pub mod large;
pub mod listener;
pub mod net;
pub mod raw;
pub mod scene;
pub mod stale;
pub mod wait;
