//! The design's promises, as far as the engine itself keeps them.

mod common;

use common::{Factory, Fate, NAME, Script, builder, engine, eventually, millis, secs};
use nvferry_engine::metadata::memory::MemoryStore;
use nvferry_engine::null::NullTransportFactory;
use nvferry_engine::{
    Deadline, ErrorKind, Failure, FileBufferId, FileLimits, MetadataStore, Request, SegmentDesc, TransferEngine,
    TransferState, WaitError,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const FILE: FileBufferId = FileBufferId(1);

#[test]
fn p01_a_transport_that_drops_or_forgets_slices_fails_their_requests() {
    for fate in [|| Fate::Drop, || Fate::LeaveInList] {
        let script = Script::new();
        let engine = engine(&script);
        engine.register_local_file("/a", 1 << 20).unwrap();
        let segment = engine.open_segment(NAME).unwrap();
        let memory = engine.register_memory(vec![0; 8192]).unwrap();
        script.decide(move |slice| if slice.offset == 0 { fate() } else { Fate::Complete });
        let batch = engine.batch(2).unwrap();
        let requests = [0, 4096].map(|at| Request::read(&memory, at..at + 4096, segment, FILE, at as u64));
        batch.submit(&requests).unwrap();
        let error = batch.wait(secs(10)).unwrap_err();
        assert!(matches!(error, WaitError::Failed { failed: 1, submitted: 2, .. }), "{error}");
        let lost = batch.status(0).unwrap();
        assert_eq!((lost.state, lost.bytes), (TransferState::Failed, 0));
        assert_eq!(batch.status(1).unwrap().state, TransferState::Completed);
    }
}

#[test]
fn p01_a_transport_that_never_answers_ends_as_timeout_and_keeps_the_memory_leased() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let mut memory = engine.register_memory(vec![7; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let mut batch = engine.batch(1).unwrap().with_request_timeout(Duration::from_millis(20));
    batch.submit(&[Request::read(&memory, 0..4096, segment, FILE, 0)]).unwrap();
    assert_eq!(batch.status(0).unwrap().state, TransferState::Pending);
    let error = batch.wait(secs(10)).unwrap_err();
    assert!(matches!(&error, WaitError::Failed { first, .. } if first.state() == TransferState::Timeout), "{error}");
    assert_eq!(batch.status(0).unwrap().state, TransferState::Timeout);
    assert_eq!(memory.bytes().unwrap_err().kind(), ErrorKind::BatchBusy);

    // The batch can be used again, and the late end of the old request does not touch the new one.
    batch.reset().unwrap();
    let old = script.take_held();
    batch.submit(&[Request::read(&memory, 0..4096, segment, FILE, 0)]).unwrap();
    old.into_iter().for_each(|slice| slice.fail(Failure::failed("late")));
    assert_eq!(batch.status(0).unwrap().state, TransferState::Pending);
    script.let_go();
    batch.wait(secs(10)).unwrap();
    assert_eq!(memory.bytes().unwrap(), [0; 4096]);
    assert_eq!(engine.under_way().slices, 0);
}

#[test]
fn p01_polling_alone_finds_the_deadline_too() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(1).unwrap().with_request_timeout(Duration::from_millis(1));
    batch.submit(&[Request::write(&memory, 0..4096, segment, FILE, 0)]).unwrap();
    eventually("a timeout", || batch.status(0).unwrap().state == TransferState::Timeout);
    assert!(batch.is_done());
}

#[test]
fn p01_a_wait_ends_at_its_own_deadline_and_the_requests_go_on() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..4096, segment, FILE, 0)]).unwrap();
    let error = batch.wait(millis(5)).unwrap_err();
    assert!(matches!(error, WaitError::UnderWay { pending: 1, submitted: 1 }), "{error}");
    script.let_go();
    batch.wait(secs(10)).unwrap();
}

#[test]
fn p01_a_batch_can_be_dropped_with_requests_under_way() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let mut memory = engine.register_memory(vec![9; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..4096, segment, FILE, 0)]).unwrap();
    drop(batch);
    assert!(memory.is_leased());
    assert_eq!(engine.under_way().slices, 1);
    script.let_go();
    assert_eq!(memory.bytes().unwrap(), [0; 4096]);
    assert_eq!(engine.under_way().slices, 0);
}

#[test]
fn p01_cancel_ends_all_that_is_under_way_at_once() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 8192).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 8192]).unwrap();
    script.decide(|slice| if slice.offset == 0 { Fate::Complete } else { Fate::Hold });
    let batch = engine.batch(2).unwrap();
    let requests = [0, 4096].map(|at| Request::read(&memory, at..at + 4096, segment, FILE, at as u64));
    batch.submit(&requests).unwrap();
    assert_eq!(batch.cancel(), 1);
    assert_eq!(batch.status(0).unwrap().state, TransferState::Completed);
    let status = batch.status(1).unwrap();
    assert_eq!((status.state, status.error.unwrap().state()), (TransferState::Canceled, TransferState::Canceled));
    assert!(batch.is_done() && memory.is_leased());
}

