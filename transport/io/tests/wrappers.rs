//! What the wrappers around engines do beyond passing on: inline I/O, counting, choosing.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{PLACES, Place, bytes, finish, other, pattern, read, run, write};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nvferry_io::engine::{
    Counting, EngineChoice, EngineError, Fault, FaultControl, FaultRule, Faulty, InlineFirst, InlineStats, IoCounts,
    ThreadsConfig, ThreadsEngine, Trial, open,
};
use nvferry_io::{IoEngine, IoKind};
use std::os::fd::AsFd;

fn threads(capacity: usize) -> ThreadsEngine {
    ThreadsEngine::new(ThreadsConfig::with_capacity(capacity)).unwrap()
}

#[test]
fn files_in_memory_are_done_at_once_and_devices_are_not() {
    for place in PLACES {
        let Some(test) = place.file(&pattern(64 << 10, 1)) else { continue };
        let mut engine = InlineFirst::new(threads(8));
        engine.submit(read(1, &test.file, 4096, 8192)).expect("has room");
        let mut done = Vec::new();
        // Neither flushed nor waited for.
        engine.reap(&mut done);
        match place {
            Place::ShmDirect | Place::ShmBuffered | Place::Memory => {
                assert_eq!(done.len(), 1, "{place:?}");
                assert!(bytes(&done[0], 8192) == pattern(64 << 10, 1)[4096..12_288]);
                assert_eq!(engine.stats(), InlineStats { inline: 1, passed_on: 0 });
            }
            Place::DiskDirect => {
                assert!(done.is_empty());
                assert_eq!(finish(&mut engine, 1)[0].result.as_ref().unwrap(), &8192);
                assert_eq!(engine.stats(), InlineStats { inline: 0, passed_on: 1 });
            }
            // Whether the page cache has it is the kernel's business.
            Place::DiskBuffered => {
                if done.is_empty() {
                    finish(&mut engine, 1);
                }
            }
        }
    }
}

