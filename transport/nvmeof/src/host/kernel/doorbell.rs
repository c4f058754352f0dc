//! Wakes the thread that watches an attachment's devices.

use parking_lot::{Condvar, Mutex};
use std::time::Instant;

/// A flag that one thread waits for.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    rung: Mutex<bool>,
    bell: Condvar,
}

impl Doorbell {
    /// There is something to look at.
    pub(crate) fn ring(&self) {
        let mut rung = self.rung.lock();
        if !std::mem::replace(&mut *rung, true) {
            self.bell.notify_one();
        }
    }

    /// Waits until it is rung, or the time; tells whether it was.
    pub(crate) fn wait(&self, until: Instant) -> bool {
        let mut rung = self.rung.lock();
        while !*rung {
            if self.bell.wait_until(&mut rung, until).timed_out() {
                break;
            }
        }
        std::mem::take(&mut *rung)
    }
}
