//! Wakes the thread that watches an attachment's devices.

use parking_lot::{Condvar, Mutex};
use std::time::Instant;

/// A flag that one thread waits for.
#[derive(Debug, Default)]
pub(crate) struct Doorbell {
    rung: Mutex<bool>,
    bell: Condvar,
    /// Until when the devices may be those of a connection that is no more.
    doubt_until: Mutex<Option<Instant>>,
}

impl Doorbell {
    /// There is something to look at.
    pub(crate) fn ring(&self) {
        let mut rung = self.rung.lock();
        if !std::mem::replace(&mut *rung, true) {
            self.bell.notify_one();
        }
    }

    /// The connection was lost, or has just come back: until then, devices' errors may come from that.
    pub(crate) fn doubt_until(&self, until: Instant) {
        *self.doubt_until.lock() = Some(until);
    }

    /// Whether errors may come from a connection that was lost.
    pub(crate) fn is_in_doubt(&self, now: Instant) -> bool {
        self.doubt_until.lock().is_some_and(|until| now < until)
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
