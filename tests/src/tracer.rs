//! What the kernel's own tracer sees, where no program of ours is asked.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::stale;

const TRACEFS: &str = "tracefs";

/// A tracer of its own beside that of the machine, with one event.
pub struct Tracer {
    /// The root of tracefs.
    root: File,
    name: String,
}

impl Tracer {
    /// Traces an event of the kernel, such as `sock/inet_sock_set_state`, where the filter holds (Documentation/trace/events.rst).
    ///
    /// # Errors
    /// When the kernel has no tracer, no such event or refuses the filter.
    pub fn start(event: &str, filter: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}{}", stale::prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        let tracer = Self { root: tracefs()?, name };
        let instances = tracer.below_root("instances");
        for name in stale::abandoned(&instances) {
            // Others may do the same at this moment.
            let _ = fs::remove_dir(instances.join(name));
        }
        fs::create_dir(tracer.path("")).context("cannot make a tracer")?;
        for (file, content) in [("filter", filter), ("enable", "1")] {
            let path = tracer.path(&format!("events/{event}/{file}"));
            fs::write(path, content)
                .with_context(|| format!("cannot set the {file} of {event} to {content}"))?;
        }
        Ok(tracer)
    }

    /// How often it happened, as far as the buffer has room: some thousand times.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn count(&self) -> Result<u64> {
        let text = fs::read_to_string(self.path("trace")).context("cannot read what was traced")?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).count() as u64)
    }

    fn below_root(&self, path: &str) -> PathBuf {
        Path::new("/proc/self/fd").join(self.root.as_raw_fd().to_string()).join(path)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.below_root("instances").join(&self.name).join(file)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Nobody is left to be told of a failure.
        let _ = fs::remove_dir(self.path(""));
    }
}

/// Mounts tracefs where nobody else finds it: in a mount namespace that ends with its thread.
fn tracefs() -> Result<File> {
    let mount_and_open = || {
        unshare(CloneFlags::CLONE_NEWNS).context("cannot leave the mount namespace")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("cannot keep mounts to ourselves")?;
        let place = std::env::temp_dir();
        mount(Some(TRACEFS), &place, Some(TRACEFS), MsFlags::empty(), None::<&str>)
            .context("cannot mount tracefs, where the kernel tells of its events")?;
        File::open(place).context("cannot open tracefs")
    };
    thread::scope(|scope| scope.spawn(mount_and_open).join()).map_err(|_| anyhow!("the thread panicked"))?
}
