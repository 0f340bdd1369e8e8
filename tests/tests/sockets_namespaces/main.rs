//! The sockets of clients in every network namespace: which are seen, under which port, and that they end.
//!
//! ```text
//!   client ──┐
//!            ├── switch ── host ── docker0 (a bridge) ── container        nftables on the host publishes ports of the container
//!   other  ──┘
//! ```
//!
//! What is tested looks at all namespaces of the machine, so every test has addresses that no other has.

mod ended;
mod network;
mod seen;
mod translated;
