//! What time it is: the machine's monotonic clock or, on a thread that runs a simulation, the simulation's.

use std::time::Instant;

/// The time now.
#[must_use]
#[inline]
pub fn now() -> Instant {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::simulation::world() {
        return world.now();
    }
    Instant::now()
}
