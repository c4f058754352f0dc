//! The namespaces on offer: one snapshot that all reactors read without a lock, replaced as a whole when it changes.
//!
//! A reactor keeps the snapshot that it read last and compares generations once a batch; only a change costs it a lock.

use super::limits;
use super::namespace::Namespace;
use crate::error::TargetError;
use nvferry_wire::Nsid;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// All namespaces at one moment.
pub(crate) type Snapshot = BTreeMap<Nsid, Arc<Namespace>>;

/// The namespaces on offer.
#[derive(Default)]
pub(crate) struct NamespaceTable {
    generation: AtomicU64,
    current: Mutex<Arc<Snapshot>>,
    /// Withdrawn, perhaps with commands under way.
    leaving: Mutex<Vec<Weak<Namespace>>>,
}

impl NamespaceTable {
    fn lock(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        // The table is replaced in one store, so a poisoned lock is whole.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with every change of the table.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The table now, and its generation.
    pub(crate) fn snapshot(&self) -> (u64, Arc<Snapshot>) {
        let current = self.lock();
        // Under the lock, so that both belong together.
        (self.generation.load(Ordering::Relaxed), Arc::clone(&current))
    }

    /// Offers a namespace, unless its id or its file is offered already, or commands of its last time are under way: they
    /// could undo what comes now.
    pub(crate) fn insert(&self, namespace: Arc<Namespace>) -> Result<(), TargetError> {
        let mut current = self.lock();
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|leaving| leaving.strong_count() > 0);
        let same = |there: &Arc<Namespace>| there.identity == namespace.identity && there.in_flight() > 0;
        if let Some(busy) = leaving.iter().filter_map(Weak::upgrade).find(same) {
            let action = format!("offering {} again", namespace.info.path.display());
            return Err(TargetError::StillBusy { action, commands: busy.in_flight() });
        }
        let (nsid, path) = (namespace.info.nsid, || namespace.info.path.clone());
        if let Some(there) = current.get(&nsid) {
            return Err(TargetError::NsidInUse { path: path(), nsid, offered_as: there.info.path.clone() });
        }
        if let Some(there) = current.values().find(|there| there.identity == namespace.identity) {
            let offered_as = there.info.path.clone();
            return Err(TargetError::AlreadyOffered { path: path(), nsid: there.info.nsid, offered_as });
        }
        if current.len() >= limits::MAX_NAMESPACES {
            return Err(TargetError::TooManyNamespaces { path: path(), max: limits::MAX_NAMESPACES });
        }
        let mut next = Snapshot::clone(&current);
        next.insert(nsid, namespace);
        self.publish(&mut current, next);
        Ok(())
    }

    /// Takes a namespace off the table: reactors learn of it with their next batch.
    pub(crate) fn remove(&self, nsid: Nsid) -> Result<Arc<Namespace>, TargetError> {
        let mut current = self.lock();
        let mut next = Snapshot::clone(&current);
        let namespace = next.remove(&nsid).ok_or(TargetError::UnknownNamespace { nsid })?;
        namespace.withdraw();
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&namespace));
        self.publish(&mut current, next);
        Ok(namespace)
    }

    fn publish(&self, current: &mut Arc<Snapshot>, next: Snapshot) {
        *current = Arc::new(next);
        self.generation.fetch_add(1, Ordering::Release);
    }
}
