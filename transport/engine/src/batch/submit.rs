//! Submitting: check everything, then take permits, then cut and hand over.
//!
//! All requests of a call are checked before any of them starts. A submit that finds too few permits starts what it
//! can, and waits in line for the rest; what could not start by the deadline ends as timed out, so that each submitted
//! request has a status. One virtual call hands all slices of a segment to its transport.

use super::shared::Shared;
use super::slot::About;
use crate::deadline::Deadline;
use crate::engine::Core;
use crate::engine::segments::{Current, OpenSegment, Refresh};
use crate::error::{EngineError, ErrorKind};
use crate::ids::{FileBufferId, SegmentId};
use crate::memory::Memory;
use crate::permits::Share;
use crate::request::{Cut, Request, Source};
use crate::slice::{Failure, Slice, SliceSink};
use nvferry_io::{MemSlice, clock};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// What was found out about one request when it was checked.
#[derive(Clone, Copy)]
struct Plan {
    /// Index of its segment's group.
    group: usize,
    cut: Cut,
    share: Share,
    len_bytes: u64,
}

/// All of one submit that is for one segment.
struct Group {
    segment: Arc<OpenSegment>,
    snapshot: Current,
    slices: Vec<Slice>,
}

/// What submits need again and again; kept by the batch, so that nothing is allocated in steady state.
#[derive(Default)]
pub(super) struct Scratch {
    plans: Vec<Plan>,
    groups: Vec<Group>,
    spare: Vec<Vec<Slice>>,
    /// Segments of submits before, so that not every submit of every thread counts references to them.
    known: Vec<Arc<OpenSegment>>,
    /// The group and file of the last request, which the next one is most likely about, too.
    last: Option<(SegmentId, FileBufferId, Plan, u64)>,
}

/// Why a request cannot start, and whether a newer description of its segment might change that.
enum Refusal {
    Final(EngineError),
    /// The description lacks the file, or the target does not have it yet.
    Outdated(Arc<OpenSegment>, EngineError),
}

