//! One and the same suite for all engines and all kinds of files.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "the tests' bodies are plain functions")]
#![allow(unsafe_code, reason = "memory of which a part cannot be accessed")]

mod common;

use common::{Kind, PATIENCE, PLACES, Place, Random, bytes, finish, other, pattern, read, run, write};
use nvferry_io::poller::{Events, Interest, Poller, Trigger};
use nvferry_io::{IoBuf, IoFile, IoKind, IoRequest, RegisteredMemory};
use std::collections::HashSet;
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1 << 20;

fn reads_and_writes_of_all_sizes(kind: Kind) {
    reads_and_writes(kind, &[1, 512, 4096, 12_345, 65_536, MIB, 3 * MIB + 4096]);
}

fn reads_and_writes(kind: Kind, lens: &[usize]) {
    let Some(mut engine) = kind.open(8) else { return };
    let size = 3 * MIB + lens.iter().max().unwrap();
    for place in PLACES {
        let content = pattern(size, 1);
        let Some(test) = place.file(&content) else { continue };
        let unit = if test.file.is_direct() { test.file.geometry().dio_offset_align_bytes as usize } else { 1 };
        let mut expected = content;
        for &len in lens {
            for offset in [0, 4096, 123 * 512, 2 * MIB + 4096, 1_234_567] {
                if offset % unit != 0 || len % unit != 0 {
                    continue;
                }
                let label = format!("{place:?}: {len} bytes at {offset}");
                let got = run(&mut *engine, read(7, &test.file, offset as u64, len));
                assert_eq!(got.token, 7);
                assert_eq!(got.result.as_ref().unwrap(), &len, "{label}");
                assert!(bytes(&got, len) == expected[offset..offset + len], "{label}: read something else");

                let new = pattern(len, offset as u64 + 99);
                let put = run(&mut *engine, write(8, &test.file, offset as u64, &new));
                assert_eq!(put.result.unwrap(), len, "{label}");
                expected[offset..offset + len].copy_from_slice(&new);
            }
        }
        assert!(test.content() == expected, "{place:?}: the file holds something else");
    }
}

fn leased_memory_is_filled_and_given_back(kind: Kind) {
    let Some(mut engine) = kind.open(8) else { return };
    for place in PLACES {
        let content = pattern(64 << 10, 3);
        let Some(test) = place.file(&content) else { continue };
        let mut memory = RegisteredMemory::allocate(128 << 10);
        let slice = memory.lease(4096..4096 + (32 << 10)).unwrap();
        let request = IoRequest {
            token: 1,
            file: Arc::clone(&test.file),
            kind: IoKind::Read,
            offset: 8192,
            buf: IoBuf::Leased(slice),
        };
        let done = run(&mut *engine, request);
        assert_eq!(done.result.as_ref().unwrap(), &(32 << 10), "{place:?}");
        assert!(memory.bytes().is_err(), "the completion still leases the memory");
        drop(done);
        let all = memory.bytes().expect("nothing leases it any more");
        assert!(all[4096..][..32 << 10] == content[8192..][..32 << 10], "{place:?}");
        assert!(all[..4096].iter().chain(&all[4096 + (32 << 10)..]).all(|&byte| byte == 0), "{place:?}: beyond");
    }
}

