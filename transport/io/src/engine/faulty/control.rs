//! What shall go wrong, said from outside: by rules, by chance with a seed, and by hand.

use super::unflushed::Unflushed;
use crate::engine::signal::Signal;
use crate::engine::{IoKind, IoRequest};
use crate::file::FileIdentity;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// What goes wrong with an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It ends with this error number, and the file is not touched.
    Error(i32),
    /// A read ends after so many bytes, as if the file did; a write writes so many and then finds the disk full
    /// (`ENOSPC`). Other operations are left alone. Under Direct I/O the count is rounded down to whole units.
    Short(usize),
    /// It does not begin until [`FaultControl::release_stalled`].
    Stall,
    /// It is done, but its end is told only after so many other ends, or when nothing else is under way.
    DelayEnds(u32),
    /// It is done, but its end is told only when the time of [`FaultControl::advance_to`] has moved on so much.
    DelayTime(Duration),
}

/// Which kind of operation a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FaultOn {
    /// All.
    #[default]
    Any,
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// [`IoKind::SyncData`].
    SyncData,
    /// [`IoKind::WriteZeroes`].
    WriteZeroes,
    /// [`IoKind::Deallocate`].
    Deallocate,
}

/// One rule: the first that applies decides, before chance does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultRule {
    /// What goes wrong.
    pub fault: Fault,
    /// With which operations.
    pub on: FaultOn,
    /// On which file; all when `None`.
    pub file: Option<FileIdentity>,
    /// Operations that touch any of these bytes; all when `None`.
    pub bytes: Option<Range<u64>>,
    /// Operations that fit and are left alone first.
    pub skip: u32,
    /// How many then meet the fault.
    pub times: u32,
}

impl FaultRule {
    /// The fault for everything, for ever. Narrow it with the fields.
    #[must_use]
    pub fn always(fault: Fault) -> Self {
        Self { fault, on: FaultOn::Any, file: None, bytes: None, skip: 0, times: u32::MAX }
    }

    /// The fault for the next operation.
    #[must_use]
    pub fn once(fault: Fault) -> Self {
        Self { times: 1, ..Self::always(fault) }
    }

    fn fits(&self, request: &IoRequest) -> bool {
        let (on, len) = match request.kind {
            IoKind::Read => (FaultOn::Read, request.buf.len() as u64),
            IoKind::Write => (FaultOn::Write, request.buf.len() as u64),
            IoKind::SyncData => (FaultOn::SyncData, u64::MAX),
            IoKind::WriteZeroes { len } => (FaultOn::WriteZeroes, len),
            IoKind::Deallocate { len } => (FaultOn::Deallocate, len),
        };
        let end = request.offset.saturating_add(len);
        (self.on == FaultOn::Any || self.on == on)
            && self.file.is_none_or(|file| file == request.file.identity())
            && self.bytes.as_ref().is_none_or(|bytes| bytes.start < end && request.offset < bytes.end)
    }
}

/// How likely faults by chance are, in millionths of all operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// `EIO`.
    pub error_ppm: u32,
    /// Short reads and full disks, after a random part.
    pub short_ppm: u32,
    /// Stalls.
    pub stall_ppm: u32,
    /// Ends told late, by up to [`Self::max_delay_ends`].
    pub delay_ppm: u32,
    /// The longest such delay, in other ends.
    pub max_delay_ends: u32,
}

/// The handle on the faults of one or more [`super::Faulty`] engines. Clones are the same.
#[derive(Debug, Clone)]
pub struct FaultControl {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    rules: Vec<FaultRule>,
    rates: FaultRates,
    random: Random,
    now: Duration,
    /// How often the stalled were released.
    releases: u64,
    injected: u64,
    engines: Vec<Weak<Signal>>,
    unflushed: Option<Unflushed>,
}

