//! What could not be looked at, and why.

use std::io;

use caps::{CapSet, Capability};

/// Something that could not be looked at; connections there are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    #[error(
        "{count} processes do not show which network namespace they are in ({reason}): connections there may be missing"
    )]
    HiddenProcesses { count: usize, reason: String },
    #[error("{count} other network namespaces cannot be entered ({reason}): connections there are missing")]
    NotEntered { count: usize, reason: String },
    #[error(
        "{count} other network namespaces were not looked at, since this host has very many: connections there that guard does not count may be missing"
    )]
    NotVisited { count: usize },
    #[error(
        "this kernel does not list connections of Multipath TCP (it lacks CONFIG_INET_MPTCP_DIAG): such a connection is seen while it has subflows, and outlives them by net.mptcp.close_timeout seconds"
    )]
    NoMultipath,
    #[error(
        "the sockets of the network namespace {inode} cannot be listed ({reason}): connections there are missing"
    )]
    NotListed { inode: u64, reason: String },
    #[error(
        "conntrack cannot be asked ({reason}): connections to a published port count under the port of their container"
    )]
    NoTranslations { reason: String },
}

/// Why something is refused that takes this capability.
pub(super) fn refused(capability: Capability, error: Option<&io::Error>) -> String {
    match error {
        _ if !has(capability) => format!("{capability} is missing"),
        Some(error) => error.to_string(),
        None => "permission denied".into(),
    }
}

pub(super) fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}
