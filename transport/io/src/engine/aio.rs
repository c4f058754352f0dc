//! File I/O by Linux AIO (what libaio wraps): for kernels without io_uring, or where it is forbidden.
//!
//! AIO is asynchronous only under Direct I/O. Operations on buffered files, and what AIO has no command for, go to a
//! threads engine inside this one.

use super::operation::{Call, Operation};
use super::progress::{MAX_BYTES_PER_CALL, Step};
use super::signal::Signal;
use super::slots::Slots;
use super::threads::{DROP_WAIT, ThreadsConfig, ThreadsEngine};
use super::{IoCompletion, IoEngine, IoKind, IoRequest};
use crate::poller::{Interest, Poller, Trigger};
use crate::sys;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The most operations that one context is asked for.
const MAX_CAPACITY: usize = 32_768;

/// How many results one system call fetches.
const EVENTS_PER_CALL: usize = 128;

/// How often handing over may fail for want of resources, a millisecond apart, before the operations fail.
const MAX_SUBMIT_RETRIES: u32 = 1000;

/// Commands of linux/aio_abi.h.
const IOCB_CMD_PREAD: u16 = 0;
const IOCB_CMD_PWRITE: u16 = 1;
const IOCB_CMD_FDSYNC: u16 = 3;
/// `aio_resfd` is set.
const IOCB_FLAG_RESFD: u32 = 1;

/// `struct iocb` of linux/aio_abi.h, little-endian layout.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Iocb {
    data: u64,
    #[cfg(target_endian = "little")]
    key: u32,
    rw_flags: i32,
    #[cfg(target_endian = "big")]
    key: u32,
    opcode: u16,
    reqprio: i16,
    fildes: u32,
    buf: u64,
    nbytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    resfd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// Limits of an [`AioEngine`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AioConfig {
    /// Operations that may be under way at once.
    pub capacity: usize,
    /// The most that one call shall move, in bytes; what is longer takes several.
    pub max_bytes_per_call: usize,
}

impl AioConfig {
    /// The defaults, for so many operations.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { capacity: capacity.clamp(1, MAX_CAPACITY), max_bytes_per_call: MAX_BYTES_PER_CALL }
    }
}

/// The Linux AIO engine.
pub struct AioEngine {
    context: Context,
    /// What the kernel has, or is about to get. Its memory must not be freed while the kernel may use it: see `drop`.
    slots: ManuallyDrop<Slots<Slot>>,
    /// Slots whose next call is to be handed over.
    queue: Vec<u32>,
    /// Calls that the kernel has.
    in_kernel: usize,
    /// Whether the kernel ever had one.
    used: bool,
    /// What the kernel raises with each event.
    signal: Signal,
    helper: ThreadsEngine,
    /// Readable while `signal` or the helper is.
    either: Poller,
    capacity: usize,
    max_per_call: usize,
    ended: Vec<IoCompletion>,
    /// Scratch for handing over.
    calls: Vec<Iocb>,
    call_ptrs: Vec<usize>,
    events: Box<[IoEvent]>,
}

struct Slot {
    request: IoRequest,
    operation: Operation,
}

/// A kernel AIO context, whose id is also the address of its ring of events.
struct Context(libc::c_ulong);

/// `struct aio_ring` of the kernel's fs/aio.c, which every reader of it (libaio, fio, QEMU) relies on.
#[repr(C)]
struct RingHeader {
    id: u32,
    places: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible_features: u32,
    incompatible_features: u32,
}

const RING_MAGIC: u32 = 0xa10a_10a1;

