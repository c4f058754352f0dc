//! What the end-to-end tests of several rooms share; no part of any program.
//!
//! - [`Proxy`]: stands between a real host and a real target, and does to their connections what networks do;
//! - [`Random`]: seeded numbers, whose seed is printed when a test fails;
//! - [`Usage`]: what a process holds of the system, to see that it does not grow.
//!
//! It may use nothing of the other rooms, so that all of them can use it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "test code: a failure is a failed test"
)]

mod proxy;
mod random;
mod usage;

pub use proxy::{Faults, Proxy};
pub use random::Random;
pub use usage::Usage;

/// Whether tests that take long are to run: where `NVFERRY_LONG_TESTS` is set. Otherwise it says that one is skipped.
#[must_use]
pub fn takes_long(what: &str) -> bool {
    let wanted = std::env::var_os("NVFERRY_LONG_TESTS").is_some();
    if !wanted {
        println!("skipped: it takes long ({what}); NVFERRY_LONG_TESTS=1 runs it");
    }
    wanted
}
