//! How the userspace target runs: things that do not change what hosts see.

use super::limits;
use nvferry_io::engine::{self, EngineChoice, IoEngine};
use nvferry_io::fast_paths::FastPaths;
use nvferry_io::stream::TcpOptions;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Makes the I/O engine of a reactor, which it is given the number of.
pub type EngineFactory = Arc<dyn Fn(usize) -> io::Result<Box<dyn IoEngine>> + Send + Sync>;

/// How the userspace target runs.
#[derive(Clone)]
#[non_exhaustive]
pub struct UserspaceOptions {
    /// Threads that serve connections; `None` for as many as there are processors, at most four.
    pub reactors: Option<usize>,
    /// Makes each reactor's I/O engine; `None` for the best that this machine has.
    pub engine: Option<EngineFactory>,
    /// Connections at once. Newcomers beyond that are refused with Connect Controller Busy, and may try again.
    pub max_connections: usize,
    /// Sockets' options.
    pub tcp: TcpOptions,
    /// The longest that a reactor looks for more before it sleeps, once something came; zero turns spinning off.
    pub spin: Duration,
    /// Reads of what is in memory (files there, and what the page cache has of files that are served buffered) are sent
    /// from there, without a copy. Never with an engine of the caller's own, which would see nothing of such reads.
    pub send_pages: bool,
}

impl Default for UserspaceOptions {
    fn default() -> Self {
        Self {
            reactors: None,
            engine: None,
            max_connections: limits::MAX_CONNECTIONS,
            // A host that takes nothing has as long here as anywhere.
            tcp: TcpOptions { dead_after: Some(limits::SEND_STALL_TIMEOUT), ..TcpOptions::default() },
            spin: Duration::ZERO,
            send_pages: true,
        }
    }
}

impl UserspaceOptions {
    /// Whether reads may be sent without a copy.
    pub(crate) fn sends_pages(&self) -> bool {
        self.send_pages && self.engine.is_none() && !FastPaths::of_this_process().pages.is_off()
    }

    /// The engine of a reactor.
    pub(crate) fn open_engine(&self, index: usize) -> io::Result<Box<dyn IoEngine>> {
        if let Some(make) = &self.engine {
            return make(index);
        }
        let (engine, report) = engine::open(EngineChoice::Auto, limits::ENGINE_CAPACITY).map_err(io::Error::other)?;
        tracing::info!(target: "nvferry::target", reactor = index, %report, "I/O engine chosen");
        Ok(engine)
    }
}
