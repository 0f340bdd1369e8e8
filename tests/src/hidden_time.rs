//! A process for which the kernel does not say whether the time of day is synchronized.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Offset of the number in `struct seccomp_data`.
const NUMBER: u32 = 0;

/// Has the calls that say it fail in this command and all that it starts.
#[expect(unsafe_code, reason = "what is done between fork and exec must be safe there")]
pub(crate) fn hide(command: &mut Command) {
    // SAFETY: the closure makes one call, on memory of its own, and allocates nothing.
    unsafe { command.pre_exec(refuse) };
}

#[expect(unsafe_code, reason = "the call has no safe wrapper")]
fn refuse() -> io::Result<()> {
    let step =
        |code: u32, k: u32, yes: u8, no: u8| libc::sock_filter { code: code as u16, jt: yes, jf: no, k };
    let (load, equals, answer) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET,
    );
    let mut filter = [
        step(load, NUMBER, 0, 0),
        step(equals, libc::SYS_adjtimex as u32, 2, 0),
        step(equals, libc::SYS_clock_adjtime as u32, 1, 0),
        step(answer, libc::SECCOMP_RET_ALLOW, 0, 0),
        step(answer, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, 0, 0),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program lies there for as long as the call takes.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
