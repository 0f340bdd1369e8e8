//! The decision that guard makes about a packet.
//!
//! [`decide()`] is compiled twice: into the XDP program over BPF maps, and into the host's tools and tests over
//! tables in memory. It is a pure function of a [`Packet`], the [`Tables`] and a clock; nothing here
//! allocates, logs or knows of aya.
//!
//! ```text
//! frame ─ packet ─> parse ─> decide <─ tables (epoch, services, rules, blocks, limits, meters)
//!                              │
//!                              ├─> verdict: action, reason, service
//!                              └─> observer: the steps that led there
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`packet`] | checked, copying reads of a frame |
//! | [`parse`] | Ethernet, VLAN, IPv4, IPv6, TCP and UDP, down to a source and a port |
//! | [`decide`](mod@decide) | the order of the checks |
//! | [`tables`] | every look-up that a decision needs |
//! | [`drops`] | what follows from a drop: samples, evidence |
//! | [`traffic`] | what each source sends, while somebody wants to know |
//! | [`watch`] | what of a drop is shown to those who watch |
//! | [`track`] | which sockets are connections, and of whom |
//! | [`fragments`] | what becomes of the later fragments of a packet |
//! | [`gcra`] | the rate limiter |
//! | [`epoch`] | which of the two policy generations is live |
//! | [`verdict`] | actions, reasons and where they are counted |
//! | [`observe`] | the steps of a decision, for `guard explain` |
//! | [`abi`] | the types that lie in BPF maps |
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]
#![deny(unsafe_code)]

pub mod abi;
pub mod address;
pub mod decide;
pub mod drops;
pub mod epoch;
pub mod fragments;
pub mod gcra;
pub mod observe;
pub mod packet;
pub mod parse;
#[cfg(test)]
mod plain;
pub mod tables;
pub mod track;
pub mod traffic;
pub mod verdict;
pub mod watch;

pub use address::{Address, Family};
pub use decide::decide;
pub use packet::Packet;
pub use tables::Tables;
pub use verdict::{Action, Reason, Verdict};
