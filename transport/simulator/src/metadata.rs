//! A metadata service that is late, stale, wrong or down, as the plan wants it.

use crate::plan::{MS, MetadataFaults, SECOND};
use crate::random::Random;
use nvferry_engine::metadata::{MetadataError, OnChange, Ownership, Versioned, Watch};
use nvferry_engine::{Deadline, MetadataStore};
use nvferry_io::{clock, simulation};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All versions of all keys.
pub(crate) struct Store {
    state: Mutex<State>,
    faults: MetadataFaults,
}

struct State {
    versions: BTreeMap<String, Vec<String>>,
    random: Random,
    healed: bool,
}

/// What goes wrong with one look.
enum Trouble {
    None,
    Late(u64),
    Down,
}

impl Store {
    /// A service that knows nothing yet.
    #[must_use]
    pub(crate) fn new(faults: MetadataFaults, random: Random) -> Arc<Self> {
        let state = State { versions: BTreeMap::new(), random, healed: false };
        Arc::new(Self { state: Mutex::new(state), faults })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // One thread; a panic ends the simulation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a key.
    pub(crate) fn publish(&self, key: &str, text: String) {
        self.lock().versions.entry(key.to_owned()).or_default().push(text);
    }

    /// From here on it answers at once, and rightly.
    pub(crate) fn heal(&self) {
        self.lock().healed = true;
    }

    fn trouble(&self) -> Trouble {
        let State { random, healed, .. } = &mut *self.lock();
        if *healed {
            return Trouble::None;
        }
        if random.chance(self.faults.down) {
            return Trouble::Down;
        }
        if random.chance(self.faults.late) {
            return Trouble::Late(random.within(MS, 5 * SECOND));
        }
        Trouble::None
    }

    fn answer(&self, key: &str) -> Option<String> {
        let State { versions, random, healed } = &mut *self.lock();
        let versions = versions.get(key)?;
        let newest = versions.last()?.clone();
        if *healed {
            return Some(newest);
        }
        if random.chance(self.faults.stale) {
            return versions.get(random.below(versions.len() as u64) as usize).cloned();
        }
        if random.chance(self.faults.wrong) {
            return Some(match random.below(5) {
                0 => newest[..newest.len() / 2].to_owned(),
                1 => newest.replace("\"4420\"", "\"4999\""),
                2 => newest.replace("nqn.2016-06.io.mc:target", "nqn.2016-06.io.mc:other"),
                // A file that is larger than it is.
                3 => newest.replace("\"size\":", "\"size\":1"),
                _ => newest.replace("nvmeof_generic", "something_else"),
            });
        }
        Some(newest)
    }
}

impl MetadataStore for Store {
    fn location(&self) -> String {
        "the simulated metadata service".into()
    }

    fn get(&self, key: &str, deadline: Deadline) -> Result<Option<Versioned>, MetadataError> {
        let (location, attempt) = (self.location(), format!("get {key}"));
        match self.trouble() {
            Trouble::None => {}
            Trouble::Down => {
                let cause = "it is down".into();
                return Err(MetadataError::Unreachable { location, attempt, cause });
            }
            Trouble::Late(ns) => {
                let until = (clock::now() + Duration::from_nanos(ns)).min(deadline.instant());
                if let Some(world) = simulation::world() {
                    world.wait(until, &mut || false);
                }
                if deadline.has_passed() {
                    return Err(MetadataError::Late { location, attempt, waited_ms: u128::from(ns / MS) });
                }
            }
        }
        Ok(self.answer(key).map(|text| Versioned { text, version: None }))
    }

    fn put(&self, key: &str, text: &str, _: Option<&Ownership>, _: Deadline) -> Result<(), MetadataError> {
        self.publish(key, text.to_owned());
        Ok(())
    }

    fn remove(&self, key: &str, _: Option<&Ownership>, _: Deadline) -> Result<bool, MetadataError> {
        Ok(self.lock().versions.remove(key).is_some())
    }

    fn list(&self, prefix: &str, _: Deadline) -> Result<Vec<String>, MetadataError> {
        Ok(self.lock().versions.keys().filter(|key| key.starts_with(prefix)).cloned().collect())
    }

    fn watch(&self, _: &str, _: Option<u64>, _: OnChange) -> Option<Watch> {
        // Descriptions are fetched anew when something is missing, and when the application says so.
        None
    }
}
