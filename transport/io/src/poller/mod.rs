//! Readiness of sockets and engines (epoll), and wake-ups from other threads.
//!
//! One [`Poller`] belongs to one worker. Everything that the worker waits for is a descriptor registered under a
//! token of the worker's choice; a [`Waker`] is how other threads end its sleep.

mod spin;
mod waker;

pub use spin::AdaptiveSpin;
pub use waker::{Sleeper, Waker};

use crate::sys::{check, timespec};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What to wait for. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Until something can be read.
    pub read: bool,
    /// Until something can be written.
    pub write: bool,
}

impl Interest {
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false };
    /// Writing only.
    pub const WRITE: Self = Self { read: false, write: true };
    /// Both.
    pub const BOTH: Self = Self { read: true, write: true };
    /// Errors and hang-ups only.
    pub const NONE: Self = Self { read: false, write: false };
}

/// When readiness is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// In every wait while it lasts. Interest must be taken back when it is not wanted, or nobody ever sleeps.
    Level,
    /// Once each time it comes about (and once on registering, if it is so already). Who is told must read or write
    /// until `WouldBlock`, and never needs to change its interest: one system call less each time.
    Edge,
}

/// One descriptor's readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The token it was registered under.
    pub token: u64,
    /// Reading will not block; also set at the end of the stream and on errors, so that reading finds out.
    pub readable: bool,
    /// Writing will not block; also set on errors.
    pub writable: bool,
    /// Both directions have ended.
    pub closed: bool,
    /// The peer sends no more, or the connection failed: who reads under [`Trigger::Edge`] must go on to the end of
    /// the stream, for no other event tells of it.
    pub ending: bool,
}

/// Room for the events of one wait, kept over calls.
pub struct Events {
    list: Vec<EpollEvent>,
    filled: usize,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Events {
    /// Room for `capacity` events a wait; more come with the next.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { list: vec![EpollEvent::empty(); capacity.clamp(1, 65_536)], filled: 0 }
    }

    /// How many the last wait gave.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether the last wait gave none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Forgets what the last wait gave.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// What the last wait gave.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        self.list[..self.filled].iter().map(|event| {
            let flags = event.events();
            let failed = EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP;
            Event {
                token: event.data(),
                readable: flags.intersects(failed | EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP),
                writable: flags.intersects(failed | EpollFlags::EPOLLOUT),
                closed: flags.intersects(failed),
                ending: flags.intersects(failed | EpollFlags::EPOLLRDHUP),
            }
        })
    }
}

/// A set of descriptors to wait for.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
    /// Cleared once the kernel said that it has no `epoll_pwait2` (before Linux 5.11).
    has_pwait2: AtomicBool,
}

impl Poller {
    /// An empty set.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, has_pwait2: AtomicBool::new(true) })
    }

    /// Registers a descriptor. It leaves the set when it is closed or removed.
    ///
    /// # Errors
    /// `AlreadyExists` when it is registered; otherwise the system's.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest, trigger: Trigger) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(flags(interest, trigger), token))?)
    }

    /// Changes the token, interest and trigger of a registered descriptor.
    ///
    /// # Errors
    /// `NotFound` when it is not registered; otherwise the system's.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, interest: Interest, trigger: Trigger) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags(interest, trigger), token))?)
    }

    /// Takes a descriptor out of the set.
    ///
    /// # Errors
    /// `NotFound` when it is not registered.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self.epoll.delete(fd)?)
    }

    /// Registers what ends the sleep of this thread, under `token`. Its events need no handling beyond
    /// [`Sleeper::woke`], which costs no system call.
    ///
    /// # Errors
    /// As of [`Self::add`].
    pub fn add_sleeper(&self, sleeper: &Sleeper, token: u64) -> io::Result<()> {
        self.add(sleeper.as_fd(), token, Interest::READ, Trigger::Edge)
    }

    /// Waits until something is ready, the time is over (precise to less than a millisecond), or a signal came; the
    /// last two give no events. `None` waits without limit; zero only looks.
    ///
    /// # Errors
    /// The system's; none in ordinary operation.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.filled = 0;
        let got = if timeout.is_some_and(|time| !time.is_zero()) && self.has_pwait2.load(Ordering::Relaxed) {
            match self.wait_precisely(&mut events.list, timeout) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                    self.has_pwait2.store(false, Ordering::Relaxed);
                    self.wait_ms(&mut events.list, timeout)
                }
                other => other,
            }
        } else {
            self.wait_ms(&mut events.list, timeout)
        };
        match got {
            Ok(filled) => {
                events.filled = filled;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn wait_precisely(&self, events: &mut [EpollEvent], timeout: Option<Duration>) -> io::Result<usize> {
        let time = timeout.map(timespec);
        let time_ptr = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let (fd, room) = (self.epoll.0.as_raw_fd(), libc::c_long::try_from(events.len()).unwrap_or(1));
        let no_mask = std::ptr::null::<libc::sigset_t>();
        // SAFETY: `events` is valid for `room` events (`EpollEvent` is a transparent `epoll_event`); the time lives
        // during the call; there is no signal mask.
        let got =
            unsafe { libc::syscall(libc::SYS_epoll_pwait2, fd, events.as_mut_ptr(), room, time_ptr, no_mask, 0_usize) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    fn wait_ms(&self, events: &mut [EpollEvent], timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up: a wait that ends too early would be repeated without sleeping until the time is over.
        let ms = timeout
            .map_or(-1, |time| libc::c_int::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX));
        let room = libc::c_int::try_from(events.len()).unwrap_or(1);
        // SAFETY: as in `wait_precisely`.
        let got = unsafe { libc::epoll_wait(self.epoll.0.as_raw_fd(), events.as_mut_ptr().cast(), room, ms) };
        Ok(check(got)? as usize)
    }
}

impl AsFd for Poller {
    /// Readable while something in the set is ready: a poller can be registered in another.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

fn flags(interest: Interest, trigger: Trigger) -> EpollFlags {
    let mut flags = EpollFlags::empty();
    flags.set(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP, interest.read);
    flags.set(EpollFlags::EPOLLOUT, interest.write);
    flags.set(EpollFlags::EPOLLET, trigger == Trigger::Edge);
    flags
}
