//! The user.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use guard_tests::guard::Guard;
use guard_tests::net::{Host, Running};

const SCRIPT: &str = include_str!("user.py");
const LISTEN: &str = "import socket, sys, time\nheld = socket.create_server((sys.argv[1], int(sys.argv[2])))\nprint('ready', flush=True)\ntime.sleep(3600)\n";
const NOBODY: &str = "65534";
/// A namespace takes some milliseconds, longer where there are thousands.
const PATIENCE: Duration = Duration::from_secs(300);

/// Does what it does until the end of this handle.
pub(crate) struct User {
    _process: Running,
    said: String,
}

impl User {
    /// Waits until all goes on.
    pub(crate) fn start(
        guard: &Guard<'_>,
        client: &str,
        port: u16,
        namespaces: usize,
        metrics: &str,
    ) -> Result<Self> {
        let mut command = command(guard.host(), SCRIPT);
        command.args([client, &port.to_string(), &namespaces.to_string(), metrics]);
        let directory = guard.socket().parent().context("a directory")?.to_owned();
        command.args([guard.pins(), guard.socket(), guard.state_directory(), directory]);
        let user = started(guard.host(), command)?;
        ensure!(user.said.starts_with("ready") && user.said.contains("uid=65534"), "{}", user.said);
        ensure!(
            user.said.contains(&format!("namespaces={namespaces} ")),
            "a user may make no namespaces: {}",
            user.said
        );
        Ok(user)
    }

    pub(crate) fn said(&self) -> &str {
        &self.said
    }
}

/// Listens on an address.
pub(crate) fn listen(host: &Host, address: &str) -> Result<User> {
    let (ip, port) = address.rsplit_once(':').context("no port")?;
    let mut command = command(host, LISTEN);
    command.args([ip, port]);
    started(host, command)
}

fn command(host: &Host, script: &str) -> Command {
    let mut command = host.command("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "/usr/bin/python3", "-c", script]);
    command
}

/// Waits for the first line that it says.
fn started(host: &Host, mut command: Command) -> Result<User> {
    let (reader, writer) = std::io::pipe()?;
    let process = host.start(command.stdin(Stdio::piped()).stdout(writer))?;
    // Or the pipe would never end.
    drop(command);
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _ = BufReader::new(reader).read_line(&mut line);
        sender.send(line)
    });
    let said = lines.recv_timeout(PATIENCE).context("the user does not begin")?;
    Ok(User { _process: process, said: said.trim_end().into() })
}