fn many_at_once_against_a_model(kind: Kind) {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 256;
    let Some(mut engine) = kind.open(48) else { return };
    for (place, seed) in PLACES.into_iter().zip(0x5eed..) {
        let mut model = pattern(BLOCK * BLOCKS, seed);
        let Some(test) = place.file(&model) else { continue };
        println!("{place:?}: seed {seed}");
        let mut random = Random(seed);
        // Under way: token, block, and the bytes if it is a write.
        let mut under_way: Vec<(u64, usize, Option<Vec<u8>>)> = Vec::new();
        let (mut next_token, mut ended) = (0, 0);
        let mut done = Vec::new();
        while ended < 1500 {
            while under_way.len() < engine.capacity() && random.below(8) > 0 {
                let block = random.below(BLOCKS as u64) as usize;
                if under_way.iter().any(|&(_, other, _)| other == block) {
                    continue;
                }
                let offset = (block * BLOCK) as u64;
                let (request, data) = if random.below(2) == 0 {
                    (read(next_token, &test.file, offset, BLOCK), None)
                } else {
                    let data = pattern(BLOCK, random.next());
                    (write(next_token, &test.file, offset, &data), Some(data))
                };
                under_way.push((next_token, block, data));
                next_token += 1;
                engine.submit(request).expect("below its capacity");
            }
            assert_eq!(engine.in_flight(), under_way.len());
            engine.flush().unwrap();
            engine.reap(&mut done);
            if done.is_empty() && !under_way.is_empty() {
                engine.wait(Some(PATIENCE)).unwrap();
                engine.reap(&mut done);
            }
            for completion in done.drain(..) {
                let at = under_way.iter().position(|&(token, ..)| token == completion.token);
                let (_, block, data) = under_way.swap_remove(at.expect("ended once, and was submitted"));
                assert_eq!(completion.result.as_ref().unwrap(), &BLOCK, "{place:?}");
                let place_in_model = &mut model[block * BLOCK..][..BLOCK];
                match data {
                    Some(data) => place_in_model.copy_from_slice(&data),
                    None => assert!(bytes(&completion, BLOCK) == *place_in_model, "{place:?}: block {block} is wrong"),
                }
                ended += 1;
            }
        }
        for completion in finish(&mut *engine, under_way.len()) {
            let at = under_way.iter().position(|&(token, ..)| token == completion.token).unwrap();
            if let (_, block, Some(data)) = under_way.swap_remove(at) {
                model[block * BLOCK..][..BLOCK].copy_from_slice(&data);
            }
        }
        assert_eq!(engine.in_flight(), 0);
        assert!(test.content() == model, "{place:?}: the file is not the model");
    }
}

fn reads_end_at_the_end_of_the_file(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    for place in PLACES {
        // Ends within a block, as only the last read of a file may.
        let content = pattern(3 * 4096 + 100, 5);
        let Some(test) = place.file(&content) else { continue };
        for (offset, expected) in [(0, 12_388), (8192, 4196), (12_288, 100), (16_384, 0), (1 << 30, 0)] {
            let got = run(&mut *engine, read(1, &test.file, offset, 64 << 10));
            assert_eq!(got.result.as_ref().unwrap(), &expected, "{place:?} at {offset}");
            let from = (offset as usize).min(content.len());
            assert!(bytes(&got, expected) == content[from..from + expected], "{place:?} at {offset}");
        }
        // Ends with a block.
        let test = place.file(&content[..8192]).unwrap();
        assert_eq!(run(&mut *engine, read(1, &test.file, 4096, 32 << 10)).result.unwrap(), 4096, "{place:?}");
    }
}

fn nothing_to_move_is_done_at_once(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    let test = Place::DiskBuffered.file(&pattern(4096, 5)).unwrap();
    for request in [
        other(1, &test.file, IoKind::Read, 0),
        other(2, &test.file, IoKind::Write, 0),
        other(3, &test.file, IoKind::WriteZeroes { len: 0 }, 0),
        other(4, &test.file, IoKind::Deallocate { len: 0 }, 0),
    ] {
        let token = request.token;
        let done = run(&mut *engine, request);
        assert_eq!((done.token, done.result.unwrap()), (token, 0));
    }
    assert!(test.content() == pattern(4096, 5));
}

fn a_full_engine_gives_the_request_back(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    let test = Place::DiskDirect.file(&pattern(64 << 10, 1));
    let Some(test) = test.or_else(|| Place::DiskBuffered.file(&pattern(64 << 10, 1))) else { return };
    let capacity = engine.capacity();
    assert_eq!(capacity, 4);
    for token in 0..capacity as u64 {
        engine.submit(read(token, &test.file, 4096 * token, 4096)).expect("has room");
    }
    let back = engine.submit(read(77, &test.file, 8192, 4096)).expect_err("has no room");
    assert_eq!((back.token, back.offset, back.buf.len(), back.kind), (77, 8192, 4096, IoKind::Read));
    assert_eq!(engine.in_flight(), capacity);
    let tokens: HashSet<u64> = finish(&mut *engine, capacity).into_iter().map(|done| done.token).collect();
    assert_eq!(tokens, (0..capacity as u64).collect());
    // There is room again.
    assert_eq!(run(&mut *engine, back).result.unwrap(), 4096);
}

