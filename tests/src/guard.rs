//! A guard on a host, as a user would start it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use guard_common::abi::{Counter, ServiceId};
use guard_common::{Action, Reason, Verdict};
use guard_userspace::control::Client;
use guard_userspace::datapath::Maps;
use guard_userspace::datapath::pins::Pins;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::hidden_time;
use crate::net::{Host, Running};
use crate::stale::{self, BPFFS};
use crate::wait;

/// How long guard may take to start or to end, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running agent with paths of its own. At the end guard leaves the kernel.
pub struct Guard<'a> {
    host: &'a Host,
    directory: TempDir,
    agent: Option<Running>,
    watch: bool,
    environment: Vec<(String, String)>,
    /// What is run in place of the binary.
    wrapper: Option<PathBuf>,
    hides_time: bool,
}

/// Packets by service, verdict and reason.
pub type Counts = BTreeMap<(String, String, String), u64>;

impl<'a> Guard<'a> {
    /// Starts guard with a policy and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead, with what it said.
    pub fn start(host: &'a Host, policy: &str) -> Result<Self> {
        let mut guard = Self::install(host, policy)?;
        guard.run()?;
        Ok(guard)
    }

    /// Starts guard so that a change of its policy file is a reload, or not.
    ///
    /// # Errors
    /// When it ends instead, with what it said.
    pub fn start_watching(host: &'a Host, policy: &str, watch: bool) -> Result<Self> {
        let mut guard = Self::install(host, policy)?;
        guard.watch = watch;
        guard.run()?;
        Ok(guard)
    }

    /// Puts the policy in its place, and starts nothing.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn install(host: &'a Host, policy: &str) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix(&stale::prefix()).tempdir().context("no directory for guard")?;
        fs::write(directory.path().join("guard.toml"), policy).context("cannot write the policy")?;
        Ok(Self {
            host,
            directory,
            agent: None,
            watch: true,
            environment: Vec::new(),
            wrapper: None,
            hides_time: false,
        })
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// When it ends instead, with what it said.
    pub fn run(&mut self) -> Result<()> {
        self.run_at(METRICS)
    }

    /// As [`run`](Self::run), where the policy has guard listen elsewhere.
    ///
    /// # Errors
    /// When it ends instead, with what it said.
    pub fn run_at(&mut self, listen: &str) -> Result<()> {
        let host = self.host;
        let url = format!("http://{listen}/healthz");
        self.run_until(|_| host.output("curl", &["-sf", "-m", "1", &url]).is_ok_and(|(ok, _)| ok))
    }

    /// Starts the agent and waits until it is as it should be.
    ///
    /// # Errors
    /// When it ends instead, with what it said.
    pub fn run_until(&mut self, mut ready: impl FnMut(&Self) -> bool) -> Result<()> {
        self.begin()?;
        let mut ended = None;
        let is_ready = wait::within(PATIENCE, || {
            ended = self.agent.as_mut().and_then(|agent| agent.has_ended().ok().flatten());
            ended.is_some() || ready(self)
        });
        let log = self.log();
        if let Some(status) = ended {
            bail!("guard ended ({status}): {log}");
        }
        ensure!(is_ready, "guard is not ready after {PATIENCE:?}: {log}");
        Ok(())
    }

