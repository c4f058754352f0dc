//! Many runs of the bench: one for each combination of block size, queue depth, threads and drivers, several rounds
//! of all of them in turn, so that a machine that slows down meanwhile slows all.
//!
//! Each run is a process of its own, as a person would start it. [`report`] is what comes out.

mod report;
mod run_one;

use crate::cli::{Cli, Direction, HostDriver, Mode, RunArgs, TargetDriver, seconds_above_zero};
use crate::failure::Usage;
use crate::report::word;
use crate::signals::StopSignal;
use crate::size::{parse_size, show_size};
use crate::temp::{self, TempFile};
use crate::{chart, progress};
use anyhow::{Context, Result, bail};
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches};
use report::{Measured, Sweep};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Runs the bench once for each combination of these settings, and shows all results together.
///
/// Lists are separated by commas. Without files of its own it uses one temporary file for all runs. Flags of a run,
/// such as --workers or --mode=initiator with its --segment_id, come after `--`.
#[derive(Debug, Clone, clap::Args)]
#[command(rename_all = "snake_case")]
pub(crate) struct SweepArgs {
    /// Bytes of one request
    #[arg(long, alias = "block-sizes", value_parser = parse_size, value_delimiter = ',', default_value = "4k,64k,1M", value_name = "SIZES")]
    block_sizes: Vec<u64>,
    /// Requests that each thread keeps outstanding
    #[arg(long, alias = "queue-depths", alias = "queue_depths", value_parser = clap::value_parser!(u32).range(1..=1 << 16), value_delimiter = ',', default_value = "1,32", value_name = "DEPTHS")]
    depths: Vec<u32>,
    /// Threads that submit
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), value_delimiter = ',', default_value = "1", value_name = "COUNTS")]
    threads: Vec<u32>,
    /// Which way the bytes go
    #[arg(long, value_enum, value_delimiter = ',', default_value = "read", value_name = "OPERATIONS")]
    operations: Vec<Direction>,
    /// How the initiator is realised
    #[arg(
        long,
        alias = "host-drivers",
        value_enum,
        value_delimiter = ',',
        default_value = "userspace",
        value_name = "DRIVERS"
    )]
    host_drivers: Vec<HostDriver>,
    /// How the target is realised
    #[arg(
        long,
        alias = "target-drivers",
        value_enum,
        value_delimiter = ',',
        default_value = "userspace",
        value_name = "DRIVERS"
    )]
    target_drivers: Vec<TargetDriver>,
    /// How often all of it
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000), default_value_t = 3, value_name = "N")]
    rounds: u32,
    /// Seconds to measure in each run
    #[arg(long, value_parser = seconds_above_zero, default_value = "1", value_name = "SECONDS")]
    duration: Duration,
    /// Write everything, each round of it, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw a chart, as SVG
    #[arg(long, value_name = "FILE")]
    chart: Option<PathBuf>,
    /// Flags of a run, for all runs
    #[arg(last = true, value_name = "FLAGS OF A RUN")]
    run_flags: Vec<OsString>,
}

/// One combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Point {
    operation: Direction,
    block_bytes: u64,
    depth: u32,
    threads: u32,
    host_driver: HostDriver,
    target_driver: TargetDriver,
}

impl Point {
    /// What names it in reports.
    fn name(&self) -> String {
        format!(
            "{} {} depth {} threads {} {} to {}",
            word(self.operation),
            show_size(self.block_bytes),
            self.depth,
            self.threads,
            word(self.host_driver),
            word(self.target_driver)
        )
    }

    /// The flags of its run.
    fn flags(&self) -> Vec<String> {
        vec![
            format!("--operation={}", word(self.operation)),
            format!("--block_size={}", self.block_bytes),
            format!("--queue_depth={}", self.depth),
            format!("--threads={}", self.threads),
            format!("--host_driver={}", word(self.host_driver)),
            format!("--target_driver={}", word(self.target_driver)),
        ]
    }
}

