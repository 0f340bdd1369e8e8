//! Where maps and links lie in bpffs.
//!
//! ```text
//! /sys/fs/bpf/guard/            GUARD_PIN_PATH
//!   abi-1-1/EPOCH, BLOCKS, …    a set of maps: the version of their layout, and a number, see [`MapSet`]
//!   links/3-native, 5-generic   a link by the index of its interface, and how it is attached
//!   lock                        the directory that is locked by who changes the others
//!   netns-12, asked-3-12ab…     what is known of the links, see `records`
//!   tracker/PROGRAM             the links of the programs that count connections
//! ```

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Error, Mode, bpf};
use trust::{is_name_of_guard, is_plain};

mod records;
mod sets;
mod trust;

pub use sets::MapSet;

const BPFFS: &str = "/sys/fs/bpf";
/// Nobody else may look into it: to lock a directory, it takes no more than to open it.
const PRIVATE: u32 = 0o700;
const LOCK: &str = "lock";

/// How long a process waits for another that changes what is pinned. A command takes a second for a million blocks.
const PATIENCE: Duration = Duration::from_secs(2);
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// Held by the one process that changes what is pinned; the kernel lets go of it however the process ends.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "it is held, not read")] Flock<File>);

/// The pin directory of one guard.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether anything of guard is pinned here. Where the kernel does not tell, something may be.
    pub fn exist(&self) -> bool {
        self.root.try_exists().unwrap_or(true)
    }

    pub(super) fn link(&self, index: u32, mode: Mode) -> PathBuf {
        self.links().join(format!("{index}-{}", mode.name()))
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The link of a program that counts connections.
    pub(super) fn tracker(&self, program: &str) -> PathBuf {
        self.tracker_directory().join(program)
    }

    /// The one that takes over.
    pub(super) fn next_tracker(&self, program: &str) -> PathBuf {
        self.tracker_directory().join(format!("{program}-next"))
    }

    fn tracker_directory(&self) -> PathBuf {
        self.root.join("tracker")
    }

    pub(super) fn prepare_tracker(&self) -> Result<(), Error> {
        create(self.tracker_directory())
    }

    /// Makes the directories, and mounts a BPF file system where there is none.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        // Where the kernel does not tell, nothing is mounted: another mount would hide the pins of every guard.
        if !self.lie_in_bpffs()? {
            self.mount()?;
        }
        self.check_owner()?;
        create(self.links())?;
        // Another user may have been faster.
        self.check_owner()?;
        // Older builds let others look into it. Root may find that of another user, who does it then.
        let _ = fs::set_permissions(&self.root, fs::Permissions::from_mode(PRIVATE));
        Ok(())
    }

    /// Makes this process the only one that changes what is pinned here. Waits for a moment, as for a command that is about to end.
    ///
    /// # Errors
    /// When another process stays the only one.
    pub fn alone(&self) -> Result<Alone, Error> {
        self.check_owner()?;
        self.require_bpffs()?;
        let path = self.root.join(LOCK);
        let failed = |source| Error::File { action: "cannot lock", path: path.clone(), source };
        let begin = Instant::now();
        loop {
            make_private(&path).map_err(failed)?;
            let directory = File::open(&path).map_err(failed)?;
            let inode = directory.metadata().map_err(failed)?.ino();
            match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
                // Another process may have removed it and made it anew meanwhile.
                Ok(lock) if inode_of(&path).map_err(failed)? == Some(inode) => return Ok(Alone(lock)),
                Ok(_) | Err((_, Errno::EWOULDBLOCK)) if begin.elapsed() < PATIENCE => {
                    thread::sleep(BETWEEN_TRIES)
                }
                Ok(_) | Err((_, Errno::EWOULDBLOCK)) => return Err(Error::PinsInUse(self.root.clone())),
                Err((_, errno)) => return Err(failed(errno.into())),
            }
        }
    }

    /// Whether they are, or would be, in a BPF file system.
    fn lie_in_bpffs(&self) -> Result<bool, Error> {
        for path in self.root.ancestors() {
            let failed = |source| Error::File { action: "cannot look at", path: path.into(), source };
            if path.try_exists().map_err(failed)? {
                return is_bpffs(path).map_err(failed);
            }
        }
        Ok(false)
    }

    /// Many machines boot without a BPF file system; one that is mounted here lives until the next boot.
    fn mount(&self) -> Result<(), Error> {
        let failed = |source| Error::NoBpfFs { path: self.root.clone(), source };
        if !self.root.starts_with(BPFFS) {
            return Err(failed(io::Error::new(
                ErrorKind::InvalidInput,
                format!("the pins are not below {BPFFS}"),
            )));
        }
        mount(
            Some("bpf"),
            BPFFS,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .map_err(|errno| failed(errno.into()))
    }

    /// The pinned links: the index of the interface, the mode, and the link.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn pinned_links(&self) -> Result<Vec<(u32, Mode, PathBuf)>, Error> {
        let mut links = Vec::new();
        for path in entries(&self.links())? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let parsed = name
                .split_once('-')
                .and_then(|(index, mode)| Some((index.parse().ok()?, Mode::named(mode)?)));
            if let Some((index, mode)) = parsed {
                links.push((index, mode, path));
            }
        }
        Ok(links)
    }

    /// Cuts and removes the links of some interfaces, by their index. Returns the indices.
    pub(super) fn remove_links(&self, of: impl Fn(u32) -> bool) -> Result<Vec<u32>, Error> {
        let mut links = self.pinned_links()?;
        links.retain(|(index, ..)| of(*index));
        for (_, _, path) in &links {
            cut(path)?;
            remove(path, |path| fs::remove_file(path))?;
        }
        Ok(links.into_iter().map(|(index, ..)| index).collect())
    }

    /// Cuts every link off its interface and leaves the pins, as `bpftool link detach` does: for tests of what guard does then.
    ///
    /// # Errors
    /// When a link cannot be cut.
    pub fn cut_links(&self) -> Result<(), Error> {
        self.pinned_links()?.iter().try_for_each(|(_, _, path)| cut(path))
    }

    /// Takes guard out of the kernel, as the only process that changes it. Returns how many links there were.
    ///
    /// # Errors
    /// When another process stays the only one, and those of [`remove_all`](Self::remove_all).
    pub fn detach(&self) -> Result<usize, Error> {
        if !self.exist() {
            return Ok(0);
        }
        let _alone = self.alone()?;
        self.remove_all()
    }

    /// Takes guard out of the kernel: every link is cut, every pin removed, also those of other builds and those of a
    /// start that was cut short. Returns how many links there were. Whoever calls this is the only process that changes what is pinned.
    ///
    /// # Errors
    /// When this is no BPF file system or no directory of guard, a link cannot be cut or a pin cannot be removed; the others are gone all
    /// the same. When something is there that has no name of guard's: it stays.
    pub fn remove_all(&self) -> Result<usize, Error> {
        if !self.exist() {
            return Ok(0);
        }
        self.check_owner()?;
        self.require_bpffs()?;
        let links: Vec<PathBuf> = pins_in(&self.links())?;
        let mut result = Ok(links.len());
        for link in &links {
            result = result.and_then(|count| cut(link).map(|()| count));
        }
        let (directories, others): (Vec<_>, Vec<_>) =
            entries(&self.root)?.into_iter().partition(|path| is_name_of_guard(path) && !path.is_symlink());
        for directory in &directories {
            for file in pins_in(directory)? {
                result = result.and_then(|count| remove(&file, |path| fs::remove_file(path)).map(|()| count));
            }
            result = result.and_then(|count| remove(directory, |path| fs::remove_dir(path)).map(|()| count));
        }
        if let Some(other) = others.into_iter().next() {
            return result.and(Err(Error::NotOfGuard(other)));
        }
        result.and_then(|count| remove(&self.root, |path| fs::remove_dir(path)).map(|()| count))
    }
}

