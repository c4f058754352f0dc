//! A run from its first block to its last: the phases, the threads, and what a person sees meanwhile.
//!
//! Without `--verify` there is one phase, the timed one. With it, a timed read comes after a pass that writes the
//! pattern, and a timed write before a pass that reads back every block that was written.

use crate::blocks::{BenchFile, Block, ThreadBlocks, Written};
use crate::cli::{Direction, RunArgs};
use crate::cpu::cpu_seconds;
use crate::lane::{Lane, Live, Shared, Span, Task};
use crate::live_view::LiveView;
use crate::progress;
use crate::report::{Outcome, Threads};
use crate::signals::StopSignal;
use crate::totals::Totals;
use crate::workload::Workload;
use anyhow::Result;
use nvferry_engine::{SegmentId, TransferEngine};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How often a person sees something new.
const TICK: Duration = Duration::from_secs(1);

/// One thread of the run, over all phases.
struct Worker {
    lane: Lane,
    blocks: ThreadBlocks,
    /// With `--verify`, what the timed phase wrote.
    written: Option<Written>,
    live: Live,
}

/// Runs the workload on the files of an open segment.
///
/// # Errors
/// When it cannot start. What goes wrong later stands in the outcome.
pub(crate) fn run(
    engine: &TransferEngine,
    segment: SegmentId,
    files: Vec<BenchFile>,
    workload: &Workload,
    args: &RunArgs,
    signal: &StopSignal,
) -> Result<Outcome> {
    let shared = Shared { engine, segment, files: &files, workload, signal, stop: AtomicBool::new(false) };
    let mut workers = make_workers(&shared, args)?;
    let verify_read = workload.verify && workload.direction == Direction::Read;
    let verify_write = workload.verify && workload.direction == Direction::Write;
    let phase = Phase { shared: &shared, args };

    let prepared = verify_read.then(|| phase.over_blocks("writing the pattern", Task::WritePattern, &mut workers));
    let (measured, cpu_seconds) = phase.timed(&mut workers);
    let read_back = verify_write.then(|| phase.over_blocks("reading back", Task::ReadAndCheck, &mut workers));
    drop(workers);
    Ok(Outcome {
        measured,
        prepared,
        read_back,
        cpu_seconds,
        interrupted: signal.number(),
        files,
        threads: Threads::default(),
    })
}

fn make_workers(shared: &Shared<'_>, args: &RunArgs) -> Result<Vec<Worker>> {
    let workload = shared.workload;
    let mut workers = Vec::with_capacity(workload.threads as usize);
    for thread in 0..workload.threads {
        let blocks = ThreadBlocks::new(shared.files, thread, workload.threads, workload.sharing());
        let written = (workload.verify && workload.direction == Direction::Write).then(|| Written::none_of(&blocks));
        let live = Live::new(if LiveView::is_wanted(args) { shared.files.len() } else { 0 });
        workers.push(Worker { lane: Lane::new(shared)?, blocks, written, live });
    }
    Ok(workers)
}

/// What all phases of a run need.
struct Phase<'r> {
    shared: &'r Shared<'r>,
    args: &'r RunArgs,
}

impl Phase<'_> {
    /// Each block once: all of them, or those that the timed phase wrote.
    fn over_blocks(&self, what: &str, task: Task, workers: &mut [Worker]) -> Totals {
        let body = |worker: &mut Worker| {
            let Worker { lane, blocks, written, live } = worker;
            let chosen = |block: &Block| written.as_ref().is_none_or(|written| written.contains(*block));
            lane.run(self.shared, task, &mut blocks.once().filter(chosen), Span::Blocks, live, &mut |_| {})
        };
        self.on_threads(what, workers, &[], body).0
    }

    /// Blocks for the time that the workload says. Also tells the CPU seconds of the time that counts.
    fn timed(&self, workers: &mut [Worker]) -> (Totals, f64) {
        let workload = self.shared.workload;
        let from = Instant::now() + workload.warmup;
        let body = |worker: &mut Worker| {
            let Worker { lane, blocks, written, live } = worker;
            let mut endless = blocks.endless(workload.pattern, workload.seed);
            let mut blocks = std::iter::from_fn(|| Some(endless.next_block()));
            let mut note = |block| {
                if let Some(written) = written {
                    written.add(block);
                }
            };
            let span = Span::Time { from, duration: workload.duration };
            lane.run(self.shared, Task::timed(workload), &mut blocks, span, live, &mut note)
        };
        let (totals, cpu) = self.on_threads("measuring", workers, &[from, from + workload.duration], body);
        (totals, cpu[1] - cpu[0])
    }

    /// Runs `body` on one thread for each worker, and sums what they counted. Also tells the CPU seconds used up to
    /// each of these times, or to the end where that is earlier.
    fn on_threads(
        &self,
        what: &str,
        workers: &mut [Worker],
        times: &[Instant],
        body: impl Fn(&mut Worker) -> Totals + Sync,
    ) -> (Totals, Vec<f64>) {
        let workload = self.shared.workload;
        let mut sum = Totals::new(self.shared.files.len(), workload.latency);
        let mut cpu = Vec::with_capacity(times.len());
        let line = progress::status_line();
        std::thread::scope(|scope| {
            let (send, ended) = channel();
            let (mut running, mut lives) = (0, Vec::with_capacity(workers.len()));
            for worker in workers {
                let (body, send) = (&body, send.clone());
                lives.push(worker.live.clone());
                running += 1;
                scope.spawn(move || {
                    // The receiver outlives every thread of the scope.
                    let _ = send.send(body(worker));
                });
            }
            drop(send);
            let mut view = LiveView::is_wanted(self.args).then(|| LiveView::new(self.shared.files, &line, &lives));
            let count = |lives: &[Live]| lives.iter().map(Live::requests).sum::<u64>();
            let (mut shown, mut next_tick) = (count(&lives), Instant::now() + TICK);
            while running > 0 {
                let next_time = times.get(cpu.len()).copied();
                let wake = next_time.map_or(next_tick, |time| time.min(next_tick));
                match ended.recv_timeout(wake.saturating_duration_since(Instant::now())) {
                    Ok(totals) => {
                        sum.add(&totals);
                        running -= 1;
                    }
                    // A thread that panicked sends nothing; the scope passes the panic on.
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {}
                }
                let now = Instant::now();
                if next_time.is_some_and(|time| now >= time) {
                    cpu.push(cpu_seconds());
                }
                if now >= next_tick {
                    next_tick += TICK;
                    let requests = count(&lives);
                    line.set_message(self.progress(what, requests - shown));
                    if let Some(view) = &mut view {
                        view.show(&lives, workload.block_bytes, TICK, self.args);
                    }
                    shown = requests;
                }
            }
        });
        line.finish_and_clear();
        cpu.resize_with(times.len(), cpu_seconds);
        (sum, cpu)
    }

    /// What a person sees after each second.
    fn progress(&self, what: &str, requests: u64) -> String {
        let (unit, digits) = (self.args.report_unit, usize::from(self.args.report_precision));
        let per_second = requests as f64 / TICK.as_secs_f64();
        let rate = unit.count(per_second * self.shared.workload.block_bytes as f64);
        format!("{what}: {rate:.digits$} {unit}/s, {per_second:.0} IOPS")
    }
}
