//! How long a policy and blocks take until they are live.

use std::time::{Duration, Instant};

use anyhow::Result;
use guard_userspace::datapath::Options;

use super::cost::Size;
use crate::kernel::{self, Kernel};
use crate::large;

/// The steps, and how long each took.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// From the text of the policy to the entries of the tables.
    pub compiled: Duration,
    /// Until the policy is live.
    pub published: Duration,
    /// Until the blocks are.
    pub blocked: Duration,
}

/// # Errors
/// When the tables do not take all of it.
pub fn measure(size: Size) -> Result<Load> {
    let policy = large::policy(size.prefixes);
    let blocks = large::blocks(size.blocks);
    let mut kernel = Kernel::with(&Options::default())?;
    let start = Instant::now();
    let plan = kernel::plan(&policy)?;
    let compiled = start.elapsed();
    let start = Instant::now();
    kernel.publish(&plan)?;
    let published = start.elapsed();
    let start = Instant::now();
    kernel.datapath.maps_mut().write_blocks(&blocks)?;
    Ok(Load { compiled, published, blocked: start.elapsed() })
}
