//! What tests of this room share.

pub(crate) mod admin;
pub(crate) mod rig;
pub(crate) mod scripted;
pub(crate) mod socket;

use nvferry_engine::{Failure, SliceSink};
use std::sync::{Arc, Mutex};

/// Remembers how slices ended.
#[derive(Default)]
pub(crate) struct Outcomes {
    ended: Mutex<Vec<(u32, Result<(), Failure>)>>,
}

impl Outcomes {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Requests that have ended, in that order.
    pub(crate) fn ended(&self) -> Vec<(u32, Result<(), Failure>)> {
        self.ended.lock().unwrap().clone()
    }
}

impl SliceSink for Outcomes {
    fn slice_ended(&self, request: u32, _len_bytes: u64, result: Result<(), Failure>) {
        self.ended.lock().unwrap().push((request, result));
    }
}

/// A seeded source of numbers (splitmix64). It prints its seed when the test that owns it panics.
pub(crate) struct Random {
    state: u64,
    seed: u64,
    test: &'static str,
}

/// Seeded from `NVFERRY_TEST_SEED`, else from the clock.
pub(crate) fn random(test: &'static str) -> Random {
    let seed = std::env::var("NVFERRY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |time| time.as_nanos() as u64)
    });
    Random { state: seed, seed, test }
}

impl Random {
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed, seed, test: "a test with a fixed seed" }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{} failed with NVFERRY_TEST_SEED={}", self.test, self.seed);
        }
    }
}
