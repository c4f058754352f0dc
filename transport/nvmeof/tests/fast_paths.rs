//! Every fast path, forced on and off by `NVFERRY_TEST_PATHS` (docs/testing.md): the same bytes whichever way they take, and
//! counters that show that they took the one that was forced. Without the variable: the ways that data takes by itself.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod common;

use common::{Random, make_file, pattern};
use nvferry_engine::{Deadline, FileBufferId, Memory, Operation, Request, SegmentId, TransferEngine};
use nvferry_io::RegisteredMemory;
use nvferry_io::engine::EngineChoice;
use nvferry_io::fast_paths::{FastPaths, Force, Path, PathTotals};
use nvferry_nvmeof::{NvmeofFactory, NvmeofOptions, PROTOCOL, factory};
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

const KIB: usize = 1 << 10;
const FILE_BYTES: usize = 8 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// A file in memory, and one that is on a disk unless there is none.
const IN_MEMORY: FileBufferId = FileBufferId(1);
const ON_DISK: FileBufferId = FileBufferId(2);

/// An engine that reads and writes its own files over real sockets, by two workers.
struct Loop {
    engine: TransferEngine,
    factory: NvmeofFactory,
    segment: SegmentId,
    memory: Memory,
    /// What the files hold.
    files: [Vec<u8>; 2],
    _dirs: [tempfile::TempDir; 2],
}

/// What host and target counted.
#[derive(Clone)]
struct Counts {
    workers: Vec<PathTotals>,
    target: PathTotals,
    engine: &'static str,
    driven_waits: u64,
}

impl Counts {
    fn host(&self) -> PathTotals {
        self.workers.iter().copied().sum()
    }

    /// The same since then.
    fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.workers.iter_mut().zip(&before.workers) {
            *now = now.since(before);
        }
        self.target = self.target.since(&before.target);
        self.driven_waits -= before.driven_waits;
        self
    }
}

impl Loop {
    fn new() -> Self {
        let dirs = [common::temp_dir(), tempfile::tempdir_in("/var/tmp").unwrap()];
        let files = [pattern(FILE_BYTES, 1), pattern(FILE_BYTES, 2)];
        let paths = [0, 1].map(|n| make_file(dirs[n].path(), "a", &files[n]));
        let factory = factory(NvmeofOptions::new().workers(2));
        let engine = TransferEngine::builder()
            .metadata("memory:fast-paths")
            .server_name("fast-paths")
            .transport(factory.clone())
            .build()
            .unwrap();
        engine.install_transport(PROTOCOL, "traddr=127.0.0.1 trsvcid=0").unwrap();
        for path in &paths {
            engine.register_local_file(path, FILE_BYTES as u64).unwrap();
        }
        let segment = engine.open_segment("fast-paths").unwrap();
        let memory = engine.register_memory(RegisteredMemory::allocate(FILE_BYTES)).unwrap();
        Self { engine, factory, segment, memory, files, _dirs: dirs }
    }

    fn counts(&self) -> Counts {
        let transport = self.factory.installed().remove(0);
        let (host, target) = (transport.status(), transport.target().unwrap().status());
        Counts {
            workers: host.worker_paths,
            target: target.reactors.iter().map(|reactor| reactor.paths).sum(),
            engine: target.reactors[0].engine,
            driven_waits: host.driven_waits,
        }
    }

