//! Opening, refreshing and closing segments.

mod common;

use common::{NAME, Script, builder, engine, eventually, secs};
use nvferry_engine::metadata::memory::MemoryStore;
use nvferry_engine::{ErrorKind, FileBufferDesc, FileBufferId, MetadataStore, Request, SegmentDesc};

const KEY: &str = "mooncake/ram/127.0.0.1:8081";

#[test]
fn a_segment_is_attached_once_and_closed_after_its_last_user() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    script.log();
    let segment = engine.open_segment(NAME).unwrap();
    assert_eq!(engine.open_segment(NAME).unwrap(), segment);
    assert_eq!(script.log(), ["attach 127.0.0.1:8081"]);
    assert_eq!(engine.segment_desc(segment).unwrap().file(FileBufferId(1)).unwrap().path, "/a");
    engine.close_segment(segment).unwrap();
    assert_eq!(script.log(), Vec::<String>::new());
    engine.close_segment(segment).unwrap();
    assert_eq!(script.log(), ["close"]);
    assert_eq!(engine.close_segment(segment).unwrap_err().kind(), ErrorKind::DeviceNotFound);
    assert_eq!(engine.segment_desc(segment).unwrap_err().kind(), ErrorKind::DeviceNotFound);
    // Ids are not used again: an old one never means another segment.
    assert_ne!(engine.open_segment(NAME).unwrap(), segment);
}

#[test]
fn many_threads_open_one_segment_once() {
    let script = Script::new();
    let engine = engine(&script);
    engine.register_local_file("/a", 4096).unwrap();
    script.log();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| engine.open_segment(NAME).unwrap())).collect();
        let ids: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    });
    assert_eq!(script.log(), ["attach 127.0.0.1:8081"]);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let host = builder(&script, &store, "host").build().unwrap();
    let open = |text: &str| {
        store.put(KEY, text, None, secs(1)).unwrap();
        host.open_segment(NAME).unwrap_err()
    };
    let missing = host.open_segment("nowhere:1").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::DeviceNotFound);
    assert!(missing.to_string().contains("segment nowhere:1") && missing.to_string().contains("memory:"), "{missing}");
    assert_eq!(host.open_segment("").unwrap_err().kind(), ErrorKind::InvalidArgument);

    let garbage = open("<html>down</html>");
    assert_eq!(garbage.kind(), ErrorKind::MalformedJson);
    assert!(garbage.to_string().contains("<html>down</html>") && garbage.to_string().contains(KEY), "{garbage}");
    let foreign = open(r#"{"name":"127.0.0.1:8081","protocol":"rdma"}"#);
    assert_eq!(foreign.kind(), ErrorKind::DeviceNotFound);
    assert!(foreign.to_string().contains("'rdma'; installed here: none"), "{foreign}");
    // A failed open leaves nothing that would stop a later one.
    host.install_transport("scripted", None).unwrap();
    store.put(KEY, r#"{"name":"127.0.0.1:8081","protocol":"x","scripted_trid":{}}"#, None, secs(1)).unwrap();
    host.open_segment(NAME).unwrap();
}

#[test]
fn changes_are_taken_over_without_asking_and_nonsense_is_not() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let mut desc = SegmentDesc::new(NAME, "scripted");
    desc.extra.insert("scripted_trid".into(), serde_json::json!({}));
    let put = |desc: &SegmentDesc| store.put(KEY, &desc.to_json(), None, secs(1)).unwrap();
    put(&desc);
    let host = builder(&script, &store, "host").build().unwrap();
    host.install_transport("scripted", None).unwrap();
    let segment = host.open_segment(NAME).unwrap();
    let files = || host.segment_desc(segment).unwrap().file_buffers.len();
    let new_file = |id| FileBufferDesc::new(FileBufferId(id), "/x", 4096, 512);
    desc.file_buffers.push(new_file(1));
    put(&desc);
    eventually("the first change", || files() == 1);
    store.put(KEY, "nonsense", None, secs(1)).unwrap();
    store.remove(KEY, None, secs(1)).unwrap();
    desc.file_buffers.push(new_file(2));
    put(&desc);
    eventually("the second change", || files() == 2);
    // Asking gives the error, and keeps what there was.
    store.remove(KEY, None, secs(1)).unwrap();
    assert_eq!(host.sync_segment_cache(NAME).unwrap_err().kind(), ErrorKind::DeviceNotFound);
    assert_eq!(host.sync_segment_cache(None).unwrap_err().kind(), ErrorKind::DeviceNotFound);
    assert_eq!(host.sync_segment_cache("other").unwrap_err().kind(), ErrorKind::DeviceNotFound);
    assert_eq!(files(), 2);
}

