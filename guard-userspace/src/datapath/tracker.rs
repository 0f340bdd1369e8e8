//! The programs that count connections, on the tracepoint where TCP sockets change their state. There are two of the same, see
//! `guard_connections_nested`.
//!
//! They are pinned: connections are counted while no agent runs. A link of a tracepoint cannot get another program, so a new agent puts
//! its own beside the old ones before it removes those; what several see counts once.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use aya::Btf;
use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, Program};
use guard_common::abi::Home;

use super::load::causes;
use super::pins::{Pins, remove};
use super::types::Types;
use super::{Datapath, Error, bpf};

const PROGRAMS: [&str; 2] = ["guard_connections", "guard_connections_nested"];
const TRACEPOINT: &str = "inet_sock_set_state";

impl Datapath {
    /// Begins to count connections. Those that are open already are not counted yet.
    ///
    /// # Errors
    /// When the kernel refuses: then `max_connections` goes by what the agent finds out itself.
    pub fn track_connections(&mut self) -> Result<(), Error> {
        let home = home().map_err(|error| Error::Tracker(causes(&error)))?;
        self.maps.array_mut::<Home>("HOME")?.set(0, home, 0)?;
        for name in PROGRAMS {
            let Some(Program::BtfTracePoint(program)) = self.ebpf.program_mut(name) else {
                return Err(Error::NoProgram(name));
            };
            let link = attach(program).map_err(|error| Error::Tracker(causes(&*error)))?;
            match &self.pins {
                Some(pins) => drop(self.trackers.insert(name, pin(link, name, pins)?)),
                None => self.unpinned_trackers.push(link),
            }
        }
        Ok(())
    }
}

/// The network namespace of this thread, and where the kernel has what the programs read.
fn home() -> io::Result<Home> {
    let inode = fs::metadata("/proc/thread-self/ns/net")?.ino();
    let types = Types::of_kernel()?;
    let multipath = multipath(&types).unwrap_or_default();
    let in_socket = |member| types.offset("tcp_sock", &[member]);
    let places = (types.offset("net", &["ns", "inum"]), in_socket("rcv_nxt"), in_socket("bytes_received"));
    match (u32::try_from(inode), places) {
        (Ok(namespace), (Some(inode_at), Some(next_at), Some(received_at))) => {
            Ok(Home { namespace, inode_at, next_at, received_at, ..multipath })
        }
        _ => Err(io::Error::other(
            "this kernel's sockets and network namespaces are not what is known of them",
        )),
    }
}

/// Where the kernel keeps what makes subflows one connection of Multipath TCP; none in kernels without.
fn multipath(types: &Types) -> Option<Home> {
    Some(Home {
        multipath_at: types.offset("tcp_sock", &["is_mptcp"])?,
        context_at: types.offset("inet_connection_sock", &["icsk_ulp_data"])?,
        subflow_token_at: types.offset("mptcp_subflow_context", &["token"])?,
        protocol_at: types.offset("sock", &["sk_protocol"])?,
        token_at: types.offset("mptcp_sock", &["token"])?,
        ..Home::default()
    })
}

fn attach(program: &mut BtfTracePoint) -> Result<FdLink, Box<dyn std::error::Error>> {
    if program.fd().is_err() {
        program.load(TRACEPOINT, &Btf::from_sys_fs()?)?;
    }
    let id = program.attach()?;
    Ok(program.take_link(id)?.into())
}

/// Pins the link in the place of the one before.
fn pin(link: FdLink, program: &str, pins: &Pins) -> Result<OwnedFd, Error> {
    let (path, next) = (pins.tracker(program), pins.next_tracker(program));
    let failed = |action, path: &PathBuf| {
        let path = path.clone();
        move |source| Error::File { action, path, source }
    };
    pins.prepare_tracker()?;
    // An agent that was killed has left it.
    remove(&next, |next| fs::remove_file(next))?;
    // Once it is held open below, this handle may go.
    let _pinned = link.pin(&next)?;
    fs::rename(&next, &path).map_err(failed("cannot rename", &next))?;
    bpf::open_pin(&path).map_err(failed("cannot open the link", &path))
}
