//! Messages that traffic can cause: each kind is written once a minute, and then with how many there were.
//!
//! A flood writes as little as one packet does. Of what is left out `guard events` and the metrics know.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

/// A kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A source was blocked automatically.
    Blocked,
    /// A source should be blocked automatically, and the kernel does not take the block.
    NotBlocked,
    /// A source would be blocked, if its service enforced.
    WouldBlock,
    /// The kernel does not take back what it did not take as a whole.
    NotPutBack,
    /// The ledger does not take an automatic block.
    NotRecorded,
    /// A source over a threshold is spared.
    Spared,
    /// Connections of a source were closed, or were not.
    Killed,
    NotKilled,
    /// Connections past `max_connections` were closed, or were not.
    Surplus,
    NotSurplus,
    /// Sockets that could not be ended.
    GoOn,
    /// Entries of blocks were changed by another program.
    Drift,
    /// The count of connections was corrected.
    Corrected,
    /// The agent could not work on a batch of events.
    Batch,
    /// Events that the audit log has no room for.
    LostEvents,
    /// The kernel cannot be told what to show of drops.
    NoDrops,
    /// A request to a server of the agent failed.
    Request,
    /// A row of the ledger cannot be read.
    Row,
    /// The blocks that are shown are not those of the ledger.
    NotListed,
}

/// How long one message stands for those like it.
const TIME: Duration = Duration::from_secs(60);
/// Of each kind so many are written in that time.
const MOST: u64 = 1;
/// Blocks are what an operator reads the log for.
const MOST_BLOCKS: u64 = 10;

/// What became of the messages of a kind since `begun`.
#[derive(Clone, Debug, Default)]
struct Seen {
    begun: Option<Instant>,
    written: u64,
    left_out: u64,
    /// The first one that was left out.
    example: String,
}

#[derive(Debug, Default)]
struct Limited {
    kinds: Vec<(Kind, Seen)>,
}

impl Limited {
    fn seen(&mut self, kind: Kind) -> &mut Seen {
        let place = self.kinds.iter().position(|(known, _)| *known == kind).unwrap_or_else(|| {
            self.kinds.push((kind, Seen::default()));
            self.kinds.len() - 1
        });
        &mut self.kinds[place].1
    }

    /// The message, if it is to be written now.
    fn take(&mut self, kind: Kind, now: Instant, message: impl FnOnce() -> String) -> Option<String> {
        let seen = self.seen(kind);
        if seen.begun.is_none_or(|begun| now.duration_since(begun) >= TIME && seen.left_out == 0) {
            *seen = Seen { begun: Some(now), ..Seen::default() };
        }
        if seen.written < most(kind) {
            seen.written += 1;
            return Some(message());
        }
        seen.left_out += 1;
        // Words are made for one of them only.
        if seen.example.is_empty() {
            seen.example = message();
        }
        None
    }

    /// What is to be told of messages that were left out, now that their time is over.
    fn due(&mut self, now: Instant) -> Vec<String> {
        let mut due = Vec::new();
        for (_, seen) in &mut self.kinds {
            let is_over = seen.begun.is_some_and(|begun| now.duration_since(begun) >= TIME);
            if is_over && seen.left_out > 0 {
                due.push(format!("{} more messages in a minute like: {}", seen.left_out, seen.example));
                *seen = Seen { begun: Some(now), written: seen.written, ..Seen::default() };
            }
        }
        due
    }
}

const fn most(kind: Kind) -> u64 {
    match kind {
        Kind::Blocked => MOST_BLOCKS,
        Kind::NotBlocked
        | Kind::WouldBlock
        | Kind::NotPutBack
        | Kind::NotRecorded
        | Kind::Spared
        | Kind::Killed
        | Kind::NotKilled
        | Kind::Surplus
        | Kind::NotSurplus
        | Kind::GoOn
        | Kind::Drift
        | Kind::Corrected
        | Kind::Batch
        | Kind::LostEvents
        | Kind::NoDrops
        | Kind::Request
        | Kind::Row
        | Kind::NotListed => MOST,
    }
}

static LIMITED: Mutex<Limited> = Mutex::new(Limited { kinds: Vec::new() });

fn lock() -> MutexGuard<'static, Limited> {
    LIMITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes a warning, or counts it.
pub fn warn(kind: Kind, message: impl FnOnce() -> String) {
    let message = lock().take(kind, Instant::now(), message);
    if let Some(message) = message {
        warn!("{message}");
    }
}

/// Writes a message, or counts it.
pub fn info(kind: Kind, message: impl FnOnce() -> String) {
    let message = lock().take(kind, Instant::now(), message);
    if let Some(message) = message {
        info!("{message}");
    }
}

/// Writes how many messages were left out, of those whose minute is over: called again and again.
pub fn flush() {
    let due = lock().due(Instant::now());
    for message in due {
        warn!("{message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_is_one_and_their_number() {
        let mut limited = Limited::default();
        let begin = Instant::now();
        let mut written = Vec::new();
        for number in 0..1000 {
            written.extend(limited.take(Kind::NotBlocked, begin, || format!("number {number}")));
        }
        assert_eq!(written, ["number 0"]);
        assert!(limited.due(begin + TIME / 2).is_empty(), "the minute is not over");
        assert_eq!(limited.due(begin + TIME), ["999 more messages in a minute like: number 1"]);
        assert!(limited.due(begin + 2 * TIME).is_empty(), "once");
    }

    #[test]
    fn while_the_flood_goes_on_a_minute_has_one_line() {
        let mut limited = Limited::default();
        let begin = Instant::now();
        let mut lines = 0;
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            for _ in 0..100 {
                lines += usize::from(limited.take(Kind::Surplus, now, String::new).is_some());
            }
            lines += limited.due(now).len();
        }
        assert!((10..=11).contains(&lines), "{lines} lines in ten minutes");
    }

    #[test]
    fn a_quiet_kind_speaks_at_once_and_kinds_do_not_share() {
        let mut limited = Limited::default();
        let begin = Instant::now();
        assert!(limited.take(Kind::Request, begin, String::new).is_some());
        assert!(limited.take(Kind::Row, begin, String::new).is_some());
        assert!(limited.take(Kind::Row, begin, String::new).is_none());
        assert_eq!(limited.due(begin + TIME).len(), 1);
        assert!(limited.take(Kind::Request, begin + TIME, String::new).is_some());
        let blocks = (0..100).filter(|_| limited.take(Kind::Blocked, begin, String::new).is_some()).count();
        assert_eq!(blocks as u64, MOST_BLOCKS);
    }
}
