//! Packages of the system: which are missing, and installing them.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::consent::Consent;
use crate::{privilege, process};

/// What the demo runs, and Debian's package that holds it.
pub(crate) const DEMO_TOOLS: [(&str, &str); 4] =
    [("curl", "curl"), ("ip", "iproute2"), ("nsenter", "util-linux"), ("ping", "iputils-ping")];

/// What the tests run. Add a line to add a tool.
const TOOLS: [(&str, &str); 17] = [
    ("amtool", "prometheus-alertmanager"),
    ("curl", "curl"),
    ("ethtool", "ethtool"),
    ("faketime", "faketime"),
    ("h2load", "nghttp2-client"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nghttpd", "nghttp2-server"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("prometheus", "prometheus"),
    ("promtool", "prometheus"),
    ("strace", "strace"),
    ("systemd-analyze", "systemd"),
    ("tmux", "tmux"),
    ("tshark", "tshark"),
];

/// What boots another kernel.
pub(crate) const VM_TOOLS: [(&str, &str); 3] =
    [("busybox", "busybox-static"), ("qemu-system-x86_64", "qemu-system-x86"), ("strip", "binutils")];

/// What guard is compared with.
pub(crate) const BENCH_TOOLS: [(&str, &str); 7] = [
    ("ipset", "ipset"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("nginx", "nginx-light"),
    ("ufw", "ufw"),
    ("wrk", "wrk"),
    ("xdp-filter", "xdp-tools"),
];

/// What libFuzzer is built with.
pub(crate) const FUZZ_TOOLS: [(&str, &str); 1] = [("c++", "g++")];

/// Sees to it that every tool of the tests is there.
pub(crate) fn ensure_tools(consent: Consent) -> Result<()> {
    ensure(&TOOLS, "The tests need", consent)
}

/// Sees to it that the tools of a list are there. `who` needs them, for the message.
pub(crate) fn ensure(tools: &[(&str, &str)], who: &str, consent: Consent) -> Result<()> {
    let missing = missing_packages(tools, |tool| process::find_program(tool).is_some());
    if missing.is_empty() {
        return Ok(());
    }
    let needed = missing.join(" ");
    if process::find_program("apt-get").is_none() {
        bail!("{who} programs that are missing: install {needed} (Debian's names).");
    }
    install(&missing, consent)
}

/// The packages of a list that are not installed, by dpkg's word.
pub(crate) fn not_installed<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let is_installed = |package: &str| {
        let mut query = Command::new("dpkg-query");
        query.args(["-W", "-f", "${db:Status-Status}", package]);
        process::answer(&mut query).is_ok_and(|status| status == "installed")
    };
    packages.iter().copied().filter(|package| !is_installed(package)).collect()
}

/// Installs packages with apt-get, after asking.
pub(crate) fn install(packages: &[&str], consent: Consent) -> Result<()> {
    let names = packages.join(" ");
    consent.ask(&format!("the system packages {names}"))?;
    // A third-party source that is down must not stop this: what counts is whether the install works.
    if let Err(error) = process::run(&mut apt_get(&["update"])?) {
        process::announce(&format!("{error} Going on with the package lists that are here"));
    }
    let install = ["install", "--yes", "--no-install-recommends"];
    process::run(apt_get(&install)?.args(packages)).with_context(|| {
        format!("Could not install packages: run `apt-get install --no-install-recommends {names}` as root.")
    })
}

fn apt_get(arguments: &[&str]) -> Result<Command> {
    let mut command = privilege::as_root("env")?;
    // Some of them bring a service that Debian would start at once, on all interfaces: what is needed is the program.
    command.args(["DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1"]);
    command.args(["apt-get", "-o", "DPkg::Lock::Timeout=120"]);
    command.args(["--quiet", "-o", "Dpkg::Use-Pty=0"]).args(arguments);
    Ok(command)
}

fn missing_packages<'a>(tools: &[(&str, &'a str)], is_there: impl Fn(&str) -> bool) -> Vec<&'a str> {
    let missing = tools.iter().filter(|(tool, _)| !is_there(tool));
    let mut packages: Vec<_> = missing.map(|&(_, package)| package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_tool_asks_for_its_package_once() {
        let tools = [("ip", "iproute2"), ("ss", "iproute2"), ("curl", "curl"), ("nft", "nftables")];
        assert_eq!(missing_packages(&tools, |tool| tool == "nft"), ["curl", "iproute2"]);
        assert_eq!(missing_packages(&tools, |_| true), Vec::<&str>::new());
    }

    #[test]
    fn a_package_that_nobody_made_is_not_installed() {
        assert_eq!(not_installed(&["no-such-package-of-guard"]), ["no-such-package-of-guard"]);
    }
}
