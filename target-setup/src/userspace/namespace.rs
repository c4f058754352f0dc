//! An open namespace: a file, how its bytes are blocks, and who still uses it.

use super::counters::LaneCounters;
use super::orphans::Orphans;
use crate::desired::NamespaceSpec;
use crate::driver::{IoTotals, NamespaceInfo, NamespaceStatus};
use crate::error::TargetError;
use crate::guard::{self, Claim, Machine};
use nvferry_io::IoFile;
use nvferry_io::file::{FileIdentity, FileOptions};
use nvferry_wire::Nqn;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

const MIN_BLOCK_BYTES: u32 = 512;
const MAX_BLOCK_BYTES: u32 = 65_536;

/// A namespace that is or was offered. Its files are closed when nothing refers to it any more.
pub(crate) struct Namespace {
    pub(crate) info: NamespaceInfo,
    pub(crate) identity: FileIdentity,
    /// The block size as a power of two.
    pub(crate) block_shift: u32,
    /// Everything but what only `tail` can reach.
    pub(crate) file: IoFile,
    /// Where the size is no multiple of what Direct I/O needs: the same file, buffered, for writes to its last bytes.
    pub(crate) tail: Option<IoFile>,
    /// The first byte that is written through `tail`; the size where there is none.
    pub(crate) tail_offset: u64,
    /// Changes under way whose connections have ended.
    pub(crate) orphans: Orphans,
    /// Holds a block device, so that nobody mounts it meanwhile.
    _claim: Claim,
    /// The same file for reads that send its pages without a copy; only where it is read through the page cache, or is
    /// nowhere else.
    pub(crate) pages: Option<IoFile>,
    since: SystemTime,
    users: Mutex<Users>,
    /// Notified when the last lease has ended.
    released: Condvar,
}

struct Users {
    /// Leases that reactors hold.
    leases: usize,
    /// Not offered any more: no new leases.
    withdrawn: bool,
    /// One set for each reactor that ever served it.
    counters: Vec<Arc<LaneCounters>>,
}

/// A reactor's right to use a namespace. It lasts until the reactor's last command on it has ended.
pub(crate) struct NamespaceLease {
    namespace: Arc<Namespace>,
}

impl NamespaceLease {
    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }
}

impl Drop for NamespaceLease {
    fn drop(&mut self) {
        let mut users = self.namespace.users();
        users.leases -= 1;
        if users.leases == 0 {
            self.namespace.released.notify_all();
        }
    }
}

