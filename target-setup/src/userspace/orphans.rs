//! Changes that are still under way in an I/O engine though their connection has ended.
//!
//! A host whose connection broke makes a new one and sends its commands again, perhaps to another reactor. What the old
//! connection had handed to storage cannot be called back, and may be carried out late: after a command on the new one
//! has been answered, whose data it would undo. So a change waits until no orphan changes the same bytes any more.

use super::mailbox::{Letter, Mailbox};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The orphans of one namespace.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    /// How many there are, so that commands need no lock while there is none.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Which bytes they change.
    ranges: Vec<Range<u64>>,
    /// Reactors on which commands wait for the end of one.
    waiting: Vec<Arc<Mailbox>>,
}

impl Orphans {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change under the lock is one push or removal, so a poisoned lock is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change of these bytes has lost its connection.
    pub(crate) fn add(&self, range: Range<u64>) {
        let mut state = self.lock();
        state.ranges.push(range);
        self.count.store(state.ranges.len(), Ordering::Release);
    }

    /// It has ended.
    pub(crate) fn remove(&self, range: &Range<u64>) {
        let mut state = self.lock();
        if let Some(at) = state.ranges.iter().position(|there| there == range) {
            state.ranges.swap_remove(at);
        }
        self.count.store(state.ranges.len(), Ordering::Release);
        for mailbox in state.waiting.drain(..) {
            mailbox.post(Letter::OrphanEnded);
        }
    }

    /// Whether a change of these bytes has to wait; if so, `mailbox` is told when to look again.
    pub(crate) fn hold_up(&self, range: &Range<u64>, mailbox: &Arc<Mailbox>) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let mut state = self.lock();
        let held_up = state.ranges.iter().any(|there| there.start < range.end && range.start < there.end);
        if held_up && !state.waiting.iter().any(|there| Arc::ptr_eq(there, mailbox)) {
            state.waiting.push(Arc::clone(mailbox));
        }
        held_up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_waits_for_those_of_the_same_bytes_and_is_told_of_their_end() {
        let (mailbox, _sleeper) = Mailbox::new().unwrap();
        let orphans = Orphans::default();
        assert!(!orphans.hold_up(&(0..10), &mailbox));
        orphans.add(5..10);
        orphans.add(5..10);
        assert!(!orphans.hold_up(&(0..5), &mailbox) && !orphans.hold_up(&(10..20), &mailbox));
        assert!(orphans.hold_up(&(9..20), &mailbox));
        assert!(mailbox.take().is_empty());
        orphans.remove(&(5..10));
        assert_eq!(mailbox.take(), [Letter::OrphanEnded]);
        assert!(orphans.hold_up(&(0..6), &mailbox), "there is another");
        orphans.remove(&(5..10));
        assert!(!orphans.hold_up(&(0..6), &mailbox));
    }
}
