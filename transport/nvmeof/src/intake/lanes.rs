//! The files of one device: what waits for each, and who may take the next slot.
//!
//! A file takes a slot only while it holds less than [`SHARE`] times what is free. So one busy file gets most of the
//! slots but never all, a second one finds some, and a file that stalls keeps what it has and gets no more (P7).

use super::edges::EdgeId;
use crate::host::namespaces::{HostNamespace, NamespaceTable, Presence};
use nvferry_engine::{FileBufferId, Slice};
use nvferry_wire::Nguid;
use std::collections::{HashMap, VecDeque};

/// Slots that a file may hold for each one that is free.
const SHARE: usize = 4;

/// The number of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LaneId(pub(crate) u32);

/// Something that waits for a slot.
#[derive(Debug)]
pub(crate) enum Job {
    /// A slice that one command moves, and how often that was tried.
    Slice(Slice, u8),
    /// A block to be read because a part of it is to be written.
    EdgeRead(EdgeId, u8),
    /// A merged block to be written.
    EdgeWrite(EdgeId, u8),
}

/// Whether a file can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LaneState {
    /// It can.
    Present(HostNamespace),
    /// The target restarted and does not offer it yet: what is for it waits.
    Awaited(HostNamespace),
    /// The target withdrew it.
    Gone,
    /// The target has another file in its place: what it was, and what it is now.
    Replaced { was: Nguid, now: Option<Nguid> },
}

impl LaneState {
    /// Why nothing can be done with the file any more, if that is so.
    pub(crate) fn why_gone(&self) -> Option<String> {
        match self {
            Self::Present(_) | Self::Awaited(_) => None,
            Self::Gone => Some(WITHDRAWN.to_owned()),
            Self::Replaced { was, now } => {
                let now = now.map_or_else(|| "another".to_owned(), |now| now.to_string());
                Some(format!(
                    "the target has another file in its place now: the namespace's NGUID was {was}, and is {now}; to use \
                     what is there now, close the segment and open it anew"
                ))
            }
        }
    }
}

/// Why requests for a file that is gone fail.
pub(crate) const WITHDRAWN: &str = "the target has withdrawn this file";

/// One file.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) file: FileBufferId,
    pub(crate) state: LaneState,
    /// Commands under way, those that nobody waits for any more included.
    pub(crate) in_flight: usize,
    /// In the order of arrival, but for what is tried again.
    waiting: VecDeque<Job>,
    /// Whether the lane stands in the round of those that something waits for.
    in_round: bool,
}

/// All files of one device.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    by_file: HashMap<FileBufferId, LaneId>,
    /// The last one found: most slices are for the same file as the one before.
    last: Option<(FileBufferId, LaneId)>,
    round: VecDeque<LaneId>,
    /// Jobs in all lanes.
    waiting: usize,
}

impl Lanes {
    pub(crate) fn get(&self, id: LaneId) -> &Lane {
        &self.lanes[id.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, id: LaneId) -> &mut Lane {
        &mut self.lanes[id.0 as usize]
    }

    /// The lane of a file that the table has.
    pub(crate) fn find(&mut self, file: FileBufferId, table: &NamespaceTable) -> Option<LaneId> {
        if let Some((last, id)) = self.last
            && last == file
        {
            return Some(id);
        }
        let id = match self.by_file.get(&file) {
            Some(&id) => id,
            None => {
                let state = state_of(table.get(file));
                if state == LaneState::Gone {
                    return None;
                }
                let id = LaneId(self.lanes.len() as u32);
                self.lanes.push(Lane { file, state, in_flight: 0, waiting: VecDeque::new(), in_round: false });
                self.by_file.insert(file, id);
                id
            }
        };
        self.last = Some((file, id));
        Some(id)
    }

    /// Takes over a newer table.
    pub(crate) fn update(&mut self, table: &NamespaceTable) {
        for lane in &mut self.lanes {
            lane.state = state_of(table.get(lane.file));
        }
    }

    /// Puts a job at the end of a lane.
    pub(crate) fn push_back(&mut self, id: LaneId, job: Job) {
        self.waiting += 1;
        let lane = &mut self.lanes[id.0 as usize];
        lane.waiting.push_back(job);
        if !std::mem::replace(&mut lane.in_round, true) {
            self.round.push_back(id);
        }
    }

    /// Puts a job before all others of a lane.
    pub(crate) fn push_front(&mut self, id: LaneId, job: Job) {
        self.waiting += 1;
        let lane = &mut self.lanes[id.0 as usize];
        lane.waiting.push_front(job);
        if !std::mem::replace(&mut lane.in_round, true) {
            self.round.push_back(id);
        }
    }

    /// The next job that may have one of `free` slots, each file in turn.
    pub(crate) fn next(&mut self, free: usize) -> Option<(LaneId, Job)> {
        for _ in 0..self.round.len() {
            let id = self.round.pop_front()?;
            let lane = &mut self.lanes[id.0 as usize];
            let job = if may_take(lane, free) { lane.waiting.pop_front() } else { None };
            lane.in_round = !lane.waiting.is_empty();
            if lane.in_round {
                self.round.push_back(id);
            }
            if let Some(job) = job {
                self.waiting -= 1;
                return Some((id, job));
            }
        }
        None
    }

    /// How many jobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes everything that waits for a file.
    pub(crate) fn drain(&mut self, id: LaneId) -> VecDeque<Job> {
        let jobs = std::mem::take(&mut self.lanes[id.0 as usize].waiting);
        self.waiting -= jobs.len();
        jobs
    }

    /// Takes the waiting slices that `is_over` says so of.
    pub(crate) fn take_slices(&mut self, mut is_over: impl FnMut(&Slice) -> bool) -> Vec<Slice> {
        let mut taken = Vec::new();
        for lane in &mut self.lanes {
            let mut i = 0;
            while i < lane.waiting.len() {
                let over = matches!(&lane.waiting[i], Job::Slice(slice, _) if is_over(slice));
                if !over {
                    i += 1;
                } else if let Some(Job::Slice(slice, _)) = lane.waiting.remove(i) {
                    taken.push(slice);
                }
            }
        }
        self.waiting -= taken.len();
        taken
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lanes.len() as u32).map(LaneId)
    }
}

