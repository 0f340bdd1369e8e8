//! Metrics and health, by processes of their own that have no privileges.
//!
//! ```text
//!  agent                        guard-metrics (keeper)       guard-metrics (server)
//!  one thread a page <────────────── socket pairs ──────────────> one question at a time <── HTTP ── clients
//!      │  new pairs ──────────────> starts a server with them
//!      └─ engine
//! ```
//!
//! | module | in | what it does |
//! | --- | --- | --- |
//! | `agent_side` | agent | starts the keeper, hands out socket pairs, answers what comes over them |
//! | `port` | agent | holds the port, also while there is no server |
//! | `keeper` | keeper | starts a server, and another when it ends |
//! | `web` | server | serves HTTP |
//! | `reader` | neither | all that the server does, over memory, for proofs |
//! | `pages` | server | asks the agent for a page, once for all who wait for it |
//! | `wire` | both | how a page is asked for, and how it comes |
//!
//! What reads HTTP from anybody on the network holds no capability, no map and no file, and may call little of the kernel
//! (`agent/system_calls.rs`). Its worst question costs the agent one scrape, and scrapes take at most a quarter of a CPU.

mod agent_side;
mod keeper;
mod pages;
mod port;
mod reader;
mod web;
mod wire;

pub(in crate::agent) use agent_side::Exporter;
pub(in crate::agent) use keeper::keep;
pub(in crate::agent) use reader::answers;
