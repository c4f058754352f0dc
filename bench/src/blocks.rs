//! Which blocks a thread moves, and in what order: round-robin over the files, within each file at random or one
//! after the other.

use crate::cli::Pattern;
use crate::pattern::mix;
use nvferry_engine::FileBufferId;

/// A file as the run uses it: so many whole blocks from its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BenchFile {
    /// Names it within the segment.
    pub(crate) id: FileBufferId,
    /// Its path on the target.
    pub(crate) path: String,
    /// Whole blocks that the run uses.
    pub(crate) blocks: u64,
}

/// One block of one file, both by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Block {
    /// Index into the run's files.
    pub(crate) file: usize,
    /// The block's number in the file.
    pub(crate) number: u64,
}

/// The blocks of one file that one thread moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    file: usize,
    first: u64,
    blocks: u64,
}

/// How threads share the blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Every thread may move every block: fine for reading.
    All,
    /// Each thread has blocks of its own: no two threads write the same bytes.
    Disjoint,
}

/// One thread's blocks.
#[derive(Debug, Clone)]
pub(crate) struct ThreadBlocks {
    parts: Vec<Part>,
    thread: u32,
    threads: u32,
    sharing: Sharing,
}

impl ThreadBlocks {
    /// The blocks of thread number `thread` of `threads`. There may be none, where threads are more than blocks.
    pub(crate) fn new(files: &[BenchFile], thread: u32, threads: u32, sharing: Sharing) -> Self {
        let parts = files.iter().enumerate().map(|(file, BenchFile { blocks, .. })| match sharing {
            Sharing::All => Part { file, first: 0, blocks: *blocks },
            Sharing::Disjoint => {
                // Another share in each file, so that many files with few blocks leave no thread without any.
                let part = (u64::from(thread) + file as u64) % u64::from(threads);
                let (first, end) = (share(*blocks, part, threads), share(*blocks, part + 1, threads));
                Part { file, first, blocks: end - first }
            }
        });
        Self { parts: parts.filter(|part| part.blocks > 0).collect(), thread, threads, sharing }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.parts.iter().map(|part| part.blocks).sum()
    }

    /// The blocks without end, in the order of the pattern. There must be some.
    pub(crate) fn endless(&self, pattern: Pattern, seed: u64) -> EndlessBlocks {
        // Threads that share all blocks start at different places, so that they don't read the same block at once.
        let start = |part: &Part| match self.sharing {
            Sharing::All => share(part.blocks, self.thread.into(), self.threads),
            Sharing::Disjoint => 0,
        };
        EndlessBlocks {
            cursors: self.parts.iter().map(start).collect(),
            parts: self.parts.clone(),
            pattern,
            random: mix(seed ^ mix(u64::from(self.thread) + 1)),
            turn: 0,
        }
    }

    /// Each block once, round-robin over the files.
    pub(crate) fn once(&self) -> impl Iterator<Item = Block> + use<> {
        let parts = self.parts.clone();
        let longest = parts.iter().map(|part| part.blocks).max().unwrap_or(0);
        (0..longest).flat_map(move |n| {
            let having = parts.clone().into_iter().filter(move |part| n < part.blocks);
            having.map(move |part| Block { file: part.file, number: part.first + n })
        })
    }

    /// The index of one of these blocks among them, for bitmaps.
    fn index(&self, block: Block) -> Option<usize> {
        let mut before = 0;
        for part in &self.parts {
            if part.file == block.file && (part.first..part.first + part.blocks).contains(&block.number) {
                return Some((before + block.number - part.first) as usize);
            }
            before += part.blocks;
        }
        None
    }
}

/// Where share number `part` of `parts` starts in `blocks`.
fn share(blocks: u64, part: u64, parts: u32) -> u64 {
    (u128::from(blocks) * u128::from(part) / u128::from(parts)) as u64
}

/// Blocks without end.
#[derive(Debug, Clone)]
pub(crate) struct EndlessBlocks {
    parts: Vec<Part>,
    cursors: Vec<u64>,
    pattern: Pattern,
    random: u64,
    turn: usize,
}

impl EndlessBlocks {
    /// The next block.
    #[inline]
    pub(crate) fn next_block(&mut self) -> Block {
        let part = self.parts[self.turn];
        let number = match self.pattern {
            Pattern::Random => {
                self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
                ((u128::from(mix(self.random)) * u128::from(part.blocks)) >> 64) as u64
            }
            Pattern::Sequential => {
                let number = self.cursors[self.turn];
                self.cursors[self.turn] = if number + 1 == part.blocks { 0 } else { number + 1 };
                number
            }
        };
        self.turn = if self.turn + 1 == self.parts.len() { 0 } else { self.turn + 1 };
        Block { file: part.file, number: part.first + number }
    }
}

