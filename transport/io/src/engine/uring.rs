//! File I/O by io_uring: many operations a system call, no thread of our own.
//!
//! The ring runs with `COOP_TASKRUN`: the kernel finishes operations when this thread enters it anyway, instead of
//! interrupting it. The ring may be made in one thread and used in another. Its descriptor is polled itself, so
//! there is no eventfd to clear. `SINGLE_ISSUER` with `DEFER_TASKRUN` was tried with 4 KiB Direct I/O at depths 1, 4 and
//! 32: no faster, no less CPU, and it needs that eventfd and would bind the ring to one thread.

use super::operation::{Call, Operation};
use super::progress::{MAX_BYTES_PER_CALL, Step};
use super::slots::Slots;
use super::threads::DROP_WAIT;
use super::{IoCompletion, IoEngine, IoRequest};
use crate::sys;
use io_uring::{IoUring, Probe, opcode, squeue, types};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The most operations that one ring takes; the kernel's own limit.
const MAX_CAPACITY: usize = 32_768;

/// How often handing over may fail for want of memory, a millisecond apart, before the engine gives up.
const MAX_FLUSH_RETRIES: u32 = 1000;

/// Limits of a [`UringEngine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UringConfig {
    /// Operations that may be under way at once.
    pub capacity: usize,
    /// The most that one call shall move, in bytes; what is longer takes several.
    pub max_bytes_per_call: usize,
}

impl UringConfig {
    /// The defaults, for so many operations.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { capacity: capacity.clamp(1, MAX_CAPACITY), max_bytes_per_call: MAX_BYTES_PER_CALL }
    }
}

/// The io_uring engine.
pub struct UringEngine {
    ring: IoUring,
    /// What the kernel has, or is about to get. Its memory must not be freed while the kernel may use it: see `drop`.
    slots: ManuallyDrop<Slots<Slot>>,
    capacity: usize,
    max_per_call: usize,
    /// Calls ever queued.
    queued: u64,
    /// Ended without the kernel.
    ended: Vec<IoCompletion>,
    /// Why the ring takes nothing more.
    failed: Option<i32>,
}

struct Slot {
    request: IoRequest,
    operation: Operation,
    /// Which of the calls ever queued is this slot's last.
    call_number: u64,
}

impl UringEngine {
    /// A ring with room for the configured number of operations.
    ///
    /// # Errors
    /// When the kernel has no io_uring, forbids it, or has it without the operations that are needed.
    pub fn new(config: UringConfig) -> io::Result<Self> {
        let capacity = config.capacity.clamp(1, MAX_CAPACITY);
        let ring = make_ring(capacity as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        if !needed.iter().all(|&code| probe.is_supported(code)) {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring lacks read, write, fsync or fallocate",
            ));
        }
        Ok(Self {
            ring,
            slots: ManuallyDrop::new(Slots::new(capacity as u32)),
            capacity,
            max_per_call: config.max_bytes_per_call,
            queued: 0,
            ended: Vec::new(),
            failed: None,
        })
    }

    /// Hands the queue over until it is empty or the ring has failed.
    fn hand_over(&mut self) -> io::Result<()> {
        let mut retries = 0;
        loop {
            if self.ring.submission().is_empty() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY))
                        && retries < MAX_FLUSH_RETRIES =>
                {
                    retries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    self.give_up(error.raw_os_error().unwrap_or(libc::EIO));
                    return Err(error);
                }
            }
        }
    }

    /// Ends what the kernel has not taken. It never will: the ring is not entered for submission again.
    fn give_up(&mut self, errno: i32) {
        self.failed = Some(errno);
        // The kernel takes calls in order.
        let taken = self.queued - self.ring.submission().len() as u64;
        let left: Vec<u32> =
            self.slots.iter().filter(|(_, slot)| slot.call_number > taken).map(|(index, _)| index).collect();
        for index in left {
            if let Some(slot) = self.slots.remove(index) {
                self.ended.push(end(slot.request, Err(io::Error::from_raw_os_error(errno))));
            }
        }
    }

    /// Lets the kernel tell what it has finished; hands nothing over.
    fn fetch(&self) {
        const IORING_ENTER_GETEVENTS: u32 = 1;
        // SAFETY: no argument, nothing submitted, nothing waited for.
        let entered = unsafe { self.ring.submitter().enter::<libc::sigset_t>(0, 0, IORING_ENTER_GETEVENTS, None) };
        // Failing only means that it is told later.
        drop(entered);
    }

    /// Takes over what the kernel has ended, and queues what has to go on. Tells whether anything has to.
    fn collect(&mut self, done: &mut Vec<IoCompletion>) -> bool {
        let mut goes_on = false;
        let (_, mut queue, mut completions) = self.ring.split();
        completions.sync();
        for completion in &mut completions {
            let index = completion.user_data() as u32;
            let Some(slot) = self.slots.get_mut(index) else {
                debug_assert!(false, "the kernel ended what was not under way: {index}");
                continue;
            };
            match slot.operation.advance(&slot.request, self.max_per_call, i64::from(completion.result())) {
                Step::Finished(result) => {
                    if let Some(slot) = self.slots.remove(index) {
                        done.push(end(slot.request, result));
                    }
                }
                Step::Again if self.failed.is_some() => {
                    let errno = self.failed.unwrap_or(libc::EIO);
                    if let Some(slot) = self.slots.remove(index) {
                        done.push(end(slot.request, Err(io::Error::from_raw_os_error(errno))));
                    }
                }
                Step::Again => {
                    self.queued += 1;
                    slot.call_number = self.queued;
                    // SAFETY: the entry's addresses belong to the slot's request, which stays until the kernel has
                    // ended it or is leaked.
                    let pushed = unsafe { queue.push(&entry(slot, index)) };
                    // The queue has room for every slot, and each has at most one call in it.
                    debug_assert!(pushed.is_ok());
                    goes_on = true;
                }
            }
        }
        goes_on
    }
}

