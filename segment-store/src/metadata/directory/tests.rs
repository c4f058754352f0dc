//! Rules of the directory, with the time as an argument.

use super::*;
use proptest::prelude::*;

const TTL: Duration = Duration::from_millis(1000);
const RPC: &str = "mooncake/rpc_meta/node-a";

struct Bench {
    directory: Directory,
    start: Instant,
    changes: Vec<Change>,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    fn with_limits(limits: Limits) -> Self {
        let start = Instant::now();
        Self { directory: Directory::new(View::default(), Vec::new(), limits, start), start, changes: Vec::new() }
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn put(&mut self, at_ms: u64, key: &str, value: &str, owner: Option<(&str, Option<Duration>)>) -> Outcome {
        let claim = owner.map(|(owner, ttl)| Claim { owner: owner.into(), ttl });
        let command = Command::Put { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), claim };
        let now = self.at(at_ms);
        self.directory.execute(command, now, &mut self.changes)
    }

    fn delete(&mut self, key: &str, owner: Option<&str>) -> Outcome {
        let command = Command::Delete { key: key.into(), owner: owner.map(Into::into) };
        let now = self.start;
        self.directory.execute(command, now, &mut self.changes)
    }

    fn expire(&mut self, at_ms: u64) -> usize {
        let now = self.at(at_ms);
        self.directory.expire(now, &mut self.changes)
    }

    fn value(&self, key: &str) -> Option<&[u8]> {
        self.directory.view().entries.get(key).map(|entry| &*entry.value)
    }
}

#[test]
fn an_owner_that_stops_renewing_loses_all_its_entries_and_no_one_elses() {
    let mut bench = Bench::new();
    bench.put(0, "ram/a", "1", Some(("a", Some(TTL))));
    bench.put(0, RPC, "1", Some(("a", Some(TTL))));
    bench.put(0, "ram/b", "2", Some(("b", Some(TTL * 2))));
    bench.put(0, "ram/c", "3", None);
    assert_eq!(bench.directory.next_expiry(), Some(bench.at(1000)));

    assert_eq!(bench.expire(999), 0);
    assert_eq!(bench.expire(1000), 2);
    assert_eq!((bench.value("ram/a"), bench.value(RPC)), (None, None));
    assert_eq!((bench.value("ram/b"), bench.value("ram/c")), (Some(&b"2"[..]), Some(&b"3"[..])));
    assert_eq!(bench.directory.next_expiry(), Some(bench.at(2000)));
    assert_eq!(bench.expire(1_000_000), 1);
    assert_eq!(bench.directory.next_expiry(), None);
    assert_eq!(bench.value("ram/c"), Some(&b"3"[..]), "what has no owner stays");
}

#[test]
fn renewing_one_key_renews_the_owner() {
    let mut bench = Bench::new();
    bench.put(0, "ram/a", "1", Some(("a", Some(TTL))));
    bench.put(0, RPC, "1", Some(("a", Some(TTL))));
    bench.changes.clear();
    let version = bench.directory.view().version;
    assert_eq!(bench.put(900, RPC, "1", Some(("a", Some(TTL)))), Outcome::Unchanged(2));
    assert_eq!(bench.changes, [], "a renewal costs no write");
    assert_eq!(bench.directory.view().version, version, "and wakes no reader");
    assert_eq!(bench.expire(1899), 0);
    assert_eq!(bench.expire(1900), 2);
}

#[test]
fn an_owner_without_a_time_to_live_stays_and_one_with_keeps_its_time() {
    let mut bench = Bench::new();
    bench.put(0, "ram/a", "1", Some(("a", None)));
    assert_eq!(bench.directory.next_expiry(), None);
    bench.put(0, "ram/a", "1", Some(("a", Some(TTL))));
    assert_eq!(bench.changes.last(), Some(&Change::Lease { owner: "a".into(), ttl_ms: 1000 }));
    bench.put(500, "ram/a", "2", Some(("a", None)));
    assert_eq!(bench.directory.next_expiry(), Some(bench.at(1500)));
}