fn wake_fd_is_readable_while_something_has_ended(kind: Kind) {
    wakes(kind, Trigger::Level);
    wakes(kind, Trigger::Edge);
}

fn wakes(kind: Kind, trigger: Trigger) {
    let Some(mut engine) = kind.open(8) else { return };
    let poller = Poller::new().unwrap();
    let mut events = Events::with_capacity(4);
    poller.add(engine.wake_fd(), 42, Interest::READ, trigger).unwrap();
    for place in PLACES {
        let Some(test) = place.file(&pattern(64 << 10, 1)) else { continue };
        for _ in 0..20 {
            let mut in_vain = 0;
            for token in 0..8 {
                engine.submit(read(token, &test.file, 4096 * token, 4096)).expect("has room");
            }
            engine.flush().unwrap();
            let mut done = Vec::new();
            // The documented order: reap after the last flush, then sleep.
            engine.reap(&mut done);
            while done.len() < 8 {
                poller.wait(&mut events, Some(PATIENCE)).unwrap();
                let before = done.len();
                engine.reap(&mut done);
                // No event means a signal (the kernel's own, too) or that the wait was over.
                if done.len() == before {
                    in_vain += 1;
                    assert!(in_vain < 1000, "{place:?} {trigger:?}: {before} ended, then nothing; {events:?}");
                }
            }
            assert_eq!(engine.in_flight(), 0);
        }
        // Nothing ends any more, so a poll must soon find nothing: some kernels raise the descriptor a moment late.
        let mut quiet = false;
        for _ in 0..100 {
            engine.reap(&mut Vec::new());
            poller.wait(&mut events, Some(Duration::from_millis(5))).unwrap();
            if events.is_empty() {
                quiet = true;
                break;
            }
        }
        assert!(quiet, "{place:?}: readable with nothing under way");
    }
}

fn errors_are_told(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    let errno = |done: nvferry_io::IoCompletion| done.result.unwrap_err().raw_os_error();
    for place in PLACES {
        let Some(test) = place.file(&pattern(64 << 10, 1)) else { continue };
        // Ranges that no file has.
        for offset in [u64::MAX, u64::MAX - 4095, i64::MAX as u64 - 1] {
            assert_eq!(errno(run(&mut *engine, read(1, &test.file, offset, 4096))), Some(libc::EINVAL), "{place:?}");
        }
        // More bytes than the buffer has must never reach the kernel.
        let mut request = read(1, &test.file, 0, 4096);
        let IoBuf::Pool(_, len) = &mut request.buf else { unreachable!() };
        *len = 4097;
        assert_eq!(errno(run(&mut *engine, request)), Some(libc::EINVAL), "{place:?}");
    }
    // A descriptor that may only read.
    let test = Place::DiskBuffered.file(&pattern(64 << 10, 1)).unwrap();
    for direct in [false, true] {
        let options = nvferry_io::file::FileOptions { direct, write: false };
        let Ok(file) = IoFile::open(test.path(), options) else { continue };
        let file = Arc::new(file);
        assert!(!file.is_writable());
        assert_eq!(errno(run(&mut *engine, write(1, &file, 0, &[1; 4096]))), Some(libc::EBADF), "direct: {direct}");
        assert_eq!(run(&mut *engine, read(1, &file, 0, 4096)).result.unwrap(), 4096);
    }
    assert!(test.content() == pattern(64 << 10, 1));
}