/// Remembers which of a thread's blocks were written.
#[derive(Debug)]
pub(crate) struct Written {
    blocks: ThreadBlocks,
    bits: Vec<u64>,
}

impl Written {
    /// None of the blocks yet.
    pub(crate) fn none_of(blocks: &ThreadBlocks) -> Self {
        Self { blocks: blocks.clone(), bits: vec![0; blocks.count().div_ceil(64) as usize] }
    }

    /// This one was written.
    pub(crate) fn add(&mut self, block: Block) {
        if let Some(index) = self.blocks.index(block) {
            self.bits[index / 64] |= 1 << (index % 64);
        }
    }

    /// Whether this one was.
    pub(crate) fn contains(&self, block: Block) -> bool {
        self.blocks.index(block).is_some_and(|index| self.bits[index / 64] >> (index % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn files(blocks: &[u64]) -> Vec<BenchFile> {
        let file =
            |(n, &blocks): (usize, &u64)| BenchFile { id: FileBufferId(n as u32 + 1), path: n.to_string(), blocks };
        blocks.iter().enumerate().map(file).collect()
    }

    #[test]
    fn disjoint_shares_cover_every_block_exactly_once() {
        let files = files(&[1, 7, 64, 1000]);
        for threads in [1, 3, 4, 16] {
            let mut seen = HashSet::new();
            for thread in 0..threads {
                for block in ThreadBlocks::new(&files, thread, threads, Sharing::Disjoint).once() {
                    assert!(seen.insert(block), "{block:?} twice with {threads} threads");
                }
            }
            assert_eq!(seen.len(), 1072);
        }
    }

    #[test]
    fn many_files_of_few_blocks_leave_no_thread_without_any() {
        let files = files(&[2; 8]);
        assert!((0..4).all(|thread| !ThreadBlocks::new(&files, thread, 4, Sharing::Disjoint).is_empty()));
    }

    #[test]
    fn random_blocks_stay_inside_the_threads_part() {
        let files = files(&[10, 1000]);
        for thread in 0..4 {
            let blocks = ThreadBlocks::new(&files, thread, 4, Sharing::Disjoint);
            let own: HashSet<_> = blocks.once().collect();
            let mut endless = blocks.endless(Pattern::Random, 42);
            let drawn: Vec<_> = (0..5000).map(|_| endless.next_block()).collect();
            assert!(drawn.iter().all(|block| own.contains(block)));
            // Round-robin over the files, and every block comes up.
            assert!(drawn.windows(2).all(|two| two[0].file != two[1].file));
            assert_eq!(drawn.into_iter().collect::<HashSet<_>>().len(), own.len());
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_blocks_and_another_does_not() {
        let blocks = ThreadBlocks::new(&files(&[1 << 20]), 0, 1, Sharing::All);
        let draw = |seed| {
            let mut endless = blocks.endless(Pattern::Random, seed);
            (0..100).map(|_| endless.next_block().number).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn sequential_blocks_follow_each_other_and_start_again() {
        let files = files(&[3, 5]);
        let mut endless = ThreadBlocks::new(&files, 0, 1, Sharing::All).endless(Pattern::Sequential, 0);
        let drawn: Vec<_> = (0..12).map(|_| endless.next_block()).collect();
        let of_file = |file| drawn.iter().filter(|b| b.file == file).map(|b| b.number).collect::<Vec<_>>();
        assert_eq!(of_file(0), [0, 1, 2, 0, 1, 2]);
        assert_eq!(of_file(1), [0, 1, 2, 3, 4, 0]);
    }

    #[test]
    fn sequential_readers_start_at_different_places() {
        let files = files(&[100]);
        let first = |thread| {
            ThreadBlocks::new(&files, thread, 4, Sharing::All).endless(Pattern::Sequential, 0).next_block().number
        };
        assert_eq!([0, 1, 2, 3].map(first), [0, 25, 50, 75]);
    }

    #[test]
    fn written_blocks_are_remembered() {
        let blocks = ThreadBlocks::new(&files(&[70, 130]), 1, 2, Sharing::Disjoint);
        let mut written = Written::none_of(&blocks);
        let all: Vec<_> = blocks.once().collect();
        for block in all.iter().step_by(3) {
            written.add(*block);
        }
        for (n, block) in all.iter().enumerate() {
            assert_eq!(written.contains(*block), n % 3 == 0, "{block:?}");
        }
        assert!(!written.contains(Block { file: 0, number: 0 }), "another thread's");
    }
}
