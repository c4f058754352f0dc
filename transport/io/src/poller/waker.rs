//! Ending another thread's sleep without paying a system call when it is awake.
//!
//! One atomic holds the sleeper's state; an eventfd ends a sleep that has really begun.
//!
//! ```text
//!             prepare_sleep            wake: write(eventfd)
//!   Awake ----------------> Asleep --------------------------> Notified
//!     ^  \                    |                                 |    ^
//!     |   \                   | woke                            |    |
//!     |    \  wake            v                                 |    | wake: nothing
//!     |     `-------------> Notified <--------------------------'----'
//!     |                       |
//!     `-----------------------'  prepare_sleep (says: don't sleep) or woke
//! ```
//!
//! Why no wake-up is lost. A waker first makes its work visible (pushes it to a queue) and then swaps `Notified` in;
//! the sleeper first empties its queues and then tries to exchange `Awake` for `Asleep`. Both are read-modify-write
//! operations on one atomic, so one comes first. If the waker does, the exchange fails, the sleeper does not sleep,
//! and the acquire half of its exchange makes the work visible. If the sleeper does, the waker's swap sees `Asleep`
//! and writes to the eventfd; the sleeper's poll, begun or about to begin, sees it readable.
//!
//! The eventfd is never read: it is polled edge-triggered ([`super::Poller::add_sleeper`]), where each write is an
//! event of its own. A waker that is slow between its swap and its write makes one later sleep end early; sleeps may
//! always do that.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// The sleeper runs and has seen all notifications.
const AWAKE: u8 = 0;
/// The sleeper polls, or is about to: it needs the eventfd.
const ASLEEP: u8 = 1;
/// Somebody called [`Waker::wake`] since the sleeper last looked.
const NOTIFIED: u8 = 2;

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    eventfd: EventFd,
}

/// Ends the sleep of one thread, from any thread. Clones wake the same one.
#[derive(Debug, Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

/// The sleeping side of a [`Waker`]. Starts awake.
#[derive(Debug)]
pub struct Sleeper {
    shared: Arc<Shared>,
}

impl Waker {
    /// A waker and the side that it wakes.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<(Self, Sleeper)> {
        let eventfd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { state: AtomicU8::new(AWAKE), eventfd });
        Ok((Self { shared: Arc::clone(&shared) }, Sleeper { shared }))
    }

    /// Makes the sleeper's present or next sleep end at once. Call it after making the work visible. One system
    /// call if the sleeper is asleep and nobody else woke it yet; otherwise none.
    pub fn wake(&self) {
        if self.shared.state.swap(NOTIFIED, Ordering::AcqRel) == ASLEEP {
            // The only failure is a counter at its end, and then the descriptor is readable anyway.
            let _ = self.shared.eventfd.write(1);
        }
    }
}

impl Sleeper {
    /// Says that this thread is about to sleep; call it when all queues are empty. `true`: go and poll, then call
    /// [`Self::woke`]. `false`: somebody called [`Waker::wake`] meanwhile, so look at the queues again instead.
    #[must_use]
    pub fn prepare_sleep(&self) -> bool {
        let state = &self.shared.state;
        if state.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
        // `Notified` (or `Asleep`, if `woke` was forgotten: then too the queues deserve another look).
        state.swap(AWAKE, Ordering::AcqRel);
        false
    }

    /// Says that this thread runs again, whatever ended its sleep; wakers then save their system call. Tells whether
    /// somebody called [`Waker::wake`].
    pub fn woke(&self) -> bool {
        self.shared.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }
}

impl AsFd for Sleeper {
    /// To be polled edge-triggered: it is never read, and so stays readable after the first wake-up.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.eventfd.as_fd()
    }
}