fn direct_io_out_of_alignment_is_refused_not_bent(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    let content = pattern(64 << 10, 1);
    let Some(test) = Place::DiskDirect.file(&content) else { return };
    let unit = u64::from(test.file.geometry().dio_offset_align_bytes);
    assert!(test.file.is_aligned(unit, unit, 4096));
    if unit == 1 {
        println!("skipped: this file system takes Direct I/O at any offset");
        return;
    }
    assert!(!test.file.is_aligned(unit / 2, unit, 4096));
    assert!(!test.file.is_aligned(unit, unit / 2, 4096));
    let done = run(&mut *engine, read(1, &test.file, unit / 2, unit as usize));
    assert_eq!(done.result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    let done = run(&mut *engine, write(1, &test.file, unit / 2, &vec![9; unit as usize]));
    assert_eq!(done.result.unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert!(test.content() == content);
}

fn flush_zero_and_give_back(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    for place in PLACES {
        let mut expected = pattern(2 * MIB, 9);
        let Some(test) = place.file(&expected) else { continue };
        let zeroes = IoKind::WriteZeroes { len: 300 << 10 };
        assert_eq!(run(&mut *engine, other(1, &test.file, zeroes, 64 << 10)).result.unwrap(), 0, "{place:?}");
        expected[64 << 10..364 << 10].fill(0);
        let give_back = IoKind::Deallocate { len: 128 << 10 };
        match run(&mut *engine, other(2, &test.file, give_back, MIB as u64)).result {
            Ok(_) => expected[MIB..MIB + (128 << 10)].fill(0),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                println!("skipped: {place:?}: the file system cannot give space back");
            }
            Err(error) => panic!("{place:?}: {error}"),
        }
        assert_eq!(run(&mut *engine, other(3, &test.file, IoKind::SyncData, 0)).result.unwrap(), 0, "{place:?}");
        assert!(test.content() == expected, "{place:?}");
    }
}

fn dropping_waits_for_what_is_under_way(kind: Kind) {
    for place in PLACES {
        let content = pattern(16 * MIB, 2);
        let Some(test) = place.file(&content) else { continue };
        let Some(mut engine) = kind.open(16) else { return };
        let mut memory = RegisteredMemory::allocate(16 * MIB);
        for token in 0..16_usize {
            let request = IoRequest {
                token: token as u64,
                file: Arc::clone(&test.file),
                kind: IoKind::Read,
                offset: (token * MIB) as u64,
                buf: IoBuf::Leased(memory.lease(token * MIB..(token + 1) * MIB).unwrap()),
            };
            engine.submit(request).expect("has room");
        }
        engine.flush().unwrap();
        drop(engine);
        // Nothing uses the memory any more, so it can be looked at; each part was filled or left alone.
        let all = memory.bytes().unwrap_or_else(|error| panic!("{kind:?} {place:?}: {error}"));
        for (part, wanted) in all.chunks(4096).zip(content.chunks(4096)) {
            assert!(part == wanted || part.iter().all(|&byte| byte == 0), "{place:?}: half a block");
        }
        assert_eq!(Arc::strong_count(&test.file), 1, "{place:?}: the file is still held");
    }
}

fn dropping_what_was_never_flushed_does_nothing(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    let test = Place::DiskBuffered.file(&pattern(8192, 1)).unwrap();
    let memory = RegisteredMemory::allocate(4096);
    let buf = IoBuf::Leased(memory.lease(0..4096).unwrap());
    let request = IoRequest { token: 1, file: Arc::clone(&test.file), kind: IoKind::Read, offset: 0, buf };
    engine.submit(request).expect("has room");
    drop(engine);
    assert!(!memory.is_leased());
    assert_eq!(Arc::strong_count(&test.file), 1);
}

fn engines_may_move_between_threads(kind: Kind) {
    let Some(mut engine) = kind.open(8) else { return };
    for place in PLACES {
        let content = pattern(8 * MIB, 6);
        let Some(test) = place.file(&content) else { continue };
        let ask = |engine: &mut dyn nvferry_io::IoEngine| {
            for token in 0..8 {
                engine.submit(read(token, &test.file, token * MIB as u64, MIB)).expect("has room");
            }
            engine.flush().unwrap();
        };
        let check = |done: &nvferry_io::IoCompletion| match &done.result {
            Ok(MIB) => assert!(bytes(done, MIB) == content[done.token as usize * MIB..][..MIB], "{place:?}"),
            Ok(n) => panic!("{place:?}: {n} bytes"),
            // The kernel gives up what a thread asked for when the thread ends.
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR)), "{error}"),
        };
        // Asked in one thread, which ends, and told in another.
        engine = std::thread::scope(|scope| {
            let asks = scope.spawn(|| {
                ask(&mut *engine);
                engine
            });
            asks.join().unwrap()
        });
        finish(&mut *engine, 8).iter().for_each(check);
        ask(&mut *engine);
        for done in finish(&mut *engine, 8) {
            assert_eq!(done.result.as_ref().unwrap(), &MIB, "{place:?}: it goes on as if nothing were");
            check(&done);
        }
    }
    std::thread::spawn(move || drop(engine)).join().unwrap();
}

