//! The status page: what a process's target and host do now, as plain data with a JSON form.
//!
//! Times are UTC in the form of RFC 3339. Figures count from the start of what they belong to. Fields are only ever
//! added: readers pass over what they do not know.

use nvferry_io::fast_paths::{Path, PathTotals};
use nvferry_nvmeof::{AttachmentStatus, ConnectionState, Counters, TransportStatus};
use nvferry_target::driver::{FaultTotals, HostProof};
use nvferry_target::{AllowedHostStatus, ControllerStatus, IoTotals, NamespaceStatus, TargetStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// When this was written.
    pub now: String,
    /// Targets of this process.
    pub targets: Vec<Target>,
    /// Targets of others, to which segments are attached.
    pub attached: Vec<Attached>,
    /// The worker threads of this process's hosts.
    #[serde(default)]
    pub workers: Vec<Thread>,
}

/// A thread of a host or a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thread {
    /// A target's engine of file I/O.
    pub engine: Option<String>,
    /// I/O commands, and which paths their data took, by the names of [`Path`].
    pub paths: BTreeMap<String, u64>,
}

/// A target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its subsystem.
    pub subnqn: String,
    /// Where hosts find it, as `key=value` words.
    pub address: String,
    /// `serving`, or `draining` while it is being stopped.
    pub state: String,
    /// When it was started.
    pub since: String,
    /// Whether it counts connections and I/O. The kernel's does not tell: all figures are missing then.
    pub accounts: bool,
    /// Open connections.
    pub connections: Option<u64>,
    /// The threads that serve.
    #[serde(default)]
    pub reactors: Vec<Thread>,
    /// What it offers.
    pub files: Vec<File>,
    /// The hosts that may connect; missing where every host may.
    pub allowed_hosts: Option<Vec<AllowedHost>>,
    /// Hosts that are connected; missing where that is not known, as with a kernel that does not tell.
    pub hosts: Option<Vec<Host>>,
    /// What was refused or went wrong.
    pub faults: Option<Faults>,
    /// Bytes in buffers that commands hold.
    pub pool_used_bytes: Option<u64>,
    /// Bytes in buffers that wait to be used again.
    pub pool_free_bytes: Option<u64>,
}

/// A file that is offered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its id: the file's in the segment, and its namespace's.
    pub id: u32,
    /// Its path.
    pub path: String,
    /// Bytes that can be reached.
    pub size_bytes: u64,
    /// When it was offered.
    pub since: String,
    /// What went through it.
    pub io: Option<Io>,
    /// Commands taken and not ended.
    pub in_flight: Option<u64>,
    /// Those of them that wait for a buffer or for the I/O engine.
    pub waiting: Option<u64>,
}

/// What went through something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Io {
    /// Reads that ended well.
    pub reads: u64,
    /// Writes that ended well.
    pub writes: u64,
    /// Flushes that ended well.
    pub flushes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Commands that failed.
    pub errors: u64,
}

/// A host that may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedHost {
    /// Its name.
    pub nqn: String,
    /// Whether it has to prove that it knows a secret.
    pub has_secret: bool,
    /// Whether the target has a secret that it proves to know.
    pub has_controller_secret: bool,
}

/// A host that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Its name.
    pub nqn: String,
    /// Where it comes from, if that is known.
    pub address: Option<String>,
    /// Its controller.
    pub cntlid: u16,
    /// Whether it only asks what there is.
    pub discovery: bool,
    /// When it connected.
    pub since: String,
    /// Whether it has proved who it is; missing where it was not asked to.
    pub authenticated: Option<bool>,
    /// Its connections, the one of its admin queue included.
    pub connections: Option<u64>,
    /// Its I/O queues.
    pub io_queues: Option<u64>,
    /// What went through these.
    pub io: Option<Io>,
}

/// What was refused or went wrong at a target, since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Connections closed at once because there were too many.
    pub refused_connections: u64,
    /// Hosts refused.
    pub refused_hosts: u64,
    /// Connections ended because of a breach of the protocol.
    pub protocol_errors: u64,
    /// Digests that did not match.
    pub digest_errors: u64,
    /// Connections ended because the host was silent or too slow.
    pub timeouts: u64,
}

/// An attached target of another engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Which.
    pub target: String,
    /// `connecting`, `connected`, `reconnecting` or `closed`.
    pub state: String,
    /// Why it is not connected.
    pub reason: Option<String>,
    /// Since when it stands so.
    pub since: String,
    /// I/O queues that it grants.
    pub queues: u64,
    /// Files that can be reached.
    pub files: u64,
    /// Operations under way.
    pub in_flight: u64,
    /// Slices, or parts of them, that wait for their turn.
    pub waiting: u64,
    /// What went to and from it; errors are slices that failed or timed out.
    pub io: Io,
    /// Times that it was found again.
    pub reconnects: u64,
    /// Operations tried again.
    pub retries: u64,
    /// Digests that did not match.
    pub digest_errors: u64,
}

