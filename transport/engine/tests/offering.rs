//! Registering files, and what is published of them.
#![allow(clippy::unwrap_used)] // Failing is what tests do.

mod common;

use common::{NAME, Script, builder, eventually, secs};
use nvferry_engine::metadata::memory::MemoryStore;
use nvferry_engine::metadata::{MetadataError, OnChange, Ownership, Versioned, Watch};
use nvferry_engine::{
    Deadline, EngineError, ErrorKind, FileBufferId, FileLimits, MetadataStore, SegmentDesc, TransferEngine,
};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const KEY: &str = "mooncake/ram/127.0.0.1:8081";
const RPC_KEY: &str = "mooncake/rpc_meta/127.0.0.1:8081";

fn read(store: &dyn MetadataStore, key: &str) -> Option<String> {
    store.get(key, secs(1)).unwrap().map(|versioned| versioned.text)
}

fn offering(script: &Arc<Script>, store: &Arc<MemoryStore>) -> TransferEngine {
    let engine = builder(script, store, NAME).build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine
}

#[test]
fn what_is_published_is_the_documented_json_and_goes_with_the_engine() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = offering(&script, &store);
    assert_eq!(store.keys(), Vec::<String>::new());
    assert_eq!(engine.register_local_file("/data/a.seg", 1 << 20).unwrap(), FileBufferId(1));
    let text = read(&*store, KEY).unwrap();
    let timestamp = SegmentDesc::from_json(&text).unwrap().timestamp;
    let expected = format!(
        r#"{{"name":"127.0.0.1:8081","protocol":"scripted","tcp_data_port":0,"timestamp":"{timestamp}","scripted_trid":{{"at":"here"}},"file_buffers":[{{"id":1,"path":"/data/a.seg","size":1048576,"align":4096}}]}}"#
    );
    assert_eq!(text, expected);
    assert_eq!(read(&*store, RPC_KEY).unwrap(), r#"{"ip_or_host_name":"127.0.0.1","rpc_port":8081}"#);
    assert_eq!(engine.own_segment().unwrap().to_json(), text);
    script.log();
    drop(engine);
    assert_eq!(store.keys(), Vec::<String>::new());
    assert_eq!(script.log(), ["unregister 1", "uninstall"]);
}

/// The one that came last has the name, as after a restart; the other finds out and says so, and they do not take turns.
#[test]
fn p11_two_live_engines_of_one_name_are_told_apart() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = |at: &str| {
        let engine = builder(&script, &store, NAME).metadata_ttl(Duration::from_millis(150)).build().unwrap();
        engine.install_transport("scripted", at).unwrap();
        engine
    };
    let published = || SegmentDesc::from_json(&read(&*store, KEY).unwrap()).unwrap();
    let (first, second) = (engine("here"), engine("there"));
    first.register_local_file("/a", 4096).unwrap();
    // Timestamps have microseconds.
    std::thread::sleep(Duration::from_millis(1));
    second.register_local_file("/b", 4096).unwrap();
    eventually("the first finds out", || first.own_segment().is_none());
    let theirs = published();
    assert_eq!(theirs.extra["scripted_trid"]["at"], "there");
    let error = first.register_local_file("/c", 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Metadata);
    for words in ["another engine", r#"{"at":"there"}"#, "another name"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    // Over several times to live, and the end of the first.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(published(), theirs);
    drop(first);
    assert_eq!(published(), theirs);

    // When it is gone, the name is free again.
    let third = engine("elsewhere");
    third.register_local_file("/d", 4096).unwrap();
    eventually("the second finds out", || second.own_segment().is_none());
    drop(third);
    // It comes back by itself, too.
    eventually("the second is published again", || second.own_segment().is_some());
    assert_eq!(published(), theirs);
    second.register_local_file("/e", 4096).unwrap();
    assert_eq!(published().extra["scripted_trid"]["at"], "there");
}

