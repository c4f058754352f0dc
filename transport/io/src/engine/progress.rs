//! How far one operation has come, and what the result of one system call means for it.
//!
//! Every engine asks this what to do next, so that all continue short I/O alike (P5): reads end short only at the end
//! of the file, writes never do, and interrupted calls are made again.

#![cfg_attr(not(feature = "simulation"), allow(unreachable_pub, reason = "simulations have engines of their own"))]

use std::io;

/// The most that Linux moves in one call, in bytes: the largest `int`, rounded down to pages.
pub(crate) const MAX_BYTES_PER_CALL: usize = 0x7fff_f000;

/// How often in a row the kernel may say "try again" before that is taken for an error.
const MAX_RETRIES: u32 = 10_000;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the file.
    Read,
    /// To the file.
    Write,
}

/// What to do after a system call.
#[derive(Debug)]
pub enum Step {
    /// The operation has ended.
    Finished(io::Result<usize>),
    /// Call again, for what [`Progress::remaining`] says.
    Again,
}

/// How far a read or write has come.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    direction: Direction,
    /// Under Direct I/O, what a call can go on from; otherwise 1.
    unit_bytes: usize,
    max_per_call: usize,
    total: usize,
    done: usize,
    retries: u32,
}

impl Progress {
    /// `unit_bytes`: the file's offset alignment under Direct I/O, otherwise 1.
    #[must_use]
    pub fn new(direction: Direction, total: usize, unit_bytes: u32, max_per_call: usize) -> Self {
        let unit_bytes = (unit_bytes as usize).max(1);
        // Whole units, as the next call must start at one.
        let max_per_call = (max_per_call.min(MAX_BYTES_PER_CALL) / unit_bytes * unit_bytes).max(unit_bytes);
        Self { direction, unit_bytes, max_per_call, total, done: 0, retries: 0 }
    }

    /// Bytes done.
    #[must_use]
    pub fn done(&self) -> usize {
        self.done
    }

    /// Bytes that the next call shall move.
    #[must_use]
    pub fn remaining(&self) -> usize {
        (self.total - self.done).min(self.max_per_call)
    }

    /// Takes a call's result: bytes, or a negative error number as io_uring and AIO give it.
    pub fn advance(&mut self, result: i64) -> Step {
        if result < 0 {
            return self.failed(io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(libc::EIO)));
        }
        let moved = usize::try_from(result).unwrap_or(0).min(self.total - self.done);
        self.retries = 0;
        self.done += moved;
        if self.direction == Direction::Write && self.done < self.total {
            // A call past the page cache must start at a whole unit: write the part of one again.
            let part = self.done % self.unit_bytes;
            if moved <= part {
                return Step::Finished(Err(io::ErrorKind::WriteZero.into()));
            }
            self.done -= part;
        }
        if self.done == self.total {
            return Step::Finished(Ok(self.done));
        }
        match self.direction {
            Direction::Read if moved == 0 => Step::Finished(Ok(self.done)),
            // Past the page cache only the end of the file gives less than a unit, and going on from within one
            // would be refused.
            Direction::Read if !moved.is_multiple_of(self.unit_bytes) => Step::Finished(Ok(self.done)),
            Direction::Read | Direction::Write => Step::Again,
        }
    }

    fn failed(&mut self, error: io::Error) -> Step {
        let again = matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN));
        self.retries += 1;
        if again && self.retries < MAX_RETRIES { Step::Again } else { Step::Finished(Err(error)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls until the end, each giving what `short` makes of what was asked for.
    fn run(mut progress: Progress, mut short: impl FnMut(usize) -> i64) -> (io::Result<usize>, Vec<(usize, usize)>) {
        let mut calls = Vec::new();
        loop {
            let asked = progress.remaining();
            calls.push((progress.done(), asked));
            assert!(calls.len() < 100_000, "without end");
            if let Step::Finished(result) = progress.advance(short(asked)) {
                return (result, calls);
            }
        }
    }

    #[test]
    fn p05_short_io_is_continued_from_where_it_stopped() {
        for direction in [Direction::Read, Direction::Write] {
            let mut counts = [1000, 1, 2999, 96].into_iter();
            let (result, calls) = run(Progress::new(direction, 4096, 1, usize::MAX), |_| counts.next().unwrap());
            assert_eq!(result.unwrap(), 4096);
            assert_eq!(calls, [(0, 4096), (1000, 3096), (1001, 3095), (4000, 96)]);
        }
    }

    #[test]
    fn p05_reads_end_short_only_at_the_end_of_the_file() {
        let mut counts = [4096, 100, 0].into_iter();
        let (result, _) = run(Progress::new(Direction::Read, 8192, 1, usize::MAX), |_| counts.next().unwrap());
        assert_eq!(result.unwrap(), 4196);
        // Under Direct I/O less than a unit is the end: no call can start there.
        let mut counts = [4096, 100].into_iter();
        let (result, _) = run(Progress::new(Direction::Read, 8192, 512, usize::MAX), |_| counts.next().unwrap());
        assert_eq!(result.unwrap(), 4196);
    }

    #[test]
    fn p05_a_write_that_moves_nothing_is_an_error() {
        let mut counts = [512, 0].into_iter();
        let (result, _) = run(Progress::new(Direction::Write, 8192, 1, usize::MAX), |_| counts.next().unwrap());
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn p05_direct_writes_go_on_at_a_whole_unit() {
        let mut counts = [700, 3584].into_iter();
        let (result, calls) = run(Progress::new(Direction::Write, 4096, 512, usize::MAX), |_| counts.next().unwrap());
        assert_eq!(result.unwrap(), 4096);
        assert_eq!(calls, [(0, 4096), (512, 3584)]);
        let (result, calls) = run(Progress::new(Direction::Write, 4096, 512, usize::MAX), |_| 100);
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WriteZero);
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn interrupted_calls_are_made_again_but_not_for_ever() {
        let mut left = 50;
        let (result, calls) = run(Progress::new(Direction::Read, 10, 1, usize::MAX), |asked| {
            left -= 1;
            if left > 0 { -i64::from(libc::EINTR) } else { asked as i64 }
        });
        assert_eq!((result.unwrap(), calls.len()), (10, 50));
        let (result, _) = run(Progress::new(Direction::Read, 10, 1, usize::MAX), |_| -i64::from(libc::EAGAIN));
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EAGAIN));
    }

    #[test]
    fn a_true_error_ends_it_also_after_some_bytes() {
        let mut counts = [512, -i64::from(libc::EIO)].into_iter();
        let (result, _) = run(Progress::new(Direction::Write, 8192, 1, usize::MAX), |_| counts.next().unwrap());
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
    }

    #[test]
    fn calls_are_cut_to_whole_units_and_a_wrong_count_does_no_harm() {
        let (result, calls) = run(Progress::new(Direction::Read, 2500, 512, 1100), |asked| asked as i64);
        assert_eq!(result.unwrap(), 2500);
        assert_eq!(calls, [(0, 1024), (1024, 1024), (2048, 452)]);
        assert_eq!(run(Progress::new(Direction::Read, 10, 4096, 1), |asked| asked as i64).1, [(0, 10)]);
        assert_eq!(run(Progress::new(Direction::Read, 10, 1, usize::MAX), |_| i64::MAX).0.unwrap(), 10);
    }
}