#[test]
fn p02_a_submit_beyond_the_bound_waits_and_drops_nothing() {
    let script = Script::new();
    let engine = builder(&script, &MemoryStore::new(), NAME).max_slices(4).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096 * 64]).unwrap();
    let most = Arc::new(AtomicU32::new(0));
    let (seen, counting) = (Arc::clone(&most), engine.clone());
    script.decide(move |_| {
        seen.fetch_max(counting.under_way().slices, Ordering::SeqCst);
        Fate::Hold
    });
    let requests: Vec<_> =
        (0..64).map(|i| Request::read(&memory, i * 4096..(i + 1) * 4096, segment, FILE, i as u64 * 4096)).collect();
    let batch = engine.batch(64).unwrap();
    std::thread::scope(|scope| {
        let submit = scope.spawn(|| batch.submit(&requests));
        // Requests that wait for permits are in the batch, and not under way.
        eventually("four slices", || script.held() == 4);
        assert_eq!(batch.submitted(), 64);
        assert_eq!(batch.status(63).unwrap().state, TransferState::Waiting);
        while !batch.is_done() {
            script.let_go();
        }
        assert_eq!(submit.join().unwrap().unwrap(), 0..64);
    });
    batch.wait(secs(10)).unwrap();
    assert_eq!(batch.bytes(), 64 * 4096);
    assert!(most.load(Ordering::SeqCst) <= 4);
    // The script holds a handle of the engine.
    script.decide(|_| Fate::Complete);
}

#[test]
fn p02_what_cannot_start_by_its_deadline_ends_as_timeout() {
    let script = Script::new();
    let engine = builder(&script, &MemoryStore::new(), NAME).max_slices(1).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(3).unwrap();
    let request = Request::read(&memory, 0..4096, segment, FILE, 0);
    batch.submit(std::slice::from_ref(&request)).unwrap();
    assert_eq!(batch.submit_by(&[request.clone(), request], millis(5)).unwrap(), 1..3);
    for request in [1, 2] {
        let status = batch.status(request).unwrap();
        assert_eq!(status.state, TransferState::Timeout);
        assert!(status.error.unwrap().to_string().contains("did not start"));
    }
    assert_eq!(script.held(), 1);
    script.let_go();
    assert!(matches!(batch.wait(secs(10)), Err(WaitError::Failed { failed: 2, submitted: 3, .. })));
    assert_eq!(engine.under_way().slices, 0);
}

#[test]
fn p02_requests_that_are_canceled_while_they_wait_take_no_permits_with_them() {
    let script = Script::new();
    let engine = builder(&script, &MemoryStore::new(), NAME).max_slices(1).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(3).unwrap();
    let requests = vec![Request::read(&memory, 0..4096, segment, FILE, 0); 3];
    std::thread::scope(|scope| {
        let submit = scope.spawn(|| batch.submit(&requests));
        eventually("the first slice", || script.held() == 1);
        assert_eq!(batch.cancel(), 3);
        script.let_go();
        assert_eq!(submit.join().unwrap().unwrap(), 0..3);
    });
    assert_eq!((script.held(), engine.under_way().slices), (0, 0));
    assert!([0, 1, 2].iter().all(|request| batch.status(*request).unwrap().state == TransferState::Canceled));
}

#[test]
fn p02_try_submit_returns_what_was_not_taken() {
    let script = Script::new();
    let engine = builder(&script, &MemoryStore::new(), NAME).max_bytes(3 * 4096).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    script.decide(|_| Fate::Hold);
    let batch = engine.batch(8).unwrap();
    let requests = vec![Request::read(&memory, 0..4096, segment, FILE, 0); 5];
    assert_eq!(batch.try_submit(&requests).unwrap(), 0..3);
    assert_eq!(batch.try_submit(&requests[3..]).unwrap(), 3..3);
    script.let_go();
    assert_eq!(batch.try_submit(&requests[3..]).unwrap(), 3..5);
    script.let_go();
    batch.wait(secs(10)).unwrap();
    assert_eq!(batch.submitted(), 5);
}

