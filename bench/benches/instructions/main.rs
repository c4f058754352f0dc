//! Micro-benchmarks counted in instructions, not seconds: noise cannot move them, and a busy machine does not matter.
//!
//! Each scenario runs under `valgrind --tool=cachegrind` twice, with N and with 2 N operations; the difference, divided
//! by N, is what one operation costs, without the start of the process. [`scenarios`] are the operations; [`baseline`]
//! is what they cost when they were last looked at, in `bench/instructions.json`.
//!
//! ```text
//! BENCH='cargo bench -p transfer-bench --features instructions --bench instructions'
//! $BENCH                   count, and compare with the baseline
//! $BENCH -- --save         count, and store as the baseline
//! $BENCH -- wire           only scenarios with this in their name
//! ```
//!
//! Exit status 1 when a scenario costs more than the baseline and the tolerance. Where the baseline does not apply
//! (no valgrind, another compiler, another kind of CPU) it says `skipped: ` and why, with exit status 0.

#![allow(clippy::print_stdout, clippy::print_stderr)] // A program speaks through them.

mod baseline;
mod data_path;
mod scenarios;

use anyhow::{Context, Result, bail};
use baseline::{Baseline, Machine};
use scenarios::{SCENARIOS, Scenario};
use std::process::{Command, ExitCode, Stdio};

fn main() -> ExitCode {
    match run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing costs more than it may.
fn run(args: &[String]) -> Result<bool> {
    let words: Vec<&str> = args.iter().map(String::as_str).filter(|word| *word != "--bench").collect();
    if let ["--scenario", name, count] = words[..] {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name).context("no such scenario")?;
        return (scenario.run)(count.parse().context("not a count")?).map(|()| true);
    }
    let save = words.contains(&"--save");
    let filters: Vec<&str> = words.into_iter().filter(|word| *word != "--save").collect();
    if let Some(flag) = filters.iter().find(|word| word.starts_with('-')) {
        bail!("{flag} is no flag: there is --save, and parts of scenarios' names");
    }
    let wanted = |scenario: &&Scenario| filters.is_empty() || filters.iter().any(|part| scenario.name.contains(part));
    let chosen: Vec<&Scenario> = SCENARIOS.iter().filter(wanted).collect();
    if chosen.is_empty() {
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        bail!("no scenario is called so; there are {}", names.join(", "));
    }
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("skipped: instructions are not counted: valgrind is not installed (apt-get install valgrind)");
        return Ok(true);
    }
    let machine = Machine::this()?;
    let stored = Baseline::load()?;
    let reason = (!save).then(|| stored.machine.difference(&machine)).flatten();
    let (mut counted, mut is_good) = (Vec::new(), true);
    for scenario in chosen {
        let instructions = per_operation(scenario)?;
        let verdict = match (&reason, stored.of(scenario.name)) {
            (None, Some(before)) if !save => {
                let change = instructions / before - 1.0;
                is_good &= change <= stored.tolerance;
                format!("{before:>10.1} before, {:+6.1} %{}", change * 100.0, stored.verdict(change))
            }
            (None, None) if !save => {
                is_good = false;
                "not in the baseline: store it with --save".into()
            }
            _ => String::new(),
        };
        println!("{:34} {instructions:>10.1} instructions  {verdict}", scenario.name);
        counted.push((scenario.name, instructions));
    }
    if save {
        stored.with(machine, &counted).store()?;
    } else if let Some(reason) = reason {
        println!("skipped: instructions are not compared with the baseline: {reason}");
    }
    Ok(is_good)
}

/// What one operation costs.
fn per_operation(scenario: &Scenario) -> Result<f64> {
    let (once, twice) = (count(scenario, scenario.operations)?, count(scenario, 2 * scenario.operations)?);
    Ok(twice.saturating_sub(once) as f64 / scenario.operations as f64)
}

/// Instructions of the whole process for so many operations.
fn count(scenario: &Scenario, operations: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(std::env::current_exe().context("cannot find this program")?)
        .args(["--scenario", scenario.name, &operations.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot start valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{} failed under valgrind: {said}", scenario.name);
    }
    // Such as `==123== I   refs:      1,234,567`.
    let line = said.lines().find(|line| line.contains("I   refs:") || line.contains("I refs:"));
    let digits: String = line
        .and_then(|line| line.rsplit(':').next())
        .map(|number| number.chars().filter(char::is_ascii_digit).collect())
        .unwrap_or_default();
    digits.parse().with_context(|| format!("valgrind counted nothing: {said}"))
}
