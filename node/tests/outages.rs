//! Services and targets that die, or are told to end, while a host in this process reads and writes.
#![allow(clippy::unwrap_used, reason = "test code")]

mod common;
use common::*;
use nix::sys::signal::Signal;
use nvferry_engine::{Deadline, ErrorKind, FileBufferId, Request, SegmentId, TransferEngine};
use nvferry_nvmeof::{NvmeofOptions, PROTOCOL};
use nvferry_testing::Usage;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NAME: &str = "node-a:8081";
const FILE: FileBufferId = FileBufferId(1);
const FILE_BYTES: usize = 16 << 20;
const BLOCK: usize = 64 << 10;
/// Of one request: longer than any outage here.
const TIME: Duration = Duration::from_secs(20);

fn target(url: &str, dir: &Path, port: &str) -> Role {
    let file = dir.join("file");
    if !file.exists() {
        std::fs::File::create(&file).unwrap().set_len(FILE_BYTES as u64).unwrap();
    }
    target_of(url, port, &[&file])
}

/// A target with these files, in this order.
fn target_of(url: &str, port: &str, files: &[&Path]) -> Role {
    let mut args = vec!["target", "--metadata-server", url, "--server-name", NAME, "--trsvcid", port];
    files.iter().for_each(|file| args.extend(["--file", file.to_str().unwrap()]));
    Role::start(&mut nvferry(&args))
}

/// The port in its ready line.
fn port_of(target: &Role) -> String {
    target.word("127.0.0.1:").rsplit_once(':').unwrap().1.to_owned()
}

fn host(url: &str) -> TransferEngine {
    let builder = TransferEngine::builder().metadata(url).server_name("host").control_timeout(Duration::from_secs(3));
    let engine = builder.transport(nvferry_nvmeof::factory(NvmeofOptions::new())).build().unwrap();
    engine.install_transport(PROTOCOL, None).unwrap();
    engine
}

/// Whether it went well; otherwise what was said. It ends by its deadline in any case.
fn transfer(engine: &TransferEngine, request: &Request<'_>) -> Result<(), String> {
    let batch = engine.batch(1).unwrap().with_request_timeout(TIME);
    let before = Instant::now();
    let outcome = batch.submit(std::slice::from_ref(request)).map_err(|error| error.to_string());
    let outcome = outcome.and_then(|_| batch.wait(Deadline::after(2 * TIME)).map_err(|error| error.to_string()));
    assert!(before.elapsed() < TIME + TIME / 2, "it hung: {outcome:?}");
    outcome
}

/// Writes blocks of one part of the file and reads them again, until it is told to stop. All of it must go well, or be
/// `excused`.
fn work(engine: &TransferEngine, segment: SegmentId, part: u64, shared: &Shared<'_>) {
    let blocks = FILE_BYTES as u64 / 4 / BLOCK as u64;
    let is_well = |outcome: Result<(), String>| match outcome {
        Ok(()) => true,
        Err(why) => {
            assert!(shared.excuses.iter().any(|excuse| why.contains(excuse)), "{why}");
            shared.excused.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(5));
            false
        }
    };
    let mut round = 0_u64;
    while !shared.stop.load(Ordering::Relaxed) {
        round += 1;
        let offset = (part * blocks + round % blocks) * BLOCK as u64;
        let bytes: Vec<u8> = (0..BLOCK as u64).map(|i| (i / 8 * 7 + round * 31 + part) as u8).collect();
        let memory = engine.register_memory(bytes.clone()).unwrap();
        if !is_well(transfer(engine, &Request::write(&memory, 0..BLOCK, segment, FILE, offset))) {
            continue;
        }
        // What was acknowledged is there, whatever happened since.
        let mut memory = engine.register_memory(vec![0; BLOCK]).unwrap();
        while !is_well(transfer(engine, &Request::read(&memory, 0..BLOCK, segment, FILE, offset))) {
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
        }
        assert!(memory.bytes().unwrap() == bytes, "block {offset} of round {round}");
        shared.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// What those who work share with who watches them.
#[derive(Default)]
struct Shared<'a> {
    stop: AtomicBool,
    /// Rounds that went well.
    done: AtomicU64,
    /// Requests that ended for one of these reasons.
    excused: AtomicU64,
    excuses: &'a [&'a str],
}

