//! What a sweep gave: as a table, as JSON, as CSV.

use super::{Point, SweepArgs};
use crate::cases::median;
use crate::report::word;
use crate::size::show_size;
use serde_json::{Value, json};

/// The figures of each round that are kept: the name here, and where they stand in a run's report.
const FIGURES: [(&str, &str); 6] = [
    ("bytes_per_second", "/results/bytes_per_second"),
    ("iops", "/results/iops"),
    ("latency_mean_us", "/results/latency_us/mean"),
    ("latency_p50_us", "/results/latency_us/p50"),
    ("latency_p99_us", "/results/latency_us/p99"),
    ("cpu_seconds_per_gb", "/results/cpu_seconds_per_gb"),
];

/// One combination and what its rounds gave.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) point: Point,
    /// The figures of each round, as in [`FIGURES`].
    rounds: Vec<[f64; FIGURES.len()]>,
    /// Why it was given up.
    pub(super) failure: Option<String>,
}

impl Measured {
    pub(super) fn new(point: Point) -> Self {
        Self { point, rounds: Vec::new(), failure: None }
    }

    /// Takes a round's report in.
    pub(super) fn add(&mut self, report: &Value) {
        let figures = FIGURES.map(|(_, pointer)| report.pointer(pointer).and_then(Value::as_f64));
        if figures.iter().any(Option::is_none) {
            self.failure = Some("the run's report lacks figures".into());
            return;
        }
        self.rounds.push(figures.map(Option::unwrap_or_default));
    }

    fn column(&self, figure: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[figure]).collect()
    }

    fn medians(&self) -> [f64; FIGURES.len()] {
        std::array::from_fn(|figure| median(&self.column(figure)))
    }

    /// How far the rounds' throughputs lie apart, as a share of their median.
    fn spread(&self) -> f64 {
        let rates = self.column(0);
        let (low, high) = rates.iter().fold((f64::MAX, 0.0f64), |(low, high), rate| (low.min(*rate), high.max(*rate)));
        if rates.is_empty() { 0.0 } else { (high - low) / median(&rates).max(f64::MIN_POSITIVE) }
    }
}

/// All combinations.
#[derive(Debug)]
pub(super) struct Sweep {
    pub(super) cases: Vec<Measured>,
    rounds: u32,
    duration_seconds: f64,
    run_flags: Vec<String>,
}

impl Sweep {
    pub(super) fn new(cases: Vec<Measured>, args: &SweepArgs) -> Self {
        let run_flags = args.run_flags.iter().map(|flag| flag.to_string_lossy().into_owned()).collect();
        Self { cases, rounds: args.rounds, duration_seconds: args.duration.as_secs_f64(), run_flags }
    }

    /// Whether anything was measured at all.
    pub(super) fn has_results(&self) -> bool {
        self.cases.iter().any(|case| !case.rounds.is_empty())
    }

    /// For people: medians, and how far the rounds lie apart.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "{:5} {:>9} {:>5} {:>7}  {:22} {:>9} {:>10} {:>9} {:>9} {:>9} {:>7}\n",
            "", "block", "depth", "threads", "drivers", "GB/s", "IOPS", "mean us", "p99 us", "CPU s/GB", "spread"
        );
        for case in &self.cases {
            let Point { operation, block_bytes, depth, threads, host_driver, target_driver } = case.point;
            let drivers = format!("{} to {}", word(host_driver), word(target_driver));
            text +=
                &format!("{:5} {:>9} {depth:>5} {threads:>7}  {drivers:22} ", word(operation), show_size(block_bytes));
            let [rate, iops, mean, _, p99, cpu] = case.medians();
            text += &match (&case.failure, case.rounds.is_empty()) {
                (Some(why), _) => format!("failed: {why}\n"),
                (None, true) => "not measured\n".to_owned(),
                (None, false) => format!(
                    "{:>9.3} {:>10.0} {:>9.1} {:>9.1} {:>9.3} {:>5.0} %\n",
                    rate / 1e9,
                    iops,
                    mean,
                    p99,
                    cpu,
                    case.spread() * 100.0
                ),
            };
        }
        text
    }

    /// For programs, `transfer-bench compare` and `transfer-bench chart` among them.
    pub(super) fn json(&self) -> Value {
        let object = |figures: &[f64; FIGURES.len()]| -> Value {
            FIGURES.iter().zip(figures).map(|((name, _), figure)| ((*name).to_owned(), json!(figure))).collect()
        };
        let case = |case: &Measured| {
            let Point { operation, block_bytes, depth, threads, host_driver, target_driver } = case.point;
            json!({
                "name": case.point.name(),
                "operation": word(operation), "block_size": block_bytes, "queue_depth": depth, "threads": threads,
                "host_driver": word(host_driver), "target_driver": word(target_driver),
                "median": if case.rounds.is_empty() { Value::Null } else { object(&case.medians()) },
                "rounds": case.rounds.iter().map(object).collect::<Vec<_>>(),
                "failed": case.failure,
            })
        };
        json!({
            "program": "transfer-bench sweep", "version": env!("CARGO_PKG_VERSION"),
            "rounds": self.rounds, "duration": self.duration_seconds, "run_flags": self.run_flags,
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
        })
    }

    /// For spreadsheets: one row a combination, medians.
    pub(super) fn csv(&self) -> String {
        let mut text = "operation,block_size,queue_depth,threads,host_driver,target_driver,rounds".to_owned();
        for (name, _) in FIGURES {
            text += ",";
            text += name;
        }
        text += "\n";
        for case in self.cases.iter().filter(|case| !case.rounds.is_empty()) {
            let Point { operation, block_bytes, depth, threads, host_driver, target_driver } = case.point;
            let (operation, rounds) = (word(operation), case.rounds.len());
            let (host, target) = (word(host_driver), word(target_driver));
            text += &format!("{operation},{block_bytes},{depth},{threads},{host},{target},{rounds}");
            for figure in case.medians() {
                text += &format!(",{figure}");
            }
            text += "\n";
        }
        text
    }
}
