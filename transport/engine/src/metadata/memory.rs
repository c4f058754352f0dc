//! A metadata service within this process: engines that name the same one share it.

use super::{MetadataError, MetadataStore, OnChange, Ownership, Versioned, Watch};
use crate::deadline::Deadline;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Weak};

/// Keys and texts in memory. It knows owners, but no time: nothing expires before the process does.
#[derive(Default)]
pub struct MemoryStore {
    name: String,
    entries: Arc<Mutex<Entries>>,
}

#[derive(Default)]
struct Entries {
    by_key: HashMap<String, Entry>,
    /// Of the last change of anything.
    version: u64,
    watches: Vec<Watching>,
    last_watch: u64,
}

struct Entry {
    text: String,
    version: u64,
    owner: Option<String>,
}

struct Watching {
    number: u64,
    key: String,
    on_change: OnChange,
}

static NAMED: LazyLock<Mutex<HashMap<String, Weak<MemoryStore>>>> = LazyLock::new(Mutex::default);

impl MemoryStore {
    /// One of its own.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The one of this name; it lasts as long as someone uses it.
    #[must_use]
    pub fn named(name: &str) -> Arc<Self> {
        let mut named = NAMED.lock();
        if let Some(store) = named.get(name).and_then(Weak::upgrade) {
            return store;
        }
        named.retain(|_, store| store.strong_count() > 0);
        let store = Arc::new(Self { name: name.to_owned(), entries: Arc::default() });
        named.insert(name.to_owned(), Arc::downgrade(&store));
        store
    }

    /// All keys, in order.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let mut keys: Vec<_> = self.entries.lock().by_key.keys().cloned().collect();
        keys.sort_unstable();
        keys
    }

    fn taken(&self, attempt: String, holder: &str) -> MetadataError {
        MetadataError::Taken { location: self.location(), attempt, answer: format!("owner {holder} holds it") }
    }
}

impl Entries {
    fn watchers_of(&self, key: &str) -> Vec<OnChange> {
        self.watches.iter().filter(|watch| watch.key == key).map(|watch| Arc::clone(&watch.on_change)).collect()
    }

    /// The version of what a reader sees; a missing key has version 0.
    fn version_of(&self, key: &str) -> u64 {
        self.by_key.get(key).map_or(0, |entry| entry.version)
    }
}

fn tell(watchers: Vec<OnChange>) {
    for on_change in watchers {
        on_change();
    }
}

impl MetadataStore for MemoryStore {
    fn location(&self) -> String {
        format!("memory:{}", self.name)
    }

    fn get(&self, key: &str, _deadline: Deadline) -> Result<Option<Versioned>, MetadataError> {
        let entries = self.entries.lock();
        let entry = entries.by_key.get(key);
        Ok(entry.map(|entry| Versioned { text: entry.text.clone(), version: Some(entry.version) }))
    }

    fn put(&self, key: &str, text: &str, owner: Option<&Ownership>, _deadline: Deadline) -> Result<(), MetadataError> {
        let mut entries = self.entries.lock();
        let old = entries.by_key.get(key);
        if old.is_some_and(|old| old.text == text && old.owner.as_deref() == owner.map(|owner| owner.id.as_str())) {
            return Ok(());
        }
        if let Some(holder) = old.filter(|old| old.text != text && key.contains("rpc_meta/"))
            && let Some(holder) = holder.owner.as_deref()
            && owner.is_none_or(|owner| owner.id != holder)
        {
            return Err(self.taken(format!("PUT of {key}"), holder));
        }
        entries.version += 1;
        let version = entries.version;
        let owner = owner.map(|owner| owner.id.clone());
        entries.by_key.insert(key.to_owned(), Entry { text: text.to_owned(), version, owner });
        let watchers = entries.watchers_of(key);
        drop(entries);
        tell(watchers);
        Ok(())
    }