    /// Starts the agent and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(&mut self) -> Result<()> {
        let log = File::create(self.log_file()).context("cannot write the log")?;
        let mut command = self.command(&["run", "--config", &self.policy_file().display().to_string()])?;
        command.args((!self.watch).then_some("--no-watch"));
        self.agent = Some(self.host.start(command.stdin(Stdio::null()).stderr(log))?);
        Ok(())
    }

    /// The host that it runs on.
    pub const fn host(&self) -> &Host {
        self.host
    }

    /// Whether the program is on the interface `eth0` of its host.
    pub fn is_attached(&self) -> bool {
        let shown = self.host.output("ip", &["-details", "link", "show", "dev", "eth0"]);
        shown.is_ok_and(|(ok, text)| ok && text.contains("xdp"))
    }

    /// What `guard status --json` shows.
    ///
    /// # Errors
    /// When there is nothing to show.
    pub fn status(&self) -> Result<Value> {
        let (code, stdout, stderr) = self.output(&["status", "--json"])?;
        ensure!(code == Some(0), "guard status: {stderr}");
        serde_json::from_str(&stdout).context("guard status --json is no JSON")
    }

    /// The problems that `guard status` shows, as one text; empty where there is no status.
    pub fn problems(&self) -> String {
        self.status().map_or_else(|_| String::new(), |status| status["problems"].to_string())
    }

    /// A guard command with this guard's paths.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn command(&self, arguments: &[&str]) -> Result<Command> {
        let program = self.wrapper.clone().map_or_else(binary, Ok)?;
        let mut command = self.host.command(&program.display().to_string());
        if self.hides_time {
            hidden_time::hide(&mut command);
        }
        command.args(arguments).env("GUARD_PIN_PATH", self.pins());
        command.env("GUARD_SOCKET", self.socket());
        command.env("GUARD_STATE", self.state());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    /// Runs a guard command to its end: its exit status, stdout and stderr.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
        let output = self.command(arguments)?.stdin(Stdio::null()).output().context("cannot run guard")?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok((output.status.code(), text(output.stdout), text(output.stderr)))
    }

    /// What `guard status --json` counts.
    ///
    /// # Errors
    /// When the answer is not as expected.
    pub fn counts(&self) -> Result<Counts> {
        let status = self.status()?;
        let counters = status["counters"].as_array().context("no counters")?;
        let text = |counter: &Value, key: &str| counter[key].as_str().unwrap_or_default().to_owned();
        let entry = |counter: &Value| {
            let key = (text(counter, "service"), text(counter, "verdict"), text(counter, "reason"));
            (key, counter["packets"].as_u64().unwrap_or(0))
        };
        Ok(counters.iter().map(entry).collect())
    }

    /// What was passed or dropped for a reason, of a service or of none (`""`).
    ///
    /// # Errors
    /// As [`counter_by_cpu`](Self::counter_by_cpu).
    pub fn counter(&self, service: &str, reason: Reason) -> Result<Counter> {
        let add = |sum: Counter, on_cpu: Counter| Counter {
            packets: sum.packets + on_cpu.packets,
            bytes: sum.bytes + on_cpu.bytes,
        };
        Ok(self.counter_by_cpu(service, reason)?.into_iter().fold(Counter::default(), add))
    }

    /// The same on each CPU: from the pinned maps, which need no agent.
    ///
    /// # Errors
    /// When the maps cannot be read, or there is no such service.
    pub fn counter_by_cpu(&self, service: &str, reason: Reason) -> Result<Vec<Counter>> {
        let maps = self.maps()?;
        let service = match service {
            "" => ServiceId::NONE,
            name => *maps.service_names()?.get(name).context("no such service")?,
        };
        let action = if reason.drops() { Action::Drop } else { Action::Pass };
        Ok(maps.counter_by_cpu(Verdict { action, reason, service })?)
    }

    /// The pinned maps.
    ///
    /// # Errors
    /// When guard is not in the kernel.
    pub fn maps(&self) -> Result<Maps> {
        Ok(Maps::open(&Pins::new(self.pins()))?)
    }

    /// The metrics, as Prometheus reads them.
    ///
    /// # Errors
    /// When they are not there.
    pub fn metrics(&self) -> Result<String> {
        let (ok, text) =
            self.host.output("curl", &["-sf", "-m", "5", &format!("http://{METRICS}/metrics")])?;
        ensure!(ok, "no metrics: {text}");
        Ok(text)
    }

    /// Ends the agent by a signal. Guard stays in the kernel, or not, as its policy says.
    ///
    /// # Errors
    /// When it does not end, or not with status 0.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { bail!("guard does not run") };
        let status = agent.end_by(signal, PATIENCE)?;
        ensure!(status.success(), "guard ended with {status}: {}", self.log());
        Ok(())
    }

    /// The exit status of the agent, if it has ended.
    ///
    /// # Errors
    /// When it was not started, or a signal has ended it.
    pub fn ended(&mut self) -> Result<Option<i32>> {
        let agent = self.agent.as_mut().context("guard does not run")?;
        let status = agent.has_ended()?;
        status.map(|status| status.code().with_context(|| format!("{status}"))).transpose()
    }

    /// Ends the agent at once, as a crash would.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill(&mut self) -> Result<()> {
        let Some(mut agent) = self.agent.take() else { bail!("guard does not run") };
        agent.end_by(Signal::SIGKILL, PATIENCE).map(drop)
    }

    /// Puts the state on a disk of its own, of one megabyte.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn small_disk(&self) -> Result<SmallDisk> {
        let path = self.state_directory();
        fs::create_dir_all(&path).context("no directory for a disk")?;
        mount(Some("tmpfs"), &path, Some("tmpfs"), MsFlags::empty(), Some("size=1m"))
            .context("cannot mount a small disk")?;
        Ok(SmallDisk { path })
    }

    /// Runs agent and commands with this in their environment from now on.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// Runs agent and commands as on a machine that has booted anew: the kernel calls this boot otherwise, and does not say that the time of day
    /// is synchronized. Returns the directory in which a file `synchronized` says so, as systemd-timesyncd makes it.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn pretend_boot(&mut self, boot: &str) -> Result<PathBuf> {
        let directory = self.directory.path().join(boot);
        fs::create_dir_all(directory.join("timesync")).context("no directory for a boot")?;
        fs::write(directory.join("boot_id"), format!("{boot}\n")).context("cannot name a boot")?;
        let wrapper = directory.join("guard");
        let text = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {directory}/boot_id /proc/sys/kernel/random/boot_id && mkdir -p /run/systemd && \
             mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/timesync && mount --bind {directory}/timesync /run/systemd/timesync && \
             exec \"$@\"' sh {binary} \"$@\"\n",
            directory = directory.display(),
            binary = binary()?.display()
        );
        fs::write(&wrapper, text).context("cannot write a script")?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).context("cannot write a script")?;
        (self.wrapper, self.hides_time) = (Some(wrapper), true);
        Ok(directory.join("timesync"))
    }

    /// The ledger.
    pub fn state(&self) -> PathBuf {
        self.state_directory().join("guard.db")
    }

    pub fn state_directory(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Cuts the program off its interfaces, as anybody with the rights can: what `bpftool link detach` does.
    ///
    /// # Errors
    /// When the pins cannot be listed, no link is pinned or one cannot be cut.
    pub fn cut_links(&self) -> Result<()> {
        let pins = Pins::new(self.pins());
        // The kernel shows a program before the agent has pinned its link.
        let pinned = || pins.pinned_links().is_ok_and(|links| !links.is_empty());
        ensure!(wait::within(PATIENCE, pinned), "no link is pinned: {}", self.log());
        Ok(pins.cut_links()?)
    }

    /// A client of the control socket.
    pub fn client(&self) -> Client {
        Client::new(self.socket())
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("guard.sock")
    }

    /// The process of the agent.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> Result<u32> {
        self.agent.as_ref().map(Running::id).context("guard does not run")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    pub fn policy_file(&self) -> PathBuf {
        self.directory.path().join("guard.toml")
    }

    /// Where guard pins: below the BPF file system, a name of its own.
    pub fn pins(&self) -> PathBuf {
        let name = self.directory.path().file_name().unwrap_or_default();
        Path::new(BPFFS).join(name)
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("guard.log")
    }
}

/// A mounted disk; it goes with its handle.
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file open there keeps it until the end.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        drop(self.agent.take());
        let _ = self.output(&["detach"]);
    }
}

/// Where the agent listens on each host: its own loopback.
const METRICS: &str = "127.0.0.1:9455";

/// The binary under test: `GUARD_BIN`, or the one that was built beside this test.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("GUARD_BIN") {
        return Ok(binary.into());
    }
    let test = std::env::current_exe().context("cannot find this test's own file")?;
    let beside = test.ancestors().skip(1).take(2).map(|directory| directory.join("guard"));
    beside
        .into_iter()
        .find(|binary| binary.is_file())
        .context("there is no guard to test: run `cargo xtask test`, or set GUARD_BIN")
}