/// Asks for the best set-up first: older kernels refuse flags that they do not know.
fn make_ring(entries: u32) -> io::Result<IoUring> {
    let best =
        IoUring::builder().setup_clamp().setup_submit_all().setup_coop_taskrun().setup_taskrun_flag().build(entries);
    match best {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::builder().setup_clamp().build(entries),
        other => other,
    }
}

fn entry(slot: &Slot, index: u32) -> squeue::Entry {
    let fd = types::Fd(slot.request.file.as_fd().as_raw_fd());
    // Calls are never longer than `MAX_BYTES_PER_CALL`, which fits.
    let entry = match slot.operation.call(&slot.request) {
        Call::Read { ptr, len, at } => opcode::Read::new(fd, ptr, len as u32).offset(at).build(),
        Call::Write { ptr, len, at } => opcode::Write::new(fd, ptr, len as u32).offset(at).build(),
        Call::SyncData => opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC).build(),
        Call::Allocate { mode, at, len } => opcode::Fallocate::new(fd, len).offset(at).mode(mode).build(),
    };
    entry.user_data(u64::from(index))
}

fn end(request: IoRequest, result: io::Result<usize>) -> IoCompletion {
    IoCompletion { token: request.token, result, buf: request.buf }
}

impl IoEngine for UringEngine {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.slots.taken() + self.ended.len()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight() >= self.capacity {
            return Err(request);
        }
        let begun = match self.failed {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Operation::begin(&request, self.max_per_call),
        };
        let operation = match begun {
            Ok(Some(operation)) => operation,
            Ok(None) => {
                self.ended.push(end(request, Ok(0)));
                return Ok(());
            }
            Err(error) => {
                self.ended.push(end(request, Err(error)));
                return Ok(());
            }
        };
        let slot = Slot { request, operation, call_number: self.queued + 1 };
        let index = self.slots.insert(slot).map_err(|slot| slot.request)?;
        if let Some(slot) = self.slots.get_mut(index) {
            self.queued += 1;
            // SAFETY: as in `collect`.
            let pushed = unsafe { self.ring.submission().push(&entry(slot, index)) };
            debug_assert!(pushed.is_ok(), "the queue has room for every slot");
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.failed.is_some() { Ok(()) } else { self.hand_over() }
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        done.append(&mut self.ended);
        if self.slots.taken() == 0 {
            return;
        }
        // What the kernel has finished but not yet told: one call brings it.
        if self.ring.completion().is_empty() && self.ring.submission().taskrun() {
            self.fetch();
        }
        if self.collect(done) {
            // Its failure ends the operations with errors, told by the next line.
            let _ = self.hand_over();
            done.append(&mut self.ended);
        }
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns its descriptor and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.flush()?;
        let taskrun = self.ring.submission().taskrun();
        if self.in_flight() > 0 && self.ended.is_empty() && self.ring.completion().is_empty() && !taskrun {
            sys::wait_readable(self.wake_fd(), timeout)?;
        }
        Ok(())
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        let deadline = Instant::now() + DROP_WAIT;
        // What was queued and not handed over never will be; the rest goes on no further than its present call.
        self.give_up(libc::ECANCELED);
        let mut done = Vec::new();
        self.reap(&mut done);
        while self.slots.taken() > 0 && Instant::now() < deadline {
            if self.wait(sys::time_left(Some(deadline))).is_err() {
                break;
            }
            self.reap(&mut done);
        }
        if self.slots.taken() == 0 {
            // SAFETY: dropped once, here; nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.slots) }
        } else {
            // The kernel may still use this memory: it stays allocated, and leased.
            tracing::warn!(operations = self.slots.taken(), "left behind: file operations that did not end");
        }
    }
}

impl std::fmt::Debug for UringEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringEngine").field("capacity", &self.capacity).field("in_flight", &self.in_flight()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{IoBuf, IoKind};
    use crate::file::IoFile;
    use std::sync::Arc;

    #[test]
    #[cfg_attr(miri, ignore = "needs io_uring")]
    #[allow(clippy::print_stdout, reason = "says that it was skipped")]
    fn p01_a_ring_that_failed_ends_what_it_has_and_what_comes() {
        let mut engine = match UringEngine::new(UringConfig::with_capacity(4)) {
            Ok(engine) => engine,
            Err(error) => return println!("skipped: no io_uring on this machine: {error}"),
        };
        let file = Arc::new(IoFile::in_memory("test", 4096).unwrap());
        let request = |token| {
            let file = Arc::clone(&file);
            IoRequest { token, file, kind: IoKind::SyncData, offset: 0, buf: IoBuf::None }
        };
        engine.submit(request(1)).expect("has room");
        engine.flush().unwrap();
        engine.submit(request(2)).expect("has room");
        engine.submit(request(3)).expect("has room");
        engine.give_up(libc::EIO);
        engine.submit(request(4)).expect("has room");
        engine.flush().expect("has told already");
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut done = Vec::new();
        while done.len() < 4 {
            assert!(Instant::now() < deadline);
            engine.wait(Some(Duration::from_secs(1))).unwrap();
            engine.reap(&mut done);
        }
        done.sort_by_key(|done| done.token);
        let errors: Vec<_> =
            done.iter().map(|done| done.result.as_ref().err().and_then(io::Error::raw_os_error)).collect();
        assert_eq!(errors, [None, Some(libc::EIO), Some(libc::EIO), Some(libc::EIO)]);
        assert_eq!(engine.in_flight(), 0);
        drop(engine);
        drop(done);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
