//! A worker's engine of file I/O, opened when the first local files are.

use super::ENGINE_TOKEN;
use nvferry_io::engine::{EngineChoice, open};
use nvferry_io::poller::{Interest, Poller, Trigger};
use nvferry_io::{IoCompletion, IoEngine, IoRequest};
use std::collections::VecDeque;
use std::io;

/// Operations under way at once.
const CAPACITY: usize = 128;

/// A worker's engine of file I/O.
#[derive(Default)]
pub(crate) struct LocalIo {
    engine: Option<Box<dyn IoEngine>>,
    ended: Vec<IoCompletion>,
    submitted: bool,
    /// Operations for which there was no engine, or no room in it.
    refused: VecDeque<IoCompletion>,
}

impl LocalIo {
    /// Opens the engine, if that has not been done.
    pub(super) fn open(&mut self, poller: &Poller) -> io::Result<()> {
        if self.engine.is_some() {
            return Ok(());
        }
        let (engine, report) = open(EngineChoice::Auto, CAPACITY).map_err(io::Error::other)?;
        poller.add(engine.wake_fd(), ENGINE_TOKEN, Interest::READ, Trigger::Edge)?;
        tracing::info!(target: "nvferry::host", %report, "I/O engine chosen for local files");
        self.engine = Some(engine);
        Ok(())
    }

    /// Whether that has been done.
    pub(super) fn is_open(&self) -> bool {
        self.engine.is_some()
    }

    /// Operations that can be submitted now.
    pub(crate) fn room(&self) -> usize {
        self.engine.as_ref().map_or(CAPACITY, |engine| engine.capacity().saturating_sub(engine.in_flight()))
    }

    /// Takes an operation. One that cannot be done ends with an error.
    pub(crate) fn submit(&mut self, request: IoRequest) {
        let refuse = |request: IoRequest, kind: io::ErrorKind| IoCompletion {
            token: request.token,
            result: Err(kind.into()),
            buf: request.buf,
        };
        match &mut self.engine {
            None => self.refused.push_back(refuse(request, io::ErrorKind::Unsupported)),
            Some(engine) => match engine.submit(request) {
                Ok(()) => self.submitted = true,
                Err(request) => self.refused.push_back(refuse(request, io::ErrorKind::ResourceBusy)),
            },
        }
    }

    /// Hands what was submitted to the kernel, and takes what has ended at once.
    pub(super) fn flush(&mut self) {
        if let Some(engine) = &mut self.engine
            && std::mem::take(&mut self.submitted)
        {
            if let Err(error) = engine.flush() {
                tracing::error!(target: "nvferry::host", %error, "the I/O engine failed");
            }
            engine.reap(&mut self.ended);
        }
    }

    /// Whether something has ended that [`Self::reap`] would give at once.
    pub(super) fn has_ended(&self) -> bool {
        !self.ended.is_empty() || !self.refused.is_empty()
    }

    /// Appends what has ended.
    pub(super) fn reap(&mut self, into: &mut Vec<IoCompletion>) {
        into.append(&mut self.ended);
        if let Some(engine) = &mut self.engine {
            engine.reap(into);
        }
        into.extend(self.refused.drain(..));
    }
}