impl Context {
    fn new(capacity: usize) -> io::Result<Self> {
        let mut context: libc::c_ulong = 0;
        let events = capacity as libc::c_long;
        // SAFETY: stores one context id.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, events, &raw mut context) };
        match sys::check(result as libc::c_int) {
            Ok(_) => Ok(Self(context)),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Err(io::Error::new(
                error.kind(),
                "the system's limit of AIO operations is reached (sysctl fs.aio-max-nr)",
            )),
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel was built without AIO"))
            }
            Err(error) => Err(error),
        }
    }

    /// # Safety
    /// Each element must be the address of a call that may be written now, and whose memory stays valid until its
    /// event came.
    unsafe fn submit(&self, calls: &[usize]) -> io::Result<usize> {
        let (count, list) = (calls.len() as libc::c_long, calls.as_ptr());
        // SAFETY: a list of `count` pointers; the rest is the caller's promise.
        sys::check_size(unsafe { libc::syscall(libc::SYS_io_submit, self.0, count, list) } as libc::ssize_t)
    }

    /// Whether events may wait: a look at shared memory instead of a system call.
    fn may_have_events(&self) -> bool {
        let ring = self.0 as *const RingHeader;
        // SAFETY: the kernel maps the ring at this address until io_destroy; only the atomics ever change.
        let ring = unsafe { &*ring };
        ring.magic != RING_MAGIC
            || ring.incompatible_features != 0
            || ring.head.load(Ordering::Acquire) != ring.tail.load(Ordering::Acquire)
    }

    /// Fetches events without waiting.
    fn fetch(&self, into: &mut [IoEvent]) -> io::Result<usize> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let (none, room) = (0 as libc::c_long, into.len() as libc::c_long);
        // SAFETY: room for as many events as told, and a time that lives during the call.
        let got =
            unsafe { libc::syscall(libc::SYS_io_getevents, self.0, none, room, into.as_mut_ptr(), &raw const zero) };
        sys::check_size(got as libc::ssize_t)
    }

    /// Ends the context; waits for what is under way.
    fn destroy(&self) {
        // SAFETY: called once, when the context is used no more.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0) };
    }
}

impl AioEngine {
    /// A context with room for the configured number of operations.
    ///
    /// # Errors
    /// When the kernel has no AIO, or its system-wide limit is reached.
    pub fn new(config: AioConfig) -> io::Result<Self> {
        let capacity = config.capacity.clamp(1, MAX_CAPACITY);
        let max_bytes_per_call = config.max_bytes_per_call;
        let helper =
            ThreadsEngine::new(ThreadsConfig { max_bytes_per_call, ..ThreadsConfig::with_capacity(capacity) })?;
        let signal = Signal::new()?;
        let either = Poller::new()?;
        either.add(signal.as_fd(), 0, Interest::READ, Trigger::Level)?;
        either.add(helper.wake_fd(), 1, Interest::READ, Trigger::Level)?;
        Ok(Self {
            context: Context::new(capacity)?,
            slots: ManuallyDrop::new(Slots::new(capacity as u32)),
            queue: Vec::with_capacity(capacity),
            in_kernel: 0,
            used: false,
            signal,
            helper,
            either,
            capacity,
            max_per_call: max_bytes_per_call,
            ended: Vec::new(),
            calls: Vec::with_capacity(capacity),
            call_ptrs: Vec::with_capacity(capacity),
            events: vec![IoEvent::default(); EVENTS_PER_CALL].into(),
        })
    }

    /// Hands the queue over until it is empty. Calls that the kernel refuses end their operations.
    fn hand_over(&mut self) {
        let mut retries = 0;
        self.calls.clear();
        self.call_ptrs.clear();
        let resfd = self.signal.as_fd().as_raw_fd();
        for &index in &self.queue {
            if let Some(slot) = self.slots.get_mut(index) {
                self.calls.push(iocb(slot, index, resfd));
            }
        }
        self.call_ptrs.extend(self.calls.iter_mut().map(|call| &raw mut *call as usize));
        let mut first = 0;
        while first < self.calls.len() {
            // SAFETY: the calls live in `self.calls`, and their memory in the slots' requests, which stay until the
            // kernel has ended them or are leaked.
            match unsafe { self.context.submit(&self.call_ptrs[first..]) } {
                Ok(taken) => {
                    first += taken;
                    self.in_kernel += taken;
                    self.used = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && retries < MAX_SUBMIT_RETRIES => {
                    retries += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => {
                    // It is about the first of them.
                    if let Some(slot) = self.slots.remove(self.queue[first]) {
                        self.ended.push(end(slot.request, Err(error)));
                    }
                    first += 1;
                }
            }
        }
        self.queue.clear();
    }

    /// Takes over what the kernel has ended, and queues what has to go on.
    fn collect(&mut self, done: &mut Vec<IoCompletion>) {
        loop {
            let got = match self.context.fetch(&mut self.events) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "cannot fetch the results of Linux AIO");
                    return;
                }
            };
            self.in_kernel -= got;
            for event in &self.events[..got] {
                let index = event.data as u32;
                let Some(slot) = self.slots.get_mut(index) else {
                    debug_assert!(false, "the kernel ended what was not under way: {index}");
                    continue;
                };
                match slot.operation.advance(&slot.request, self.max_per_call, event.res) {
                    Step::Finished(result) => {
                        if let Some(slot) = self.slots.remove(index) {
                            done.push(end(slot.request, result));
                        }
                    }
                    Step::Again => self.queue.push(index),
                }
            }
            if got < self.events.len() {
                return;
            }
        }
    }
}

