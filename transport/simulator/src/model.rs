//! A plain model of every file: for each range, which writes its bytes may be from.
//!
//! A range's bytes are those of the last acknowledged write, or of one that is under way or in doubt. A write that
//! ended otherwise than completed is in doubt: it may have been carried out, in part or in whole, and may still be,
//! until nothing of it is under way any more ([`Model::settle`]). Bytes change in blocks of [`BLOCK`].

use crate::random::mix;

/// The unit in which storage changes.
pub(crate) const BLOCK: u64 = 512;

/// A write, or the content that a file began with, which is 0.
pub(crate) type WriteId = u32;

/// What a write puts at an offset that is a multiple of 8.
fn word(file: usize, write: WriteId, offset: u64) -> [u8; 8] {
    mix(u64::from(write) << 40 ^ (file as u64) << 32 ^ (offset / 8)).to_le_bytes()
}

/// The first bytes of some that begin at `offset`, which come before the first whole word.
fn head_bytes(offset: u64, len: usize) -> usize {
    ((8 - offset % 8) as usize % 8).min(len)
}

/// Fills `into` with what a write puts from `offset` on.
pub(crate) fn fill(file: usize, write: WriteId, offset: u64, into: &mut [u8]) {
    let head = head_bytes(offset, into.len());
    let (first, words) = into.split_at_mut(head);
    let skip = (offset % 8) as usize;
    first.copy_from_slice(&word(file, write, offset)[skip..][..head]);
    let (words, last) = words.as_chunks_mut::<8>();
    let mut at = offset + head as u64;
    for bytes in words {
        *bytes = word(file, write, at);
        at += 8;
    }
    last.copy_from_slice(&word(file, write, at)[..last.len()]);
}

fn is_from(file: usize, write: WriteId, offset: u64, bytes: &[u8]) -> bool {
    let head = head_bytes(offset, bytes.len());
    let (first, words) = bytes.split_at(head);
    let skip = (offset % 8) as usize;
    let (words, last) = words.as_chunks::<8>();
    let mut at = offset + head as u64;
    let mut is_next = |bytes: &[u8; 8]| {
        let is_it = *bytes == word(file, write, at);
        at += 8;
        is_it
    };
    *first == word(file, write, offset)[skip..][..head]
        && words.iter().all(&mut is_next)
        && *last == word(file, write, at)[..last.len()]
}

#[derive(Debug, Clone)]
struct Maybe {
    write: WriteId,
    /// It has ended, in doubt.
    in_doubt: bool,
    /// Since then nothing of it is under way any more.
    settled: Option<u64>,
}

impl Maybe {
    /// Whether what was begun then came after it.
    fn is_before(&self, begun: u64) -> bool {
        self.settled.is_some_and(|settled| settled < begun)
    }
}

/// A range whose bytes have the same history.
#[derive(Debug, Clone)]
struct Piece {
    start: u64,
    end: u64,
    acknowledged: WriteId,
    maybe: Vec<Maybe>,
    /// What was acknowledged before or settled, and until when a read could still find it.
    past: Vec<(WriteId, u64)>,
    /// A write in doubt may put back what was there since: see [`Doubt`].
    undone_since: Option<u64>,
    /// What was acknowledged before this is on the disk, also after a loss of power.
    durable_since: u64,
}

/// A write in doubt, of which something may still be under way. The blocks at its edges, of which it writes only a part,
/// are read, merged and written as a whole: so a write that is made over it meanwhile may be undone in all of them.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    start: u64,
    end: u64,
    begun: u64,
    /// Since then nothing of it is under way any more: what is made over it from then on is safe.
    settled: Option<u64>,
}

/// One file.
#[derive(Debug)]
pub(crate) struct Model {
    file: usize,
    block_bytes: u64,
    pieces: Vec<Piece>,
    doubts: Vec<Doubt>,
}

/// Bytes that were never written there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Where they begin.
    pub(crate) offset: u64,
    /// What would have been right, for people.
    pub(crate) expected: String,
}

