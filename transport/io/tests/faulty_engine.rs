//! Faults on purpose: each kind, where it is told to be, by rule and by chance, and what a crash loses.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use common::{Place, Random, TestFile, bytes, finish, other, pattern, read, run, write};
use nvferry_io::engine::{
    Fault, FaultControl, FaultOn, FaultRates, FaultRule, Faulty, InlineFirst, ThreadsConfig, ThreadsEngine,
};
use nvferry_io::{IoBuf, IoCompletion, IoEngine, IoKind, IoRequest, RegisteredMemory};
use std::sync::Arc;
use std::time::Duration;

type Engine = Faulty<InlineFirst<ThreadsEngine>>;

const SIZE: usize = 64 << 10;

/// An engine on a file in memory: everything happens on this thread, in the order told.
fn faulty(seed: u64) -> (FaultControl, Engine, TestFile) {
    let control = FaultControl::new(seed);
    let inner = InlineFirst::new(ThreadsEngine::new(ThreadsConfig::with_capacity(64)).unwrap());
    let engine = Faulty::new(inner, control.clone()).unwrap();
    (control, engine, Place::Memory.file(&pattern(SIZE, 1)).unwrap())
}

fn errno(done: &IoCompletion) -> Option<i32> {
    done.result.as_ref().err().and_then(std::io::Error::raw_os_error)
}

fn reaped(engine: &mut Engine) -> Vec<u64> {
    let mut done = Vec::new();
    engine.flush().unwrap();
    engine.reap(&mut done);
    done.into_iter().map(|done| done.token).collect()
}

#[test]
fn an_error_strikes_what_its_rule_says_and_touches_nothing() {
    let (control, mut engine, test) = faulty(0);
    let (_, _, elsewhere) = faulty(0);
    control.add_rule(FaultRule {
        on: FaultOn::Write,
        file: Some(test.file.identity()),
        bytes: Some(8192..12_288),
        skip: 1,
        times: 2,
        ..FaultRule::always(Fault::Error(libc::EIO))
    });
    let mut outcome = |request| errno(&run(&mut engine, request));
    assert_eq!(outcome(write(1, &test.file, 8192, &[1; 512])), None, "the first is left alone");
    assert_eq!(outcome(write(1, &test.file, 4096, &[1; 4096])), None, "ends before the range");
    assert_eq!(outcome(write(1, &test.file, 12_288, &[1; 4096])), None, "begins after the range");
    assert_eq!(outcome(read(1, &test.file, 8192, 512)), None, "no write");
    assert_eq!(outcome(write(1, &elsewhere.file, 8192, &[1; 512])), None, "another file");
    let before = test.content();
    assert_eq!(outcome(write(1, &test.file, 8000, &[2; 512])), Some(libc::EIO));
    assert_eq!(outcome(write(1, &test.file, 12_287, &[2; 512])), Some(libc::EIO));
    assert!(test.content() == before, "a failed write touched the file");
    assert_eq!(outcome(write(1, &test.file, 8192, &[2; 512])), None, "it struck twice");
    assert_eq!(control.injected(), 2);
    control.add_rule(FaultRule::always(Fault::Error(libc::ENXIO)));
    assert_eq!(errno(&run(&mut engine, other(1, &test.file, IoKind::SyncData, 0))), Some(libc::ENXIO));
    control.clear();
    assert_eq!(errno(&run(&mut engine, other(1, &test.file, IoKind::SyncData, 0))), None);
}

#[test]
fn short_reads_look_like_the_end_of_the_file_and_short_writes_like_a_full_disk() {
    let (control, mut engine, test) = faulty(0);
    let content = test.content();
    control.add_rule(FaultRule { times: 3, ..FaultRule::always(Fault::Short(1000)) });
    let done = run(&mut engine, read(1, &test.file, 4096, 8192));
    assert_eq!(done.result.as_ref().unwrap(), &1000);
    assert!(matches!(done.buf, IoBuf::Pool(_, 8192)), "the whole buffer comes back");
    assert!(bytes(&done, 1000) == content[4096..5096]);

    let memory = RegisteredMemory::allocate(4096);
    let buf = IoBuf::Leased(memory.lease(0..4096).unwrap());
    let request = IoRequest { token: 1, file: Arc::clone(&test.file), kind: IoKind::Read, offset: 0, buf };
    let done = run(&mut engine, request);
    assert_eq!((done.result.as_ref().unwrap(), done.buf.len()), (&1000, 4096));
    drop(done);
    assert!(!memory.is_leased());

    let done = run(&mut engine, write(1, &test.file, 0, &[9; 4096]));
    assert_eq!(errno(&done), Some(libc::ENOSPC));
    assert_eq!(done.buf.len(), 4096);
    let now = test.content();
    assert!(now[..1000] == [9; 1000] && now[1000..] == content[1000..]);
}