    /// Moves these ranges of a file, all at once, and compares what was read. Tells what that counted.
    fn transfer(&mut self, operation: Operation, file: FileBufferId, ranges: &[(usize, usize)]) -> Counts {
        let before = self.counts();
        let content = &mut self.files[file.0 as usize - 1];
        let (mut at, mut places) = (0, Vec::new());
        {
            let bytes = self.memory.bytes().unwrap();
            for &(offset, len) in ranges {
                let place = at..at + len;
                if operation == Operation::Write {
                    for (n, byte) in bytes[place.clone()].iter_mut().enumerate() {
                        *byte = content[offset + n].wrapping_add(1);
                    }
                    content[offset..offset + len].copy_from_slice(&bytes[place.clone()]);
                } else {
                    bytes[place.clone()].fill(0xEE);
                }
                // Page-aligned only where the length is.
                at += len.next_multiple_of(512);
                places.push(place);
            }
        }
        let batch = self.engine.batch(ranges.len()).unwrap();
        let requests: Vec<_> = ranges
            .iter()
            .zip(&places)
            .map(|(&(offset, _), place)| match operation {
                Operation::Read => Request::read(&self.memory, place.clone(), self.segment, file, offset as u64),
                Operation::Write => Request::write(&self.memory, place.clone(), self.segment, file, offset as u64),
            })
            .collect();
        batch.submit(&requests).unwrap();
        batch.wait(Deadline::after(PATIENCE)).unwrap();
        drop((requests, batch));
        if operation == Operation::Read {
            let bytes = self.memory.bytes().unwrap();
            for (&(offset, len), place) in ranges.iter().zip(places) {
                assert!(bytes[place] == content[offset..offset + len], "{len} bytes at {offset} of {file}");
            }
        }
        // What is looked at here is counted before a command's end is told.
        self.counts().since(&before)
    }

    /// Reads 4 KiB again and again, each alone, until `is_enough`.
    fn one_by_one(&mut self, mut is_enough: impl FnMut(&Counts, usize) -> bool) -> Counts {
        let (before, until) = (self.counts(), Instant::now() + PATIENCE);
        for n in 0.. {
            let counts = self.counts().since(&before);
            if is_enough(&counts, n) {
                return counts;
            }
            assert!(Instant::now() < until, "after {n} reads, one by one: {:?}", counts.host());
            let mut batch = self.engine.batch(1).unwrap();
            for block in 0..50 {
                let offset = (n * 50 + block) % (FILE_BYTES / 4096) * 4096;
                let request = Request::read(&self.memory, 0..4096, self.segment, IN_MEMORY, offset as u64);
                batch.submit(&[request]).unwrap();
                batch.wait(Deadline::after(PATIENCE)).unwrap();
                assert!(self.memory.bytes().unwrap()[..4096] == self.files[0][offset..][..4096], "block at {offset}");
                batch.reset().unwrap();
            }
        }
        unreachable!("the loop has no end")
    }
}

/// `count` ranges of `len` bytes, in places that depend on `seed`.
fn ranges(count: usize, len: usize, align: usize, seed: u64) -> Vec<(usize, usize)> {
    let mut random = Random::seeded(seed);
    let mut places: Vec<usize> = (0..FILE_BYTES / len.next_multiple_of(align)).collect();
    // No two ranges overlap: what is written twice at once is not known.
    (0..count)
        .map(|_| places.swap_remove(random.below(places.len() as u64) as usize) * len.next_multiple_of(align))
        .map(|offset| (offset, len))
        .collect()
}

/// Without sockets or files that block: whether the file is really somewhere else than in memory.
fn is_on_disk(dir: &FilePath) -> bool {
    let file = nvferry_io::IoFile::open(dir.join("a"), nvferry_io::file::FileOptions { direct: false, write: false });
    !file.unwrap().is_memory_backed()
}

#[test]
fn data_is_the_same_on_every_path_and_takes_the_one_that_is_forced() {
    let paths = FastPaths::check().unwrap();
    let mut looped = Loop::new();
    // All connections first.
    looped.transfer(Operation::Read, IN_MEMORY, &ranges(64, 64 * KIB, 64 * KIB, 1));

    reads(&mut looped, paths);
    writes(&mut looped, paths);
    files(&mut looped, paths);
    waits(&mut looped, paths);
    spreading(&mut looped, paths);

    // Sizes and places of all kinds, on both files, all at once.
    let mut random = Random::seeded(7);
    for round in 0..20 {
        let len = 1 + random.below(200 * KIB as u64) as usize;
        for file in [IN_MEMORY, ON_DISK] {
            let places = ranges(1 + round, len, 512, round as u64);
            let moved: Vec<_> =
                places.iter().map(|&(offset, len)| (offset + 3.min(offset), len - 3.min(len - 1))).collect();
            looped.transfer(Operation::Write, file, &moved);
            looped.transfer(Operation::Read, file, &places);
        }
    }
    digests(&looped.counts(), paths);
}