#[test]
fn bad_files_leave_nothing_behind() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = offering(&script, &store);
    let kind = |result: Result<FileBufferId, EngineError>| result.unwrap_err().kind();
    assert_eq!(kind(engine.register_local_file("", 1)), ErrorKind::InvalidArgument);
    assert_eq!(kind(engine.register_local_file("/a", 0)), ErrorKind::InvalidArgument);
    script.refuse_files(Some(EngineError::new(ErrorKind::DeviceNotFound, "register: no such file")));
    assert_eq!(kind(engine.register_local_file("/a", 1)), ErrorKind::DeviceNotFound);
    script.refuse_files(None);
    assert_eq!((store.keys(), script.files()), (vec![], vec![]));
    assert_eq!(engine.unregister_local_file("/a").unwrap_err().kind(), ErrorKind::DeviceNotFound);

    assert_eq!(engine.register_local_file("/a", 4096).unwrap(), FileBufferId(1));
    let before = read(&*store, KEY);
    assert_eq!(kind(engine.register_local_file("/a", 4096)), ErrorKind::InvalidArgument);
    assert_eq!((read(&*store, KEY), script.files().len()), (before, 1));
}

#[test]
fn a_file_is_known_by_any_of_its_names() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = offering(&script, &store);
    let directory = tempfile::tempdir().unwrap();
    let (file, link) = (directory.path().join("file"), directory.path().join("link"));
    std::fs::write(&file, "x").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    engine.register_local_file(&link, 1).unwrap();
    let error = engine.register_local_file(&file, 1).unwrap_err();
    assert!(error.to_string().contains("registered already, as file 1"), "{error}");
    engine.unregister_local_file(&file).unwrap();
    assert_eq!(SegmentDesc::from_json(&read(&*store, KEY).unwrap()).unwrap().file_buffers, []);
}

#[test]
fn an_engine_without_an_address_offers_nothing() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = builder(&script, &store, NAME).build().unwrap();
    let error = engine.register_local_file("/a", 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Context, "{error}");
    engine.install_transport("scripted", None).unwrap();
    assert_eq!(engine.register_local_file("/a", 1).unwrap_err().kind(), ErrorKind::Context);
    assert_eq!((engine.own_segment(), store.keys()), (None, vec![]));
}

#[test]
fn transports_are_installed_once_by_names_that_exist() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = builder(&script, &store, NAME).build().unwrap();
    let error = engine.install_transport("carrier-pigeon", None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceNotFound);
    assert!(error.to_string().contains("known here: scripted"), "{error}");
    assert_eq!(engine.install_transport("scripted", "refuse").unwrap_err().kind(), ErrorKind::Context);
    engine.install_transport("scripted", "here").unwrap();
    assert_eq!(engine.install_transport("scripted", "here").unwrap_err().kind(), ErrorKind::InvalidArgument);
    engine.register_local_file("/a", 1).unwrap();
    engine.uninstall_transport("scripted").unwrap();
    assert_eq!((store.keys(), script.files()), (vec![], vec![]));
    assert_eq!(engine.uninstall_transport("scripted").unwrap_err().kind(), ErrorKind::DeviceNotFound);
    engine.install_transport("scripted", "here").unwrap();
}

#[test]
fn a_segment_has_one_protocol() {
    let store = MemoryStore::new();
    let limits = FileLimits { max_slice_bytes: 4096, block_bytes: 512 };
    let (one, two) = (Script::named("one", limits), Script::named("two", limits));
    let engine = builder(&one, &store, NAME).transport(common::Factory(Arc::clone(&two))).build().unwrap();
    engine.install_transport("one", "here").unwrap();
    engine.install_transport("two", "here").unwrap();
    engine.register_local_file_through("two", "/a", 1).unwrap();
    let error = engine.register_local_file_through("one", "/b", 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("offers files through two already"), "{error}");
    assert_eq!(SegmentDesc::from_json(&read(&*store, KEY).unwrap()).unwrap().protocol, "two");
}

