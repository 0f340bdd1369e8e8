//! Whether this machine can run what needs the kernel, said before anything is built.

use std::io::{self, IsTerminal};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{privilege, process};

const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Each runs as root in namespaces of its own, so that nothing of it is left.
const CHECKS: [(&str, &[&str], &str); 2] = [
    (
        "BPF file system",
        &["--mount", "mount", "-t", "bpf", "bpf", "/sys/fs/bpf"],
        "The BPF file system cannot be mounted: run on a kernel with CONFIG_BPF_SYSCALL, as root of the machine \
         and not only of a container.",
    ),
    (
        "veth devices",
        &["--net", "ip", "link", "add", "guard-a", "type", "veth", "peer", "name", "guard-b"],
        "No veth pair can be made in a new network namespace: run on a kernel with CONFIG_VETH and \
         CONFIG_NET_NS, as root of the machine and not only of a container.",
    ),
];

/// Fails with one sentence about the first thing that is missing.
pub(crate) fn check() -> Result<()> {
    check_root()?;
    if !Path::new(BTF).is_file() {
        bail!("The kernel has no type information at {BTF}: run on one with CONFIG_DEBUG_INFO_BTF.");
    }
    for (name, arguments, sentence) in CHECKS {
        process::answer(privilege::as_root("unshare")?.args(arguments)).context(sentence)?;
        process::announce(&format!("{name}: ok"));
    }
    Ok(())
}

fn check_root() -> Result<()> {
    if privilege::is_root() {
        return Ok(());
    }
    // Proves that sudo exists and says that it is used.
    privilege::as_root("true")?;
    let mut sudo = Command::new("sudo");
    let sudo = if io::stdin().is_terminal() { sudo.arg("-v") } else { sudo.args(["-n", "true"]) };
    process::run(sudo).context("This needs root, and sudo refuses: run the same command as root.")
}
