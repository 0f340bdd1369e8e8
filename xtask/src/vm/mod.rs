//! Other kernels, under qemu: Debian's, unpacked from their packages, with an initramfs that holds the programs as they were built
//! here.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`kernels`] | which kernels, and what must happen on each |
//! | [`archive`] | Debian's archive, through an apt of its own |
//! | [`cache`] | a kernel's image and modules below `target/vm` |
//! | [`programs`] | the tests that run inside |
//! | [`image`] | the initramfs |
//! | [`machine`] | one run of qemu |
//! | [`report`] | what the console must say |

pub(crate) mod archive;
pub(crate) mod cache;
pub(crate) mod image;
pub(crate) mod kernels;
pub(crate) mod machine;
pub(crate) mod programs;
pub(crate) mod report;

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::Workspace;

/// Where all of it lies.
pub(crate) fn directory(workspace: &Workspace) -> PathBuf {
    workspace.target.join("vm")
}

/// Makes that directory this process' own until the returned file is closed: images and logs have fixed names.
pub(crate) fn lock(workspace: &Workspace) -> Result<File> {
    let directory = directory(workspace);
    let lock = fs::create_dir_all(&directory).and_then(|()| File::create(directory.join("lock")));
    let lock = lock.with_context(|| format!("Could not write to {}.", directory.display()))?;
    if lock.try_lock().is_err() {
        process::announce("Waiting for another `cargo xtask vm`");
        lock.lock().context("Could not lock the directory of the virtual machines.")?;
    }
    Ok(lock)
}
