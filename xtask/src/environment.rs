//! Keeping this cargo's settings out of the cargo that builds for BPF.
//!
//! `cargo xtask` runs under cargo, so it inherits what cargo sets for the host build, and what the
//! user set for it. None of that is meant for another compiler and another target. What cargo needs
//! to reach its registry (CARGO_HOME, CARGO_HTTP_*, CARGO_NET_*, CARGO_REGISTR*, proxies) stays.

use std::process::Command;

const NAMES: [&str; 14] = [
    "CARGO",
    "CARGO_CRATE_NAME",
    "CARGO_ENCODED_RUSTDOCFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CARGO_PRIMARY_PACKAGE",
    "LD_LIBRARY_PATH",
    "RUSTC",
    "RUSTC_BOOTSTRAP",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

const PREFIXES: [&str; 7] = [
    "CARGO_BIN_",
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
];

/// Whether a variable steers a build, and so must not reach a build for another target.
fn steers_builds(name: &str) -> bool {
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Removes every setting of the host build from a command's environment.
pub(crate) fn without_host_build(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(steers_builds) {
            command.env_remove(name);
        }
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_settings_go_and_access_settings_stay() {
        let go = [
            "RUSTFLAGS",
            "RUSTC_WRAPPER",
            "CARGO",
            "CARGO_BUILD_RUSTC",
            "CARGO_BUILD_TARGET",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_MANIFEST_DIR",
            "CARGO_PKG_VERSION",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_DIR",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
            "LD_LIBRARY_PATH",
        ];
        for name in go {
            assert!(steers_builds(name), "{name}");
        }
        let stay = [
            "PATH",
            "HOME",
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_CRATES_IO_PROTOCOL",
            "CARGO_REGISTRY_DEFAULT",
            "CARGO_TERM_COLOR",
            "RUSTUP_HOME",
            "RUSTUP_TOOLCHAIN",
            "https_proxy",
            "SSL_CERT_FILE",
        ];
        for name in stay {
            assert!(!steers_builds(name), "{name}");
        }
    }
}
