//! One run of a sweep: this program again, as a process of its own.

use crate::signals::StopSignal;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{Read, Seek};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often the run is asked whether it has ended.
const POLL: Duration = Duration::from_millis(10);

/// Runs the bench with these flags, and returns its JSON report. A run that takes longer than `patience` hangs.
///
/// # Errors
/// What the run said when it failed; that it was told to end; that it did not end.
pub(super) fn run(common: &[OsString], flags: &[String], patience: Duration, signal: &StopSignal) -> Result<Value> {
    let program = std::env::current_exe().context("cannot find this program")?;
    // Files, not pipes: a run never waits for this process to read.
    let mut said = tempfile::tempfile().context("cannot make a temporary file")?;
    let report = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    let mut json = OsString::from("--json=");
    json.push(report.path());
    let mut child = Command::new(program)
        .args(common)
        .args(flags)
        .arg(json)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().context("cannot share a temporary file")?)
        .spawn()
        .context("cannot start a run")?;
    let status = wait(&mut child, patience, signal)?;
    signal.check()?;
    if !status.success() {
        let mut text = String::new();
        said.rewind().and_then(|()| said.read_to_string(&mut text)).context("cannot read what the run said")?;
        let last = text.lines().last().unwrap_or("it said nothing");
        bail!("{}", last.strip_prefix("transfer-bench: ").unwrap_or(last));
    }
    let text = std::fs::read_to_string(report.path()).context("cannot read the run's report")?;
    serde_json::from_str(&text).context("cannot understand the run's report")
}

/// Waits for its end; tells it to end when this process is told so.
fn wait(child: &mut Child, patience: Duration, signal: &StopSignal) -> Result<ExitStatus> {
    let hangs_at = Instant::now() + patience;
    let mut told = false;
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a run")? {
            return Ok(status);
        }
        if Instant::now() > hangs_at {
            child.kill().and_then(|()| child.wait()).context("cannot end a run that hangs")?;
            bail!("the run did not end within {} s", patience.as_secs());
        }
        if signal.is_set() && !told {
            told = true;
            // It may have ended just now; then there is nobody to tell.
            let _ = i32::try_from(child.id()).map(|pid| kill(Pid::from_raw(pid), Signal::SIGTERM));
        }
        signal.wait_for(POLL);
    }
}
