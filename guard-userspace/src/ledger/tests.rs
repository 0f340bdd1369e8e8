use std::fs;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::autoblock::Offender;
use crate::blocks::{Block, Origin, Scope, event};

const HOUR: u64 = 3_600_000;
/// A time of day.
const NOON: u64 = 1_700_000_000_000;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state/guard.db")
    }

    fn open(&self) -> Ledger {
        Ledger { is_synchronized: || true, ..Ledger::open(&self.path()).unwrap() }
    }

    /// ... after a boot, before the time of day is right.
    fn open_early(&self) -> Ledger {
        Ledger { is_synchronized: || false, ..self.open() }
    }

    fn sql(&self, statements: &str) {
        fs::create_dir_all(self.path().parent().unwrap()).unwrap();
        Connection::open(self.path()).unwrap().execute_batch(statements).unwrap();
    }
}

fn clock(boot: &str, offset: u64) -> Clock {
    Clock { boot: boot.into(), offset: offset.cast_signed() }
}

fn block(net: &str, since: u64, until: Option<u64>) -> Block {
    let reason = Some("a test".into());
    Block {
        net: net.parse().unwrap(),
        scope: Scope::Services,
        origin: Origin::Manual,
        reason,
        evidence: None,
        by: "a test".into(),
        since,
        until,
    }
}

fn putting(clock: &Clock, blocks: &[Block]) -> Change {
    let put = blocks.iter().map(|block| ((block.net, block.scope), block.clone())).collect();
    Change { put, ..Change::new(clock.clone()) }
}

fn ends(ledger: &Ledger, clock: &Clock) -> Vec<Option<u64>> {
    ledger.blocks(clock).unwrap().iter().map(|block| block.until).collect()
}

#[test]
fn within_a_boot_ends_are_those_of_the_kernels_clock() {
    // Set forward and back, by little (which is not worth a write) and by much.
    for set in [0, 300, -300, 86_400_000, -86_400_000] {
        let place = Place::new();
        let mut ledger = place.open();
        let before = clock("a", NOON);
        ledger.write(&putting(&before, &[block("10.0.0.1/32", NOON + 5, Some(NOON + HOUR))])).unwrap();
        let offender = Offender { strikes: 3, until: 1234 };
        let offenders = [("10.0.0.1/32".parse().unwrap(), Some(offender))].into();
        ledger.write(&Change { offenders, ..Change::new(before.clone()) }).unwrap();
        let after = clock("a", NOON.saturating_add_signed(set));
        for written in [false, true] {
            if written {
                assert_eq!(ledger.is_off(&after).unwrap(), set.unsigned_abs() > 1000, "{set}");
                let other = block("10.0.0.2/32", after.to_day(9_000_000), None);
                ledger.write(&putting(&after, &[other])).unwrap();
                assert!(!ledger.is_off(&after).unwrap());
            }
            let ledger = place.open();
            let until = ends(&ledger, &after)[0].unwrap();
            assert_eq!(
                after.to_kernel(until).nanoseconds(),
                HOUR * 1_000_000,
                "set by {set}, written {written}"
            );
            assert_eq!(ledger.blocks(&after).unwrap()[0].since, after.to_day(5_000_000), "{set}, {written}");
            let offenders = ledger.offenders(&after).unwrap();
            assert_eq!(offenders.into_values().collect::<Vec<_>>(), [offender], "{set}, {written}");
            for (time, ended) in [(HOUR * 1_000_000 - 1_000_000, 0), (HOUR * 1_000_000, 1)] {
                assert_eq!(ledger.ended(&after, time).unwrap().len(), ended, "{set}, {written}");
            }
        }
    }
}

#[test]
fn over_a_boot_the_time_of_day_counts() {
    let place = Place::new();
    let mut ledger = place.open();
    ledger.write(&putting(&clock("a", NOON), &[block("10.0.0.1/32", NOON, Some(NOON + HOUR))])).unwrap();
    let next = clock("b", NOON + 600_000);
    assert_eq!(ends(&ledger, &next), [Some(NOON + HOUR)]);
    assert!(ledger.is_off(&next).unwrap());
    ledger.write(&Change::new(next.clone())).unwrap();
    assert_eq!(ends(&ledger, &next), [Some(NOON + HOUR)]);
    assert_eq!(next.to_kernel(NOON + HOUR).nanoseconds(), (HOUR - 600_000) * 1_000_000);
}

