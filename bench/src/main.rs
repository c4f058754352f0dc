//! The transfer bench.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![allow(dead_code)]
mod blocks;
mod cli;
mod cpu;
mod failure;
mod files;
mod pattern;
mod progress;
mod report;
mod signals;
mod size;
mod temp;
mod totals;
mod wire_limit;
mod workload;
use clap::Parser;
fn main() -> anyhow::Result<std::process::ExitCode> {
    let cli = cli::Cli::parse();
    match cli.command {
        Some(cli::Command::WireLimit(args)) => wire_limit::main(&args),
        None => Ok(std::process::ExitCode::SUCCESS),
    }
}
