//! Finding a rustc that can build for BPF.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::pins;
use super::version::{CompilerVersion, Version};
use crate::process;

/// A rustc that was looked at, whether it fits or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Compiler {
    /// The real binary, never rustup's proxy: the proxy would choose again at each call.
    pub(crate) rustc: PathBuf,
    pub(crate) sysroot: PathBuf,
    pub(crate) version: CompilerVersion,
    pub(crate) core: Option<Core>,
}

/// Where `core` for BPF comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// It is part of the installation.
    Prebuilt,
    /// Its source is: cargo builds it.
    Source,
}

/// Why a rustc cannot build the eBPF program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    TooOld(Version),
    LlvmTooNew(u32),
    NoCore,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooOld(found) => {
                write!(f, "it is {found}, older than {}", pins::MINIMUM_RUSTC)
            }
            Self::LlvmTooNew(llvm) => {
                write!(f, "its LLVM {llvm} is newer than the LLVM {} of bpf-linker", pins::LLVM)
            }
            Self::NoCore => write!(f, "it has neither a prebuilt core for {} nor rust-src", pins::TARGET),
        }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.core {
            Some(Core::Prebuilt) => "prebuilt core",
            Some(Core::Source) => "core from source",
            None => "no core",
        };
        let CompilerVersion { release, llvm } = self.version;
        write!(f, "{} {release} (LLVM {llvm}, {core})", self.rustc.display())
    }
}

impl Compiler {
    /// Asks a rustc what it is. None: it does not run, or it is no rustc.
    fn probe(rustc: &Path) -> Option<Self> {
        let sysroot = process::answer(Command::new(rustc).args(["--print", "sysroot"])).ok()?;
        let sysroot = PathBuf::from(sysroot.trim());
        let real = sysroot.join("bin/rustc");
        let rustc = if real.is_file() { real } else { rustc.to_path_buf() };
        let version = process::answer(Command::new(&rustc).arg("-vV")).ok()?;
        let version = CompilerVersion::parse(&version)?;
        let core = core_in(&sysroot);
        Some(Self { rustc, sysroot, version, core })
    }

    pub(crate) fn judge(&self) -> Result<(), Unfit> {
        let CompilerVersion { release, llvm } = self.version;
        if release < pins::MINIMUM_RUSTC {
            return Err(Unfit::TooOld(release));
        }
        if llvm > pins::LLVM {
            return Err(Unfit::LlvmTooNew(llvm));
        }
        self.core.map(|_| ()).ok_or(Unfit::NoCore)
    }

    /// The linter of the very same build: another one cannot read this compiler's `core`.
    pub(crate) fn clippy_driver(&self) -> Option<PathBuf> {
        let driver = self.sysroot.join("bin/clippy-driver");
        driver.is_file().then_some(driver)
    }

    /// The directory of the LLVM that this compiler ships as a shared library, as rustup's do.
    pub(crate) fn own_llvm(&self) -> Option<PathBuf> {
        let directory = self.sysroot.join("lib");
        let own = |name: &str| name.starts_with("libLLVM") && name.contains("-rust-");
        has_entry(&directory, own).then_some(directory)
    }
}

/// The compiler to use, or what was looked at and why nothing fits.
pub(crate) fn find() -> Result<Result<Compiler, Vec<String>>> {
    if let Some(given) = std::env::var_os("GUARD_BPF_RUSTC") {
        return given_compiler(Path::new(&given)).map(Ok);
    }
    let mut refused = Vec::new();
    let mut seen = Vec::new();
    for candidate in candidates() {
        let Some(compiler) = Compiler::probe(&candidate) else { continue };
        if seen.contains(&compiler.rustc) {
            continue;
        }
        match compiler.judge() {
            Ok(()) => return Ok(Ok(compiler)),
            Err(unfit) => refused.push(format!("{}: {unfit}", compiler.rustc.display())),
        }
        seen.push(compiler.rustc);
    }
    Ok(Err(refused))
}

fn given_compiler(path: &Path) -> Result<Compiler> {
    let compiler = Compiler::probe(path)
        .with_context(|| format!("GUARD_BPF_RUSTC names {}, which is no rustc that runs.", path.display()))?;
    if let Err(unfit) = compiler.judge() {
        bail!("GUARD_BPF_RUSTC names {}, but {unfit}.", path.display());
    }
    Ok(compiler)
}

fn candidates() -> Vec<PathBuf> {
    let rustup = [pins::RUSTUP_TOOLCHAIN, "nightly", "stable"].into_iter().filter_map(rustup_compiler);
    rustup.chain([PathBuf::from("rustc"), PathBuf::from("/usr/bin/rustc")]).collect()
}

fn rustup_compiler(toolchain: &str) -> Option<PathBuf> {
    let mut which = Command::new("rustup");
    // Only a look: a toolchain that is absent must not be downloaded by it.
    which.args(["which", "--toolchain", toolchain, "rustc"]).env("RUSTUP_AUTO_INSTALL", "0");
    process::answer(&mut which).ok().map(|path| PathBuf::from(path.trim()))
}

fn core_in(sysroot: &Path) -> Option<Core> {
    let libraries = sysroot.join("lib/rustlib").join(pins::TARGET).join("lib");
    if has_entry(&libraries, |name| name.starts_with("libcore-") && name.ends_with(".rlib")) {
        return Some(Core::Prebuilt);
    }
    sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").is_file().then_some(Core::Source)
}

fn has_entry(directory: &Path, matches: impl Fn(&str) -> bool) -> bool {
    let Ok(mut entries) = directory.read_dir() else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(&matches)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(minor: u32, llvm: u32, core: Option<Core>) -> Compiler {
        let release = Version { major: 1, minor, patch: 0 };
        let version = CompilerVersion { release, llvm };
        Compiler { rustc: "/usr/bin/rustc".into(), sysroot: "/usr".into(), version, core }
    }

    #[test]
    fn a_compiler_fits_by_release_llvm_and_core() {
        let old = Version { major: 1, minor: 95, patch: 0 };
        let cases = [
            (compiler(96, 22, Some(Core::Prebuilt)), Ok(())),
            (compiler(97, 22, Some(Core::Source)), Ok(())),
            (compiler(96, 21, Some(Core::Source)), Ok(())),
            (compiler(95, 22, Some(Core::Prebuilt)), Err(Unfit::TooOld(old))),
            (compiler(99, 23, Some(Core::Source)), Err(Unfit::LlvmTooNew(23))),
            (compiler(97, 22, None), Err(Unfit::NoCore)),
        ];
        for (compiler, expected) in cases {
            assert_eq!(compiler.judge(), expected, "{compiler}");
        }
    }

    #[test]
    fn core_is_found_prebuilt_before_source() {
        let sysroot = std::env::temp_dir().join(format!("guard-xtask-sysroot-{}", std::process::id()));
        let library = sysroot.join("lib/rustlib/bpfel-unknown-none/lib");
        let source = sysroot.join("lib/rustlib/src/rust/library");
        std::fs::create_dir_all(&library).unwrap();
        std::fs::create_dir_all(&source).unwrap();
        let empty = core_in(&sysroot);
        std::fs::write(source.join("Cargo.lock"), "").unwrap();
        let from_source = core_in(&sysroot);
        std::fs::write(library.join("libcore-8056e5e5b270ef4d.rlib"), "").unwrap();
        let prebuilt = core_in(&sysroot);
        std::fs::remove_dir_all(&sysroot).unwrap();
        assert_eq!((empty, from_source, prebuilt), (None, Some(Core::Source), Some(Core::Prebuilt)));
    }
}
