//! Connections that stall, break and lie; targets that cannot be reached; files that fail or stall.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Host, Node, Random, Transfer, install, make_file, pattern, soon, temp_dir};
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{EngineError, FileBufferId, SegmentDesc, TransferState, Transport};
use nvferry_io::engine::{EngineChoice, Fault, FaultControl, FaultRule, Faulty, open};
use nvferry_io::file::FileOptions;
use nvferry_io::{IoEngine, IoFile, RegisteredMemory};
use nvferry_nvmeof::{ConnectionState, NvmeofOptions, TargetTotals};
use nvferry_target::{NamespaceSpec, TargetDriver, TargetSpec, UserspaceOptions, UserspaceTarget};
use nvferry_testing::{Faults, Proxy};
use nvferry_wire::pdu::Digests;
use nvferry_wire::{Nqn, Nsid, TransportId};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const FILE: FileBufferId = FileBufferId(1);
const FILE_BYTES: usize = 4 << 20;
/// What Linux says when a device has lost what was on its medium.
const ENODATA: i32 = 61;

fn redirect(segment: &mut SegmentDesc, to: SocketAddr) {
    let trid = segment.extra["nvmeof_generic_trid"].as_object_mut().unwrap();
    trid.insert("trsvcid".into(), to.port().to_string().into());
}

fn address(segment: &SegmentDesc) -> SocketAddr {
    let port = segment.extra["nvmeof_generic_trid"]["trsvcid"].as_str().unwrap();
    format!("127.0.0.1:{port}").parse().unwrap()
}

