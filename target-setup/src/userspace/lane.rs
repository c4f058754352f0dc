//! Lanes: how the namespaces of one reactor share its buffers and its I/O engine.
//!
//! Each namespace has a lane with two queues: commands that wait for a buffer, and commands that have all they need
//! and wait for room in the engine. A lane may take no more than what is left for the others: with one busy lane that
//! is half of everything, with two a third each, and so on. So a namespace that stalls keeps what it has, and there is
//! always something left for the rest.

use super::counters::LaneCounters;
use super::namespace::{Namespace, NamespaceLease};
use super::table::{NamespaceTable, Snapshot};
use nvferry_io::IoFile;
use nvferry_wire::Nsid;
use std::collections::VecDeque;
use std::sync::Arc;

/// A command on one reactor: its connection, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommandKey {
    pub(crate) connection: u32,
    pub(crate) slot: u16,
}

impl CommandKey {
    pub(crate) fn to_token(self) -> u64 {
        u64::from(self.connection) << 16 | u64::from(self.slot)
    }

    pub(crate) fn from_token(token: u64) -> Self {
        // The inverse of `to_token`: 32 and 16 bits.
        Self { connection: (token >> 16) as u32, slot: token as u16 }
    }
}

/// A lane, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneId(u32);

/// A namespace's files, as one reactor refers to them: commands count references where no other reactor does.
pub(crate) struct LaneFiles {
    /// As [`Namespace::file`].
    pub(crate) file: Arc<IoFile>,
    /// As [`Namespace::tail`].
    pub(crate) tail: Option<Arc<IoFile>>,
}

impl LaneFiles {
    pub(crate) fn of(namespace: &Namespace) -> Self {
        let own = |file: &IoFile| Arc::new(file.clone());
        Self { file: own(&namespace.file), tail: namespace.tail.as_ref().map(own) }
    }
}

/// One namespace as one reactor serves it.
pub(crate) struct Lane {
    lease: NamespaceLease,
    pub(crate) files: LaneFiles,
    pub(crate) counters: Arc<LaneCounters>,
    /// New commands may come.
    listed: bool,
    /// Commands that refer to this lane.
    commands: usize,
    /// Bytes of data buffers that its commands hold.
    pub(crate) data_bytes: usize,
    /// Bytes of buffers for in-capsule data that its commands hold.
    pub(crate) capsule_bytes: usize,
    /// Operations in the engine.
    pub(crate) in_engine: usize,
    /// Commands that wait for a buffer.
    pub(crate) waiting: VecDeque<CommandKey>,
    /// Commands that wait for the engine.
    pub(crate) ready: VecDeque<CommandKey>,
    /// Commands that have all they need, and wait for the end of an orphan.
    pub(crate) held_up: Vec<CommandKey>,
    /// In the list of lanes that have something to do.
    queued: bool,
}

impl Lane {
    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        self.lease.namespace()
    }
}

/// All lanes of one reactor.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: Vec<Option<Lane>>,
    free: Vec<LaneId>,
    /// Lanes that take new commands, by namespace.
    listed: Vec<(Nsid, LaneId)>,
    generation: Option<u64>,
    snapshot: Arc<Snapshot>,
    /// Lanes with commands that can perhaps go on, in the order of their turns.
    todo: VecDeque<LaneId>,
}

impl Lanes {
    /// Follows the table where it changed. Cheap when it did not.
    pub(crate) fn refresh(&mut self, table: &NamespaceTable) {
        if self.generation == Some(table.generation()) {
            return;
        }
        let (generation, snapshot) = table.snapshot();
        let gone: Vec<LaneId> = self
            .listed
            .iter()
            .filter(|(nsid, id)| {
                let now = snapshot.get(nsid);
                !now.is_some_and(|now| self.get(*id).is_some_and(|lane| Arc::ptr_eq(now, lane.namespace())))
            })
            .map(|&(_, id)| id)
            .collect();
        for id in gone {
            self.listed.retain(|&(_, listed)| listed != id);
            if let Some(lane) = self.get_mut(id) {
                lane.listed = false;
            }
            self.drop_if_done(id);
        }
        for (&nsid, namespace) in snapshot.iter() {
            if self.find(nsid).is_none() {
                self.add(nsid, namespace);
            }
        }
        self.snapshot = snapshot;
        self.generation = Some(generation);
    }