#[test]
fn a_block_from_the_future_lasts_no_longer_than_it_did() {
    let place = Place::new();
    let mut ledger = place.open();
    let century = now() + 100 * 365 * 24 * HOUR;
    ledger
        .write(&putting(&clock("a", century), &[block("10.0.0.1/32", century, Some(century + HOUR))]))
        .unwrap();
    let next = Clock { boot: "b".into(), ..Clock::now() };
    ledger.write(&Change::new(next.clone())).unwrap();
    let until = ends(&ledger, &next)[0].unwrap();
    assert!(until.abs_diff(now() + HOUR) < 60_000, "{until}");
}

#[test]
fn a_file_of_the_first_version_is_brought_to_this_one() {
    let place = Place::new();
    place.sql(schema::STEPS[0]);
    place.sql(
        "INSERT INTO blocks VALUES ('10.0.0.1/32', 'host', 'manual', 'old', NULL, 'root', 1000, NULL);
         PRAGMA user_version = 1",
    );
    let mut ledger = place.open();
    assert_eq!(ledger.moved_aside(), None);
    let now = Clock::now();
    ledger.write(&Change::new(now.clone())).unwrap();
    let blocks = ledger.blocks(&now).unwrap();
    assert_eq!((blocks.len(), blocks[0].reason.as_deref()), (1, Some("old")));
    assert!(ledger.offenders(&now).unwrap().is_empty());
    place.sql("PRAGMA user_version = 99");
    assert!(matches!(Ledger::open(&place.path()), Err(LedgerError::Newer { found: 99, .. })));
}

#[test]
fn what_cannot_be_read_is_left_out() {
    let place = Place::new();
    let clock = clock("a", NOON);
    place.open().write(&putting(&clock, &[block("10.0.0.1/32", NOON, None)])).unwrap();
    place.sql(
        "INSERT INTO blocks VALUES ('nonsense', 'host', 'manual', NULL, NULL, 'x', 1, NULL);
         INSERT INTO blocks VALUES ('10.0.0.2/32', 'nowhere', 'manual', NULL, NULL, 'x', 1, NULL);
         INSERT INTO blocks VALUES ('10.0.0.3/32', 'host', 'manual', NULL, '{broken', 'x', -5, NULL);",
    );
    let nets: Vec<_> =
        place.open().blocks(&clock).unwrap().iter().map(|block| block.net.to_string()).collect();
    assert_eq!(nets, ["10.0.0.3/32", "10.0.0.1/32"]);
}

#[test]
fn a_broken_file_is_moved_aside_with_its_log() {
    let place = Place::new();
    place.sql("");
    fs::write(place.path(), "nonsense ".repeat(1000)).unwrap();
    let ledger = place.open();
    let aside = ledger.moved_aside().unwrap();
    assert!(fs::read_to_string(aside).unwrap().starts_with("nonsense"), "{aside:?}");
    assert!(ledger.blocks(&Clock::now()).unwrap().is_empty() && ledger.is_in_place().unwrap());
    fs::remove_file(place.path()).unwrap();
    assert!(!ledger.is_in_place().unwrap());
}

#[test]
fn the_audit_log_is_bounded_in_number_and_age_and_never_empty() {
    const AGE: u64 = 90 * 24 * HOUR;
    let place = Place::new();
    let mut ledger = place.open();
    let at = |at: u64| Event { at, ..event(Action::Block, None, "a test", None) };
    let add = |ledger: &mut Ledger, events: Vec<Event>| {
        ledger.write(&Change { events, ..Change::new(clock("a", NOON)) }).unwrap();
        ledger.events(&EventQuery::default()).unwrap().len()
    };
    assert_eq!(add(&mut ledger, vec![at(NOON); 1500]), 1500);
    assert_eq!(add(&mut ledger, vec![at(NOON + AGE)]), 1501, "just not too old");
    assert_eq!(add(&mut ledger, vec![at(NOON + AGE + 1)]), 1000, "the last thousand stay");
    assert_eq!(add(&mut ledger, vec![at(NOON + AGE + 2); 100_500]), 100_000);
    let last = EventQuery { last: Some(3), ..EventQuery::default() };
    assert_eq!(ledger.events(&last).unwrap().len(), 3);
}

#[test]
fn what_was_found_in_the_kernel_changes_only_the_end() {
    let place = Place::new();
    let mut ledger = place.open();
    let clock = clock("a", NOON);
    ledger.write(&putting(&clock, &[block("10.0.0.1/32", NOON, Some(NOON + HOUR))])).unwrap();
    for (until, expected) in [(NOON + 1, NOON + HOUR), (NOON + 2 * HOUR, NOON + 2 * HOUR)] {
        let found = Block { reason: Some("found".into()), ..block("10.0.0.1/32", NOON + 7, Some(until)) };
        let found = [((found.net, found.scope), found)].into();
        ledger.write(&Change { found, ..Change::new(clock.clone()) }).unwrap();
        assert_eq!(ledger.blocks(&clock).unwrap(), [block("10.0.0.1/32", NOON, Some(expected))]);
    }
}

