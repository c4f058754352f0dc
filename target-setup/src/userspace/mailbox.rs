//! How threads tell a reactor something: letters in a box, and a wake-up.

use nvferry_io::poller::{Sleeper, Waker};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// A connection of one reactor. Places are used again; the generation tells tenants apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionKey {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

/// What a reactor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Letter {
    /// The controller is gone: close this queue's connection.
    CloseQueue(ConnectionKey),
    /// Events may wait to be reported on this admin queue.
    AsyncEvents(ConnectionKey),
    /// An authentication message of this queue's host has been taken in.
    AuthTaken(ConnectionKey),
    /// A change that commands may have waited for has ended.
    OrphanEnded,
    /// The namespace table changed: take it up now, also when idle.
    Refresh,
}

/// The letters to one reactor. Bounded by what there is to tell: one letter a queue and event, and those of a busy
/// reactor are read once a turn.
#[derive(Debug)]
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    waker: Waker,
}

impl Mailbox {
    /// A mailbox, and what its reactor sleeps on.
    pub(crate) fn new() -> io::Result<(Arc<Self>, Sleeper)> {
        let (waker, sleeper) = Waker::new()?;
        Ok((Arc::new(Self { letters: Mutex::default(), waker }), sleeper))
    }

    /// Tells the reactor, and wakes it.
    pub(crate) fn post(&self, letter: Letter) {
        {
            let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
            if letters.contains(&letter) {
                return;
            }
            letters.push(letter);
        }
        self.waker.wake();
    }

    /// Wakes the reactor without telling it anything.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    /// Takes all letters, in the order in which they were posted.
    pub(crate) fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut *self.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