impl Model {
    /// A file of `size` bytes with the content of write 0, whose namespace has blocks of `block_bytes`.
    #[must_use]
    pub(crate) fn new(file: usize, size: u64, block_bytes: u32) -> Self {
        let (maybe, past) = (Vec::new(), Vec::new());
        let piece = Piece { start: 0, end: size, acknowledged: 0, maybe, past, undone_since: None, durable_since: 0 };
        Self { file, block_bytes: block_bytes.into(), pieces: vec![piece], doubts: Vec::new() }
    }

    fn split(&mut self, at: u64) {
        let i = self.pieces.partition_point(|piece| piece.end <= at);
        if self.pieces.get(i).is_some_and(|piece| piece.start < at) {
            let mut rest = self.pieces[i].clone();
            rest.start = at;
            self.pieces[i].end = at;
            self.pieces.insert(i + 1, rest);
        }
    }

    fn within(&mut self, start: u64, end: u64) -> impl Iterator<Item = &mut Piece> {
        self.split(start);
        self.split(end);
        let first = self.pieces.partition_point(|piece| piece.start < start);
        self.pieces[first..].iter_mut().take_while(move |piece| piece.end <= end)
    }

    /// A write of this range has been submitted.
    pub(crate) fn begin(&mut self, write: WriteId, start: u64, end: u64) {
        for piece in self.within(start, end) {
            piece.maybe.push(Maybe { write, in_doubt: false, settled: None });
        }
    }

    /// It was begun at `begun`, and completed by `now`: perhaps long before, as it is only noted now.
    pub(crate) fn acknowledge(&mut self, write: WriteId, start: u64, end: u64, begun: u64, now: u64) {
        for piece in self.within(start, end) {
            piece.past.push((std::mem::replace(&mut piece.acknowledged, write), now));
            for maybe in piece.maybe.iter().filter(|maybe| maybe.is_before(begun)) {
                piece.past.push((maybe.write, now));
            }
            piece.maybe.retain(|maybe| maybe.write != write && !maybe.is_before(begun));
            piece.undone_since = None;
        }
        let over = |doubt: &&Doubt| {
            doubt.start < end && start < doubt.end && doubt.settled.is_none_or(|settled| begun <= settled)
        };
        let doubts: Vec<Doubt> = self.doubts.iter().filter(over).copied().collect();
        for Doubt { start: from, end: to, begun, .. } in doubts {
            let block_bytes = self.block_bytes;
            for edge in [from, to].into_iter().filter(|edge| edge % block_bytes > 0) {
                let block = edge - edge % block_bytes;
                let (low, high) = (block.max(start), (block + block_bytes).min(end));
                if low < high {
                    for piece in self.within(low, high) {
                        piece.undone_since = Some(piece.undone_since.map_or(begun, |since| since.min(begun)));
                    }
                }
            }
        }
    }

    /// What was acknowledged before `since` is durable.
    pub(crate) fn is_durable(&mut self, start: u64, end: u64, since: u64) {
        for piece in self.within(start, end) {
            piece.durable_since = piece.durable_since.max(since);
        }
    }

    /// It ended otherwise. It was begun at `begun`.
    pub(crate) fn doubt(&mut self, write: WriteId, start: u64, end: u64, begun: u64) {
        self.doubts.push(Doubt { start, end, begun, settled: None });
        for piece in self.within(start, end) {
            piece.maybe.iter_mut().filter(|maybe| maybe.write == write).for_each(|maybe| maybe.in_doubt = true);
        }
    }

    /// It was never begun.
    pub(crate) fn forget(&mut self, write: WriteId, start: u64, end: u64) {
        for piece in self.within(start, end) {
            piece.maybe.retain(|maybe| maybe.write != write);
        }
    }

    /// From `now` on nothing of the writes that have ended is under way any more.
    pub(crate) fn settle(&mut self, now: u64) {
        self.doubts.iter_mut().for_each(|doubt| doubt.settled = doubt.settled.or(Some(now)));
        for maybe in self.pieces.iter_mut().flat_map(|piece| &mut piece.maybe) {
            maybe.settled = maybe.settled.or(maybe.in_doubt.then_some(now));
        }
    }

