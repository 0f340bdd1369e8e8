//! Where the person at the command line is logged in from.

use std::env;
use std::fs;
use std::net::IpAddr;

/// Set by sshd: the client's address is the first word of either.
const VARIABLES: [&str; 2] = ["SSH_CONNECTION", "SSH_CLIENT"];
/// Shells, sudo, multiplexers: more than these are hardly ever between a command and its sshd.
const MOST_PARENTS: usize = 32;

/// The address at the other end of the login; none for a login that is not over the network. `sudo` and others clear the environment, so
/// that of the processes above is looked at, too.
pub(super) fn login_address() -> Option<IpAddr> {
    let own = VARIABLES.iter().find_map(|name| first_word(&env::var(name).ok()?));
    own.or_else(|| {
        let mut process = std::process::id();
        (0..MOST_PARENTS).find_map(|_| {
            process = parent(process).filter(|parent| *parent > 1).unwrap_or(1);
            let environment = fs::read(format!("/proc/{process}/environ")).ok()?;
            in_environment(&environment)
        })
    })
}

fn in_environment(environment: &[u8]) -> Option<IpAddr> {
    let variables =
        environment.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
    let mut variables = variables.filter_map(|variable| variable.split_once('='));
    variables.find_map(|(name, value)| VARIABLES.contains(&name).then(|| first_word(value))?)
}

fn first_word(value: &str) -> Option<IpAddr> {
    value.split_whitespace().next()?.split('%').next()?.parse().ok()
}

/// The fourth field of /proc/PID/stat, counted from behind the name, which may hold anything.
fn parent(process: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_of_sshd_is_found_in_an_environment() {
        let cases: [(&[u8], Option<&str>); 4] = [
            (b"PATH=/bin\0SSH_CONNECTION=10.1.2.3 50000 10.0.0.1 22\0", Some("10.1.2.3")),
            (b"SSH_CLIENT=fe80::7%eth0 50000 22\0", Some("fe80::7")),
            (b"PATH=/bin\0", None),
            (b"\xff\xff=1\0SSH_CLIENT=\0", None),
        ];
        for (environment, expected) in cases {
            let expected: Option<IpAddr> = expected.map(|address| address.parse().unwrap());
            assert_eq!(in_environment(environment), expected);
        }
    }

    #[test]
    fn processes_have_parents() {
        assert!(parent(std::process::id()).is_some_and(|parent| parent > 0));
    }
}
