//! Every version that the eBPF build, fuzzing and the look at dependencies depend on, in one place.
//!
//! Those of the eBPF build belong together: bpf-linker must be built for an LLVM that is at least as new as the LLVM
//! inside the rustc whose bitcode it reads. Change one, run `cargo xtask test`, commit.

use super::version::Version;

/// The oldest compiler that the eBPF crate is known to build with.
pub(crate) const MINIMUM_RUSTC: Version = Version { major: 1, minor: 96, patch: 0 };

/// The newest LLVM that the linkers below can read.
pub(crate) const LLVM: u32 = 22;

/// The linker where this LLVM is installed on the system (Debian's `llvm-22-dev`).
pub(crate) const LINKER_FOR_SYSTEM_LLVM: &str = "0.13.0";

/// The linker elsewhere: the last one that can borrow the LLVM inside rustup's rustc.
pub(crate) const LINKER_FOR_COMPILER_LLVM: &str = "0.10.3";

/// Rust 1.97 with LLVM 22. A dated nightly, because the nightly of the day may carry an LLVM that
/// no linker reads yet.
pub(crate) const RUSTUP_TOOLCHAIN: &str = "nightly-2026-05-20";

/// What rustup adds to it: the source of `core`, which is built for BPF, and the linter.
pub(crate) const RUSTUP_COMPONENTS: [&str; 2] = ["rust-src", "clippy"];

/// Debian's compiler, its prebuilt `core` for BPF, the matching linter, and LLVM for the linker.
pub(crate) const DEBIAN_PACKAGES: [&str; 4] =
    ["rustc-web", "libstd-rust-web-dev-bpf", "rust-web-clippy", "llvm-22-dev"];

/// Where Debian's LLVM lies.
pub(crate) const SYSTEM_LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What the eBPF program is compiled for. Little-endian, as are the hosts that GPUs sit in.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// What builds the fuzz targets.
pub(crate) const CARGO_FUZZ: &str = "0.13.2";

/// What looks at the crates that guard is made of.
pub(crate) const CARGO_DENY: &str = "0.20.2";

/// What changes the code to see whether a test notices.
pub(crate) const CARGO_MUTANTS: &str = "27.1.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_hold_the_llvm_version_agree_with_it() {
        assert!(DEBIAN_PACKAGES.contains(&format!("llvm-{LLVM}-dev").as_str()));
        assert_eq!(SYSTEM_LLVM_PREFIX, format!("/usr/lib/llvm-{LLVM}"));
    }
}
