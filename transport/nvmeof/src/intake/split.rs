//! Cutting slices into what a device takes: no longer than one transfer, and the partly covered blocks at a write's
//! edges by themselves, so that each can be locked where it belongs.

use nvferry_engine::{Failure, Operation, Slice, SliceSink};
use std::sync::{Arc, Mutex, PoisonError};

/// What a device takes as one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutRules {
    /// Its unit in bytes, a power of two.
    pub(crate) block_bytes: u32,
    /// The longest operation in bytes, a multiple of the unit.
    pub(crate) max_bytes: u32,
}

impl CutRules {
    /// The first unit that `offset` touches.
    fn floor(self, offset: u64) -> u64 {
        offset & !(u64::from(self.block_bytes) - 1)
    }

    /// Whether a range consists of whole units.
    pub(crate) fn is_whole(self, offset: u64, len: usize) -> bool {
        (offset | len as u64) & (u64::from(self.block_bytes) - 1) == 0
    }

    /// Whether the slice can be moved as it is: a read by one operation on the units that it touches, a write if it
    /// consists of whole units or lies within one.
    pub(crate) fn fits(self, slice: &Slice) -> bool {
        let (start, end) = (slice.offset, slice.offset + slice.len() as u64);
        let reach = end - self.floor(start);
        match slice.op {
            Operation::Read => reach <= u64::from(self.max_bytes),
            Operation::Write if self.is_whole(start, slice.len()) => reach <= u64::from(self.max_bytes),
            Operation::Write => reach <= u64::from(self.block_bytes),
        }
    }

    /// Where the part that begins at `start` ends, of a slice that ends at `end`.
    fn part_end(self, op: Operation, start: u64, end: u64) -> u64 {
        let block = u64::from(self.block_bytes);
        let longest = self.floor(start) + u64::from(self.max_bytes);
        match op {
            Operation::Read => end.min(longest),
            // The unit that the write begins in the middle of.
            Operation::Write if self.floor(start) != start => end.min(self.floor(start) + block),
            // Whole units, as many as there are.
            Operation::Write if end - start >= block => self.floor(end).min(longest),
            Operation::Write => end,
        }
    }
}

/// Cuts a slice and hands each part to `each`. The slice ends when all parts have.
pub(crate) fn cut(slice: Slice, rules: CutRules, mut each: impl FnMut(Slice)) {
    if rules.fits(&slice) {
        each(slice);
        return;
    }
    let (op, file, deadline, begun) = (slice.op, slice.file, slice.deadline, slice.begun);
    let (first, end, memory) = (slice.offset, slice.offset + slice.len() as u64, slice.memory.clone());
    let join = Arc::new(Join { state: Mutex::new(JoinState { whole: Some(slice), parts: 1, failure: None }) });
    let mut start = first;
    while start < end {
        let part_end = rules.part_end(op, start, end);
        let memory = memory.slice((start - first) as usize..(part_end - first) as usize);
        join.lock().parts += 1;
        let mut part = Slice::new(op, file, start, memory, deadline, Arc::clone(&join) as Arc<dyn SliceSink>, 0);
        part.begun = begun;
        each(part);
        start = part_end;
    }
    // The memory's lease ends with the slice, not with this function.
    drop(memory);
    // The part that stood for the cutting itself, which kept the slice from ending before it was cut to its end.
    join.part_ended(Ok(()));
}

/// Brings the ends of a slice's parts together.
struct Join {
    state: Mutex<JoinState>,
}

struct JoinState {
    whole: Option<Slice>,
    parts: usize,
    /// Of the first part that failed.
    failure: Option<Failure>,
}

impl Join {
    fn lock(&self) -> std::sync::MutexGuard<'_, JoinState> {
        // Nothing panics between two states that disagree.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part_ended(&self, result: Result<(), Failure>) {
        let mut state = self.lock();
        if let Err(failure) = result {
            state.failure.get_or_insert(failure);
        }
        state.parts -= 1;
        if state.parts > 0 {
            return;
        }
        let (whole, failure) = (state.whole.take(), state.failure.take());
        drop(state);
        match (whole, failure) {
            (Some(whole), None) => whole.complete(),
            (Some(whole), Some(failure)) => whole.fail(failure),
            (None, _) => {}
        }
    }
}

impl SliceSink for Join {
    fn slice_ended(&self, _request: u32, _len_bytes: u64, result: Result<(), Failure>) {
        self.part_ended(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Outcomes, random};
    use nvferry_engine::FileBufferId;
    use nvferry_io::RegisteredMemory;
    use std::time::{Duration, Instant};

    fn slice(op: Operation, offset: u64, len: usize, outcomes: &Arc<Outcomes>) -> Slice {
        let memory = RegisteredMemory::allocate(len).lease(0..len).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        Slice::new(op, FileBufferId(1), offset, memory, deadline, Arc::clone(outcomes) as Arc<dyn SliceSink>, 0)
    }

    #[test]
    fn parts_cover_the_slice_and_each_is_one_operation() {
        let mut random = random("parts_cover_the_slice");
        for _ in 0..20_000 {
            let block_bytes = 512 << random.below(4);
            let rules = CutRules { block_bytes, max_bytes: block_bytes * (1 + random.below(5) as u32) };
            let op = if random.below(2) == 0 { Operation::Read } else { Operation::Write };
            let (offset, len) = (random.below(20_000), 1 + random.below(40_000) as usize);
            let outcomes = Outcomes::new();
            let (mut at, mut parts) = (offset, Vec::new());
            let address = {
                let whole = slice(op, offset, len, &outcomes);
                let address = whole.memory.address();
                cut(whole, rules, |part| parts.push(part));
                address
            };
            for part in &parts {
                assert_eq!(part.offset, at);
                assert_eq!(part.memory.address(), address + (at - offset) as usize);
                assert!(rules.fits(part), "{part:?} of {op} {len} at {offset} with {rules:?}");
                at += part.len() as u64;
            }
            assert_eq!(at, offset + len as u64);
            assert!(outcomes.ended().is_empty(), "no part has ended");
            parts.into_iter().for_each(Slice::complete);
            assert_eq!(outcomes.ended(), [(0, Ok(()))]);
        }
    }

    #[test]
    fn a_slice_that_fits_is_not_cut() {
        let outcomes = Outcomes::new();
        let rules = CutRules { block_bytes: 512, max_bytes: 4096 };
        for (op, offset, len) in [
            (Operation::Read, 0, 4096),
            (Operation::Read, 100, 3900),
            (Operation::Write, 512, 4096),
            (Operation::Write, 700, 10),
        ] {
            let mut parts = 0;
            cut(slice(op, offset, len, &outcomes), rules, |_| parts += 1);
            assert_eq!(parts, 1, "{op} {len} at {offset}");
        }
    }

    #[test]
    fn one_failed_part_fails_the_slice_once_all_have_ended() {
        let outcomes = Outcomes::new();
        let rules = CutRules { block_bytes: 512, max_bytes: 4096 };
        let mut parts = Vec::new();
        cut(slice(Operation::Write, 100, 2000, &outcomes), rules, |part| parts.push(part));
        assert_eq!(parts.len(), 3, "head, whole blocks, tail");
        parts.remove(1).fail(Failure::failed("first"));
        parts.remove(0).fail(Failure::failed("second"));
        assert!(outcomes.ended().is_empty());
        parts.remove(0).complete();
        assert_eq!(outcomes.ended(), [(0, Err(Failure::failed("first")))]);
    }
}
