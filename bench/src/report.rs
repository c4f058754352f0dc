//! What a run gave, for people and as JSON.

use crate::blocks::BenchFile;
use crate::cli::{Direction, Mode, Pattern, RunArgs};
use crate::pattern::Mismatch;
use crate::size::show_size;
use crate::totals::Totals;
use crate::workload::Workload;
use anyhow::{Context, Result};
use nvferry_io::fast_paths::{Path, PathTotals};
use nvferry_target::ReactorStatus;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// What a run gave.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The files, as they were used.
    pub(crate) files: Vec<BenchFile>,
    /// The timed phase.
    pub(crate) measured: Totals,
    /// With `--verify`, the pass before a timed read, that wrote the pattern.
    pub(crate) prepared: Option<Totals>,
    /// With `--verify`, the pass after a timed write, that read back what was written.
    pub(crate) read_back: Option<Totals>,
    /// CPU seconds of this process during the timed phase.
    pub(crate) cpu_seconds: f64,
    /// The signal that ended it early.
    pub(crate) interrupted: Option<i32>,
    /// What the threads of host and target did, as far as they are in this process; all phases, and the warm-up.
    pub(crate) threads: Threads,
}

/// What the threads of host and target did.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    /// The host's worker threads.
    pub(crate) workers: Vec<PathTotals>,
    /// The target's.
    pub(crate) reactors: Vec<ReactorStatus>,
    /// Waits of callers that drove a worker themselves.
    pub(crate) driven_waits: u64,
}

impl Threads {
    fn json(&self) -> Value {
        let paths = |totals: &PathTotals| {
            let counts = Path::ALL.map(|path| (path.name().to_owned(), json!(totals.get(path))));
            counts.into_iter().collect::<serde_json::Map<_, _>>()
        };
        let workers: Vec<_> = self.workers.iter().map(|worker| json!({ "paths": paths(worker) })).collect();
        let reactor = |it: &ReactorStatus| json!({ "engine": it.engine, "paths": paths(&it.paths) });
        let reactors: Vec<_> = self.reactors.iter().map(reactor).collect();
        json!({ "workers": workers, "reactors": reactors, "driven_waits": self.driven_waits })
    }
}

impl Outcome {
    /// All phases, in order.
    fn phases(&self) -> impl Iterator<Item = &Totals> {
        self.prepared.iter().chain([&self.measured]).chain(&self.read_back)
    }

    fn sum(&self, of: impl Fn(&Totals) -> u64) -> u64 {
        self.phases().map(of).sum()
    }

    /// Blocks that were compared with the pattern.
    pub(crate) fn verified(&self) -> u64 {
        self.sum(|phase| phase.verified)
    }

    fn first_failure(&self) -> Option<&str> {
        self.phases().find_map(|phase| phase.first_failure.as_deref())
    }

    fn first_mismatch(&self) -> Option<&(usize, Mismatch)> {
        self.phases().find_map(|phase| phase.first_mismatch.as_ref())
    }

