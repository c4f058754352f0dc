//! Keeps the entries in one file over restarts: redb, an embedded store whose commits survive a crash.
//!
//! Three tables: `entries` (key → version, owner or "", value), `leases` (owner → milliseconds), `counters`
//! (`format`, `version`, `last_removal`). One commit holds the changes of one batch, and is on the disk when it
//! returns.

use super::view::{Change, Entry, OwnerId, View};
use hyper::body::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const ENTRIES: TableDefinition<'_, &str, (u64, &str, &[u8])> = TableDefinition::new("entries");
const LEASES: TableDefinition<'_, &str, u64> = TableDefinition::new("leases");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Raised when older programs could not read the tables any more.
const FORMAT: u64 = 1;

/// redb's own page cache; the entries are in memory anyway.
const CACHE_BYTES: usize = 16 << 20;

/// Why the store's file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Another process has it.
    #[error("the metadata store {} is in use by another process; end that one, or choose another file", .0.display())]
    InUse(PathBuf),
    /// The file is not one of ours, or of a later version.
    #[error("the file {} is not a metadata store that this version can read ({reason}); choose another file", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The operating system failed.
    #[error("the metadata store {} cannot be {action}: {cause}; choose another place for it", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why not.
        cause: Box<redb::Error>,
    },
}

/// What was kept.
pub(super) type Kept = (View, Vec<(OwnerId, Duration)>);

/// An open store.
pub(super) struct Disk {
    database: Database,
    path: PathBuf,
}

impl Disk {
    /// Opens the file, or makes it, and reads everything in it.
    pub(super) fn open(path: &Path) -> Result<(Self, Kept), DiskError> {
        let database =
            Database::builder().set_cache_size(CACHE_BYTES).create(path).map_err(|error| open_error(path, error))?;
        Self::with(database, path)
    }

    fn with(database: Database, path: &Path) -> Result<(Self, Kept), DiskError> {
        let disk = Self { database, path: path.to_owned() };
        let kept = disk.read()?;
        Ok((disk, kept))
    }

    /// A store on anything that redb can write to.
    #[cfg(test)]
    pub(super) fn on_backend(backend: impl redb::StorageBackend, path: &Path) -> Result<Self, DiskError> {
        let database = Database::builder().create_with_backend(backend).map_err(|error| open_error(path, error))?;
        Self::with(database, path).map(|(disk, _)| disk)
    }

    fn read(&self) -> Result<Kept, DiskError> {
        self.make_tables().map_err(|error| self.error("prepared", error))?;
        let (kept, format) = self.read_tables().map_err(|error| self.error("read", error))?;
        if format != FORMAT {
            let reason = format!("its format is {format}, this version's is {FORMAT}");
            return Err(DiskError::Foreign { path: self.path.clone(), reason });
        }
        Ok(kept)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut counters = transaction.open_table(COUNTERS)?;
            if counters.get("format")?.is_none() {
                counters.insert("format", FORMAT)?;
            }
            transaction.open_table(ENTRIES)?;
            transaction.open_table(LEASES)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn read_tables(&self) -> Result<(Kept, u64), redb::Error> {
        let transaction = self.database.begin_read()?;
        let mut view = View::default();
        for row in transaction.open_table(ENTRIES)?.iter()? {
            let (key, row) = row?;
            let (version, owner, value) = row.value();
            let owner = (!owner.is_empty()).then(|| Arc::from(owner));
            let entry = Entry { version, owner, value: Bytes::copy_from_slice(value) };
            view.apply(&Change::Put { key: Arc::from(key.value()), entry });
        }
        let mut leases = Vec::new();
        for row in transaction.open_table(LEASES)?.iter()? {
            let (owner, ttl_ms) = row?;
            leases.push((Arc::from(owner.value()), Duration::from_millis(ttl_ms.value())));
        }
        let counters = transaction.open_table(COUNTERS)?;
        let counter = |name| counters.get(name).map(|row| row.map_or(0, |row| row.value()));
        view.version = view.version.max(counter("version")?);
        view.last_removal = counter("last_removal")?;
        let format = counter("format")?;
        Ok(((view, leases), format))
    }

    /// Makes the changes durable. `after` is the view that they lead to.
    pub(super) fn commit(&self, changes: &[Change], after: &View) -> Result<(), DiskError> {
        self.write_tables(changes, after).map_err(|error| self.error("written", error))
    }

    fn write_tables(&self, changes: &[Change], after: &View) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            let mut leases = transaction.open_table(LEASES)?;
            for change in changes {
                match change {
                    Change::Put { key, entry } => {
                        let owner = entry.owner.as_deref().unwrap_or("");
                        entries.insert(&**key, (entry.version, owner, &*entry.value))?;
                    }
                    Change::Remove { key, .. } => {
                        entries.remove(&**key)?;
                    }
                    Change::Lease { owner, ttl_ms } => {
                        leases.insert(&**owner, ttl_ms)?;
                    }
                    Change::NoLease { owner } => {
                        leases.remove(&**owner)?;
                    }
                }
            }
            let mut counters = transaction.open_table(COUNTERS)?;
            counters.insert("version", after.version)?;
            counters.insert("last_removal", after.last_removal)?;
        }
        transaction.commit()?;
        Ok(())
    }

    fn error(&self, action: &'static str, source: redb::Error) -> DiskError {
        match source {
            redb::Error::TableTypeMismatch { .. } | redb::Error::TypeDefinitionChanged { .. } => {
                DiskError::Foreign { path: self.path.clone(), reason: source.to_string() }
            }
            cause => DiskError::Io { path: self.path.clone(), action, cause: cause.into() },
        }
    }
}

fn open_error(path: &Path, error: redb::DatabaseError) -> DiskError {
    use redb::{DatabaseError, StorageError};
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen => DiskError::InUse(path),
        DatabaseError::UpgradeRequired(_) | DatabaseError::Storage(StorageError::Corrupted(_)) => {
            DiskError::Foreign { path, reason: error.to_string() }
        }
        // What redb says of a file that does not begin as its files do.
        DatabaseError::Storage(StorageError::Io(io)) if io.kind() == std::io::ErrorKind::InvalidData => {
            DiskError::Foreign { path, reason: io.to_string() }
        }
        error => DiskError::Io { path, action: "opened", cause: Box::new(error.into()) },
    }
}

#[cfg(test)]
mod tests;
