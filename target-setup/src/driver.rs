//! What every target driver can do, and what it tells about itself.

use crate::desired::NamespaceSpec;
use crate::error::TargetError;
use nvferry_wire::{ControllerId, Nqn, Nsid, TransportId};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

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
    pub errors: u64,
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

/// What a target does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetStatus {
    /// Where hosts find it.
    pub address: TransportId,
    /// Open connections, among them those that have not yet said who they are.
    pub connections: usize,
    /// Hosts that are connected.
    pub controllers: Vec<ControllerStatus>,
    /// What is offered.
    pub namespaces: Vec<NamespaceStatus>,
    /// What was refused or went wrong since the start.
    pub faults: FaultTotals,
}

/// Things that a person who runs a target wants to know of, counted since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultTotals {
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
    /// I/O queues connected now.
    pub io_queues: usize,
    /// What went through its queues.
    pub totals: IoTotals,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceStatus {
    /// What it is.
    pub info: NamespaceInfo,
    /// What went through it.
    pub totals: IoTotals,
    /// Commands under way or waiting.
    pub in_flight: u64,
}