#[test]
fn p02_a_full_batch_and_a_request_beyond_any_bound_are_refused() {
    let script = Script::new();
    let engine = builder(&script, &MemoryStore::new(), NAME).max_slices(2).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine.register_local_file("/a", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 3 * 65536]).unwrap();
    let batch = engine.batch(2).unwrap();
    let small = Request::read(&memory, 0..1, segment, FILE, 0);
    let error = batch.submit(&vec![small.clone(); 3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooManyRequests, "{error}");
    let error = batch.submit(&[Request::read(&memory, 0..3 * 65536, segment, FILE, 0)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(batch.submitted(), 0);
    batch.submit(&[small.clone(), small]).unwrap();
    batch.wait(secs(10)).unwrap();
}

#[test]
fn p03_what_lies_outside_the_file_or_the_memory_is_refused_before_anything_starts() {
    let script = Script::new();
    let engine = engine(&script);
    let other = TransferEngine::builder()
        .metadata("memory:p03")
        .server_name("other")
        .transport(NullTransportFactory::default())
        .build()
        .unwrap();
    engine.register_local_file("/a", 10_000).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    let foreign = other.register_memory(vec![0; 4096]).unwrap();
    script.decide(|slice| panic!("{slice:?} was started"));
    let batch = engine.batch(4).unwrap();
    let good = Request::read(&memory, 0..4096, segment, FILE, 0);
    let at = |range, offset| Request::read(&memory, range, segment, FILE, offset);
    let address = memory.address();
    let by_address = Request::by_address(nvferry_engine::Operation::Read, address, 1, segment, FILE, 0);
    for (bad, kind) in [
        (at(0..1, 10_000), ErrorKind::InvalidArgument),
        (at(0..4096, 10_000 - 4095), ErrorKind::InvalidArgument),
        (at(0..1, u64::MAX), ErrorKind::InvalidArgument),
        (at(0..4096, u64::MAX - 4000), ErrorKind::InvalidArgument),
        (at(0..0, 10_001), ErrorKind::InvalidArgument),
        (at(0..4097, 0), ErrorKind::AddressNotRegistered),
        (at(4096..4097, 0), ErrorKind::AddressNotRegistered),
        (at(0..usize::MAX, 0), ErrorKind::AddressNotRegistered),
        #[expect(clippy::reversed_empty_ranges, reason = "such a range can come from a caller")]
        (at(2..1, 0), ErrorKind::AddressNotRegistered),
        (Request::read(&foreign, 0..1, segment, FILE, 0), ErrorKind::AddressNotRegistered),
        (by_address, ErrorKind::AddressNotRegistered),
        (Request::read(&memory, 0..1, segment, FileBufferId(2), 0), ErrorKind::DeviceNotFound),
        (Request::read(&memory, 0..1, nvferry_engine::SegmentId(77), FILE, 0), ErrorKind::DeviceNotFound),
    ] {
        let text = format!("{bad:?}");
        // Good ones before and after it do not start either.
        let error = batch.submit(&[good.clone(), bad, good.clone()]).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(error.to_string().contains("request 1 "), "{error}");
        assert_eq!((batch.submitted(), engine.under_way().slices), (0, 0));
    }
    assert!(!memory.is_leased());
    script.decide(|_| Fate::Complete);
    batch.submit(&[good, at(0..96, 10_000 - 96), at(0..0, 10_000)]).unwrap();
    batch.wait(secs(10)).unwrap();
    assert_eq!(batch.bytes(), 4096 + 96);
}

#[test]
fn p05_an_error_names_operation_file_segment_offset_target_and_cause() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/data/a.seg", 1 << 20).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 200_000]).unwrap();
    // Three slices and a bit; the second fails, the others move.
    script.decide(|slice| {
        let fail = || Fate::Fail(Failure { errno: Some(5), ..Failure::failed("input/output error") });
        if slice.offset == 65536 { fail() } else { Fate::Complete }
    });
    let batch = engine.batch(1).unwrap();
    batch.submit(&[Request::write(&memory, 0..200_000, segment, FILE, 1000)]).unwrap();
    batch.wait(secs(10)).unwrap_err();
    let status = batch.status(0).unwrap();
    let error = status.error.unwrap();
    assert_eq!((status.state, error.cause.errno), (TransferState::Failed, Some(5)));
    assert_eq!(status.bytes, 200_000 - 65536);
    assert_eq!(
        error.to_string(),
        "write of 200000 bytes at 1000 of file 1 (/data/a.seg) of segment 127.0.0.1:8081 at here: input/output error"
    );
}

#[test]
fn p06_a_file_registered_after_the_segment_was_opened_is_usable_at_once() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let target = builder(&script, &store, NAME).build().unwrap();
    target.install_transport("scripted", "here").unwrap();
    target.register_local_file("/a", 4096).unwrap();
    let host = builder(&script, &store, "host").build().unwrap();
    host.install_transport("scripted", None).unwrap();
    let segment = host.open_segment(NAME).unwrap();

    let file = target.register_local_file("/b", 8192).unwrap();
    // The host's connection does not see the namespace before it looks.
    script.hide_until_update(file);
    script.fill(file, vec![3; 8192]);
    let mut memory = host.register_memory(vec![0; 8192]).unwrap();
    let batch = host.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..8192, segment, file, 0)]).unwrap();
    batch.wait(secs(10)).unwrap();
    assert_eq!(memory.bytes().unwrap(), [3; 8192]);
}

