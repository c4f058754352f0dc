//! Batches: a fixed number of requests that are submitted, watched and waited for together.
//!
//! - `submit`: from requests to slices.
//! - `shared`: what slices count into; who waits.
//! - `slot`: one request's state.
//!
//! A batch has no timer while nobody looks: whoever asks for a status, waits or awaits also sees to it that a request
//! whose transport never answers ends at its deadline (P1). Its memory stays leased until the transport lets go.

pub(crate) mod shared;
mod slot;
mod submit;

use crate::deadline::Deadline;
use crate::engine::Core;
use crate::error::{EngineError, ErrorKind};
use crate::ids::TransferState;
use crate::request::Request;
use crate::slice::Failure;
use crate::transfer_error::{TransferError, WaitError};
use crate::transport::Waiting;
use nvferry_io::clock;
use parking_lot::Mutex;
use shared::Shared;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use submit::{Intake, Lacking, Scratch};

/// Where a request stands, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestStatus {
    /// The state.
    pub state: TransferState,
    /// Bytes moved so far, counted by whole slices.
    pub bytes: u64,
    /// Why it did not complete, when it has ended so.
    pub error: Option<Arc<TransferError>>,
}

/// A fixed number of requests. `submit` and all that look take `&self`, and work from many threads at once.
///
/// It may be dropped at any time: what is under way goes on, and keeps its memory leased, until the transport is
/// done with it.
pub struct Batch {
    core: Arc<Core>,
    shared: Arc<Shared>,
    intake: Mutex<()>,
    scratches: Mutex<Vec<Scratch>>,
    request_timeout: Duration,
}

impl Batch {
    pub(crate) fn new(core: Arc<Core>, capacity: u32, request_timeout: Duration) -> Self {
        let shared = Arc::new(Shared::new(capacity, Arc::clone(&core.permits)));
        Self { core, shared, intake: Mutex::new(()), scratches: Mutex::default(), request_timeout }
    }

    /// Sets how long after their submission the requests submitted from now on must have ended. The engine's default
    /// is 30 s.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Submits requests. Returns their numbers in this batch, by which [`Batch::status`] names them.
    ///
    /// All are checked before any starts; an error means that none has started. When as much is under way in this
    /// engine as may be, it waits; requests that cannot start by their deadline end as timed out. So each request of a
    /// successful call comes to a terminal state.
    ///
    /// # Errors
    /// [`ErrorKind::TooManyRequests`] when the batch has no room for them; [`ErrorKind::InvalidArgument`] for a range
    /// outside the file; [`ErrorKind::AddressNotRegistered`] for memory that is not registered with this engine or too
    /// short; [`ErrorKind::DeviceNotFound`] for a segment that is not open or a file that it does not have, also
    /// after its description was fetched anew.
    pub fn submit(&self, requests: &[Request<'_>]) -> Result<Range<usize>, EngineError> {
        self.submit_by(requests, Deadline::after(self.request_timeout))
    }

    /// As [`Batch::submit`], with a deadline for these requests.
    ///
    /// # Errors
    /// As [`Batch::submit`].
    pub fn submit_by(&self, requests: &[Request<'_>], deadline: Deadline) -> Result<Range<usize>, EngineError> {
        self.submit_or(requests, deadline, Lacking::Wait)
    }

    /// Submits as many of the requests, from the first on, as there are permits for now. Never waits for permits.
    /// Returns the numbers of those it took; the others were not touched.
    ///
    /// # Errors
    /// As [`Batch::submit`], also for requests that would not have been taken.
    pub fn try_submit(&self, requests: &[Request<'_>]) -> Result<Range<usize>, EngineError> {
        self.submit_or(requests, Deadline::after(self.request_timeout), Lacking::Return)
    }

    fn submit_or(
        &self,
        requests: &[Request<'_>],
        deadline: Deadline,
        lacking: Lacking,
    ) -> Result<Range<usize>, EngineError> {
        let mut scratch = self.scratches.lock().pop().unwrap_or_default();
        let intake = Intake { core: &self.core, shared: &self.shared, lock: &self.intake };
        let taken = intake.submit(&mut scratch, requests, deadline, lacking);
        scratch.clear();
        self.scratches.lock().push(scratch);
        taken
    }

    /// How many requests it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.capacity() as usize
    }

    /// How many requests were submitted since it was made or reset.
    #[must_use]
    pub fn submitted(&self) -> usize {
        self.shared.submitted() as usize
    }

    /// How many requests have ended, in whatever way.
    #[must_use]
    pub fn ended(&self) -> usize {
        self.expire();
        self.shared.ended() as usize
    }

    /// Whether no submitted request is under way any more.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.expire();
        self.shared.pending() == 0
    }

    /// Where a request stands. One that was not submitted is `Waiting`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a number beyond the batch's capacity.
    pub fn status(&self, request: usize) -> Result<RequestStatus, EngineError> {
        let number = u32::try_from(request).ok().filter(|number| *number < self.shared.capacity());
        let Some(number) = number else {
            let message = format!("status of request {request}: the batch holds {}", self.capacity());
            return Err(EngineError::new(ErrorKind::InvalidArgument, message));
        };
        let Some(slot) = self.shared.slot(number) else {
            return Ok(RequestStatus { state: TransferState::Waiting, bytes: 0, error: None });
        };
        let mut state = slot.state();
        if !state.is_terminal() {
            self.expire();
            state = slot.state();
        }
        let error = match state {
            TransferState::Completed | TransferState::Pending | TransferState::Waiting => None,
            _ => self.shared.error(number),
        };
        Ok(RequestStatus { state, bytes: slot.bytes(), error })
    }

    /// The bytes moved so far by all its requests.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (0..self.shared.submitted()).filter_map(|request| self.shared.slot(request)).map(|slot| slot.bytes()).sum()
    }

    /// Waits until all submitted requests have ended.
    ///
    /// # Errors
    /// [`WaitError::UnderWay`] when they have not by the deadline (which is the wait's; the requests go on until theirs),
    /// and [`WaitError::Failed`] when all have ended but not all completed.
    pub fn wait(&self, deadline: Deadline) -> Result<(), WaitError> {
        if self.wait_below(1, deadline) {
            return self.verdict();
        }
        match self.shared.pending() as usize {
            0 => self.verdict(),
            pending => Err(WaitError::UnderWay { pending, submitted: self.submitted() }),
        }
    }

    /// Waits until more than `seen` requests have ended, or all. Returns how many have.
    ///
    /// # Errors
    /// [`WaitError::UnderWay`] when that is not so by the deadline.
    pub fn wait_any(&self, seen: usize, deadline: Deadline) -> Result<usize, WaitError> {
        loop {
            let submitted = self.shared.submitted();
            let below = (submitted as usize).saturating_sub(seen).max(1);
            let in_time = self.wait_below(u32::try_from(below).unwrap_or(u32::MAX), deadline);
            let ended = self.shared.ended() as usize;
            if ended > seen || self.shared.pending() == 0 {
                return Ok(ended);
            }
            if !in_time {
                let pending = self.shared.pending() as usize;
                return Err(WaitError::UnderWay { pending, submitted: submitted as usize });
            }
        }
    }

    /// Waits until fewer than `below` requests are under way, or something was submitted. False at the deadline.
    fn wait_below(&self, below: u32, deadline: Deadline) -> bool {
        let submitted = self.shared.submitted();
        loop {
            if self.shared.pending() < below || (below > 1 && self.shared.submitted() != submitted) {
                return true;
            }
            let now = clock::now();
            self.shared.expire(now);
            if self.shared.pending() < below {
                return true;
            }
            if now >= deadline.instant() {
                return false;
            }
            let until = self.shared.next_expiry().map_or(deadline.instant(), |at| at.min(deadline.instant()));
            let for_fewer = ForFewer { shared: &self.shared, below, submitted };
            let helped = self.shared.segment().is_some_and(|segment| segment.current().remote.help(&for_fewer, until));
            if !helped {
                self.shared.sleep(below, until);
            }
        }
    }

    /// Waits without holding a thread until all submitted requests have ended. Any executor will do, and any number may
    /// wait. The errors are those of [`Batch::wait`], except that there is no deadline but the requests' own.
    pub fn done(&self) -> Done<'_> {
        Done { batch: self }
    }

