//! The one thread that changes anything. It takes all requests that wait, decides them in order, makes what
//! changed durable in one commit, shows it to readers, and then answers; between requests it expires owners.

use super::directory::{Command, Directory, Outcome};
use super::disk::{Disk, DiskError};
use super::limits::Limits;
use super::metrics::Metrics;
use super::view::{Change, Version, View};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

/// How often a store that failed is tried again when nobody asks.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Why a change could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WriteError {
    #[error("too many changes wait already; try again")]
    Busy,
    #[error("the server is stopping; try again at the one that takes its place")]
    Stopping,
    #[error("{0}; the change may be lost, try again")]
    Disk(Arc<str>),
}

/// What readers and the writer share.
#[derive(Debug)]
pub(super) struct Shared {
    view: RwLock<View>,
    /// The last version shown; readers wait on it.
    shown: watch::Sender<Version>,
    /// Why the last commit failed, until one succeeds.
    failing: Mutex<Option<Arc<str>>>,
}

impl Shared {
    fn new(view: View) -> Self {
        let shown = watch::Sender::new(view.version);
        Self { view: RwLock::new(view), shown, failing: Mutex::new(None) }
    }

    /// What readers see now. Hold it shortly: the writer waits.
    pub(super) fn view(&self) -> RwLockReadGuard<'_, View> {
        // The writer's part is one `apply` a change; a panic there cannot leave half of one.
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the changes from here on.
    pub(super) fn changes(&self) -> watch::Receiver<Version> {
        self.shown.subscribe()
    }

