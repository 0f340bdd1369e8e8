//! Hosts that use conntrack, as Docker and Kubernetes have it.

use anyhow::{Result, ensure};

use crate::net::Host;

/// One rule that asks conntrack is enough: from then on the kernel reassembles what comes in before it looks at extension headers.
const RULES: &str = "add table inet asks; add chain inet asks before { type filter hook prerouting priority 0; }; \
                     add rule inet asks before ct state new accept";

/// # Errors
/// When the kernel has no conntrack.
pub fn begin(host: &Host) -> Result<()> {
    let (done, said) = host.output("nft", &[RULES])?;
    ensure!(done, "cannot use conntrack: {said}");
    Ok(())
}
