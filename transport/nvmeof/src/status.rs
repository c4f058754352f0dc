//! What a transport does and did, as plain data.

use crate::config::HostDriver;
use nvferry_io::fast_paths::PathTotals;
use nvferry_io::tally::{Latencies, LatencyTotals};
use std::collections::BTreeMap;
use std::time::SystemTime;

/// How long things took, one writer; each for reads and for writes.
#[derive(Debug, Default)]
pub struct CommandLatencies {
    /// Operations that move slices: from the turn of a worker in which one was begun to the turn in which it ended.
    pub operations: [Latencies; 2],
    /// Slices that were moved: from the submit of their request to the turn of a worker in which they ended.
    pub slices: [Latencies; 2],
}

/// What went through a device, or several, counted from the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Slices read.
    pub reads: u64,
    /// Slices written.
    pub writes: u64,
    /// Bytes of slices read.
    pub read_bytes: u64,
    /// Bytes of slices written.
    pub written_bytes: u64,
    /// Bytes that went through a bounce buffer.
    pub bounced_bytes: u64,
    /// Operations tried again, on the same connection or another.
    pub retries: u64,
    /// Slices that timed out.
    pub timeouts: u64,
    /// Slices that failed otherwise.
    pub failures: u64,
    /// Header and data digests that did not match.
    pub digest_errors: u64,
    /// I/O queues that were connected.
    pub connects: u64,
    /// Connections of I/O queues that broke, or were not made.
    pub disconnects: u64,
    /// Calls that sent to a socket.
    pub sends: u64,
    /// Calls that received from a socket.
    pub receives: u64,
}

/// Applies a function to each counter of two.
macro_rules! each_counter {
    ($($name:ident)*) => {
        impl Counters {
            /// How many counters there are.
            pub(crate) const COUNT: usize = [$(stringify!($name)),*].len();

            /// As an array, always in the same order.
            pub(crate) fn to_array(self) -> [u64; Self::COUNT] {
                [$(self.$name),*]
            }

            /// From an array in that order.
            pub(crate) fn from_array(array: [u64; Self::COUNT]) -> Self {
                let [$($name),*] = array;
                Self { $($name),* }
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}
each_counter! {
    reads writes read_bytes written_bytes bounced_bytes retries timeouts failures digest_errors connects disconnects sends
    receives
}

/// Where the connection to a target stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// It is being made for the first time.
    Connecting,
    /// It stands.
    Connected,
    /// It was lost, for this reason, and is tried again.
    Reconnecting(String),
    /// It was let go of.
    Closed,
}

/// Which host driver reaches a target, and why that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriverChoice {
    /// The driver; never `Auto`.
    pub driver: HostDriver,
    /// The reason, for people.
    pub why: &'static str,
}

/// An attached target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachmentStatus {
    /// The target, for people.
    pub target: String,
    /// What reaches it.
    pub driver: DriverChoice,
    /// Where the connection to it stands.
    pub state: ConnectionState,
    /// I/O queues that it grants.
    pub queues: usize,
    /// Files that can be reached.
    pub files: usize,
    /// Operations under way.
    pub in_flight: u64,
    /// Slices, or parts of them, that wait for their turn.
    pub waiting: u64,
    /// When it came into its state.
    pub since: SystemTime,
    /// What went through all workers.
    pub totals: TargetTotals,
}

/// What went to and from one target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TargetTotals {
    /// What went through I/O queues.
    pub counters: Counters,
    /// Times that the target was found again.
    pub reconnects: u64,
    /// How long operations took, those included that failed: reads, writes.
    pub operations: [LatencyTotals; 2],
    /// How long slices that were moved took from the submit of their request on: reads, writes.
    pub slices: [LatencyTotals; 2],
}

impl std::ops::AddAssign for TargetTotals {
    fn add_assign(&mut self, other: Self) {
        self.counters += other.counters;
        self.reconnects += other.reconnects;
        for (sum, more) in self.operations.iter_mut().zip(other.operations) {
            *sum += more;
        }
        for (sum, more) in self.slices.iter_mut().zip(other.slices) {
            *sum += more;
        }
    }
}

/// A transport.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransportStatus {
    /// Worker threads, once something has been attached.
    pub workers: usize,
    /// Waits of callers that drove a worker themselves meanwhile.
    pub driven_waits: u64,
    /// Which paths each worker's data took over NVMe/TCP, and how many commands each sent.
    pub worker_paths: Vec<PathTotals>,
    /// Targets that are attached.
    pub attachments: Vec<AttachmentStatus>,
    /// What went to and from each target, those included that have been let go of. One without a name stands for those
    /// beyond the number that is told apart.
    pub targets: BTreeMap<Option<String>, TargetTotals>,
    /// Bytes in bounce buffers that are in use.
    pub bounce_in_use_bytes: u64,
    /// Bytes in bounce buffers that wait to be used again.
    pub bounce_free_bytes: u64,
}

impl TransportStatus {
    /// What went to and from all targets.
    #[must_use]
    pub fn totals(&self) -> TargetTotals {
        let mut sum = TargetTotals::default();
        self.targets.values().for_each(|totals| sum += *totals);
        sum
    }
}
