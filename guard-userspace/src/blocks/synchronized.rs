//! Whether the time of day can be believed: after a boot it may be hours off until a server of time has been asked.

use std::path::Path;

/// systemd-timesyncd makes this file once it has the time; it goes at a boot.
const FILE: &str = "/run/systemd/timesync/synchronized";

/// Whether somebody keeps the time of day right, by systemd's word or the kernel's (which chrony and ntpd tell).
pub fn is_synchronized() -> bool {
    // Where the kernel does not tell, blocks last longer than they have to, which is the safe side.
    Path::new(FILE).try_exists().unwrap_or(false) || is_kernel_synchronized()
}

#[expect(unsafe_code, reason = "adjtimex(2) has no safe wrapper")]
fn is_kernel_synchronized() -> bool {
    // SAFETY: plain numbers, of which zeros are valid. Without a mode the call changes nothing and only fills them in.
    let (answer, time) = unsafe {
        let mut time: libc::timex = std::mem::zeroed();
        (libc::adjtimex(&raw mut time), time)
    };
    answer != -1 && time.status & libc::STA_UNSYNC == 0
}