#[test]
fn a_shut_down_engine_refuses_everything_and_can_be_shut_down_again() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = offering(&script, &store);
    engine.register_local_file("/a", 4096).unwrap();
    let segment = engine.open_segment(NAME).unwrap();
    let memory = engine.register_memory(vec![0; 16]).unwrap();
    let batch = engine.batch(1).unwrap();
    engine.shutdown(secs(5)).unwrap();
    engine.shutdown(secs(5)).unwrap();
    assert_eq!(engine.register_local_file("/b", 1).unwrap_err().kind(), ErrorKind::Context);
    assert_eq!(engine.open_segment(NAME).unwrap_err().kind(), ErrorKind::Context);
    assert_eq!(engine.batch(1).unwrap_err().kind(), ErrorKind::Context);
    let request = nvferry_engine::Request::read(&memory, 0..16, segment, FileBufferId(1), 0);
    assert_eq!(batch.submit(&[request]).unwrap_err().kind(), ErrorKind::Context);
    assert_eq!(store.keys(), Vec::<String>::new());
}

#[test]
fn removing_ones_own_segment_withdraws_it_and_the_next_file_publishes_it_again() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engine = offering(&script, &store);
    engine.register_local_file("/a", 4096).unwrap();
    engine.remove_local_segment(NAME).unwrap();
    assert_eq!((store.keys(), script.files().len()), (vec![], 1));
    engine.register_local_file("/b", 4096).unwrap();
    assert_eq!(SegmentDesc::from_json(&read(&*store, KEY).unwrap()).unwrap().file_buffers.len(), 2);
    assert_eq!(engine.remove_local_segment("other").unwrap_err().kind(), ErrorKind::DeviceNotFound);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let build = || TransferEngine::builder().metadata("memory:").server_name("a");
    let refused = |result: Result<TransferEngine, EngineError>| result.unwrap_err().kind();
    assert_eq!(refused(TransferEngine::builder().metadata("memory:").build()), ErrorKind::InvalidArgument);
    assert_eq!(refused(TransferEngine::builder().server_name("a").build()), ErrorKind::InvalidArgument);
    assert_eq!(refused(build().server_name("a\nb").build()), ErrorKind::InvalidArgument);
    assert_eq!(refused(build().max_slices(0).build()), ErrorKind::InvalidArgument);
    assert_eq!(refused(build().max_bytes(u64::MAX).build()), ErrorKind::InvalidArgument);
    assert_eq!(refused(build().metadata("redis://a:1").build()), ErrorKind::NotImplemented);
    let script = Script::new();
    let twice = build().transport(common::Factory(Arc::clone(&script))).transport(common::Factory(script));
    assert_eq!(refused(twice.build()), ErrorKind::InvalidArgument);
    build().build().unwrap();
}

/// A service that fails when it is told to.
struct Flaky {
    inner: Arc<MemoryStore>,
    is_down: AtomicBool,
    /// Writes to the segment's key are done, but the answer is lost.
    loses_answers: AtomicBool,
    puts: AtomicU32,
    owners: Mutex<Vec<Option<Ownership>>>,
}

impl Flaky {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(),
            is_down: AtomicBool::new(false),
            loses_answers: AtomicBool::new(false),
            puts: AtomicU32::new(0),
            owners: Mutex::default(),
        })
    }

    fn check(&self, attempt: &str) -> Result<(), MetadataError> {
        if !self.is_down.load(Ordering::SeqCst) {
            return Ok(());
        }
        let cause = "told to be down".into();
        Err(MetadataError::Unreachable { location: self.location(), attempt: attempt.into(), cause })
    }
}

