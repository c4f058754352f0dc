//! What this engine itself offers: its files, and the segment that it publishes for them.
//!
//! The order of things: a file is offered by the transport first and published then, so that whoever finds it can use
//! it; it is withdrawn in the opposite order, and what readers have under way drains. The server name is claimed with
//! the first file, and what was published is published again at a third of its time to live, so that it does not expire
//! while this engine lives, comes back when the service lost it, and goes when this engine is gone.

use super::Core;
use crate::deadline::Deadline;
use crate::error::{EngineError, ErrorKind};
use crate::ids::FileBufferId;
use crate::metadata::{MetadataError, Ownership};
use crate::segment::{FileBufferDesc, SegmentDesc, holds_more_than, merge, without};
use crate::transport::Transport;
use parking_lot::{Condvar, Mutex, MutexGuard};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The first pause after a publication that failed, doubling up to the usual interval.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The engine's own segment.
pub(super) struct Own {
    state: Mutex<OwnState>,
    changed: Condvar,
    is_stopped: AtomicBool,
    ownership: Ownership,
}

struct OwnState {
    last_file: u32,
    files: Vec<OwnFile>,
    /// What is meant to be published; `None` for nothing.
    wanted: Option<Arc<dyn Transport>>,
    /// What was last published, or tried to be.
    published: Option<SegmentDesc>,
    /// The same, until another engine of this server name published its own over it. Until that is gone, nothing is published.
    lost: Option<SegmentDesc>,
    is_name_claimed: bool,
    /// When to publish again.
    due: Option<Instant>,
    publisher: Option<JoinHandle<()>>,
}

struct OwnFile {
    desc: FileBufferDesc,
    /// As the caller named it.
    path: PathBuf,
    /// Where that leads, to find the same file under another name.
    canonical: PathBuf,
    transport: Arc<dyn Transport>,
}

impl Own {
    pub(super) fn new(server_name: &str, ttl: Duration) -> Self {
        let state = OwnState {
            last_file: 0,
            files: Vec::new(),
            wanted: None,
            published: None,
            lost: None,
            is_name_claimed: false,
            due: None,
            publisher: None,
        };
        let ownership = Ownership { id: owner_id(server_name), ttl };
        Self { state: Mutex::new(state), changed: Condvar::new(), is_stopped: AtomicBool::new(false), ownership }
    }

    fn turn(&self, attempt: &str, deadline: Deadline) -> Result<MutexGuard<'_, OwnState>, EngineError> {
        self.state.try_lock_until(deadline.instant()).ok_or_else(|| {
            let message = format!("{attempt}: another call on this engine's own files has not ended in time");
            EngineError::new(ErrorKind::TooManyRequests, message)
        })
    }
}

/// Unique to this run, and readable: the server name's plain characters, and random ones.
fn owner_id(server_name: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    let name: String = server_name.chars().filter(char::is_ascii_graphic).take(64).collect();
    // Each `RandomState` has random keys from the operating system.
    let random = || RandomState::new().hash_one(std::process::id());
    format!("{name}#{:016x}{:016x}", random(), random())
}