fn reads(looped: &mut Loop, paths: FastPaths) {
    let data_digest = paths.data_digest;
    let small = looped.transfer(Operation::Read, IN_MEMORY, &ranges(100, 4 * KIB, 4 * KIB, 2));
    let large = looped.transfer(Operation::Read, IN_MEMORY, &ranges(20, 64 * KIB, 64 * KIB, 3));
    assert_eq!((small.target.get(Path::Commands), large.target.get(Path::Commands)), (100, 20));
    let in_memory = !is_on_disk(looped._dirs[0].path());
    if in_memory {
        let pages = [small.target.get(Path::Pages), large.target.get(Path::Pages)];
        let expected = match (paths.pages, data_digest) {
            (Force::Off, _) | (_, true) => [0, 0],
            (Force::On, _) => [100, 20],
            (Force::Auto, _) => [0, 20],
        };
        // A hundred at once may want more pipes than there are.
        let enough = pages[1] == expected[1] && pages[0] <= expected[0] && pages[0] * 2 >= expected[0];
        assert!(enough, "pages: {pages:?}, not {expected:?}");
    } else {
        println!("skipped: reads from memory: there is no /dev/shm");
    }
    // Half of the first read may have come before it was known how large they are.
    let placed = [&small, &large].map(|it| it.host().get(Path::PlacedBytes) > 0);
    let expected = match paths.in_place {
        Force::Off => [false, false],
        Force::On => [true, true],
        Force::Auto => [false, true],
    };
    assert_eq!(placed, expected, "received in place");

    let flags = [&small, &large].map(|it| (it.host().get(Path::SuccessFlag), it.target.get(Path::SuccessFlag)));
    let all = if paths.success_flag.is_off() { [(0, 0), (0, 0)] } else { [(100, 100), (20, 20)] };
    assert_eq!(flags, all, "reads that ended with their data");

    let cut = small.target.get(Path::CutRounds);
    match paths.rounds {
        Force::On => assert!(cut > 0, "rounds of one"),
        Force::Off => assert_eq!(cut, 0, "no rounds"),
        Force::Auto => {}
    }
}

fn writes(looped: &mut Loop, paths: FastPaths) {
    let small = looped.transfer(Operation::Write, IN_MEMORY, &ranges(100, 4 * KIB, 4 * KIB, 4));
    let large = looped.transfer(Operation::Write, IN_MEMORY, &ranges(6, 1024 * KIB, 1024 * KIB, 5));
    let of = |counts: &Counts, path| (counts.host().get(path), counts.target.get(path));
    let (in_capsule, asked) = if paths.in_capsule.is_off() { (0, 100) } else { (100, 0) };
    assert_eq!(of(&small, Path::InCapsule), (in_capsule, in_capsule));
    assert_eq!(of(&small, Path::Solicited), (asked, asked));
    // One that is cut in two by the end of a receive goes the other way.
    let straight = small.target.get(Path::Straight);
    let expected = in_capsule > 0 && !paths.straight.is_off() && !paths.inline.is_off();
    if !is_on_disk(looped._dirs[0].path()) {
        assert_eq!(straight > 0, expected, "{straight} writes of 100 from the receive buffer");
    }
    assert_eq!((of(&large, Path::InCapsule), of(&large, Path::Solicited)), ((0, 0), (6, 6)));
    assert_eq!(large.target.get(Path::PlacedBytes) > 0, !paths.in_place.is_off(), "the target's place");
    if paths.in_place.is_off() {
        assert_eq!(large.target.get(Path::CopiedBytes), 6 << 20);
    }
}

