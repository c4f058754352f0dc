//! Numbers that follow from a seed.

/// A seeded source of numbers (splitmix64). It prints its seed when the test that owns it panics.
#[derive(Debug)]
pub struct Random {
    state: u64,
    seed: u64,
}

impl Random {
    /// Seeded from `NVFERRY_TEST_SEED`, else from the clock.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "two of them are not alike")]
    pub fn new() -> Self {
        let seed = std::env::var("NVFERRY_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.map_or(0, |time| time.as_nanos() as u64)
        });
        Self::seeded(seed)
    }

    /// Always the same numbers.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { state: seed, seed }
    }

    /// What all numbers follow from.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from 0 to `limit - 1`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Fills with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with NVFERRY_TEST_SEED={}", self.seed);
        }
    }
}
