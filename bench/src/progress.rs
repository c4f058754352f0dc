//! What a person sees while something runs: on a terminal only, never in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};

fn on_terminal(bar: ProgressBar) -> ProgressBar {
    if !stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}

/// A bar over so many bytes.
pub(crate) fn bytes_bar(what: &'static str, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = on_terminal(ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr()));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())).with_message(what)
}

/// A bar over so many steps.
pub(crate) fn steps_bar(steps: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
    let bar = on_terminal(ProgressBar::with_draw_target(Some(steps), ProgressDrawTarget::stderr()));
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// One line that is written over.
pub(crate) fn status_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
    on_terminal(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())).with_style(style)
}
