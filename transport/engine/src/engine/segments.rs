//! The segments that this engine has opened: their descriptions, and the way to reach them.
//!
//! A description is fetched when a segment is opened, again when a request names a file that it does not have (P6),
//! and whenever the metadata service says that it changed.
//!
//! Who has a segment open has chosen its files by what they were then. A target that starts again may describe others
//! under their ids; requests for those are refused until the caller says that it wants what is there now: by
//! `sync_segment_cache`, or by closing the segment and opening it anew.

use super::Core;
use crate::deadline::Deadline;
use crate::error::{EngineError, ErrorKind};
use crate::ids::{FileBufferId, SegmentId};
use crate::metadata::Watch;
use crate::segment::{FileBufferDesc, SegmentDesc};
use crate::transport::RemoteSegment;
use arc_swap::ArcSwap;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One description, and what follows from it. Replaced as a whole.
pub(crate) struct Snapshot {
    pub(crate) desc: SegmentDesc,
    pub(crate) protocol: &'static str,
    pub(crate) remote: Arc<dyn RemoteSegment>,
    /// By id, each once.
    sizes: Vec<(FileBufferId, u64)>,
    /// Files of which the description says by now that they are others, and how.
    replaced: Vec<(FileBufferId, String)>,
    target: Box<str>,
}

/// How a description is fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// It may have changed; if it has not, that was all.
    IfChanged,
    /// Its target is to be looked at in any case.
    Always,
    /// The caller asks for what is there now, whatever it was before.
    Anew,
}

/// The most files of which it is remembered what they were, those included that are not described any more.
const MAX_KNOWN: usize = 65_536;

/// What the files of an open segment are, by id.
#[derive(Default)]
struct Known(BTreeMap<FileBufferId, FileBufferDesc>);

impl Known {
    /// Takes over what is new in a description, and tells which of its files are others than they were.
    fn take(&mut self, desc: &SegmentDesc) -> Vec<(FileBufferId, String)> {
        let mut replaced = Vec::new();
        let mut seen = BTreeSet::new();
        // Of several with one id, the first counts.
        for file in desc.file_buffers.iter().filter(|file| seen.insert(file.id)) {
            let known = self.0.entry(file.id).or_insert_with(|| file.clone());
            if file.is_another_than(known) {
                let what = |file: &FileBufferDesc| match &file.identity {
                    Some(identity) => format!("{} ({identity})", file.path),
                    None => file.path.clone(),
                };
                let why = format!(
                    "it is another file than when the segment was opened: it was {}, and is {} now; to use what is there \
                     now, synchronise the segment's description, or close the segment and open it anew",
                    what(known),
                    what(file)
                );
                replaced.push((file.id, why));
            } else if known.identity.is_none() {
                known.identity.clone_from(&file.identity);
            }
        }
        if self.0.len() > MAX_KNOWN {
            // Those that are not described any more can only come back as others if the target starts again.
            self.0.retain(|id, _| desc.file(*id).is_some());
        }
        replaced
    }
}

impl Snapshot {
    fn new(
        desc: SegmentDesc,
        protocol: &'static str,
        remote: Arc<dyn RemoteSegment>,
        replaced: Vec<(FileBufferId, String)>,
    ) -> Arc<Self> {
        let mut sizes: Vec<_> = desc.file_buffers.iter().map(|file| (file.id, file.size)).collect();
        sizes.sort_by_key(|(id, _)| *id);
        sizes.dedup_by_key(|(id, _)| *id);
        let target = remote.target().into_boxed_str();
        Arc::new(Self { desc, protocol, remote, sizes, replaced, target })
    }

    /// The registered size of a file, in bytes.
    pub(crate) fn size_of(&self, file: FileBufferId) -> Option<u64> {
        let index = self.sizes.binary_search_by_key(&file, |(id, _)| *id).ok()?;
        Some(self.sizes[index].1)
    }

    /// Why requests for this file are refused, if it is another than when the segment was opened.
    pub(crate) fn replaced(&self, file: FileBufferId) -> Option<&str> {
        self.replaced.iter().find(|(id, _)| *id == file).map(|(_, why)| why.as_str())
    }
}

