//! What a seed means: how large the world is, and which kinds of faults happen in it. Each seed turns on some kinds only,
//! so that rare ones are not always hidden behind frequent ones.

use crate::random::Random;
use nvferry_wire::pdu::Digests;

/// A microsecond, in the simulation's nanoseconds.
pub const US: u64 = 1_000;
/// A millisecond.
pub const MS: u64 = 1_000_000;
/// A second.
pub const SECOND: u64 = 1_000_000_000;

/// A seed's world.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Machines that read and write.
    pub hosts: usize,
    /// Machines that hold files.
    pub targets: usize,
    /// Workers of each host.
    pub workers: usize,
    /// Reactors of each target.
    pub reactors: usize,
    /// Files of each target: their sizes in bytes.
    pub files: Vec<u64>,
    /// The block of each target's namespaces, in bytes.
    pub block_bytes: u32,
    /// Requests that each host submits, about.
    pub requests: u64,
    /// The longest request.
    pub max_request_bytes: u64,
    /// Requests that a host has under way.
    pub slots: usize,
    /// Entries of an I/O queue.
    pub queue_depth: u16,
    /// Slices that an engine may have under way.
    pub max_slices: u32,
    /// Keep-alive timeout.
    pub kato: u64,
    /// Digests that hosts ask for.
    pub digests: Digests,
    /// The longest that a request has.
    pub max_deadline: u64,
    /// When faults end.
    pub heal_at: u64,
    /// What goes wrong on the wire.
    pub wire: WireFaults,
    /// What goes wrong with storage.
    pub storage: StorageFaults,
    /// Of 1000 moments, those in which a target is killed.
    pub kills: u64,
    /// Whether a kill may be a loss of power.
    pub power_loss: bool,
    /// Of 1000 moments, those in which a namespace goes (and comes back).
    pub namespaces: u64,
    /// Of 100 looks at the metadata, those that go wrong, in each of the ways that are on.
    pub metadata: MetadataFaults,
    /// Of 100 turns, those that a thread is late for.
    pub slow_threads: u64,
}

/// What goes wrong on the wire. Rates are of 100 connections.
#[derive(Debug, Clone, Default)]
pub struct WireFaults {
    /// The longest usual delay.
    pub latency: u64,
    /// Bytes that arrive at once; 0 for all that are there.
    pub chunk_bytes: u64,
    /// Cut at some byte.
    pub cuts: u64,
    /// The cuts are silent.
    pub silence: bool,
    /// A bit is flipped, where digests are on.
    pub flips: u64,
    /// Refused or never made.
    pub refusals: u64,
    /// Of 1000 deliveries, those that take long.
    pub stalls: u64,
    /// Bytes that one direction holds.
    pub capacity: usize,
}

/// What goes wrong with storage. Rates are of 1000 operations.
#[derive(Debug, Clone, Default)]
pub struct StorageFaults {
    /// The longest usual time.
    pub latency: u64,
    /// Fail.
    pub errors: u64,
    /// Take long.
    pub stalls: u64,
    /// A call moves less than it was asked to.
    pub short: u64,
    /// Operations at once.
    pub capacity: usize,
}

/// What goes wrong with metadata, in percent.
#[derive(Debug, Clone, Default)]
pub struct MetadataFaults {
    /// Answers late.
    pub late: u64,
    /// Answers with an older version.
    pub stale: u64,
    /// Answers with something wrong.
    pub wrong: u64,
    /// Does not answer.
    pub down: u64,
}

impl Plan {
    /// What a seed means.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let r = &mut random;
        // Each kind of fault is on in some seeds only.
        let on = |r: &mut Random, percent, rate: u64| if r.chance(percent) { r.within(1, rate) } else { 0 };
        let calm = r.chance(5);
        let targets = if r.chance(75) { 1 } else { 2 };
        let digests = r.chance(40);
        let small = r.chance(40);
        let wire = WireFaults {
            latency: r.pick(&[20 * US, 200 * US, 2 * MS, 30 * MS]),
            chunk_bytes: if r.chance(60) { 0 } else { r.pick(&[700, 3_000, 9_000, 65_536]) },
            cuts: if calm { 0 } else { on(r, 55, 60) },
            silence: r.chance(25),
            flips: if calm || !digests { 0 } else { on(r, 60, 70) },
            refusals: if calm { 0 } else { on(r, 20, 50) },
            stalls: if calm { 0 } else { on(r, 35, 12) },
            capacity: r.pick(&[4 << 10, 64 << 10, 256 << 10]),
        };
        let storage = StorageFaults {
            latency: r.pick(&[10 * US, 100 * US, 3 * MS]),
            errors: if calm { 0 } else { on(r, 30, 60) },
            stalls: if calm { 0 } else { on(r, 35, 40) },
            short: on(r, 40, 300),
            capacity: r.pick(&[2, 8, 64, 1024]),
        };
        let metadata = MetadataFaults {
            late: if calm { 0 } else { on(r, 20, 50) },
            stale: if calm { 0 } else { on(r, 20, 50) },
            wrong: if calm { 0 } else { on(r, 20, 50) },
            down: if calm { 0 } else { on(r, 20, 30) },
        };
        let files = (0..r.within(1, 3)).map(|_| if small { r.within(600, 20_000) } else { r.within(30_000, 500_000) });
        let files: Vec<u64> = files.collect();
        let largest = files.iter().copied().max().unwrap_or(1);
        Self {
            hosts: if r.chance(70) { 1 } else { 2 },
            targets,
            workers: r.within(1, 3) as usize,
            reactors: if r.chance(60) { 1 } else { 2 },
            files,
            block_bytes: r.pick(&[512, 512, 4096]),
            requests: r.within(15, 60),
            max_request_bytes: if r.chance(50) { largest } else { r.within(512, 20_000).min(largest) },
            slots: r.within(1, 8) as usize,
            queue_depth: r.pick(&[2, 4, 32, 128]),
            max_slices: r.pick(&[4, 16, 1 << 16]),
            kato: r.pick(&[1, 3, 15]) * SECOND,
            digests: Digests { header: digests, data: digests },
            max_deadline: r.pick(&[100 * MS, 3 * SECOND, 30 * SECOND]),
            heal_at: r.pick(&[MS * 50, SECOND, 10 * SECOND, 40 * SECOND]),
            wire,
            storage,
            kills: if calm { 0 } else { on(r, 30, 60) },
            power_loss: r.chance(40),
            namespaces: if calm { 0 } else { on(r, 25, 80) },
            metadata,
            slow_threads: on(r, 30, 20),
        }
    }
}
