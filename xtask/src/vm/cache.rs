//! Kernels below `target/vm`: what is there needs no network.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::archive::{Archive, Found};
use super::directory;
use super::kernels::Kernel;
use crate::process;
use crate::workspace::Workspace;

/// Each needs only those before it.
const MODULES: [&str; 11] =
    ["llc", "stp", "bridge", "veth", "inet_diag", "tcp_diag", "garp", "mrp", "8021q", "tls", "bonding"];

/// A kernel on this disk.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// What `uname -r` says on it.
    pub(crate) release: String,
    pub(crate) image: PathBuf,
    /// In the order in which they can be loaded.
    pub(crate) modules: Vec<PathBuf>,
}

/// The kernel of that name, from this disk or else from the archive.
///
/// `refresh` looks into the archive for a newer one in any case.
pub(crate) fn get(workspace: &Workspace, kernel: &Kernel, refresh: bool) -> Result<Unpacked> {
    let home = directory(workspace).join("kernels").join(kernel.name);
    let here = open(&home)?;
    if let (Some(here), false) = (&here, refresh) {
        process::announce(&format!("Kernel {}: {}, downloaded before", kernel.name, here.release));
    } else {
        let archive = Archive::open(directory(workspace).join("apt"))?;
        let found = look_up(&archive, kernel)?;
        if here.is_none_or(|here| here.release != found.release) {
            process::announce(&format!("Kernel {}: downloading {}", kernel.name, found.release));
            download(&archive, &found, &home)?;
        }
    }
    open(&home)?.with_context(|| format!("There is no kernel in {}.", home.display()))
}

/// The newest that any suite has. Why a suite gives none is said, and is an error only when no other does.
fn look_up(archive: &Archive, kernel: &Kernel) -> Result<Found> {
    let mut newest: Option<Found> = None;
    for &suite in kernel.suites {
        match archive.newest(suite) {
            Ok(found) if !found.release.starts_with(kernel.series) => {
                process::announce(&format!("The newest kernel of {suite} is {}", found.release));
            }
            Ok(found) => {
                if newest.as_ref().is_none_or(|newest| version(&found.release) > version(&newest.release)) {
                    newest = Some(found);
                }
            }
            Err(error) => process::announce(&format!("{error:#}")),
        }
    }
    newest.with_context(|| format!("Debian's archive does not give it ({}).", kernel.suites.join(", ")))
}

/// The figures of a release, which sort as releases do.
fn version(release: &str) -> Vec<u64> {
    let figures = release.split(|letter: char| !letter.is_ascii_digit());
    figures.filter_map(|figures| figures.parse().ok()).collect()
}

/// Puts what is needed of a kernel in its place, all of it or nothing.
fn download(archive: &Archive, found: &Found, home: &Path) -> Result<()> {
    let partial = home.with_extension("partial");
    let wanted = partial.join("wanted");
    remove(&partial)?;
    fs::create_dir_all(&wanted).with_context(|| format!("Could not create {}.", wanted.display()))?;
    let packages = partial.join("packages");
    archive.unpack(found, &packages)?;
    let take = |name: &str, of: &Path| {
        fs::rename(of, wanted.join(name)).with_context(|| format!("Could not move {}.", of.display()))
    };
    take("vmlinuz", &find(&packages, |name| name.starts_with("vmlinuz"))?)?;
    for module in MODULES {
        let file = find(&packages, |name| module_name(name) == Some(module))?;
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or(module);
        take(name, &file)?;
    }
    fs::write(wanted.join("release"), &found.release).context("Could not write the kernel's release.")?;
    remove(home)?;
    fs::rename(&wanted, home).with_context(|| format!("Could not create {}.", home.display()))?;
    remove(&partial)
}

/// The kernel in a directory, if there is one with all that is needed.
fn open(home: &Path) -> Result<Option<Unpacked>> {
    let Ok(release) = fs::read_to_string(home.join("release")) else { return Ok(None) };
    let module = |module: &str| find(home, |name| module_name(name) == Some(module)).ok();
    let modules: Option<Vec<_>> = MODULES.into_iter().map(module).collect();
    Ok(modules.map(|modules| Unpacked { release, image: home.join("vmlinuz"), modules }))
}

/// The module that a file holds, compressed or not.
fn module_name(file: &str) -> Option<&str> {
    file.split_once(".ko").map(|(name, _)| name)
}

/// The one file with such a name in a tree.
fn find(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut directories = vec![directory.to_path_buf()];
    while let Some(next) = directories.pop() {
        for entry in next.read_dir().with_context(|| format!("Could not list {}.", next.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            } else if entry.file_name().to_str().is_some_and(&is_wanted) {
                return Ok(entry.path());
            }
        }
    }
    bail!("The packages of the kernel lack a file that is needed, in {}.", directory.display())
}

fn remove(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    fs::remove_dir_all(directory).with_context(|| format!("Could not remove {}.", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_sort_by_their_figures() {
        let sorted =
            ["6.1.0-9-cloud-amd64", "6.1.0-50-cloud-amd64", "6.12.9+deb13-cloud-amd64", "6.12.95+deb12"];
        assert!(sorted.is_sorted_by_key(|release| version(release)), "{sorted:?}");
    }

    #[test]
    fn a_module_is_found_whether_or_not_it_is_compressed() {
        assert_eq!(module_name("veth.ko"), Some("veth"));
        assert_eq!(module_name("veth.ko.xz"), Some("veth"));
        assert_eq!(module_name("vmlinuz"), None);
    }
}
