//! The agent and the command-line tool of guard.

pub mod config;
pub mod datapath;
pub mod memory;
pub mod plan;
