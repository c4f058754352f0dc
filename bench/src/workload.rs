//! What a run does, checked: the part of the command line that is the same wherever the files are.

use crate::blocks::{BenchFile, Sharing, ThreadBlocks};
use crate::cli::{Direction, Pattern, RunArgs};
use crate::failure::Usage;
use crate::size::show_size;
use anyhow::{Result, bail};
use nvferry_engine::FileBufferDesc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most requests outstanding of a thread that was not told how many.
const DEFAULT_QUEUE_DEPTH: u32 = 128;
/// Most bytes outstanding of a thread that was not told how many requests.
const DEFAULT_OUTSTANDING_BYTES: u64 = 64 << 20;
/// Most bytes of transfer memory of all threads together.
const MAX_MEMORY_BYTES: u64 = 16 << 30;
/// Most blocks that `--verify` keeps account of: 1 GiB of bits.
const MAX_VERIFIED_BLOCKS: u64 = 1 << 33;

/// What a run does.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    /// Which way the measured bytes go.
    pub(crate) direction: Direction,
    /// In what order.
    pub(crate) pattern: Pattern,
    /// Bytes of one request.
    pub(crate) block_bytes: u64,
    /// Requests of one batch.
    pub(crate) batch_size: u32,
    /// Requests that each thread keeps outstanding.
    pub(crate) queue_depth: u32,
    /// Threads that submit.
    pub(crate) threads: u32,
    /// How long to measure.
    pub(crate) duration: Duration,
    /// How long to run before that.
    pub(crate) warmup: Duration,
    /// Within what time each request must end.
    pub(crate) timeout: Duration,
    /// How much of each file to use; `None` is all.
    pub(crate) range_bytes: Option<u64>,
    /// Makes the offsets and the pattern.
    pub(crate) seed: u64,
    /// Whether data are written by pattern and checked.
    pub(crate) verify: bool,
    /// Whether latencies are recorded.
    pub(crate) latency: bool,
}

impl Workload {
    /// What the command line asks for.
    ///
    /// # Errors
    /// [`Usage`] when that cannot be.
    pub(crate) fn from_args(args: &RunArgs) -> Result<Self> {
        let fitting = u32::try_from(DEFAULT_OUTSTANDING_BYTES / args.block_size).unwrap_or(u32::MAX).max(1);
        let by_default = args.batch_size.min(DEFAULT_QUEUE_DEPTH).min(fitting);
        let queue_depth = args.queue_depth.unwrap_or(by_default);
        let memory_bytes = u128::from(args.block_size) * u128::from(queue_depth) * u128::from(args.threads);
        if memory_bytes > u128::from(MAX_MEMORY_BYTES) {
            let (threads, block) = (args.threads, show_size(args.block_size));
            return Err(Usage(format!(
                "{threads} threads with {queue_depth} requests of {block} outstanding need more than {} of memory: \
                 lower --threads, --queue_depth or --block_size",
                show_size(MAX_MEMORY_BYTES)
            ))
            .into());
        }
        Ok(Self {
            direction: args.operation,
            pattern: args.pattern,
            block_bytes: args.block_size,
            batch_size: args.batch_size,
            queue_depth,
            threads: args.threads,
            duration: args.duration,
            warmup: args.warmup,
            timeout: args.timeout,
            range_bytes: args.range,
            seed: args.seed.unwrap_or_else(seed_of_now),
            verify: args.verify,
            latency: args.latency,
        })
    }

    /// Whether anything is written at all.
    pub(crate) fn writes(&self) -> bool {
        self.verify || self.direction == Direction::Write
    }

    /// The files of a segment, as this run uses them.
    ///
    /// # Errors
    /// When there are none, or one is too small for the blocks or for the threads.
    pub(crate) fn files(&self, segment: &str, offered: &[FileBufferDesc]) -> Result<Vec<BenchFile>> {
        if offered.is_empty() {
            bail!("segment {segment} offers no files");
        }
        let mut files = Vec::with_capacity(offered.len());
        for file in offered {
            let used_bytes = self.range_bytes.map_or(file.size, |range| range.min(file.size));
            let blocks = used_bytes / self.block_bytes;
            if blocks == 0 {
                let (block, path, used) = (show_size(self.block_bytes), &file.path, show_size(used_bytes));
                bail!("a block of {block} does not fit into the {used} used of {path}: lower --block_size");
            }
            files.push(BenchFile { id: file.id, path: file.path.clone(), blocks });
        }
        let blocks: u64 = files.iter().map(|file| file.blocks).sum();
        if self.verify && blocks > MAX_VERIFIED_BLOCKS {
            bail!("{blocks} blocks are too many to verify: lower --range or raise --block_size");
        }
        let has_none = |thread| ThreadBlocks::new(&files, thread, self.threads, self.sharing()).is_empty();
        if (0..self.threads).any(has_none) {
            return Err(Usage(format!(
                "{} threads cannot each write blocks of their own: the files hold only {blocks}; lower --threads or \
                 --block_size",
                self.threads
            ))
            .into());
        }
        Ok(files)
    }

    /// How threads share the blocks.
    pub(crate) fn sharing(&self) -> Sharing {
        if self.writes() { Sharing::Disjoint } else { Sharing::All }
    }

    /// Bytes of one request, as a length in memory.
    pub(crate) fn block_len(&self) -> usize {
        // At most 1 GiB, by the command line's check.
        self.block_bytes as usize
    }
}

/// A seed that is another one each time.
fn seed_of_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    crate::pattern::mix(now.as_nanos() as u64 ^ u64::from(std::process::id()) << 40)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;
    use nvferry_engine::FileBufferId;

    fn workload(flags: &[&str]) -> Result<Workload> {
        let line = std::iter::once("transfer-bench").chain(flags.iter().copied());
        Workload::from_args(&Cli::try_parse_from(line).unwrap().run)
    }

    fn offered(size: u64) -> Vec<FileBufferDesc> {
        vec![FileBufferDesc::new(FileBufferId(1), "/f", size, 512)]
    }

    #[test]
    fn the_queue_depth_follows_the_batch_size_within_bounds() {
        let depth = |flags: &[&str]| workload(flags).unwrap().queue_depth;
        assert_eq!(depth(&[]), 128);
        assert_eq!(depth(&["--batch_size=7"]), 7);
        assert_eq!(depth(&["--block_size=8M"]), 8);
        assert_eq!(depth(&["--block_size=512M"]), 1);
        assert_eq!(depth(&["--block_size=8M", "--queue_depth=32"]), 32);
    }

    #[test]
    fn memory_beyond_reason_is_refused() {
        let error = workload(&["--block_size=1G", "--queue_depth=64"]).unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
    }

    #[test]
    fn files_are_used_in_whole_blocks() {
        let it = workload(&["--block_size=12345"]).unwrap();
        assert_eq!(it.files("s", &offered(1 << 20)).unwrap()[0].blocks, (1 << 20) / 12345);
        let it = workload(&["--block_size=4k", "--range=1M"]).unwrap();
        assert_eq!(it.files("s", &offered(1 << 30)).unwrap()[0].blocks, 256);
        assert_eq!(it.files("s", &offered(8192)).unwrap()[0].blocks, 2);
    }

    #[test]
    fn a_block_larger_than_the_file_is_refused() {
        let it = workload(&["--block_size=8M"]).unwrap();
        let error = it.files("s", &offered(1 << 20)).unwrap_err().to_string();
        assert!(error.contains("8 MiB") && error.contains("1 MiB") && error.contains("/f"), "{error}");
        assert!(it.files("s", &[]).is_err());
    }
}
