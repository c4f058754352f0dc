//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once.

use crate::failure::Interrupted;
use crate::temp;
use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Tells whether and when to stop. Clones tell the same.
#[derive(Debug, Clone)]
pub(crate) struct StopSignal {
    signal: Arc<AtomicI32>,
    first: Arc<Mutex<Receiver<i32>>>,
}

impl StopSignal {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses the handlers or the thread.
    pub(crate) fn install() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
        let signal = Arc::new(AtomicI32::new(0));
        let (send, first): (Sender<i32>, _) = channel();
        let seen = Arc::clone(&signal);
        let listen = move || {
            for number in &mut signals {
                if seen.swap(number, Ordering::SeqCst) != 0 {
                    temp::remove_now();
                    std::process::exit(128 + number);
                }
                // Few wait, a target for example; the flag tells the others.
                let _ = send.send(number);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot start the signals' thread")?;
        Ok(Self { signal, first: Arc::new(Mutex::new(first)) })
    }

    /// Whether a signal came.
    pub(crate) fn is_set(&self) -> bool {
        self.signal.load(Ordering::Relaxed) != 0
    }

    /// The signal that came, if one did.
    pub(crate) fn number(&self) -> Option<i32> {
        Some(self.signal.load(Ordering::Relaxed)).filter(|number| *number != 0)
    }

    /// An error when a signal came: for between the steps of a set-up.
    ///
    /// # Errors
    /// [`Interrupted`].
    pub(crate) fn check(&self) -> Result<(), Interrupted> {
        self.number().map_or(Ok(()), |signal| Err(Interrupted(signal)))
    }

    /// Waits for the first signal and tells its number.
    pub(crate) fn wait(&self) -> i32 {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.recv().unwrap_or(SIGTERM)
    }

    /// Waits for so long, or until the first signal.
    pub(crate) fn wait_for(&self, time: Duration) {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // What came is in the flag as well.
        let _ = first.recv_timeout(time);
    }
}