/// When one that works or watches ends, also by a failure, all end.
struct StopAll<'a>(&'a AtomicBool);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Works with four threads while `meanwhile` does something, which is told how to wait until more has been done. Tells how
/// many requests were excused.
fn under_work(
    engine: &TransferEngine,
    segment: SegmentId,
    excuses: &[&str],
    meanwhile: impl FnOnce(&dyn Fn(u64)),
) -> u64 {
    let shared = Shared { excuses, ..Shared::default() };
    std::thread::scope(|scope| {
        let _stop = StopAll(&shared.stop);
        for part in 0..4 {
            let shared = &shared;
            scope.spawn(move || {
                let _stop = StopAll(&shared.stop);
                work(engine, segment, part, shared);
            });
        }
        let more = |rounds: u64| {
            let (from, patience) = (shared.done.load(Ordering::Relaxed), Instant::now() + PATIENCE);
            while shared.done.load(Ordering::Relaxed) < from + rounds {
                assert!(Instant::now() < patience, "nothing is moved any more");
                assert!(!shared.stop.load(Ordering::Relaxed), "something went wrong");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        more(20);
        meanwhile(&more);
        more(20);
    });
    shared.excused.into_inner()
}

#[test]
fn p08_a_metadata_service_that_is_killed_and_restarted_hinders_no_transfer() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let metadata =
        |listen: &str| Role::start(&mut nvferry(&["metadata", "--listen", listen, "--store", store.to_str().unwrap()]));
    let mut service = metadata("127.0.0.1:0");
    let url = service.word("http://");
    let listen = authority(&url).to_owned();
    let target = target(&url, dir.path(), "0");
    let engine = host(&url);
    let segment = engine.open_segment(NAME).unwrap();
    let failed = under_work(&engine, segment, &[], |more| {
        for _ in 0..3 {
            service.signal(Signal::SIGKILL);
            service.end();
            more(50);
            // What needs the service fails in time, and says why.
            let before = Instant::now();
            let error = engine.open_segment("another").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Metadata, "{error}");
            assert!(before.elapsed() < PATIENCE, "{error}");
            service = metadata(&listen);
            more(50);
            let again = host(&url);
            again.open_segment(NAME).expect("what was published is still there");
        }
    });
    assert_eq!(failed, 0);
    assert_eq!(target.stop(Signal::SIGTERM).0, 0);
    assert_eq!(http(&url, "GET", "?key=mooncake/ram/node-a:8081", "").0, 404, "and it was withdrawn");
}

/// A service that forgets everything is told again, as long as the target lives.
#[test]
fn p08_a_metadata_service_that_forgot_all_is_told_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = metadata();
    let url = service.word("http://");
    let listen = authority(&url).to_owned();
    let target = target(&url, dir.path(), "0");
    service.signal(Signal::SIGKILL);
    service.end();
    let _service = Role::start(&mut nvferry(&["metadata", "--listen", &listen, "--no-store"]));
    let patience = Instant::now() + PATIENCE;
    // At a third of its time to live, 30 s.
    while http(&url, "GET", "?key=mooncake/ram/node-a:8081", "").0 != 200 {
        assert!(Instant::now() < patience, "it was not published again");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(target);
}

#[test]
fn p01_a_target_whose_metadata_service_is_gone_ends_in_time_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let mut service = metadata();
    let url = service.word("http://");
    let target = target(&url, dir.path(), "0");
    service.signal(Signal::SIGKILL);
    service.end();
    let before = Instant::now();
    let (status, _, said) = target.stop(Signal::SIGTERM);
    assert_eq!(status, 1, "{said}");
    assert!(before.elapsed() < PATIENCE && said.contains("metadata service"), "{said}");
}

/// It withdraws its segment: what is under way ends well, and what comes later is told so, until it is back.
#[test]
fn p06_a_target_that_is_told_to_end_under_load_drains_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let service = metadata();
    let url = service.word("http://");
    let mut running = target(&url, dir.path(), "0");
    let port = port_of(&running);
    let engine = host(&url);
    let segment = engine.open_segment(NAME).unwrap();
    let excuses = ["has withdrawn this file", "has no such segment", "its description has no such file"];
    under_work(&engine, segment, &excuses, |more| {
        for _ in 0..3 {
            let before = Instant::now();
            running.signal(Signal::SIGTERM);
            let (status, _, said) = running.end();
            assert_eq!(status, 0, "{said}");
            // It gives what is under way ten seconds.
            assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
            running = target(&url, dir.path(), &port);
            more(50);
        }
    });
}

