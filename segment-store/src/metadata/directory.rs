//! Decides what a request does to the entries and to their owners' leases. No I/O, and the time is an argument.
//!
//! An owner is alive as long as it renews: any `PUT` of any of its keys puts off the end of all of them. When it
//! stops, all its entries go. Owners without a time to live, and entries without an owner, stay until deleted.

use super::limits::Limits;
use super::view::{Change, Entry, OwnerId, Version, View, size_bytes};
use hyper::body::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Who sends a request, and for how long it lives without another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) owner: OwnerId,
    /// `None` leaves an existing lease's time as it is.
    pub(super) ttl: Option<Duration>,
}

/// A request that may change something.
#[derive(Debug, Clone)]
pub(super) enum Command {
    Put {
        key: Arc<str>,
        value: Bytes,
        claim: Option<Claim>,
    },
    /// With an owner: only if the entry is not another's.
    Delete {
        key: Arc<str>,
        owner: Option<OwnerId>,
    },
}

/// What became of it, with the key's version afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Updated(Version),
    Unchanged(Version),
    Deleted(Version),
    Missing(Version),
    Refused(Refusal),
}

/// Why a request was refused; nothing has changed then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// `rpc_meta` says where a server name is reached; two nodes must not have one name.
    #[error(
        "this server name is taken by another node ({holder}){}; give this node another name, or end the other and {}",
        until(.expires_in),
        if .expires_in.is_some() { "wait for that" } else { "delete the key" }
    )]
    NameTaken { holder: Holder, expires_in: Option<Duration> },
    #[error("this entry belongs to another node ({holder}), which published it later; it was not deleted")]
    NotYours { holder: Holder },
    #[error("the server holds {entries} entries and takes no more")]
    TooManyEntries { entries: usize },
    #[error("the server holds {total_bytes} bytes and takes no more")]
    TooManyBytes { total_bytes: u64 },
}

/// Whose an entry is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder(Option<OwnerId>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(owner) => write!(f, "owner {owner}"),
            None => f.write_str("one that gave no owner"),
        }
    }
}

fn until(expires_in: &Option<Duration>) -> String {
    expires_in.map_or_else(String::new, |left| format!(", which expires in {} ms unless it renews", left.as_millis()))
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    ttl: Duration,
    ends: Instant,
}

#[derive(Debug, Default)]
struct Owner {
    keys: BTreeSet<Arc<str>>,
    lease: Option<Lease>,
}

/// The entries and their owners' leases, as the writer has them.
#[derive(Debug)]
pub(super) struct Directory {
    view: View,
    owners: HashMap<OwnerId, Owner>,
    limits: Limits,
}

impl Directory {
    /// Takes up what was kept. Every owner gets its full time once more: the server was away, not the owner.
    pub(super) fn new(view: View, leases: Vec<(OwnerId, Duration)>, limits: Limits, now: Instant) -> Self {
        let mut owners: HashMap<OwnerId, Owner> = HashMap::new();
        for (key, entry) in &view.entries {
            if let Some(owner) = &entry.owner {
                owners.entry(Arc::clone(owner)).or_default().keys.insert(Arc::clone(key));
            }
        }
        for (owner, ttl) in leases {
            if let Some(owner) = owners.get_mut(&owner) {
                owner.lease = Some(Lease { ttl, ends: now + ttl });
            }
        }
        Self { view, owners, limits }
    }

    pub(super) fn view(&self) -> &View {
        &self.view
    }

    pub(super) fn owners(&self) -> usize {
        self.owners.len()
    }