    /// The file lost what was not flushed: this is what it holds now. What is under way stays so.
    pub(crate) fn rebase(&mut self, content: &[u8], now: u64) -> Result<(), Mismatch> {
        let old = std::mem::take(&mut self.pieces);
        for piece in old {
            let mut at = piece.start;
            while at < piece.end {
                let end = piece.end.min((at / BLOCK + 1) * BLOCK);
                let bytes = &content[at as usize..end as usize];
                let mut block = Piece { start: at, end, ..piece.clone() };
                // What was not flushed may be as it ever was.
                let Some(write) = piece.writes(piece.durable_since).find(|write| is_from(self.file, *write, at, bytes))
                else {
                    return Err(Mismatch { offset: at, expected: format!("{piece:?}") });
                };
                block.acknowledged = write;
                block.durable_since = now + 1;
                block.past.push((piece.acknowledged, now));
                block
                    .past
                    .extend(piece.maybe.iter().filter(|maybe| maybe.settled.is_some()).map(|maybe| (maybe.write, now)));
                block.maybe.retain(|maybe| maybe.settled.is_none());
                self.pieces.push(block);
                at = end;
            }
        }
        Ok(())
    }

    /// Checks what a read, submitted at `since`, returned from `start` on.
    ///
    /// # Errors
    /// Bytes that were never written there, or not in that time.
    pub(crate) fn check(&self, start: u64, bytes: &[u8], since: u64) -> Result<(), Mismatch> {
        let end = start + bytes.len() as u64;
        let first = self.pieces.partition_point(|piece| piece.end <= start);
        for piece in self.pieces[first..].iter().take_while(|piece| piece.start < end) {
            let mut at = piece.start.max(start);
            while at < piece.end.min(end) {
                let to = piece.end.min(end).min((at / BLOCK + 1) * BLOCK);
                let part = &bytes[(at - start) as usize..(to - start) as usize];
                if !piece.writes(since).any(|write| is_from(self.file, write, at, part)) {
                    return Err(Mismatch { offset: at, expected: format!("{piece:?}") });
                }
                at = to;
            }
        }
        Ok(())
    }

    /// Which write some bytes are from, for people.
    #[must_use]
    pub(crate) fn identify(&self, offset: u64, bytes: &[u8], last: WriteId) -> Option<WriteId> {
        (0..=last).find(|write| is_from(self.file, *write, offset, bytes))
    }
}

impl Piece {
    /// The writes that a read submitted at `since` may find.
    fn writes(&self, since: u64) -> impl Iterator<Item = WriteId> + '_ {
        let since = self.undone_since.map_or(since, |undone| since.min(undone));
        let past = self.past.iter().filter(move |(_, until)| *until >= since).map(|(write, _)| *write);
        std::iter::once(self.acknowledged).chain(self.maybe.iter().map(|maybe| maybe.write)).chain(past)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(write: WriteId, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fill(3, write, offset, &mut bytes);
        bytes
    }

    #[test]
    fn what_was_acknowledged_must_be_there() {
        let mut model = Model::new(3, 4096, 512);
        model.check(5, &bytes(0, 5, 700), 10).unwrap();
        model.begin(1, 100, 1300);
        model.check(100, &bytes(0, 100, 1200), 10).unwrap();
        model.check(100, &bytes(1, 100, 1200), 10).unwrap();
        model.acknowledge(1, 100, 1300, 18, 20);
        model.check(100, &bytes(0, 100, 1200), 15).unwrap();
        model.check(100, &bytes(1, 100, 1200), 25).unwrap();
        assert_eq!(model.check(0, &bytes(0, 0, 1200), 25).unwrap_err().offset, 100);
        assert_eq!(model.check(0, &bytes(1, 0, 1200), 25).unwrap_err().offset, 0);
    }

