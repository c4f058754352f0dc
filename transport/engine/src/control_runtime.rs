//! The one thread of this process on which the control plane's asynchronous work runs: HTTP, and the clock of batches
//! that are awaited. It starts when it is first needed, and sleeps while there is nothing to do.

use crate::error::{EngineError, ErrorKind};
use nix::sys::signal::{SigSet, Signal};
use std::sync::OnceLock;
use tokio::runtime::{Builder, Handle};

static CONTROL: OnceLock<Result<Handle, String>> = OnceLock::new();

/// Where to spawn control-plane tasks. They must not block.
pub(crate) fn control_runtime() -> Result<&'static Handle, EngineError> {
    let started = CONTROL.get_or_init(|| {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
        let handle = runtime.handle().clone();
        std::thread::Builder::new()
            .name("nvferry-control".into())
            .spawn(move || {
                // In a host application that is not Rust, a write to a connection that the service has closed would
                // otherwise end the process.
                if let Err(error) = SigSet::from(Signal::SIGPIPE).thread_block() {
                    tracing::warn!(%error, "cannot block SIGPIPE");
                }
                runtime.block_on(std::future::pending::<()>());
            })
            .map_err(|error| error.to_string())?;
        Ok(handle)
    });
    started.as_ref().map_err(|error| {
        EngineError::new(ErrorKind::Context, format!("the control thread could not be started: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_does_not_end_the_process() {
        let (told, mask) = std::sync::mpsc::channel();
        control_runtime().unwrap().spawn(async move { told.send(SigSet::thread_get_mask()) });
        assert!(mask.recv().unwrap().unwrap().contains(Signal::SIGPIPE));
    }
}