fn state_of(namespace: Option<&HostNamespace>) -> LaneState {
    let Some(namespace) = namespace else { return LaneState::Gone };
    match namespace.presence {
        Presence::Present => LaneState::Present(*namespace),
        Presence::Awaited => LaneState::Awaited(*namespace),
        Presence::Replaced { was } => LaneState::Replaced { was, now: namespace.nguid },
    }
}

fn may_take(lane: &Lane, free: usize) -> bool {
    !matches!(lane.state, LaneState::Awaited(_)) && lane.in_flight < SHARE * free
}

#[cfg(test)]
mod tests {
    use super::*;
    use nvferry_wire::Nsid;

    fn lanes(files: u32) -> (Lanes, Vec<LaneId>) {
        let presence = Presence::Present;
        let entry = |file| HostNamespace { nsid: Nsid(file), block_shift: 9, blocks: 1, nguid: None, presence };
        let table = NamespaceTable::new((1..=files).map(entry).collect());
        let mut lanes = Lanes::default();
        let ids = (1..=files).map(|file| lanes.find(FileBufferId(file), &table).unwrap()).collect();
        (lanes, ids)
    }

    fn fill(lanes: &mut Lanes, id: LaneId, jobs: usize) {
        (0..jobs).for_each(|_| lanes.push_back(id, Job::EdgeRead(EdgeId::for_test(0), 0)));
    }

    /// Takes all slots that can be had; returns how many each file holds.
    fn take(lanes: &mut Lanes, ids: &[LaneId], slots: usize) -> Vec<usize> {
        loop {
            let free = slots - lanes.lanes.iter().map(|lane| lane.in_flight).sum::<usize>();
            if free == 0 {
                break;
            }
            let Some((id, _)) = lanes.next(free) else { break };
            lanes.get_mut(id).in_flight += 1;
        }
        ids.iter().map(|&id| lanes.get(id).in_flight).collect()
    }

    #[test]
    fn p07_a_stalled_file_never_holds_all_slots() {
        let (mut lanes, ids) = lanes(3);
        fill(&mut lanes, ids[0], 1000);
        let held = take(&mut lanes, &ids, 127);
        assert!(held[0] > 90 && held[0] < 127, "a file alone gets most: {held:?}");
        // Nothing of the first ever ends; the others still find slots, at any time.
        fill(&mut lanes, ids[1], 1000);
        fill(&mut lanes, ids[2], 1000);
        let held = take(&mut lanes, &ids, 127);
        assert!(held[1] >= 8 && held[2] >= 8, "{held:?}");
        assert!(held[1].abs_diff(held[2]) <= 1, "alike: {held:?}");
    }

    #[test]
    fn files_take_turns() {
        let (mut lanes, ids) = lanes(2);
        fill(&mut lanes, ids[0], 3);
        fill(&mut lanes, ids[1], 2);
        let order: Vec<_> = std::iter::from_fn(|| lanes.next(100)).map(|(id, _)| id.0).collect();
        assert_eq!(order, [0, 1, 0, 1, 0]);
        assert_eq!(lanes.waiting(), 0);
    }

    #[test]
    fn one_slot_is_enough_to_go_on() {
        let (mut lanes, ids) = lanes(2);
        fill(&mut lanes, ids[0], 1);
        fill(&mut lanes, ids[1], 1);
        assert!(lanes.next(1).is_some() && lanes.next(1).is_some());
    }
}
