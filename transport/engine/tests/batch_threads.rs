//! The state machine of batches under many threads: some submit, some end slices, some wait, poll, cancel and reset.
//! The seed is printed when something fails; set `NVFERRY_SEED` to use one again.
#![allow(clippy::unwrap_used)] // Failing is what tests do.

mod common;

use common::{Fate, NAME, Random, Script, builder, engine, eventually, millis, secs};
use nvferry_engine::metadata::memory::MemoryStore;
use nvferry_engine::{
    Batch, Failure, FileBufferId, FileLimits, Memory, Request, SegmentId, TransferEngine, TransferState, WaitError,
};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const FILE: FileBufferId = FileBufferId(1);
const FILE_BYTES: u64 = 1 << 20;
const LIMITS: FileLimits = FileLimits { max_slice_bytes: 4096, block_bytes: 512 };
/// Of each request in a batch, in its memory.
const SHARE_BYTES: usize = 20_000;

/// What a byte of the file holds.
fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// An engine whose slices end on threads of their own, in any order, and not all of them well.
struct Rig {
    engine: TransferEngine,
    segment: SegmentId,
    script: Arc<Script>,
    is_over: Arc<AtomicBool>,
    workers: Vec<std::thread::JoinHandle<()>>,
}

impl Rig {
    fn start(random: &mut Random, max_slices: u32, bad_percent: u64) -> Self {
        let script = Script::with(LIMITS);
        let engine = builder(&script, &MemoryStore::new(), NAME).max_slices(max_slices).build().unwrap();
        engine.install_transport("scripted", "here").unwrap();
        engine.register_local_file("/a", FILE_BYTES).unwrap();
        script.fill(FILE, (0..FILE_BYTES).map(pattern).collect());
        script.decide(|_| Fate::Hold);
        let is_over = Arc::new(AtomicBool::new(false));
        let work = |mut random: Random| {
            let (script, is_over) = (Arc::clone(&script), Arc::clone(&is_over));
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    let Some(slice) = script.take_one(&mut random) else { continue };
                    match random.below(100) {
                        dice if dice >= bad_percent => script.complete(slice),
                        dice if dice % 3 == 0 => drop(slice),
                        dice if dice % 3 == 1 => slice.fail(Failure::failed("told to fail")),
                        _ => slice.fail(Failure::timed_out("told to time out")),
                    }
                }
            }
        };
        let workers = (0..3).map(|_| std::thread::spawn(work(random.fork()))).collect();
        let segment = engine.open_segment(NAME).unwrap();
        Self { engine, segment, script, is_over, workers }
    }

    /// Lets all end, and looks that nothing is left over.
    fn finish(self) {
        eventually("the end of all slices", || self.engine.under_way().slices == 0);
        assert_eq!((self.engine.under_way().bytes, self.script.held()), (0, 0));
        self.is_over.store(true, Ordering::SeqCst);
        for worker in self.workers {
            worker.join().unwrap();
        }
    }
}

/// A range of the file for each request; some are empty.
fn ranges(random: &mut Random, count: usize) -> Vec<Range<u64>> {
    let range = |_| {
        let len = if random.below(20) == 0 { 0 } else { random.below(SHARE_BYTES as u64) };
        let start = random.below(FILE_BYTES - len);
        start..start + len
    };
    (0..count).map(range).collect()
}

fn requests<'m>(memory: &'m Memory, segment: SegmentId, ranges: &[Range<u64>], first: usize) -> Vec<Request<'m>> {
    let request = |(index, range): (usize, &Range<u64>)| {
        let at = (first + index) * SHARE_BYTES;
        let len = (range.end - range.start) as usize;
        Request::read(memory, at..at + len, segment, FILE, range.start)
    };
    ranges.iter().enumerate().map(request).collect()
}

/// Looks at all requests of a batch that is done.
fn check(batch: &Batch, memory: &mut Memory, ranges: &[Range<u64>], result: &Result<(), WaitError>) {
    let mut failed = 0;
    // The leases of slices that were given up end when the workers come to them.
    eventually("the end of the leases", || !memory.is_leased());
    let bytes = memory.bytes().unwrap();
    for (index, range) in ranges.iter().enumerate() {
        let status = batch.status(index).unwrap();
        let len = range.end - range.start;
        if status.state == TransferState::Completed {
            assert_eq!((status.bytes, &status.error), (len, &None));
            let got = &bytes[index * SHARE_BYTES..][..len as usize];
            assert!(range.clone().map(pattern).eq(got.iter().copied()), "request {index} read other bytes");
        } else {
            failed += 1;
            let error = status.error.unwrap();
            assert_eq!((error.state(), error.offset, error.length), (status.state, range.start, len));
            assert!(status.bytes < len.max(1) || status.state == TransferState::Canceled, "{error}");
        }
    }
    match result {
        Ok(()) => assert_eq!(failed, 0),
        Err(WaitError::Failed { failed: said, submitted, .. }) => {
            assert_eq!((*said, *submitted), (failed, ranges.len()));
        }
        Err(other) => panic!("{other}"),
    }
}

