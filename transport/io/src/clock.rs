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

/// Whether this thread lives in a simulation, where waiting means [`simulated_wait`].
#[must_use]
#[inline]
pub fn is_simulated() -> bool {
    #[cfg(feature = "simulation")]
    {
        crate::simulation::world().is_some()
    }
    #[cfg(not(feature = "simulation"))]
    {
        false
    }
}

/// Lets simulated time go on until `is_over` says so, or until that time. Does nothing where time is the machine's.
pub fn simulated_wait(until: Instant, is_over: &mut dyn FnMut() -> bool) {
    #[cfg(feature = "simulation")]
    if let Some(world) = crate::simulation::world() {
        world.wait(until, is_over);
    }
    #[cfg(not(feature = "simulation"))]
    let _ = (until, is_over);
}