    fn add(&mut self, nsid: Nsid, namespace: &Arc<Namespace>) {
        let counters = Arc::new(LaneCounters::default());
        // Withdrawn between the snapshot and now: the next refresh will say so.
        let Some(lease) = namespace.lease(&counters) else { return };
        let lane = Lane {
            files: LaneFiles::of(namespace),
            lease,
            counters,
            listed: true,
            commands: 0,
            data_bytes: 0,
            capsule_bytes: 0,
            in_engine: 0,
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            held_up: Vec::new(),
            queued: false,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            // At most MAX_NAMESPACES offered, and those that drain.
            LaneId(self.lanes.len() as u32 - 1)
        });
        self.lanes[id.0 as usize] = Some(lane);
        let at = self.listed.partition_point(|&(there, _)| there < nsid);
        self.listed.insert(at, (nsid, id));
    }

    /// The lane of a namespace that takes new commands.
    pub(crate) fn find(&self, nsid: Nsid) -> Option<LaneId> {
        let at = self.listed.binary_search_by_key(&nsid, |&(there, _)| there).ok()?;
        Some(self.listed[at].1)
    }

    /// All lanes that take new commands.
    pub(crate) fn all(&self) -> impl Iterator<Item = LaneId> + '_ {
        self.listed.iter().map(|&(_, id)| id)
    }

    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(id.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(id.0 as usize)?.as_mut()
    }

    /// A command begins to refer to the lane.
    pub(crate) fn enter(&mut self, id: LaneId) {
        if let Some(lane) = self.get_mut(id) {
            lane.commands += 1;
            lane.counters.in_flight.add(1);
        }
    }

    /// A command no longer refers to the lane; the last one ends a lane whose namespace is gone.
    pub(crate) fn leave(&mut self, id: LaneId) {
        if let Some(lane) = self.get_mut(id) {
            lane.commands -= 1;
            lane.counters.in_flight.sub(1);
        }
        self.drop_if_done(id);
    }

    fn drop_if_done(&mut self, id: LaneId) {
        if self.get(id).is_some_and(|lane| !lane.listed && lane.commands == 0) {
            self.lanes[id.0 as usize] = None;
            self.todo.retain(|&queued| queued != id);
            self.free.push(id);
        }
    }

    /// Puts a command that needs a buffer in line.
    pub(crate) fn wait(&mut self, id: LaneId, key: CommandKey) {
        if let Some(lane) = self.get_mut(id) {
            lane.waiting.push_back(key);
        }
        self.queue(id);
    }

    /// Puts a command that needs only the engine in line.
    pub(crate) fn ready(&mut self, id: LaneId, key: CommandKey) {
        if let Some(lane) = self.get_mut(id) {
            lane.ready.push_back(key);
        }
        self.queue(id);
    }

    /// An orphan has ended: commands that waited for one are looked at again, in their order and before all others.
    pub(crate) fn orphan_ended(&mut self) {
        for at in 0..self.lanes.len() {
            if let Some(lane) = self.lanes[at].as_mut().filter(|lane| !lane.held_up.is_empty()) {
                std::mem::take(&mut lane.held_up).into_iter().rev().for_each(|key| lane.ready.push_front(key));
                // The place of a lane.
                self.queue(LaneId(at as u32));
            }
        }
    }

    /// Gives the lane a turn.
    pub(crate) fn queue(&mut self, id: LaneId) {
        if let Some(lane) = self.get_mut(id)
            && !lane.queued
        {
            lane.queued = true;
            self.todo.push_back(id);
        }
    }

    /// The next lane whose turn it is.
    pub(crate) fn next_turn(&mut self) -> Option<LaneId> {
        let id = self.todo.pop_front()?;
        if let Some(lane) = self.get_mut(id) {
            lane.queued = false;
        }
        Some(id)
    }

    /// How many lanes wait for a turn.
    pub(crate) fn turns(&self) -> usize {
        self.todo.len()
    }

    /// How many commands wait for a buffer in lanes that have something to do.
    pub(crate) fn waiting(&self) -> usize {
        self.todo.iter().filter_map(|&id| self.get(id)).map(|lane| lane.waiting.len()).sum()
    }

    /// Takes a command out of its lane's queues.
    pub(crate) fn forget(&mut self, id: LaneId, key: CommandKey) {
        if let Some(lane) = self.get_mut(id) {
            lane.waiting.retain(|&queued| queued != key);
            lane.ready.retain(|&queued| queued != key);
            lane.held_up.retain(|&queued| queued != key);
        }
    }

    /// Ends all leases: the reactor stops.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
