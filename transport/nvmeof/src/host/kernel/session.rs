//! The thread of one attachment that is reached through the kernel.
//!
//! It connects, waits for the devices of the files that the segment describes, opens them and hands them to the workers.
//! Then it looks, twice a second and whenever a worker doubts a device, whether all is as it was: the kernel reconnects
//! by itself and holds I/O meanwhile, but it may give a controller up (`ctrl_loss_tmo`), and a target that restarts may
//! offer its files late, under other device names. What is away is awaited; requests for it wait until their deadlines.
//!
//! Connecting can block in the kernel for minutes. It happens on this thread only; a caller that gives up meanwhile goes,
//! and the connection that comes too late is removed again.

use super::connection::Connection;
use super::doorbell::Doorbell;
use super::fabrics::Fabrics;
use super::sysfs::Sysfs;
use crate::attachment::{Attachment, Latch};
use crate::host::identity::{Identities, described};
use crate::host::local::{LocalFiles, NoDevice};
use crate::host::userspace::control::Reply;
use crate::status::ConnectionState;
use crate::worker::{Order, WeakPool};
use nvferry_engine::error::ErrorKind;
use nvferry_engine::{EngineError, FileBufferDesc, FileBufferId};
use nvferry_libnvme_sys::ConnectRequest;
use nvferry_wire::Nsid;
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two looks while something is missing, or may be: from here, doubling.
const FIRST_PACE: Duration = Duration::from_millis(10);
/// The same at most, while something is missing.
const SLOWEST_SEARCH: Duration = Duration::from_millis(500);
/// Between two looks while all is well: less than the second that the kernel waits at least before it reconnects, so
/// that no loss goes unseen.
const CALM_PACE: Duration = Duration::from_millis(500);
/// A target that was lost may have restarted, and describes and offers its files one after the other: for so long after
/// it was found again, those that it had are awaited, not taken for withdrawn.
const RESTART_GRACE: Duration = Duration::from_secs(10);
/// Before connecting is tried again: from here, doubling.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// The same at most.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Files that have not come when no other has come for this long are not waited for any more, if there are others: one
/// file's trouble is not another's.
const SETTLED: Duration = Duration::from_secs(3);
/// How long a file is missing before the kernel is told to look: it does so by itself when the target announces it.
const FIRST_RESCAN: Duration = Duration::from_millis(200);
/// Between two such hints at most.
const LAST_RESCAN: Duration = Duration::from_secs(10);

/// How a segment is reached through the kernel.
#[derive(Debug, Clone)]
pub(crate) struct KernelTarget {
    pub(crate) sysfs: Sysfs,
    pub(crate) fabrics: Arc<dyn Fabrics>,
    pub(crate) request: ConnectRequest,
    pub(crate) direct: bool,
}

/// What the thread is told.
#[derive(Debug, Default)]
struct Mail {
    update: Option<(ConnectRequest, Vec<FileBufferDesc>, Reply)>,
    close: Option<Arc<Latch>>,
}

/// The way to an attachment's thread.
#[derive(Debug, Clone)]
pub(crate) struct KernelHost {
    mail: Arc<Mutex<Mail>>,
    bell: Arc<Doorbell>,
}

impl KernelHost {
    /// Starts the thread, named `nvferry-kernel`. `reply` hears when the files can be reached.
    ///
    /// # Errors
    /// When no thread can be had.
    pub(crate) fn start(
        attachment: Arc<Attachment>,
        pool: WeakPool,
        target: KernelTarget,
        files: Vec<FileBufferDesc>,
        reply: Reply,
    ) -> io::Result<Self> {
        let host = Self { mail: Arc::default(), bell: Arc::default() };
        let current = Arc::new(LocalFiles::of_no_devices(Arc::clone(&host.bell)));
        if let Some(pool) = pool.upgrade() {
            pool.order_all(|| Order::OpenLocal(Arc::clone(&attachment), Arc::clone(&current)));
        }
        let now = Instant::now();
        let mut identities = Identities::default();
        identities.learn(&described(&files));
        let session = Session {
            attachment,
            bell: Arc::clone(&host.bell),
            pool,
            target,
            files,
            identities,
            retained: Vec::new(),
            grace_until: now,
            replies: vec![reply],
            connection: None,
            current,
            missing: Vec::new(),
            was_up: false,
            is_lost: false,
            retry_at: now,
            retry_wait: FIRST_RETRY,
            progress_at: now,
            rescan_wait: FIRST_RESCAN,
            rescan_at: now + FIRST_RESCAN,
        };
        let (mail, bell) = (Arc::clone(&host.mail), Arc::clone(&host.bell));
        std::thread::Builder::new().name("nvferry-kernel".into()).spawn(move || session.run(&mail, &bell))?;
        Ok(host)
    }

    /// The segment is described so now.
    pub(crate) fn update(&self, request: ConnectRequest, files: Vec<FileBufferDesc>, reply: Reply) {
        self.mail.lock().update = Some((request, files, reply));
        self.bell.ring();
    }

    /// Something is missed: look at once.
    pub(crate) fn look(&self) {
        self.bell.ring();
    }

