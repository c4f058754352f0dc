//! Seeds that must hold, and that a seed says everything.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use nvferry_simulator::{Campaign, Outcome, run};

fn holds(from: u64, seeds: u64) {
    let failed = |outcome: &Outcome| println!("seed {}: {}", outcome.seed, outcome.failure.as_ref().unwrap());
    let sum = Campaign { from, seeds, jobs: None, max_failures: 10 }.run(failed).unwrap();
    assert_eq!(sum.failures, 0, "again, with what happens: scripts/simulate --seed S");
    assert_eq!(sum.seeds, seeds);
    let [_, _, _, canceled, completed, timeout, failed] = sum.ended;
    let each = [canceled, completed, timeout, failed];
    assert!(each.iter().all(|count| *count > 0), "all kinds of ends are met: {each:?}");
}

#[test]
fn two_thousand_seeds_hold() {
    holds(0, 2000);
}

#[test]
fn a_seed_says_everything() {
    for seed in 0..40 {
        let first = run(seed).unwrap();
        // On another thread, after other seeds.
        let again = std::thread::spawn(move || {
            run(seed + 1000).unwrap();
            run(seed).unwrap()
        });
        assert_eq!(again.join().unwrap(), first);
    }
}