#[test]
fn p06_a_file_that_was_unregistered_is_refused_clearly() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let target = builder(&script, &store, NAME).build().unwrap();
    target.install_transport("scripted", "here").unwrap();
    let file = target.register_local_file("/a", 4096).unwrap();
    let host = builder(&script, &store, "host").build().unwrap();
    host.install_transport("scripted", None).unwrap();
    let segment = host.open_segment(NAME).unwrap();
    script.log();
    target.unregister_local_file("/a").unwrap();
    // The metadata service told the host, without its asking.
    eventually("news of the change", || host.segment_desc(segment).unwrap().file_buffers.is_empty());
    let memory = host.register_memory(vec![0; 4096]).unwrap();
    let batch = host.batch(1).unwrap();
    let error = batch.submit(&[Request::read(&memory, 0..4096, segment, file, 0)]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceNotFound);
    assert!(error.to_string().contains("it has no such file"), "{error}");
    // Ids are never used again.
    assert_eq!(target.register_local_file("/a", 4096).unwrap(), FileBufferId(2));
}

#[test]
fn p11_several_transports_live_in_one_engine() {
    let store = MemoryStore::new();
    let limits = FileLimits { max_slice_bytes: 4096, block_bytes: 512 };
    let (one, two) = (Script::named("one", limits), Script::named("two", limits));
    let engine = |name: &str| {
        let builder = TransferEngine::builder().metadata(Arc::clone(&store)).server_name(name).cluster_id(None);
        builder.transport(Factory(Arc::clone(&one))).transport(Factory(Arc::clone(&two))).build().unwrap()
    };
    let (a, b, host) = (engine("a"), engine("b"), engine("host"));
    a.install_transport("one", "here").unwrap();
    b.install_transport("two", "here").unwrap();
    b.install_transport("one", None).unwrap();
    host.install_transport("two", None).unwrap();
    host.install_transport("one", None).unwrap();
    let (in_a, in_b) = (a.register_local_file("/a", 4096).unwrap(), b.register_local_file("/b", 4096).unwrap());
    one.fill(in_a, vec![1; 4096]);
    two.fill(in_b, vec![2; 4096]);
    let (seg_a, seg_b) = (host.open_segment("a").unwrap(), host.open_segment("b").unwrap());
    let mut memory = host.register_memory(vec![0; 8192]).unwrap();
    let batch = host.batch(2).unwrap();
    let requests =
        [Request::read(&memory, 0..4096, seg_a, in_a, 0), Request::read(&memory, 4096..8192, seg_b, in_b, 0)];
    batch.submit(&requests).unwrap();
    batch.wait(secs(10)).unwrap();
    assert_eq!(memory.bytes().unwrap(), [[1; 4096], [2; 4096]].concat());

    // What goes through the other transport goes on when one is uninstalled.
    host.uninstall_transport("one").unwrap();
    let request = |segment, file| Request::read(&memory, 0..4096, segment, file, 0);
    let batch = host.batch(2).unwrap();
    assert_eq!(batch.submit(&[request(seg_a, in_a)]).unwrap_err().kind(), ErrorKind::DeviceNotFound);
    batch.submit(&[request(seg_b, in_b)]).unwrap();
    batch.wait(secs(10)).unwrap();
}

#[test]
fn p11_a_segment_keeps_what_others_published_in_it() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let theirs = r#"{"name":"127.0.0.1:8081","protocol":"rdma","tcp_data_port":0,"timestamp":"t","devices":[{"name":"mlx5_0"}],"file_buffers":[]}"#;
    let key = "mooncake/ram/127.0.0.1:8081";
    store.put(key, theirs, None, secs(1)).unwrap();
    let read = || SegmentDesc::from_json(&store.get(key, secs(1)).unwrap().unwrap().text).unwrap();

    let engine = builder(&script, &store, NAME).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    let file = engine.register_local_file("/a", 4096).unwrap();
    let both = read();
    assert_eq!(both.protocol, "rdma");
    assert_eq!(both.extra["devices"], serde_json::json!([{"name": "mlx5_0"}]));
    assert_eq!(both.file(file).unwrap().path, "/a");
    // It is reached by what is ours in it, although its protocol is another.
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 4096]).unwrap();
    let batch = engine.batch(1).unwrap();
    batch.submit(&[Request::read(&memory, 0..4096, segment, file, 0)]).unwrap();
    batch.wait(secs(10)).unwrap();

    engine.shutdown(Deadline::at(Instant::now() + Duration::from_secs(5))).unwrap();
    assert!(read().says_the_same(&SegmentDesc::from_json(theirs).unwrap()));
}
