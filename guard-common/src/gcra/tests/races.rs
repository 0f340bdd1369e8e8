//! CPUs that come to one word at once.

extern crate std;

use core::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use super::SECOND;
use crate::gcra::*;

/// A word that another CPU moves by one packet before each attempt of this one, as long as it has packets.
struct Contested<'a> {
    word: Cell<u64>,
    limit: &'a Rate,
    /// What the other CPU has left to send, and what of it was admitted.
    others: Cell<(u64, u64)>,
    now: u64,
}

impl Word for Contested<'_> {
    fn load(&self) -> u64 {
        self.word.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        let (left, admitted) = self.others.get();
        if left > 0 {
            let word = crate::plain::Plain::new(self.word.get());
            let within = self.limit.admit(&word, self.now, 1);
            self.word.set(word.load());
            self.others.set((left - 1, admitted + u64::from(within)));
        }
        let seen = self.word.get();
        if seen != current {
            return Err(seen);
        }
        self.word.set(new);
        Ok(())
    }

    fn add(&self, amount: u64) {
        self.word.set(self.word.get().wrapping_add(amount));
    }
}

#[test]
fn a_packet_within_its_limit_is_admitted_however_often_it_loses() {
    for (burst, others) in [(1_000, 5), (1_000, 8), (1_000, 500), (9, 8), (10, 9)] {
        let limit = Rate::of_events(1, burst).unwrap();
        let now = 5 * SECOND;
        let word = Contested { word: Cell::new(0), limit: &limit, others: Cell::new((others, 0)), now };
        assert!(limit.admit(&word, now, 1), "{others} others, burst {burst}");
        // What it takes is taken, once.
        let (_, admitted) = word.others.get();
        assert_eq!(limit.left(word.load(), now), burst - admitted - 1, "{others} others, burst {burst}");
    }
}

#[test]
fn a_packet_that_finds_nothing_left_is_refused_also_after_many_races() {
    for burst in 1..8 {
        let limit = Rate::of_events(1, burst).unwrap();
        let now = 5 * SECOND;
        let word = Contested { word: Cell::new(0), limit: &limit, others: Cell::new((100, 0)), now };
        assert!(!limit.admit(&word, now, 1), "burst {burst}");
        assert_eq!(word.others.get().1, burst);
    }
}

/// A word that threads share. A thread gives way between looking and changing, so most changes lose.
struct Shared(Arc<AtomicU64>);

impl Word for Shared {
    fn load(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        thread::yield_now();
        self.0.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).map(drop)
    }

    fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::SeqCst);
    }
}

#[test]
fn sixty_four_threads_within_a_limit_lose_no_packet() {
    const THREADS: u64 = 64;
    const EACH: u64 = 200;
    let limit = Rate::of_events(1, THREADS * EACH).unwrap();
    let word = Arc::new(AtomicU64::new(0));
    let send = move |word: Arc<AtomicU64>| {
        let word = Shared(word);
        (0..EACH).filter(|_| limit.admit(&word, 5 * SECOND, 1)).count() as u64
    };
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let word = Arc::clone(&word);
            thread::spawn(move || send(word))
        })
        .collect();
    let admitted: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert_eq!(admitted, THREADS * EACH);
    assert_eq!(limit.left(word.load(Ordering::SeqCst), 5 * SECOND), 0);
}
