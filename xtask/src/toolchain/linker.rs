//! Finding or installing the bpf-linker that can read a compiler's bitcode.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::compiler::Compiler;
use super::pins;
use super::version::Version;
use crate::workspace::Workspace;
use crate::{environment, process};

/// A bpf-linker that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Linker {
    pub(crate) path: PathBuf,
    /// Where the linker finds its LLVM when it runs, for the kind that borrows the compiler's.
    pub(crate) library_path: Option<PathBuf>,
}

/// Which bpf-linker suits, by where there is an LLVM for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Built against the system's LLVM under this prefix.
    SystemLlvm(PathBuf),
    /// Loads the LLVM in this directory, which the compiler ships.
    CompilerLlvm(PathBuf),
}

impl Kind {
    /// None: there is no LLVM to build a linker with.
    pub(crate) fn for_compiler(compiler: &Compiler) -> Option<Self> {
        let prefix = Path::new(pins::SYSTEM_LLVM_PREFIX);
        let system = prefix.join("bin/llvm-config").is_file().then(|| prefix.to_path_buf());
        Self::choose(system, compiler.own_llvm())
    }

    fn choose(system: Option<PathBuf>, compilers: Option<PathBuf>) -> Option<Self> {
        system.map(Self::SystemLlvm).or(compilers.map(Self::CompilerLlvm))
    }

    fn version(&self) -> &'static str {
        match self {
            Self::SystemLlvm(_) => pins::LINKER_FOR_SYSTEM_LLVM,
            Self::CompilerLlvm(_) => pins::LINKER_FOR_COMPILER_LLVM,
        }
    }

    /// Holds everything that makes two builds of the linker differ, so none is taken for another.
    fn directory_name(&self) -> String {
        match self {
            Self::SystemLlvm(_) => format!("bpf-linker-{}-llvm-{}", self.version(), pins::LLVM),
            Self::CompilerLlvm(_) => format!("bpf-linker-{}", self.version()),
        }
    }

    fn at(&self, path: PathBuf) -> Linker {
        let library_path = match self {
            Self::SystemLlvm(_) => None,
            Self::CompilerLlvm(directory) => Some(directory.clone()),
        };
        Linker { path, library_path }
    }
}

/// A linker that is there already: the one the user names, the one on PATH where it is the pinned
/// version (which reads at least the pinned LLVM), or the one installed here before.
pub(crate) fn find(workspace: &Workspace, kind: Option<&Kind>) -> Result<Option<Linker>> {
    if let Some(given) = std::env::var_os("GUARD_BPF_LINKER") {
        let path = PathBuf::from(given);
        if version_of(&path).is_none() {
            bail!("GUARD_BPF_LINKER names {}, which is no bpf-linker that runs.", path.display());
        }
        return Ok(Some(Linker { path, library_path: None }));
    }
    if let Some(path) = process::find_program("bpf-linker")
        && version_of(&path) == Version::parse(pins::LINKER_FOR_SYSTEM_LLVM)
    {
        return Ok(Some(Linker { path, library_path: None }));
    }
    let Some(kind) = kind else { return Ok(None) };
    let path = root(workspace, kind).join("bin/bpf-linker");
    let runs = version_of(&path).is_some_and(|version| version.to_string() == kind.version());
    Ok(runs.then(|| kind.at(path)))
}

/// Builds the pinned linker into the target directory.
pub(crate) fn install(workspace: &Workspace, kind: &Kind) -> Result<Linker> {
    let root = root(workspace, kind);
    let build = root.join("build");
    process::announce(&format!("Building bpf-linker {} (about a minute, once)", kind.version()));
    let mut cargo = Command::new(&workspace.cargo);
    environment::without_host_build(&mut cargo).current_dir(&workspace.target);
    cargo.args(install_arguments(kind)).arg("--root").arg(&root).arg("--target-dir").arg(&build);
    if let Kind::SystemLlvm(prefix) = kind {
        cargo.env("LLVM_PREFIX", prefix);
    }
    process::run(&mut cargo).context(
        "Could not build bpf-linker: see the compiler's words above; GUARD_BPF_LINKER can name one that \
         you install yourself, for example by `cargo binstall bpf-linker`.",
    )?;
    let path = root.join("bin/bpf-linker");
    if version_of(&path).is_none_or(|version| version.to_string() != kind.version()) {
        bail!(
            "bpf-linker was built, but {} does not run: remove {} and try again.",
            path.display(),
            root.display()
        );
    }
    // Some 300 MB that nothing needs any more; a failure to remove them harms nothing.
    if let Err(error) = std::fs::remove_dir_all(&build) {
        process::announce(&format!("Could not remove {}: {error}", build.display()));
    }
    Ok(kind.at(path))
}

fn root(workspace: &Workspace, kind: &Kind) -> PathBuf {
    workspace.target.join("tools").join(kind.directory_name())
}

/// `--force`, because this runs only when what is installed does not work.
fn install_arguments(kind: &Kind) -> Vec<String> {
    let mut arguments =
        ["install", "bpf-linker", "--locked", "--force", "--version"].map(str::to_owned).to_vec();
    arguments.push(format!("={}", kind.version()));
    if let Kind::SystemLlvm(_) = kind {
        arguments.push("--no-default-features".to_owned());
        arguments.push(format!("--features=llvm-{}", pins::LLVM));
    }
    arguments
}

fn version_of(linker: &Path) -> Option<Version> {
    let answer = process::answer(Command::new(linker).arg("--version")).ok()?;
    Version::of_tool("bpf-linker", &answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> Kind {
        Kind::SystemLlvm("/usr/lib/llvm-22".into())
    }

    fn compilers() -> Kind {
        Kind::CompilerLlvm("/home/u/.rustup/toolchains/nightly/lib".into())
    }

    #[test]
    fn the_systems_llvm_comes_first_and_none_means_none() {
        let (own, prefix) = ("/home/u/.rustup/toolchains/nightly/lib", "/usr/lib/llvm-22");
        assert_eq!(Kind::choose(Some(prefix.into()), Some(own.into())), Some(system()));
        assert_eq!(Kind::choose(None, Some(own.into())), Some(compilers()));
        assert_eq!(Kind::choose(None, None), None);
    }

    #[test]
    fn each_kind_is_installed_with_its_features() {
        let arguments = install_arguments(&system()).join(" ");
        assert_eq!(
            arguments,
            "install bpf-linker --locked --force --version =0.13.0 --no-default-features --features=llvm-22"
        );
        let arguments = install_arguments(&compilers()).join(" ");
        assert_eq!(arguments, "install bpf-linker --locked --force --version =0.10.3");
    }

    #[test]
    fn the_kinds_never_share_a_directory() {
        assert_ne!(system().directory_name(), compilers().directory_name());
    }

    #[test]
    fn only_the_borrowing_kind_needs_a_library_path() {
        assert_eq!(system().at("/l".into()).library_path, None);
        assert!(compilers().at("/l".into()).library_path.is_some());
    }
}