#[test]
fn p08_what_is_another_file_by_now_is_refused_until_the_caller_says_that_it_wants_it() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let describe = |files: &[(u32, &str, Option<&str>)]| {
        let mut desc = SegmentDesc::new(NAME, "scripted");
        desc.extra.insert("scripted_trid".into(), serde_json::json!({}));
        for &(id, path, identity) in files {
            let file = FileBufferDesc::new(FileBufferId(id), path, 4096, 512);
            desc.file_buffers.push(FileBufferDesc { identity: identity.map(str::to_owned), ..file });
            script.fill(FileBufferId(id), vec![0; 4096]);
        }
        store.put(KEY, &desc.to_json(), None, secs(1)).unwrap();
    };
    describe(&[(1, "/a", None), (2, "/b", Some("b")), (3, "/c", Some("c"))]);
    let host = builder(&script, &store, "host").build().unwrap();
    host.install_transport("scripted", None).unwrap();
    let segment = host.open_segment(NAME).unwrap();
    let memory = host.register_memory(vec![0; 512]).unwrap();
    let write = |file| {
        let batch = host.batch(1).unwrap();
        batch.submit(&[Request::write(&memory, 0..512, segment, FileBufferId(file), 0)]).map(|_| batch.wait(secs(10)))
    };
    let path_of = |id| host.segment_desc(segment).unwrap().file(FileBufferId(id)).map(|file| file.path.clone());
    // Its target starts again with other files under the ids, one after the other, and one that says now what it is.
    describe(&[(1, "/a", Some("a"))]);
    eventually("the first change", || path_of(2).is_none());
    describe(&[(1, "/a", Some("a")), (2, "/c", Some("c")), (3, "/elsewhere/c", Some("c"))]);
    eventually("the second change", || path_of(2).as_deref() == Some("/c"));
    write(1).unwrap().unwrap();
    write(3).unwrap().unwrap();
    let refused = write(2).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DeviceNotFound);
    for words in ["file 2", NAME, "it was /b (b), and is /c (c) now", "open it anew"] {
        assert!(refused.to_string().contains(words), "{refused}");
    }
    // A path alone tells as much, where nothing better is known.
    describe(&[(1, "/z", None), (2, "/c", Some("c"))]);
    eventually("the third change", || path_of(1).as_deref() == Some("/z"));
    assert!(write(1).is_err() && write(2).is_err());
    script.log();
    host.sync_segment_cache(NAME).unwrap();
    assert_eq!(script.log(), [format!("attach {NAME}").as_str(), "close"], "what is under way is for the old files");
    write(1).unwrap().unwrap();
    write(2).unwrap().unwrap();
}

#[test]
fn a_hostile_description_is_harmless() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let text = r#"{"name":"x","scripted_trid":1,"file_buffers":[
        {"id":4294967295,"size":18446744073709551615},{"id":1,"path":"/first","size":4096},{"id":1,"size":99999},{"id":0,"size":1}]}"#;
    store.put(KEY, text, None, secs(1)).unwrap();
    let host = builder(&script, &store, "host").build().unwrap();
    host.install_transport("scripted", None).unwrap();
    let segment = host.open_segment(NAME).unwrap();
    let memory = host.register_memory(vec![0; 8192]).unwrap();
    let batch = host.batch(4).unwrap();
    let submit = |file, offset| {
        let request = Request::read(&memory, 0..8192, segment, FileBufferId(file), offset);
        batch.submit(&[request])
    };
    // The first of two files with one id counts, and no size makes an offset overflow.
    assert_eq!(submit(1, 0).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(submit(u32::MAX, u64::MAX - 8192).unwrap(), 0..1);
    assert_eq!(submit(u32::MAX, u64::MAX - 8191).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(submit(2, 0).unwrap_err().kind(), ErrorKind::DeviceNotFound);
    batch.wait(secs(10)).unwrap_err();
}

#[test]
fn one_engine_offers_and_uses_several_segments_at_once() {
    let (script, store) = (Script::new(), MemoryStore::new());
    let engines: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let engine = builder(&script, &store, name).build().unwrap();
            engine.install_transport("scripted", "here").unwrap();
            engine
        })
        .into();
    // The script's files are told apart by their ids only: give each engine its own.
    for (index, engine) in engines.iter().enumerate() {
        for other in 0..=index {
            engine.register_local_file(format!("/file{index}{other}"), 4096).unwrap();
        }
    }
    for engine in &engines {
        let memory = engine.register_memory(vec![0; 3 * 4096]).unwrap();
        let batch = engine.batch(3).unwrap();
        let requests: Vec<_> = ["a", "b", "c"]
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let segment = engine.open_segment(name).unwrap();
                Request::write(&memory, i * 4096..(i + 1) * 4096, segment, FileBufferId(i as u32 + 1), 0)
            })
            .collect();
        assert_eq!(batch.submit(&requests).unwrap(), 0..3);
        batch.wait(secs(10)).unwrap();
    }
}
