//! An engine in which things go wrong on purpose: for tests of everything above.
//!
//! The faults are decided by a [`FaultControl`], which the test keeps. With no rule and no rate it changes nothing.

mod control;
mod unflushed;

pub use control::{Fault, FaultControl, FaultOn, FaultRates, FaultRule};

use super::signal::Signal;
use super::slots::Slots;
use super::{IoBuf, IoCompletion, IoEngine, IoKind, IoRequest};
use crate::file::FileIdentity;
use crate::poller::{Interest, Poller, Trigger};
use crate::sys;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use unflushed::Written;

/// When an end may be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Now,
    /// When so many ends have been told.
    Ends(u64),
    Time(Duration),
}

/// How a request was cut short.
#[derive(Debug)]
enum Cut {
    Whole,
    /// The buffer's real length.
    Pool(usize),
    /// The whole lease.
    Leased(IoBuf),
}

/// What is under way, known to the inner engine by its place in the table.
#[derive(Debug)]
struct Under {
    token: u64,
    due: Due,
    cut: Cut,
    /// A write to remember when it has ended.
    written: Option<Written>,
    /// A flush: of which file, and the writes that it covers.
    flush: Option<(FileIdentity, u64)>,
    is_write: bool,
}

/// An engine in which things go wrong on purpose.
#[derive(Debug)]
pub struct Faulty<E> {
    inner: E,
    control: FaultControl,
    under: Slots<Under>,
    /// Not begun: at which release count they stalled.
    stalled: Vec<(u64, IoRequest)>,
    /// Ended and not told.
    held: Vec<(Due, IoCompletion)>,
    told: u64,
    scratch: Vec<IoCompletion>,
    /// Raised by the control.
    signal: Arc<Signal>,
    /// Readable while `signal` or the inner engine is.
    either: Poller,
}

impl<E: IoEngine> Faulty<E> {
    /// Puts the control's faults into what `inner` does.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(inner: E, control: FaultControl) -> io::Result<Self> {
        let signal = Arc::new(Signal::new()?);
        let either = Poller::new()?;
        either.add(signal.as_fd(), 0, Interest::READ, Trigger::Level)?;
        either.add(inner.wake_fd(), 1, Interest::READ, Trigger::Level)?;
        control.register(&signal);
        let under = Slots::new(u32::try_from(inner.capacity()).unwrap_or(u32::MAX));
        let (stalled, held, scratch) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { inner, control, under, stalled, held, told: 0, scratch, signal, either })
    }

    /// Operations that have stalled.
    #[must_use]
    pub fn stalled(&self) -> usize {
        self.stalled.len()
    }

    fn begin(&mut self, request: IoRequest) {
        // The inner engine has room for all that are in the table.
        if let Err(request) = self.inner.submit(request) {
            let result = Err(io::Error::other("the inner engine refused an operation below its capacity"));
            self.held.push((Due::Now, IoCompletion { token: request.token, result, buf: request.buf }));
        }
    }

    fn remember(&self, request: &IoRequest) -> (Option<Written>, Option<(FileIdentity, u64)>) {
        let Some(covered) = self.control.with_unflushed(|unflushed| unflushed.flush_begins()) else {
            return (None, None);
        };
        let flush = (request.kind == IoKind::SyncData).then(|| (request.file.identity(), covered));
        // A write whose place cannot be read will fail itself.
        (Written::about_to(request).ok().flatten(), flush)
    }

    /// Takes over what the inner engine has ended.
    fn collect(&mut self) -> bool {
        let mut ended = std::mem::take(&mut self.scratch);
        self.inner.reap(&mut ended);
        let any = !ended.is_empty();
        for completion in ended.drain(..) {
            let Some(under) = self.under.get_mut(completion.token as u32) else { continue };
            if completion.result.is_ok() {
                let (written, flush) = (under.written.take(), under.flush.take());
                self.control.with_unflushed(|unflushed| {
                    written.into_iter().for_each(|written| unflushed.ended(written));
                    flush.into_iter().for_each(|(file, covered)| unflushed.flush_ended(file, covered));
                });
            }
            self.held.push((under.due, completion));
        }
        self.scratch = ended;
        any
    }

    /// Lets what was released begin.
    fn begin_released(&mut self) -> bool {
        let releases = self.control.releases();
        let mut any = false;
        let mut at = 0;
        while at < self.stalled.len() {
            if self.stalled[at].0 < releases {
                let (_, request) = self.stalled.remove(at);
                self.begin(request);
                any = true;
            } else {
                at += 1;
            }
        }
        if any {
            // Its failure ends the operations with errors.
            let _ = self.inner.flush();
        }
        any
    }

    fn is_due(&self, due: Due) -> bool {
        match due {
            Due::Now => true,
            Due::Time(time) => self.control.now() >= time,
            Due::Ends(ends) => {
                let alone =
                    || self.inner.in_flight() == 0 && self.held.iter().all(|(due, _)| matches!(due, Due::Ends(_)));
                self.told >= ends || alone()
            }
        }
    }

    /// Tells the ends that are due.
    fn tell(&mut self, done: &mut Vec<IoCompletion>) -> bool {
        let mut any = false;
        let mut at = 0;
        while at < self.held.len() {
            if !self.is_due(self.held[at].0) {
                at += 1;
                continue;
            }
            let (_, completion) = self.held.remove(at);
            if let Some(under) = self.under.remove(completion.token as u32) {
                done.push(whole_again(under, completion));
                self.told += 1;
                any = true;
            }
        }
        any
    }
}

