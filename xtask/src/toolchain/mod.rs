//! What the eBPF build needs: found, or set up.
//!
//! A compiler with `core` for BPF and a linker whose LLVM can read that compiler's bitcode.
//! `docs/development.md` tells how the choice is made; `pins` holds every version.

pub(crate) mod compiler;
pub(crate) mod linker;
pub(crate) mod pins;
pub(crate) mod tool;
pub(crate) mod version;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::consent::Consent;
use crate::workspace::Workspace;
use crate::{packages, process};
use compiler::Compiler;
use linker::Linker;

/// Everything that a build for BPF runs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: Linker,
}

/// Finds a toolchain; what is missing is installed, with the user's consent.
pub(crate) fn ensure(workspace: &Workspace, consent: Consent) -> Result<Toolchain> {
    let compiler = match compiler::find()? {
        Ok(compiler) => compiler,
        Err(refused) => {
            for reason in &refused {
                process::announce(&format!("Cannot build eBPF with {reason}"));
            }
            set_up_compiler(consent)?
        }
    };
    process::announce(&format!("eBPF compiler: {compiler}"));
    let linker = ensure_linker(workspace, &compiler, consent)?;
    process::announce(&format!("eBPF linker: {}", linker.path.display()));
    Ok(Toolchain { compiler, linker })
}

/// Ways to get a compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Debian,
    Rustup,
}

/// The ways worth trying, in order.
fn sources(is_debian: bool, has_rustup: bool) -> Vec<Source> {
    let debian = is_debian.then_some(Source::Debian);
    let rustup = has_rustup.then_some(Source::Rustup);
    debian.into_iter().chain(rustup).collect()
}

fn set_up_compiler(consent: Consent) -> Result<Compiler> {
    let sources = sources(is_debian(), process::find_program("rustup").is_some());
    for (tried, source) in sources.iter().enumerate() {
        let installed = match source {
            Source::Debian => packages::install(&pins::DEBIAN_PACKAGES, consent),
            Source::Rustup => install_rustup_toolchain(consent),
        };
        match installed {
            Ok(()) => {}
            Err(error) if tried + 1 < sources.len() => process::announce(&format!("{error:#}")),
            Err(error) => return Err(error),
        }
        if let Ok(compiler) = compiler::find()? {
            return Ok(compiler);
        }
    }
    bail!(
        "No compiler here can build the eBPF program: install rustup (https://rustup.rs), run `{}`, then run \
         this again; or set GUARD_BPF_RUSTC to a rustc {} or newer that has rust-src.",
        show_rustup_install(),
        pins::MINIMUM_RUSTC
    )
}

fn ensure_linker(workspace: &Workspace, compiler: &Compiler, consent: Consent) -> Result<Linker> {
    let mut kind = linker::Kind::for_compiler(compiler);
    if let Some(linker) = linker::find(workspace, kind.as_ref())? {
        return Ok(linker);
    }
    if kind.is_none() && is_debian() {
        packages::install(&packages::not_installed(&pins::DEBIAN_PACKAGES), consent)?;
        kind = linker::Kind::for_compiler(compiler);
    }
    let kind = kind.with_context(|| {
        format!(
            "No LLVM {} for bpf-linker: install it (Debian: llvm-{0}-dev) at {}, or set GUARD_BPF_LINKER to a \
             bpf-linker {}, which `cargo binstall bpf-linker` installs.",
            pins::LLVM,
            pins::SYSTEM_LLVM_PREFIX,
            pins::LINKER_FOR_SYSTEM_LLVM
        )
    })?;
    linker::install(workspace, &kind)
}

/// The linter that belongs to the compiler; only the tests need it, so only they install it.
pub(crate) fn ensure_linter(compiler: &Compiler, consent: Consent) -> Result<PathBuf> {
    if let Some(driver) = compiler.clippy_driver() {
        return Ok(driver);
    }
    let of_debian = is_debian() && compiler.sysroot == Path::new("/usr");
    if of_debian {
        packages::install(&packages::not_installed(&pins::DEBIAN_PACKAGES), consent)?;
    }
    compiler.clippy_driver().with_context(|| {
        format!(
            "The compiler {} has no linter beside it: run `rustup component add clippy --toolchain NAME` if it \
             is one of rustup's, or install clippy from where it came from.",
            compiler.rustc.display()
        )
    })
}

fn install_rustup_toolchain(consent: Consent) -> Result<()> {
    consent.ask(&format!("the Rust toolchain {} (by rustup, for you only)", pins::RUSTUP_TOOLCHAIN))?;
    process::run(Command::new("rustup").args(rustup_install_arguments()))
        .with_context(|| format!("Could not install the eBPF compiler: run `{}`.", show_rustup_install()))
}

fn rustup_install_arguments() -> Vec<&'static str> {
    let mut arguments = vec!["toolchain", "install", pins::RUSTUP_TOOLCHAIN, "--profile", "minimal"];
    for component in pins::RUSTUP_COMPONENTS {
        arguments.extend(["--component", component]);
    }
    arguments
}

fn show_rustup_install() -> String {
    format!("rustup {}", rustup_install_arguments().join(" "))
}

fn is_debian() -> bool {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    names_debian(&release) && process::find_program("apt-get").is_some()
}

/// Debian itself: what derives from it (Ubuntu, ...) does not carry these packages.
fn names_debian(os_release: &str) -> bool {
    os_release.lines().any(|line| matches!(line.trim(), "ID=debian" | "ID=\"debian\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_uses_its_packages_first_and_others_use_rustup() {
        assert_eq!(sources(true, true), [Source::Debian, Source::Rustup]);
        assert_eq!(sources(true, false), [Source::Debian]);
        assert_eq!(sources(false, true), [Source::Rustup]);
        assert_eq!(sources(false, false), []);
    }

    #[test]
    fn only_debian_itself_is_debian() {
        let cases = [
            ("PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nID=debian\n", true),
            ("ID=\"debian\"\n", true),
            ("ID=ubuntu\nID_LIKE=debian\n", false),
            ("ID=fedora\n", false),
            ("", false),
        ];
        for (text, expected) in cases {
            assert_eq!(names_debian(text), expected, "{text:?}");
        }
    }

    #[test]
    fn the_rustup_command_brings_the_source_of_core() {
        let shown = show_rustup_install();
        assert!(shown.starts_with("rustup toolchain install nightly-"), "{shown}");
        assert!(shown.contains("--component rust-src"), "{shown}");
    }
}
