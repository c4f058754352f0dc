//! Reports as lists of cases, each with what every round gave: what `compare` and `chart` read.
//!
//! Three kinds of JSON are understood: a sweep's, that of scripts/bench-peers, and that of a single run of the bench.

use crate::failure::Usage;
use crate::size::show_size;
use anyhow::Result;
use serde_json::Value;
use std::path::Path;

/// Which way a figure gets better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Throughput.
    Higher,
    /// Latency, CPU time, memory.
    Lower,
}

/// One case of a report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Case {
    /// What names it in every report.
    pub(crate) name: String,
    /// The figure's unit.
    pub(crate) unit: String,
    /// Which way it gets better.
    pub(crate) better: Better,
    /// What each round gave; never empty.
    pub(crate) rounds: Vec<f64>,
}

impl Case {
    /// The rounds' median.
    pub(crate) fn median(&self) -> f64 {
        median(&self.rounds)
    }

    /// The lowest and the highest round.
    pub(crate) fn spread(&self) -> (f64, f64) {
        let fold = |pick: fn(f64, f64) -> f64| self.rounds.iter().copied().reduce(pick).unwrap_or(0.0);
        (fold(f64::min), fold(f64::max))
    }
}

/// The median of these; of an even number the mean of the two in the middle. 0 of none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// Reads a JSON file.
///
/// # Errors
/// [`Usage`] when there is none, or no JSON in it.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| Usage(format!("cannot read {shown}: {error}")))?;
    Ok(serde_json::from_str(&text).map_err(|error| Usage(format!("{shown} is not JSON: {error}")))?)
}

/// The cases of a report that were measured; those that were skipped or failed are left out.
///
/// # Errors
/// [`Usage`] when it is none of the three kinds, or nothing was measured. `path` is for the message.
pub(crate) fn cases_of(report: &Value, path: &Path) -> Result<Vec<Case>> {
    let list = match report {
        Value::Array(list) => list.iter().filter_map(case_of_peers).collect(),
        _ if report["cases"].is_array() => list_of(&report["cases"]).iter().filter_map(case_of_sweep).collect(),
        _ => case_of_run(report).into_iter().collect::<Vec<_>>(),
    };
    if list.is_empty() {
        let shown = path.display();
        return Err(Usage(format!(
            "{shown} holds no measured case: give a JSON report of a run, of `transfer-bench sweep` or of \
             scripts/bench-peers"
        ))
        .into());
    }
    Ok(list)
}

/// The elements of an array; none of anything else.
pub(crate) fn list_of(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn rounds_of(case: &Value, key: &str) -> Option<Vec<f64>> {
    let rounds: Vec<f64> = list_of(&case["rounds"]).iter().filter_map(|round| round[key].as_f64()).collect();
    (!rounds.is_empty()).then_some(rounds)
}

fn case_of_sweep(case: &Value) -> Option<Case> {
    let name = case["name"].as_str()?.to_owned();
    Some(Case { name, unit: "B/s".into(), better: Better::Higher, rounds: rounds_of(case, "bytes_per_second")? })
}

fn case_of_peers(case: &Value) -> Option<Case> {
    let (name, unit) = (case["name"].as_str()?.to_owned(), case["unit"].as_str()?.to_owned());
    let better = match unit.as_str() {
        "us" | "CPU s/GB" | "CPU s" | "MiB" => Better::Lower,
        _ => Better::Higher,
    };
    Some(Case { name, unit, better, rounds: rounds_of(case, "ours")? })
}

fn case_of_run(report: &Value) -> Option<Case> {
    let parameters = &report["parameters"];
    let word = |key: &str| parameters[key].as_str();
    let number = |key: &str| parameters[key].as_u64();
    let name = format!(
        "{} {} of {}, depth {}, {} threads, {} to {}",
        word("pattern")?,
        word("operation")?,
        show_size(number("block_size")?),
        number("queue_depth")?,
        number("threads")?,
        word("host_driver")?,
        word("target_driver")?
    );
    let rounds = vec![report["results"]["bytes_per_second"].as_f64()?];
    Some(Case { name, unit: "B/s".into(), better: Better::Higher, rounds })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), 0.0);
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn every_kind_of_report_is_read() {
        let path = Path::new("x.json");
        let sweep = json!({ "cases": [
            { "name": "a", "rounds": [{ "bytes_per_second": 2.0 }, { "bytes_per_second": 4.0 }] },
            { "name": "failed", "rounds": [], "failed": "no kernel" },
        ] });
        let cases = cases_of(&sweep, path).unwrap();
        assert_eq!(cases.len(), 1, "what failed is left out");
        assert_eq!((cases[0].median(), cases[0].spread()), (3.0, (2.0, 4.0)));

        let peers = json!([
            { "name": "latency", "unit": "us", "rounds": [{ "ours": 5.0, "reference": 4.0 }] },
            { "name": "skipped", "unit": "GB/s", "rounds": [] },
        ]);
        let cases = cases_of(&peers, path).unwrap();
        assert_eq!((cases.len(), cases[0].better), (1, Better::Lower));

        let run = json!({
            "parameters": { "pattern": "random", "operation": "read", "block_size": 4096, "queue_depth": 8, "threads": 1,
                            "host_driver": "userspace", "target_driver": "userspace" },
            "results": { "bytes_per_second": 7.0 },
        });
        let cases = cases_of(&run, path).unwrap();
        assert_eq!(cases[0].rounds, [7.0]);
        assert!(cases[0].name.starts_with("random read of 4 KiB, depth 8"), "{}", cases[0].name);

        for other in [json!({}), json!([]), json!(3), json!({ "cases": [] })] {
            assert!(cases_of(&other, path).unwrap_err().is::<Usage>(), "{other}");
        }
    }
}
