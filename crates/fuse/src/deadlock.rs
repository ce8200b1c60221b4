//! Who waits for whom, among those who lock through the mount: exactly the one who would close a ring is told
//! `EDEADLK`.

use crate::locks::Asked;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Longest ring that is looked for.
const RING_LONGEST: usize = 64;

/// The waits of now: by owner, what it asked for.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<HashMap<u64, Asked>>);

/// Somebody waits; forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Noted<'w> {
    waits: &'w Waits,
    owner: u64,
}

impl Waits {
    /// For an owner who is about to wait.
    pub(crate) fn of(&self, owner: u64) -> Noted<'_> {
        Noted { waits: self, owner }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Asked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted<'_> {
    /// Notes down what is waited for. False when those for whom the owner would wait wait for him: `blocker` says whose
    /// lock is in the way of what was asked. Every step is asked for anew, because a wait that was noted down may be over.
    pub(crate) fn may_wait(&self, asked: &Asked, blocker: &dyn Fn(&Asked) -> Option<u64>) -> bool {
        let mut waits = self.waits.lock();
        let mut next = *asked;
        for _ in 0..RING_LONGEST {
            match blocker(&next) {
                Some(owner) if owner == self.owner => return false,
                Some(owner) => match waits.get(&owner) {
                    Some(waiting) => next = *waiting,
                    None => break,
                },
                None => break,
            }
        }
        waits.insert(self.owner, *asked);
        true
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        self.waits.lock().remove(&self.owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifeboat_fs::{InodeId, OpenFile};

    fn asked(owner: u64, byte: u64) -> Asked {
        let id = InodeId::from_word(1);
        Asked { id, through: OpenFile(0), owner, pid: 1, range: (byte, byte), kind: libc::F_WRLCK }
    }

    #[test]
    fn whoever_closes_a_ring_is_told_and_nobody_else() {
        // Owner n holds byte n.
        let blocker = |asked: &Asked| Some(asked.range.0);
        let waits = Waits::default();
        let (one, two, three, four) = (waits.of(1), waits.of(2), waits.of(3), waits.of(4));
        assert!(one.may_wait(&asked(1, 2), &blocker), "two does not wait");
        assert!(two.may_wait(&asked(2, 3), &blocker), "a chain");
        assert!(!three.may_wait(&asked(3, 1), &blocker), "a ring");
        assert!(one.may_wait(&asked(1, 2), &blocker), "three was told, so there is no ring");
        assert!(four.may_wait(&asked(4, 1), &blocker), "for those in the chain");
        drop(one);
        assert!(three.may_wait(&asked(3, 1), &blocker), "one waits no more");
    }

    #[test]
    fn a_wait_that_is_over_closes_no_ring() {
        let waits = Waits::default();
        let free = std::cell::Cell::new(false);
        let blocker = |asked: &Asked| if free.get() && asked.owner == 1 { None } else { Some(asked.range.0) };
        let (one, two) = (waits.of(1), waits.of(2));
        assert!(one.may_wait(&asked(1, 2), &blocker));
        free.set(true);
        assert!(two.may_wait(&asked(2, 1), &blocker), "two has given its lock back before it waited");
    }
}