/// Its files have other ids then: who has the segment open means what it had opened.
#[test]
fn p08_a_target_that_starts_again_with_its_files_exchanged_gives_nobody_the_wrong_one() {
    let dir = tempfile::tempdir().unwrap();
    let service = metadata();
    let url = service.word("http://");
    let paths = ["one", "two", "three"].map(|name| dir.path().join(name));
    let contents = [1, 2, 3].map(|byte| vec![byte; 1 << 20]);
    paths.iter().zip(&contents).for_each(|(path, content)| std::fs::write(path, content).unwrap());
    let [one, two, three] = paths.each_ref().map(|path| path.as_path());
    let mut running = target_of(&url, "0", &[one, two, three]);
    let port = port_of(&running);
    let engine = host(&url);
    let segment = engine.open_segment(NAME).unwrap();
    let mut memory = engine.register_memory(vec![9; BLOCK]).unwrap();
    let read = |file| Request::read(&memory, 0..BLOCK, segment, FileBufferId(file), 0);
    (1..=3).for_each(|file| transfer(&engine, &read(file)).unwrap());

    running.signal(Signal::SIGKILL);
    running.end();
    // They are on their way while it starts again, and before anybody has heard what it describes now.
    let refused: Vec<_> = std::thread::scope(|scope| {
        let (engine, memory) = (&engine, &memory);
        let requests = [1, 2].map(FileBufferId).map(|file| {
            [Request::write(memory, 0..BLOCK, segment, file, 0), Request::read(memory, 0..512, segment, file, 100)]
        });
        let threads: Vec<_> =
            requests.into_iter().flatten().map(|request| scope.spawn(move || transfer(engine, &request))).collect();
        running = target_of(&url, &port, &[two, one, three]);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // And these after that.
    let later = [1, 2].map(|file| transfer(&engine, &Request::write(&memory, 0..512, segment, FileBufferId(file), 0)));
    for refused in refused.into_iter().chain(later) {
        let why = refused.unwrap_err();
        assert!(why.contains("another file") && why.contains("open it anew"), "{why}");
    }
    transfer(&engine, &read(3)).unwrap();
    for (path, content) in paths.iter().zip(&contents) {
        assert!(std::fs::read(path).unwrap() == *content, "{} was changed", path.display());
    }

    // Until the caller says that it wants what is there now.
    engine.sync_segment_cache(NAME).unwrap();
    for (file, content) in [(1, &contents[1]), (2, &contents[0]), (3, &contents[2])] {
        let request = Request::read(&memory, 0..BLOCK, segment, FileBufferId(file), 0);
        transfer(&engine, &request).unwrap();
        assert!(memory.bytes().unwrap() == &content[..BLOCK], "file {file}");
    }
    assert_eq!(running.stop(Signal::SIGTERM).0, 0);
}

/// Two processes: neither keeps anything of hosts that came and went.
#[test]
fn p02_a_thousand_hosts_leave_nothing_behind_in_either_process() {
    let dir = tempfile::tempdir().unwrap();
    let service = metadata();
    let url = service.word("http://");
    let target = target(&url, dir.path(), "0");
    let engine = host(&url);
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    let connections = |count: usize| {
        for _ in 0..count {
            let segment = engine.open_segment(NAME).unwrap();
            let read = transfer(&engine, &Request::read(&memory, 0..4096, segment, FILE, 0));
            assert_eq!(read, Ok(()));
            engine.close_segment(segment).unwrap();
        }
    };
    let usage = || (Usage::here(), Usage::of(target.child.id()));
    connections(100);
    let before = usage();
    connections(1000);
    let after = usage();
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        // The last connection may not have been noticed to have ended yet.
        assert!(after.descriptors <= before.descriptors + 4, "{before:?}, then {after:?}");
        assert!(after.threads <= before.threads, "{before:?}, then {after:?}");
        assert!(after.memory_bytes < before.memory_bytes + (1 << 20), "{before:?}, then {after:?}");
    }
}
