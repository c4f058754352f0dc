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

/// Runs the calling test in namespaces of its own, where it may do what only root may, such as mounting: `flags` are those of
/// unshare(1), `setup` is a shell command that comes first. Answers `true` there. Answers `false` to the caller, when that
/// test has ended well, or cannot be had here; then it says that it was skipped.
#[must_use]
pub fn in_own_namespaces(test: &str, flags: &str, setup: &str) -> bool {
    const INSIDE: &str = "NVFERRY_TEST_IN_NAMESPACES";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut again = std::process::Command::new("unshare");
    let script = format!(r#"{setup} || exit 77; exec "$0" --exact "$1" --nocapture"#);
    again.args([flags, "sh", "-c", &script]).arg(std::env::current_exe().unwrap()).arg(test).env(INSIDE, "1");
    match again.output() {
        Ok(ended) if ended.status.success() => {
            let said = String::from_utf8_lossy(&ended.stdout);
            assert!(said.contains("test result: ok. 1 passed"), "no test is called {test}: {said}");
        }
        Ok(ended) if ended.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&ended.stderr)),
        Ok(ended) => println!(
            "skipped: {test}: no namespaces of its own can be had here (unshare {flags}: {})",
            String::from_utf8_lossy(&ended.stderr).trim().replace('\n', ", ")
        ),
        Err(error) => println!("skipped: {test}: unshare(1) cannot be run: {error}"),
    }
    false
}
