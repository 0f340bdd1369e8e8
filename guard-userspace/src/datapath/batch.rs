//! Writing many entries in few calls, on kernels that stop half way or know no batch.

use std::io;
use std::time::Duration;

/// Not in libc: the kernel's own "operation is not supported".
const ENOTSUPP: i32 = 524;

/// How often a write that got nowhere for want of memory is tried again before that is taken as true: about a second.
const TRIES: u32 = 100;
const LONGEST_PAUSE: Duration = Duration::from_millis(10);

/// Writes `count` entries. `batch` writes those from an index on and says how many the kernel has counted; `single` writes the one at an
/// index; `pause` waits.
///
/// Tries, and hashes that are not preallocated, take their elements from a list of each CPU that holds four (one of more than 256 bytes)
/// when the map is made and is filled up by an interrupt which the CPU sends to itself (`irq_work` in kernel/bpf/memalloc.c), so a batch
/// that is faster than the interrupt finds the list empty and ends with ENOMEM after a few elements, whatever memory there is: go on
/// behind them, and wait where nothing at all went in. Seen with tries from Linux 6.14 on, with such hashes from 6.1 on.
///
/// A kernel that has no batch for this kind of map (tries before 5.13) is given one entry after the other.
pub(super) fn write(
    count: usize,
    batch: impl Fn(usize) -> (usize, io::Result<()>),
    single: impl Fn(usize) -> io::Result<()>,
    pause: impl Fn(Duration),
) -> io::Result<()> {
    let (mut done, mut batches, mut tries) = (0, true, 0);
    while done < count {
        let (written, result) = if batches {
            match batch(done) {
                // A call that fails before its first element leaves the count as it was given.
                (counted, Err(error)) if counted >= count - done => (0, Err(error)),
                counted => counted,
            }
        } else {
            let result = single(done);
            (usize::from(result.is_ok()), result)
        };
        done += written;
        tries = if written > 0 { 0 } else { tries + 1 };
        let Err(error) = result else { continue };
        match error.raw_os_error() {
            Some(libc::ENOMEM) if written > 0 => {}
            Some(libc::ENOMEM) if tries < TRIES => pause(pause_after(tries)),
            Some(libc::EINVAL | libc::EPERM | ENOTSUPP) if batches => batches = false,
            _ => return Err(error),
        }
    }
    Ok(())
}

/// The interrupt is late by microseconds, as a rule; where it comes with the clock's tick, by milliseconds.
fn pause_after(tries: u32) -> Duration {
    Duration::from_micros(1 << tries.min(20)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeSet;

    use super::*;

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    /// A kernel that allocates from a short list, which is filled up while the caller waits.
    struct Kernel {
        written: RefCell<BTreeSet<usize>>,
        list: Cell<usize>,
        /// Elements that come with each pause.
        refill: usize,
        pauses: Cell<u32>,
        calls: Cell<u32>,
    }

    impl Kernel {
        fn new(list: usize, refill: usize) -> Self {
            let (written, pauses, calls) = Default::default();
            Self { written, list: Cell::new(list), refill, pauses, calls }
        }

        fn single(&self, at: usize) -> io::Result<()> {
            self.calls.set(self.calls.get() + 1);
            let left = self.list.get().checked_sub(1).ok_or_else(|| error(libc::ENOMEM))?;
            self.list.set(left);
            assert!(self.written.borrow_mut().insert(at), "{at} is written twice");
            Ok(())
        }

        fn batch(&self, from: usize, count: usize) -> (usize, io::Result<()>) {
            let result = (from..count).try_for_each(|at| self.single(at).map_err(|error| (at, error)));
            match result {
                Ok(()) => (count - from, Ok(())),
                Err((at, error)) => (at - from, Err(error)),
            }
        }

        fn pause(&self, _: Duration) {
            self.pauses.set(self.pauses.get() + 1);
            self.list.set(self.list.get() + self.refill);
        }

        fn write(&self, count: usize) -> io::Result<()> {
            write(count, |from| self.batch(from, count), |at| self.single(at), |time| self.pause(time))
        }
    }

    #[test]
    fn one_call_where_the_list_suffices() {
        let kernel = Kernel::new(1000, 0);
        kernel.write(1000).unwrap();
        assert_eq!((kernel.written.borrow().len(), kernel.pauses.get()), (1000, 0));
    }

    #[test]
    fn an_empty_list_is_waited_for_and_nothing_is_lost_or_written_twice() {
        for (list, refill) in [(0, 1), (2, 1), (2, 24), (4, 48)] {
            let kernel = Kernel::new(list, refill);
            kernel.write(1000).unwrap();
            assert_eq!(kernel.written.borrow().len(), 1000, "{list}, {refill}");
            assert_eq!(kernel.pauses.get() as usize, (1000 - list).div_ceil(refill), "{list}, {refill}");
        }
    }

    #[test]
    fn memory_that_never_comes_is_an_error_in_the_end() {
        let kernel = Kernel::new(7, 0);
        assert_eq!(kernel.write(1000).unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        assert_eq!((kernel.written.borrow().len(), kernel.pauses.get()), (7, TRIES - 1));
        let longest: Duration = (1..TRIES).map(pause_after).sum();
        assert!((500..1500).contains(&longest.as_millis()), "{longest:?}");
    }

    #[test]
    fn without_batches_entries_are_written_one_by_one() {
        for refusal in [libc::EINVAL, libc::EPERM, ENOTSUPP] {
            let kernel = Kernel::new(2, 8);
            let batch = |_| (0, Err(error(refusal)));
            write(100, batch, |at| kernel.single(at), |time| kernel.pause(time)).unwrap();
            assert_eq!(kernel.written.borrow().len(), 100, "{refusal}");
        }
    }

    #[test]
    fn a_count_that_the_kernel_has_not_touched_is_none() {
        let kernel = Kernel::new(100, 0);
        let fails = Cell::new(true);
        let batch = |from| {
            if fails.replace(false) {
                (100 - from, Err(error(libc::ENOMEM)))
            } else {
                kernel.batch(from, 100)
            }
        };
        write(100, batch, |at| kernel.single(at), |time| kernel.pause(time)).unwrap();
        assert_eq!((kernel.written.borrow().len(), kernel.pauses.get()), (100, 1));
    }

    #[test]
    fn other_errors_end_it_at_once() {
        for refusal in [libc::E2BIG, libc::ENOSPC, libc::EFAULT] {
            let calls = Cell::new(0);
            let batch = |_| {
                calls.set(calls.get() + 1);
                (10, Err(error(refusal)))
            };
            let single = |_| unreachable!("a batch was taken");
            let result = write(100, batch, single, |_| unreachable!("there is nothing to wait for"));
            assert_eq!((result.unwrap_err().raw_os_error(), calls.get()), (Some(refusal), 1));
        }
    }
}