impl Scratch {
    /// Checks all requests, and fills `plans` and `groups`.
    fn check(&mut self, core: &Core, requests: &[Request<'_>]) -> Result<(), Refusal> {
        self.clear();
        for (index, request) in requests.iter().enumerate() {
            let plan = self.check_one(core, index, request)?;
            self.plans.push(plan);
        }
        Ok(())
    }

    fn check_one(&mut self, core: &Core, index: usize, request: &Request<'_>) -> Result<Plan, Refusal> {
        let refuse = |kind, why: String| {
            let message = format!(
                "request {index} ({} at {} of file {} of segment {}): {why}",
                request.operation, request.offset, request.file, request.segment
            );
            EngineError::new(kind, message)
        };
        let len = match &request.source {
            Source::Memory { memory, range } => memory_len(core, memory, range),
            Source::Address { start, len } => core.memory.lease(*start, *len).map(|lease| lease.len()),
        };
        let len_bytes = len.map_err(|error| Refusal::Final(refuse(error.kind(), error.to_string())))? as u64;
        let (mut plan, size) = match self.last {
            Some((segment, file, plan, size)) if segment == request.segment && file == request.file => (plan, size),
            _ => {
                let (plan, size) = self.look_up(core, request).map_err(|refusal| match refusal {
                    Refusal::Final(why) => Refusal::Final(refuse(why.kind(), why.to_string())),
                    Refusal::Outdated(segment, why) => Refusal::Outdated(segment, refuse(why.kind(), why.to_string())),
                })?;
                self.last = Some((request.segment, request.file, plan, size));
                (plan, size)
            }
        };
        // P3: nothing outside the registered file, whatever the numbers.
        if request.offset.checked_add(len_bytes).is_none_or(|end| end > size) {
            let why = format!("{len_bytes} bytes there reach beyond the file's registered {size} bytes");
            return Err(Refusal::Final(refuse(ErrorKind::InvalidArgument, why)));
        }
        let slices = plan.cut.count(request.offset, len_bytes);
        let limit = core.permits.limit();
        let share = u32::try_from(slices).ok().and_then(|slices| Share::new(slices, len_bytes));
        let fits = |share: &Share| share.slices() <= limit.slices() && share.bytes() <= limit.bytes();
        plan.share = share.filter(fits).ok_or_else(|| {
            let why = format!(
                "{len_bytes} bytes in {slices} slices are more than may ever be under way ({} bytes, {} slices): \
                 split it, or raise the engine's limits",
                limit.bytes(),
                limit.slices()
            );
            Refusal::Final(refuse(ErrorKind::InvalidArgument, why))
        })?;
        plan.len_bytes = len_bytes;
        Ok(plan)
    }

    fn look_up(&mut self, core: &Core, request: &Request<'_>) -> Result<(Plan, u64), Refusal> {
        let known = self.groups.iter().position(|group| group.segment.id() == request.segment);
        let group = match known {
            Some(group) => group,
            None => {
                let segment = self.known(request.segment).or_else(|| core.segments.get(request.segment));
                let segment = segment.ok_or_else(|| {
                    let why = "the segment is not open: open it with open_segment";
                    Refusal::Final(EngineError::new(ErrorKind::DeviceNotFound, why))
                })?;
                let snapshot = segment.current();
                self.groups.push(Group { segment, snapshot, slices: self.spare.pop().unwrap_or_default() });
                self.groups.len() - 1
            }
        };
        let Group { segment, snapshot, .. } = &self.groups[group];
        let outdated = |why: &str| {
            let why = format!("segment {}: {why}", segment.name());
            Refusal::Outdated(Arc::clone(segment), EngineError::new(ErrorKind::DeviceNotFound, why))
        };
        if let Some(why) = snapshot.replaced(request.file) {
            let why = format!("segment {}: {why}", segment.name());
            return Err(Refusal::Final(EngineError::new(ErrorKind::DeviceNotFound, why)));
        }
        let size = snapshot.size_of(request.file).ok_or_else(|| outdated("it has no such file"))?;
        let limits = snapshot.remote.file_limits(request.file);
        let limits = limits.ok_or_else(|| outdated("its description has the file, but its target does not"))?;
        Ok((Plan { group, cut: Cut::new(limits), share: Share::default(), len_bytes: 0 }, size))
    }

    /// A segment of a submit before, if it is still open.
    fn known(&mut self, id: SegmentId) -> Option<Arc<OpenSegment>> {
        self.known.retain(|segment| !segment.is_closed());
        let at = self.known.iter().position(|segment| segment.id() == id)?;
        Some(self.known.swap_remove(at))
    }

    /// Cuts these requests into their groups' lists. `first` is the number of the first one of the call.
    fn cut(
        &mut self,
        core: &Core,
        requests: &[Request<'_>],
        which: Range<usize>,
        first: u32,
        sink: &Arc<dyn SliceSink>,
        times: Times,
    ) {
        for index in which {
            let (request, plan) = (&requests[index], self.plans[index]);
            let slices = &mut self.groups[plan.group].slices;
            let number = first + index as u32;
            let new = |offset, memory| {
                let (sink, deadline) = (Arc::clone(sink), times.deadline.instant());
                let mut slice = Slice::new(request.operation, request.file, offset, memory, deadline, sink, number);
                slice.begun = Some(times.begun);
                slice
            };
            let mut at = 0;
            while at < plan.len_bytes {
                let step = plan.cut.next(request.offset + at, plan.len_bytes - at);
                match lease(core, &request.source, at as usize..(at + step) as usize) {
                    Ok(memory) => slices.push(new(request.offset + at, memory)),
                    // Memory that was unregistered since it was checked.
                    Err(error) => sink.slice_ended(number, step, Err(Failure::failed(error.to_string()))),
                }
                at += step;
            }
        }
    }

    /// Hands all cut slices over.
    fn hand_over(&mut self) {
        for group in &mut self.groups {
            if !group.slices.is_empty() {
                group.snapshot.remote.submit(&mut group.slices);
                // What a transport leaves behind ends here, as failed (P1).
                group.slices.clear();
            }
        }
    }

    /// Lets go of descriptions, and keeps the allocations, and the segments that are open.
    pub(super) fn clear(&mut self) {
        self.plans.clear();
        self.last = None;
        for Group { segment, slices, .. } in self.groups.drain(..) {
            self.spare.push(slices);
            if !segment.is_closed() {
                self.known.push(segment);
            }
        }
    }

    fn shares(&self, which: Range<usize>) -> impl Iterator<Item = Share> + Clone + '_ {
        self.plans[which].iter().map(|plan| plan.share)
    }
}

fn memory_len(core: &Core, memory: &Memory, range: &Range<usize>) -> Result<usize, EngineError> {
    let refused = |why: String| Err(EngineError::new(ErrorKind::AddressNotRegistered, why));
    if !memory.belongs_to(&core.memory) {
        return refused("its memory is registered with another engine".into());
    }
    if range.start > range.end || range.end > memory.len() {
        let Range { start, end } = range;
        return refused(format!("bytes {start}..{end} are outside its memory of {} bytes", memory.len()));
    }
    Ok(range.end - range.start)
}

fn lease(core: &Core, source: &Source<'_>, part: Range<usize>) -> Result<MemSlice, EngineError> {
    match source {
        Source::Memory { memory, range } => memory.lease(range.start + part.start..range.start + part.end),
        Source::Address { start, .. } => core.memory.lease(start + part.start, part.end - part.start),
    }
}

/// How a submit goes on where permits are lacking.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    /// Waits for them until the requests' deadline.
    Wait,
    /// Takes only as many requests as there are permits for.
    Return,
}

