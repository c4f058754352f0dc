//! The store's calls: values, owners, listing, watching.

use crate::common::{eventually, secs};
use crate::server::Etcd;
use nvferry_engine::MetadataStore;
use nvferry_engine::metadata::etcd::EtcdStore;
use nvferry_engine::metadata::{MetadataError, OnChange, Ownership, Watch};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SEGMENT: &str = "mooncake/ram/10.0.0.7:8081";
const NAME: &str = "mooncake/rpc_meta/10.0.0.7:8081";

pub(crate) fn owner(id: &str, ttl_ms: u64) -> Ownership {
    Ownership { id: id.into(), ttl: Duration::from_millis(ttl_ms) }
}

fn text(store: &EtcdStore, key: &str) -> Option<String> {
    store.get(key, secs(10)).unwrap().map(|there| there.text)
}

fn version(store: &EtcdStore, key: &str) -> u64 {
    store.get(key, secs(10)).unwrap().unwrap().version.unwrap()
}

/// A watch that counts.
pub(crate) struct Counting {
    count: Arc<AtomicU32>,
    _watch: Watch,
}

impl Counting {
    pub(crate) fn new(store: &EtcdStore, key: &str, known: Option<u64>) -> Self {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let on_change: OnChange = Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let watch = store.watch(key, known, on_change).unwrap();
        Self { count, _watch: watch }
    }

    pub(crate) fn seen(&self) -> u32 {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn sees_more_than(&self, seen: u32) {
        eventually("a change", || self.seen() > seen);
    }
}

#[test]
fn values_come_and_go() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    assert_eq!(text(&store, SEGMENT), None);
    assert!(!store.remove(SEGMENT, None, secs(10)).unwrap());
    store.put(SEGMENT, "{\"ü\":1}", None, secs(10)).unwrap();
    assert_eq!(text(&store, SEGMENT).unwrap(), "{\"ü\":1}");
    let first = version(&store, SEGMENT);
    // The same once more is no change.
    store.put(SEGMENT, "{\"ü\":1}", None, secs(10)).unwrap();
    assert_eq!(version(&store, SEGMENT), first);
    store.put(SEGMENT, "2", None, secs(10)).unwrap();
    assert!(version(&store, SEGMENT) > first);
    assert!(store.remove(SEGMENT, None, secs(10)).unwrap());
    assert_eq!(text(&store, SEGMENT), None);
    // What others wrote, as they wrote it.
    etcd.admin(None, async |client| client.put(SEGMENT, [0xff, 0xfe], None).await);
    let error = store.get(SEGMENT, secs(10)).unwrap_err();
    assert!(matches!(error, MetadataError::NotText { .. }), "{error}");
}

#[test]
fn keys_are_listed_by_prefix_however_many() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    assert_eq!(store.list("mooncake/", secs(10)).unwrap(), Vec::<String>::new());
    let keys: Vec<String> = (0..1001).map(|n| format!("mooncake/ram/{n:04}")).collect();
    etcd.admin(None, async |client| {
        client.put("mooncak", "", None).await?;
        client.put("mooncake0", "", None).await?;
        for chunk in keys.chunks(100) {
            let puts: Vec<_> = chunk.iter().map(|key| etcd_client::TxnOp::put(key.as_str(), "{}", None)).collect();
            client.txn(etcd_client::Txn::new().and_then(puts)).await?;
        }
        Ok(())
    });
    assert_eq!(store.list("mooncake/", secs(10)).unwrap(), keys);
    assert_eq!(store.list("mooncake/ram/0007", secs(10)).unwrap(), ["mooncake/ram/0007"]);
    assert_eq!(store.list("", secs(10)).unwrap().len(), 1003);
}

#[test]
fn a_server_name_belongs_to_its_owner_while_that_lives() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    let (one, other) = (owner("one", 60_000), owner("other", 60_000));
    store.put(NAME, "1", Some(&one), secs(10)).unwrap();
    let error = store.put(NAME, "2", Some(&other), secs(10)).unwrap_err();
    assert!(matches!(error, MetadataError::Taken { .. }), "{error}");
    assert!(error.to_string().contains("expires in") && error.to_string().contains(NAME), "{error}");
    let error = store.put(NAME, "2", None, secs(10)).unwrap_err();
    assert!(matches!(error, MetadataError::Taken { .. }), "{error}");
    store.put(NAME, "3", Some(&one), secs(10)).unwrap();
    // The same value can be taken over, as a node does that comes back before its old lease has ended.
    store.put(NAME, "3", Some(&other), secs(10)).unwrap();
    let error = store.remove(NAME, Some(&one), secs(10)).unwrap_err();
    assert!(matches!(error, MetadataError::Taken { .. }), "{error}");
    assert!(store.remove(NAME, Some(&other), secs(10)).unwrap());
    store.put(NAME, "4", None, secs(10)).unwrap();
    let error = store.put(NAME, "5", Some(&one), secs(10)).unwrap_err();
    assert!(error.to_string().contains("delete the key"), "{error}");
    // Other keys belong to whoever wrote last.
    store.put(SEGMENT, "1", Some(&one), secs(10)).unwrap();
    store.put(SEGMENT, "2", Some(&other), secs(10)).unwrap();
    let error = store.remove(SEGMENT, Some(&one), secs(10)).unwrap_err();
    assert!(matches!(error, MetadataError::Taken { .. }), "{error}");
    store.put(SEGMENT, "3", None, secs(10)).unwrap();
    assert!(store.remove(SEGMENT, Some(&one), secs(10)).unwrap());
}

