//! The agent and the command-line tool of guard.
//!
//! ```text
//! cli ──> control (client) ··unix socket··> agent ──> datapath ──> kernel
//!  │                                          │           ^
//!  └──> config ──> plan ──────────────────────┴───────────┘
//!                    └──> memory (the same decision, on the host)
//! ```
//!
//! | module | what it does |
//! | --- | --- |
//! | [`config`] | the policy file: as written, validated |
//! | [`plain`] | text from outside, made harmless |
//! | [`plan`] | a policy as the entries of the tables |
//! | [`limited`] | messages that traffic can cause, once a minute |
//! | [`events`] | what was done and what was dropped |
//! | [`explain`] | the steps to a verdict, in words |
//! | [`memory`] | the tables in plain memory |
//! | [`capture`] | dropped packets as a capture |
//! | [`simulate`] | a capture through a policy |
//! | [`datapath`] | guard in the kernel; the only module that names aya |
//! | [`nets`] | many networks at once |
//! | [`network`] | the interfaces of this host, and that they change |
//! | [`autoblock`] | whether a source is blocked automatically, and for how long |
//! | [`sockets`] | the TCP connections of clients in every network namespace, and their end |
//! | [`blocks`] | blocks, in the kernel and in the ledger |
//! | [`drops`] | dropped packets, as the kernel samples them |
//! | [`duration`] | durations as people write them |
//! | [`connections`] | who has how many connections |
//! | [`ledger`] | what outlives a boot: SQLite |
//! | [`local_ports`] | the ports that the kernel gives to connections going out |
//! | [`recommend`] | limits from what was seen |
//! | [`agent`] | the daemon |
//! | [`control`] | the control socket, as its clients see it |
//! | [`cli`] | the command line; the only module that prints |

pub mod agent;
pub mod autoblock;
pub mod blocks;
pub mod capture;
pub mod cli;
pub mod config;
pub mod connections;
pub mod control;
pub mod datapath;
pub mod drops;
pub mod duration;
pub mod events;
pub mod explain;
pub mod ledger;
pub mod limited;
pub mod local_ports;
pub mod memory;
pub mod nets;
pub mod network;
pub mod plain;
pub mod plan;
pub mod recommend;
pub mod simulate;
pub mod sockets;
