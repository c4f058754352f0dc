//! TCP sockets that never block.

use super::Stream;
use crate::pages::Pages;
use crate::sys::{check, check_size};
use crate::vector::{Gather, Scatter};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, socket, sockopt};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How a connection is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// Send at once instead of waiting for more (`TCP_NODELAY`).
    pub nodelay: bool,
    /// Size of the kernel's send buffer in bytes, instead of its own choice.
    pub send_buffer_bytes: Option<usize>,
    /// Size of the kernel's receive buffer in bytes, instead of its own choice.
    pub recv_buffer_bytes: Option<usize>,
    /// A peer from which the kernel has heard nothing at all for so long, not even that it has what was sent to it, is
    /// taken for dead: the connection ends with `TimedOut` (`SO_KEEPALIVE`, `TCP_USER_TIMEOUT`). In whole seconds.
    /// `None` leaves that to the system, which takes a quarter of an hour for it, or for ever where nothing is sent.
    pub dead_after: Option<Duration>,
    /// A peer that is there and takes nothing is waited for. With `TCP_USER_TIMEOUT` the kernel ends a connection also
    /// when the peer's window stays closed for so long, however alive it is; with this it is not set, and whoever has
    /// sent something calls [`Stream::check_peer`].
    pub waits_for_window: bool,
}

/// As long as the keep-alive timeout of NVMe, which finds dead peers on admin queues only.
const DEAD_AFTER: Duration = Duration::from_secs(15);
/// Probes that a peer has the time to answer before it is taken for dead.
const PROBES: u32 = 3;

impl Default for TcpOptions {
    /// No delay; the kernel sizes the buffers; dead peers are found within about 15 s, and so are those that take nothing.
    fn default() -> Self {
        Self {
            nodelay: true,
            send_buffer_bytes: None,
            recv_buffer_bytes: None,
            dead_after: Some(DEAD_AFTER),
            waits_for_window: false,
        }
    }
}

/// A connected TCP socket.
#[derive(Debug)]
pub struct TcpStream {
    socket: std::net::TcpStream,
    /// How long the peer may owe an answer to what was sent; `None` where the kernel looks after that.
    patience: Option<Duration>,
    /// Since when it has owed one, at the latest, and has not been heard of.
    silent_since: Option<Instant>,
}

/// A connection that is being made.
#[derive(Debug)]
pub struct Connecting {
    socket: std::net::TcpStream,
    to: SocketAddr,
    options: TcpOptions,
}

/// How far a connection got.
#[derive(Debug)]
pub enum ConnectProgress {
    /// It stands.
    Connected(TcpStream),
    /// Not yet: ask again when the descriptor is writable.
    Pending(Connecting),
}

impl TcpStream {
    /// Starts connecting. When the descriptor is writable, [`Connecting::finish`] tells how it went.
    ///
    /// # Errors
    /// When it failed at once, as for an address that cannot be reached from here.
    pub fn connect(to: SocketAddr, options: TcpOptions) -> io::Result<Connecting> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, None)?;
        // Before connecting, as the receive buffer decides the window that is offered.
        apply(&fd, options)?;
        match nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) | Err(nix::errno::Errno::EINPROGRESS | nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Connecting { socket: fd.into(), to, options })
    }

    /// Takes over a connected socket and makes it non-blocking.
    ///
    /// # Errors
    /// When an option cannot be set.
    pub fn from_std(socket: std::net::TcpStream, options: TcpOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        apply(&socket, options)?;
        Ok(Self::new(socket, options))
    }

    fn new(socket: std::net::TcpStream, options: TcpOptions) -> Self {
        let patience = options.dead_after.filter(|_| options.waits_for_window);
        Self { socket, patience, silent_since: None }
    }

    /// This side's address.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The other side's address.
    ///
    /// # Errors
    /// The system's, as when the connection has ended.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Ends one direction or both; what was sent still arrives.
    ///
    /// # Errors
    /// `NotConnected` when the connection has ended already.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket.shutdown(how)
    }

    /// Sizes of the kernel's send and receive buffers, in bytes.
    ///
    /// # Errors
    /// The system's.
    pub fn buffer_sizes(&self) -> io::Result<(usize, usize)> {
        let send = nix::sys::socket::getsockopt(&self.socket, sockopt::SndBuf)?;
        let recv = nix::sys::socket::getsockopt(&self.socket, sockopt::RcvBuf)?;
        Ok((send, recv))
    }
}