#[test]
fn two_claim_one_name_at_once_and_one_gets_it() {
    let Some(etcd) = Etcd::start() else { return };
    for round in 0..10 {
        let key = format!("{NAME}{round}");
        let claim = |n: u32| {
            let (store, key) = (etcd.store(), key.clone());
            move || store.put(&key, &n.to_string(), Some(&owner(&format!("{round}-{n}"), 60_000)), secs(10))
        };
        let threads: Vec<_> = (0..4).map(|n| std::thread::spawn(claim(n))).collect();
        let results: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        let winners: Vec<_> = (0..4).filter(|&n| results[n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(text(&etcd.store(), &key).unwrap(), winners[0].to_string());
        for error in results.into_iter().filter_map(Result::err) {
            assert!(matches!(error, MetadataError::Taken { .. }), "{error}");
        }
    }
}

#[test]
fn what_is_renewed_stays_and_what_is_not_goes() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    let (renewed, left) = (owner("renewed", 1000), owner("left", 1000));
    store.put(NAME, "1", Some(&renewed), secs(10)).unwrap();
    store.put(SEGMENT, "1", Some(&renewed), secs(10)).unwrap();
    store.put("mooncake/ram/left", "1", Some(&left), secs(10)).unwrap();
    let first = version(&store, SEGMENT);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) || text(&store, "mooncake/ram/left").is_some() {
        assert!(started.elapsed() < Duration::from_secs(30), "it never goes");
        // One key's put renews all.
        store.put(NAME, "1", Some(&renewed), secs(10)).unwrap();
        assert_eq!(version(&store, SEGMENT), first, "it went, or was written anew");
        std::thread::sleep(Duration::from_millis(100));
    }
    eventually("the name goes with its owner", || text(&store, NAME).is_none());
    assert_eq!(text(&store, SEGMENT), None);
    // An owner whose lease is gone publishes anew.
    store.put(SEGMENT, "1", Some(&renewed), secs(10)).unwrap();
    assert_eq!(text(&store, SEGMENT).unwrap(), "1");
}

#[test]
fn watches_tell_of_every_change_until_they_are_dropped() {
    let Some(etcd) = Etcd::start() else { return };
    let store = etcd.store();
    store.put(SEGMENT, "1", None, secs(10)).unwrap();
    let known = version(&store, SEGMENT);
    let watch = Counting::new(&store, SEGMENT, Some(known));
    let other = Counting::new(&store, "mooncake/ram/other", Some(0));
    for text in ["2", "3"] {
        let seen = watch.seen();
        store.put(SEGMENT, text, None, secs(10)).unwrap();
        watch.sees_more_than(seen);
    }
    let seen = watch.seen();
    store.remove(SEGMENT, None, secs(10)).unwrap();
    watch.sees_more_than(seen);
    // Compaction throws away what a reader of an old revision would need.
    store.put(SEGMENT, "4", None, secs(10)).unwrap();
    let newest = version(&store, SEGMENT);
    let newest = i64::try_from(newest).unwrap();
    etcd.admin(None, async |client| client.compact(newest, None).await);
    let late = Counting::new(&store, SEGMENT, Some(known));
    late.sees_more_than(0);
    let seen = late.seen();
    store.put(SEGMENT, "5", None, secs(10)).unwrap();
    late.sees_more_than(seen);
    let expired = Counting::new(&store, "mooncake/ram/lease", Some(0));
    store.put("mooncake/ram/lease", "1", Some(&owner("a", 1000)), secs(10)).unwrap();
    expired.sees_more_than(0);
    expired.sees_more_than(1);
    assert_eq!(other.seen(), 0);
    let count = Arc::clone(&late.count);
    drop(late);
    let seen = count.load(Ordering::SeqCst);
    store.put(SEGMENT, "6", None, secs(10)).unwrap();
    let again = Counting::new(&store, SEGMENT, Some(0));
    again.sees_more_than(0);
    assert_eq!(count.load(Ordering::SeqCst), seen);
}
