//! The transfer bench: how fast files move over NVMe/TCP, and whether they move unharmed.
//!
//! What comes in: a command line ([`cli`]), checked into a [`workload`]. What goes out: a [`report`] and an exit
//! status ([`failure`]). Between them:
//!
//! - [`modes`]: a target, an initiator, or both in one process.
//! - [`run`]: the phases and threads of a run; [`lane`]: one thread's loop.
//! - [`blocks`]: which blocks in what order; [`pattern`]: what verified blocks hold; [`totals`]: what is counted.
//! - [`files`], [`temp`]: the files to serve; [`signals`], [`progress`], [`live_view`], [`cpu`], [`size`]: small
//!   things.
//! - [`sweep`]: many runs, one for each combination of settings; [`compare`]: two reports side by side; [`chart`]: a
//!   report as a picture. [`cases`] is what these have in common.
//! - [`wire_limit`]: the same bytes with no protocol, to compare with.
//!
//! It uses the engine, the NVMe-oF transport and the metadata server, and nothing uses it.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program speaks through them.

mod blocks;
mod cases;
mod chart;
mod cli;
mod compare;
mod cpu;
mod failure;
mod files;
mod lane;
mod live_view;
mod modes;
mod pattern;
mod progress;
mod report;
mod run;
mod signals;
mod size;
mod sweep;
mod temp;
mod totals;
mod wire_limit;
mod workload;

use clap::Parser;
use clap::error::ErrorKind;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("transfer-bench: {}", failure::one_line(&error));
            return ExitCode::from(2);
        }
    };
    let ended = match &cli.command {
        Some(cli::Command::WireLimit(args)) => wire_limit::main(args),
        Some(cli::Command::Sweep(args)) => sweep::main(args),
        Some(cli::Command::Compare(args)) => compare::main(args),
        Some(cli::Command::Chart(args)) => chart::main(args),
        None => modes::main(&cli.run),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("transfer-bench: {error:#}");
            failure::exit_code(&error)
        }
    }
}
