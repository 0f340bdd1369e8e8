//! What holds for all bytes that a client sends to the control socket or the port of metrics.

use std::io;
use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use guard_userspace::agent::readers;

/// Far above what some kilobytes take; a server that waits for more than there is waits longer.
const LONG: Duration = Duration::from_secs(4);

/// Answers come within less, where nothing else wants the CPU. What comes later is not looked at.
const SHORT: Duration = Duration::from_millis(1);

/// Panics so far. A server goes on without the request that panicked.
static PANICS: AtomicUsize = AtomicUsize::new(0);

/// # Panics
/// Where the reader panics, works for long, or answers what is no HTTP or could control a terminal.
pub fn control(bytes: &[u8]) {
    check(bytes, readers::control);
}

/// # Panics
/// As [`control`].
pub fn metrics(bytes: &[u8]) {
    check(bytes, readers::metrics);
}

type Reader = fn(&[u8], Duration) -> io::Result<Vec<u8>>;

fn check(bytes: &[u8], read: Reader) {
    count_panics();
    let (before, begun) = (PANICS.load(Ordering::SeqCst), Instant::now());
    let answers = read(bytes, SHORT).unwrap_or_else(|error| panic!("no answer can be waited for: {error}"));
    assert_eq!(PANICS.load(Ordering::SeqCst), before, "a request panicked");
    assert!(begun.elapsed() < LONG, "{:?}", begun.elapsed());
    let text = String::from_utf8_lossy(&answers);
    assert!(answers.is_empty() || text.starts_with("HTTP/1."), "{text:?}");
    let is_control = |character: char| character.is_control() && !matches!(character, '\r' | '\n' | '\t');
    assert!(!text.contains(is_control), "{text:?}");
}

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(panic);
        }));
    });
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::seeds;

    /// On a busy machine an answer may take its time.
    fn answered(read: Reader, request: &[u8]) -> String {
        let times = [100, 1_000, 10_000].map(Duration::from_millis);
        let answers = times.into_iter().map(|time| String::from_utf8(read(request, time).unwrap()).unwrap());
        answers.into_iter().find(|answer| !answer.is_empty()).unwrap_or_default()
    }

    #[test]
    fn honest_requests_are_read_and_each_is_answered() {
        for seed in seeds::control() {
            control(&seed);
            let answer = answered(readers::control, &seed);
            assert!(answer.starts_with("HTTP/1.1 200"), "{}: {answer}", String::from_utf8_lossy(&seed));
        }
        for seed in seeds::metrics() {
            metrics(&seed);
            assert!(answered(readers::metrics, &seed).starts_with("HTTP/1.1 200"), "{seed:?}");
        }
        let three = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3);
        assert_eq!(answered(readers::metrics, three.as_bytes()).matches("a page").count(), 3);
    }

    /// Without a fuzzer: honest requests with some of it changed.
    #[test]
    fn what_is_changed_at_random_breaks_no_reader() {
        const CHANGED: usize = 150;
        let mut rng = Rng::with_seed(7);
        for (seeds, hold) in [(seeds::control(), control as fn(&[u8])), (seeds::metrics(), metrics)] {
            for _ in 0..CHANGED {
                let mut bytes = seeds[rng.usize(..seeds.len())].clone();
                for _ in 0..rng.usize(1..5) {
                    let at = rng.usize(..=bytes.len());
                    match rng.u8(0..3) {
                        0 => bytes.insert(at, rng.u8(..)),
                        1 => drop(bytes.drain(at..bytes.len().min(at + rng.usize(1..20)))),
                        _ => bytes.extend_from_within(at..),
                    }
                }
                hold(&bytes);
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_no_request_is_refused_or_left_unanswered() {
        for seed in seeds::control() {
            for length in [0, 1, seed.len() / 2, seed.len() - 1] {
                control(&seed[..length]);
            }
        }
        let odd = b"POST /v1/block HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n{}";
        control(odd);
        let body = r#"{"nets":[" \u001b[2J"]}"#;
        let hostile =
            format!("POST /v1/unblock HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = answered(readers::control, hostile.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        control(hostile.as_bytes());
    }
}
