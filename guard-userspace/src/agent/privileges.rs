//! Letting go of what the agent does not need.
//!
//! | capability | what for |
//! | --- | --- |
//! | `CAP_BPF` | maps, and loading the program for an interface that comes later |
//! | `CAP_PERFMON` | the verifier lets the program compare and move packet pointers |
//! | `CAP_NET_ADMIN` | attaching XDP, and closing the sockets of a blocked source |
//! | `CAP_SYS_ADMIN` | mounting a BPF file system where there is none, reading the live rules for `guard explain`, and entering the network namespaces of containers |
//! | `CAP_SYS_PTRACE` | seeing which network namespaces processes are in, and ending connections of Multipath TCP through the process that has them |
//!
//! The first three are needed, the others are kept where they are given.

use anyhow::{Context, Result};
use caps::{CapSet, Capability, CapsHashSet};
use tracing::debug;

const KEPT: [Capability; 5] = [
    Capability::CAP_BPF,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_SYS_ADMIN,
    Capability::CAP_SYS_PTRACE,
];

/// Drops all capabilities of this thread but those above, for good. Threads that are made later have no more than it.
pub(super) fn drop_others() -> Result<()> {
    keep(&KEPT)
}

/// Drops all capabilities of this thread, for good.
pub(super) fn drop_all() -> Result<()> {
    keep(&[])
}

fn keep(wanted: &[Capability]) -> Result<()> {
    let held =
        caps::read(None, CapSet::Permitted).context("the capabilities of this process cannot be read")?;
    let kept: CapsHashSet = held.into_iter().filter(|capability| wanted.contains(capability)).collect();
    // Only who may set capabilities can shrink the bound; who may not has no use of it.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        let bound = caps::read(None, CapSet::Bounding).unwrap_or_default();
        for capability in bound.into_iter().filter(|capability| !wanted.contains(capability)) {
            caps::drop(None, CapSet::Bounding, capability)
                .with_context(|| format!("cannot drop {capability} from the bounding set"))?;
        }
    }
    let none = CapsHashSet::new();
    caps::set(None, CapSet::Ambient, &none).context("cannot drop the ambient capabilities")?;
    caps::set(None, CapSet::Inheritable, &none).context("cannot drop the inheritable capabilities")?;
    caps::set(None, CapSet::Effective, &kept).context("cannot drop capabilities")?;
    caps::set(None, CapSet::Permitted, &kept).context("cannot drop capabilities")?;
    nix::sys::prctl::set_no_new_privs().context("cannot give up new privileges")?;
    debug!("capabilities kept: {kept:?}");
    Ok(())
}
