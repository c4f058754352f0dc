//! What a seed means: how large the world is, and which kinds of faults happen in it. Each seed turns on some kinds only,
//! so that rare ones are not always hidden behind frequent ones.

use crate::random::Random;
use nvferry_wire::pdu::Digests;
use std::ops::Range;

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
    /// Targets go past the page cache, and reach a file's tail in another way.
    pub direct: bool,
    /// Of 1000 moments, those in which a target is told to end.
    pub stops: u64,
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
    /// The shortest that a request has.
    pub min_deadline: u64,
    /// The longest that a request has.
    pub max_deadline: u64,
    /// Of 100 requests, those that go to one of a few places, again and again.
    pub favourites: u64,
    /// Of 100 acts of an application, those that submit a little and wait for it, several times in succession.
    pub successions: u64,
    /// Applications close segments, and give up requests.
    pub fickle: bool,
    /// When faults end.
    pub heal_at: u64,
    /// How often a host other than ours comes.
    pub stranger: u64,
    /// What hosts and targets prove to each other.
    pub proof: Proof,
    /// Another host, that cannot prove what it should, and how often it tries.
    pub intruder: Option<(Intruder, u64)>,
    /// What goes wrong on the wire.
    pub wire: WireFaults,
    /// What goes wrong with storage.
    pub storage: StorageFaults,
    /// Of 1000 moments, those in which a target is killed.
    pub kills: u64,
    /// Whether a kill may be a loss of power.
    pub power_loss: bool,
    /// Of 1000 moments, those in which connections of a target end: one, or all.
    pub outages: u64,
    /// Of 100 starts of a target, those in which its files have got each other's namespaces.
    pub exchanges: u64,
    /// Of 1000 moments, those in which a namespace goes (and comes back).
    pub namespaces: u64,
    /// Of 100 looks at the metadata, those that go wrong, in each of the ways that are on.
    pub metadata: MetadataFaults,
    /// Of 100 turns, those that a thread is late for.
    pub slow_threads: u64,
}

/// What hosts and targets prove to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Nothing.
    None,
    /// Hosts prove who they are.
    Hosts,
    /// Both do.
    Both,
}

