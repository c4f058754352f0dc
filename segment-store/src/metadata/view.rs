//! What readers see: every entry, and the versions. Changes reach it only after they are durable.

use hyper::body::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// Grows by one with every change of any value, and never goes back, also over restarts.
pub(super) type Version = u64;

/// Who published an entry, in its own words.
pub(super) type OwnerId = Arc<str>;

/// One published value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// When the value last changed.
    pub(super) version: Version,
    /// Whose it is; entries without an owner stay until they are deleted.
    pub(super) owner: Option<OwnerId>,
    /// The bytes, exactly as they came.
    pub(super) value: Bytes,
}

/// One effect of a request, for the disk and for the readers' view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// The entry is now this.
    Put { key: Arc<str>, entry: Entry },
    /// The entry is gone as of this version.
    Remove { key: Arc<str>, version: Version },
    /// The owner lives this many milliseconds without renewing.
    Lease { owner: OwnerId, ttl_ms: u64 },
    /// The owner has no lease any more.
    NoLease { owner: OwnerId },
}

/// All entries, ordered by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    pub(super) entries: BTreeMap<Arc<str>, Entry>,
    /// The version of the last change.
    pub(super) version: Version,
    /// The version of the last removal of any key. It stands for the version of a key that is not there: larger
    /// than any that the key had before, smaller than any that it can get.
    pub(super) last_removal: Version,
    /// Bytes of all keys and values.
    pub(super) total_bytes: u64,
}

impl View {
    /// The version of what a reader sees under `key`.
    pub(super) fn version_of(&self, key: &str) -> Version {
        self.entries.get(key).map_or(self.last_removal, |entry| entry.version)
    }

    /// Carries out a change. Leases are no concern of readers.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Put { key, entry } => {
                self.version = self.version.max(entry.version);
                self.total_bytes += size_bytes(key, &entry.value);
                if let Some(old) = self.entries.insert(Arc::clone(key), entry.clone()) {
                    self.total_bytes -= size_bytes(key, &old.value);
                }
            }
            Change::Remove { key, version } => {
                self.version = self.version.max(*version);
                self.last_removal = self.last_removal.max(*version);
                if let Some(old) = self.entries.remove(key) {
                    self.total_bytes -= size_bytes(key, &old.value);
                }
            }
            Change::Lease { .. } | Change::NoLease { .. } => {}
        }
    }

    /// The entries whose keys begin with `prefix` and come after `after`, in order.
    pub(super) fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Entry)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.entries.range::<str, _>((from, Bound::Unbounded)).take_while(move |(key, _)| key.starts_with(prefix))
    }
}

/// What an entry counts for in the bound on all bytes.
pub(super) fn size_bytes(key: &str, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64
}
