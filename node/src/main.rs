//! The `nvferry` program: a metadata service, a target, and commands that people type.
//!
//! What comes in: a command line and the environment. What goes out: a role that runs until it is told to stop, or an
//! answer on standard output. Everything said about the work, and every error, goes to standard error.
//!
//! Exit status: 0 done; 1 it failed, and one sentence on standard error says why; 2 the command line is wrong.

mod cli;
mod descriptors;
mod files;
mod log;
mod metadata;
mod output;
mod plan;
mod secret;
mod segment;
mod signals;
mod status;
mod target;

use clap::Parser;
use cli::{Cli, Command, TargetCommand, TargetLook};
use log::Log;
use std::process::ExitCode;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let log = Log::start(cli.verbose)?;
    match &cli.command {
        Command::Metadata(args) => metadata::run(args, log),
        Command::Target(TargetCommand::Serve(args)) => target::run(args, log),
        Command::Target(TargetCommand::Look(TargetLook::Plan(args))) => plan::run(args),
        Command::Target(TargetCommand::Look(TargetLook::Status(args))) => status::run(args),
        Command::Secret(args) => secret::run(args),
        Command::Segment(command) => segment::run(command),
    }
}
