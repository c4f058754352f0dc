//! A socket to a target, from the first attempt on.

use nvferry_io::poller::{Interest, Poller, Trigger};
use nvferry_io::stream::{ConnectProgress, Connecting, TcpOptions, TcpStream};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

/// A socket to a target.
#[derive(Debug)]
pub(crate) enum HostSocket {
    /// There is none.
    Closed,
    /// It is being connected.
    Connecting(Connecting),
    /// It stands.
    Connected(TcpStream),
}

/// How far a socket got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// There is none, or it is still being connected.
    Waiting,
    /// It stands, since this very call.
    JustConnected,
    /// It stands.
    Connected,
}

impl HostSocket {
    /// Starts connecting, registered edge-triggered under `token`.
    pub(crate) fn connect(address: SocketAddr, poller: &Poller, token: u64) -> io::Result<Self> {
        let connecting = TcpStream::connect(address, TcpOptions::default())?;
        poller.add(connecting.as_fd(), token, Interest::BOTH, Trigger::Edge)?;
        Ok(Self::Connecting(connecting))
    }

    /// Takes the next step, if there is one.
    ///
    /// # Errors
    /// The connection could not be made; the socket is closed then.
    pub(crate) fn progress(&mut self) -> io::Result<Progress> {
        match std::mem::replace(self, Self::Closed) {
            Self::Closed => Ok(Progress::Waiting),
            Self::Connected(stream) => {
                *self = Self::Connected(stream);
                Ok(Progress::Connected)
            }
            Self::Connecting(connecting) => match connecting.finish()? {
                ConnectProgress::Connected(stream) => {
                    *self = Self::Connected(stream);
                    Ok(Progress::JustConnected)
                }
                ConnectProgress::Pending(connecting) => {
                    *self = Self::Connecting(connecting);
                    Ok(Progress::Waiting)
                }
            },
        }
    }
}
