//! An eventfd that says "something has ended" to whoever polls an engine.

use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Readable from [`Self::raise`] until [`Self::clear`].
#[derive(Debug)]
pub(crate) struct Signal(EventFd);

impl Signal {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    pub(crate) fn raise(&self) {
        // Fails only when the counter is at its end, and then the descriptor is readable anyway.
        let _ = self.0.write(1);
    }

    pub(crate) fn clear(&self) {
        // Fails only when it is clear.
        let _ = self.0.read();
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
