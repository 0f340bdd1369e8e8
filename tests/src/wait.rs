//! Waiting for something to become true.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `done`, or until the deadline. Returns whether it was done.
pub fn until(deadline: Instant, mut done: impl FnMut() -> bool) -> bool {
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

/// Waits until `done`, for at most `patience`.
pub fn within(patience: Duration, done: impl FnMut() -> bool) -> bool {
    until(Instant::now() + patience, done)
}
