//! The three modes. [`node`] is what they have in common: an engine with the transport in it.

mod initiator;
mod loopback;
mod node;
mod target;

use crate::cli::{Mode, RunArgs};
use crate::cpu::cpu_seconds;
use crate::failure::{Interrupted, Usage};
use crate::report::{self, Outcome};
use crate::run;
use crate::signals::StopSignal;
use crate::workload::Workload;
use anyhow::{Context, Result, anyhow, bail};
use nix::unistd::{AccessFlags, eaccess};
use node::Node;
use std::io::{Write, stderr, stdout};
use std::path::Path;
use std::time::Duration;

/// Runs the mode that the command line names.
pub(crate) fn main(args: &RunArgs) -> Result<()> {
    check_together(args)?;
    check_json_path(args)?;
    let signal = StopSignal::install()?;
    match args.mode {
        Mode::Target => target::main(args, &signal),
        Mode::Initiator => initiator::main(args, &signal),
        Mode::Loopback => loopback::main(args, &signal),
    }
}

/// Flags that make no sense together, or not in this mode.
fn check_together(args: &RunArgs) -> Result<(), Usage> {
    let needs = |what: &str| Err(Usage(format!("--mode={} needs {what}", report::word(args.mode))));
    match args.mode {
        Mode::Target if args.metadata_server.is_none() => needs("--metadata_server"),
        Mode::Target if args.paths().is_empty() => needs("--files"),
        Mode::Initiator if args.metadata_server.is_none() => needs("--metadata_server"),
        Mode::Initiator if args.segment_id.is_none() => needs("--segment_id: the target's --local_server_name"),
        Mode::Initiator if !args.paths().is_empty() => {
            Err(Usage("--files belong to the target: an initiator uses what the segment offers".into()))
        }
        Mode::Target if args.linger.is_some() => {
            Err(Usage("a target stays until it is told to stop: --linger is for initiator and loopback".into()))
        }
        _ if args.json.is_some() && args.mode == Mode::Target => {
            Err(Usage("a target reports nothing: --json is for initiator and loopback".into()))
        }
        _ => Ok(()),
    }
}

/// That a report could be written is better known before a run than after.
fn check_json_path(args: &RunArgs) -> Result<(), Usage> {
    let Some(path) = args.json.as_ref().filter(|_| !args.json_on_stdout()) else { return Ok(()) };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |why: &str| Err(Usage(format!("cannot write the report to {}: {why}", path.display())));
    if !dir.is_dir() || path.is_dir() {
        return cannot("name a file in a directory that exists");
    }
    let written = if path.exists() { path } else { dir };
    match eaccess(written, AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(error) => cannot(&format!("{}; name one that may be written", error.desc())),
    }
}

/// Says something to the person: on standard output, unless the JSON report is there.
fn say(args: &RunArgs, text: &str) {
    // When nobody listens any more (`| head -1`), a run goes on all the same: its exit status still says how it went.
    let _ = if args.json_on_stdout() { writeln!(stderr(), "{text}") } else { writeln!(stdout(), "{text}") };
}

/// Opens the segment, runs the workload on its files, reports.
fn use_segment(node: &Node, name: &str, workload: &Workload, args: &RunArgs, signal: &StopSignal) -> Result<()> {
    let engine = &node.engine;
    let segment = engine.open_segment(name)?;
    let desc = engine.segment_desc(segment)?;
    let files = workload.files(name, &desc.file_buffers)?;
    signal.check()?;
    say(args, &format!("Segment {name} at {}: {}", node::address(&desc), report::describe(workload, &files)));
    let mut outcome = run::run(engine, segment, files, workload, args, signal)?;
    outcome.threads = node.threads();
    report_on(&outcome, name, workload, args)?;
    conclude(&outcome, workload)?;
    if let Some(time) = args.linger {
        linger(time, args, signal)?;
    }
    // After a failure the target may be dead: then the engine's end, which waits less, lets go of it.
    Ok(engine.close_segment(segment)?)
}

/// Stays connected for a time, and tells what that costs.
fn linger(time: Duration, args: &RunArgs, signal: &StopSignal) -> Result<()> {
    say(args, &format!("Lingering for {:.1} s, connected, with nothing to do", time.as_secs_f64()));
    let before = cpu_seconds();
    signal.wait_for(time);
    let used_ms = (cpu_seconds() - before) * 1e3;
    say(args, &format!("CPU {used_ms:.1} ms while it lingered (this process)"));
    Ok(signal.check()?)
}

fn report_on(outcome: &Outcome, segment: &str, workload: &Workload, args: &RunArgs) -> Result<()> {
    say(args, &report::text(outcome, workload, args));
    let Some(path) = &args.json else { return Ok(()) };
    let report = report::json(outcome, workload, args, segment);
    if args.json_on_stdout() {
        return writeln!(stdout(), "{report:#}").context("cannot write the report");
    }
    report::write_json(&report, path)
}

/// Turns what went wrong in a run into its end.
fn conclude(outcome: &Outcome, workload: &Workload) -> Result<()> {
    if let Some(failure) = outcome.failure() {
        return Err(anyhow!(failure));
    }
    if let Some(signal) = outcome.interrupted {
        return Err(Interrupted(signal).into());
    }
    if workload.verify && outcome.verified() == 0 {
        bail!("no block was verified: raise --duration");
    }
    if outcome.measured.requests == 0 {
        bail!("no request ended within the time: raise --duration");
    }
    Ok(())
}
