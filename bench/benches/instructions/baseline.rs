//! What the scenarios cost when they were last looked at, and on what.

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::process::Command;

/// How much more a scenario may cost, where the file does not say otherwise.
const TOLERANCE: f64 = 0.05;

/// What instruction counts depend on besides the code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    rustc: String,
    cpu: String,
}

impl Machine {
    /// This compiler, this kind of CPU. valgrind shows programs one of a few CPUs, by what the real one can do.
    pub(crate) fn this() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let output = Command::new(rustc).arg("--version").output().context("cannot ask rustc for its version")?;
        let rustc = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { rustc, cpu: format!("{}{}", std::env::consts::ARCH, vector_unit()) })
    }

    /// Why counts made there say nothing here.
    pub(crate) fn difference(&self, here: &Self) -> Option<String> {
        let what = if self.rustc != here.rustc {
            format!("it was made with {}, this is {}", self.rustc, here.rustc)
        } else if self.cpu != here.cpu {
            format!("it was made on {}, this is {}", self.cpu, here.cpu)
        } else {
            return None;
        };
        Some(format!("{what}; look at the counts before and after your change, or store a new one with --save"))
    }
}

#[cfg(target_arch = "x86_64")]
fn vector_unit() -> &'static str {
    if is_x86_feature_detected!("avx2") { " with AVX2" } else { "" }
}

#[cfg(not(target_arch = "x86_64"))]
fn vector_unit() -> &'static str {
    ""
}

/// The stored counts.
#[derive(Debug)]
pub(crate) struct Baseline {
    pub(crate) machine: Machine,
    /// How much more a scenario may cost, as a share.
    pub(crate) tolerance: f64,
    per_operation: Map<String, Value>,
}

impl Baseline {
    fn path() -> PathBuf {
        [env!("CARGO_MANIFEST_DIR"), "instructions.json"].iter().collect()
    }

    /// Reads the file; without one there is nothing to compare with.
    pub(crate) fn load() -> Result<Self> {
        let path = Self::path();
        let file: Value = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let word = |key: &str| file[key].as_str().unwrap_or("nothing").to_owned();
        Ok(Self {
            machine: Machine { rustc: word("rustc"), cpu: word("cpu") },
            tolerance: file["tolerance"].as_f64().unwrap_or(TOLERANCE),
            per_operation: file["instructions_per_operation"].as_object().cloned().unwrap_or_default(),
        })
    }

    /// What this scenario cost.
    pub(crate) fn of(&self, scenario: &str) -> Option<f64> {
        self.per_operation.get(scenario).and_then(Value::as_f64).filter(|count| *count > 0.0)
    }

    /// What to say about a change by this share.
    pub(crate) fn verdict(&self, change: f64) -> String {
        let percent = self.tolerance * 100.0;
        match change {
            c if c > self.tolerance => format!("  TOO MUCH: more than {percent} % above the baseline"),
            c if c < -self.tolerance => "  better: store it with --save".into(),
            _ => String::new(),
        }
    }

    /// The same with these counts, and all counted on `machine`.
    pub(crate) fn with(mut self, machine: Machine, counted: &[(&str, f64)]) -> Self {
        if self.machine != machine {
            // Counts of another compiler stand for nothing beside these.
            self.per_operation.clear();
        }
        self.machine = machine;
        for (name, count) in counted {
            self.per_operation.insert((*name).to_owned(), json!((count * 10.0).round() / 10.0));
        }
        self
    }

    /// Writes the file.
    pub(crate) fn store(&self) -> Result<()> {
        let path = Self::path();
        let file = json!({
            "rustc": self.machine.rustc, "cpu": self.machine.cpu, "tolerance": self.tolerance,
            "instructions_per_operation": self.per_operation,
        });
        std::fs::write(&path, format!("{file:#}\n")).with_context(|| format!("cannot write {}", path.display()))?;
        println!("Stored in {}", path.display());
        Ok(())
    }
}