/// The pins in a directory of guard's. What cannot be looked at is taken for one: to remove anything else fails, and is told.
fn pins_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let is_pin = |path: &PathBuf| {
        let is_named = path.file_name().and_then(|name| name.to_str()).is_some_and(is_plain);
        is_named && fs::symlink_metadata(path).map_or(true, |data| data.is_file())
    };
    Ok(entries(directory)?.into_iter().filter(is_pin).collect())
}

/// None where there is nothing.
fn inode_of(path: &Path) -> io::Result<Option<u64>> {
    match fs::metadata(path) {
        Ok(data) => Ok(Some(data.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(PRIVATE).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

fn create(directory: PathBuf) -> Result<(), Error> {
    DirBuilder::new().recursive(true).mode(PRIVATE).create(&directory).map_err(|source| Error::File {
        action: "cannot create",
        path: directory,
        source,
    })
}

fn cut(pin: &Path) -> Result<(), Error> {
    let cut = bpf::open_pin(pin).and_then(|link| bpf::detach_link(link.as_fd()));
    match cut {
        Ok(()) => Ok(()),
        // Somebody else removed the pin, or the interface is gone and took the link with it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOLINK)) => Ok(()),
        Err(source) => Err(Error::File { action: "cannot cut the link", path: pin.into(), source }),
    }
}

/// Whether a pin is there. A look that fails says nothing of it.
pub(super) fn is_there(pin: &Path) -> Result<bool, Error> {
    pin.try_exists().map_err(|source| Error::File { action: "cannot look at", path: pin.into(), source })
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// What lies in a directory; nothing if it does not exist.
fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::File { action: "cannot list", path: directory.into(), source };
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

pub(super) fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<(), Error> {
    match how(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => {
            Err(Error::File { action: "cannot remove", path: path.into(), source })
        }
        _ => Ok(()),
    }
}