#[test]
fn what_stalls_begins_when_released_and_wakes_the_sleeper() {
    let (control, mut engine, test) = faulty(0);
    control.add_rule(FaultRule { times: 2, ..FaultRule::always(Fault::Stall) });
    for token in 1..=3 {
        engine.submit(write(token, &test.file, 512 * token, &[token as u8; 512])).expect("has room");
    }
    let before = test.content()[512..1536].to_vec();
    assert_eq!(reaped(&mut engine), [3]);
    assert_eq!((engine.stalled(), engine.in_flight()), (2, 2));
    engine.wait(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(reaped(&mut engine), []);
    assert!(test.content()[512..1536] == before, "a stalled write has begun");
    std::thread::scope(|scope| {
        scope.spawn(|| control.release_stalled());
        assert_eq!(finish(&mut engine, 2).len(), 2);
    });
    assert_eq!(test.content()[512..1536], [[1; 512], [2; 512]].concat());
    assert_eq!(engine.stalled(), 0);
}

#[test]
fn dropping_an_engine_forgets_what_stalls() {
    let (control, mut engine, test) = faulty(0);
    control.add_rule(FaultRule::always(Fault::Stall));
    let memory = RegisteredMemory::allocate(512);
    let buf = IoBuf::Leased(memory.lease(0..512).unwrap());
    let request = IoRequest { token: 1, file: Arc::clone(&test.file), kind: IoKind::Write, offset: 0, buf };
    engine.submit(request).expect("has room");
    engine.flush().unwrap();
    drop(engine);
    control.release_stalled();
    assert!(!memory.is_leased());
    assert!(test.content() == pattern(SIZE, 1));
}

#[test]
fn ends_come_late_by_count_by_time_and_when_alone() {
    let (control, mut engine, test) = faulty(0);
    control.add_rule(FaultRule::once(Fault::DelayTime(Duration::from_secs(5))));
    control.add_rule(FaultRule::once(Fault::DelayEnds(2)));
    control.add_rule(FaultRule { skip: 1, ..FaultRule::once(Fault::DelayEnds(100)) });
    let submit = |engine: &mut Engine, token| {
        engine.submit(read(token, &test.file, 0, 512)).expect("has room");
        reaped(engine)
    };
    assert_eq!(submit(&mut engine, 1), [], "waits for five seconds");
    assert_eq!(submit(&mut engine, 2), [], "waits for two others");
    assert_eq!(submit(&mut engine, 3), [3]);
    assert_eq!(submit(&mut engine, 4), [], "waits for a hundred others");
    assert_eq!(submit(&mut engine, 5), [5, 2]);
    control.advance_to(Duration::from_millis(4999));
    assert_eq!(reaped(&mut engine), []);
    control.advance_to(Duration::from_secs(5));
    assert_eq!(reaped(&mut engine), [1, 4], "the last comes when nothing else is under way");
    assert_eq!(engine.in_flight(), 0);
}

#[test]
fn time_that_is_moved_on_elsewhere_wakes_the_sleeper() {
    let (control, mut engine, test) = faulty(0);
    control.add_rule(FaultRule::once(Fault::DelayTime(Duration::from_secs(1))));
    engine.submit(read(1, &test.file, 0, 512)).expect("has room");
    std::thread::scope(|scope| {
        scope.spawn(|| control.advance_to(Duration::from_secs(1)));
        assert_eq!(finish(&mut engine, 1)[0].token, 1);
    });
}

/// What happens, in order, to a fixed sequence of operations.
fn history(seed: u64, rates: FaultRates) -> Vec<(u64, Result<usize, Option<i32>>)> {
    let (control, mut engine, test) = faulty(seed);
    control.set_rates(rates);
    let mut random = Random(7);
    let mut done = Vec::new();
    for token in 0..2000 {
        let offset = random.below(64) * 512;
        let request = match random.below(3) {
            0 => write(token, &test.file, offset, &[token as u8; 4096]),
            1 => read(token, &test.file, offset, 4096),
            _ => other(token, &test.file, IoKind::SyncData, 0),
        };
        if engine.in_flight() == engine.capacity() {
            control.release_stalled();
            engine.reap(&mut done);
        }
        engine.submit(request).expect("has room");
        engine.reap(&mut done);
    }
    while engine.in_flight() > 0 {
        control.release_stalled();
        engine.reap(&mut done);
    }
    done.into_iter().map(|done| (done.token, done.result.map_err(|error| error.raw_os_error()))).collect()
}

#[test]
fn chance_follows_the_seed_and_ends_everything_once() {
    let rates =
        FaultRates { error_ppm: 50_000, short_ppm: 50_000, stall_ppm: 20_000, delay_ppm: 100_000, max_delay_ends: 9 };
    let first = history(1, rates);
    assert_eq!(first, history(1, rates), "the same seed must give the same history");
    assert_ne!(first, history(2, rates));
    for seed in 1..=5 {
        let history = history(seed, rates);
        let mut tokens: Vec<u64> = history.iter().map(|&(token, _)| token).collect();
        assert_ne!(tokens, (0..2000).collect::<Vec<_>>(), "seed {seed}: delays change the order");
        tokens.sort_unstable();
        assert_eq!(tokens, (0..2000).collect::<Vec<_>>(), "seed {seed}: each ends once");
        let errors = history.iter().filter(|(_, result)| *result == Err(Some(libc::EIO))).count();
        // 5 % of 2000; a generator that is far off shows.
        assert!((50..200).contains(&errors), "seed {seed}: {errors} errors");
    }
    let none = history(1, FaultRates::default());
    assert!(none.iter().map(|&(token, _)| token).eq(0..2000) && none.iter().all(|(_, result)| result.is_ok()));
}

#[test]
fn a_crash_loses_only_what_no_flush_covered() {
    let (mut lost_some, mut kept_some) = (false, false);
    for seed in 0..50 {
        let (control, mut engine, test) = faulty(seed);
        control.track_unflushed();
        let mut durable = test.content();
        run(&mut engine, write(1, &test.file, 0, &[1; 4096]));
        run(&mut engine, other(1, &test.file, IoKind::WriteZeroes { len: 4096 }, 4096));
        run(&mut engine, other(2, &test.file, IoKind::SyncData, 0));
        durable[..4096].fill(1);
        durable[4096..8192].fill(0);
        assert!(test.content() == durable);
        // Three writes after the flush, two of which overlap.
        let late = [(8192, 2048, 2_u8), (9216, 4096, 3), (60_000, 1000, 4)];
        for (offset, len, value) in late {
            run(&mut engine, write(3, &test.file, offset, &vec![value; len]));
        }
        // A flush that fails covers nothing.
        control.add_rule(FaultRule::once(Fault::Error(libc::EIO)));
        assert!(run(&mut engine, other(4, &test.file, IoKind::SyncData, 0)).result.is_err());
        let lost = control.crash().unwrap();
        let after = test.content();
        for (at, (&now, &was)) in after.iter().zip(&durable).enumerate() {
            let may: Vec<u8> =
                late.iter().filter(|(o, len, _)| (*o as usize..*o as usize + len).contains(&at)).map(|w| w.2).collect();
            assert!(now == was || may.contains(&now), "seed {seed}: byte {at} is {now}, was {was}");
        }
        lost_some |= lost > 0;
        kept_some |= after != durable;
        if lost == 0 {
            assert_eq!(after[9216..13_312], [3; 4096], "seed {seed}: nothing was lost, so the later write is there");
        }
        assert_eq!(control.crash().unwrap(), 0, "a second crash has nothing to lose");
        assert!(test.content() == after);
    }
    assert!(lost_some && kept_some, "fifty seeds must do both");
}

#[test]
fn a_flush_covers_only_writes_that_had_ended() {
    let (control, mut engine, test) = faulty(3);
    control.track_unflushed();
    control.add_rule(FaultRule { on: FaultOn::Write, ..FaultRule::once(Fault::Stall) });
    engine.submit(write(1, &test.file, 0, &[7; 4096])).expect("has room");
    engine.submit(other(2, &test.file, IoKind::SyncData, 0)).expect("has room");
    assert_eq!(finish(&mut engine, 1)[0].token, 2);
    control.release_stalled();
    assert_eq!(finish(&mut engine, 1)[0].token, 1);
    // Whether it is really lost is chance; that it may be is not.
    assert_eq!(control.unflushed(), 1, "the flush did not cover the write that ended after it began");
    run(&mut engine, other(3, &test.file, IoKind::SyncData, 0));
    assert_eq!(control.unflushed(), 0);
}
