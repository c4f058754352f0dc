//! What others hand to a worker.

use crate::attachment::{Attachment, AttachmentId, Latch};
use crate::host::local::LocalFiles;
use crate::host::namespaces::NamespaceTable;
use crate::host::userspace::LinkError;
use crate::host::userspace::queue_pair::QueueParams;
use nvferry_engine::{Failure, Slice};
use nvferry_io::poller::Waker;
use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Instant;

/// What a worker is to do besides moving slices.
#[derive(Debug)]
pub(crate) enum Order {
    /// Be ready for slices of a target that is reached over NVMe/TCP.
    OpenRemote(Arc<Attachment>),
    /// Be ready for slices of files that are on this machine.
    OpenLocal(Arc<Attachment>, Arc<LocalFiles>),
    /// Make the I/O queue.
    Connect { id: AttachmentId, address: SocketAddr, params: Arc<QueueParams> },
    /// The controller is gone, and with it its I/O queue; or once more it could not be reached.
    Disconnect { id: AttachmentId, error: LinkError },
    /// The files have changed.
    Namespaces { id: AttachmentId, table: Arc<NamespaceTable> },
    /// The files on this machine have changed.
    LocalFiles { id: AttachmentId, files: Arc<LocalFiles> },
    /// The target grants no queue for this worker: hand its slices to that one instead.
    Forward { id: AttachmentId, to: usize },
    /// Let what is under way end, by the deadline, and forget the target.
    Close { id: AttachmentId, deadline: Instant, done: Arc<Latch> },
    /// What is being closed has no more time.
    EndNow { id: AttachmentId },
    /// End; what is left ends, too.
    Stop,
}

/// Why slices end that no worker takes any more.
const ENDED: &str = "the transport has been uninstalled";

impl Order {
    /// Nobody obeys it any more. Whoever waits for that is told.
    fn refuse(self) {
        if let Self::Close { done, .. } = self {
            done.count_down();
        }
    }
}

/// What has been handed over and not been taken yet.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) orders: Vec<Order>,
    pub(super) slices: Vec<(AttachmentId, Slice)>,
    /// The worker has ended: nobody takes anything any more.
    closed: bool,
}

/// One worker's inbox. How much it holds is bounded by the engine's permits.
#[derive(Debug)]
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    /// Something was put in since the worker last looked.
    has_mail: AtomicBool,
    waker: Waker,
    /// Slices, or parts of them, that the worker has; a hint for those who choose one.
    load: AtomicUsize,
}

impl Inbox {
    pub(super) fn new(waker: Waker) -> Self {
        Self { mail: Mutex::default(), has_mail: AtomicBool::new(false), waker, load: AtomicUsize::new(0) }
    }

    pub(super) fn order(&self, order: Order) {
        let mut mail = self.mail.lock();
        if mail.closed {
            drop(mail);
            return order.refuse();
        }
        mail.orders.push(order);
        drop(mail);
        self.has_mail.store(true, Ordering::Release);
        self.ring();
    }

    /// Puts slices in, with one lock for all of them. Whoever drives the worker is to be told.
    pub(super) fn put(&self, id: AttachmentId, slices: impl Iterator<Item = Slice>) {
        let mut mail = self.mail.lock();
        if mail.closed {
            drop(mail);
            return slices.for_each(|slice| slice.fail(Failure::canceled(ENDED)));
        }
        let before = mail.slices.len();
        mail.slices.extend(slices.map(|slice| (id, slice)));
        let count = mail.slices.len() - before;
        drop(mail);
        self.load.fetch_add(count, Ordering::Relaxed);
        self.has_mail.store(true, Ordering::Release);
    }

    /// Ends the sleep of whoever drives the worker.
    pub(super) fn ring(&self) {
        self.waker.wake();
    }

    /// Whether something was put in since it was last emptied.
    pub(super) fn has_mail(&self) -> bool {
        self.has_mail.load(Ordering::Relaxed)
    }

    /// Takes everything; `mail` is empty before, and its allocations are used again.
    pub(super) fn take(&self, mail: &mut Mail) {
        if self.has_mail.swap(false, Ordering::Acquire) {
            std::mem::swap(&mut *self.mail.lock(), mail);
        }
    }

    /// The worker ends: what it has not taken ends, and what comes later does at once.
    pub(super) fn close(&self) {
        let mut mail = self.mail.lock();
        mail.closed = true;
        let (orders, slices) = (std::mem::take(&mut mail.orders), std::mem::take(&mut mail.slices));
        drop(mail);
        orders.into_iter().for_each(Order::refuse);
        slices.into_iter().for_each(|(_, slice)| slice.fail(Failure::canceled(ENDED)));
    }

    /// Slices that the worker has, about.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    pub(super) fn set_load(&self, load: usize) {
        // What was put in meanwhile is missed until the worker has taken it: it is a hint.
        self.load.store(load, Ordering::Relaxed);
    }
}

/// As the waker of a task: for threads that drive the worker while they wait for something else, too.
impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}