impl MetadataStore for Flaky {
    fn location(&self) -> String {
        "flaky".into()
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Versioned>, MetadataError> {
        self.check("GET")?;
        self.inner.get(key, deadline)
    }

    fn put(&self, key: &str, text: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<(), MetadataError> {
        self.check("PUT")?;
        self.inner.put(key, text, owner, deadline)?;
        self.owners.lock().unwrap().push(owner.cloned());
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.loses_answers.load(Ordering::SeqCst) && key == KEY {
            self.is_down.store(true, Ordering::SeqCst);
            return Err(MetadataError::Late { location: self.location(), attempt: "PUT".into(), waited_ms: 1 });
        }
        Ok(())
    }

    fn remove(&self, key: &str, owner: Option<&Ownership>, deadline: Deadline) -> Result<bool, MetadataError> {
        self.check("DELETE")?;
        self.inner.remove(key, owner, deadline)
    }

    fn list(&self, prefix: &str, deadline: Deadline) -> Result<Vec<String>, MetadataError> {
        self.inner.list(prefix, deadline)
    }

    fn watch(&self, _key: &str, _known: Option<u64>, _on_change: OnChange) -> Option<Watch> {
        None
    }
}

fn flaky_engine(script: &Arc<Script>, store: &Arc<Flaky>) -> TransferEngine {
    let builder = TransferEngine::builder().metadata(Arc::clone(store)).server_name(NAME).cluster_id(None);
    let builder = builder.metadata_ttl(Duration::from_millis(30)).transport(common::Factory(Arc::clone(script)));
    let engine = builder.build().unwrap();
    engine.install_transport("scripted", "here").unwrap();
    engine
}

#[test]
fn a_file_that_cannot_be_published_is_not_offered_either() {
    let (script, store) = (Script::new(), Flaky::new());
    let engine = flaky_engine(&script, &store);
    store.is_down.store(true, Ordering::SeqCst);
    let error = engine.register_local_file("/a", 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Metadata);
    assert!(error.to_string().contains("register file /a: it could not be published"), "{error}");
    assert_eq!((script.files(), engine.own_segment()), (vec![], None));
    store.is_down.store(false, Ordering::SeqCst);
    assert_eq!(store.inner.keys(), Vec::<String>::new());
    engine.register_local_file("/a", 4096).unwrap();
}

#[test]
fn a_publication_whose_answer_was_lost_is_undone_when_the_service_is_back() {
    let (script, store) = (Script::new(), Flaky::new());
    let engine = flaky_engine(&script, &store);
    store.loses_answers.store(true, Ordering::SeqCst);
    engine.register_local_file("/a", 4096).unwrap_err();
    assert_eq!(script.files(), []);
    assert_eq!(store.inner.keys().len(), 2);
    store.loses_answers.store(false, Ordering::SeqCst);
    store.is_down.store(false, Ordering::SeqCst);
    eventually("its removal", || store.inner.keys().is_empty());
}

#[test]
fn a_file_is_taken_back_while_the_service_is_down_and_withdrawn_when_it_is_back() {
    let (script, store) = (Script::new(), Flaky::new());
    let engine = flaky_engine(&script, &store);
    engine.register_local_file("/a", 4096).unwrap();
    store.is_down.store(true, Ordering::SeqCst);
    engine.unregister_local_file("/a").unwrap();
    assert_eq!(script.files(), []);
    store.is_down.store(false, Ordering::SeqCst);
    let is_withdrawn = || SegmentDesc::from_json(&read(&*store.inner, KEY).unwrap()).unwrap().file_buffers.is_empty();
    eventually("its withdrawal", is_withdrawn);
}

#[test]
fn what_is_published_is_renewed_unchanged_and_comes_back_when_it_was_lost() {
    let (script, store) = (Script::new(), Flaky::new());
    let engine = flaky_engine(&script, &store);
    engine.register_local_file("/a", 4096).unwrap();
    let (text, seen) = (read(&*store.inner, KEY).unwrap(), store.puts.load(Ordering::SeqCst));
    eventually("a renewal", || store.puts.load(Ordering::SeqCst) >= seen + 4);
    assert_eq!(read(&*store.inner, KEY).unwrap(), text);
    let owners = store.owners.lock().unwrap().clone();
    assert!(owners.iter().all(|owner| owner.is_some() && *owner == owners[0]), "{owners:?}");
    store.inner.remove(KEY, None, secs(1)).unwrap();
    eventually("its return", || read(&*store.inner, KEY).as_deref() == Some(&text));
}

#[test]
fn a_server_name_that_another_live_engine_holds_is_refused() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let holder = Ownership { id: "another".into(), ttl: Duration::from_secs(60) };
    store.put(RPC_KEY, r#"{"ip_or_host_name":"elsewhere","rpc_port":1}"#, Some(&holder), secs(1)).unwrap();
    let engine = offering(&script, &store);
    let error = engine.register_local_file("/a", 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Metadata);
    assert!(error.to_string().contains("owner another"), "{error}");
    assert_eq!((store.keys(), script.files()), (vec![RPC_KEY.into()], vec![]));
    drop(engine);
    assert_eq!(store.keys(), [RPC_KEY]);
}