impl Core {
    pub(super) fn register_local_file(
        self: &Arc<Self>,
        transport: &Arc<dyn Transport>,
        path: &Path,
        size_bytes: u64,
        deadline: Deadline,
    ) -> Result<FileBufferId, EngineError> {
        let attempt = format!("register file {}", path.display());
        let refused = |why: &str| Err(EngineError::new(ErrorKind::InvalidArgument, format!("{attempt}: {why}")));
        if path.as_os_str().is_empty() {
            return refused("its path is empty");
        }
        if path.to_str().is_none() {
            return refused("its path is not UTF-8, and could not be published");
        }
        if size_bytes == 0 {
            return refused("its size is 0: say how many bytes of it may be used");
        }
        let mut state = self.own.turn(&attempt, deadline)?;
        self.check_open()?;
        let canonical = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Some(file) = state.files.iter().find(|file| file.path == path || file.canonical == canonical) {
            return refused(&format!("it is registered already, as file {}", file.desc.id));
        }
        if let Some(other) = state.files.iter().find(|file| !Arc::ptr_eq(&file.transport, transport)) {
            let why = format!(
                "this engine's segment offers files through {} already, and a segment has one protocol",
                other.transport.protocol()
            );
            return refused(&why);
        }
        let Some(next) = state.last_file.checked_add(1) else { return refused("all file ids are used up") };
        let id = FileBufferId(next);
        let desc = transport.register_file(id, path, size_bytes)?;
        state.last_file = next;
        let canonical = std::fs::canonicalize(path).unwrap_or(canonical);
        state.files.push(OwnFile { desc, path: path.to_owned(), canonical, transport: Arc::clone(transport) });
        let first = state.wanted.is_none();
        state.wanted = Some(Arc::clone(transport));
        let Err(error) = self.publish(&mut state, deadline) else {
            self.start_publisher(&mut state);
            return Ok(id);
        };
        // Nothing stays: neither the namespace, nor what the service may have taken of it before the error.
        state.files.retain(|file| file.desc.id != id);
        if first {
            state.wanted = None;
        }
        self.publish_or_retry(&mut state, deadline.max(Deadline::after(Duration::from_secs(1))));
        if let Err(undo) = transport.unregister_file(id, deadline.instant()) {
            tracing::warn!(path = %path.display(), error = %undo, "taking the file back after a failure");
        }
        let kind = EngineError::from(error.clone()).kind();
        Err(EngineError::new(kind, format!("{attempt}: it could not be published: {error}")))
    }

    /// Withdraws the file from the description first, so that nobody finds it any more, then lets it drain.
    pub(super) fn unregister_local_file(self: &Arc<Self>, path: &Path, deadline: Deadline) -> Result<(), EngineError> {
        let attempt = format!("unregister file {}", path.display());
        let mut state = self.own.turn(&attempt, deadline)?;
        let canonical = std::fs::canonicalize(path).ok();
        let is_it = |file: &OwnFile| file.path == path || Some(&file.canonical) == canonical.as_ref();
        let Some(index) = state.files.iter().position(is_it) else {
            let message = format!("{attempt}: it is not registered with this engine");
            return Err(EngineError::new(ErrorKind::DeviceNotFound, message));
        };
        let file = state.files.remove(index);
        self.publish_or_retry(&mut state, deadline.halfway());
        drop(state);
        file.transport.unregister_file(file.desc.id, deadline.instant())
    }

    /// The engine's segment as it would be published now; none while another engine has its name.
    pub(super) fn own_segment(&self) -> Option<SegmentDesc> {
        let state = self.own.state.lock();
        let wanted = state.wanted.as_ref().filter(|_| state.lost.is_none());
        wanted.map(|transport| self.describe(&state, transport))
    }

    /// Withdraws the segment. Its files are still served to those who have it open.
    pub(super) fn withdraw(&self, deadline: Deadline) -> Result<(), EngineError> {
        let mut state = self.own.turn(&format!("withdraw segment {}", self.server_name), deadline)?;
        state.wanted = None;
        Ok(self.publish(&mut state, deadline)?)
    }

    /// Withdraws the segment and takes all files of this transport back, or of all transports.
    pub(super) fn take_files_back(&self, protocol: Option<&str>, deadline: Deadline) -> Result<(), EngineError> {
        let mut state = self.own.turn("take all files back", deadline)?;
        let is_chosen = |file: &OwnFile| protocol.is_none_or(|protocol| file.transport.protocol() == protocol);
        let (chosen, kept) = std::mem::take(&mut state.files).into_iter().partition(is_chosen);
        state.files = kept;
        let mut result = Ok(());
        if protocol.is_none_or(|protocol| state.wanted.as_ref().is_some_and(|wanted| wanted.protocol() == protocol)) {
            state.wanted = None;
            result = self.publish(&mut state, deadline.halfway()).map_err(EngineError::from);
        }
        drop(state);
        let chosen: Vec<OwnFile> = chosen;
        for file in chosen {
            let taken = file.transport.unregister_file(file.desc.id, deadline.instant());
            result = result.and(taken);
        }
        result
    }

