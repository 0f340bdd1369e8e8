//! The network of this host: its interfaces, what is on them, and that something has changed.
//!
//! | module | what it does |
//! | --- | --- |
//! | `look` | all that matters of it at one moment |
//! | `links` | the interfaces, as the kernel describes them |
//! | `uplinks`, `next_hops` | those that the default routes lead over |
//! | `resolve` | from the names of the policy to interfaces that exist |
//! | `gateways` | the routers that routes lead through |
//! | `routes` | the way to a client |
//! | `namespace` | which network namespace this is |
//! | `route_socket` | asking the kernel for the others |
//! | `changes` | a reason to look again |

mod changes;
mod gateways;
mod links;
mod look;
mod namespace;
mod next_hops;
mod resolve;
mod route_socket;
mod routes;
mod uplinks;

pub use changes::Changes;
pub use gateways::gateways;
pub use links::{Framing, Link, LinkError, link, links};
pub use look::Network;
pub use namespace::namespace;
pub use resolve::{Missing, check, resolve};
pub use routes::Routes;
