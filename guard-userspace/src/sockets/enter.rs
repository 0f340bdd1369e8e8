//! Opening sockets to the kernel in other network namespaces.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;

use super::netlink::Channel;
use crate::local_ports::LocalPorts;

/// A network namespace whose sockets can be asked for, from any other.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) channel: Channel,
    /// The ports that connections out of it get.
    pub(super) ephemeral: RangeInclusive<u16>,
    /// The ports whose connections were looked for.
    pub(super) looked_for: BTreeSet<u16>,
}

/// Linux's default.
const USUAL: RangeInclusive<u16> = 32768..=60999;

impl Namespace {
    /// That of this thread.
    pub(super) fn here() -> io::Result<Self> {
        Ok(Self {
            channel: Channel::open(SockProtocol::NetlinkSockDiag)?,
            ephemeral: LocalPorts::read().range.unwrap_or(USUAL),
            looked_for: BTreeSet::new(),
        })
    }
}

/// What became of a namespace.
#[derive(Debug)]
pub(super) enum Entered {
    Open(Namespace),
    Gone,
    Refused(io::Error),
}

/// Enters namespaces, each given by its inode and the files that lead to it. No thread but one of its own is ever in another namespace.
///
/// # Errors
/// When no thread can be had.
pub(super) fn enter_all(wanted: Vec<(u64, Vec<PathBuf>)>) -> io::Result<Vec<(u64, Entered)>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let enter = || wanted.into_iter().map(|(inode, files)| (inode, enter(inode, &files))).collect();
    thread::Builder::new()
        .name("namespaces".into())
        .spawn(enter)?
        .join()
        .map_err(|_| io::Error::other("the thread that enters namespaces panicked"))
}

fn enter(inode: u64, files: &[PathBuf]) -> Entered {
    let mut refused = None;
    for file in files {
        match try_enter(inode, file) {
            Ok(Some(namespace)) => return Entered::Open(namespace),
            Ok(None) => {}
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Entered::Gone, Entered::Refused)
}

/// None if the file no longer leads there.
fn try_enter(inode: u64, file: &PathBuf) -> io::Result<Option<Namespace>> {
    let file = match File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(None);
        }
        file => file?,
    };
    if file.metadata()?.ino() != inode {
        return Ok(None);
    }
    setns(file, CloneFlags::CLONE_NEWNET)?;
    Namespace::here().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_longer_leads_there_is_gone() {
        let files = ["/proc/1/no-such-file", "/proc/self/ns/mnt"].map(PathBuf::from).to_vec();
        let entered = enter_all(vec![(1, files), (2, Vec::new())]).unwrap();
        assert!(entered.iter().all(|(_, entered)| matches!(entered, Entered::Gone)), "{entered:?}");
    }
}
