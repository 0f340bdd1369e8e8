//! Room for open files: one for each client of the metrics and of the control socket, for the maps, and for what is looked at.
#![expect(unsafe_code, reason = "nix has setrlimit(2) only with a feature that nothing else needs")]

use std::io;

use tracing::debug;

/// Takes as much as this process may have. 1,024, the usual limit, is for programs that use select(2).
pub(super) fn take_all() {
    let raised = limit().and_then(|mut limit| {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the kernel reads a structure that outlives the call.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    });
    if let Err(error) = raised {
        debug!("the limit of open files stays as it is: {error}");
    }
}

/// How many files this process may have open; none where the kernel does not tell.
pub(super) fn most() -> Option<usize> {
    limit().ok().map(|limit| usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX))
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes to a structure that outlives the call.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if result == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}