/// Cuts a request to its first bytes.
fn cut_short(request: &mut IoRequest, bytes: usize) -> Cut {
    let unit = if request.file.is_direct() { request.file.geometry().dio_offset_align_bytes as usize } else { 1 };
    let bytes = bytes / unit * unit;
    if bytes >= request.buf.len() || !matches!(request.kind, IoKind::Read | IoKind::Write) {
        return Cut::Whole;
    }
    match std::mem::replace(&mut request.buf, IoBuf::None) {
        IoBuf::None => Cut::Whole,
        IoBuf::Pool(buffer, len) => {
            request.buf = IoBuf::Pool(buffer, bytes);
            Cut::Pool(len)
        }
        IoBuf::Leased(slice) => {
            request.buf = IoBuf::Leased(slice.slice(0..bytes));
            Cut::Leased(IoBuf::Leased(slice))
        }
    }
}

/// Gives an end its token and its whole buffer back.
fn whole_again(under: Under, completion: IoCompletion) -> IoCompletion {
    let IoCompletion { result, buf, .. } = completion;
    let is_cut = !matches!(under.cut, Cut::Whole);
    let buf = match (under.cut, buf) {
        (Cut::Pool(len), IoBuf::Pool(buffer, _)) => IoBuf::Pool(buffer, len),
        (Cut::Leased(whole), _) => whole,
        (Cut::Whole | Cut::Pool(_), buf) => buf,
    };
    let result = match result {
        Ok(_) if is_cut && under.is_write => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
        other => other,
    };
    IoCompletion { token: under.token, result, buf }
}

impl<E: IoEngine> IoEngine for Faulty<E> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    fn in_flight(&self) -> usize {
        self.under.taken()
    }

    fn submit(&mut self, mut request: IoRequest) -> Result<(), IoRequest> {
        if self.in_flight() >= self.capacity() {
            return Err(request);
        }
        let fault = self.control.decide(&request);
        let cut = match fault {
            Some(Fault::Short(bytes)) => cut_short(&mut request, bytes),
            _ => Cut::Whole,
        };
        let due = match fault {
            Some(Fault::DelayEnds(ends)) => Due::Ends(self.told + u64::from(ends)),
            Some(Fault::DelayTime(time)) => Due::Time(self.control.now() + time),
            _ => Due::Now,
        };
        let (written, flush) = self.remember(&request);
        let is_write = request.kind == IoKind::Write;
        let under = Under { token: request.token, due, cut, written, flush, is_write };
        let Ok(index) = self.under.insert(under) else { return Err(request) };
        request.token = u64::from(index);
        match fault {
            Some(Fault::Error(errno)) => {
                let result = Err(io::Error::from_raw_os_error(errno));
                self.held.push((Due::Now, IoCompletion { token: request.token, result, buf: request.buf }));
            }
            Some(Fault::Stall) => self.stalled.push((self.control.releases(), request)),
            _ => self.begin(request),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }

    fn reap(&mut self, done: &mut Vec<IoCompletion>) {
        self.signal.clear();
        // Each may let the others go on.
        while self.collect() | self.begin_released() | self.tell(done) {}
    }

    fn wake_fd(&self) -> BorrowedFd<'_> {
        self.either.as_fd()
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.flush()?;
        self.begin_released();
        // Some engines end operations at once, without their descriptor.
        self.collect();
        let due = self.held.iter().any(|&(due, _)| self.is_due(due));
        if self.in_flight() > 0 && !due {
            sys::wait_readable(self.wake_fd(), timeout)?;
        }
        Ok(())
    }
}
