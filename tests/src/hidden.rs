//! Changes of connections that the kernel shows to no tracing program.
//!
//! Kernels of sandboxes hide their supervisor, the first process, from all tracing programs, and with it what an interrupt does for others
//! while one of its threads is the current task: the opening or the end of a connection, now and then. Guard's count is wrong by that until it
//! is compared with the sockets. The kernel's own tracer sees such changes.

use anyhow::{Context, Result};

use crate::tracer::Tracer;

/// Watches for such changes.
pub struct Hidden(Tracer);

impl Hidden {
    /// Of connections to a port, of whichever host: there may be some that no test is about.
    ///
    /// # Errors
    /// When the kernel's tracer cannot be used.
    pub fn watch(port: u16) -> Result<Self> {
        let threads = std::fs::read_dir("/proc/1/task")?.map(|thread| {
            let thread = thread?.file_name();
            Ok(format!("common_pid == {}", thread.to_string_lossy()))
        });
        let threads = threads.collect::<Result<Vec<_>>>()?.join(" || ");
        // Opened (from SYN_RECV), closed by the client or closed.
        let filter =
            format!("sport == {port} && (newstate == 7 || newstate == 8 || oldstate == 3) && ({threads})");
        Ok(Self(Tracer::start("sock/inet_sock_set_state", &filter)?))
    }

    /// # Errors
    /// When the tracer cannot be read.
    pub fn count(&self) -> Result<u64> {
        self.0.count()
    }
}

/// Runs a test. One that fails while something was hidden has shown nothing: it is run again, a few times.
///
/// # Errors
/// Those of the test, where nothing was hidden from it or something was each time.
pub fn unless_hidden(port: u16, test: impl Fn() -> Result<()>) -> Result<()> {
    const MOST: u32 = 5;
    for _ in 1..MOST {
        let hidden = Hidden::watch(port)?;
        match test() {
            Err(error) if hidden.count()? > 0 => println!("again, since changes were hidden: {error:#}"),
            result => return result,
        }
    }
    test().with_context(|| format!("and in {} runs before, in which changes were hidden", MOST - 1))
}