/// Every combination, the ones with the same drivers together.
fn points(args: &SweepArgs) -> Vec<Point> {
    let mut points = Vec::new();
    for &target_driver in &args.target_drivers {
        for &host_driver in &args.host_drivers {
            for &operation in &args.operations {
                for &block_bytes in &args.block_sizes {
                    for &threads in &args.threads {
                        for &depth in &args.depths {
                            let point = Point { operation, block_bytes, depth, threads, host_driver, target_driver };
                            if !points.contains(&point) {
                                points.push(point);
                            }
                        }
                    }
                }
            }
        }
    }
    points
}

/// Flags of a run that a sweep sets, and its own flags for that.
const SWEPT: [(&str, &str); 7] = [
    ("operation", "operations"),
    ("block_size", "block_sizes"),
    ("queue_depth", "depths"),
    ("threads", "threads"),
    ("host_driver", "host_drivers"),
    ("target_driver", "target_drivers"),
    ("duration", "duration"),
];

/// The flags after `--`, checked, as a run would check them.
fn check_run_flags(args: &SweepArgs) -> Result<RunArgs> {
    let words = std::iter::once(OsString::from("transfer-bench")).chain(args.run_flags.iter().cloned());
    let parsed = Cli::command().try_get_matches_from(words);
    let parsed = parsed.and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = parsed.map_err(|error| Usage(format!("after `--`: {}", crate::failure::one_line(&error))))?;
    let refused = |why: &str| Err(Usage(format!("after `--`: {why}")).into());
    let is_given = |flag: &str| matches.value_source(flag) == Some(ValueSource::CommandLine);
    // What the sweep itself says of each run would win, and a person wonder.
    if let Some((flag, own)) = SWEPT.iter().find(|(flag, _)| cli.command.is_none() && is_given(flag)) {
        return refused(&format!("--{flag} belongs to the sweep: give --{own} before `--`"));
    }
    if cli.command.is_some() {
        return refused("flags of a run are expected, no other command");
    }
    if cli.run.mode == Mode::Target {
        return refused("a target measures nothing: start it by itself, and sweep with --mode=initiator");
    }
    if cli.run.json.is_some() {
        return refused("--json belongs to the sweep: put it before `--`");
    }
    if args.operations.contains(&Direction::Write) && !cli.run.overwrite && !makes_own_file(&cli.run) {
        return refused("writing would overwrite the files: add --overwrite when what they hold may be lost");
    }
    Ok(cli.run)
}

fn makes_own_file(run: &RunArgs) -> bool {
    run.mode == Mode::Loopback && run.paths().is_empty() && run.segment_id.is_none()
}

fn check_outputs(args: &SweepArgs) -> Result<(), Usage> {
    for path in [&args.json, &args.csv, &args.chart].into_iter().flatten() {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !dir.is_dir() || path.is_dir() {
            return Err(Usage(format!("cannot write {}: name a file in a directory that exists", path.display())));
        }
        if path.as_os_str() == "-" {
            return Err(Usage("standard output has the table: name a file instead of -".into()));
        }
    }
    args.chart.as_deref().map_or(Ok(()), chart::check_name)?;
    if args.block_sizes.iter().any(|bytes| !(1..=1 << 30).contains(bytes)) {
        return Err(Usage("a block size must be above 0 and at most 1 GiB".into()));
    }
    Ok(())
}

