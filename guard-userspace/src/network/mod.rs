//! The network of this host: its interfaces, what is on them, and that something has changed.
//!
//! | module | what it does |
//! | --- | --- |
//! | `links` | the interfaces, as the kernel describes them |
//! | `resolve` | from the names of the policy to interfaces that exist |
//! | `routes` | the way to a client |
//! | `route_socket` | asking the kernel for the last two |
//! | `changes` | a reason to look again |

mod changes;
mod links;
mod resolve;
mod route_socket;
mod routes;

pub use changes::Changes;
pub use links::{Link, LinkError, link, links};
pub use resolve::{UnknownInterface, check, resolve};
pub use routes::Routes;
