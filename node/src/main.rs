//! The `nvferry` program: a metadata service, a target, and commands that people type.
//!
//! What comes in: a command line and the environment. What goes out: a role that runs until it is told to stop, or an
//! answer on standard output. Everything said about the work, and every error, goes to standard error.
//!
//! Exit status: 0 done; 1 it failed, and one sentence on standard error says why; 2 the command line is wrong.

mod cli;
mod metadata;
mod output;
mod segment;
mod signals;

use clap::Parser;
use cli::{Cli, Command};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = start_log(cli.verbose).and_then(|()| match cli.command {
        Command::Metadata(args) => metadata::run(&args),
        Command::Segment(command) => segment::run(&command),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// Sends what the rooms trace to standard error: warnings, and with each `-v` more; `NVFERRY_LOG` picks exactly.
fn start_log(verbose: u8) -> anyhow::Result<()> {
    let filter = match (verbose, std::env::var("NVFERRY_LOG")) {
        (0, Ok(filter)) if !filter.is_empty() => EnvFilter::try_new(&filter)
            .map_err(|error| anyhow::anyhow!("NVFERRY_LOG={filter} is not a log filter ({error}); try `info`"))?,
        (0, _) => EnvFilter::new("warn"),
        (1, _) => EnvFilter::new("info"),
        (2, _) => EnvFilter::new("debug"),
        _ => EnvFilter::new("trace"),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    Ok(())
}
