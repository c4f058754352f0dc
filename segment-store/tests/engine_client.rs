//! The engine's HTTP client against this server: what one sends, the other understands.

mod common;
use common::*;
use nvferry_engine::Deadline;
use nvferry_engine::metadata::http::HttpStore;
use nvferry_engine::metadata::{MetadataError, MetadataStore, Ownership};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

fn owner(id: &str, ttl: Duration) -> Ownership {
    Ownership { id: id.into(), ttl }
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn keys_go_in_and_come_out_and_go() {
    let server = start();
    let client = HttpStore::new(server.url()).unwrap();
    let key = "mooncake/ram/ü 10.0.0.9:8081?&=#+%";
    assert_eq!(client.get(key, soon()).unwrap(), None);
    client.put(key, "{\"a\":1}", Some(&owner("one", MINUTE)), soon()).unwrap();
    let found = client.get(key, soon()).unwrap().unwrap();
    assert_eq!((found.text.as_str(), found.version), ("{\"a\":1}", Some(1)));
    assert_eq!(client.list("mooncake/", soon()).unwrap(), [key]);
    assert!(client.remove(key, Some(&owner("one", MINUTE)), soon()).unwrap());
    assert!(!client.remove(key, None, soon()).unwrap());
}

#[test]
fn another_live_owners_name_is_taken() {
    let server = start();
    let client = HttpStore::new(server.url()).unwrap();
    let key = "mooncake/rpc_meta/a";
    client.put(key, "1", Some(&owner("one", MINUTE)), soon()).unwrap();
    let error = client.put(key, "2", Some(&owner("two", MINUTE)), soon()).unwrap_err();
    assert!(matches!(error, MetadataError::Taken { .. }), "{error:?}");
    assert!(error.to_string().contains("owner one"), "{error}");
    let error = client.remove(key, Some(&owner("two", MINUTE)), soon()).unwrap_err();
    assert!(matches!(error, MetadataError::Taken { .. }), "{error:?}");
    client.put(key, "2", Some(&owner("one", MINUTE)), soon()).unwrap();
}

#[test]
fn a_watch_tells_of_changes_and_of_the_owners_end() {
    let server = start();
    let client = HttpStore::new(server.url()).unwrap();
    let (sender, told) = channel();
    client.put("k", "1", Some(&owner("one", MINUTE)), soon()).unwrap();
    let known = client.get("k", soon()).unwrap().unwrap().version;
    let on_change = Arc::new(move || {
        // The test has ended when nobody receives.
        let _ = sender.send(());
    });
    let watch = client.watch("k", known, on_change).unwrap();
    until("it waits", || metric(&server, "nvferry_metadata_waiters ") == 1.0);
    client.put("k", "2", Some(&owner("one", Duration::from_millis(200))), soon()).unwrap();
    told.recv_timeout(PATIENCE).unwrap();
    while client.get("k", soon()).unwrap().is_some() {
        told.recv_timeout(PATIENCE).unwrap();
    }
    drop(watch);
    until("it waits no more", || metric(&server, "nvferry_metadata_waiters ") == 0.0);
}

#[test]
fn a_long_listing_is_read_page_by_page() {
    let server = start_with(nvferry_store::metadata::Limits { page_keys: 7, ..Default::default() });
    let client = HttpStore::new(server.url()).unwrap();
    let keys: Vec<String> = (100..150).map(|number| format!("ram/{number}/ü")).collect();
    for key in &keys {
        client.put(key, "{}", None, soon()).unwrap();
    }
    client.put("zebra", "{}", None, soon()).unwrap();
    assert_eq!(client.list("ram/", soon()).unwrap(), keys);
    assert_eq!(client.list("none", soon()).unwrap(), [""; 0]);
}

#[test]
fn a_listing_at_a_wrong_path_is_refused_with_what_the_server_says() {
    let server = start();
    let url = server.url().replace("/metadata", "/wrong");
    let error = HttpStore::new(&url).unwrap().list("", soon()).unwrap_err();
    let MetadataError::Refused { status: 404, answer, .. } = &error else { panic!("{error:?}") };
    assert_eq!(answer, "nothing is served at this path; metadata is at /metadata?key=<key>");
}

#[test]
fn an_engine_that_lives_stays_published_without_changing_anything_and_goes_when_it_ends() {
    let server = start();
    let engine = nvferry_engine::TransferEngine::builder()
        .metadata(server.url())
        .server_name("127.0.0.1:8081")
        .metadata_ttl(Duration::from_millis(1500))
        .transport(nvferry_engine::null::NullTransportFactory::default())
        .build()
        .unwrap();
    engine.install_transport("null", "").unwrap();
    engine.register_local_file("/no/such/file", 4096).unwrap();
    let key = "mooncake/ram/127.0.0.1:8081";
    let published = get(&server, key);
    assert_eq!(published.status, 200);
    let puts = || metric(&server, r#"nvferry_metadata_requests_total{method="PUT",status="200"}"#);
    let before = puts();
    until("it was renewed twice", || puts() >= before + 4.0);
    let now = get(&server, key);
    assert_eq!((now.version(), now.text()), (published.version(), published.text()));
    engine.shutdown(soon()).unwrap();
    assert_eq!(request(&server, "GET", "/metadata?prefix=", &[], b"").json()["keys"], serde_json::json!([]));
}