/// Why a host must not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intruder {
    /// Its secret is another than the target knows.
    WrongSecret,
    /// It has none.
    NoSecret,
    /// It wants to see another secret proved than the target knows.
    DoubtsTarget,
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
    /// Of 1000 PDUs, those in whose header a bit is flipped, where digests are on.
    pub header_flips: u64,
    /// Refused or never made.
    pub refusals: u64,
    /// Of 1000 deliveries, those that take long.
    pub stalls: u64,
    /// Lost by the host while what it has sent is still on its way, and arrives later.
    pub strandings: u64,
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
    /// Writes whose data has come with them are carried out at once.
    pub at_once: bool,
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
            // Many small pieces of large files would only take time.
            chunk_bytes: if r.chance(60) {
                0
            } else {
                r.pick(&[700, 3_000, 9_000, 65_536]) * if small { 1 } else { 8 }
            },
            cuts: if calm { 0 } else { on(r, 55, 60) },
            silence: r.chance(25),
            flips: if calm || !digests { 0 } else { on(r, 60, 70) },
            header_flips: if calm || !digests { 0 } else { on(r, 20, 20) },
            refusals: if calm { 0 } else { on(r, 20, 50) },
            stalls: if calm { 0 } else { on(r, 35, 12) },
            strandings: 0,
            capacity: r.pick(&[4 << 10, 64 << 10, 256 << 10]) * if small { 1 } else { 4 },
        };
        let storage = StorageFaults {
            latency: r.pick(&[10 * US, 100 * US, 3 * MS]),
            errors: if calm { 0 } else { on(r, 30, 60) },
            stalls: if calm { 0 } else { on(r, 35, 40) },
            short: on(r, 40, 300),
            capacity: r.pick(&[2, 8, 64, 1024]),
            at_once: r.chance(50),
        };
        let metadata = MetadataFaults {
            late: if calm { 0 } else { on(r, 20, 50) },
            stale: if calm { 0 } else { on(r, 20, 50) },
            wrong: if calm { 0 } else { on(r, 20, 50) },
            down: if calm { 0 } else { on(r, 20, 30) },
        };
        let most = if r.chance(10) { 500_000 } else { 150_000 };
        let files = (0..r.within(1, 3)).map(|_| if small { r.within(600, 20_000) } else { r.within(30_000, most) });
        let files: Vec<u64> = files.collect();
        let largest = files.iter().copied().max().unwrap_or(1);
        // It knows no digests.
        let flips = wire.flips + wire.header_flips > 0;
        let mut plan = Self {
            hosts: if r.chance(70) { 1 } else { 2 },
            targets,
            workers: r.within(1, 3) as usize,
            reactors: if r.chance(60) { 1 } else { 2 },
            files,
            direct: r.chance(40),
            stops: if calm { 0 } else { on(r, 20, 20) },
            block_bytes: r.pick(&[512, 512, 4096]),
            requests: r.within(15, 60),
            max_request_bytes: if r.chance(50) { largest } else { r.within(512, 20_000).min(largest) },
            slots: r.within(1, 8) as usize,
            queue_depth: r.pick(&[2, 4, 32, 128]),
            max_slices: r.pick(&[4, 16, 1 << 16]),
            kato: r.pick(&[1, 3, 15]) * SECOND,
            digests: Digests { header: digests, data: digests },
            min_deadline: MS,
            max_deadline: r.pick(&[100 * MS, 3 * SECOND, 30 * SECOND]),
            favourites: on(r, 40, 80),
            successions: on(r, 30, 20),
            fickle: true,
            heal_at: r.pick(&[MS * 50, SECOND, 10 * SECOND, 40 * SECOND]),
            proof: r.pick(&[Proof::None, Proof::None, Proof::None, Proof::Hosts, Proof::Both]),
            stranger: if flips { 0 } else { on(r, 30, 10) },
            intruder: None,
            wire,
            storage,
            kills: if calm { 0 } else { on(r, 30, 60) },
            power_loss: r.chance(40),
            outages: if calm { 0 } else { on(r, 20, 20) },
            exchanges: 0,
            namespaces: if calm { 0 } else { on(r, 25, 80) },
            metadata,
            slow_threads: on(r, 30, 20),
        };
        if plan.proof != Proof::None && r.chance(50) {
            let kinds = [Intruder::WrongSecret, Intruder::NoSecret, Intruder::DoubtsTarget];
            plan.intruder = Some((r.pick(&kinds[..if plan.proof == Proof::Both { 3 } else { 2 }]), r.within(1, 5)));
        }
        // Some of what can go wrong needs several things at once, which are hardly ever met by chance.
        match r.below(100) {
            0..8 => plan.damaged_headers(r),
            8..20 => plan.orphans(r),
            20..30 => plan.edges(r),
            30..32 => plan.long_requests(r),
            32..38 => plan.flushes(r),
            38..46 => plan.slow_writes(r),
            46..54 => plan.late_writes(r),
            54..62 => plan.exchanged_files(r),
            _ => {}
        }
        plan
    }

    /// The part of a file that a host writes; the one after the last is the stranger.
    pub(crate) fn part_of(&self, host: usize, in_target: usize) -> Range<u64> {
        let (size, parts) = (self.files[in_target], self.hosts as u64 + u64::from(self.stranger > 0));
        let start = |host: u64| if host == parts { size } else { (size * host / parts) & !4095 };
        start(host as u64)..start(host as u64 + 1)
    }

    /// Headers are damaged, and nothing else, so that each is met by what is under way.
    fn damaged_headers(&mut self, r: &mut Random) {
        self.digests = Digests { header: true, data: self.digests.data };
        self.stranger = 0;
        self.wire = WireFaults { flips: 0, header_flips: r.within(5, 40), cuts: 0, stalls: 0, ..self.wire };
        (self.kills, self.outages, self.namespaces) = (0, 0, 0);
        self.files.iter_mut().for_each(|size| *size = (*size).min(100_000));
        if r.chance(60) {
            // Many commands of one length at once: what is meant for one can be taken for another.
            self.block_bytes = 4096;
            self.max_request_bytes = 3000;
            self.queue_depth = 128;
            (self.slots, self.requests) = (r.within(8, 16) as usize, r.within(100, 300));
            // They outlive their connections.
            (self.min_deadline, self.max_deadline) = (2 * SECOND, 30 * SECOND);
            self.storage.stalls = 0;
        }
    }

    /// Connections end while storage stalls, and then the same places are written again, with all the time there is.
    fn orphans(&mut self, r: &mut Random) {
        (self.workers, self.reactors) = (r.within(1, 2) as usize, 2);
        self.stranger = 0;
        self.files.iter_mut().for_each(|size| *size = (*size).min(60_000));
        self.max_request_bytes = self.max_request_bytes.min(20_000);
        self.storage.stalls = r.within(30, 300);
        self.wire.stalls = 0;
        (self.kills, self.namespaces) = (0, 0);
        self.outages = r.within(20, 200);
        self.favourites = r.within(50, 95);
        self.heal_at = r.pick(&[SECOND, 10 * SECOND]);
        if r.chance(70) {
            (self.min_deadline, self.max_deadline) = (250 * SECOND, 300 * SECOND);
        }
    }

    /// Hosts lose connections on which writes are still on their way, and then the same places are written again.
    fn late_writes(&mut self, r: &mut Random) {
        self.stranger = 0;
        self.files.iter_mut().for_each(|size| *size = (*size).min(60_000));
        self.max_request_bytes = self.max_request_bytes.min(20_000);
        self.storage.stalls = 0;
        self.wire = WireFaults {
            latency: r.pick(&[200 * US, 2 * MS, 30 * MS]),
            capacity: r.pick(&[4 << 10, 64 << 10]),
            strandings: r.within(30, 90),
            ..WireFaults::default()
        };
        (self.kills, self.namespaces, self.outages, self.stops) = (0, 0, 0, 0);
        self.kato = r.pick(&[3, 15]) * SECOND;
        self.favourites = r.within(50, 95);
        (self.slots, self.requests) = (r.within(2, 8) as usize, r.within(60, 200));
        // What has ended in doubt may come whenever it likes.
        self.fickle = false;
        (self.min_deadline, self.max_deadline) = (250 * SECOND, 300 * SECOND);
        self.heal_at = 40 * SECOND;
    }

    /// Targets start again with their files in another order, most of them of one size.
    fn exchanged_files(&mut self, r: &mut Random) {
        self.stranger = 0;
        let one_size = r.chance(70).then(|| self.files[0]);
        self.files.resize(r.within(2, 3) as usize, self.files[0]);
        self.files.iter_mut().for_each(|size| *size = one_size.unwrap_or(*size).min(60_000));
        let largest = self.files.iter().copied().max().unwrap_or(1);
        self.max_request_bytes = self.max_request_bytes.min(largest);
        self.exchanges = r.within(30, 90);
        self.kills = r.within(50, 300);
        self.stops = r.pick(&[0, 0, 20]);
        self.storage.stalls = 0;
        self.wire.stalls = 0;
        (self.slots, self.requests) = (r.within(2, 8) as usize, r.within(40, 120));
        if r.chance(70) {
            // They outlive their target.
            (self.min_deadline, self.max_deadline) = (8 * SECOND, 30 * SECOND);
        }
        self.heal_at = r.pick(&[SECOND, 10 * SECOND, 40 * SECOND]);
    }

    /// Many small writes to few blocks, through a queue with room for one command, to a target that loses power.
    fn edges(&mut self, r: &mut Random) {
        self.files.iter_mut().for_each(|size| *size = *size % 12_000 + 600);
        self.max_request_bytes = 700;
        (self.hosts, self.stranger) = (1, 0);
        self.block_bytes = r.pick(&[512, 4096, 4096]);
        self.queue_depth = r.pick(&[2, 2, 4]);
        self.workers = r.within(1, 2) as usize;
        (self.slots, self.requests) = (r.within(6, 16) as usize, r.within(60, 200));
        // They outlive their target.
        (self.min_deadline, self.max_deadline) = (8 * SECOND, 30 * SECOND);
        self.storage = StorageFaults { latency: r.pick(&[100 * US, 3 * MS]), stalls: 0, ..self.storage };
        self.wire = WireFaults { cuts: 0, stalls: 0, ..self.wire };
        (self.kills, self.power_loss) = (r.within(50, 400), true);
        self.heal_at = r.pick(&[SECOND, 10 * SECOND]);
    }

    /// A stranger flushes, and the target loses power again and again.
    fn flushes(&mut self, r: &mut Random) {
        self.hosts = 1;
        self.stranger = r.within(10, 40);
        self.wire = WireFaults { flips: 0, header_flips: 0, cuts: 0, stalls: 0, ..self.wire };
        self.storage = StorageFaults { stalls: 0, ..self.storage };
        (self.kills, self.power_loss) = (r.within(50, 400), true);
        self.heal_at = r.pick(&[SECOND, 10 * SECOND, 40 * SECOND]);
    }

    /// Long writes over slow links, with less time than they need: they end while their data is being sent, and other
    /// commands' data is behind it.
    fn slow_writes(&mut self, r: &mut Random) {
        (self.hosts, self.workers, self.stranger) = (1, 1, 0);
        // The target would find out by itself that other bytes came than were to be sent.
        self.digests = Digests { header: self.digests.header, data: false };
        self.files.iter_mut().for_each(|size| *size = 40_000 + *size % 60_000);
        self.max_request_bytes = self.files.iter().copied().max().unwrap_or(1);
        self.queue_depth = 32;
        (self.slots, self.requests) = (r.within(4, 8) as usize, r.within(30, 80));
        (self.min_deadline, self.max_deadline) = (5 * MS, SECOND);
        self.storage = StorageFaults { stalls: 0, ..self.storage };
        self.wire = WireFaults {
            latency: r.pick(&[2 * MS, 30 * MS]),
            capacity: r.pick(&[4 << 10, 16 << 10]),
            chunk_bytes: r.pick(&[0, 9_000]),
            stalls: r.within(0, 40),
            ..WireFaults::default()
        };
        (self.kills, self.outages, self.namespaces, self.stops) = (0, 0, 0, 0);
        self.metadata = MetadataFaults::default();
        self.heal_at = r.pick(&[SECOND, 10 * SECOND]);
    }

    /// Requests that are longer than what a command can move.
    fn long_requests(&mut self, r: &mut Random) {
        self.files = vec![r.within(1_200_000, 2_500_000)];
        self.max_request_bytes = self.files[0];
        (self.hosts, self.targets) = (1, 1);
        self.requests = r.within(3, 8);
        self.slots = r.within(1, 2) as usize;
        self.wire.capacity = 256 << 10;
        self.wire.chunk_bytes = r.pick(&[0, 65_536]);
    }
}