/// Two pages of which only the first may be accessed, as memory that a caller vouches for.
struct HalfGone {
    start: NonNull<u8>,
}

impl HalfGone {
    const PAGES: usize = 2 * 4096;

    fn new() -> Self {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a fresh anonymous mapping.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), Self::PAGES, access, kind, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        // SAFETY: the second page of the mapping just made.
        let result = unsafe { libc::mprotect(start.byte_add(4096), 4096, libc::PROT_NONE) };
        assert_eq!(result, 0);
        Self { start: NonNull::new(start.cast()).unwrap() }
    }
}

impl Drop for HalfGone {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, used no more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), Self::PAGES) };
    }
}

/// The kernel moves what it can and says so; only going on finds the reason.
fn p05_what_ends_short_io_is_found(kind: Kind) {
    let Some(mut engine) = kind.open(4) else { return };
    for place in PLACES {
        let Some(test) = place.file(&pattern(64 << 10, 1)) else { continue };
        let pages = HalfGone::new();
        // SAFETY: the mapping outlives the memory, whose second page no Rust code touches.
        let memory = unsafe { RegisteredMemory::from_raw(pages.start, HalfGone::PAGES) };
        let buf = IoBuf::Leased(memory.lease(0..8192).unwrap());
        let request = IoRequest { token: 1, file: Arc::clone(&test.file), kind: IoKind::Read, offset: 0, buf };
        let done = run(&mut *engine, request);
        assert_eq!(done.result.unwrap_err().raw_os_error(), Some(libc::EFAULT), "{place:?}");
    }
    // A file that cannot grow takes the first half of a write and refuses the rest.
    // SAFETY: a name that lives during the call.
    let fd = unsafe { libc::memfd_create(c"nvferry-sealed".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
    assert!(fd >= 0);
    // SAFETY: a fresh descriptor.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let raw = std::os::fd::AsRawFd::as_raw_fd(&fd);
    // SAFETY: plain calls on an open descriptor.
    let sealed =
        unsafe { libc::ftruncate(raw, 8192) == 0 && libc::fcntl(raw, libc::F_ADD_SEALS, libc::F_SEAL_GROW) == 0 };
    assert!(sealed);
    let file = Arc::new(IoFile::from_fd(fd, "sealed").unwrap());
    let done = run(&mut *engine, write(1, &file, 0, &pattern(16_384, 4)));
    assert_eq!(done.result.unwrap_err().raw_os_error(), Some(libc::EPERM));
}

/// The engines whose calls move 4 KiB at most see short I/O on every larger operation.
fn p05_short_io_is_continued(kind: Kind) {
    let kind = match kind {
        Kind::Uring | Kind::InlineUring | Kind::CountingUring => Kind::SmallUring,
        Kind::Libaio => Kind::SmallLibaio,
        _ => Kind::SmallThreads,
    };
    reads_and_writes(kind, &[512, 4096, 4608, 8192, 12_345, 300_000, MIB + 512]);
    reads_end_at_the_end_of_the_file(kind);
    flush_zero_and_give_back(kind);
}

macro_rules! suite {
    ($($name:ident: $kind:expr;)*) => { $(
        mod $name {
            use super::*;
            suite!(@tests $kind;
                reads_and_writes_of_all_sizes, leased_memory_is_filled_and_given_back, many_at_once_against_a_model,
                reads_end_at_the_end_of_the_file, nothing_to_move_is_done_at_once, a_full_engine_gives_the_request_back,
                wake_fd_is_readable_while_something_has_ended, errors_are_told,
                direct_io_out_of_alignment_is_refused_not_bent, flush_zero_and_give_back,
                dropping_waits_for_what_is_under_way, dropping_what_was_never_flushed_does_nothing,
                engines_may_move_between_threads, p05_what_ends_short_io_is_found, p05_short_io_is_continued);
        }
    )* };
    (@tests $kind:expr; $($test:ident),*) => { $(
        #[test]
        fn $test() {
            super::$test($kind);
        }
    )* };
}

suite! {
    uring: Kind::Uring;
    libaio: Kind::Libaio;
    threads: Kind::Threads;
    inline_uring: Kind::InlineUring;
    inline_threads: Kind::InlineThreads;
    counting_uring: Kind::CountingUring;
    faulty_threads: Kind::FaultyThreads;
}