    /// Ends the publisher. One that is waiting for the metadata service just now is left to end by its own deadline.
    pub(super) fn stop_publisher(&self, deadline: Deadline) {
        self.own.is_stopped.store(true, Ordering::SeqCst);
        let Ok(mut state) = self.own.turn("stop publishing", deadline) else { return };
        self.own.changed.notify_all();
        let publisher = state.publisher.take();
        drop(state);
        if publisher.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that publishes this engine's segment has panicked");
        }
    }

    fn describe(&self, state: &OwnState, transport: &Arc<dyn Transport>) -> SegmentDesc {
        let mut desc = SegmentDesc::new(&self.server_name, transport.protocol());
        transport.describe(&mut desc);
        desc.file_buffers = state.files.iter().map(|file| file.desc.clone()).collect();
        match state.published.as_ref().or(state.lost.as_ref()) {
            // The same text, when it is published again only to renew it: readers need not look at it. And whoever came
            // later is known by it, also when this engine is back before the other one.
            Some(published) if published.says_the_same(&desc) => desc.timestamp.clone_from(&published.timestamp),
            _ => desc.stamp(),
        }
        desc
    }

    /// Brings what the metadata service has in line with what is wanted.
    fn publish(&self, state: &mut OwnState, deadline: Deadline) -> Result<(), MetadataError> {
        let result = match state.wanted.clone() {
            Some(transport) => self.publish_wanted(state, &transport, deadline),
            None => self.remove_published(state, deadline),
        };
        let interval = self.own.ownership.ttl / 3;
        state.due = (state.wanted.is_some() || state.published.is_some() || state.is_name_claimed)
            .then(|| Instant::now() + interval);
        result
    }

    fn publish_or_retry(self: &Arc<Self>, state: &mut OwnState, deadline: Deadline) {
        if let Err(error) = self.publish(state, deadline) {
            tracing::warn!(%error, segment = self.server_name, "the published segment is out of date; trying again");
            state.due = Some(Instant::now() + FIRST_PAUSE);
            self.start_publisher(state);
            self.own.changed.notify_all();
        }
    }

    fn publish_wanted(
        &self,
        state: &mut OwnState,
        transport: &Arc<dyn Transport>,
        deadline: Deadline,
    ) -> Result<(), MetadataError> {
        let owner = &self.own.ownership;
        let ours = self.describe(state, transport);
        let key = self.keys.segment(&self.server_name);
        let published = self.published_under(&key, deadline)?;
        if let Some(other) = published.as_ref().and_then(|there| self.lost_to(state, there, &key)) {
            return Err(other);
        }
        state.lost = None;
        let (host, port) = host_and_port(&self.server_name);
        let rpc_meta = serde_json::json!({"ip_or_host_name": host, "rpc_port": port}).to_string();
        let claimed = self.store.put(&self.keys.rpc_meta(&self.server_name), &rpc_meta, Some(owner), deadline);
        state.is_name_claimed |= claimed.as_ref().err().is_none_or(MetadataError::may_be_done);
        claimed?;
        // Others' fields must not expire with this engine.
        let is_shared = published.as_ref().is_some_and(|published| holds_more_than(published, &ours));
        let merged = merge(published, &ours);
        let put = self.store.put(&key, &merged.to_json(), (!is_shared).then_some(owner), deadline);
        if put.as_ref().err().is_none_or(MetadataError::may_be_done) {
            state.published = Some(ours);
        }
        put
    }

    /// Whether the server name has another engine by now. A node that restarts takes its name over at once, whether the one
    /// before it is dead or not; if it is not, it finds out here, and steps back instead of taking turns.
    fn lost_to(&self, state: &mut OwnState, there: &SegmentDesc, key: &str) -> Option<MetadataError> {
        let mine = state.published.as_ref().or(state.lost.as_ref())?;
        let is_later = state.published.is_none() || there.timestamp > mine.timestamp;
        let (field, place) = mine.extra.iter().find(|(field, value)| there.extra.get(*field) != Some(value))?;
        let place = there.extra.get(field).filter(|there| *there != place)?;
        if there.protocol != mine.protocol || !is_later {
            return None;
        }
        let answer = format!(
            "another engine has published this server name since then, at {place}, so that this one's files are not \
             published until that is gone: give one of the two another name"
        );
        if let Some(published) = state.published.take() {
            state.lost = Some(published);
        }
        // What stands there is the other's.
        state.is_name_claimed = false;
        Some(MetadataError::Taken { location: self.store.location(), attempt: format!("publish {key}"), answer })
    }

    fn remove_published(&self, state: &mut OwnState, deadline: Deadline) -> Result<(), MetadataError> {
        let owner = &self.own.ownership;
        if let Some(ours) = &state.published {
            let key = self.keys.segment(&self.server_name);
            match self.published_under(&key, deadline)?.map(|published| without(published, ours)) {
                Some(Some(left)) => self.store.put(&key, &left.to_json(), None, deadline)?,
                Some(None) => drop(self.store.remove(&key, Some(owner), deadline)?),
                None => {}
            }
            state.published = None;
        }
        if state.is_name_claimed {
            self.store.remove(&self.keys.rpc_meta(&self.server_name), Some(owner), deadline)?;
            state.is_name_claimed = false;
        }
        Ok(())
    }

    /// What stands under this engine's own name now. What is no description there is of no use to anybody.
    fn published_under(&self, key: &str, deadline: Deadline) -> Result<Option<SegmentDesc>, MetadataError> {
        let Some(published) = self.store.get(key, deadline)? else { return Ok(None) };
        match SegmentDesc::from_json(&published.text) {
            Ok(desc) => Ok(Some(desc)),
            Err(why) => {
                tracing::warn!(key, %why, "replacing what stands under this engine's name");
                Ok(None)
            }
        }
    }

    fn start_publisher(self: &Arc<Self>, state: &mut OwnState) {
        if state.publisher.is_some() || self.own.is_stopped.load(Ordering::SeqCst) {
            return;
        }
        let core = Arc::downgrade(self);
        match std::thread::Builder::new().name("nvferry-publish".into()).spawn(move || run_publisher(&core)) {
            Ok(publisher) => state.publisher = Some(publisher),
            Err(error) => tracing::error!(%error, "no thread to publish with: the segment will expire"),
        }
    }
}