    #[test]
    fn a_write_in_doubt_may_be_there_or_not_until_it_is_settled_and_written_over() {
        let mut model = Model::new(3, 4096, 512);
        model.begin(1, 0, 4096);
        model.doubt(1, 0, 4096, 5);
        model.begin(2, 0, 4096);
        model.acknowledge(2, 0, 4096, 18, 20);
        let mut mixed = bytes(2, 0, 4096);
        mixed[512..1024].copy_from_slice(&bytes(1, 512, 512));
        model.check(0, &mixed, 25).unwrap();
        mixed[600] ^= 1;
        assert_eq!(model.check(0, &mixed, 25).unwrap_err().offset, 512);
        model.settle(25);
        model.begin(3, 0, 4096);
        model.acknowledge(3, 0, 4096, 28, 30);
        assert!(model.check(0, &bytes(1, 0, 4096), 35).is_err());
        assert!(model.check(0, &bytes(2, 0, 4096), 35).is_err());
        model.check(0, &bytes(3, 0, 4096), 35).unwrap();
    }

    #[test]
    fn a_write_in_doubt_may_have_come_after_one_that_is_noted_later() {
        let mut model = Model::new(3, 512, 512);
        model.begin(1, 0, 512);
        model.doubt(1, 0, 512, 5);
        model.begin(2, 0, 512);
        model.settle(15);
        model.acknowledge(2, 0, 512, 10, 20);
        model.check(0, &bytes(1, 0, 512), 25).unwrap();
        model.begin(3, 0, 512);
        model.acknowledge(3, 0, 512, 30, 35);
        assert!(model.check(0, &bytes(1, 0, 512), 40).is_err());
    }

    #[test]
    fn what_was_flushed_survives_a_loss_of_power() {
        let mut model = Model::new(3, 1024, 512);
        model.begin(1, 0, 512);
        model.acknowledge(1, 0, 512, 8, 10);
        model.begin(2, 0, 512);
        model.acknowledge(2, 0, 512, 18, 20);
        let content = |write| [bytes(write, 0, 512), bytes(0, 512, 512)].concat();
        let after_loss = |model: &Model, write| {
            let mut copy = Model { pieces: model.pieces.clone(), doubts: Vec::new(), ..*model };
            copy.rebase(&content(write), 50)
        };
        (0..=2).for_each(|write| after_loss(&model, write).unwrap());
        // A Flush that began between the two.
        model.is_durable(0, 1024, 15);
        assert!(after_loss(&model, 0).is_err());
        (1..=2).for_each(|write| after_loss(&model, write).unwrap());
        // The second one was to be durable before it was acknowledged.
        model.is_durable(0, 512, 21);
        (0..=1).for_each(|write| assert!(after_loss(&model, write).is_err()));
        after_loss(&model, 2).unwrap();
    }

    #[test]
    fn the_edges_of_a_write_in_doubt_may_undo_what_is_written_over_it_and_no_more() {
        let mut model = Model::new(3, 4096, 512);
        model.begin(1, 100, 1000);
        model.doubt(1, 100, 1000, 5);
        // A neighbour in the same block is safe.
        model.begin(2, 0, 100);
        model.acknowledge(2, 0, 100, 8, 10);
        assert!(model.check(0, &bytes(0, 0, 100), 15).is_err());
        // What is written over it is not, in the blocks of which it wrote a part.
        model.begin(3, 0, 2048);
        model.acknowledge(3, 0, 2048, 18, 20);
        model.check(0, &bytes(2, 0, 100), 25).unwrap();
        model.check(1000, &bytes(0, 1000, 24), 25).unwrap();
        assert!(model.check(1024, &bytes(0, 1024, 100), 25).is_err());
        // One that was begun before they were settled, and of which that is only known now, may have been undone.
        model.begin(4, 0, 2048);
        model.settle(26);
        model.acknowledge(4, 0, 2048, 24, 28);
        model.check(0, &bytes(2, 0, 100), 29).unwrap();
        model.begin(5, 0, 2048);
        model.acknowledge(5, 0, 2048, 28, 30);
        assert!(model.check(0, &bytes(2, 0, 100), 35).is_err());
    }
}
