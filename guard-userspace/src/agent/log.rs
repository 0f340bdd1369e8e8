//! The log: whoever reads it may be slow or stand still, and nothing of guard waits for that.
//!
//! Lines wait for a thread that writes them. When too many wait the newest are left out, and counted.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::privileges;
use crate::plain::plain_log;

/// So many lines wait: some hundred kilobytes, at their usual length.
const WAITING: usize = 1024;
/// How long the end of the process waits for lines to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// Lines of this process that could not be written in time.
static LOST: AtomicU64 = AtomicU64::new(0);
/// Lines that wait.
static WAITS: AtomicU64 = AtomicU64::new(0);

/// How many lines of the log were lost since the start.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

/// Where lines are handed over: never waits.
#[derive(Clone, Debug)]
pub struct Writer {
    lines: SyncSender<Vec<u8>>,
}

/// Held until the process ends: lines that still wait are then written, as far as they are taken.
#[derive(Debug)]
pub struct Farewell(());

impl Writer {
    /// Begins to write to `out`, on a thread of its own that has no capability.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn begin(out: impl Write + Send + 'static) -> io::Result<(Self, Farewell)> {
        let (sender, lines) = sync_channel(WAITING);
        let write = move || {
            // It needs none; if they cannot be dropped here they go with those of the process.
            let _ = privileges::drop_all();
            write_lines(&lines, out);
        };
        thread::Builder::new().name("log".into()).spawn(write)?;
        Ok((Self { lines: sender }, Farewell(())))
    }
}

fn write_lines(lines: &Receiver<Vec<u8>>, mut out: impl Write) {
    let mut told = 0;
    for line in lines {
        // Without a reader there is nobody to tell.
        let _ = out.write_all(&line);
        WAITS.fetch_sub(1, Ordering::Relaxed);
        let lost = lost();
        if lost > told && WAITS.load(Ordering::Relaxed) == 0 {
            let _ =
                writeln!(out, "guard: {} lines of this log are lost: its reader was too slow", lost - told);
            told = lost;
        }
    }
}

impl Write for Writer {
    /// Takes one message. All of it, or nothing.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        WAITS.fetch_add(1, Ordering::Relaxed);
        let harmless = plain_log(&String::from_utf8_lossy(line)).into_owned();
        if self.lines.try_send(harmless.into_bytes()).is_err() {
            WAITS.fetch_sub(1, Ordering::Relaxed);
            LOST.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let end = Instant::now() + FAREWELL;
        while WAITS.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// A reader that stands still until it is let go.
    struct Stalled {
        gate: Arc<Mutex<()>>,
        text: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stalled {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            drop(self.gate.lock().unwrap());
            self.text.lock().unwrap().extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (gate, text) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(Vec::new())));
        let shut = gate.lock().unwrap();
        let stalled = Stalled { gate: Arc::clone(&gate), text: Arc::clone(&text) };
        let (mut writer, farewell) = Writer::begin(stalled).unwrap();
        let before = lost();
        // If one of them waited, this would not end.
        for number in 0..3 * WAITING {
            writer.write_all(format!("line {number}\n").as_bytes()).unwrap();
        }
        let lines_lost = lost() - before;
        assert!(lines_lost as usize >= 2 * WAITING - 1, "{lines_lost} were lost");
        drop(shut);
        let end = Instant::now() + Duration::from_secs(60);
        while WAITS.load(Ordering::Relaxed) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        drop(farewell);
        writer.write_all(b"the end\n").unwrap();
        let said = || String::from_utf8(text.lock().unwrap().clone()).unwrap();
        while !said().contains("the end") && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(said().starts_with("line 0\nline 1\n"), "in order");
        assert!(
            said().contains(&format!("guard: {lines_lost} lines of this log are lost")),
            "{}",
            said().len()
        );
    }
}
