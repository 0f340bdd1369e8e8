//! Guard in the kernel: the only module that names aya.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`host`] | asks whether this kernel and this process can run guard at all |
//! | [`pins`] | where maps and links lie in bpffs, and how all of it is taken away |
//! | [`live`] | the running tables, for `guard explain` |
//! | [`load`] | loads the object, or takes over what is pinned |
//! | [`publish`] | makes a new policy live |
//! | [`attach`], `refusal` | puts the program on an interface, or says why not |
//! | `shutter` | drops all, while the program moves from one device to another |
//! | `ownership` | whether what is pinned is of this network namespace |
//! | [`counters`] | reads what was counted |
//! | `types` | where members lie in the structures of the running kernel |
//! | `traffic` | what sources send, while somebody wants to know |
//! | `tracker`, `connections` | counts connections, and corrects the count |
//! | `rings` | reads what the program tells the agent |
//! | `watch` | says what somebody wants to see of drops |
//! | [`probe`] | runs single frames through the program, for tests |

pub mod attach;
mod batch;
mod blocks;
mod bpf;
mod connections;
pub mod counters;
mod error;
mod fill;
mod foreign;
pub mod host;
pub mod live;
pub mod load;
mod maps;
mod ownership;
pub mod pins;
pub mod probe;
pub mod publish;
mod refusal;
mod repair;
mod rings;
mod shutter;
mod stack;
mod succession;
mod tracker;
mod traffic;
mod trie;
mod types;
mod watch;

pub use attach::{Attachment, Mode, ModeRequest};
pub use error::Error;
pub use fill::{CLIENTS_TABLE, Fill};
pub use load::{Capacities, Datapath, Options};
pub use maps::Maps;
pub use pins::Alone;
pub use publish::{Prepared, boot_now};
pub use rings::{Ring, Rings};
pub use succession::Succession;
pub use watch::KernelLog;
