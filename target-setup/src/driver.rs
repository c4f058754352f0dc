//! What every target driver can do, and what it tells about itself.

use crate::desired::NamespaceSpec;
use crate::error::TargetError;
use nvferry_io::fast_paths::PathTotals;
use nvferry_io::tally::LatencyTotals;
use nvferry_wire::{ControllerId, Nqn, Nsid, Status, StatusCode, TransportId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

/// A running target. Namespaces come and go while hosts are connected; hosts are told.
pub trait TargetDriver: Send + Sync {
    /// Offers a file or block device as a namespace; connected hosts learn of it at once.
    ///
    /// # Errors
    /// Anything wrong with the file or the ids; nothing was offered then.
    fn add_namespace(&self, spec: NamespaceSpec) -> Result<NamespaceInfo, TargetError>;

    /// Withdraws a namespace: new commands are refused, those under way end, then the file is closed.
    ///
    /// # Errors
    /// [`TargetError::UnknownNamespace`], or [`TargetError::StillBusy`] when commands were still under way at the
    /// deadline. The namespace is withdrawn then, too; its file is closed as soon as they end.
    fn remove_namespace(&self, nsid: Nsid, deadline: Instant) -> Result<(), TargetError>;

    /// Where hosts find the target, with the port that it really has.
    fn address(&self) -> TransportId;

    /// What it does now.
    fn status(&self) -> TargetStatus;

    /// Stops: takes no more connections, lets commands under way end, closes everything. Returns by the deadline.
    ///
    /// # Errors
    /// [`TargetError::StillBusy`] when commands were still under way at the deadline and were given up.
    fn stop(&self, deadline: Instant) -> Result<(), TargetError>;
}

/// A namespace as it is really offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its id.
    pub nsid: Nsid,
    /// The file or block device.
    pub path: PathBuf,
    /// Bytes that can be reached; exactly as asked.
    pub size_bytes: u64,
    /// The logical block in bytes.
    pub block_bytes: u32,
    /// Blocks, the last perhaps only partly backed.
    pub blocks: u64,
    /// Whether I/O goes past the page cache.
    pub direct: bool,
    /// Whether everything that changes data is refused.
    pub read_only: bool,
    /// How hosts recognise it.
    pub uuid: [u8; 16],
}

/// What went through something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IoTotals {
    /// Read and Compare commands that ended well.
    pub reads: u64,
    /// Write, Write Zeroes and Deallocate commands that ended well.
    pub writes: u64,
    /// Flush commands that ended well.
    pub flushes: u64,
    /// Bytes sent to hosts.
    pub read_bytes: u64,
    /// Bytes taken from hosts.
    pub written_bytes: u64,
    /// Commands that ended with an error.
    pub errors: ErrorTotals,
}

impl std::ops::AddAssign for IoTotals {
    fn add_assign(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.read_bytes += other.read_bytes;
        self.written_bytes += other.written_bytes;
        self.errors += other.errors;
    }
}

/// What commands do, as far as they are told apart in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// Read and Compare.
    Read,
    /// Write, Write Zeroes and Deallocate.
    Write,
    /// Flush.
    Flush,
    /// What is none of these, and was refused.
    Other,
}

impl CommandKind {
    /// All of them, in their order.
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Flush, Self::Other];
}

/// Why commands end with errors, as far as that is told apart in figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The file could not be read or written (status code type 2h).
    Media,
    /// The same command may succeed later, here or on another connection.
    Transient,
    /// The same command would fail again (DNR): it asks for what there is not, or what is not allowed.
    Refused,
}

impl ErrorClass {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Media, Self::Transient, Self::Refused];

    /// The class of a status that is none of success.
    #[must_use]
    pub fn of(status: Status) -> Self {
        match status.code {
            StatusCode::CompareFailure | StatusCode::AccessDenied => Self::Refused,
            code if code.to_raw().0 == 2 => Self::Media,
            _ if status.do_not_retry => Self::Refused,
            _ => Self::Transient,
        }
    }
}

/// Commands that ended with errors, by what they were and why they failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorTotals(pub(crate) [[u64; ErrorClass::ALL.len()]; CommandKind::ALL.len()]);

impl ErrorTotals {
    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().flatten().sum()
    }

    /// Those of one kind that failed for one reason.
    #[must_use]
    pub fn get(&self, kind: CommandKind, class: ErrorClass) -> u64 {
        self.0[kind as usize][class as usize]
    }
}

impl std::ops::AddAssign for ErrorTotals {
    fn add_assign(&mut self, other: Self) {
        for (count, more) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *count += more;
        }
    }
}

