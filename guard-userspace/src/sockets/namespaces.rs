//! The network namespaces of this host: those that a process is in, and those that have a name.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where namespaces are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// A file system as that at `/proc`.
    pub processes: PathBuf,
    /// Directories of files that are namespaces.
    pub named: Vec<PathBuf>,
}

impl Default for Places {
    /// Those of `ip netns` (also of containerd and podman) and of Docker.
    fn default() -> Self {
        let named = ["/run/netns", "/run/docker/netns"];
        Self { processes: "/proc".into(), named: named.map(Into::into).to_vec() }
    }
}

/// A namespace, as the kernel tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// The file system that all namespaces are on.
    pub(super) device: u64,
    pub(super) inode: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// By inode, with files that lead to it: a process may end before its file is opened.
    pub(super) namespaces: BTreeMap<u64, Vec<PathBuf>>,
    /// Processes that do not show this one where they are.
    pub(super) hidden: usize,
}

const FILES_A_NAMESPACE: usize = 4;

/// The network namespace of this thread.
pub(super) fn own() -> io::Result<Identity> {
    let metadata = fs::metadata("/proc/thread-self/ns/net")?;
    Ok(Identity { device: metadata.dev(), inode: metadata.ino() })
}

/// All namespaces but `own`. What goes away meanwhile is not there.
pub(super) fn find(places: &Places, own: Identity) -> Found {
    let mut found = Found::default();
    // Files with names first: they are there for longer.
    for file in places.named.iter().flat_map(|directory| entries(directory)) {
        let Ok(metadata) = fs::metadata(&file) else { continue };
        if metadata.dev() == own.device {
            found.add(metadata.ino(), own, file);
        }
    }
    for process in entries(&places.processes) {
        if !is_number(&process) {
            continue;
        }
        let file = process.join("ns/net");
        match fs::read_link(&file) {
            Ok(target) => {
                if let Some(inode) = target.to_str().and_then(inode) {
                    found.add(inode, own, file);
                }
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => found.hidden += 1,
            Err(_) => {}
        }
    }
    found
}

/// The processes, each with the inode of its network namespace where it shows that.
pub(super) fn processes(directory: &Path) -> impl Iterator<Item = (u32, Option<u64>)> + use<> {
    entries(directory).filter_map(|process| {
        let number = process.file_name()?.to_str()?.parse().ok()?;
        let target = fs::read_link(process.join("ns/net")).ok();
        Some((number, target.and_then(|target| inode(target.to_str()?))))
    })
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_number(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
}

/// Of `net:[4026531840]`.
fn inode(target: &str) -> Option<u64> {
    target.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

impl Found {
    fn add(&mut self, inode: u64, own: Identity, file: PathBuf) {
        if inode == own.inode {
            return;
        }
        let files = self.namespaces.entry(inode).or_default();
        if files.len() < FILES_A_NAMESPACE {
            files.push(file);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const OWN: Identity = Identity { device: 4, inode: 1 };

    #[test]
    fn namespaces_are_told_apart_by_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let processes = directory.path().to_path_buf();
        let process = |name: &str, target: &str| {
            fs::create_dir_all(processes.join(name).join("ns")).unwrap();
            symlink(target, processes.join(name).join("ns/net")).unwrap();
        };
        for (name, target) in [
            ("1", "net:[1]"),
            ("20", "net:[7]"),
            ("21", "net:[8]"),
            ("22", "net:[7]"),
            ("self", "net:[9]"),
            ("23", "mnt:[10]"),
            ("24", "net:[x]"),
        ] {
            process(name, target);
        }
        fs::create_dir(processes.join("25")).unwrap();
        fs::write(processes.join("uptime"), "").unwrap();
        let nowhere = processes.join("none");
        let found = find(&Places { processes, named: vec![nowhere.clone()] }, OWN);
        assert_eq!(found.namespaces.keys().collect::<Vec<_>>(), [&7, &8]);
        assert_eq!((found.namespaces[&7].len(), found.hidden), (2, 0));
        assert_eq!(find(&Places { processes: nowhere, named: Vec::new() }, OWN), Found::default());
    }

    #[test]
    fn a_file_that_is_no_namespace_is_not_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("left-behind"), "").unwrap();
        symlink("/proc/self/ns/net", directory.path().join("own")).unwrap();
        symlink("/proc/self/ns/mnt", directory.path().join("another")).unwrap();
        let places =
            Places { processes: directory.path().join("none"), named: vec![directory.path().into()] };
        let own = own().unwrap();
        let mount = fs::metadata("/proc/self/ns/mnt").unwrap().ino();
        assert_eq!(find(&places, own).namespaces.keys().collect::<Vec<_>>(), [&mount]);
    }
}
