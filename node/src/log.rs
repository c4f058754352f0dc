//! What the rooms trace, on standard error: only errors while a role is set up (what fails then is the program's own
//! sentence), warnings from then on; with each `-v` more, from the start. `NVFERRY_LOG` picks exactly.

use anyhow::{Result, anyhow};
use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

/// Lets a role say when it serves.
pub(crate) struct Log {
    raise: Option<Box<dyn FnOnce() + Send>>,
}

impl Log {
    /// Starts it.
    ///
    /// # Errors
    /// When `NVFERRY_LOG` is no filter.
    pub(crate) fn start(verbose: u8) -> Result<Self> {
        let chosen = match (verbose, std::env::var("NVFERRY_LOG")) {
            (0, Ok(filter)) if !filter.is_empty() => Some(
                EnvFilter::try_new(&filter)
                    .map_err(|error| anyhow!("NVFERRY_LOG={filter} is not a log filter ({error}); try `info`"))?,
            ),
            (0, _) => None,
            (1, _) => Some(EnvFilter::new("info")),
            (2, _) => Some(EnvFilter::new("debug")),
            _ => Some(EnvFilter::new("trace")),
        };
        let is_chosen = chosen.is_some();
        let log = tracing_subscriber::fmt()
            .with_writer(stderr)
            .with_ansi(stderr().is_terminal())
            .with_env_filter(chosen.unwrap_or_else(|| EnvFilter::new("error")))
            .with_filter_reloading();
        let handle = log.reload_handle();
        log.init();
        let raise = move || {
            if let Err(error) = handle.reload(EnvFilter::new("warn")) {
                tracing::error!(%error, "warnings will not be shown");
            }
        };
        Ok(Self { raise: (!is_chosen).then(|| Box::new(raise) as Box<dyn FnOnce() + Send>) })
    }

    /// The role serves: from here on nobody hears of trouble but through the log.
    pub(crate) fn serving(self) {
        if let Some(raise) = self.raise {
            raise();
        }
    }
}
