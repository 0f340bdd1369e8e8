//! The agent and the command-line tool of guard.

pub mod config;
