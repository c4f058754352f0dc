//! Accepting TCP connections.

use super::tcp::{TcpOptions, TcpStream};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

/// Why nobody can listen at an address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket listens there.
    #[error(
        "cannot listen on {address}: the port is in use; stop the program that uses it, or choose another port (0 picks a free one)"
    )]
    InUse {
        /// As asked.
        address: SocketAddr,
    },
    /// The address is not this machine's.
    #[error("cannot listen on {address}: this machine does not have that address")]
    NotLocal {
        /// As asked.
        address: SocketAddr,
    },
    /// Ports below a limit need a privilege.
    #[error("cannot listen on {address}: this port needs a privilege that this process lacks; choose one from 1024 up")]
    Privileged {
        /// As asked.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Os {
        /// As asked.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
}

/// A listening TCP socket that never blocks.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    local: SocketAddr,
    options: TcpOptions,
}

impl Listener {
    /// Listens at `address`; port 0 picks a free one, which [`Self::local_addr`] tells. Connections that a former
    /// process left behind do not stand in the way (`SO_REUSEADDR`). Accepted connections get `options`.
    ///
    /// # Errors
    /// A [`BindError`] that says what a person can do.
    pub fn bind(address: SocketAddr, options: TcpOptions) -> Result<Self, BindError> {
        let os = |source| BindError::Os { address, source };
        // The standard library sets `SO_REUSEADDR` and close-on-exec.
        let socket = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address },
            io::ErrorKind::AddrNotAvailable => BindError::NotLocal { address },
            io::ErrorKind::PermissionDenied => BindError::Privileged { address },
            _ => os(error),
        })?;
        socket.set_nonblocking(true).map_err(os)?;
        let local = socket.local_addr().map_err(os)?;
        Ok(Self { socket, local, options })
    }

    /// Where it really listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection, or nothing when none waits. One that ended before it was accepted is passed over.
    ///
    /// # Errors
    /// When this process or the system has no descriptors or memory left. The connection keeps waiting, so the
    /// listener stays readable: leave it alone for a while.
    pub fn accept(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            match self.socket.accept() {
                Ok((socket, peer)) => return Ok(Some((TcpStream::from_std(socket, self.options)?, peer))),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Errors that accept(2) hands on from a connection that is gone already.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EINTR
                | libc::ECONNABORTED
                | libc::EPERM
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

impl AsFd for Listener {
    /// Readable while connections wait.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