/// The description of the moment, for as long as it is looked at.
pub(crate) type Current = arc_swap::Guard<Arc<Snapshot>>;

/// A segment that was opened.
pub(crate) struct OpenSegment {
    id: SegmentId,
    name: Arc<str>,
    /// Read by every submit of every thread, replaced seldom: reading it writes nothing that threads share.
    current: ArcSwap<Snapshot>,
    /// The last user has closed it.
    closed: AtomicBool,
    /// Held while a newer description is fetched and taken over.
    refreshing: Mutex<Known>,
    watch: Mutex<Option<Watch>>,
}

impl OpenSegment {
    pub(crate) fn id(&self) -> SegmentId {
        self.id
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn current(&self) -> Current {
        self.current.load()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn path_of(&self, file: FileBufferId) -> Option<Box<str>> {
        let current = self.current();
        current.desc.file_buffers.iter().find(|desc| desc.id == file).map(|desc| desc.path.as_str().into())
    }

    pub(crate) fn target(&self) -> Box<str> {
        self.current().target.clone()
    }
}

enum Slot {
    /// Someone is opening it; wait for [`Segments::opened`].
    Opening,
    Open {
        segment: Arc<OpenSegment>,
        users: u32,
    },
}

#[derive(Default)]
struct Table {
    last_id: i32,
    by_name: HashMap<String, Slot>,
}

/// All open segments.
#[derive(Default)]
pub(crate) struct Segments {
    table: Mutex<Table>,
    opened: Condvar,
    by_id: RwLock<BTreeMap<SegmentId, Arc<OpenSegment>>>,
}

impl Segments {
    pub(crate) fn get(&self, id: SegmentId) -> Option<Arc<OpenSegment>> {
        self.by_id.read().get(&id).cloned()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<OpenSegment>> {
        match self.table.lock().by_name.get(name) {
            Some(Slot::Open { segment, .. }) => Some(Arc::clone(segment)),
            _ => None,
        }
    }

    pub(super) fn all(&self) -> Vec<Arc<OpenSegment>> {
        self.by_id.read().values().cloned().collect()
    }

    /// Counts one user less. Returns the segment when that was the last, or when `all_users` are to go.
    pub(super) fn release(&self, id: SegmentId, all_users: bool) -> Result<Option<Arc<OpenSegment>>, EngineError> {
        let mut table = self.table.lock();
        let unknown = || EngineError::new(ErrorKind::DeviceNotFound, format!("close segment {id}: it is not open"));
        let name = self.get(id).ok_or_else(unknown)?.name.to_string();
        let Some(Slot::Open { users, .. }) = table.by_name.get_mut(&name) else { return Err(unknown()) };
        *users -= 1;
        if *users > 0 && !all_users {
            return Ok(None);
        }
        table.by_name.remove(&name);
        Ok(self.by_id.write().remove(&id))
    }

    /// Whether any open segment is reached through this transport.
    pub(super) fn through(&self, protocol: &str) -> Vec<SegmentId> {
        let by_id = self.by_id.read();
        by_id.values().filter(|segment| segment.current().protocol == protocol).map(|segment| segment.id).collect()
    }
}

impl Core {
    /// Opens a segment, or counts one user more of an open one.
    pub(super) fn open_segment(self: &Arc<Self>, name: &str, deadline: Deadline) -> Result<SegmentId, EngineError> {
        self.check_open()?;
        if name.is_empty() {
            return Err(EngineError::new(ErrorKind::InvalidArgument, "open segment: its name is empty"));
        }
        let mut table = self.segments.table.lock();
        loop {
            match table.by_name.entry(name.to_owned()) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Slot::Opening);
                    break;
                }
                Entry::Occupied(mut occupied) => {
                    if let Slot::Open { segment, users } = occupied.get_mut() {
                        *users += 1;
                        return Ok(segment.id);
                    }
                }
            }
            if self.segments.opened.wait_until(&mut table, deadline.instant()).timed_out() {
                let message = format!("open segment {name}: another call is still opening it");
                return Err(EngineError::new(ErrorKind::Endpoint, message));
            }
        }
        table.last_id += 1;
        let id = SegmentId(table.last_id);
        drop(table);

        let opened = self.attach(name, deadline);
        let mut table = self.segments.table.lock();
        self.segments.opened.notify_all();
        let (snapshot, known, version) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                table.by_name.remove(name);
                return Err(error);
            }
        };
        let segment = Arc::new(OpenSegment {
            id,
            name: name.into(),
            current: ArcSwap::new(snapshot),
            closed: AtomicBool::new(false),
            refreshing: Mutex::new(known),
            watch: Mutex::new(None),
        });
        table.by_name.insert(name.to_owned(), Slot::Open { segment: Arc::clone(&segment), users: 1 });
        self.segments.by_id.write().insert(id, Arc::clone(&segment));
        drop(table);
        *segment.watch.lock() = self.watch_segment(id, &self.keys.segment(name), version);
        Ok(id)
    }

    fn attach(&self, name: &str, deadline: Deadline) -> Result<(Arc<Snapshot>, Known, Option<u64>), EngineError> {
        let (desc, version) = self.fetch(name, deadline)?;
        let transport = self.transport_for(&desc)?;
        let remote = transport.attach(&desc, deadline.instant())?;
        let mut known = Known::default();
        let replaced = known.take(&desc);
        Ok((Snapshot::new(desc, transport.protocol(), remote, replaced), known, version))
    }

    /// Reads a segment's description, and which version of it that is, from the metadata service.
    fn fetch(&self, name: &str, deadline: Deadline) -> Result<(SegmentDesc, Option<u64>), EngineError> {
        let key = self.keys.segment(name);
        let Some(published) = self.store.get(&key, deadline)? else {
            let message = format!(
                "segment {name}: {} has no such segment: is its target running, and does it use the same metadata \
                 service?",
                self.store.location()
            );
            return Err(EngineError::new(ErrorKind::DeviceNotFound, message));
        };
        let desc = SegmentDesc::from_json(&published.text).map_err(|why| {
            let message = format!("segment {name}: key {key} at {} {why}", self.store.location());
            EngineError::new(ErrorKind::MalformedJson, message)
        })?;
        Ok((desc, published.version))
    }

    /// Fetches a newer description and takes it over.
    pub(crate) fn refresh(&self, segment: &OpenSegment, how: Refresh, deadline: Deadline) -> Result<(), EngineError> {
        let name = &segment.name;
        let Some(mut known) = segment.refreshing.try_lock_until(deadline.instant()) else {
            let message = format!("segment {name}: another refresh of its description has not ended in time");
            return Err(EngineError::new(ErrorKind::Endpoint, message));
        };
        let (desc, _) = self.fetch(name, deadline)?;
        let current = segment.current();
        if desc.says_the_same(&current.desc) && how == Refresh::IfChanged {
            return Ok(());
        }
        let transport = self.transport_for(&desc)?;
        let mut replaced = known.take(&desc);
        let is_anew = how == Refresh::Anew && !replaced.is_empty();
        let next = if transport.protocol() == current.protocol && !is_anew {
            current.remote.update(&desc, deadline.instant())?;
            Snapshot::new(desc, current.protocol, Arc::clone(&current.remote), replaced)
        } else {
            // What is under way is for the files that were.
            let remote = transport.attach(&desc, deadline.instant())?;
            current.remote.close(deadline.instant());
            if is_anew {
                *known = Known::default();
                replaced = known.take(&desc);
            }
            Snapshot::new(desc, transport.protocol(), remote, replaced)
        };
        for (file, why) in &next.replaced {
            if current.replaced(*file).is_none() {
                tracing::warn!(segment = %name, file = file.0, why, "requests for a file are refused");
            }
        }
        segment.current.store(next);
        Ok(())
    }

    /// Counts one user less, and lets go of the segment after the last.
    pub(super) fn close_segment(&self, id: SegmentId, all_users: bool, deadline: Deadline) -> Result<(), EngineError> {
        if let Some(segment) = self.segments.release(id, all_users)? {
            segment.closed.store(true, Ordering::Release);
            *segment.watch.lock() = None;
            segment.current().remote.close(deadline.instant());
        }
        Ok(())
    }
}
