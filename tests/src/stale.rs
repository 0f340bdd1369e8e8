//! What tests that died have left: namespaces, and the processes in them, pins and directories carry the process id of their owner in their
//! names. (So do tracers, which the next one removes: [`crate::tracer`].)

use std::fs;
use std::path::Path;
use std::process::{Command, id};

use guard_userspace::datapath::pins::Pins;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const NETNS: &str = "/run/netns";
pub const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "guard-test";

/// The beginning of the name of everything that this process makes outside of itself.
pub fn prefix() -> String {
    format!("{PREFIX}-{}-", id())
}

/// Removes what belongs to processes that are gone. Others may do the same at this moment, so failures are none.
pub fn remove() {
    for name in abandoned(Path::new(NETNS)) {
        for process in processes(&name) {
            let _ = kill(process, Signal::SIGKILL);
        }
        let _ = Command::new("ip").args(["netns", "delete", &name]).output();
    }
    for name in abandoned(Path::new(BPFFS)) {
        let path = Path::new(BPFFS).join(name);
        let _ = Pins::new(path.clone()).remove_all();
        let _ = fs::remove_dir_all(path);
    }
    let temporary = std::env::temp_dir();
    for name in abandoned(&temporary) {
        let _ = fs::remove_dir_all(temporary.join(name));
    }
}

/// Those that are in a network namespace.
fn processes(namespace: &str) -> Vec<Pid> {
    let output = Command::new("ip").args(["netns", "pids", namespace]).output();
    let ids = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    ids.lines().filter_map(|id| Some(Pid::from_raw(id.trim().parse().ok()?))).collect()
}

/// The names in a directory whose owner is gone.
pub fn abandoned(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| owner(name).is_some_and(|owner| !Path::new("/proc").join(owner.to_string()).exists()))
        .collect()
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::wait;

    #[test]
    fn what_runs_in_the_network_of_a_dead_test_ends_with_it() {
        let mut owner = Command::new("true").spawn().unwrap();
        owner.wait().unwrap();
        let name = format!("{PREFIX}-{}-left", owner.id());
        assert!(Command::new("ip").args(["netns", "add", &name]).status().unwrap().success(), "without root");
        let mut left = Command::new("ip").args(["netns", "exec", &name, "sleep", "60"]).spawn().unwrap();
        // Until it is there.
        assert!(wait::within(Duration::from_secs(10), || !processes(&name).is_empty()));
        remove();
        assert!(wait::within(Duration::from_secs(10), || matches!(left.try_wait(), Ok(Some(_)))));
        assert!(!Path::new(NETNS).join(&name).exists());
    }

    #[test]
    fn only_names_of_tests_have_owners() {
        for (name, expected) in [
            ("guard-test-123-0-server", Some(123)),
            ("guard-test-7-abc", Some(7)),
            ("guard", None),
            ("guard-test-x-1", None),
        ] {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