impl FaultControl {
    /// No faults yet; those by chance will follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let shared = Shared {
            rules: Vec::new(),
            rates: FaultRates::default(),
            random: Random(seed),
            now: Duration::ZERO,
            releases: 0,
            injected: 0,
            engines: Vec::new(),
            unflushed: None,
        };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // For tests: one that panicked under the lock has failed already.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule behind the others.
    pub fn add_rule(&self, rule: FaultRule) {
        self.lock().rules.push(rule);
    }

    /// Forgets all rules and rates; what is stalled or delayed stays so.
    pub fn clear(&self) {
        let mut shared = self.lock();
        shared.rules.clear();
        shared.rates = FaultRates::default();
    }

    /// Sets how likely faults by chance are.
    pub fn set_rates(&self, rates: FaultRates) {
        self.lock().rates = rates;
    }

    /// Lets everything begin that has stalled so far.
    pub fn release_stalled(&self) {
        let mut shared = self.lock();
        shared.releases += 1;
        shared.wake();
    }

    /// Moves the time on, for [`Fault::DelayTime`]. It starts at zero and never goes back.
    pub fn advance_to(&self, now: Duration) {
        let mut shared = self.lock();
        shared.now = shared.now.max(now);
        shared.wake();
    }

    /// How many operations met a fault.
    #[must_use]
    pub fn injected(&self) -> u64 {
        self.lock().injected
    }

    /// From now on, keeps what writes replaced until a flush makes them durable, for [`Self::crash`].
    pub fn track_unflushed(&self) {
        self.lock().unflushed.get_or_insert_default();
    }

    /// How many writes a crash might lose now.
    #[must_use]
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.as_ref().map_or(0, Unflushed::len)
    }

    /// Does to the files what a power failure may: each write that no flush covered stays, is lost, or stays in part,
    /// by chance. Tells how many did not stay whole. Call it when nothing is under way.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn crash(&self) -> io::Result<usize> {
        let mut shared = self.lock();
        let Shared { unflushed, random, .. } = &mut *shared;
        unflushed.as_mut().map_or(Ok(0), |unflushed| unflushed.lose_some(|below| random.below(below)))
    }

    pub(super) fn register(&self, engine: &Arc<Signal>) {
        let mut shared = self.lock();
        shared.engines.retain(|engine| engine.strong_count() > 0);
        shared.engines.push(Arc::downgrade(engine));
    }

    /// Decides what goes wrong with an operation.
    pub(super) fn decide(&self, request: &IoRequest) -> Option<Fault> {
        let mut shared = self.lock();
        let fault = shared.by_rule(request).or_else(|| shared.by_chance(request));
        shared.injected += u64::from(fault.is_some());
        fault
    }

    pub(super) fn now(&self) -> Duration {
        self.lock().now
    }

    pub(super) fn releases(&self) -> u64 {
        self.lock().releases
    }

    pub(super) fn with_unflushed<R>(&self, act: impl FnOnce(&mut Unflushed) -> R) -> Option<R> {
        self.lock().unflushed.as_mut().map(act)
    }
}

impl Shared {
    fn wake(&mut self) {
        for engine in &self.engines {
            if let Some(signal) = engine.upgrade() {
                signal.raise();
            }
        }
    }

    fn by_rule(&mut self, request: &IoRequest) -> Option<Fault> {
        for rule in &mut self.rules {
            if rule.times == 0 || !rule.fits(request) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times = if rule.times == u32::MAX { u32::MAX } else { rule.times - 1 };
            return Some(rule.fault);
        }
        None
    }

    fn by_chance(&mut self, request: &IoRequest) -> Option<Fault> {
        let FaultRates { error_ppm, short_ppm, stall_ppm, delay_ppm, max_delay_ends } = self.rates;
        if error_ppm | short_ppm | stall_ppm | delay_ppm == 0 {
            return None;
        }
        let mut roll = self.random.below(1_000_000) as u32;
        let mut hit = |ppm: u32| {
            let yes = roll < ppm;
            roll = roll.saturating_sub(ppm);
            if yes {
                roll = u32::MAX;
            }
            yes
        };
        if hit(error_ppm) {
            return Some(Fault::Error(libc::EIO));
        }
        if hit(short_ppm) {
            return Some(Fault::Short(self.random.below(request.buf.len().max(1) as u64) as usize));
        }
        if hit(stall_ppm) {
            return Some(Fault::Stall);
        }
        hit(delay_ppm).then(|| Fault::DelayEnds(1 + self.random.below(u64::from(max_delay_ends.max(1))) as u32))
    }
}

/// A small generator (SplitMix64): the same seed gives the same faults on every machine.
#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is at least 1.
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound.max(1))) >> 64) as u64
    }
}