#[test]
fn a_server_name_belongs_to_its_live_owner() {
    let mut bench = Bench::new();
    assert_eq!(bench.put(0, RPC, "port 1", Some(("a", Some(TTL)))), Outcome::Updated(1));
    assert_eq!(bench.put(0, RPC, "port 2", Some(("a", Some(TTL)))), Outcome::Updated(2), "its owner may change it");

    let refused = bench.put(400, RPC, "port 3", Some(("b", Some(TTL))));
    let Outcome::Refused(refusal @ Refusal::NameTaken { .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(
        refusal.to_string(),
        "this server name is taken by another node (owner a), which expires in 600 ms unless it renews; \
         give this node another name, or end the other and wait for that"
    );
    assert!(matches!(bench.put(400, RPC, "port 3", None), Outcome::Refused(_)));
    assert_eq!(bench.value(RPC), Some(&b"port 2"[..]));
    assert_eq!(bench.put(400, "ram/node-a", "anything", Some(("b", None))), Outcome::Updated(3), "only rpc_meta");

    // The end of the lease counts, not whether the entry has been swept away by then.
    assert_eq!(bench.put(1000, RPC, "port 3", Some(("b", Some(TTL)))), Outcome::Updated(4));
    assert_eq!(bench.expire(1000), 0, "the old owner has nothing left");
}

#[test]
fn a_node_that_restarts_takes_its_name_back_with_the_same_value() {
    let mut bench = Bench::new();
    bench.put(0, RPC, "port 1", Some(("a", Some(TTL))));
    assert_eq!(bench.put(10, RPC, "port 1", Some(("a-reborn", Some(TTL)))), Outcome::Unchanged(1));
    assert_eq!(bench.expire(1000), 0, "the old owner's end takes nothing of the new one");
    assert_eq!(bench.put(1000, RPC, "port 2", Some(("a-reborn", Some(TTL)))), Outcome::Updated(2));
}

#[test]
fn a_server_name_without_owner_is_kept_until_deleted_as_in_the_original() {
    let mut bench = Bench::new();
    bench.put(0, RPC, "port 1", None);
    assert_eq!(bench.put(0, RPC, "port 1", None), Outcome::Unchanged(1));
    let Outcome::Refused(refusal) = bench.put(1_000_000, RPC, "port 2", None) else { panic!() };
    assert_eq!(
        refusal.to_string(),
        "this server name is taken by another node (one that gave no owner); \
         give this node another name, or end the other and delete the key"
    );
    assert_eq!(bench.delete(RPC, None), Outcome::Deleted(2));
    assert_eq!(bench.put(1_000_000, RPC, "port 2", None), Outcome::Updated(3));
}

#[test]
fn whoever_publishes_the_same_without_a_name_takes_nothing_from_the_owner() {
    let mut bench = Bench::new();
    bench.put(0, "ram/a", "1", Some(("a", Some(TTL))));
    assert_eq!(bench.put(10, "ram/a", "1", None), Outcome::Unchanged(1));
    assert_eq!(bench.expire(1000), 1);
}

#[test]
fn deleting_with_an_owner_spares_what_another_owner_published() {
    let mut bench = Bench::new();
    bench.put(0, "ram/a", "1", Some(("old", None)));
    bench.put(0, "ram/a", "2", Some(("new", None)));
    assert!(matches!(bench.delete("ram/a", Some("old")), Outcome::Refused(Refusal::NotYours { .. })));
    assert_eq!(bench.delete("ram/a", Some("new")), Outcome::Deleted(3));
    assert_eq!(bench.delete("ram/a", Some("new")), Outcome::Missing(3));
    bench.put(0, "ram/a", "1", Some(("old", None)));
    assert_eq!(bench.delete("ram/a", None), Outcome::Deleted(5), "without an owner it is as in the original");
}

#[test]
fn a_missing_key_has_a_version_between_its_last_and_its_next_life() {
    let mut bench = Bench::new();
    assert_eq!(bench.directory.view().version_of("ram/a"), 0);
    bench.put(0, "ram/a", "1", None);
    bench.put(0, "ram/b", "1", None);
    assert_eq!(bench.directory.view().version_of("ram/a"), 1);
    bench.delete("ram/a", None);
    assert_eq!(bench.directory.view().version_of("ram/a"), 3);
    bench.put(0, "ram/a", "1", None);
    assert_eq!(bench.directory.view().version_of("ram/a"), 4);
}

#[test]
fn entries_and_bytes_are_bounded() {
    let mut bench = Bench::with_limits(Limits { entries: 2, total_bytes: 20, ..Limits::default() });
    assert_eq!(bench.put(0, "a", "123456789", None), Outcome::Updated(1));
    let Outcome::Refused(refusal) = bench.put(0, "b", "1234567890", None) else { panic!() };
    assert_eq!(refusal, Refusal::TooManyBytes { total_bytes: 10 });
    assert_eq!(bench.put(0, "b", "123456789", None), Outcome::Updated(2));
    let Outcome::Refused(refusal) = bench.put(0, "c", "", None) else { panic!() };
    assert_eq!(refusal, Refusal::TooManyEntries { entries: 2 });
    assert_eq!(bench.put(0, "b", "987654321", None), Outcome::Updated(3), "replacing takes no more room");
    bench.delete("a", None);
    assert_eq!(bench.put(0, "c", "123456789", None), Outcome::Updated(5));
}

#[test]
fn owners_that_were_kept_get_their_full_time_once_more() {
    let mut bench = Bench::new();
    bench.put(0, "ram/a", "1", Some(("a", Some(TTL))));
    let view = bench.directory.view().clone();
    let later = bench.at(60_000);
    let mut restarted = Directory::new(view, vec![("a".into(), TTL), ("gone".into(), TTL)], Limits::default(), later);
    assert_eq!(restarted.next_expiry(), Some(later + TTL));
    assert_eq!(restarted.expire(later + TTL, &mut Vec::new()), 1);
    assert_eq!(restarted.next_expiry(), None);
}

#[derive(Debug, Clone)]
enum Step {
    Put { key: u8, value: u8, owner: Option<u8>, ttl: Option<u8> },
    Delete { key: u8, owner: Option<u8> },
    Wait { ms: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    let owner = || proptest::option::of(0..3u8);
    prop_oneof![
        6 => (0..6u8, 0..3u8, owner(), proptest::option::of(1..4u8))
            .prop_map(|(key, value, owner, ttl)| Step::Put { key, value, owner, ttl }),
        2 => (0..6u8, owner()).prop_map(|(key, owner)| Step::Delete { key, owner }),
        2 => (0..300u16).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    /// Whatever is asked in whatever order: the changes tell the whole story, versions only grow, and every lease
    /// belongs to an owner of something.
    #[test]
    fn changes_tell_the_whole_story(steps in proptest::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        let mut replayed = View::default();
        let mut leases: HashMap<OwnerId, u64> = HashMap::new();
        let mut now_ms = 0;
        for step in steps {
            let seen: Vec<Version> = (0..6).map(|key| bench.directory.view().version_of(&name(key))).collect();
            let before = bench.directory.view().clone();
            match step {
                Step::Put { key, value, owner, ttl } => {
                    let owner = owner.map(|owner| owner.to_string());
                    let ttl = ttl.map(|ttl| Duration::from_millis(u64::from(ttl) * 100));
                    let claim = owner.as_deref().map(|owner| (owner, ttl));
                    bench.put(now_ms, &name(key), &value.to_string(), claim);
                }
                Step::Delete { key, owner } => {
                    let owner = owner.map(|owner| owner.to_string());
                    bench.delete(&name(key), owner.as_deref());
                }
                Step::Wait { ms } => {
                    now_ms += u64::from(ms);
                    bench.expire(now_ms);
                    prop_assert!(bench.directory.next_expiry().is_none_or(|at| at > bench.at(now_ms)));
                }
            }
            for change in bench.changes.drain(..) {
                replayed.apply(&change);
                match change {
                    Change::Lease { owner, ttl_ms } => drop(leases.insert(owner, ttl_ms)),
                    Change::NoLease { owner } => prop_assert!(leases.remove(&owner).is_some()),
                    Change::Put { .. } | Change::Remove { .. } => {}
                }
            }
            let after = bench.directory.view();
            prop_assert_eq!(&replayed, after);
            let bytes: u64 = after.entries.iter().map(|(key, entry)| size_bytes(key, &entry.value)).sum();
            prop_assert_eq!(after.total_bytes, bytes);
            for (key, seen) in (0..6).zip(seen) {
                let (old, new) = (before.entries.get(&*name(key)), after.entries.get(&*name(key)));
                let version = after.version_of(&name(key));
                prop_assert!(version >= seen, "key {} went from version {} to {}", key, seen, version);
                if old.map(|old| &old.value) != new.map(|new| &new.value) {
                    prop_assert!(version > seen, "key {} changed at version {}", key, seen);
                }
            }
            let owners: BTreeSet<&OwnerId> = after.entries.values().filter_map(|entry| entry.owner.as_ref()).collect();
            prop_assert_eq!(bench.directory.owners(), owners.len());
            prop_assert!(leases.keys().all(|owner| owners.contains(owner)));
            let kept: HashMap<OwnerId, u64> = bench.directory.owners.iter()
                .filter_map(|(id, owner)| owner.lease.map(|lease| (Arc::clone(id), lease.ttl.as_millis() as u64)))
                .collect();
            prop_assert_eq!(&leases, &kept);
        }
    }
}

fn name(key: u8) -> String {
    if key < 3 { format!("rpc_meta/{key}") } else { format!("ram/{key}") }
}
