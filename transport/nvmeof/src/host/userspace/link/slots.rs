//! The commands under way on one queue, by command identifier.
//!
//! A command identifier is a slot's number and, above it, the slot's generation, which changes with each use: a
//! completion that comes twice or too late names a command that is no longer there, and is found out.

use super::payload::Payload;
use nvferry_wire::{CommandId, Cqe};

/// The most slots, so that generations have some bits of the identifier's 16.
pub(crate) const MAX_SLOTS: usize = 1024;

/// The number of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct SlotId(pub(crate) u16);

/// How a command's data travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// It has none.
    None,
    /// From the controller: that many bytes.
    ToHost(u32),
    /// To the controller, in the command's capsule.
    InCapsule(u32),
    /// To the controller, when it asks with R2T.
    OnDemand(u32),
}

/// A command under way.
#[derive(Debug)]
pub(crate) struct Busy<T> {
    /// Its owner's.
    pub(crate) context: T,
    /// Its memory.
    pub(crate) payload: Payload,
    /// How its data travels.
    pub(crate) flow: Flow,
    /// Bytes of data received, or asked for by R2T, so far.
    pub(super) moved: u32,
    /// Bytes asked for by the last R2T that have not left yet.
    pub(super) owed: u32,
    /// Pieces of its data that stand in the list to be sent.
    pub(super) leaving: u16,
    /// A data digest did not match.
    pub(super) damaged: bool,
    /// It ended while data was still leaving.
    pub(super) cqe: Option<Cqe>,
}

impl<T> Busy<T> {
    /// Whether its memory is about to be sent.
    pub(super) fn is_sending(&self) -> bool {
        self.leaving > 0
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u16,
    busy: Option<Busy<T>>,
}

/// All slots of one queue.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    index_bits: u32,
}

impl<T> Slots<T> {
    pub(super) fn new(count: usize) -> Self {
        let count = count.clamp(1, MAX_SLOTS);
        Self {
            slots: (0..count).map(|_| Slot { generation: 0, busy: None }).collect(),
            // The lowest numbers are used first.
            free: (0..count as u16).rev().collect(),
            index_bits: count.next_power_of_two().trailing_zeros(),
        }
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(super) fn busy_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a slot, if one is free.
    pub(super) fn take(&mut self, context: T, payload: Payload, flow: Flow) -> Result<SlotId, (T, Payload)> {
        let Some(index) = self.free.pop() else { return Err((context, payload)) };
        let slot = &mut self.slots[usize::from(index)];
        // The highest generation is never used, so that no identifier is FFFFh, which stands for none.
        let generations = (1_u32 << (16 - self.index_bits)) - 1;
        slot.generation = ((u32::from(slot.generation) + 1) % generations) as u16;
        slot.busy = Some(Busy { context, payload, flow, moved: 0, owed: 0, leaving: 0, damaged: false, cqe: None });
        Ok(SlotId(index))
    }

    pub(super) fn cid(&self, id: SlotId) -> CommandId {
        CommandId(self.slots[usize::from(id.0)].generation << self.index_bits | id.0)
    }

    /// The slot of a command under way.
    pub(super) fn find(&self, cid: CommandId) -> Option<SlotId> {
        let index = cid.0 & ((1_u32 << self.index_bits) - 1) as u16;
        let slot = self.slots.get(usize::from(index))?;
        (slot.busy.is_some() && slot.generation == cid.0 >> self.index_bits).then_some(SlotId(index))
    }

    pub(super) fn get(&self, id: SlotId) -> Option<&Busy<T>> {
        self.slots.get(usize::from(id.0))?.busy.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> Option<&mut Busy<T>> {
        self.slots.get_mut(usize::from(id.0))?.busy.as_mut()
    }

    /// Frees a slot.
    pub(super) fn release(&mut self, id: SlotId) -> Option<Busy<T>> {
        let busy = self.slots.get_mut(usize::from(id.0))?.busy.take()?;
        self.free.push(id.0);
        Some(busy)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SlotId, &Busy<T>)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((SlotId(i as u16), slot.busy.as_ref()?)))
    }

    /// Frees all slots.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Busy<T>> + '_ {
        self.free = (0..self.slots.len() as u16).rev().collect();
        self.slots.iter_mut().filter_map(|slot| slot.busy.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_not_used_again_soon_and_never_ffff() {
        for count in [1, 2, 3, 127, 128, 1023, 1024] {
            let mut slots = Slots::new(count);
            let mut last = None;
            for round in 0..70_000_u32 {
                let id = slots.take(round, Payload::None, Flow::None).unwrap();
                let cid = slots.cid(id);
                assert_ne!(cid.0, 0xFFFF);
                assert_ne!(Some(cid), last, "of {count} slots");
                assert_eq!(slots.find(cid), Some(id));
                assert_eq!(slots.release(id).unwrap().context, round);
                assert_eq!(slots.find(cid), None, "a late completion finds nothing");
                last = Some(cid);
            }
        }
    }

    #[test]
    fn all_slots_are_lent_and_no_more() {
        let mut slots = Slots::new(5);
        let ids: Vec<_> = (0..5).map(|i| slots.take(i, Payload::None, Flow::None).unwrap()).collect();
        assert!(slots.take(5, Payload::None, Flow::None).is_err());
        let cids: std::collections::HashSet<_> = ids.iter().map(|&id| slots.cid(id)).collect();
        assert_eq!(cids.len(), 5);
        assert_eq!(slots.drain().count(), 5);
        assert_eq!((slots.free_count(), slots.busy_count()), (5, 0));
    }
}
