//! An etcd that is not there, does not answer, or is none.

use crate::common::{millis, secs};
use crate::server::{Etcd, free_port};
use crate::store::{Counting, owner};
use nvferry_engine::metadata::MetadataError;
use nvferry_engine::metadata::etcd::EtcdStore;
use nvferry_engine::{Deadline, ErrorKind, MetadataStore};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Takes connections and never says a word.
fn black_hole() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    (listener, endpoint)
}

/// All calls of a store, one after the other; their errors.
fn errors(store: &EtcdStore, deadline: impl Fn() -> Deadline) -> Vec<MetadataError> {
    vec![
        store.get("a", deadline()).unwrap_err(),
        store.put("a", "1", None, deadline()).unwrap_err(),
        store.put("a", "1", Some(&owner("me", 1000)), deadline()).unwrap_err(),
        store.remove("a", None, deadline()).unwrap_err(),
        store.list("a", deadline()).unwrap_err(),
    ]
}

#[test]
fn nobody_listens() {
    let endpoints = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), free_port());
    let started = Instant::now();
    for error in errors(&EtcdStore::new(&endpoints).unwrap(), || secs(20)) {
        assert!(matches!(error, MetadataError::Unreachable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("refused") && text.contains(&endpoints) && text.contains("is it running"), "{text}");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "it waited for what cannot get better");
}

#[test]
fn calls_to_a_black_hole_end_by_their_deadline() {
    let (_listener, endpoint) = black_hole();
    let store = EtcdStore::new(&endpoint).unwrap();
    let watch = Counting::new(&store, "a", Some(7));
    for error in errors(&store, || millis(200)) {
        assert!(matches!(error, MetadataError::Late { .. }), "{error:?}");
    }
    // The control thread is free meanwhile: a call elsewhere is not held up.
    let (_other, other) = black_hole();
    let held = std::thread::spawn({
        let store = EtcdStore::new(&endpoint).unwrap();
        move || store.get("a", secs(5))
    });
    let started = Instant::now();
    assert!(EtcdStore::new(&other).unwrap().get("a", millis(100)).is_err());
    assert!(started.elapsed() < Duration::from_secs(4));
    assert!(held.join().unwrap().is_err());
    assert_eq!(watch.seen(), 0);
}

#[test]
fn one_living_endpoint_of_several_is_enough() {
    let Some(mut etcd) = Etcd::start() else { return };
    let (_listener, hole) = black_hole();
    let address = format!("etcd://127.0.0.1:{},{hole},{}", free_port(), etcd.endpoint());
    let store = EtcdStore::new(&address).unwrap();
    assert_eq!(store.location(), address);
    let watch = Counting::new(&store, "mooncake/ram/a", Some(0));
    store.put("mooncake/ram/a", "1", Some(&owner("me", 60_000)), secs(6)).unwrap();
    // The one that answered is asked first from now on: the others cost nothing any more.
    for _ in 0..20 {
        assert_eq!(store.get("mooncake/ram/a", secs(3)).unwrap().unwrap().text, "1");
    }
    watch.sees_more_than(0);
    assert!(store.remove("mooncake/ram/a", Some(&owner("me", 60_000)), secs(6)).unwrap());
    etcd.kill();
    let error = store.get("mooncake/ram/a", secs(2)).unwrap_err().to_string();
    assert!(error.contains(&etcd.endpoint()), "{error}");
    etcd.run();
    assert_eq!(store.get("mooncake/ram/a", secs(6)).unwrap(), None);
}

#[test]
fn a_port_that_speaks_something_else_is_told() {
    let (listener, endpoint) = black_hole();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            // Whoever asked may be gone.
            let _ = stream.read(&mut request);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    for error in errors(&EtcdStore::new(&endpoint).unwrap(), || secs(10)) {
        assert!(matches!(error, MetadataError::Broken { .. }), "{error:?}");
        assert!(error.to_string().contains("does an etcd listen there"), "{error}");
    }
}

#[test]
fn addresses_that_are_none_are_refused_at_once() {
    for address in ["etcd://", "etcd://a", "etcd://u:geheim@127.0.0.1:1", "etcds://a:1?ca=/does/not/exist"] {
        let source = nvferry_engine::metadata::MetadataSource::from(address);
        let error = source.open().err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(!error.to_string().contains("geheim"), "{error}");
    }
}