    /// Lets go of the devices, and of the connection if it was made here.
    pub(crate) fn close(&self, done: Arc<Latch>) {
        self.mail.lock().close = Some(done);
        self.bell.ring();
    }
}

struct Session {
    attachment: Arc<Attachment>,
    bell: Arc<Doorbell>,
    pool: WeakPool,
    target: KernelTarget,
    files: Vec<FileBufferDesc>,
    identities: Identities,
    /// Files that a target which may have restarted does not describe any more, or not yet.
    retained: Vec<FileBufferDesc>,
    /// Until when such files are awaited.
    grace_until: Instant,
    /// Who waits until the files can be reached.
    replies: Vec<Reply>,
    connection: Option<Connection>,
    current: Arc<LocalFiles>,
    /// What is not there, and why.
    missing: Vec<(FileBufferId, String)>,
    /// It was connected and live when it was looked at last.
    was_up: bool,
    /// It was, and has not been since.
    is_lost: bool,
    retry_at: Instant,
    retry_wait: Duration,
    /// When a file came, or others were asked for.
    progress_at: Instant,
    rescan_at: Instant,
    rescan_wait: Duration,
}

impl Session {
    fn run(mut self, mail: &Mutex<Mail>, bell: &Doorbell) {
        let mut pace = FIRST_PACE;
        loop {
            let Mail { update, close } = std::mem::take(&mut *mail.lock());
            if let Some(done) = close {
                // The devices before the connection that they are of.
                self.current = Arc::new(LocalFiles::of_no_devices(Arc::default()));
                self.connection = None;
                return done.count_down();
            }
            let now = Instant::now();
            if let Some((request, files, reply)) = update {
                self.update(request, files, reply, now);
            }
            self.look(now);
            let is_well = self.missing.is_empty() && self.was_up;
            let slowest = if is_well { CALM_PACE } else { SLOWEST_SEARCH };
            if bell.wait(Instant::now() + pace.min(slowest)) {
                pace = FIRST_PACE;
                // However often it is rung.
                std::thread::sleep(FIRST_PACE.saturating_sub(now.elapsed()));
            } else {
                pace = (pace * 2).min(slowest);
            }
        }
    }

    fn update(&mut self, request: ConnectRequest, files: Vec<FileBufferDesc>, reply: Reply, now: Instant) {
        if request != self.target.request {
            self.target.request = request;
            self.connection = None;
            self.retry_at = now;
        }
        let controller = self.connection.as_ref().and_then(|connection| connection.controller(&self.target.sysfs));
        self.is_lost |= self.was_up && !controller.is_some_and(|controller| controller.is_live());
        self.identities.learn(&described(&files));
        let before = std::mem::replace(&mut self.files, files);
        if self.is_lost || now < self.grace_until {
            self.retained.extend(before);
        }
        self.retained.retain(|old| !self.files.iter().any(|file| file.id == old.id));
        self.replies.push(reply);
        (self.progress_at, self.rescan_wait, self.rescan_at) = (now, FIRST_RESCAN, now + FIRST_RESCAN);
    }

    /// Looks at everything, and does what can be done about it.
    fn look(&mut self, now: Instant) {
        let sysfs = self.target.sysfs.clone();
        let controller = self.connection.as_ref().map(|connection| connection.controller(&sysfs));
        let mut controller = match controller {
            Some(None) => {
                let name = self.connection.take().map_or_else(String::new, |connection| connection.name);
                tracing::warn!(target: "nvferry::host", controller = name, "the kernel has given the controller up");
                (self.retry_at, self.retry_wait) = (now, FIRST_RETRY);
                self.is_lost |= self.was_up;
                None
            }
            Some(controller) => controller,
            None => None,
        };
        let mut trouble = None;
        if self.connection.is_none() && now >= self.retry_at {
            match Connection::open(&*self.target.fabrics, &sysfs, &self.target.request) {
                Ok(connection) => {
                    controller = connection.controller(&sysfs);
                    self.connection = Some(connection);
                    let now = Instant::now();
                    (self.progress_at, self.retry_wait) = (now, FIRST_RETRY);
                    (self.rescan_wait, self.rescan_at) = (FIRST_RESCAN, now + FIRST_RESCAN);
                }
                Err(refusal) => {
                    self.retry_at = Instant::now() + self.retry_wait;
                    self.retry_wait = (self.retry_wait * 2).min(LAST_RETRY);
                    if !refusal.may_pass {
                        self.answer(|| Err(refusal.error.clone()));
                    }
                    trouble = Some(refusal.error.to_string());
                }
            }
        }
        let is_live = controller.as_ref().is_some_and(|controller| controller.is_live());
        let is_back = is_live && self.is_lost;
        if let Some(controller) = controller.as_ref().filter(|_| !is_live) {
            trouble = Some(format!("the kernel reconnects {} (it is {})", controller.name, controller.state));
        }
        if is_back {
            self.is_lost = false;
            self.grace_until = now + RESTART_GRACE;
        }
        self.is_lost |= self.was_up && !is_live;
        self.was_up = is_live;
        if self.is_lost || is_back {
            self.bell.doubt_until(now + RESTART_GRACE);
        }
        if !self.is_lost && now >= self.grace_until {
            self.retained.clear();
        }
        self.find_devices(&sysfs);
        if is_back {
            // After the workers were told, so that who sees it meets the new devices.
            self.attachment.count_reconnect();
        }
        let is_reached = self.is_reached(Instant::now());
        if is_live
            && !is_reached
            && let Some((id, why)) = self.missing.first()
        {
            trouble = Some(format!("the device of file {id} does not come: {why}"));
        }
        match trouble {
            Some(why) => self.attachment.set_state(ConnectionState::Reconnecting(why)),
            None if is_live => self.attachment.set_state(ConnectionState::Connected),
            // Connecting is tried again later; what was said about it still holds.
            None => {}
        }
        if is_reached {
            // After the state, which who hears it may ask for.
            self.answer(|| Ok(()));
        }
        self.hint(&sysfs, is_live, Instant::now());
    }

