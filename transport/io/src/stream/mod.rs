//! A connected, non-blocking byte stream: a TCP socket, or its twin in memory for deterministic tests.

mod listener;
mod memory;
mod tcp;

pub use listener::{BindError, Listener};
pub use memory::{Cut, LinkState, MemoryLink, MemoryStream, memory_pair};
pub use tcp::{ConnectProgress, Connecting, TcpOptions, TcpStream};

use crate::pages::Pages;
use crate::vector::{Gather, Scatter};
use std::io;
use std::time::Instant;

/// A connected byte stream that never blocks. `WouldBlock` means: try again when it is ready.
pub trait Stream: Send {
    /// Receives into the list; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; anything else ends the connection.
    fn recv(&mut self, into: &mut Scatter<'_>) -> io::Result<usize>;

    /// Sends from the list and tells how many bytes were taken.
    ///
    /// # Errors
    /// `WouldBlock` when nothing could be taken; anything else ends the connection.
    fn send(&mut self, from: &Gather<'_>) -> io::Result<usize>;

    /// As [`Self::send`], where more follows at once: it may be held back until then.
    ///
    /// # Errors
    /// As of [`Self::send`].
    fn send_before(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        self.send(from)
    }

    /// Sends pages of a file and tells how many bytes were taken; `more` follows at once.
    ///
    /// # Errors
    /// As of [`Self::send`].
    fn send_pages(&mut self, pages: &mut Pages, more: bool) -> io::Result<usize>;

    /// Looks whether the peer still answers at all, where nobody else does; see [`TcpOptions::waits_for_window`]. To be
    /// called every few seconds while something is under way.
    ///
    /// # Errors
    /// `TimedOut` when it is taken for dead: this ends the connection.
    fn check_peer(&mut self, _now: Instant) -> io::Result<()> {
        Ok(())
    }
}
