//! What is remembered of fragments, in plain memory. Nothing is forgotten here.

use std::cell::RefCell;
use std::collections::HashMap;

use guard_common::Address;
use guard_common::abi::{Fate, FragmentKey};
use guard_common::epoch::Slot;
use guard_common::fragments::{FateState, Fates, Kept};
use guard_common::gcra::Word;

use super::{Memory, MemoryWord};

/// What is remembered of fragments.
#[derive(Debug, Default)]
pub struct Fragments {
    fates: RefCell<HashMap<(Kept, FragmentKey), FateState<MemoryWord>>>,
    strays_of: RefCell<HashMap<Address, MemoryWord>>,
    strays: [MemoryWord; 2],
}

/// A copy shares no word.
impl Clone for Fragments {
    fn clone(&self) -> Self {
        let fate = |state: &FateState<MemoryWord>| FateState { fate: state.fate, owed: state.owed.copy() };
        let fates = self.fates.borrow().iter().map(|(key, state)| (*key, fate(state))).collect();
        let strays_of = self.strays_of.borrow().iter().map(|(of, word)| (*of, word.copy())).collect();
        Self {
            fates: RefCell::new(fates),
            strays_of: RefCell::new(strays_of),
            strays: self.strays.each_ref().map(MemoryWord::copy),
        }
    }
}

impl Memory {
    /// What is remembered of fragments.
    pub fn fragments(&self) -> Fragments {
        self.fragments.clone()
    }

    /// Puts that back.
    pub fn set_fragments(&mut self, fragments: &Fragments) {
        self.fragments.clone_from(fragments);
    }
}

impl Fates for Memory {
    type Word = MemoryWord;

    /// There is one policy.
    fn generation(&self, _: Slot) -> u64 {
        1
    }

    fn fate(&self, kept: Kept, key: &FragmentKey) -> Option<FateState<MemoryWord>> {
        self.fragments.fates.borrow().get(&(kept, *key)).cloned()
    }

    fn remember(&self, kept: Kept, key: &FragmentKey, fate: Fate) {
        let state = FateState { fate, owed: MemoryWord::new(fate.owed) };
        self.fragments.fates.borrow_mut().insert((kept, *key), state);
    }

    fn forget(&self, kept: Kept, key: &FragmentKey) {
        self.fragments.fates.borrow_mut().remove(&(kept, *key));
    }

    fn strays_of(&self, network: Address) -> Option<MemoryWord> {
        Some(self.fragments.strays_of.borrow_mut().entry(network).or_default().clone())
    }

    fn strays(&self, is_v4: bool) -> Option<MemoryWord> {
        self.fragments.strays.get(usize::from(!is_v4)).cloned()
    }
}

impl MemoryWord {
    fn copy(&self) -> Self {
        Self::new(self.load())
    }
}