    /// Looks for the files' devices, opens new ones, and tells the workers of any change.
    fn find_devices(&mut self, sysfs: &Sysfs) {
        let connection = self.connection.as_ref().map(|connection| connection.name.as_str());
        let identities = &mut self.identities;
        let mut device = |desc: &FileBufferDesc| {
            let nsid = Nsid(desc.id.0);
            let device = match connection {
                Some(connection) => sysfs.device(connection, nsid).map_err(NoDevice::Missing)?,
                None => return Err(NoDevice::Missing("the target is not connected".to_owned())),
            };
            match identities.replaced(nsid, device.nguid) {
                Some(was) => Err(NoDevice::Replaced { was, now: device.nguid }),
                None => Ok(device),
            }
        };
        let found: Vec<_> = self.files.iter().chain(&self.retained).map(|desc| (desc.clone(), device(desc))).collect();
        for (desc, device) in &found {
            if let Err(NoDevice::Replaced { was, now: Some(now) }) = device
                && self.current.table.get(desc.id).is_none_or(|known| known.nguid != Some(*now))
            {
                tracing::warn!(
                    target: "nvferry::host", target = %self.attachment.target, file = desc.id.0, %was, %now,
                    "the target has another file there than it had: requests for it are refused"
                );
            }
        }
        let (files, missing) = LocalFiles::of_devices(found, self.target.direct, &self.current);
        if missing != self.missing {
            for (id, why) in &missing {
                tracing::debug!(target: "nvferry::host", file = id.0, why, "a kernel device is missing");
            }
            if missing.len() < self.missing.len() {
                self.progress_at = Instant::now();
            }
            self.missing = missing;
        }
        if files.is_same(&self.current) {
            return;
        }
        let files = Arc::new(files);
        self.current = Arc::clone(&files);
        self.attachment.change_view(|view| {
            view.table = Arc::clone(&files.table);
            view.max_transfer_bytes = files.max_transfer_bytes;
        });
        let id = self.attachment.id;
        if let Some(pool) = self.pool.upgrade() {
            pool.order_all(|| Order::LocalFiles { id, files: Arc::clone(&files) });
        }
    }

    /// Whether nobody has to wait any longer.
    fn is_reached(&self, now: Instant) -> bool {
        let is_described = |id: FileBufferId| self.files.iter().any(|file| file.id == id);
        let missing: Vec<_> = self.missing.iter().filter(|(id, _)| is_described(*id)).collect();
        let some_came = missing.len() < self.files.len();
        let is_settled = missing.is_empty() || (some_came && now >= self.progress_at + SETTLED);
        if self.replies.is_empty() || !is_settled || self.connection.is_none() {
            return self.replies.is_empty();
        }
        for (id, why) in missing {
            tracing::warn!(
                target: "nvferry::host", target = %self.attachment.target, file = id.0, why,
                "going on without a file whose device does not come"
            );
        }
        true
    }

    fn answer(&mut self, answer: impl Fn() -> Result<(), EngineError>) {
        for reply in self.replies.drain(..) {
            // Who has given up does not hear it.
            let _ = reply.try_send(answer());
        }
    }

    /// Tells the kernel to look for namespaces that should be there.
    fn hint(&mut self, sysfs: &Sysfs, is_live: bool, now: Instant) {
        if self.missing.is_empty() {
            (self.rescan_wait, self.rescan_at) = (FIRST_RESCAN, now + FIRST_RESCAN);
        } else if is_live
            && now >= self.rescan_at
            && let Some(connection) = &self.connection
        {
            if let Err(error) = sysfs.rescan(&connection.name) {
                // Only root may; the kernel looks by itself when the target announces a change.
                tracing::debug!(target: "nvferry::host", controller = connection.name, %error, "no rescan");
            }
            self.rescan_wait = (self.rescan_wait * 2).min(LAST_RESCAN);
            self.rescan_at = now + self.rescan_wait;
        }
    }
}

/// What to say when a thread cannot be had.
pub(crate) fn no_thread(error: &io::Error) -> EngineError {
    EngineError::new(ErrorKind::Context, format!("cannot start the thread of a kernel connection: {error}"))
}
