//! A crowd of network namespaces, as any user of a host can make.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait;

/// Nobody: the user without rights.
const NOBODY: u32 = 65534;
/// The kernel makes and names one namespace at a time.
const PATIENCE: Duration = Duration::from_secs(400);

/// Namespaces, each in a user namespace of its own with a process in it. They end with their handle.
#[derive(Debug, Default)]
pub struct Crowd(Vec<Child>);

impl Crowd {
    /// Makes so many, in each of which something listens on this port.
    ///
    /// # Errors
    /// Where users may make no namespaces.
    pub fn listening(count: usize, port: u16) -> Result<Self> {
        let script = format!(
            "use IO::Socket::INET; $s = IO::Socket::INET->new(Listen => 9, LocalPort => {port}) or die $!; sleep 3600"
        );
        Self::of(count, &["perl", "-e", &script])
    }

    /// Makes so many in which there is nothing.
    ///
    /// # Errors
    /// Where users may make no namespaces.
    pub fn idle(count: usize) -> Result<Self> {
        Self::of(count, &["sleep", "3600"])
    }

    fn of(count: usize, program: &[&str]) -> Result<Self> {
        let mut crowd = Self::default();
        for _ in 0..count {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--net"]).args(program);
            command.uid(NOBODY).gid(NOBODY).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
            crowd.0.push(command.spawn().context("cannot start unshare")?);
        }
        let is_inside = |child: &Child| {
            let own = |id: &str| std::fs::read_link(format!("/proc/{id}/ns/net")).ok();
            own(&child.id().to_string()).is_some_and(|inside| Some(inside) != own("self"))
        };
        let are_inside = wait::within(PATIENCE, || crowd.0.iter().all(is_inside));
        ensure!(are_inside, "a user may make no network namespaces here");
        Ok(crowd)
    }

    /// The processes, one in each namespace.
    pub fn processes(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(Child::id)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}
