//! A socket to a target, from the first attempt on, with what its poller told of it.

use nvferry_io::Stream;
use nvferry_io::poller::{Event, Interest, Poller, Trigger};
use nvferry_io::stream::{ConnectProgress, Connecting, TcpOptions, TcpStream};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
#[cfg(feature = "simulation")]
use std::os::fd::AsRawFd;

/// A socket to a target.
#[derive(Debug, Default)]
pub(crate) struct HostSocket {
    state: State,
    /// Something can be received.
    readable: bool,
    /// The target sends no more. No further event tells of the end of the stream, so it is to be looked for.
    ending: bool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Closed,
    Connecting(Connecting),
    Connected(TcpStream),
    /// Not a socket at all; and whether it stands.
    #[cfg(feature = "simulation")]
    Simulated(Box<dyn nvferry_io::simulation::Socket>, bool),
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
        #[cfg(feature = "simulation")]
        if let Some(world) = nvferry_io::simulation::world() {
            return Ok(Self {
                state: State::Simulated(world.connect(address, poller.as_fd().as_raw_fd(), token)?, false),
                ..Self::default()
            });
        }
        // A target whose storage stalls may leave a connection unread for as long as that takes.
        let options = TcpOptions { waits_for_window: true, ..TcpOptions::default() };
        let connecting = TcpStream::connect(address, options)?;
        poller.add(connecting.as_fd(), token, Interest::BOTH, Trigger::Edge)?;
        Ok(Self { state: State::Connecting(connecting), ..Self::default() })
    }

    pub(crate) fn close(&mut self) {
        *self = Self::default();
    }

    /// The stream, if it stands.
    pub(crate) fn stream(&mut self) -> Option<&mut dyn Stream> {
        match &mut self.state {
            State::Connected(stream) => Some(stream),
            State::Closed | State::Connecting(_) => None,
            #[cfg(feature = "simulation")]
            State::Simulated(socket, stands) => stands.then_some(socket.as_mut() as &mut dyn Stream),
        }
    }

    /// The poller told of it.
    pub(crate) fn event(&mut self, event: &Event) {
        self.readable |= event.readable;
        self.ending |= event.ending;
    }

    /// Whether something can be received; from now on it is thought to have been.
    pub(crate) fn take_readable(&mut self) -> bool {
        std::mem::take(&mut self.readable)
    }

    /// It was received from, and there may be more, or so it seems; tells whether it is to be received from again.
    pub(crate) fn received(&mut self, more: bool) -> bool {
        // A short receive says that the stream is empty, and not that it has ended.
        self.readable |= more || std::mem::take(&mut self.ending);
        self.readable
    }

    /// Takes the next step, if there is one.
    ///
    /// # Errors
    /// The connection could not be made; the socket is closed then.
    pub(crate) fn progress(&mut self) -> io::Result<Progress> {
        match std::mem::take(&mut self.state) {
            State::Closed => Ok(Progress::Waiting),
            State::Connected(stream) => {
                self.state = State::Connected(stream);
                Ok(Progress::Connected)
            }
            State::Connecting(connecting) => match connecting.finish()? {
                ConnectProgress::Connected(stream) => {
                    self.state = State::Connected(stream);
                    Ok(Progress::JustConnected)
                }
                ConnectProgress::Pending(connecting) => {
                    self.state = State::Connecting(connecting);
                    Ok(Progress::Waiting)
                }
            },
            #[cfg(feature = "simulation")]
            State::Simulated(mut socket, stood) => {
                let stands = stood || socket.is_connected()?;
                self.state = State::Simulated(socket, stands);
                Ok(match (stood, stands) {
                    (true, _) => Progress::Connected,
                    (false, true) => Progress::JustConnected,
                    (false, false) => Progress::Waiting,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_io::poller::Events;
    use nvferry_io::vector::IoVecs;
    use std::io::Write;
    use std::net::{Shutdown, TcpListener};

    #[test]
    fn an_end_that_came_with_the_last_data_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let poller = Poller::new().unwrap();
        let mut events = Events::with_capacity(4);
        let mut socket = HostSocket::connect(listener.local_addr().unwrap(), &poller, 1).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        while socket.progress().unwrap() != Progress::JustConnected {}
        poller.wait(&mut events, None).unwrap();
        // Both are there before this side looks, so there is one event for both.
        peer.write_all(b"last words").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        while !socket.ending {
            poller.wait(&mut events, None).unwrap();
            events.iter().for_each(|event| socket.event(&event));
        }
        let (mut vecs, mut buffer) = (IoVecs::new(), [0; 100]);
        let mut got = Vec::new();
        assert!(socket.take_readable());
        loop {
            let mut list = vecs.scatter();
            list.push(&mut buffer);
            got.push(socket.stream().unwrap().recv(&mut list).unwrap());
            // Less than asked for: empty, for all that a link knows.
            if !socket.received(false) {
                break;
            }
            socket.take_readable();
        }
        assert_eq!(got, [10, 0], "the end was looked for");
    }
}
