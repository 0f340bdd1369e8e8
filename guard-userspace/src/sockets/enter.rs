//! Visiting other network namespaces.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockProtocol;

use super::netlink::Channel;
use crate::local_ports::LocalPorts;

/// A network namespace whose sockets can be asked for.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) channel: Channel,
    /// The ports that connections out of it get.
    pub(super) ephemeral: RangeInclusive<u16>,
    /// Whether it may have sockets of Multipath TCP.
    pub(super) multipath: bool,
}

/// There wherever the kernel has Multipath TCP.
const MULTIPATH: &str = "/proc/sys/net/mptcp/enabled";
/// How many sockets of each kind the namespace of this thread has.
const PROTOCOLS: &str = "/proc/thread-self/net/protocols";
/// Linux's default.
const USUAL: RangeInclusive<u16> = 32768..=60999;

impl Namespace {
    /// That of this thread.
    pub(super) fn here() -> io::Result<Self> {
        Ok(Self {
            channel: Channel::open(SockProtocol::NetlinkSockDiag)?,
            ephemeral: LocalPorts::read().range.unwrap_or(USUAL),
            multipath: fs::exists(MULTIPATH).unwrap_or(false),
        })
    }
}

/// Whether this thread's namespace has sockets of TCP at all, Multipath TCP included. In doubt it has.
fn has_sockets() -> bool {
    fs::read_to_string(PROTOCOLS).map_or(true, |text| count(&text) != Some(0))
}

/// The sockets of TCP, as `/proc/net/protocols` counts them: name, size, number.
fn count(protocols: &str) -> Option<u64> {
    let of_line = |line: &str| -> Option<Option<u64>> {
        let mut words = line.split_ascii_whitespace();
        let is_tcp = matches!(words.next(), Some("TCP" | "TCPv6" | "MPTCP" | "MPTCPv6"));
        is_tcp.then(|| words.nth(1).and_then(|count| count.parse().ok()))
    };
    let mut counts = protocols.lines().filter_map(of_line).peekable();
    counts.peek()?;
    counts.sum()
}

/// What became of a visit.
#[derive(Debug)]
pub(super) enum Visit<T> {
    Done(T),
    /// Nothing in it has anything to do with TCP.
    Empty,
    Gone,
    Refused(io::Error),
    /// Not entered, since others took the time.
    PassedBy,
}

/// Enters namespaces one after the other, each given by its inode and the files that lead to it, and does `work` in those with sockets of TCP.
/// `has_time` says, before each, whether it is still to be entered. No thread but one of its own is ever in another namespace, and nothing of a
/// namespace is held after the visit.
///
/// # Errors
/// When no thread can be had.
pub(super) fn visit_all<T: Send>(
    wanted: Vec<(u64, Vec<PathBuf>)>,
    has_time: impl Fn(u64) -> bool + Sync,
    mut work: impl FnMut(u64, &mut Namespace) -> T + Send,
) -> io::Result<Vec<(u64, Visit<T>)>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let visit_one = |(inode, files): (u64, Vec<PathBuf>)| {
        let visit = if has_time(inode) { visit(inode, &files, &mut work) } else { Visit::PassedBy };
        (inode, visit)
    };
    let visit = || wanted.into_iter().map(visit_one).collect();
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name("namespaces".into()).spawn_scoped(scope, visit)?;
        visitor.join().map_err(|_| io::Error::other("the thread that enters namespaces panicked"))
    })
}

fn visit<T>(inode: u64, files: &[PathBuf], work: &mut impl FnMut(u64, &mut Namespace) -> T) -> Visit<T> {
    let mut refused = None;
    for file in files {
        match enter(inode, file) {
            Ok(true) if !has_sockets() => return Visit::Empty,
            Ok(true) => match Namespace::here() {
                Ok(mut namespace) => return Visit::Done(work(inode, &mut namespace)),
                Err(error) => refused = Some(error),
            },
            Ok(false) => {}
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Visit::Gone, Visit::Refused)
}

/// Returns whether the file still leads there.
fn enter(inode: u64, file: &PathBuf) -> io::Result<bool> {
    let file = match File::open(file) {
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH) => {
            return Ok(false);
        }
        file => file?,
    };
    if file.metadata()?.ino() != inode {
        return Ok(false);
    }
    setns(file, CloneFlags::CLONE_NEWNET)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_longer_leads_there_is_gone_and_the_rest_is_passed_by_when_time_is_up() {
        let files = ["/proc/1/no-such-file", "/proc/self/ns/mnt"].map(PathBuf::from).to_vec();
        let visits =
            visit_all(vec![(1, files), (2, Vec::new()), (3, Vec::new())], |inode| inode != 3, |_, _| ())
                .unwrap();
        let known = matches!(visits[..], [(1, Visit::Gone), (2, Visit::Gone), (3, Visit::PassedBy)]);
        assert!(known, "{visits:?}");
    }

    #[test]
    fn sockets_are_counted_as_the_kernel_writes_them() {
        let line = |name: &str, count: &str| format!("{name:<9} 2064 {count:>6}  -1  NI  0  no  kernel\n");
        let head = "protocol  size sockets  memory press maxhdr  slab module\n";
        let none = format!("{head}{}{}{}", line("UDP", "7"), line("TCPv6", "0"), line("TCP", "0"));
        assert_eq!(count(&none), Some(0));
        assert_eq!(count(&format!("{none}{}", line("MPTCP", "2"))), Some(2));
        assert_eq!(count(&format!("{none}{}{}", line("MPTCPv6", "2"), line("TCP", "3"))), Some(5));
        assert_eq!((count(head), count(""), count(&line("TCP", "many"))), (None, None, None));
    }
}
