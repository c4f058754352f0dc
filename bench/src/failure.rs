//! How a run ends when it does not end well, and with which exit status.

use std::fmt;
use std::process::ExitCode;

/// The command line asks for something that cannot be: exit status 2.
#[derive(Debug)]
pub(crate) struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// A comparison found that something lost too much: exit status 1.
#[derive(Debug)]
pub(crate) struct Regression(pub String);

impl fmt::Display for Regression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Regression {}

/// A signal told the program to stop: exit status 128 and its number, as shells count.
#[derive(Debug)]
pub(crate) struct Interrupted(pub i32);

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped by signal {}", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// The exit status for an error: see `transfer-bench --help`.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Usage>() {
        ExitCode::from(2)
    } else if let Some(Interrupted(signal)) = error.downcast_ref() {
        ExitCode::from(128u8.saturating_add(u8::try_from(*signal).unwrap_or(0)))
    } else {
        ExitCode::FAILURE
    }
}

/// Shortens what clap says to one line: the error and its hint, without the usage.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said = said.filter(|line| !line.starts_with("For more information"));
    let said: Vec<_> = said.take_while(|line| !line.starts_with("Usage:")).collect();
    said.join(" ").trim_start_matches("error: ").to_owned()
}