/// A target with one file, and a proxy before it.
struct Between {
    node: Node,
    proxy: Proxy,
    segment: SegmentDesc,
    content: Vec<u8>,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

fn between() -> Between {
    let dir = temp_dir();
    let content = pattern(FILE_BYTES, 1);
    let path = make_file(dir.path(), "file", &content);
    let node = Node::serving("node", &[&path]);
    let mut segment = node.describe();
    let proxy = Proxy::to(address(&segment));
    redirect(&mut segment, proxy.address);
    Between { node, proxy, segment, content, path, _dir: dir }
}

fn attach_error(segment: &SegmentDesc, deadline: Instant) -> EngineError {
    let transport = install("host", NvmeofOptions::new(), None);
    match transport.attach(segment, deadline) {
        Ok(_) => panic!("it was attached"),
        Err(error) => error,
    }
}

#[test]
fn attaching_fails_with_address_and_reason() {
    let Between { segment, node, _dir, .. } = between();
    // Nobody listens.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut wrong = segment.clone();
    redirect(&mut wrong, port);
    let error = attach_error(&wrong, soon());
    assert!(error.to_string().contains(&port.to_string()) && error.to_string().contains("refused"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Socket);

    // Somebody listens, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    redirect(&mut wrong, silent.local_addr().unwrap());
    let deadline = Instant::now() + Duration::from_millis(300);
    let error = attach_error(&wrong, deadline);
    assert!(error.to_string().contains("did not answer in time"), "{error}");
    assert!(Instant::now() >= deadline);

    // Somebody who speaks something else.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    redirect(&mut wrong, other.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    let error = attach_error(&wrong, soon());
    assert!(error.to_string().contains("not an NVMe/TCP target"), "{error}");

    // The right target, the wrong subsystem.
    let mut wrong = node.describe();
    wrong.extra["nvmeof_generic_trid"]["subnqn"] = "nqn.2016-06.io.mc:nobody".into();
    let error = attach_error(&wrong, soon());
    assert!(error.to_string().contains("no subsystem of that name"), "{error}");
    assert_eq!(error.kind(), ErrorKind::RejectHandshake);
}

#[test]
fn p01_a_target_that_falls_silent_ends_no_request_late() {
    let Between { proxy, segment, node: _node, _dir, .. } = between();
    // So that nothing but their deadline ends them in time.
    let host = Host::attach(NvmeofOptions::new().keep_alive(Duration::from_secs(120)), &segment);
    host.read(FILE, 0, 4096).unwrap();
    proxy.freeze();
    let memory = RegisteredMemory::allocate(1 << 20);
    let deadline = Instant::now() + Duration::from_millis(400);
    let requests: Vec<_> = (0..64_u64)
        .map(|i| {
            let range = i as usize * 16_384..(i as usize + 1) * 16_384;
            let transfer =
                if i % 2 == 0 { Transfer::read(FILE, i * 16_384) } else { Transfer::write(FILE, i * 16_384 + 7) };
            host.start(&transfer.by(deadline), &memory, range)
        })
        .collect();
    for request in requests {
        assert_eq!(host.ends.wait(request).unwrap_err().state, TransferState::Timeout);
    }
    let late = Instant::now().checked_duration_since(deadline).unwrap();
    assert!(late < Duration::from_secs(30), "{late:?} late");
    assert!(!memory.is_leased(), "the memory is free");
}

#[test]
fn p08_a_dead_connection_is_noticed_by_keep_alive_and_replaced() {
    let Between { proxy, segment, content, node: _node, _dir, .. } = between();
    let host = Host::attach(NvmeofOptions::new().keep_alive(Duration::from_millis(500)), &segment);
    host.read(FILE, 0, 4096).unwrap();
    proxy.freeze();
    let memory = RegisteredMemory::allocate(65_536);
    let request = host.start(&Transfer::read(FILE, 0), &memory, 0..65_536);
    let before = proxy.accepted();
    // Nothing passes until the host has given the connection up and tries another.
    let patience = soon();
    while proxy.accepted() == before {
        assert!(Instant::now() < patience, "the host has not noticed");
        std::thread::yield_now();
    }
    proxy.cut();
    proxy.thaw();
    host.ends.wait(request).unwrap();
    assert!(memory.lease(0..65_536).unwrap().to_vec() == content[..65_536]);
    assert!(host.transport.status().attachments[0].totals.reconnects >= 1);
}

#[test]
fn p08_connections_that_break_all_the_time_lose_nothing() {
    let Between { proxy, segment, mut content, path, node: _node, _dir, .. } = between();
    let host = Host::attach(NvmeofOptions::new().workers(2), &segment);
    let mut random = Random::new();
    let bytes = pattern(FILE_BYTES, random.next());
    let memory = RegisteredMemory::from(bytes.clone());
    for round in 0..10 {
        let mut cuts: Vec<_> = (0..41).map(|_| random.below(FILE_BYTES as u64) as usize).collect();
        cuts.sort_unstable();
        // Neighbours share blocks, and none overlaps another.
        let requests: Vec<_> = (0..40)
            .map(|i| {
                let (at, end) = (cuts[i], cuts[i + 1]);
                let len = end - at;
                (host.start(&Transfer::write(FILE, at as u64), &memory, at..at + len), at..at + len)
            })
            .collect();
        proxy.cut();
        for (request, range) in requests {
            host.ends.wait(request).unwrap();
            content[range.clone()].copy_from_slice(&bytes[range]);
        }
        assert!(std::fs::read(&path).unwrap() == content, "round {round}");
    }
    let status = host.transport.status();
    let counters = status.totals().counters;
    assert!(counters.retries > 0 && status.attachments[0].totals.reconnects > 0, "{status:?}");
    assert_eq!(counters.failures + counters.timeouts, 0);
}

#[test]
fn p15_damage_on_the_wire_is_never_taken_for_data() {
    let Between { proxy, segment, content, node: _node, _dir, .. } = between();
    let host = Host::attach(NvmeofOptions::new().digests(Digests::BOTH), &segment);
    host.read(FILE, 0, 4096).unwrap();
    proxy.to_host(Faults { flip_every_bytes: 200_000, ..Faults::default() });
    let mut random = Random::new();
    let mut whole = 0;
    for _ in 0..150 {
        let len = 1 + random.below(80_000) as usize;
        let at = random.below((FILE_BYTES - len) as u64) as usize;
        if let Ok(bytes) = host.read(FILE, at as u64, len) {
            assert!(bytes == content[at..at + len], "{len} bytes at {at}");
            whole += 1;
        }
    }
    let counters = host.transport.status().totals().counters;
    assert!(counters.digest_errors > 0, "{counters:?}");
    assert!(whole > 100, "most reads succeed at the second try: {whole}");
}

/// A target whose storage does what the test says, and its description.
fn faulty_target(files: &[&Path]) -> (Arc<UserspaceTarget>, FaultControl, SegmentDesc) {
    let control = FaultControl::new(1);
    let faults = control.clone();
    let mut options = UserspaceOptions::default();
    options.engine = Some(Arc::new(move |_| {
        let (engine, _) = open(EngineChoice::Auto, 256).map_err(std::io::Error::other)?;
        Ok(Box::new(Faulty::new(engine, faults.clone())?) as Box<dyn IoEngine>)
    }));
    let subsystem = Nqn::new("nqn.2016-06.io.mc:faulty").unwrap();
    let listen: TransportId = "traddr=127.0.0.1 trsvcid=0".parse().unwrap();
    let target = UserspaceTarget::start(TargetSpec::new(listen, subsystem), options).unwrap();
    let mut segment = SegmentDesc::new("faulty", "nvmeof_generic");
    for (i, path) in files.iter().enumerate() {
        let size = std::fs::metadata(path).unwrap().len();
        target.add_namespace(NamespaceSpec::new(Nsid(i as u32 + 1), *path, size)).unwrap();
    }
    let fields = target.address().fields().into_iter();
    let trid: serde_json::Map<_, _> = fields.map(|(key, value)| (key.to_owned(), value.into())).collect();
    segment.extra.insert("nvmeof_generic_trid".into(), trid.into());
    (target, control, segment)
}

fn rule_for(path: &Path, fault: Fault) -> FaultRule {
    let identity = IoFile::open(path, FileOptions::default()).unwrap().identity();
    FaultRule { file: Some(identity), ..FaultRule::always(fault) }
}

#[test]
fn p07_a_stalled_file_slows_no_other() {
    let dir = temp_dir();
    let contents: Vec<_> = (0..8).map(|i| pattern(1 << 20, i)).collect();
    let paths: Vec<_> = contents.iter().enumerate().map(|(i, c)| make_file(dir.path(), &format!("{i}"), c)).collect();
    let (_target, control, segment) = faulty_target(&paths.iter().map(|p| p.as_path()).collect::<Vec<_>>());
    let host = Host::attach(NvmeofOptions::new().workers(1), &segment);
    control.add_rule(rule_for(&paths[0], Fault::Stall));
    let memory = RegisteredMemory::allocate(1 << 20);
    let stalled: Vec<_> = (0..400)
        .map(|i| {
            let op = if i % 3 == 0 { Transfer::write(FILE, 100) } else { Transfer::read(FILE, 0) };
            host.start(&op, &memory, 0..4096)
        })
        .collect();
    for round in 0..50 {
        for (file, content) in (2..).zip(&contents[1..]) {
            let bytes = host.read(FileBufferId(file), round * 4096, 8192).unwrap();
            assert!(bytes == content[round as usize * 4096..][..8192]);
        }
    }
    assert!(stalled.iter().all(|&request| !host.ends.has_ended(request)), "the first file still stalls");
    control.clear();
    control.release_stalled();
    stalled.into_iter().for_each(|request| host.ends.wait(request).unwrap());
}

/// How often each of these files is read in a while, by one reader each.
fn reads_of(host: &Host, files: std::ops::RangeInclusive<u32>, content: &[u8], time: Duration) -> Vec<u64> {
    let until = Instant::now() + time;
    std::thread::scope(|scope| {
        let readers: Vec<_> = files
            .map(|file| {
                scope.spawn(move || {
                    let mut reads = 0;
                    while Instant::now() < until {
                        assert!(host.read(FileBufferId(file), reads % 64 * 4096, 4096).unwrap() == content[..4096]);
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    })
}

/// For two seconds; with `NVFERRY_LONG_TESTS` for a minute.
#[test]
fn p07_one_file_of_eight_stalls_and_the_seven_keep_their_speed() {
    let is_long = std::env::var_os("NVFERRY_LONG_TESTS").is_some();
    let time = Duration::from_secs(if is_long { 60 } else { 2 });
    let dir = temp_dir();
    let content = vec![5; 1 << 20];
    let paths: Vec<_> = (0..8).map(|i| make_file(dir.path(), &format!("{i}"), &content)).collect();
    let (_target, control, segment) = faulty_target(&paths.iter().map(|path| path.as_path()).collect::<Vec<_>>());
    let host = Host::attach(NvmeofOptions::new().workers(2), &segment);
    let memory = RegisteredMemory::allocate(1 << 20);
    // On a busy machine everything else may take long, too.
    let deadline = Instant::now() + time * 4 + common::PATIENCE;
    let before = reads_of(&host, 2..=8, &content, time);

    control.add_rule(rule_for(&paths[0], Fault::Stall));
    // Far more than all queues and the storage's engine hold, of all sizes, and of all that stalls.
    let stalled: Vec<_> = (0..2000_usize)
        .map(|i| {
            let len = [512, 4096, 65_536, 1 << 20][i % 4];
            let transfer = if i % 3 == 0 { Transfer::write(FILE, 7) } else { Transfer::read(FILE, 0) };
            host.start(&transfer.by(deadline), &memory, 0..len - 7)
        })
        .collect();
    let after = reads_of(&host, 2..=8, &content, time);
    assert!(stalled.iter().all(|&request| !host.ends.has_ended(request)), "the first file still stalls");
    control.clear();
    let releasing = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What stands behind the stalled stalls no more, but what was about to may need one release more.
            while releasing.load(Ordering::Relaxed) {
                control.release_stalled();
                std::thread::yield_now();
            }
        });
        let ends: Vec<_> = stalled.iter().map(|&request| host.ends.wait(request)).collect();
        releasing.store(false, Ordering::Relaxed);
        ends.into_iter().for_each(Result::unwrap);
    });
    let again = reads_of(&host, 2..=8, &content, time);
    for (file, ((before, after), again)) in before.iter().zip(&after).zip(&again).enumerate() {
        // They were as many readers on as many processors: half would be a lot to lose, and a quarter is no accident, unless the
        // machine has become busy with something else.
        assert!(
            after * 4 > *before.min(again),
            "file {}: {before} reads before, {after} while another stalls, {again} when none does any more",
            file + 2
        );
    }
}

#[test]
fn p05_an_error_of_the_storage_reaches_its_request_and_only_it() {
    let dir = temp_dir();
    let content = pattern(1 << 20, 5);
    let path = make_file(dir.path(), "file", &content);
    let (_target, control, segment) = faulty_target(&[&path]);
    let host = Host::attach(NvmeofOptions::new(), &segment);
    let bad = FaultRule { bytes: Some(8192..12_288), ..rule_for(&path, Fault::Error(5)) };
    control.add_rule(bad);
    let failure = host.read(FILE, 8192, 4096).unwrap_err();
    assert_eq!(failure.state, TransferState::Failed);
    let status = failure.device_status.expect("the NVMe status is told");
    assert_eq!(status >> 8, 2, "media and data integrity: {failure:?}");
    assert_eq!(host.read(FILE, 12_288, 65_536).unwrap(), content[12_288..12_288 + 65_536]);
    // Where the medium has lost it, nobody asks twice.
    control.clear();
    let before = control.injected();
    control.add_rule(FaultRule { bytes: Some(8192..12_288), ..rule_for(&path, Fault::Error(ENODATA)) });
    let failure = host.read(FILE, 8192, 4096).unwrap_err();
    assert!(failure.message.contains("do not retry"), "{failure:?}");
    assert_eq!(control.injected() - before, 1);
    // An error that ends is got over.
    control.clear();
    control.add_rule(FaultRule { times: 2, ..rule_for(&path, Fault::Error(5)) });
    assert_eq!(host.read(FILE, 8192, 4096).unwrap(), content[8192..12_288]);
}

#[test]
fn p05_short_io_is_continued() {
    let dir = temp_dir();
    let content = pattern(1 << 20, 6);
    let path = make_file(dir.path(), "file", &content);
    let node = Node::serving("node", &[&path]);
    let options = NvmeofOptions::new().host_driver(nvferry_nvmeof::HostDriver::Local);
    let host = Host::attach(options, &node.describe());
    assert_eq!(host.read(FILE, 3, 300_000).unwrap(), content[3..300_003]);
    // A file that was made smaller is told of, not padded.
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100_000).unwrap();
    let failure = host.read(FILE, 90_000, 20_000).unwrap_err();
    assert!(failure.message.contains("the file ended after 10000 bytes"), "{failure:?}");
}

#[test]
fn a_segment_that_moved_is_followed() {
    let Between { proxy, segment, content, node: _node, _dir, .. } = between();
    let host = Host::attach(NvmeofOptions::new(), &segment);
    host.read(FILE, 0, 4096).unwrap();
    // The same target, by another way.
    let other = Proxy::to(address(&_node.describe()));
    let mut moved = segment;
    redirect(&mut moved, other.address);
    host.segment.update(&moved, soon()).unwrap();
    drop(proxy);
    assert_eq!(host.read(FILE, 0, 65_536).unwrap(), content[..65_536]);
    assert!(other.accepted() >= 2, "an admin queue and an I/O queue");
}

#[test]
fn uninstalling_ends_what_is_under_way_by_its_deadline() {
    let Between { proxy, segment, node: _node, _dir, .. } = between();
    let host = Host::attach(NvmeofOptions::new(), &segment);
    host.read(FILE, 0, 4096).unwrap();
    proxy.freeze();
    let memory = RegisteredMemory::allocate(65_536);
    let request = host.start(&Transfer::read(FILE, 0), &memory, 0..65_536);
    host.transport.uninstall(Instant::now() + Duration::from_millis(200));
    let failure = host.ends.wait(request).unwrap_err();
    assert_eq!(failure.state, TransferState::Canceled, "{failure:?}");
    assert!(!memory.is_leased());
    // What comes later is refused.
    let late = host.start(&Transfer::read(FILE, 0), &memory, 0..4096);
    assert_eq!(host.ends.wait(late).unwrap_err().state, TransferState::Canceled);
}

#[test]
fn closing_lets_what_is_under_way_end() {
    let dir = temp_dir();
    let content = pattern(1 << 20, 7);
    let path = make_file(dir.path(), "file", &content);
    let (_target, control, segment) = faulty_target(&[&path]);
    let host = Host::attach(NvmeofOptions::new(), &segment);
    control.add_rule(FaultRule { times: 4, ..rule_for(&path, Fault::Stall) });
    let memory = RegisteredMemory::allocate(65_536);
    let requests: Vec<_> = (0..4).map(|_| host.start(&Transfer::read(FILE, 0), &memory, 0..65_536)).collect();
    let is_closed = Arc::new(AtomicBool::new(false));
    let closed = Arc::clone(&is_closed);
    let releasing = std::thread::spawn({
        let control = control.clone();
        move || {
            while control.injected() < 4 {
                std::thread::yield_now();
            }
            // What counts as injected may be about to stall: more than one release may be needed.
            while !closed.load(Ordering::Relaxed) {
                control.release_stalled();
                std::thread::yield_now();
            }
        }
    });
    host.segment.close(soon());
    is_closed.store(true, Ordering::Relaxed);
    releasing.join().unwrap();
    requests.into_iter().for_each(|request| host.ends.wait(request).unwrap());
    assert!(memory.lease(0..65_536).unwrap().to_vec() == content[..65_536]);
}

#[test]
fn status_says_what_is_going_on() {
    let Between { proxy, segment, node: _node, _dir, .. } = between();
    let host = Host::attach(NvmeofOptions::new().workers(2), &segment);
    host.write(FILE, 0, &[1; 65_536]).unwrap();
    host.read(FILE, 0, 4096).unwrap();
    host.write(FILE, 100, &[2; 10]).unwrap();
    // Workers say what they did just after those who waited for it are woken.
    let patience = soon();
    while host.transport.status().totals().counters.writes < 2 {
        assert!(Instant::now() < patience, "{:?}", host.transport.status());
        std::thread::yield_now();
    }
    let status = host.transport.status();
    assert_eq!((status.workers, status.attachments.len()), (2, 1));
    let attachment = &status.attachments[0];
    assert_eq!((&attachment.state, attachment.files, attachment.queues), (&ConnectionState::Connected, 1, 2));
    assert!(attachment.target.contains(&proxy.address.to_string()), "{}", attachment.target);
    let TargetTotals { counters, operations, slices, .. } = status.totals();
    assert_eq!((counters.reads, counters.writes, counters.read_bytes), (1, 2, 4096));
    assert_eq!((counters.written_bytes, counters.bounced_bytes), (65_546, 10));
    // A block that is changed in part is no slice.
    assert_eq!(operations.map(|latencies| latencies.count()), [1, 1]);
    assert_eq!(slices.map(|latencies| latencies.count()), [0, 0], "nobody told when they were submitted");
    assert_eq!((attachment.in_flight, attachment.waiting), (0, 0));
}