/// What a target does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Where hosts find it.
    pub address: TransportId,
    /// When it was started.
    pub since: SystemTime,
    /// It is being stopped: no new commands, no new connections.
    pub draining: bool,
    /// Whether it counts connections and I/O. The kernel's does not tell of them: `connections`, `hosts`, `pools`,
    /// `reactors`, `faults`, queues and all figures are empty then, and of controllers there is only what debugfs tells,
    /// if it is there.
    pub accounts: bool,
    /// Open connections, among them those that have not yet said who they are.
    pub connections: usize,
    /// The hosts that may connect; `None` where every host may.
    pub allowed_hosts: Option<Vec<AllowedHostStatus>>,
    /// Hosts that are connected; `None` where that is not known.
    pub controllers: Option<Vec<ControllerStatus>>,
    /// What is offered.
    pub namespaces: Vec<NamespaceStatus>,
    /// What went through each host's queues, also through those that are gone; the last one stands for all hosts
    /// beyond the number that is told apart.
    pub hosts: Vec<HostStatus>,
    /// Memory for data.
    pub pools: PoolTotals,
    /// The threads that serve.
    pub reactors: Vec<ReactorStatus>,
    /// What was refused or went wrong since the start.
    pub faults: FaultTotals,
}

/// A thread that serves connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReactorStatus {
    /// Its engine of file I/O.
    pub engine: &'static str,
    /// How many commands it took, and which paths their data took.
    pub paths: PathTotals,
}

/// Memory for data, of all reactors together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolTotals {
    /// Bytes in buffers that commands hold.
    pub in_use_bytes: u64,
    /// Bytes in buffers that wait to be used again.
    pub free_bytes: u64,
}

/// What one host did, whichever controllers it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostStatus {
    /// The host; `None` stands for all that are not told apart.
    pub host: Option<Nqn>,
    /// Controllers that it was given.
    pub connects: u64,
    /// What went through its I/O queues.
    pub totals: IoTotals,
}

/// Things that a person who runs a target wants to know of, counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultTotals {
    /// Connections that were accepted.
    pub accepted_connections: u64,
    /// Controllers that hosts were given.
    pub created_controllers: u64,
    /// Connections closed at once because there were too many.
    pub refused_connections: u64,
    /// Connect commands of hosts that are not on the list.
    pub refused_hosts: u64,
    /// Connections ended because the host broke the protocol.
    pub protocol_errors: u64,
    /// Header or data digests that did not match.
    pub digest_errors: u64,
    /// Connections ended because the host was silent or too slow.
    pub timeouts: u64,
}

/// A host that may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedHostStatus {
    /// Its name.
    pub host: Nqn,
    /// Whether it has to prove that it knows a secret.
    pub has_secret: bool,
    /// Whether the target has one to prove to it.
    pub has_controller_secret: bool,
}

/// One connected host's controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControllerStatus {
    /// The controller.
    pub cntlid: ControllerId,
    /// The host.
    pub host: Nqn,
    /// Whether it only serves discovery.
    pub discovery: bool,
    /// Where its admin queue comes from, where that is known.
    pub peer: Option<SocketAddr>,
    /// When it was made.
    pub since: SystemTime,
    /// Whether its host has proved who it is.
    pub authentication: HostProof,
    /// I/O queues connected now.
    pub io_queues: usize,
    /// What went through its queues.
    pub totals: IoTotals,
}

/// Whether a host has proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostProof {
    /// The driver does not tell.
    NotTold,
    /// It was not asked to.
    NotAsked,
    /// It was asked to, and has not yet.
    Due,
    /// It has.
    Proved,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceStatus {
    /// What it is.
    pub info: NamespaceInfo,
    /// What went through it.
    pub totals: IoTotals,
    /// When it was offered.
    pub since: SystemTime,
    /// Commands under way or waiting.
    pub in_flight: u64,
    /// Those of them that wait for a buffer or for the I/O engine.
    pub waiting: u64,
    /// How long commands took, those included that failed: reads, writes, flushes. From the turn of the reactor in which
    /// a command was taken to the turn in which it ended.
    pub latencies: [(CommandKind, LatencyTotals); 3],
}

impl NamespaceStatus {
    /// Of a driver that does not count I/O.
    pub(crate) fn not_accounted(info: NamespaceInfo, since: SystemTime) -> Self {
        Self { info, totals: IoTotals::default(), since, in_flight: 0, waiting: 0, latencies: Self::no_latencies() }
    }

    /// Nothing measured yet.
    pub(crate) fn no_latencies() -> [(CommandKind, LatencyTotals); 3] {
        [CommandKind::Read, CommandKind::Write, CommandKind::Flush].map(|kind| (kind, LatencyTotals::default()))
    }
}