fn files(looped: &mut Loop, paths: FastPaths) {
    let direct = !matches!(std::env::var("MC_NVMEOF_GENERIC_DIRECT_IO").as_deref(), Ok("off" | "0"));
    let memory = looped.transfer(Operation::Write, IN_MEMORY, &ranges(50, 4 * KIB, 4 * KIB, 6));
    let disk = looped.transfer(Operation::Write, ON_DISK, &ranges(50, 4 * KIB, 4 * KIB, 6));
    let of = |counts: &Counts| (counts.target.get(Path::Inline), counts.target.get(Path::Queued));
    let is_memory = !is_on_disk(looped._dirs[0].path());
    match paths.inline {
        Force::On => assert_eq!((of(&memory), of(&disk)), ((50, 0), (50, 0))),
        Force::Off => assert_eq!((of(&memory), of(&disk)), ((0, 50), (0, 50))),
        Force::Auto => {
            assert!(of(&memory) == (50, 0) || !is_memory, "{:?}", of(&memory));
            let waits = direct && is_on_disk(looped._dirs[1].path());
            assert!(of(&disk) == (0, 50) || !waits, "{:?}", of(&disk));
        }
    }
    let engine = match paths.engine {
        EngineChoice::Auto => return,
        EngineChoice::IoUring => "io_uring",
        EngineChoice::Libaio => "libaio",
        EngineChoice::Threads => "threads",
    };
    assert_eq!(disk.engine, engine);
}

fn waits(looped: &mut Loop, paths: FastPaths) {
    let counts = match paths.lend {
        // When exactly a thread is regular enough is a matter of time.
        Force::Auto => looped.one_by_one(|counts, n| counts.driven_waits > 0 && n >= 4),
        _ => looped.one_by_one(|_, n| n >= 4),
    };
    match paths.lend {
        Force::Auto => {}
        Force::On => {
            // With such pauses no thread is regular enough by itself; each is longer than a worker stays lent unused.
            let before = looped.counts();
            for n in 0..20 {
                std::thread::sleep(Duration::from_millis(10));
                looped.transfer(Operation::Read, IN_MEMORY, &ranges(1, 4 * KIB, 4 * KIB, n));
            }
            let driven = looped.counts().since(&before).driven_waits;
            assert!(driven > 0, "of 20 waits with pauses");
        }
        Force::Off => assert_eq!(counts.driven_waits, 0),
    }
    let spins = [counts.host().get(Path::Spins) > 0, counts.target.get(Path::Spins) > 0];
    assert_eq!(spins, [paths.spin == Force::On; 2], "spinning");
    if paths.drained.is_off() {
        let empty = counts.host().get(Path::EmptyReceives);
        assert!(empty >= 100, "{empty} receives of 200 reads found nothing");
    }
}

fn spreading(looped: &mut Loop, paths: FastPaths) {
    let mut used = || {
        let counts = looped.transfer(Operation::Read, IN_MEMORY, &ranges(64, 4 * KIB, 4 * KIB, 8));
        counts.workers.iter().filter(|worker| worker.get(Path::Commands) > 0).count()
    };
    match paths.spread {
        Force::On => assert_eq!(used(), 2, "both workers"),
        Force::Off => assert_eq!(used(), 1, "one worker"),
        // So little stays together, unless a worker has not yet taken note that what it had before has ended.
        Force::Auto => assert!((0..100).any(|_| used() == 1), "one worker"),
    }
}

fn digests(counts: &Counts, paths: FastPaths) {
    for side in [counts.host(), counts.target] {
        assert_eq!(side.get(Path::HeaderDigests) > 0, paths.header_digest, "header digests");
        assert_eq!(side.get(Path::DataDigests) > 0, paths.data_digest, "data digests");
    }
}
