//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once.

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::mpsc::{Receiver, sync_channel};

/// Tells when to stop.
pub(crate) struct StopSignal(Receiver<i32>);

impl StopSignal {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the system refuses the handlers or the thread.
    pub(crate) fn install() -> Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen for signals")?;
        let (first, stop) = sync_channel(1);
        let listen = move || {
            let mut seen = 0;
            for signal in &mut signals {
                seen += 1;
                if seen > 1 {
                    tracing::warn!("second signal: ending at once");
                    std::process::exit(128 + signal);
                }
                // The channel has room for the one message that is ever sent.
                let _ = first.try_send(signal);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot start a thread")?;
        Ok(Self(stop))
    }

    /// Waits for the first signal.
    pub(crate) fn wait(&self) {
        let signal = self.0.recv().unwrap_or(SIGTERM);
        tracing::info!(signal, "stopping; a second signal ends it at once");
    }
}