impl Page {
    pub(crate) fn new(targets: &[TargetStatus], hosts: &[TransportStatus]) -> Self {
        Self {
            now: time(SystemTime::now()),
            targets: targets.iter().map(Target::from).collect(),
            workers: hosts.iter().flat_map(|host| &host.worker_paths).map(|paths| Thread::new(None, paths)).collect(),
            attached: hosts.iter().flat_map(|host| &host.attachments).map(Attached::from).collect(),
        }
    }

    /// As JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts, numbers and lists always have a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl From<&TargetStatus> for Target {
    fn from(status: &TargetStatus) -> Self {
        let counted = |value: u64| status.accounts.then_some(value);
        Self {
            subnqn: status.address.subnqn.as_ref().map(ToString::to_string).unwrap_or_default(),
            address: status.address.to_string(),
            state: if status.draining { "draining" } else { "serving" }.to_owned(),
            since: time(status.since),
            accounts: status.accounts,
            connections: counted(status.connections as u64),
            reactors: status.reactors.iter().map(|it| Thread::new(Some(it.engine), &it.paths)).collect(),
            files: status.namespaces.iter().map(|file| File::new(file, status.accounts)).collect(),
            allowed_hosts: status.allowed_hosts.as_ref().map(|hosts| hosts.iter().map(AllowedHost::from).collect()),
            hosts: status
                .controllers
                .as_ref()
                .map(|hosts| hosts.iter().map(|host| Host::new(host, status.accounts)).collect()),
            faults: status.accounts.then(|| status.faults.into()),
            pool_used_bytes: counted(status.pools.in_use_bytes),
            pool_free_bytes: counted(status.pools.free_bytes),
        }
    }
}

impl Thread {
    fn new(engine: Option<&str>, paths: &PathTotals) -> Self {
        let paths = Path::ALL.map(|path| (path.name().to_owned(), paths.get(path))).into();
        Self { engine: engine.map(ToOwned::to_owned), paths }
    }
}

impl From<&AllowedHostStatus> for AllowedHost {
    fn from(status: &AllowedHostStatus) -> Self {
        let AllowedHostStatus { host, has_secret, has_controller_secret } = status;
        Self { nqn: host.to_string(), has_secret: *has_secret, has_controller_secret: *has_controller_secret }
    }
}

impl File {
    fn new(status: &NamespaceStatus, accounts: bool) -> Self {
        Self {
            id: status.info.nsid.0,
            path: status.info.path.to_string_lossy().into_owned(),
            size_bytes: status.info.size_bytes,
            since: time(status.since),
            io: accounts.then(|| status.totals.into()),
            in_flight: accounts.then_some(status.in_flight),
            waiting: accounts.then_some(status.waiting),
        }
    }
}

impl Host {
    fn new(status: &ControllerStatus, accounts: bool) -> Self {
        Self {
            nqn: status.host.to_string(),
            address: status.peer.map(|peer| if peer.port() == 0 { peer.ip().to_string() } else { peer.to_string() }),
            cntlid: status.cntlid.0,
            discovery: status.discovery,
            since: time(status.since),
            authenticated: match status.authentication {
                HostProof::NotAsked | HostProof::NotTold => None,
                HostProof::Due => Some(false),
                HostProof::Proved => Some(true),
            },
            connections: accounts.then_some(status.io_queues as u64 + 1),
            io_queues: accounts.then_some(status.io_queues as u64),
            io: accounts.then(|| status.totals.into()),
        }
    }
}

impl From<IoTotals> for Io {
    fn from(totals: IoTotals) -> Self {
        let IoTotals { reads, writes, flushes, read_bytes, written_bytes, errors } = totals;
        Self { reads, writes, flushes, read_bytes, written_bytes, errors: errors.total() }
    }
}

impl From<FaultTotals> for Faults {
    fn from(totals: FaultTotals) -> Self {
        let FaultTotals { refused_connections, refused_hosts, protocol_errors, digest_errors, timeouts, .. } = totals;
        Self { refused_connections, refused_hosts, protocol_errors, digest_errors, timeouts }
    }
}

impl From<&AttachmentStatus> for Attached {
    fn from(status: &AttachmentStatus) -> Self {
        let (state, reason) = match &status.state {
            ConnectionState::Connecting => ("connecting", None),
            ConnectionState::Connected => ("connected", None),
            ConnectionState::Reconnecting(why) => ("reconnecting", Some(why.clone())),
            ConnectionState::Closed => ("closed", None),
        };
        let Counters { reads, writes, read_bytes, written_bytes, failures, timeouts, .. } = status.totals.counters;
        Self {
            target: status.target.clone(),
            state: state.to_owned(),
            reason,
            since: time(status.since),
            queues: status.queues as u64,
            files: status.files as u64,
            in_flight: status.in_flight,
            waiting: status.waiting,
            io: Io { reads, writes, flushes: 0, read_bytes, written_bytes, errors: failures + timeouts },
            reconnects: status.totals.reconnects,
            retries: status.totals.counters.retries,
            digest_errors: status.totals.counters.digest_errors,
        }
    }
}

fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).unwrap_or_default()
}