#[test]
fn a_block_after_one_that_has_ended_is_a_new_one() {
    let place = Place::new();
    let mut ledger = place.open();
    let clock = clock("a", NOON);
    for since in [NOON, NOON + 500, NOON + 1000] {
        ledger.write(&putting(&clock, &[block("10.0.0.1/32", since, Some(since + 600))])).unwrap();
    }
    ledger.write(&putting(&clock, &[block("10.0.0.1/32", NOON + 5000, Some(NOON + 9000))])).unwrap();
    assert_eq!(ledger.blocks(&clock).unwrap(), [block("10.0.0.1/32", NOON + 5000, Some(NOON + 9000))]);
}

/// The milliseconds that the kernel's clock shows when the only block ends.
fn kernel_end(ledger: &Ledger, clock: &Clock) -> u64 {
    clock.to_kernel(ends(ledger, clock)[0].unwrap()).nanoseconds() / 1_000_000
}

#[test]
fn a_clock_that_is_off_after_a_boot_loses_no_block_and_adds_none() {
    const SECOND: u64 = 1_001;
    let uptime = crate::datapath::boot_now() / 1_000_000;
    for off in [3 * HOUR.cast_signed(), -3 * HOUR.cast_signed(), 20 * 365 * 24 * HOUR.cast_signed()] {
        let place = Place::new();
        let before = clock("a", NOON);
        let seen = before.to_day(crate::datapath::boot_now());
        place
            .open()
            .write(&putting(&before, &[block("10.0.0.1/32", seen - HOUR, Some(seen + HOUR))]))
            .unwrap();
        // The machine was off for ten minutes; the clock says something else.
        let right = clock("b", seen + 600_000);
        let wrong = Clock { offset: right.offset + off, ..right.clone() };
        for write in [Change::new(wrong.clone()), Change::new(wrong.clone())] {
            place.open_early().write(&write).unwrap();
            let ledger = place.open_early();
            assert!(ledger.is_in_doubt(&wrong).unwrap() && !ledger.is_off(&wrong).unwrap());
            let end = kernel_end(&ledger, &wrong);
            assert!(end.abs_diff(HOUR) <= SECOND, "off by {off}: {end} ms after the boot");
            assert!(
                ledger.ended(&wrong, (HOUR - 2 * SECOND) * 1_000_000).unwrap().is_empty(),
                "off by {off}"
            );
        }
        // Made meanwhile: it ends by the kernel's clock.
        let made = wrong.to_day(crate::datapath::boot_now());
        place.open_early().write(&putting(&wrong, &[block("10.0.0.2/32", made, Some(made + HOUR))])).unwrap();
        assert!(place.open().is_off(&right).unwrap(), "now it is synchronized");
        place.open().write(&Change::new(right.clone())).unwrap();
        let ledger = place.open();
        assert!(!ledger.is_in_doubt(&right).unwrap());
        let blocks = ledger.blocks(&right).unwrap();
        let ends = |net: &str| {
            blocks.iter().find(|block| block.net.to_string() == net).and_then(|block| block.until)
        };
        assert_eq!(ends("10.0.0.1/32"), Some(seen + HOUR), "off by {off}: by the time of day, as it was");
        let end = right.to_kernel(ends("10.0.0.2/32").unwrap()).nanoseconds() / 1_000_000;
        assert!(end.abs_diff(uptime + HOUR) <= 10 * SECOND, "off by {off}: {end} ms, by the kernel's clock");
    }
}

#[test]
fn a_block_that_is_made_longer_while_the_clock_is_in_doubt_ends_by_the_kernels_clock() {
    let place = Place::new();
    let before = clock("a", NOON);
    let seen = before.to_day(crate::datapath::boot_now());
    place.open().write(&putting(&before, &[block("10.0.0.1/32", seen - HOUR, Some(seen + HOUR))])).unwrap();
    let right = clock("b", seen + 24 * HOUR);
    let wrong = clock("b", seen);
    place.open_early().write(&Change::new(wrong.clone())).unwrap();
    let made = wrong.to_day(crate::datapath::boot_now());
    place.open_early().write(&putting(&wrong, &[block("10.0.0.1/32", made, Some(made + 2 * HOUR))])).unwrap();
    let in_doubt = kernel_end(&place.open_early(), &wrong);
    place.open().write(&Change::new(right.clone())).unwrap();
    assert!(kernel_end(&place.open(), &right).abs_diff(in_doubt) <= 1_001);
}