/// When requests were submitted, and when they must have ended.
#[derive(Clone, Copy)]
struct Times {
    begun: Instant,
    deadline: Deadline,
}

/// Where requests go in: used by one thread at a time, for as short as possible.
pub(super) struct Intake<'b> {
    pub(super) core: &'b Arc<Core>,
    pub(super) shared: &'b Arc<Shared>,
    /// Held while slots are filled.
    pub(super) lock: &'b parking_lot::Mutex<()>,
}

impl Intake<'_> {
    /// Submits; the returned numbers name the requests in the batch.
    pub(super) fn submit(
        &self,
        scratch: &mut Scratch,
        requests: &[Request<'_>],
        deadline: Deadline,
        lacking: Lacking,
    ) -> Result<Range<usize>, EngineError> {
        let times = Times { begun: clock::now(), deadline };
        self.core.check_open()?;
        self.check(scratch, requests, deadline)?;
        for group in &scratch.groups {
            self.shared.remember(&group.segment);
        }
        let (first, started, taken) = self.take_in(scratch, requests, deadline, lacking)?;
        let sink: Arc<dyn SliceSink> = Arc::<Shared>::clone(self.shared);
        scratch.cut(self.core, requests, 0..started, first, &sink, times);
        scratch.hand_over();
        if started < taken {
            self.start_as_permits_come(scratch, requests, started..taken, first, &sink, times);
        }
        let first = first as usize;
        Ok(first..first + taken)
    }

    /// Checks all requests; where a description may be outdated, fetches a newer one, once for each segment.
    fn check(&self, scratch: &mut Scratch, requests: &[Request<'_>], deadline: Deadline) -> Result<(), EngineError> {
        let mut refreshed: Vec<SegmentId> = Vec::new();
        loop {
            let (segment, refusal) = match scratch.check(self.core, requests) {
                Ok(()) => return Ok(()),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Outdated(segment, error)) => (segment, error),
            };
            if refreshed.contains(&segment.id()) {
                return Err(refusal);
            }
            refreshed.push(segment.id());
            let deadline = deadline.min(self.core.control_deadline());
            self.core.refresh(&segment, Refresh::Always, deadline).map_err(|error| {
                let message = format!("{refusal}; and its description could not be refreshed: {error}");
                EngineError::new(error.kind(), message)
            })?;
        }
    }

    /// Fills slots. Returns the first one's number, how many may start now, and how many are in the batch now.
    fn take_in(
        &self,
        scratch: &Scratch,
        requests: &[Request<'_>],
        deadline: Deadline,
        lacking: Lacking,
    ) -> Result<(u32, usize, usize), EngineError> {
        let shared = self.shared;
        let _lock = self.lock.lock();
        let first = shared.submitted();
        let free = (shared.capacity() - first) as usize;
        if requests.len() > free {
            let message = format!(
                "submit of {} requests: the batch has room for {free} of its {}; wait for it and reset it, or take a \
                 larger one",
                requests.len(),
                shared.capacity()
            );
            return Err(EngineError::new(ErrorKind::TooManyRequests, message));
        }
        let started = shared.permits().try_take(scratch.shares(0..requests.len()));
        let taken = if lacking == Lacking::Wait { requests.len() } else { started };
        let deadline_ns = shared.to_ns(deadline.instant());
        let entries = requests.iter().zip(&scratch.plans).take(taken).enumerate();
        shared.take_in(entries.map(|(index, (request, plan))| {
            let about = About {
                operation: request.operation,
                segment: request.segment,
                file: request.file,
                offset: request.offset,
                len_bytes: plan.len_bytes,
                deadline_ns,
            };
            (about, (index < started).then_some(plan.share.slices()))
        }));
        Ok((first, started, taken))
    }

    fn start_as_permits_come(
        &self,
        scratch: &mut Scratch,
        requests: &[Request<'_>],
        mut left: Range<usize>,
        first: u32,
        sink: &Arc<dyn SliceSink>,
        times: Times,
    ) {
        let permits = self.shared.permits();
        while !left.is_empty() {
            let count = permits.take(scratch.shares(left.clone()), times.deadline);
            if count == 0 {
                break;
            }
            for index in left.start..left.start + count {
                let share = scratch.plans[index].share;
                if self.shared.begin(first + index as u32, share.slices()) {
                    scratch.cut(self.core, requests, index..index + 1, first, sink, times);
                } else {
                    permits.release(share);
                }
            }
            left.start += count;
            scratch.hand_over();
        }
        for index in left {
            let why = "it did not start: too much else was under way in this engine until its deadline";
            self.shared.give_up_one(first + index as u32, Failure::timed_out(why));
        }
    }
}
