//! Whether this kernel and this process can run guard at all.

use aya::util::KernelVersion;
use caps::{CapSet, Capability};

use super::Error;

/// The oldest kernel: compare-and-swap in BPF is from 5.12, and 5.15 is the first long-term kernel after it.
const OLDEST: (u8, u8, u16) = (5, 15, 0);
const OLDEST_NAME: &str = "5.15";
/// The first kernel that gives XDP programs frames in several buffers.
const MULTI_BUFFER: (u8, u8, u16) = (5, 18, 0);

const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "CAP_BPF"),
    (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
    (Capability::CAP_PERFMON, "CAP_PERFMON"),
];

/// # Errors
/// One that names the running kernel, or the capabilities that are missing.
pub fn check() -> Result<(), Error> {
    check_kernel()?;
    check_capabilities()
}

fn check_kernel() -> Result<(), Error> {
    if at_least(OLDEST) {
        return Ok(());
    }
    let running = nix::sys::utsname::uname().map_or_else(
        |_| "of an unknown version".into(),
        |name| name.release().to_string_lossy().into_owned(),
    );
    Err(Error::KernelTooOld { running, needed: OLDEST_NAME })
}

fn check_capabilities() -> Result<(), Error> {
    let held = caps::read(None, CapSet::Effective).map_err(|error| Error::Capabilities(error.to_string()))?;
    // Before it was split, CAP_SYS_ADMIN was CAP_BPF and CAP_PERFMON, and still stands for both.
    let administers = held.contains(&Capability::CAP_SYS_ADMIN);
    let has = |capability| {
        held.contains(capability) || (administers && !matches!(capability, Capability::CAP_NET_ADMIN))
    };
    let missing: Vec<_> =
        NEEDED.iter().filter(|(capability, _)| !has(capability)).map(|(_, name)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Error::MissingCapabilities { missing }) }
}

pub(super) fn takes_multi_buffer() -> bool {
    at_least(MULTI_BUFFER)
}

fn at_least((major, minor, patch): (u8, u8, u16)) -> bool {
    KernelVersion::current().is_ok_and(|running| running >= KernelVersion::new(major, minor, patch))
}
