//! Pages of a file on their way to a socket, without a copy: `splice` puts references to them into a pipe, and from
//! there to the socket.
//!
//! Only what is in memory is taken, so that nobody waits for a disk: files in memory always, others when the page
//! cache has all of it (`cachestat`, Linux 6.5).

use crate::file::IoFile;
use crate::sys::check_size;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// `cachestat`, where the C library does not know it. The same number on all architectures.
const SYS_CACHESTAT: libc::c_long = 451;
/// The unit of a pipe.
const PAGE_BYTES: usize = 4096;

/// The kernel has no `cachestat`.
static NO_CACHESTAT: AtomicBool = AtomicBool::new(false);

/// Lets this thread give pages to sockets whose peers have gone: without it the process would get SIGPIPE, where it does
/// not ignore that anyway.
pub fn survive_broken_connections() {
    // SAFETY: an all-zero set is valid to be initialised; both calls only change this thread's mask.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
    }
}

/// Pages of a file. What was taken must be given to a stream, or dropped with the pipe.
#[derive(Debug)]
pub struct Pages {
    reader: io::PipeReader,
    writer: OwnedFd,
    capacity_bytes: usize,
    held_bytes: usize,
}

impl Pages {
    /// Room for pages; it grows when it has to.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let writer = OwnedFd::from(writer);
        // SAFETY: asks for the size of a pipe's buffer.
        let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_GETPIPE_SZ) };
        let capacity_bytes = usize::try_from(size).unwrap_or(PAGE_BYTES);
        Ok(Self { reader, writer, capacity_bytes, held_bytes: 0 })
    }

    /// Bytes that it holds.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Takes `len` bytes of `file` at `offset`, if they can be had at once and without a copy: `false` when not, and it is
    /// as it was. The file must be open without Direct I/O, the offset a multiple of the page.
    ///
    /// # Errors
    /// The pipe is of no use any more.
    pub fn take(&mut self, file: &IoFile, offset: u64, len: usize) -> io::Result<bool> {
        let is_whole = offset.is_multiple_of(PAGE_BYTES as u64) && len > 0 && self.held_bytes == 0;
        if !is_whole || file.is_direct() || !self.has_room(len) || !is_in_memory(file, offset, len) {
            return Ok(false);
        }
        let mut at = libc::loff_t::try_from(offset).map_err(io::Error::other)?;
        while self.held_bytes < len {
            let (from, to, left) = (file.as_fd().as_raw_fd(), self.writer.as_raw_fd(), len - self.held_bytes);
            // SAFETY: both descriptors are open, `at` lives during the call, and a pipe needs no offset.
            let got =
                unsafe { libc::splice(from, &raw mut at, to, std::ptr::null_mut(), left, libc::SPLICE_F_NONBLOCK) };
            match check_size(got) {
                Ok(0) => break,
                Ok(n) => self.held_bytes += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        if self.held_bytes < len {
            self.clear()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Room for this many bytes, if that can be had.
    fn has_room(&mut self, len: usize) -> bool {
        if len <= self.capacity_bytes {
            return true;
        }
        let size = len.next_power_of_two();
        let Ok(asked) = libc::c_int::try_from(size) else { return false };
        // SAFETY: changes the size of a pipe's buffer.
        if unsafe { libc::fcntl(self.writer.as_raw_fd(), libc::F_SETPIPE_SZ, asked) } < 0 {
            return false;
        }
        self.capacity_bytes = size;
        true
    }

    /// Gives up what it holds.
    fn clear(&mut self) -> io::Result<()> {
        let mut scratch = [0; PAGE_BYTES];
        while self.held_bytes > 0 {
            let n = self.copy_to(&mut scratch)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Takes bytes out, by copying them.
    pub(crate) fn copy_to(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = into.len().min(self.held_bytes);
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.reader.read(&mut into[..wanted])?;
        self.held_bytes -= n;
        Ok(n)
    }

    /// Gives bytes to a socket; `more` follows at once.
    pub(crate) fn splice_to(&mut self, socket: BorrowedFd<'_>, more: bool) -> io::Result<usize> {
        let flags = libc::SPLICE_F_NONBLOCK | if more { libc::SPLICE_F_MORE } else { 0 };
        loop {
            let (from, to) = (self.reader.as_raw_fd(), socket.as_raw_fd());
            // SAFETY: both descriptors are open; neither has an offset.
            let sent =
                unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), self.held_bytes, flags) };
            match check_size(sent) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(sent) => {
                    self.held_bytes -= sent;
                    return Ok(sent);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Whether these bytes can be read without waiting for a device.
fn is_in_memory(file: &IoFile, offset: u64, len: usize) -> bool {
    file.is_memory_backed() || (!NO_CACHESTAT.load(Ordering::Relaxed) && is_cached(file.as_fd(), offset, len))
}

/// Whether the page cache has all of these bytes.
fn is_cached(file: BorrowedFd<'_>, offset: u64, len: usize) -> bool {
    let range = [offset, len as u64];
    // Pages in the cache, dirty, under write-back, evicted, recently evicted.
    let mut stat = [0_u64; 5];
    // SAFETY: `cachestat` reads two and writes five words, which live during the call.
    let done = unsafe { libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), stat.as_mut_ptr(), 0_usize) };
    if done < 0 {
        NO_CACHESTAT.store(true, Ordering::Relaxed);
        return false;
    }
    stat[0] >= (len as u64).div_ceil(PAGE_BYTES as u64)
}
