//! Errors of system calls, put in by strace: at each place of a program that makes the call.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::guard::{Guard, binary};
use crate::net::Running;
use crate::stale::BPFFS;
use crate::wait;

const PATIENCE: Duration = Duration::from_secs(60);

/// One error of one call, at one of its times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub call: &'static str,
    pub error: &'static str,
    /// Counted from 1, in each thread; 0: always.
    pub time: usize,
    /// Whether it goes on from then.
    pub goes_on: bool,
}

impl Fault {
    fn options(self) -> [String; 4] {
        let when = match (self.time, self.goes_on) {
            (0, _) => String::new(),
            (time, true) => format!(":when={time}+"),
            (time, false) => format!(":when={time}"),
        };
        let inject = format!("inject={}:error={}{when}", self.call, self.error);
        ["-e".into(), format!("trace={}", self.call), "-e".into(), inject]
    }
}

/// Gives this thread a mount namespace with a BPF file system of its own, so that no error reaches the pins of others. What the thread starts
/// is in there too.
///
/// # Errors
/// Without root.
pub fn keep_mounts_apart() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot leave the mount namespace")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("cannot keep mounts to ourselves")?;
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .context("cannot mount a BPF file system")
}

/// An agent under strace.
pub struct Traced(Running);

impl Traced {
    /// Starts the agent under strace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(guard: &Guard<'_>, options: &[String]) -> Result<Self> {
        let run = guard.command(&["run", "--config", &guard.policy_file().display().to_string()])?;
        // Between entering the network and guard: the calls of the former are not meant.
        let mut words: Vec<_> = run.get_args().map(ToOwned::to_owned).collect();
        let program = binary()?;
        let place = words.iter().position(|word| Path::new(word) == program).context("no guard")?;
        let strace = ["strace", "-f", "-qq", "--seccomp-bpf"].map(str::to_owned).into_iter();
        words.splice(place..place, strace.chain(options.iter().cloned()).map(Into::into));
        let mut command = Command::new(run.get_program());
        command.args(words).envs(run.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let log = fs::File::create(said_in(guard))?;
        Ok(Self(guard.host().start(command.stdin(Stdio::null()).stderr(log))?))
    }

    /// Starts the agent with a fault.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(guard: &Guard<'_>, fault: Fault) -> Result<Self> {
        let trace = guard.policy_file().with_extension("trace").display().to_string();
        Self::start(guard, &[vec!["-o".into(), trace], fault.options().into()].concat())
    }

    /// Puts a fault into an agent that runs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn attach(guard: &Guard<'_>, fault: Fault) -> Result<Self> {
        let trace = guard.policy_file().with_extension("trace").display().to_string();
        let mut strace = guard.host().command("strace");
        strace
            .args(["-f", "-qq", "-o", &trace])
            .args(fault.options())
            .args(["-p", &guard.pid()?.to_string()]);
        Ok(Self(guard.host().start(strace.stdin(Stdio::null()).stderr(Stdio::null()))?))
    }

    /// The process of strace.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether the agent has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.has_ended(), Ok(None))
    }

    /// Kills the agent, and strace ends with it: that one blocks signals itself.
    ///
    /// # Errors
    /// When it does not end.
    pub fn kill(&mut self) -> Result<()> {
        let pid = self.0.id();
        let ended = wait::within(PATIENCE, || {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
                // It may have ended.
                let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
            }
            self.has_ended()
        });
        if !ended {
            bail!("the agent does not end under strace");
        }
        Ok(())
    }

    /// Takes the fault out of an agent that goes on.
    ///
    /// # Errors
    /// When strace does not end.
    pub fn let_go(&mut self) -> Result<()> {
        self.0.end_by(Signal::SIGINT, PATIENCE).map(drop)
    }
}

fn said_in(guard: &Guard<'_>) -> std::path::PathBuf {
    guard.policy_file().with_extension("strace.log")
}

/// What the last traced agent said.
pub fn said(guard: &Guard<'_>) -> String {
    fs::read_to_string(said_in(guard)).unwrap_or_default()
}

/// At which times, in its thread, a start makes each of these calls from another place than before. Places differ by what they ask for: by the
/// constants and the paths in the call, numbers left out. A call without any is known by the one before it.
///
/// # Errors
/// When it does not start under strace.
pub fn places(guard: &Guard<'_>, calls: &[&str]) -> Result<BTreeMap<String, Vec<usize>>> {
    let text = trace(guard, &["-e".into(), format!("trace={}", calls.join(","))])?;
    Ok(first_times(&text))
}

