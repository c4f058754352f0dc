//! SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once. SIGHUP, where a role wants
//! it, asks to read again what it was told in a file.

use anyhow::{Context, Result};
use parking_lot::{Condvar, Mutex};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::sync::Arc;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// To end.
    Stop,
    /// To read again what was told in a file.
    Reload,
}

/// Tells when to stop.
pub(crate) struct StopSignal(Arc<(Mutex<Heard>, Condvar)>);

/// What was heard and not yet obeyed; that it was heard twice changes nothing.
#[derive(Default)]
struct Heard {
    stop: Option<i32>,
    reload: bool,
}

impl StopSignal {
    /// Listens from now on; `reload` says whether to SIGHUP, too, which ends the process otherwise.
    ///
    /// # Errors
    /// When the system refuses the handlers or the thread.
    pub(crate) fn install(reload: bool) -> Result<Self> {
        let wanted: &[i32] = if reload { &[SIGINT, SIGTERM, SIGHUP] } else { &[SIGINT, SIGTERM] };
        let mut signals = Signals::new(wanted).context("cannot listen for signals")?;
        let shared = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let heard = Arc::clone(&shared);
        let listen = move || {
            for signal in &mut signals {
                let mut state = heard.0.lock();
                if signal == SIGHUP {
                    state.reload = true;
                } else if state.stop.replace(signal).is_some() {
                    tracing::warn!("second signal: ending at once");
                    std::process::exit(128 + signal);
                }
                heard.1.notify_one();
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).context("cannot start a thread")?;
        Ok(Self(shared))
    }

    /// Waits for the next thing to do. Stopping goes before everything else.
    pub(crate) fn next(&self) -> Told {
        let mut heard = self.0.0.lock();
        loop {
            if let Some(signal) = heard.stop {
                tracing::info!(signal, "stopping; a second signal ends it at once");
                return Told::Stop;
            }
            if std::mem::take(&mut heard.reload) {
                return Told::Reload;
            }
            self.0.1.wait(&mut heard);
        }
    }

    /// Waits until it is told to stop.
    pub(crate) fn wait(&self) {
        while self.next() != Told::Stop {}
    }
}