/// One thread's life: batches of its own, again and again.
fn live(rig: &Rig, mut random: Random) {
    let capacity = 1 + random.below(16) as usize;
    let mut batch = rig.engine.batch(capacity).unwrap();
    for _ in 0..60 {
        let mut memory = rig.engine.register_memory(vec![0; capacity * SHARE_BYTES]).unwrap();
        let count = 1 + random.below(capacity as u64) as usize;
        let ranges = ranges(&mut random, count);
        let all = requests(&memory, rig.segment, &ranges, 0);
        let (now, later) = all.split_at(random.below(count as u64 + 1) as usize);
        batch.submit(now).unwrap();
        let mut done = 0;
        while done < later.len() {
            done += batch.try_submit(&later[done..]).unwrap().len();
            if batch.wait_any(0, millis(random.below(3))).is_ok() {
                std::thread::yield_now();
            }
        }
        drop(all);
        match random.below(10) {
            0 => drop(batch.cancel()),
            1 => {
                // Dropped in the middle: the memory comes back all the same.
                batch = rig.engine.batch(capacity).unwrap();
                eventually("the end of the leases", || !memory.is_leased());
                continue;
            }
            _ => {
                let mut seen = 0;
                while seen < count {
                    let ended = batch.wait_any(seen, secs(30)).unwrap();
                    assert!(ended > seen, "{ended} after {seen}");
                    seen = ended;
                }
            }
        }
        let result = batch.wait(secs(30));
        check(&batch, &mut memory, &ranges, &result);
        batch.reset().unwrap();
    }
}

#[test]
fn each_request_ends_once_with_the_right_bytes_or_a_reason() {
    for (max_slices, bad_percent) in [(4096, 0), (16, 0), (16, 10), (7, 50)] {
        let (mut random, seed) = Random::seeded();
        let rig = Rig::start(&mut random, max_slices, bad_percent);
        let lives: Vec<_> = (0..4).map(|_| random.fork()).collect();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            std::thread::scope(|scope| lives.into_iter().for_each(|random| drop(scope.spawn(|| live(&rig, random)))));
        }));
        assert!(result.is_ok(), "failed with NVFERRY_SEED={seed}, {max_slices} slices, {bad_percent} % bad");
        rig.finish();
    }
}

#[test]
fn one_batch_serves_many_submitters_and_waiters() {
    const THREADS: usize = 4;
    const EACH: usize = 32;
    let (mut random, seed) = Random::seeded();
    let rig = Rig::start(&mut random, 24, 0);
    let mut memory = rig.engine.register_memory(vec![0; THREADS * EACH * SHARE_BYTES]).unwrap();
    let mut batch = rig.engine.batch(THREADS * EACH).unwrap();
    for _ in 0..10 {
        let ranges: Vec<_> = (0..THREADS).map(|_| ranges(&mut random, EACH)).collect();
        let ended = AtomicUsize::new(0);
        // Which request is which thread's is told by the numbers that `submit` returned.
        let numbers: Vec<Range<usize>> = std::thread::scope(|scope| {
            let submit = |thread: usize| {
                let (batch, memory, ranges, segment) = (&batch, &memory, &ranges[thread], rig.segment);
                move || batch.submit(&requests(memory, segment, ranges, thread * EACH)).unwrap()
            };
            let submitters: Vec<_> = (0..THREADS).map(|thread| scope.spawn(submit(thread))).collect();
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut seen = 0;
                    while seen < THREADS * EACH {
                        seen = batch.wait_any(seen, secs(30)).unwrap();
                        ended.fetch_max(seen, Ordering::SeqCst);
                    }
                });
            }
            submitters.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        batch.wait(secs(30)).unwrap();
        assert_eq!(ended.load(Ordering::SeqCst), THREADS * EACH);
        let mut all: Vec<usize> = numbers.iter().cloned().flatten().collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..THREADS * EACH), "NVFERRY_SEED={seed}: {numbers:?}");
        let bytes = memory.bytes().unwrap();
        for (slot, range) in ranges.iter().flatten().enumerate() {
            let got = &bytes[slot * SHARE_BYTES..][..(range.end - range.start) as usize];
            assert!(range.clone().map(pattern).eq(got.iter().copied()), "NVFERRY_SEED={seed}: other bytes");
        }
        batch.reset().unwrap();
    }
    rig.finish();
}

#[test]
fn a_wait_ends_when_all_have_ended_though_others_go_on_submitting() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 2000;
    let engine = engine(&Script::new());
    let file = engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    let batch = engine.batch(THREADS * ROUNDS).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    batch.submit(&[Request::write(&memory, 0..512, segment, file, 0)]).unwrap();
                    batch.wait(secs(60)).unwrap();
                }
            });
        }
    });
}