/// What strace writes of a start.
fn trace(guard: &Guard<'_>, options: &[String]) -> Result<String> {
    let trace = guard.policy_file().with_extension("trace");
    let to = ["-o".into(), trace.display().to_string()];
    let mut agent = Traced::start(guard, &[&to, options].concat())?;
    let is_up = wait::within(PATIENCE, || is_ready(guard) || agent.has_ended());
    agent.kill()?;
    if !is_up {
        bail!("guard does not start under strace: {}", said(guard));
    }
    fs::read_to_string(trace).context("strace wrote nothing")
}

/// The thread and the call of a line that begins one.
fn call_of(line: &str) -> Option<(&str, &str)> {
    let (thread, rest) = line.split_once(char::is_whitespace)?;
    let (call, _) = rest.trim_start().split_once('(')?;
    call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some((thread, call))
}

/// At which time, in its thread, a start makes a call that strace shows with all of these words.
///
/// # Errors
/// When it does not start under strace, or makes no such call.
pub fn time_of(guard: &Guard<'_>, call: &str, words: &[&str]) -> Result<usize> {
    let text = trace(guard, &["-e".into(), format!("trace={call}")])?;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for line in text.lines() {
        let Some((thread, _)) = call_of(line).filter(|(_, made)| *made == call) else { continue };
        let count = counts.entry(thread).or_default();
        *count += 1;
        if words.iter().all(|word| line.contains(word)) {
            return Ok(*count);
        }
    }
    bail!("no {call} with {words:?}")
}

/// Whether the agent has said that it is ready.
pub fn is_ready(guard: &Guard<'_>) -> bool {
    said(guard).contains("guard is ready")
}

fn first_times(trace: &str) -> BTreeMap<String, Vec<usize>> {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let mut before: HashMap<&str, String> = HashMap::new();
    let mut seen = HashSet::new();
    let mut times: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = call_of(line) else { continue };
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        let mut place = place_of(call, line);
        if place.is_empty() {
            place.clone_from(before.entry(thread).or_default());
        }
        // What the loader of the program does comes before guard.
        if !place.contains(".so") && seen.insert(format!("{call} {place}")) {
            let known = times.entry(call.to_owned()).or_default();
            if !known.contains(count) {
                known.push(*count);
            }
        }
        before.insert(thread, place);
    }
    times
}

/// The constants and the paths of a call. What was read says nothing of the place.
fn place_of(call: &str, line: &str) -> String {
    if call == "read" {
        return String::new();
    }
    let asked = line.split(" = ").next().unwrap_or_default();
    let mut place = String::new();
    for (number, part) in asked.split('"').enumerate() {
        if number % 2 == 0 {
            let words = part.split(|sign: char| !sign.is_ascii_alphanumeric() && sign != '_');
            let is_constant = |word: &&str| {
                let mut letters = word.bytes();
                word.len() > 2
                    && letters.all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'0'..=b'9'))
            };
            words.filter(is_constant).for_each(|word| place.extend([word, " "]));
        } else if part.starts_with('/') {
            // The pins of a set of maps are one place.
            let set = part.find("/abi-").or_else(|| part.find("/new-"));
            let path = set.map_or(part, |set| &part[..set + "/abi-".len()]);
            place.extend(path.chars().filter(|sign| !sign.is_ascii_digit()));
            place.push(' ');
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_what_a_call_asks_for_and_times_count_in_each_thread() {
        let trace = "7 openat(AT_FDCWD, \"/lib/c.so\", O_RDONLY) = 3\n7 openat(AT_FDCWD, \"/proc/7/stat\", O_RDONLY) = 3\n\
                     7 read(3, \"AF_INET\"...) = 9\n7 openat(AT_FDCWD, \"/proc/8/stat\", O_RDONLY) = 3\n7 read(3, \"x\", 9) = 1\n\
                     8 socket(AF_NETLINK, SOCK_RAW) = 4\n8 read(4, <unfinished ...>\n7 bpf(BPF_OBJ_GET, {pathname=\"/pins/abi-6-1/BLOCKS\"}) = 5\n\
                     8 <... read resumed> = 1\n7 bpf(BPF_OBJ_GET, {pathname=\"/pins/abi-6-1/METERS\"}) = 6\n\
                     7 bpf(BPF_OBJ_GET, {pathname=\"/pins/links/2-native\"}) = 7\n7 +++ exited with 0 +++\n";
        let times = first_times(trace);
        assert_eq!(times["openat"], [2]);
        assert_eq!(times["read"], [1]);
        assert_eq!(times["socket"], [1]);
        assert_eq!(times["bpf"], [1, 3]);
    }
}