#[test]
fn what_the_page_cache_lacks_goes_to_the_inner_engine() {
    let content = pattern(8 << 20, 1);
    let Some(test) = Place::DiskBuffered.file(&content) else { return };
    let mut engine = InlineFirst::new(threads(8));
    run(&mut engine, other(0, &test.file, IoKind::SyncData, 0));
    posix_fadvise(test.file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    let before = engine.stats();
    for (token, offset) in (0..8).map(|n| (n, n * (1 << 20))) {
        let got = run(&mut engine, read(token, &test.file, offset, 1 << 20));
        assert_eq!(got.result.as_ref().unwrap(), &(1 << 20));
        assert!(bytes(&got, 1 << 20) == content[offset as usize..][..1 << 20]);
    }
    let after = engine.stats();
    assert_eq!(after.inline + after.passed_on - before.inline - before.passed_on, 8);
    println!("{} at once, {} passed on", after.inline - before.inline, after.passed_on - before.passed_on);
    // Now the cache has all of it, and the file system can tell or was found not to.
    let got = run(&mut engine, read(9, &test.file, 0, 1 << 20));
    assert!(bytes(&got, 1 << 20) == content[..1 << 20]);
}

#[test]
fn an_inline_engine_counts_what_has_ended_against_its_capacity() {
    let test = Place::Memory.file(&pattern(4096, 1)).unwrap();
    let mut engine = InlineFirst::new(threads(2));
    engine.submit(read(1, &test.file, 0, 512)).expect("has room");
    engine.submit(read(2, &test.file, 0, 512)).expect("has room");
    assert_eq!(engine.submit(read(3, &test.file, 0, 512)).expect_err("is full").token, 3);
    assert_eq!(engine.in_flight(), 2);
    assert_eq!(finish(&mut engine, 2).len(), 2);
    assert_eq!(engine.in_flight(), 0);
}

#[test]
fn everything_is_counted_once() {
    let test = Place::Memory.file(&pattern(64 << 10, 1)).unwrap();
    let control = FaultControl::new(0);
    let mut engine = Counting::new(Faulty::new(InlineFirst::new(threads(4)), control.clone()).unwrap());
    let counters = engine.counters();
    assert_eq!(counters.snapshot(), IoCounts::default());
    for token in 0..4 {
        engine.submit(read(token, &test.file, 4096 * token, 4096)).expect("has room");
    }
    assert!(engine.submit(read(4, &test.file, 0, 4096)).is_err());
    assert_eq!(counters.snapshot().in_flight, 4);
    finish(&mut engine, 4);
    run(&mut engine, write(5, &test.file, 0, &[1; 1000]));
    run(&mut engine, other(6, &test.file, IoKind::SyncData, 0));
    run(&mut engine, other(7, &test.file, IoKind::WriteZeroes { len: 100 }, 0));
    run(&mut engine, read(8, &test.file, 60 << 10, 8192));
    control.add_rule(FaultRule::once(Fault::Error(libc::EIO)));
    assert!(run(&mut engine, read(9, &test.file, 0, 512)).result.is_err());
    let expected = IoCounts {
        reads: 5,
        writes: 1,
        others: 2,
        errors: 1,
        read_bytes: 4 * 4096 + 4096,
        written_bytes: 1000,
        refused: 1,
        in_flight: 0,
        peak_in_flight: 4,
    };
    assert_eq!(counters.snapshot(), expected);
}

#[test]
fn engines_are_chosen_by_name_and_by_trying() {
    for (name, choice) in [
        ("auto", EngineChoice::Auto),
        ("io_uring", EngineChoice::IoUring),
        (" IO-uring ", EngineChoice::IoUring),
        ("libaio", EngineChoice::Libaio),
        ("threads", EngineChoice::Threads),
    ] {
        assert_eq!(name.parse::<EngineChoice>().unwrap(), choice);
        assert_eq!(choice.to_string().parse::<EngineChoice>().unwrap(), choice);
    }
    let error = "spdk".parse::<EngineChoice>().unwrap_err();
    assert!(matches!(&error, EngineError::UnknownName { name } if name == "spdk"));
    assert!(error.to_string().contains("auto, io_uring, libaio or threads"), "{error}");

    let (engine, report) = open(EngineChoice::Auto, 32).unwrap();
    println!("{report}");
    assert_ne!(report.chosen, EngineChoice::Auto);
    assert_eq!(engine.name(), report.chosen.to_string());
    let at = report.trials.iter().position(|(engine, _)| *engine == report.chosen).unwrap();
    assert_eq!(report.trials[at].1, Trial::Works);
    assert!(report.trials[..at].iter().all(|(_, trial)| matches!(trial, Trial::Failed(_))), "{report}");
    assert!(report.trials[at + 1..].iter().all(|(_, trial)| *trial == Trial::NotTried), "{report}");

    let (engine, report) = open(EngineChoice::Threads, 32).unwrap();
    assert_eq!((engine.name(), engine.capacity(), report.capacity), ("threads", 32, 32));
    assert!(report.to_string().contains("io_uring: not tried"), "{report}");
}

#[test]
fn an_opened_engine_works_whatever_was_chosen() {
    let test = Place::DiskBuffered.file(&pattern(64 << 10, 1)).unwrap();
    for choice in [EngineChoice::Auto, EngineChoice::IoUring, EngineChoice::Libaio, EngineChoice::Threads] {
        match open(choice, 4) {
            Ok((mut engine, report)) => {
                let got = run(&mut *engine, read(1, &test.file, 512, 12_345));
                assert!(bytes(&got, 12_345) == pattern(64 << 10, 1)[512..12_857], "{report}");
            }
            Err(error @ EngineError::Unavailable { .. }) if choice != EngineChoice::Auto => {
                println!("skipped: {error}")
            }
            Err(error) => panic!("{error}"),
        }
    }
}