    /// When the next owner expires, should none renew.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.owners.values().filter_map(|owner| owner.lease).map(|lease| lease.ends).min()
    }

    /// Carries out a request and adds what changed to `changes`.
    pub(super) fn execute(&mut self, command: Command, now: Instant, changes: &mut Vec<Change>) -> Outcome {
        match command {
            Command::Put { key, value, claim } => self.put(key, value, claim, now, changes),
            Command::Delete { key, owner } => self.delete(&key, owner.as_ref(), changes),
        }
    }

    fn put(
        &mut self,
        key: Arc<str>,
        value: Bytes,
        claim: Option<Claim>,
        now: Instant,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let old = self.view.entries.get(&key).cloned();
        let new_owner = claim.as_ref().map(|claim| Arc::clone(&claim.owner));
        let same_value = old.as_ref().is_some_and(|old| old.value == value);
        if let Some(old) = &old
            && !same_value
            && is_rpc_meta(&key)
            && let Some(refusal) = self.name_taken(old, new_owner.as_ref(), now)
        {
            return Outcome::Refused(refusal);
        }
        if let Some(refusal) = self.no_room(&key, &value, old.as_ref()) {
            return Outcome::Refused(refusal);
        }

        // Whoever publishes the same once more without saying who it is takes nothing from the owner.
        let owner = match (&old, &new_owner) {
            (Some(old), None) if same_value => old.owner.clone(),
            _ => new_owner,
        };
        let version = match &old {
            Some(old) if same_value => old.version,
            _ => self.view.version + 1,
        };
        let entry = Entry { version, owner, value };
        if old.as_ref() != Some(&entry) {
            self.put_entry(key, entry, old.and_then(|old| old.owner), changes);
        }
        if let Some(claim) = claim {
            self.renew(claim, now, changes);
        }
        if same_value { Outcome::Unchanged(version) } else { Outcome::Updated(version) }
    }

    /// A server name can be taken by its owner, and by anyone once that owner has expired.
    fn name_taken(&self, old: &Entry, owner: Option<&OwnerId>, now: Instant) -> Option<Refusal> {
        let lease = match &old.owner {
            Some(holder) if Some(holder) == owner => return None,
            Some(holder) => self.owners.get(holder).and_then(|holder| holder.lease),
            None => None,
        };
        let expires_in = lease.map(|lease| lease.ends.saturating_duration_since(now));
        if expires_in == Some(Duration::ZERO) {
            return None;
        }
        Some(Refusal::NameTaken { holder: Holder(old.owner.clone()), expires_in })
    }

    fn no_room(&self, key: &str, value: &Bytes, old: Option<&Entry>) -> Option<Refusal> {
        if old.is_none() && self.view.entries.len() >= self.limits.entries {
            return Some(Refusal::TooManyEntries { entries: self.view.entries.len() });
        }
        let old_bytes = old.map_or(0, |old| size_bytes(key, &old.value));
        let new_bytes = size_bytes(key, value);
        let grows = new_bytes > old_bytes;
        (grows && self.view.total_bytes - old_bytes + new_bytes > self.limits.total_bytes)
            .then_some(Refusal::TooManyBytes { total_bytes: self.view.total_bytes })
    }

    fn put_entry(&mut self, key: Arc<str>, entry: Entry, old_owner: Option<OwnerId>, changes: &mut Vec<Change>) {
        if old_owner != entry.owner {
            if let Some(old_owner) = old_owner {
                self.disown(&old_owner, &key, changes);
            }
            if let Some(owner) = &entry.owner {
                self.owners.entry(Arc::clone(owner)).or_default().keys.insert(Arc::clone(&key));
            }
        }
        self.change(Change::Put { key, entry }, changes);
    }

    fn renew(&mut self, claim: Claim, now: Instant, changes: &mut Vec<Change>) {
        let Some(owner) = self.owners.get_mut(&claim.owner) else { return };
        let old_ttl = owner.lease.map(|lease| lease.ttl);
        let Some(ttl) = claim.ttl.or(old_ttl) else { return };
        owner.lease = Some(Lease { ttl, ends: now + ttl });
        if old_ttl != Some(ttl) {
            let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            changes.push(Change::Lease { owner: claim.owner, ttl_ms });
        }
    }

    fn delete(&mut self, key: &Arc<str>, owner: Option<&OwnerId>, changes: &mut Vec<Change>) -> Outcome {
        let Some(old) = self.view.entries.get(key).cloned() else {
            return Outcome::Missing(self.view.last_removal);
        };
        if owner.is_some() && old.owner.is_some() && owner != old.owner.as_ref() {
            return Outcome::Refused(Refusal::NotYours { holder: Holder(old.owner) });
        }
        if let Some(owner) = old.owner {
            self.disown(&owner, key, changes);
        }
        Outcome::Deleted(self.remove(key, changes))
    }

    /// Removes what owners have left behind that did not renew in time; says how many entries went.
    pub(super) fn expire(&mut self, now: Instant, changes: &mut Vec<Change>) -> usize {
        let mut due: Vec<OwnerId> = self
            .owners
            .iter()
            .filter(|(_, owner)| owner.lease.is_some_and(|lease| lease.ends <= now))
            .map(|(id, _)| Arc::clone(id))
            .collect();
        due.sort_unstable();
        let mut removed = 0;
        for id in due {
            let Some(owner) = self.owners.remove(&id) else { continue };
            for key in &owner.keys {
                self.remove(key, changes);
                removed += 1;
            }
            changes.push(Change::NoLease { owner: id });
        }
        removed
    }

    /// The key is not this owner's any more; an owner of nothing is forgotten, with its lease.
    fn disown(&mut self, id: &OwnerId, key: &str, changes: &mut Vec<Change>) {
        let Some(owner) = self.owners.get_mut(id) else { return };
        owner.keys.remove(key);
        if owner.keys.is_empty()
            && let Some(owner) = self.owners.remove(id)
            && owner.lease.is_some()
        {
            changes.push(Change::NoLease { owner: Arc::clone(id) });
        }
    }

    fn remove(&mut self, key: &Arc<str>, changes: &mut Vec<Change>) -> Version {
        let version = self.view.version + 1;
        self.change(Change::Remove { key: Arc::clone(key), version }, changes);
        version
    }

    fn change(&mut self, change: Change, changes: &mut Vec<Change>) {
        self.view.apply(&change);
        changes.push(change);
    }
}

/// Whether the key says where a server name is reached.
fn is_rpc_meta(key: &str) -> bool {
    key.contains("rpc_meta/")
}

#[cfg(test)]
mod tests;
