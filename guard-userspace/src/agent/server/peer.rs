//! Who is at the other end of the control socket.

use std::fmt;

use nix::unistd::{Uid, User};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

use super::places::Owner;

/// A process that asks for something, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub uid: u32,
    pub gid: u32,
    pub pid: Option<i32>,
    /// The name of the user, if it has one.
    pub user: Option<String>,
}

impl Peer {
    pub(super) fn of(stream: &UnixStream) -> Option<Self> {
        let credentials = stream.peer_cred().ok()?;
        let user = User::from_uid(Uid::from_raw(credentials.uid())).ok().flatten();
        Some(Self {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid(),
            user: user.map(|user| user.name),
        })
    }

    pub(super) const fn owner(&self) -> Owner {
        match self.uid {
            0 => Owner::Root,
            uid => Owner::User(uid),
        }
    }
}

/// As logs say it: `root (uid 0, process 4711)`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_deref().unwrap_or("somebody");
        write!(f, "{user} (uid {}", self.uid)?;
        match self.pid {
            Some(pid) => write!(f, ", process {pid})"),
            None => write!(f, ")"),
        }
    }
}