impl Namespace {
    /// Opens the file and decides on blocks.
    pub(crate) fn open(spec: &NamespaceSpec, subsystem: &Nqn) -> Result<Self, TargetError> {
        let path = || spec.path.clone();
        let in_file = |source| TargetError::File { nsid: spec.nsid, source };
        let options = FileOptions { direct: spec.direct, write: !spec.read_only };
        let file = IoFile::open(&spec.path, options).map_err(|source| {
            let held = guard::why_not_opened(spec, &Machine::default());
            held.map_or_else(|| in_file(source), TargetError::from)
        })?;
        let available_bytes = file.size_bytes().map_err(in_file)?;
        if available_bytes == 0 {
            return Err(TargetError::Empty { path: path() });
        }
        if spec.size_bytes == 0 {
            return Err(TargetError::ZeroSize { path: path(), available_bytes });
        }
        if spec.size_bytes > available_bytes {
            return Err(TargetError::TooSmall { path: path(), asked_bytes: spec.size_bytes, available_bytes });
        }
        let block_bytes = block_bytes(spec, &file)?;
        let unit = if file.is_direct() { u64::from(file.geometry().dio_offset_align_bytes.max(1)) } else { 1 };
        let tail_offset = spec.size_bytes - spec.size_bytes % unit;
        let tail = if tail_offset < spec.size_bytes && !spec.read_only {
            let buffered = FileOptions { direct: false, write: true };
            Some(IoFile::open(&spec.path, buffered).map_err(in_file)?)
        } else {
            None
        };
        let pages = match (file.is_direct(), file.is_memory_backed()) {
            (false, _) => Some(file.clone()),
            // Direct or not makes no difference there, but through such a descriptor pages would be copied.
            (true, true) => IoFile::open(&spec.path, FileOptions { direct: false, write: false }).ok(),
            (true, false) => None,
        };
        // A path may come to name another file at any time.
        let pages = pages.filter(|pages| pages.identity() == file.identity());
        Ok(Self {
            info: NamespaceInfo {
                nsid: spec.nsid,
                path: path(),
                size_bytes: spec.size_bytes,
                block_bytes,
                blocks: spec.size_bytes.div_ceil(block_bytes.into()),
                direct: file.is_direct(),
                read_only: spec.read_only,
                uuid: spec.uuid(subsystem),
            },
            identity: file.identity(),
            block_shift: block_bytes.trailing_zeros(),
            file,
            pages,
            tail_offset: if tail.is_some() { tail_offset } else { spec.size_bytes },
            tail,
            orphans: Orphans::default(),
            _claim: guard::check(spec, &Machine::default())?,
            since: SystemTime::now(),
            users: Mutex::new(Users { leases: 0, withdrawn: false, counters: Vec::new() }),
            released: Condvar::new(),
        })
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        // Nothing under the lock can panic half way, so a poisoned lock is whole.
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a reactor use the namespace, which counts in `counters`; nothing when it has been withdrawn.
    pub(crate) fn lease(self: &Arc<Self>, counters: &Arc<LaneCounters>) -> Option<NamespaceLease> {
        let mut users = self.users();
        if users.withdrawn {
            return None;
        }
        users.leases += 1;
        users.counters.push(Arc::clone(counters));
        Some(NamespaceLease { namespace: Arc::clone(self) })
    }

    /// Lets no reactor begin to use it from here on.
    pub(crate) fn withdraw(&self) {
        self.users().withdrawn = true;
    }

    /// Waits until no reactor uses it any more, and tells whether that came about by the deadline.
    pub(crate) fn wait_unused(&self, deadline: Instant) -> bool {
        let mut users = self.users();
        while users.leases > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            users = self.released.wait_timeout(users, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Commands under way or waiting, over all reactors.
    pub(crate) fn in_flight(&self) -> u64 {
        self.users().counters.iter().map(|counters| counters.in_flight.get()).sum()
    }

    pub(crate) fn status(&self) -> NamespaceStatus {
        let (mut totals, mut in_flight, mut waiting) = (IoTotals::default(), 0, 0);
        let mut latencies = NamespaceStatus::no_latencies();
        for counters in &self.users().counters {
            totals += counters.io.totals();
            in_flight += counters.in_flight.get();
            waiting += counters.waiting.get();
            for ((_, sum), noted) in latencies.iter_mut().zip(&counters.latencies) {
                *sum += noted.totals();
            }
        }
        NamespaceStatus { info: self.info.clone(), totals, since: self.since, in_flight, waiting, latencies }
    }
}

/// The block asked for, if the file can be served in it, or else the smallest in which it can.
fn block_bytes(spec: &NamespaceSpec, file: &IoFile) -> Result<u32, TargetError> {
    let smallest = file.geometry().block_bytes.max(MIN_BLOCK_BYTES);
    let Some(asked_bytes) = spec.block_bytes else { return Ok(smallest) };
    let refuse = |why: String| Err(TargetError::Block { path: spec.path.clone(), asked_bytes, why });
    if !asked_bytes.is_power_of_two() || !(MIN_BLOCK_BYTES..=MAX_BLOCK_BYTES).contains(&asked_bytes) {
        return refuse(format!("blocks are powers of two from {MIN_BLOCK_BYTES} to {MAX_BLOCK_BYTES}"));
    }
    if spec.direct && asked_bytes < smallest {
        return refuse(format!(
            "with Direct I/O its storage takes none smaller than {smallest}; ask for that, or for buffered I/O"
        ));
    }
    Ok(asked_bytes)
}
