//! Choosing an engine by trying what this machine has.

use super::aio::{AioConfig, AioEngine};
use super::inline::InlineFirst;
use super::threads::{ThreadsConfig, ThreadsEngine};
use super::uring::{UringConfig, UringEngine};
use super::{IoBuf, IoEngine, IoKind, IoRequest};
use crate::fast_paths::FastPaths;
use crate::file::IoFile;
use crate::pool::{BufferPool, PoolConfig};
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a new engine may take for its trial operation.
const TRIAL_TIME: Duration = Duration::from_secs(5);

/// Which engine to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The first that works of io_uring, libaio and threads.
    #[default]
    Auto,
    /// io_uring or nothing.
    IoUring,
    /// Linux AIO or nothing.
    Libaio,
    /// A pool of threads.
    Threads,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// No engine has that name.
    #[error("there is no I/O engine {name:?}: choose auto, io_uring, libaio or threads")]
    UnknownName {
        /// As given.
        name: String,
    },
    /// The one that was asked for does not work here.
    #[error("the I/O engine {name} does not work on this machine: {source}; choose auto to use one that does")]
    Unavailable {
        /// Which.
        name: EngineChoice,
        /// What it failed with.
        source: io::Error,
    },
}

impl fmt::Display for EngineChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::IoUring => "io_uring",
            Self::Libaio => "libaio",
            Self::Threads => "threads",
        })
    }
}

impl FromStr for EngineChoice {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        match name.trim().to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "io_uring" | "io-uring" | "iouring" | "uring" => Ok(Self::IoUring),
            "libaio" | "aio" => Ok(Self::Libaio),
            "threads" | "thread" | "psync" => Ok(Self::Threads),
            _ => Err(EngineError::UnknownName { name: name.to_owned() }),
        }
    }
}

/// What became of one engine that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// It works.
    Works,
    /// It does not, and why.
    Failed(String),
    /// An earlier one works, or it was not asked for.
    NotTried,
}

/// What was tried, and what was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineReport {
    /// What was asked for.
    pub asked: EngineChoice,
    /// What is used; never `Auto`.
    pub chosen: EngineChoice,
    /// Operations that may be under way at once.
    pub capacity: usize,
    /// What became of each engine, in the order of preference.
    pub trials: Vec<(EngineChoice, Trial)>,
}

impl fmt::Display for EngineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I/O engine {} (asked for: {}; {} operations at once)", self.chosen, self.asked, self.capacity)?;
        for (engine, trial) in &self.trials {
            match trial {
                Trial::Works => write!(f, "; {engine}: works")?,
                Trial::Failed(why) => write!(f, "; {engine}: {why}")?,
                Trial::NotTried => write!(f, "; {engine}: not tried")?,
            }
        }
        Ok(())
    }
}

/// Opens an engine for `capacity` operations at once, with [`InlineFirst`] in front of it. What tests force
/// ([`FastPaths`]) stands for `Auto`.
///
/// # Errors
/// [`EngineError::Unavailable`] when the one that was asked for does not work, or none does.
pub fn open(choice: EngineChoice, capacity: usize) -> Result<(Box<dyn IoEngine>, EngineReport), EngineError> {
    let choice = if choice == EngineChoice::Auto { FastPaths::of_this_process().engine } else { choice };
    let order = [EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads];
    let mut trials: Vec<(EngineChoice, Trial)> = order.map(|engine| (engine, Trial::NotTried)).into();
    let mut last_error = None;
    for (engine, trial) in &mut trials {
        if choice != EngineChoice::Auto && choice != *engine {
            continue;
        }
        match open_one(*engine, capacity) {
            Ok(opened) => {
                *trial = Trial::Works;
                let report = EngineReport { asked: choice, chosen: *engine, capacity: opened.capacity(), trials };
                return Ok((opened, report));
            }
            Err(error) => {
                *trial = Trial::Failed(error.to_string());
                last_error = Some(error);
            }
        }
    }
    let source = last_error.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
    Err(EngineError::Unavailable { name: choice, source })
}

fn open_one(engine: EngineChoice, capacity: usize) -> io::Result<Box<dyn IoEngine>> {
    Ok(match engine {
        EngineChoice::IoUring => {
            let mut ring = UringEngine::new(UringConfig::with_capacity(capacity))?;
            // A ring can be made and yet be forbidden to do anything, as by a sandbox's filter.
            try_out(&mut ring)?;
            Box::new(InlineFirst::new(ring))
        }
        EngineChoice::Libaio => Box::new(InlineFirst::new(AioEngine::new(AioConfig::with_capacity(capacity))?)),
        EngineChoice::Threads | EngineChoice::Auto => {
            Box::new(InlineFirst::new(ThreadsEngine::new(ThreadsConfig::with_capacity(capacity))?))
        }
    })
}

/// Reads from a file in memory through the engine.
fn try_out(engine: &mut impl IoEngine) -> io::Result<()> {
    let file = Arc::new(IoFile::in_memory("nvferry-trial", 4096).map_err(io::Error::other)?);
    let pool = BufferPool::new(PoolConfig::default());
    let buffer = pool.get(4096).ok_or(io::ErrorKind::OutOfMemory)?;
    let request = IoRequest { token: 0, file, kind: IoKind::Read, offset: 0, buf: IoBuf::Pool(buffer, 4096) };
    engine.submit(request).map_err(|_| io::Error::other("it takes no operation"))?;
    engine.flush()?;
    let deadline = Instant::now() + TRIAL_TIME;
    let mut done = Vec::new();
    while Instant::now() < deadline {
        engine.reap(&mut done);
        if let Some(completion) = done.pop() {
            return match completion.result? {
                4096 => Ok(()),
                n => Err(io::Error::other(format!("a trial read gave {n} of 4096 bytes"))),
            };
        }
        engine.wait(Some(deadline.saturating_duration_since(Instant::now())))?;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "a trial read did not end"))
}
