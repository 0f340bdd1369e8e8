//! A word of state in plain memory, shared by its clones: for tests.

extern crate std;

use core::cell::Cell;
use std::rc::Rc;

use crate::gcra::Word;

#[derive(Clone, Debug, Default)]
pub(crate) struct Plain(Rc<Cell<u64>>);

impl Plain {
    pub(crate) fn new(value: u64) -> Self {
        Self(Rc::new(Cell::new(value)))
    }
}

impl Word for Plain {
    fn load(&self) -> u64 {
        self.0.get()
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<(), u64> {
        let seen = self.0.get();
        if seen != current {
            return Err(seen);
        }
        self.0.set(new);
        Ok(())
    }

    fn add(&self, amount: u64) {
        self.0.set(self.0.get().wrapping_add(amount));
    }
}
