//! The fast paths of the data path: which are taken, and how often.
//!
//! Each is taken where it pays, and nobody has to choose. Tests have to, as what is right on one path may be wrong on
//! another: [`ENVIRONMENT`] forces each of them on or off, for host and target, in a process that is started with it.
//! `docs/testing.md` has the table. What was taken is counted for each thread ([`PathCounters`]), so that a test can tell
//! whether what it forced was in force.

use crate::engine::EngineChoice;
use crate::tally::Counter;
use std::sync::OnceLock;
use std::time::Duration;

/// The environment variable that forces paths in tests: words such as `pages=off engine=libaio`.
pub const ENVIRONMENT: &str = "NVFERRY_TEST_PATHS";

/// How long threads spin where that is forced.
const FORCED_SPIN: Duration = Duration::from_millis(1);

/// Whether a path is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Force {
    /// Where it pays.
    #[default]
    Auto,
    /// Wherever it can be.
    On,
    /// Never.
    Off,
}

impl Force {
    /// A threshold from which on the path is taken: `auto` unless it is forced.
    #[must_use]
    pub fn from_bytes(self, auto: u32) -> u32 {
        match self {
            Self::Auto => auto,
            Self::On => 1,
            Self::Off => u32::MAX,
        }
    }

    /// Whether a path that is taken by itself is forbidden.
    #[must_use]
    pub fn is_off(self) -> bool {
        self == Self::Off
    }
}

/// Which fast paths are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FastPaths {
    /// Target: reads are sent as pages of the file (`splice`).
    pub pages: Force,
    /// Operations on files are done by a plain call when they are submitted.
    pub inline: Force,
    /// The engine of file I/O for those that are not.
    pub engine: EngineChoice,
    /// Host: data of writes leaves in the command's capsule.
    pub in_capsule: Force,
    /// Target: the last data of a read says that the read succeeded (SUCCESS), without a response.
    pub success_flag: Force,
    /// Target: reads are answered in rounds.
    pub rounds: Force,
    /// Target: writes of files in memory, whose data has come with them, are carried out from the receive buffer.
    pub straight: Force,
    /// Data is received straight into its place.
    pub in_place: Force,
    /// Host: a receive of less than was asked for means that the socket is empty.
    pub drained: Force,
    /// Host: threads that wait drive the worker.
    pub lend: Force,
    /// Host: work spreads over all workers.
    pub spread: Force,
    /// Threads look for more before they sleep.
    pub spin: Force,
    /// Host: asks for header digests, where nobody says otherwise.
    pub header_digest: bool,
    /// Host: asks for data digests, where nobody says otherwise.
    pub data_digest: bool,
}

impl FastPaths {
    /// What [`ENVIRONMENT`] says in this process; read once.
    ///
    /// # Errors
    /// A word that means nothing.
    pub fn check() -> Result<Self, PathsError> {
        static PATHS: OnceLock<Result<FastPaths, PathsError>> = OnceLock::new();
        PATHS.get_or_init(|| std::env::var(ENVIRONMENT).map_or(Ok(Self::default()), |text| Self::parse(&text))).clone()
    }

    /// The same; nothing is forced where the words mean nothing. Transports and targets refuse to start then.
    #[must_use]
    pub fn of_this_process() -> Self {
        Self::check().unwrap_or_default()
    }

    /// How long threads spin for whom somebody chose `chosen`.
    #[must_use]
    pub fn spin(self, chosen: Duration) -> Duration {
        match self.spin {
            Force::Auto => chosen,
            Force::On => FORCED_SPIN,
            Force::Off => Duration::ZERO,
        }
    }

    fn parse(text: &str) -> Result<Self, PathsError> {
        let mut paths = Self::default();
        for word in text.split_whitespace() {
            let wrong = || PathsError(word.to_owned());
            let (key, value) = word.split_once('=').ok_or_else(wrong)?;
            match key {
                "engine" => {
                    paths.engine = value.parse().map_err(|_| wrong())?;
                    continue;
                }
                "digests" => {
                    (paths.header_digest, paths.data_digest) = match value {
                        "none" => (false, false),
                        "header" => (true, false),
                        "data" => (false, true),
                        "both" => (true, true),
                        _ => return Err(wrong()),
                    };
                    continue;
                }
                _ => {}
            }
            let force = match value {
                "auto" => Force::Auto,
                "on" => Force::On,
                "off" => Force::Off,
                _ => return Err(wrong()),
            };
            match key {
                "pages" => paths.pages = force,
                "inline" => paths.inline = force,
                "in_capsule" => paths.in_capsule = force,
                "success_flag" => paths.success_flag = force,
                "rounds" => paths.rounds = force,
                "straight" => paths.straight = force,
                "in_place" => paths.in_place = force,
                "drained" => paths.drained = force,
                "lend" => paths.lend = force,
                "spread" => paths.spread = force,
                "spin" => paths.spin = force,
                _ => return Err(wrong()),
            }
        }
        Ok(paths)
    }
}

