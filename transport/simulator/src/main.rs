//! Runs seeds of the simulation: `nvferry-simulate --seeds N`, or one of them again: `nvferry-simulate --seed S`.
#![allow(clippy::print_stdout)]

use clap::Parser;
use nvferry_simulator::{Campaign, Outcome, run};
use std::process::ExitCode;
use std::time::Instant;

/// Runs host and target under simulated faults, in many worlds or in one.
#[derive(Debug, Parser)]
#[command(name = "nvferry-simulate")]
struct Args {
    /// How many seeds to run.
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "S", default_value_t = 0, conflicts_with = "seed")]
    from: u64,
    /// Run this seed only, and tell what happens; RUST_LOG=trace tells more, RUST_LOG=off nothing.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Threads that run seeds; as many as there are processors, unless set.
    #[arg(long, value_name = "N", conflicts_with = "seed")]
    jobs: Option<usize>,
    /// Stop after so many failures.
    #[arg(long, value_name = "N", default_value_t = 20, conflicts_with = "seed")]
    max_failures: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let Args { seeds, from, seed, jobs, max_failures } = Args::parse();
    let (seeds, failures) = match seed {
        Some(seed) => {
            let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "debug".into());
            tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
            let outcome = run(seed)?;
            report(&outcome);
            println!("trace {:016x}, {} events, requests by state {:?}", outcome.trace, outcome.events, outcome.ended);
            (1, u64::from(outcome.failure.is_some()))
        }
        None => {
            let started = Instant::now();
            let sum = Campaign { from, seeds, jobs, max_failures }.run(report)?;
            let [_, _, _, canceled, completed, timeout, failed] = sum.ended;
            println!(
                "{completed} requests completed, {failed} failed, {timeout} timed out, {canceled} were given up; \
                 {} events; {:.0} seeds/s",
                sum.events,
                sum.seeds as f64 / started.elapsed().as_secs_f64()
            );
            (sum.seeds, sum.failures)
        }
    };
    println!("{seeds} seeds, {failures} failures");
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(outcome: &Outcome) {
    if let Some(failure) = &outcome.failure {
        println!("seed {} failed {failure}\n    again: scripts/simulate --seed {}", outcome.seed, outcome.seed);
    }
}