/// Runs the sweep.
///
/// # Errors
/// When it cannot start, when a signal ends it, or when a run failed: what was measured is shown all the same.
pub(crate) fn main(args: &SweepArgs) -> Result<()> {
    check_outputs(args)?;
    let run = check_run_flags(args)?;
    let signal = StopSignal::install()?;
    let mut common = args.run_flags.clone();
    common.push(format!("--duration={}", args.duration.as_secs_f64()).into());
    common.push("--latency".into());
    let own_file = if makes_own_file(&run) {
        let file = TempFile::create(temp::choose_size(run.file_size)?, run.seed.unwrap_or(1), &signal)?;
        let path = file.to_local_file().path;
        let text = path.to_str().filter(|text| !text.contains(char::is_whitespace));
        let text = text.with_context(|| {
            format!("cannot serve {}: set TMPDIR to a directory without blanks in its path", path.display())
        })?;
        common.extend([format!("--files={text}").into(), "--overwrite".into()]);
        Some(file)
    } else {
        None
    };

    let points = points(args);
    let mut sweep = Sweep::new(points.iter().map(|point| Measured::new(*point)).collect(), args);
    // A run ends by deadlines of its own; this is the net under that promise.
    let patience =
        args.duration + run.warmup + run.linger.unwrap_or_default() + run.timeout * 3 + run.control_timeout * 10;
    let bar = progress::steps_bar(u64::from(args.rounds) * points.len() as u64);
    'rounds: for _ in 0..args.rounds {
        for measured in &mut sweep.cases {
            bar.set_message(measured.point.name());
            if measured.failure.is_none() {
                match run_one::run(&common, &measured.point.flags(), patience, &signal) {
                    Ok(report) => measured.add(&report),
                    Err(_) if signal.is_set() => break 'rounds,
                    Err(error) => measured.failure = Some(format!("{error:#}")),
                }
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    drop(own_file);
    finish(args, &sweep, &signal)
}

/// Shows and writes what there is.
fn finish(args: &SweepArgs, sweep: &Sweep, signal: &StopSignal) -> Result<()> {
    print!("{}", sweep.table());
    let json = sweep.json();
    if let Some(path) = &args.json {
        crate::report::write_json(&json, path)?;
    }
    if let Some(path) = &args.csv {
        std::fs::write(path, sweep.csv()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = args.chart.as_ref().filter(|_| sweep.has_results()) {
        chart::draw(&json, path)?;
    }
    signal.check()?;
    let failed: Vec<_> = sweep.cases.iter().filter_map(|case| Some((case, case.failure.as_ref()?))).collect();
    match failed.first() {
        None => Ok(()),
        Some((case, why)) => {
            bail!("{} of {} cases failed, the first: {}: {why}", failed.len(), sweep.cases.len(), case.point.name())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args(line: &str) -> SweepArgs {
        let cli = Cli::try_parse_from(["transfer-bench", "sweep"].into_iter().chain(line.split_whitespace())).unwrap();
        match cli.command {
            Some(crate::cli::Command::Sweep(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_combination_once() {
        let args = args("--block-sizes=4k,64k,4096 --depths=1,8 --threads=1,2 --host_drivers=userspace,local");
        let points = points(&args);
        assert_eq!(points.len(), 2 * 2 * 2 * 2, "4k and 4096 are the same");
        let mut names: Vec<_> = points.iter().map(Point::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), points.len());
    }

    #[test]
    fn what_makes_no_sense_after_the_dashes_is_refused() {
        for (line, word) in [
            ("-- --mode=target", "target"),
            ("-- --json", "--json"),
            ("-- --nonsense", "nonsense"),
            ("-- compare a b", "no other command"),
            ("-- --block_size=4k", "--block_size belongs to the sweep: give --block_sizes before"),
            ("-- --block-size 4k", "--block_size belongs"),
            ("-- --workers=2 --threads=3", "give --threads before"),
            ("-- --duration=1", "give --duration before"),
            ("--operations=write -- --files=/etc/hosts", "overwrite"),
        ] {
            let error = check_run_flags(&args(line)).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(word), "{line}: {error}");
        }
        assert!(check_run_flags(&args("--operations=write")).is_ok(), "its own file may be overwritten");
        assert!(check_run_flags(&args("--threads=2 -- --workers=2 --verify")).is_ok());
        for (flag, own) in SWEPT {
            let known = Cli::command().get_arguments().any(|arg| arg.get_id() == flag);
            let sweep = Cli::command();
            let sweep = sweep.find_subcommand("sweep").unwrap();
            assert!(known && sweep.get_arguments().any(|arg| arg.get_long() == Some(own)), "--{flag}, --{own}");
        }
    }

    #[test]
    fn a_picture_is_named_as_what_it_is_and_the_table_has_standard_output() {
        for (line, word) in [("--chart=a.png", ".svg"), ("--json=-", "name a file"), ("--csv=-", "name a file")] {
            let error = check_outputs(&args(line)).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
        assert!(check_outputs(&args("--chart=a.svg --json=a.json")).is_ok());
    }
}
