//! Building and linting the eBPF program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::toolchain::compiler::Core;
use crate::toolchain::{Toolchain, pins};
use crate::workspace::Workspace;
use crate::{environment, process};

/// Builds the program and puts it where guard-userspace embeds it from.
pub(crate) fn build(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    process::announce("Building the eBPF program");
    process::run(&mut cargo(workspace, toolchain, "build"))?;
    let built = cargo_target(workspace).join(pins::TARGET).join("release/guard");
    let object = std::fs::read(&built).with_context(|| format!("Could not read {}.", built.display()))?;
    let state = if write_if_changed(&workspace.bpf_object(), &object)? { "new" } else { "unchanged" };
    let path = workspace.bpf_object();
    process::announce(&format!("eBPF program: {} ({} KiB, {state})", path.display(), object.len() / 1024));
    Ok(())
}

/// Lints the program with the linter of the compiler that builds it. Warnings are errors.
pub(crate) fn clippy(workspace: &Workspace, toolchain: &Toolchain, driver: &Path) -> Result<()> {
    let mut check = cargo(workspace, toolchain, "check");
    check.env("RUSTC_WORKSPACE_WRAPPER", driver);
    // How `cargo clippy -- -D warnings` tells its driver.
    check.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    process::run(&mut check)
}

fn cargo(workspace: &Workspace, toolchain: &Toolchain, verb: &str) -> Command {
    let Toolchain { compiler, linker } = toolchain;
    let source = workspace.ebpf_crate();
    let mut command = Command::new(cargo_of(toolchain, workspace));
    environment::without_host_build(&mut command).env_remove("RUSTUP_TOOLCHAIN").current_dir(&source);
    // Unstable features of aya-ebpf and inline assembly, also on a stable compiler.
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTC", &compiler.rustc);
    if let Some(directory) = &linker.library_path {
        command.env("LD_LIBRARY_PATH", directory);
    }
    let flags = flags(std::env::consts::ARCH, &linker.path, &remaps(workspace));
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    command.args([verb, "--release", "--target", pins::TARGET, "--target-dir"]).arg(cargo_target(workspace));
    if compiler.core == Some(Core::Source) {
        command.arg("-Zbuild-std=core");
    }
    if source.join("Cargo.lock").is_file() {
        command.arg("--locked");
    }
    command
}

/// The cargo of the toolchain where it has one, because the layout of rust-src changes with it.
fn cargo_of(toolchain: &Toolchain, workspace: &Workspace) -> PathBuf {
    let own = toolchain.compiler.sysroot.join("bin/cargo");
    if toolchain.compiler.core == Some(Core::Source) && own.is_file() {
        return own;
    }
    workspace.cargo.clone()
}

fn cargo_target(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf/cargo")
}

/// BTF, which the maps need, is made only from full debug information and with `--btf`.
fn flags(arch: &str, linker: &Path, remaps: &[(PathBuf, &str)]) -> Vec<String> {
    let mut flags = vec![
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Ctarget-cpu=v3".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // With that, LLVM makes a loop over bytes of each copy that it could make of some words.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    let remap = |(from, to): &(PathBuf, &str)| format!("--remap-path-prefix={}={to}", from.display());
    flags.extend(remaps.iter().map(remap));
    flags
}

/// Keeps this machine's paths out of the object. rustc lets the last match win.
fn remaps(workspace: &Workspace) -> Vec<(PathBuf, &'static str)> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let registry = cargo_home.map(|home| (home.join("registry/src"), "/registry"));
    let own = [(workspace.root.clone(), "/guard"), (workspace.target.clone(), "/target")];
    own.into_iter().chain(registry).collect()
}

/// Leaves an equal file alone: its time of change would make cargo rebuild what embeds it.
fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<bool> {
    if std::fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let directory = path.parent().context("The object's path has no directory.")?;
    std::fs::create_dir_all(directory)
        .with_context(|| format!("Could not create {}.", directory.display()))?;
    // Renamed into place, so that nobody ever embeds half an object.
    let partial = path.with_extension("o.partial");
    std::fs::write(&partial, bytes)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("Could not write {}.", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_name_the_architecture_the_linker_and_btf() {
        let remaps = [(PathBuf::from("/home/u/guard"), "/guard")];
        assert_eq!(
            flags("x86_64", Path::new("/t/bpf-linker"), &remaps),
            [
                "--cfg=bpf_target_arch=\"x86_64\"",
                "-Ctarget-cpu=v3",
                "-Cdebuginfo=2",
                "-Clink-arg=--btf",
                "-Clink-arg=--disable-expand-memcpy-in-order",
                "-Clinker=/t/bpf-linker",
                "--remap-path-prefix=/home/u/guard=/guard",
            ]
        );
    }

    #[test]
    fn an_equal_object_is_left_alone() {
        let directory = std::env::temp_dir().join(format!("guard-xtask-object-{}", std::process::id()));
        let path = directory.join("bpf/guard.o");
        let first = write_if_changed(&path, b"one").unwrap();
        let changed = path.metadata().unwrap().modified().unwrap();
        let second = write_if_changed(&path, b"one").unwrap();
        let unchanged = path.metadata().unwrap().modified().unwrap() == changed;
        let third = write_if_changed(&path, b"two").unwrap();
        let content = std::fs::read(&path).unwrap();
        let files = path.parent().unwrap().read_dir().unwrap().count();
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!((first, second, unchanged, third), (true, false, true, true));
        assert_eq!((content.as_slice(), files), (b"two".as_slice(), 1));
    }
}