    /// What became of the requests, when all had ended; others may have been submitted since.
    fn verdict(&self) -> Result<(), WaitError> {
        let failed = self.shared.failed() as usize;
        match self.shared.first_error().filter(|_| failed > 0) {
            Some(first) => Err(WaitError::Failed { failed, submitted: self.submitted(), first }),
            None => Ok(()),
        }
    }

    /// Gives up all requests that have not ended: they end as canceled, at once. What the transport has in hand it still
    /// moves, or not; its memory stays leased until it is done. Returns how many were given up.
    pub fn cancel(&self) -> usize {
        self.shared.give_up(|_| true, || Failure::canceled("the caller gave it up")) as usize
    }

    /// Makes room for new requests, when all have ended.
    ///
    /// # Errors
    /// [`ErrorKind::BatchBusy`] while requests are under way.
    pub fn reset(&mut self) -> Result<(), EngineError> {
        self.expire();
        let pending = self.shared.pending();
        if pending > 0 {
            let message =
                format!("reset of a batch: {pending} of its requests are under way; wait for it or cancel it");
            return Err(EngineError::new(ErrorKind::BatchBusy, message));
        }
        if self.shared.slices_under_way() == 0 {
            self.shared.reset();
        } else {
            // Slices of requests that were given up will still count into the old slots.
            self.shared = Arc::new(Shared::new(self.shared.capacity(), Arc::clone(&self.core.permits)));
        }
        Ok(())
    }

    fn expire(&self) {
        if self.shared.pending() > 0 {
            self.shared.expire(clock::now());
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (pending, submitted) = (self.shared.pending(), self.shared.submitted());
        write!(f, "Batch({pending} of {submitted} requests under way, room for {})", self.capacity())
    }
}

/// Waits until fewer requests than this are under way, or more than these were submitted.
struct ForFewer<'b> {
    shared: &'b Shared,
    below: u32,
    submitted: u32,
}

impl Waiting for ForFewer<'_> {
    fn is_over(&self) -> bool {
        self.shared.pending() < self.below || (self.below > 1 && self.shared.submitted() != self.submitted)
    }

    fn wake_by(&self, waker: &Waker) -> bool {
        self.shared.wake_when_below(self.below, waker)
    }
}

/// The end of all requests of a batch, to be awaited.
#[derive(Debug)]
#[must_use = "futures do nothing unless they are awaited"]
pub struct Done<'b> {
    batch: &'b Batch,
}

impl Future for Done<'_> {
    type Output = Result<(), WaitError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let batch = self.batch;
        batch.expire();
        if batch.shared.pending() > 0 && batch.shared.wake_when_below(1, context.waker()) {
            // Nobody else may look at the clock while this sleeps.
            if !batch.shared.ticked.swap(true, Ordering::SeqCst) {
                batch.core.ticker.watch(&batch.shared);
            }
            return Poll::Pending;
        }
        Poll::Ready(batch.verdict())
    }
}

impl<'b> IntoFuture for &'b Batch {
    type Output = Result<(), WaitError>;
    type IntoFuture = Done<'b>;

    fn into_future(self) -> Done<'b> {
        self.done()
    }
}
