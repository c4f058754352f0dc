//! What a simulation provides in place of the machine, on the thread that runs it: the time, waits, and connections.
//!
//! Built only with the feature `simulation`. Code that would ask the machine asks [`world`] first.

pub use crate::engine::{Direction, Progress, Step};

use crate::file::{FileIdentity, Geometry};
use crate::stream::Stream;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

/// A simulated machine.
pub trait World {
    /// The time now.
    fn now(&self) -> Instant;

    /// Lets everything else go on until `is_over` says so, or until that time.
    fn wait(&self, until: Instant, is_over: &mut dyn FnMut() -> bool);

    /// Begins to connect; what happens to the socket is told under `token` to who has this poller.
    ///
    /// # Errors
    /// When it is refused at once.
    fn connect(&self, to: SocketAddr, poller: RawFd, token: u64) -> io::Result<Box<dyn Socket>>;

    /// The file of this name, if there is one.
    fn file(&self, path: &Path) -> Option<SimulatedFile>;

    /// A number for the calling thread, as there is only one.
    fn thread(&self) -> usize;
}

/// A file of a simulated machine. An engine of that machine does its I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimulatedFile {
    /// Which one it is.
    pub identity: FileIdentity,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The units in which it takes Direct I/O.
    pub geometry: Geometry,
}

/// One end of a simulated connection.
pub trait Socket: Stream + std::fmt::Debug {
    /// Whether it stands; it is being made before.
    ///
    /// # Errors
    /// It could not be made.
    fn is_connected(&mut self) -> io::Result<bool>;
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
}

/// Ends the simulation on this thread.
#[derive(Debug)]
pub struct Leave(());

impl Drop for Leave {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(Option::take);
    }
}

/// From now on this thread lives in `world`.
#[must_use]
pub fn enter(world: Rc<dyn World>) -> Leave {
    WORLD.set(Some(world));
    Leave(())
}

/// The world that this thread lives in, unless that is the real one.
#[must_use]
pub fn world() -> Option<Rc<dyn World>> {
    WORLD.with_borrow(Clone::clone)
}