/// Publishes again whenever that is due, until it is stopped.
fn run_publisher(core: &Weak<Core>) {
    let mut pause = FIRST_PAUSE;
    // The engine is shut down, which ends this, before its last reference goes.
    while let Some(core) = core.upgrade() {
        let mut state = core.own.state.lock();
        if core.own.is_stopped.load(Ordering::SeqCst) {
            return;
        }
        match state.due {
            Some(due) if due <= Instant::now() => {
                let was_lost = state.lost.is_some();
                match core.publish(&mut state, core.control_deadline()) {
                    Ok(()) => {
                        if was_lost {
                            tracing::info!(
                                segment = core.server_name,
                                "published again: the other engine of this name is gone"
                            );
                        }
                        pause = FIRST_PAUSE;
                    }
                    Err(error) => {
                        // Two of one name may go on for days; that is said once.
                        if !(was_lost && matches!(error, MetadataError::Taken { .. })) {
                            tracing::warn!(%error, segment = core.server_name, "publishing failed; trying again");
                        }
                        state.due = Some(Instant::now() + pause);
                        pause = (pause * 2).min(core.own.ownership.ttl / 3).max(FIRST_PAUSE);
                    }
                }
            }
            Some(due) => drop(core.own.changed.wait_until(&mut state, due)),
            None => core.own.changed.wait(&mut state),
        }
    }
}

/// What the original calls the handshake's address: the server name's parts.
fn host_and_port(server_name: &str) -> (&str, u16) {
    /// The original's, for names without a port.
    const DEFAULT_PORT: u16 = 12001;
    match server_name.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?))) {
        // A bare IPv6 address has colons, but no port.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host.trim_start_matches('[').trim_end_matches(']'), port)
        }
        _ => (server_name, DEFAULT_PORT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_names_are_taken_apart() {
        assert_eq!(host_and_port("10.0.0.7:8081"), ("10.0.0.7", 8081));
        assert_eq!(host_and_port("node-a"), ("node-a", 12001));
        assert_eq!(host_and_port("node-a:x"), ("node-a:x", 12001));
        assert_eq!(host_and_port("[fe80::1]:8081"), ("fe80::1", 8081));
        assert_eq!(host_and_port("fe80::1"), ("fe80::1", 12001));
    }

    #[test]
    fn owners_are_unique_and_fit_a_header() {
        let (one, other) = (owner_id("10.0.0.7:8081 ü"), owner_id("10.0.0.7:8081 ü"));
        assert_ne!(one, other);
        assert!(one.starts_with("10.0.0.7:8081#") && one.len() <= 128, "{one}");
        assert!(owner_id(&"x".repeat(5000)).len() <= 128);
    }
}
