//! The unit of systemd that this process runs in.

use std::path::Path;

/// The unit of this process, if systemd has started it.
pub(super) fn own() -> Option<String> {
    std::env::var_os("INVOCATION_ID")?;
    of_cgroups(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

/// The innermost service in the lines of `/proc/PID/cgroup` (cgroups(7)).
fn of_cgroups(lines: &str) -> Option<String> {
    let mut paths = lines.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.find_map(|path| {
        let names = Path::new(path).iter().rev().filter_map(|name| name.to_str());
        names.into_iter().find(|name| name.ends_with(".service")).map(str::to_owned)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_service() {
        for (lines, expected) in [
            ("0::/system.slice/guard.service\n", Some("guard.service")),
            ("0::/system.slice/guard.service/agent\n", Some("guard.service")),
            ("12:cpu:/\n1:name=systemd:/system.slice/guard.service\n0::/\n", Some("guard.service")),
            ("0::/user.slice/user-0.slice/session-1.scope\n", None),
            ("0::/\n", None),
            ("", None),
        ] {
            assert_eq!(of_cgroups(lines).as_deref(), expected, "{lines:?}");
        }
    }
}