    fn remove(&self, key: &str, owner: Option<&Ownership>, _deadline: Deadline) -> Result<bool, MetadataError> {
        let mut entries = self.entries.lock();
        let Some(old) = entries.by_key.get(key) else { return Ok(false) };
        if let (Some(holder), Some(owner)) = (&old.owner, owner)
            && *holder != owner.id
        {
            return Err(self.taken(format!("DELETE of {key}"), holder));
        }
        entries.by_key.remove(key);
        entries.version += 1;
        let watchers = entries.watchers_of(key);
        drop(entries);
        tell(watchers);
        Ok(true)
    }

    fn list(&self, prefix: &str, _deadline: Deadline) -> Result<Vec<String>, MetadataError> {
        Ok(self.keys().into_iter().filter(|key| key.starts_with(prefix)).collect())
    }

    fn watch(&self, key: &str, known: Option<u64>, on_change: OnChange) -> Option<Watch> {
        let mut entries = self.entries.lock();
        entries.last_watch += 1;
        let number = entries.last_watch;
        entries.watches.push(Watching { number, key: key.to_owned(), on_change: Arc::clone(&on_change) });
        let changed = entries.version_of(key) != known.unwrap_or(0);
        drop(entries);
        if changed {
            on_change();
        }
        let entries = Arc::downgrade(&self.entries);
        Some(Watch::new(move || {
            if let Some(entries) = entries.upgrade() {
                entries.lock().watches.retain(|watch| watch.number != number);
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    fn owner(id: &str) -> Ownership {
        Ownership { id: id.into(), ttl: Duration::from_secs(1) }
    }

    fn soon() -> Deadline {
        Deadline::after(Duration::from_secs(1))
    }

    #[test]
    fn stores_of_one_name_are_one() {
        let store = MemoryStore::named("one");
        store.put("a", "1", None, soon()).unwrap();
        assert_eq!(MemoryStore::named("one").get("a", soon()).unwrap().unwrap().text, "1");
        assert_eq!(MemoryStore::named("other").get("a", soon()).unwrap(), None);
        drop(store);
        assert_eq!(MemoryStore::named("one").get("a", soon()).unwrap(), None);
    }

    #[test]
    fn a_name_belongs_to_its_owner_until_it_is_removed() {
        let store = MemoryStore::new();
        let key = "mooncake/rpc_meta/a:1";
        store.put(key, "1", Some(&owner("x")), soon()).unwrap();
        store.put(key, "1", Some(&owner("y")), soon()).unwrap();
        assert!(matches!(store.put(key, "2", Some(&owner("x")), soon()), Err(MetadataError::Taken { .. })));
        assert!(matches!(store.remove(key, Some(&owner("x")), soon()), Err(MetadataError::Taken { .. })));
        store.put(key, "2", Some(&owner("y")), soon()).unwrap();
        assert!(store.remove(key, Some(&owner("y")), soon()).unwrap());
        assert!(!store.remove(key, None, soon()).unwrap());
        store.put(key, "3", Some(&owner("x")), soon()).unwrap();
    }

    #[test]
    fn watches_tell_of_changes_until_they_are_dropped() {
        let store = MemoryStore::new();
        let count = Arc::new(AtomicU32::new(0));
        let seen = || count.load(Ordering::SeqCst);
        store.put("a", "1", None, soon()).unwrap();
        let version = store.get("a", soon()).unwrap().unwrap().version;
        let counter = Arc::clone(&count);
        let on_change: OnChange = Arc::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let watch = store.watch("a", version, Arc::clone(&on_change)).unwrap();
        assert_eq!(seen(), 0);
        store.put("a", "2", None, soon()).unwrap();
        store.put("b", "2", None, soon()).unwrap();
        assert_eq!(seen(), 1);
        store.remove("a", None, soon()).unwrap();
        assert_eq!(seen(), 2);
        drop(watch);
        store.put("a", "3", None, soon()).unwrap();
        assert_eq!(seen(), 2);
        // One that knows an older version hears of the change at once.
        let _late = store.watch("a", version, on_change).unwrap();
        assert_eq!(seen(), 3);
    }
}