    /// Why nothing can be written, if so.
    pub(super) fn failing(&self) -> Option<Arc<str>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, changes: &[Change]) {
        let version = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            changes.iter().for_each(|change| view.apply(change));
            view.version
        };
        self.shown.send_if_modified(|shown| std::mem::replace(shown, version) != version);
    }

    fn show_all(&self, new: &View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = new.clone();
        self.shown.send_replace(new.version);
    }

    fn set_failing(&self, reason: Option<Arc<str>>) {
        *self.failing.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

struct Request {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, WriteError>>,
    /// The body's share of the bound on bodies; free again when the request has been carried out.
    room: Option<OwnedSemaphorePermit>,
}

/// Sends requests to the writer. When the last clone is gone, the writer ends.
#[derive(Clone)]
pub(super) struct WriterHandle {
    requests: SyncSender<Request>,
    shared: Arc<Shared>,
}

impl WriterHandle {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Carries out a request; when this returns, its effect is durable and visible.
    pub(super) async fn execute(
        &self,
        command: Command,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Outcome, WriteError> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(Request { command, answer, room }).map_err(|error| match error {
            TrySendError::Full(_) => WriteError::Busy,
            TrySendError::Disconnected(_) => WriteError::Stopping,
        })?;
        answered.await.unwrap_or(Err(WriteError::Stopping))
    }
}

/// Opens the store, reads what it kept, and starts the writer.
pub(super) fn start(
    store: Option<PathBuf>,
    limits: &Limits,
    metrics: Arc<Metrics>,
) -> Result<(WriterHandle, JoinHandle<()>), StartWriterError> {
    let (disk, (view, leases)) = match &store {
        Some(path) => {
            let (disk, kept) = Disk::open(path)?;
            (Some(disk), kept)
        }
        None => (None, (View::default(), Vec::new())),
    };
    let shared = Arc::new(Shared::new(view.clone()));
    let directory = Directory::new(view, leases, limits.clone(), Instant::now());
    let (sender, requests) = sync_channel(limits.connections.max(1));
    let mut writer = Writer {
        directory,
        disk,
        store,
        limits: limits.clone(),
        shared: Arc::clone(&shared),
        requests,
        batch: Vec::new(),
        metrics,
    };
    writer.count();
    let thread = std::thread::Builder::new()
        .name("nvferry-meta-w".into())
        .spawn(move || writer.run())
        .map_err(StartWriterError::Thread)?;
    Ok((WriterHandle { requests: sender, shared }, thread))
}

/// Why the writer did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartWriterError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

struct Writer {
    directory: Directory,
    /// `None` when nothing is kept, or when the last commit failed and the store must be opened anew.
    disk: Option<Disk>,
    store: Option<PathBuf>,
    limits: Limits,
    shared: Arc<Shared>,
    requests: Receiver<Request>,
    batch: Vec<Request>,
    metrics: Arc<Metrics>,
}

impl Writer {
    fn run(&mut self) {
        loop {
            match self.next() {
                Ok(first) => self.batch.extend(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // Bounded by the channel, which takes no more than one request of each connection.
            self.batch.extend(self.requests.try_iter().take(self.limits.connections));
            self.carry_out();
        }
    }

    /// Waits for a request, at most until an owner expires or a store that failed is to be tried again.
    fn next(&self) -> Result<Option<Request>, RecvTimeoutError> {
        if self.store.is_some() && self.disk.is_none() {
            return self.requests.recv_timeout(REOPEN_INTERVAL).map(Some);
        }
        match self.directory.next_expiry() {
            Some(at) => self.requests.recv_timeout(at.saturating_duration_since(Instant::now())).map(Some),
            None => self.requests.recv().map(Some).map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn carry_out(&mut self) {
        if let Err(error) = self.reopen() {
            return self.fail(&error);
        }
        let now = Instant::now();
        let mut changes = Vec::new();
        let answers: Vec<_> = self
            .batch
            .drain(..)
            .map(|request| {
                let outcome = self.directory.execute(request.command, now, &mut changes);
                (request.answer, outcome, request.room)
            })
            .collect();
        // After the requests: a renewal that waited here while the disk was slow came in time.
        let expired = self.directory.expire(now, &mut changes);
        if !changes.is_empty() {
            if let Err(error) = self.commit(&changes) {
                let error = WriteError::Disk(self.failed(&error));
                answers.into_iter().for_each(|(answer, ..)| drop(answer.send(Err(error.clone()))));
                return;
            }
            if expired > 0 {
                tracing::info!(entries = expired, "removed what owners left behind that stopped renewing");
                self.metrics.expired_entries.inc_by(expired as u64);
            }
            // Counted first: whoever sees the change sees it counted.
            self.count();
            self.shared.show(&changes);
        }
        // Whoever has gone away meanwhile does not hear of it.
        answers.into_iter().for_each(|(answer, outcome, _)| drop(answer.send(Ok(outcome))));
    }

    fn commit(&self, changes: &[Change]) -> Result<(), DiskError> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let started = Instant::now();
        disk.commit(changes, self.directory.view())?;
        self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
        Ok(())
    }

    /// After a failed commit the store is opened anew, and what it really holds counts.
    fn reopen(&mut self) -> Result<(), DiskError> {
        if let (Some(path), None) = (&self.store, &self.disk) {
            let (disk, (view, leases)) = Disk::open(path)?;
            self.disk = Some(disk);
            self.shared.show_all(&view);
            self.directory = Directory::new(view, leases, self.limits.clone(), Instant::now());
            self.shared.set_failing(None);
            self.metrics.store_failing.set(0);
            self.count();
            tracing::info!(store = %path.display(), "the metadata store works again");
        }
        Ok(())
    }

    fn fail(&mut self, error: &DiskError) {
        let error = WriteError::Disk(self.failed(error));
        self.batch.drain(..).for_each(|request| drop(request.answer.send(Err(error.clone()))));
    }

    fn failed(&mut self, error: &DiskError) -> Arc<str> {
        tracing::error!(%error, "the metadata store failed");
        let reason: Arc<str> = error.to_string().into();
        self.shared.set_failing(Some(Arc::clone(&reason)));
        self.metrics.store_failing.set(1);
        self.disk = None;
        reason
    }

    fn count(&self) {
        let view = self.directory.view();
        self.metrics.entries.set(view.entries.len() as i64);
        self.metrics.entries_bytes.set(i64::try_from(view.total_bytes).unwrap_or(i64::MAX));
        self.metrics.owners.set(self.directory.owners() as i64);
    }
}

#[cfg(test)]
mod tests;
