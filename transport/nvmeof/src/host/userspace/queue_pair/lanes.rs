//! The files of one queue pair: what waits for each, and who may take the next slot.
//!
//! A file takes a slot only while it holds less than [`SHARE`] times what is free. So one busy file gets most of the
//! slots but never all, a second one finds some, and a file that stalls keeps what it has and gets no more (P7).

use super::super::namespaces::{HostNamespace, NamespaceTable, Presence};
use crate::edges::EdgeId;
use nvferry_engine::{FileBufferId, Slice};
use std::collections::{HashMap, VecDeque};

/// Slots that a file may hold for each one that is free.
const SHARE: usize = 4;

/// The number of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LaneId(pub(super) u32);

/// Something that waits for a slot.
#[derive(Debug)]
pub(super) enum Job {
    /// A slice that one command moves, and how often that was tried.
    Slice(Slice, u8),
    /// A block to be read because a part of it is to be written.
    EdgeRead(EdgeId, u8),
    /// A merged block to be written.
    EdgeWrite(EdgeId, u8),
}

/// Whether a file can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LaneState {
    /// It can.
    Present(HostNamespace),
    /// The target restarted and does not offer it yet: what is for it waits.
    Awaited(HostNamespace),
    /// The target withdrew it.
    Gone,
}

/// One file.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) file: FileBufferId,
    pub(super) state: LaneState,
    /// Commands under way, those that nobody waits for any more included.
    pub(super) in_flight: usize,
    /// In the order of arrival, but for what is tried again.
    pub(super) waiting: VecDeque<Job>,
    /// Whether the lane stands in the round of those that something waits for.
    in_round: bool,
}

/// All files of one queue pair.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    by_file: HashMap<FileBufferId, LaneId>,
    /// The last one found: most slices are for the same file as the one before.
    last: Option<(FileBufferId, LaneId)>,
    round: VecDeque<LaneId>,
}

impl Lanes {
    pub(super) fn get(&self, id: LaneId) -> &Lane {
        &self.lanes[id.0 as usize]
    }

    pub(super) fn get_mut(&mut self, id: LaneId) -> &mut Lane {
        &mut self.lanes[id.0 as usize]
    }

    /// The lane of a file that the table has.
    pub(super) fn find(&mut self, file: FileBufferId, table: &NamespaceTable) -> Option<LaneId> {
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
    pub(super) fn update(&mut self, table: &NamespaceTable) {
        for lane in &mut self.lanes {
            lane.state = state_of(table.get(lane.file));
        }
    }

    /// Puts a job at the end of a lane.
    pub(super) fn push_back(&mut self, id: LaneId, job: Job) {
        let lane = &mut self.lanes[id.0 as usize];
        lane.waiting.push_back(job);
        if !std::mem::replace(&mut lane.in_round, true) {
            self.round.push_back(id);
        }
    }

    /// Puts a job before all others of a lane.
    pub(super) fn push_front(&mut self, id: LaneId, job: Job) {
        let lane = &mut self.lanes[id.0 as usize];
        lane.waiting.push_front(job);
        if !std::mem::replace(&mut lane.in_round, true) {
            self.round.push_back(id);
        }
    }

    /// The next job that may have one of `free` slots, each file in turn.
    pub(super) fn next(&mut self, free: usize) -> Option<(LaneId, Job)> {
        for _ in 0..self.round.len() {
            let id = self.round.pop_front()?;
            let lane = &mut self.lanes[id.0 as usize];
            let job = if may_take(lane, free) { lane.waiting.pop_front() } else { None };
            lane.in_round = !lane.waiting.is_empty();
            if lane.in_round {
                self.round.push_back(id);
            }
            if let Some(job) = job {
                return Some((id, job));
            }
        }
        None
    }

    /// Whether anything waits.
    pub(super) fn any_waiting(&self) -> bool {
        !self.round.is_empty()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = LaneId> + use<> {
        (0..self.lanes.len() as u32).map(LaneId)
    }
}

fn state_of(namespace: Option<&HostNamespace>) -> LaneState {
    match namespace {
        Some(namespace) if namespace.presence == Presence::Awaited => LaneState::Awaited(*namespace),
        Some(namespace) => LaneState::Present(*namespace),
        None => LaneState::Gone,
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
        let entry = |file| HostNamespace { nsid: Nsid(file), block_shift: 9, blocks: 1, presence };
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
        assert!(!lanes.any_waiting());
    }

    #[test]
    fn one_slot_is_enough_to_go_on() {
        let (mut lanes, ids) = lanes(2);
        fill(&mut lanes, ids[0], 1);
        fill(&mut lanes, ids[1], 1);
        assert!(lanes.next(1).is_some() && lanes.next(1).is_some());
    }
}