    /// What went wrong, in one sentence; `None` when all went well.
    pub(crate) fn failure(&self) -> Option<String> {
        let failed = self.sum(|phase| phase.failed);
        if failed > 0 {
            let requests =
                if failed == 1 { "1 request failed" } else { &format!("{failed} requests failed, the first") };
            return Some(format!("{requests}: {}", self.first_failure().unwrap_or("no reason was given")));
        }
        let (file, mismatch) = self.first_mismatch()?;
        Some(format!(
            "{} of {} blocks are not what was written, the first at byte {} of {}: expected {}, got {}",
            self.sum(|phase| phase.mismatched),
            self.verified(),
            mismatch.offset,
            self.files[*file].path,
            hex(&mismatch.expected),
            hex(&mismatch.got)
        ))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Rates and latencies of the timed phase.
struct Figures {
    seconds: f64,
    batches: u64,
    bytes_per_second: f64,
    requests_per_second: f64,
    cpu_seconds_per_gb: f64,
}

impl Figures {
    fn new(outcome: &Outcome, workload: &Workload) -> Self {
        let seconds = outcome.measured.took.as_secs_f64();
        let bytes = outcome.measured.bytes() as f64;
        let per_second = |count: f64| if seconds > 0.0 { count / seconds } else { 0.0 };
        Self {
            seconds,
            batches: outcome.measured.requests / u64::from(workload.batch_size),
            bytes_per_second: per_second(bytes),
            requests_per_second: per_second(outcome.measured.requests as f64),
            cpu_seconds_per_gb: if bytes > 0.0 { outcome.cpu_seconds / (bytes / 1e9) } else { 0.0 },
        }
    }
}

/// Microseconds by name, from the recorded latencies.
fn latencies_us(totals: &Totals) -> Option<[(&'static str, f64); 6]> {
    let recorded = totals.latency_ns.as_ref().filter(|recorded| !recorded.is_empty())?;
    let at = |quantile| recorded.value_at_quantile(quantile) as f64 / 1e3;
    Some([
        ("mean", recorded.mean() / 1e3),
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("p99.9", at(0.999)),
        ("max", recorded.max() as f64 / 1e3),
    ])
}

/// A flag's value, as it is written on the command line.
pub(crate) fn word<T: clap::ValueEnum>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// One line on what is about to run.
pub(crate) fn describe(workload: &Workload, files: &[BenchFile]) -> String {
    let order = match workload.pattern {
        Pattern::Random => "random",
        Pattern::Sequential => "sequential",
    };
    let direction = match workload.direction {
        Direction::Read => "reads",
        Direction::Write => "writes",
    };
    let count = |n: u64, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
    format!(
        "{order} {direction} of {} over {}, {}, queue depth {}{}",
        show_size(workload.block_bytes),
        count(files.len() as u64, "file"),
        count(u64::from(workload.threads), "thread"),
        workload.queue_depth,
        if workload.verify { format!(", verified with seed {}", workload.seed) } else { String::new() }
    )
}

/// The report for people, several lines.
pub(crate) fn text(outcome: &Outcome, workload: &Workload, args: &RunArgs) -> String {
    let figures = Figures::new(outcome, workload);
    let (unit, digits) = (args.report_unit, usize::from(args.report_precision));
    let ended = match (outcome.failure(), outcome.interrupted) {
        (Some(_), _) => "failed",
        (None, Some(_)) => "interrupted",
        (None, None) => "completed",
    };
    let mut lines = vec![
        format!(
            "Test {ended}: duration {:.2}, batch count {}, throughput {:.digits$} {unit}/s",
            figures.seconds,
            figures.batches,
            unit.count(figures.bytes_per_second)
        ),
        format!("IOPS {:.0}, {} requests", figures.requests_per_second, outcome.measured.requests),
    ];
    if let Some(latencies) = latencies_us(&outcome.measured) {
        let list: Vec<_> = latencies.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
        lines.push(format!("Latency in us: {}", list.join(", ")));
    }
    let sides = if args.mode == Mode::Loopback { "target and initiator" } else { "the initiator alone" };
    lines.push(format!("CPU {:.3} s per GB ({sides})", figures.cpu_seconds_per_gb));
    if workload.verify {
        let (verified, mismatched) = (outcome.verified(), outcome.sum(|p| p.mismatched));
        let said = if mismatched == 0 { "no mismatch".to_owned() } else { format!("{mismatched} mismatched") };
        lines.push(format!("Verified {verified} blocks of {}: {said}", show_size(workload.block_bytes)));
    }
    lines.join("\n")
}

/// The report for programs.
pub(crate) fn json(outcome: &Outcome, workload: &Workload, args: &RunArgs, segment: &str) -> Value {
    let figures = Figures::new(outcome, workload);
    let latencies = latencies_us(&outcome.measured)
        .map(|list| list.iter().map(|(name, us)| ((*name).to_owned(), json!(us))).collect::<serde_json::Map<_, _>>());
    let files = outcome.files.iter().zip(&outcome.measured.file_bytes).map(|(file, bytes)| {
        json!({ "id": file.id.0, "path": file.path, "used_bytes": file.blocks * workload.block_bytes, "bytes": bytes })
    });
    let verify = workload.verify.then(|| {
        json!({
            "blocks": outcome.verified(),
            "mismatched": outcome.sum(|phase| phase.mismatched),
            "first": outcome.first_mismatch().map(|(file, mismatch)| json!({
                "file": outcome.files[*file].path, "offset": mismatch.offset,
                "expected": hex(&mismatch.expected), "got": hex(&mismatch.got),
            })),
        })
    });
    json!({
        "program": "transfer-bench",
        "version": env!("CARGO_PKG_VERSION"),
        "parameters": {
            "mode": word(args.mode),
            "operation": word(workload.direction),
            "pattern": word(workload.pattern),
            "block_size": workload.block_bytes,
            "batch_size": workload.batch_size,
            "queue_depth": workload.queue_depth,
            "threads": workload.threads,
            "duration": workload.duration.as_secs_f64(),
            "warmup": workload.warmup.as_secs_f64(),
            "timeout": workload.timeout.as_secs_f64(),
            "range": workload.range_bytes,
            "seed": workload.seed,
            "verify": workload.verify,
            "latency": workload.latency,
            "linger": args.linger.map(|time| time.as_secs_f64()),
            "segment_id": segment,
            "local_server_name": args.local_server_name,
            "metadata_server": args.metadata_server,
            "files": args.paths(),
            "file_size": args.file_size,
            "overwrite": args.overwrite,
            "control_timeout": args.control_timeout.as_secs_f64(),
            "protocol": word(args.protocol),
            "trtype": word(args.trtype),
            "adrfam": args.adrfam.map(word),
            "traddr": args.traddr,
            "trsvcid": args.trsvcid,
            "host_driver": word(args.host_driver),
            "target_driver": word(args.target_driver),
            "direct": args.direct.map(word),
            "digests": args.digests.map(word),
            "workers": args.workers,
            "spin_us": args.spin_us,
        },
        "results": {
            "duration_seconds": figures.seconds,
            "batch_count": figures.batches,
            "requests": outcome.measured.requests,
            "bytes": outcome.measured.bytes(),
            "bytes_per_second": figures.bytes_per_second,
            "throughput": {
                "value": args.report_unit.count(figures.bytes_per_second),
                "unit": format!("{}/s", args.report_unit),
            },
            "iops": figures.requests_per_second,
            "latency_us": latencies,
            "cpu_seconds": outcome.cpu_seconds,
            "cpu_seconds_per_gb": figures.cpu_seconds_per_gb,
        },
        "threads": outcome.threads.json(),
        "files": files.collect::<Vec<_>>(),
        "verify": verify,
        "errors": { "failed_requests": outcome.sum(|phase| phase.failed), "first": outcome.first_failure() },
        "interrupted_by_signal": outcome.interrupted,
    })
}

/// Writes a JSON report to a file.
///
/// # Errors
/// When the file cannot be written.
pub(crate) fn write_json(report: &Value, path: &std::path::Path) -> Result<()> {
    std::fs::write(path, format!("{report:#}\n"))
        .with_context(|| format!("cannot write the report to {}", path.display()))
}