impl Connecting {
    /// Whether the connection stands by now.
    ///
    /// # Errors
    /// The reason why it does not and will not, as `ConnectionRefused`.
    pub fn finish(self) -> io::Result<ConnectProgress> {
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        // No error may also mean no answer yet; only a connected socket has a peer.
        match self.socket.peer_addr() {
            Ok(_) => Ok(ConnectProgress::Connected(TcpStream::new(self.socket, self.options))),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => match self.socket.take_error()? {
                Some(error) => Err(error),
                None => Ok(ConnectProgress::Pending(self)),
            },
            Err(error) => Err(error),
        }
    }

    /// Where to.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        self.to
    }
}

fn apply(socket: &impl AsFd, options: TcpOptions) -> io::Result<()> {
    nix::sys::socket::setsockopt(socket, sockopt::TcpNoDelay, &options.nodelay)?;
    if let Some(bytes) = options.send_buffer_bytes {
        nix::sys::socket::setsockopt(socket, sockopt::SndBuf, &bytes)?;
    }
    if let Some(bytes) = options.recv_buffer_bytes {
        nix::sys::socket::setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    if let Some(time) = options.dead_after {
        // What was sent and is not acknowledged ends it by the one; where nothing was sent, probes by the other.
        let (time_ms, probe_s) = (time.as_millis().max(1), (time.as_secs() / u64::from(PROBES)).max(1));
        if !options.waits_for_window {
            nix::sys::socket::setsockopt(socket, sockopt::TcpUserTimeout, &u32::try_from(time_ms).unwrap_or(u32::MAX))?;
        }
        nix::sys::socket::setsockopt(socket, sockopt::TcpKeepIdle, &u32::try_from(probe_s).unwrap_or(u32::MAX))?;
        nix::sys::socket::setsockopt(socket, sockopt::TcpKeepInterval, &u32::try_from(probe_s).unwrap_or(u32::MAX))?;
        nix::sys::socket::setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
        nix::sys::socket::setsockopt(socket, sockopt::KeepAlive, &true)?;
    }
    Ok(())
}

/// A message header around a list of pieces.
fn header(pieces: *mut libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: no address, no pieces, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces;
    message.msg_iovlen = count as _;
    message
}

impl Stream for TcpStream {
    fn recv(&mut self, into: &mut Scatter<'_>) -> io::Result<usize> {
        let pieces = into.as_iovecs();
        let mut message = header(pieces.as_mut_ptr(), pieces.len());
        loop {
            // SAFETY: each piece came from an exclusive reference or a lease that outlives the call, and is valid
            // for writes of its length.
            let got = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            match check_size(got) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn send(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        self.send_with(from, 0)
    }

    fn send_before(&mut self, from: &Gather<'_>) -> io::Result<usize> {
        self.send_with(from, libc::MSG_MORE)
    }

    fn send_pages(&mut self, pages: &mut Pages, more: bool) -> io::Result<usize> {
        pages.splice_to(self.socket.as_fd(), more)
    }

    fn check_peer(&mut self, now: Instant) -> io::Result<()> {
        let Some(patience) = self.patience else { return Ok(()) };
        let info = self.info()?;
        // Data that is under way is acknowledged at once, and a probe of a closed window is answered. Where there is
        // neither, the kernel's keep-alive looks after the peer.
        if info.tcpi_unacked == 0 && info.tcpi_probes == 0 {
            self.silent_since = None;
            return Ok(());
        }
        let heard_ago = Duration::from_millis(info.tcpi_last_ack_recv.into());
        match self.silent_since {
            Some(since) if heard_ago >= now.saturating_duration_since(since) => {
                if now.saturating_duration_since(since) < patience {
                    return Ok(());
                }
                Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not answer any more, not even its kernel"))
            }
            // It was heard of since then, or owed nothing yet.
            _ => {
                self.silent_since = Some(now);
                Ok(())
            }
        }
    }
}

impl TcpStream {
    /// What the kernel knows of the connection.
    fn info(&self) -> io::Result<libc::tcp_info> {
        // SAFETY: tcp_info is numbers only, for which all-zero is valid; older kernels fill in less.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
        let (fd, to) = (self.socket.as_raw_fd(), (&raw mut info).cast());
        // SAFETY: `to` is valid for writes of `len` bytes, and the descriptor is open as long as `self`.
        check(unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut len) })?;
        Ok(info)
    }

    fn send_with(&mut self, from: &Gather<'_>, flags: libc::c_int) -> io::Result<usize> {
        let pieces = from.as_iovecs();
        let message = header(pieces.as_ptr().cast_mut(), pieces.len());
        let flags = flags | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        loop {
            // SAFETY: each piece came from a reference or a lease that outlives the call; sending only reads.
            let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, flags) };
            match check_size(sent) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

impl AsFd for TcpStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsFd for Connecting {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