fn iocb(slot: &Slot, index: u32, resfd: libc::c_int) -> Iocb {
    let (opcode, buf, nbytes, offset) = match slot.operation.call(&slot.request) {
        Call::Read { ptr, len, at } => (IOCB_CMD_PREAD, ptr as u64, len as u64, at as i64),
        Call::Write { ptr, len, at } => (IOCB_CMD_PWRITE, ptr as u64, len as u64, at as i64),
        // `fallocate` never comes here: `submit` gives it to the helper.
        Call::SyncData | Call::Allocate { .. } => (IOCB_CMD_FDSYNC, 0, 0, 0),
    };
    Iocb {
        data: u64::from(index),
        opcode,
        fildes: slot.request.file.as_fd().as_raw_fd() as u32,
        buf,
        nbytes,
        offset,
        flags: IOCB_FLAG_RESFD,
        resfd: resfd as u32,
        ..Iocb::default()
    }
}

fn end(request: IoRequest, result: io::Result<usize>) -> IoCompletion {
    IoCompletion { token: request.token, result, buf: request.buf }
}

/// Whether AIO does this without blocking whoever submits it.
fn is_asynchronous(request: &IoRequest) -> bool {
    request.file.is_direct() && matches!(request.kind, IoKind::Read | IoKind::Write | IoKind::SyncData)
}

impl IoEngine for AioEngine {
    fn name(&self) -> &'static str {
        "libaio"
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn in_flight(&self) -> usize {
        self.slots.taken() + self.helper.in_flight() + self.ended.len()
    }

    fn submit(&mut self, request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight() >= self.capacity {
            return Err(request);
        }
        if !is_asynchronous(&request) {
            return self.helper.submit(request);
        }
        match Operation::begin(&request, self.max_per_call) {
            Ok(Some(operation)) => {
                let index = self.slots.insert(Slot { request, operation }).map_err(|slot| slot.request)?;
                self.queue.push(index);
            }
            Ok(None) => self.ended.push(end(request, Ok(0))),
            Err(error) => self.ended.push(end(request, Err(error))),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.queue.is_empty() {
            self.hand_over();
        }
        self.helper.flush()
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        if self.helper.in_flight() > 0 {
            self.helper.reap(done);
        }
        if self.used {
            // Cleared before looking: what ends after this raises it again. Also with nothing under way, as the kernel
            // raises it a little after the event can be fetched.
            self.signal.clear();
        }
        if self.in_kernel > 0 && self.context.may_have_events() {
            self.collect(done);
            if !self.queue.is_empty() {
                self.hand_over();
            }
        }
        done.append(&mut self.ended);
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.flush()?;
        if self.in_flight() > 0 && self.ended.is_empty() {
            sys::wait_readable(self.wake_fd(), timeout)?;
        }
        Ok(())
    }
}

impl Drop for AioEngine {
    fn drop(&mut self) {
        let deadline = Instant::now() + DROP_WAIT;
        let mut done = Vec::new();
        while self.in_kernel > 0 && Instant::now() < deadline {
            if sys::wait_readable(self.signal.as_fd(), sys::time_left(Some(deadline))).is_err() {
                break;
            }
            self.signal.clear();
            self.collect(&mut done);
        }
        if self.in_kernel == 0 {
            self.context.destroy();
            // SAFETY: dropped once, here; nothing uses it afterwards.
            unsafe { ManuallyDrop::drop(&mut self.slots) }
        } else {
            // The kernel may still use this memory: it stays allocated, and leased. Ending the context would wait.
            tracing::warn!(operations = self.in_kernel, "left behind: file operations that did not end");
        }
    }
}

impl std::fmt::Debug for AioEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AioEngine").field("capacity", &self.capacity).field("in_flight", &self.in_flight()).finish()
    }
}
