//! The throughput of each file while a run goes on: a line for each of the busiest, on a terminal only.

use crate::blocks::BenchFile;
use crate::cli::RunArgs;
use crate::lane::Live;
use crate::progress;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use std::io::{IsTerminal, stderr};
use std::time::Duration;

/// Most lines: what fits a usual terminal. Of more files the busiest are shown.
const MAX_LINES: usize = 16;

/// The lines, under the status line.
pub(crate) struct LiveView<'f> {
    files: &'f [BenchFile],
    lines: Vec<ProgressBar>,
    /// Requests of each file when they were last shown.
    shown: Vec<u64>,
}

impl<'f> LiveView<'f> {
    /// Whether somebody asked for it and can see it.
    pub(crate) fn is_wanted(args: &RunArgs) -> bool {
        args.live && stderr().is_terminal()
    }

    /// Lines for these files, under `status`. What the lanes have done until now does not count.
    pub(crate) fn new(files: &'f [BenchFile], status: &ProgressBar, lives: &[Live]) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        all.add(status.clone());
        let lines = (0..files.len().min(MAX_LINES)).map(|_| all.add(progress::status_line())).collect();
        Self { files, lines, shown: counts(files, lives) }
    }

    /// Shows what each file got since the last time, `tick` ago.
    pub(crate) fn show(&mut self, lives: &[Live], block_bytes: u64, tick: Duration, args: &RunArgs) {
        let now = counts(self.files, lives);
        let rates: Vec<f64> =
            now.iter().zip(&self.shown).map(|(now, shown)| (now - shown) as f64 / tick.as_secs_f64()).collect();
        self.shown = now;
        for (line, text) in self.lines.iter().zip(lines(self.files, &rates, block_bytes, args)) {
            line.set_message(text);
        }
    }
}

impl Drop for LiveView<'_> {
    fn drop(&mut self) {
        for line in &self.lines {
            line.finish_and_clear();
        }
    }
}

fn counts(files: &[BenchFile], lives: &[Live]) -> Vec<u64> {
    (0..files.len()).map(|file| lives.iter().map(|live| live.requests_of_file(file)).sum()).collect()
}

/// One text a line, in the files' order; of too many files the busiest.
fn lines(files: &[BenchFile], requests_per_second: &[f64], block_bytes: u64, args: &RunArgs) -> Vec<String> {
    let (unit, digits) = (args.report_unit, usize::from(args.report_precision));
    let busiest = requests_per_second.iter().copied().fold(0.0, f64::max).max(1.0);
    let mut chosen: Vec<usize> = (0..files.len()).collect();
    chosen.sort_by(|a, b| requests_per_second[*b].total_cmp(&requests_per_second[*a]));
    chosen.truncate(MAX_LINES);
    chosen.sort_unstable();
    let text = |file: usize| {
        let per_second = requests_per_second[file];
        let rate = unit.count(per_second * block_bytes as f64);
        let bar = "#".repeat((per_second / busiest * 20.0).round() as usize);
        format!("  {bar:<20} {rate:>8.digits$} {unit}/s {per_second:>8.0} IOPS  {}", files[file].path)
    };
    chosen.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use nvferry_engine::FileBufferId;

    #[test]
    fn of_many_files_the_busiest_are_shown_in_their_order() {
        let file = |n| BenchFile { id: FileBufferId(n), path: format!("/f{n}"), blocks: 1 };
        let files: Vec<_> = (0..40).map(file).collect();
        let rates: Vec<f64> = (0..40).map(|n| if n % 2 == 0 { f64::from(n) } else { 0.0 }).collect();
        let args = Cli::try_parse_from(["transfer-bench", "--report_unit=MB", "--live"]).unwrap().run;
        let shown = lines(&files, &rates, 1_000_000, &args);
        assert_eq!(shown.len(), MAX_LINES);
        assert!(shown[0].ends_with("/f8") && shown[15].ends_with("/f38"), "{shown:#?}");
        assert!(shown[15].contains("#################### ") && shown[15].contains("38.00 MB/s"), "{shown:#?}");
        assert_eq!(lines(&files[..2], &[0.0, 0.0], 512, &args).len(), 2, "nothing moves, and all are there");
    }
}