/// A word in [`ENVIRONMENT`] that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{ENVIRONMENT}: {0:?} means nothing: words are engine=auto|io_uring|libaio|threads, digests=none|header|data|both, and \
     pages, inline, in_capsule, success_flag, rounds, straight, in_place, drained, lend, spread, spin with =auto|on|off"
)]
pub struct PathsError(String);

/// What a thread of a host or a target counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// I/O commands: sent by a host's worker, taken by a target's reactor.
    Commands,
    /// Target: reads that were sent as pages of their file.
    Pages,
    /// Target: operations on files that ended within the call that submitted them.
    Inline,
    /// Target: operations on files that an engine was given.
    Queued,
    /// Writes whose data came in the capsule.
    InCapsule,
    /// R2Ts: asked by a target, answered by a host.
    Solicited,
    /// Reads that ended with their data (SUCCESS), without a response.
    SuccessFlag,
    /// Target: rounds that ended with reads left for the next.
    CutRounds,
    /// Target: writes that were carried out from the receive buffer.
    Straight,
    /// Bytes of data received straight into their place.
    PlacedBytes,
    /// Bytes of data copied from a receive buffer.
    CopiedBytes,
    /// Host: receives that found nothing.
    EmptyReceives,
    /// Digests of headers that were checked.
    HeaderDigests,
    /// Digests of data that were checked.
    DataDigests,
    /// Waits that began with a look around instead of a sleep.
    Spins,
}

impl Path {
    /// All of them, in their order.
    pub const ALL: [Self; 15] = [
        Self::Commands,
        Self::Pages,
        Self::Inline,
        Self::Queued,
        Self::InCapsule,
        Self::Solicited,
        Self::SuccessFlag,
        Self::CutRounds,
        Self::Straight,
        Self::PlacedBytes,
        Self::CopiedBytes,
        Self::EmptyReceives,
        Self::HeaderDigests,
        Self::DataDigests,
        Self::Spins,
    ];

    /// Its name in figures.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Pages => "pages",
            Self::Inline => "inline",
            Self::Queued => "queued",
            Self::InCapsule => "in_capsule",
            Self::Solicited => "solicited",
            Self::SuccessFlag => "success_flag",
            Self::CutRounds => "cut_rounds",
            Self::Straight => "straight",
            Self::PlacedBytes => "placed_bytes",
            Self::CopiedBytes => "copied_bytes",
            Self::EmptyReceives => "empty_receives",
            Self::HeaderDigests => "header_digests",
            Self::DataDigests => "data_digests",
            Self::Spins => "spins",
        }
    }
}

/// One thread's counters, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PathCounters([Counter; Path::ALL.len()]);

impl PathCounters {
    /// Adds, by the one thread that writes these.
    #[inline]
    pub fn add(&self, path: Path, n: u64) {
        self.0[path as usize].add(n);
    }

    /// Sets, likewise.
    #[inline]
    pub fn set(&self, path: Path, n: u64) {
        self.0[path as usize].set(n);
    }

    /// What was counted so far.
    #[must_use]
    pub fn totals(&self) -> PathTotals {
        PathTotals(self.0.each_ref().map(Counter::get))
    }
}

/// What [`PathCounters`] held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathTotals([u64; Path::ALL.len()]);

impl PathTotals {
    /// How often, or how many bytes.
    #[must_use]
    pub fn get(&self, path: Path) -> u64 {
        self.0[path as usize]
    }

    /// What was added since.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        Self(std::array::from_fn(|at| self.0[at].wrapping_sub(before.0[at])))
    }
}

impl std::ops::AddAssign for PathTotals {
    fn add_assign(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(count, more)| *count += more);
    }
}

impl std::iter::Sum for PathTotals {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |mut sum, one| {
            sum += one;
            sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_understood_and_nonsense_named() {
        let text = "pages=off inline=on engine=libaio in_capsule=off success_flag=off rounds=on straight=off in_place=on drained=off \
                    lend=off spread=on spin=on digests=both";
        let expected = FastPaths {
            pages: Force::Off,
            inline: Force::On,
            engine: EngineChoice::Libaio,
            in_capsule: Force::Off,
            success_flag: Force::Off,
            rounds: Force::On,
            straight: Force::Off,
            in_place: Force::On,
            drained: Force::Off,
            lend: Force::Off,
            spread: Force::On,
            spin: Force::On,
            header_digest: true,
            data_digest: true,
        };
        assert_eq!(FastPaths::parse(text), Ok(expected));
        assert_eq!(FastPaths::parse(" "), Ok(FastPaths::default()));
        for wrong in ["pages", "pages=perhaps", "page=off", "engine=spdk", "digests=on"] {
            let error = FastPaths::parse(&format!("spin=on {wrong}")).unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }

    #[test]
    fn counters_stand_under_their_names() {
        for (at, path) in Path::ALL.into_iter().enumerate() {
            assert_eq!(path as usize, at);
            let counters = PathCounters::default();
            counters.add(path, 2);
            assert_eq!(Path::ALL.map(|other| counters.totals().get(other)).iter().sum::<u64>(), 2);
            assert_eq!(counters.totals().get(path), 2, "{}", path.name());
        }
    }
}
