//! The memory that transfers may use: who registered it, and leases of it by handle or by address.
//!
//! A Rust caller keeps a [`Memory`], which owns its bytes, and names ranges of it. A host application that knows only
//! addresses (through the C interface) leaves the memory with the engine and names addresses. Both kinds stand in
//! one registry, so that no byte is registered twice.

use crate::error::{EngineError, ErrorKind};
use nvferry_io::{MemSlice, RegisteredMemory};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Memory that is registered with one engine, owned by whoever holds this. Dropping it unregisters it; transfers
/// that still use it keep the bytes alive.
pub struct Memory {
    /// `None` only while it is being taken apart.
    memory: Option<RegisteredMemory>,
    address: usize,
    len: usize,
    registry: Arc<Registry>,
}

impl Memory {
    /// Bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The address of the first byte, as a number.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Whether a transfer still uses any part.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.memory.as_ref().is_some_and(RegisteredMemory::is_leased)
    }

    /// The bytes, for the caller alone.
    ///
    /// # Errors
    /// [`ErrorKind::BatchBusy`] while a transfer still uses any part, also one whose request has timed out but
    /// which the transport has not let go.
    pub fn bytes(&mut self) -> Result<&mut [u8], EngineError> {
        match self.memory.as_mut().map(RegisteredMemory::bytes) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(EngineError::new(ErrorKind::BatchBusy, format!("access to memory: {error}"))),
            None => Ok(&mut []),
        }
    }

    /// Unregisters it and gives the memory back. Transfers under way keep their leases.
    #[must_use]
    pub fn unregister(mut self) -> RegisteredMemory {
        // `memory` is always there before this call, which consumes the handle.
        self.memory.take().unwrap_or_else(|| RegisteredMemory::from(Vec::new()))
    }

    pub(crate) fn lease(&self, range: Range<usize>) -> Result<MemSlice, EngineError> {
        let refused = |why: String| EngineError::new(ErrorKind::AddressNotRegistered, why);
        let memory = self.memory.as_ref().ok_or_else(|| refused("the memory is being unregistered".into()))?;
        memory.lease(range).map_err(|error| refused(error.to_string()))
    }

    pub(crate) fn belongs_to(&self, registry: &Arc<Registry>) -> bool {
        Arc::ptr_eq(&self.registry, registry)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.registry.ranges.write().remove(&self.address);
    }
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Memory({} bytes at {:#x})", self.len, self.address)
    }
}

struct Entry {
    /// One past the last byte.
    end: usize,
    /// The memory itself where the engine holds it; `None` where a [`Memory`] does.
    held: Option<RegisteredMemory>,
}

/// Which addresses are registered.
#[derive(Default)]
pub(crate) struct Registry {
    /// By first address. Ranges are not empty and do not overlap.
    ranges: RwLock<BTreeMap<usize, Entry>>,
}

impl Registry {
    /// Registers all of them, or none.
    pub(crate) fn register(self: &Arc<Self>, memories: Vec<RegisteredMemory>) -> Result<Vec<Memory>, EngineError> {
        self.insert(memories.iter().map(|m| (m.address(), m.len(), None)))?;
        let handle = |memory: RegisteredMemory| Memory {
            address: memory.address(),
            len: memory.len(),
            memory: Some(memory),
            registry: Arc::clone(self),
        };
        Ok(memories.into_iter().map(handle).collect())
    }

    /// Registers all of them for use by address, or none.
    pub(crate) fn register_by_address(&self, memories: Vec<RegisteredMemory>) -> Result<(), EngineError> {
        self.insert(memories.into_iter().map(|m| (m.address(), m.len(), Some(m))))
    }

    fn insert(&self, new: impl Iterator<Item = (usize, usize, Option<RegisteredMemory>)>) -> Result<(), EngineError> {
        let mut ranges = self.ranges.write();
        let mut added = Vec::new();
        for (start, len, held) in new {
            let refusal = if len == 0 {
                Some(EngineError::new(ErrorKind::InvalidArgument, "register memory: a range of 0 bytes"))
            } else {
                let end = start.saturating_add(len);
                overlapping(&ranges, start, end).map(|(other, other_end)| {
                    EngineError::new(
                        ErrorKind::AddressOverlapped,
                        format!(
                            "register memory {start:#x}..{end:#x}: it overlaps {other:#x}..{other_end:#x}, which is \
                             registered already"
                        ),
                    )
                })
            };
            if let Some(error) = refusal {
                for start in added {
                    ranges.remove(&start);
                }
                return Err(error);
            }
            ranges.insert(start, Entry { end: start.saturating_add(len), held });
            added.push(start);
        }
        Ok(())
    }

    /// Takes memory back that was registered by address.
    pub(crate) fn unregister_by_address(&self, start: usize) -> Result<RegisteredMemory, EngineError> {
        let mut ranges = self.ranges.write();
        let refused = |kind, why: &str| Err(EngineError::new(kind, format!("unregister memory at {start:#x}: {why}")));
        match ranges.get(&start) {
            Some(Entry { held: Some(memory), .. }) if memory.is_leased() => {
                refused(ErrorKind::BatchBusy, "transfers still use it: wait for their batch first")
            }
            Some(Entry { held: Some(_), .. }) => match ranges.remove(&start).and_then(|entry| entry.held) {
                Some(memory) => Ok(memory),
                None => refused(ErrorKind::AddressNotRegistered, "it is not registered"),
            },
            Some(_) => refused(ErrorKind::InvalidArgument, "a `Memory` owns it: drop that instead"),
            None => refused(ErrorKind::AddressNotRegistered, "no registered range starts there"),
        }
    }

    /// Takes all memory back that was registered by address and that no transfer uses.
    ///
    /// # Errors
    /// `BatchBusy` when some is left; it names the first of it.
    pub(crate) fn unregister_idle_by_address(&self) -> Result<(), EngineError> {
        let mut ranges = self.ranges.write();
        ranges.retain(|_, entry| entry.held.as_ref().is_none_or(RegisteredMemory::is_leased));
        let Some((start, entry)) = ranges.iter().find(|(_, entry)| entry.held.is_some()) else { return Ok(()) };
        let message = format!("unregister memory at {start:#x}..{:#x}: transfers still use it", entry.end);
        Err(EngineError::new(ErrorKind::BatchBusy, message))
    }

    /// Leases a range of memory that was registered by address.
    pub(crate) fn lease(&self, start: usize, len: usize) -> Result<MemSlice, EngineError> {
        let refused = |why: &str| {
            EngineError::new(ErrorKind::AddressNotRegistered, format!("memory of {len} bytes at {start:#x}: {why}"))
        };
        let ranges = self.ranges.read();
        let (first, entry) =
            ranges.range(..=start).next_back().ok_or_else(|| refused("it is not registered; register it first"))?;
        if start >= entry.end {
            return Err(refused("it is not registered; register it first"));
        }
        let memory = entry.held.as_ref().ok_or_else(|| refused("a `Memory` owns it: name a range of that instead"))?;
        let from = start - first;
        let to = from.checked_add(len).ok_or_else(|| refused("its end is beyond the address space"))?;
        memory.lease(from..to).map_err(|_| refused("it reaches beyond what is registered"))
    }
}

fn overlapping(ranges: &BTreeMap<usize, Entry>, start: usize, end: usize) -> Option<(usize, usize)> {
    let (other, entry) = ranges.range(..end).next_back()?;
    (entry.end > start).then_some((*other, entry.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Arc<Registry> {
        Arc::new(Registry::default())
    }

    #[test]
    fn memory_is_leased_by_address_within_its_range_only() {
        let registry = registry();
        let memory = RegisteredMemory::allocate(8192);
        let start = memory.address();
        registry.register_by_address(vec![memory]).unwrap();
        assert_eq!(registry.lease(start, 8192).unwrap().len(), 8192);
        assert_eq!(registry.lease(start + 8191, 1).unwrap().address(), start + 8191);
        for (at, len) in [(start, 8193), (start + 8192, 1), (start.wrapping_sub(1), 1), (start + 1, usize::MAX)] {
            let error = registry.lease(at, len).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddressNotRegistered, "{error}");
        }
    }

    #[test]
    fn overlapping_memory_is_refused_and_nothing_of_the_list_stays() {
        let registry = registry();
        let mut bytes = vec![0_u8; 4096];
        let start = std::ptr::NonNull::new(bytes.as_mut_ptr()).unwrap();
        let first = registry.register(vec![RegisteredMemory::from(bytes)]).unwrap();
        let again = || {
            // The registry looks at addresses only, so a second owner of the same range is made of the same numbers.
            registry.insert([(0x10, 16, None), (start.as_ptr() as usize + 4095, 10, None)].into_iter())
        };
        assert_eq!(again().unwrap_err().kind(), ErrorKind::AddressOverlapped);
        assert_eq!(registry.ranges.read().len(), 1);
        drop(first);
        again().unwrap();
    }

    #[test]
    fn memory_in_use_is_not_unregistered() {
        let registry = registry();
        let memory = RegisteredMemory::allocate(4096);
        let start = memory.address();
        registry.register_by_address(vec![memory]).unwrap();
        let lease = registry.lease(start, 10).unwrap();
        assert_eq!(registry.unregister_by_address(start).unwrap_err().kind(), ErrorKind::BatchBusy);
        drop(lease);
        assert_eq!(registry.unregister_by_address(start).unwrap().len(), 4096);
        assert_eq!(registry.lease(start, 10).unwrap_err().kind(), ErrorKind::AddressNotRegistered);
    }

    #[test]
    fn all_memory_is_taken_back_but_what_is_in_use_and_what_has_an_owner() {
        let registry = registry();
        let owned = registry.register(vec![RegisteredMemory::allocate(4096)]).unwrap();
        let memories = [RegisteredMemory::allocate(4096), RegisteredMemory::allocate(4096)];
        let starts = [memories[0].address(), memories[1].address()];
        registry.register_by_address(memories.into()).unwrap();
        let lease = registry.lease(starts[0], 10).unwrap();
        let error = registry.unregister_idle_by_address().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BatchBusy);
        assert!(error.to_string().contains(&format!("{:#x}", starts[0])), "{error}");
        assert!(registry.lease(starts[0], 10).is_ok() && registry.lease(starts[1], 10).is_err());
        drop(lease);
        registry.unregister_idle_by_address().unwrap();
        assert!(registry.ranges.read().keys().eq([&owned[0].address()]));
    }

    #[test]
    fn a_handle_gives_its_bytes_when_no_transfer_has_them() {
        let registry = registry();
        let mut memory = registry.register(vec![RegisteredMemory::from(vec![1, 2, 3])]).unwrap().remove(0);
        let lease = memory.lease(0..2).unwrap();
        assert_eq!(memory.bytes().unwrap_err().kind(), ErrorKind::BatchBusy);
        drop(lease);
        assert_eq!(memory.bytes().unwrap(), [1, 2, 3]);
        let address = memory.address();
        assert_eq!(registry.lease(address, 1).unwrap_err().kind(), ErrorKind::AddressNotRegistered);
        assert_eq!(memory.unregister().len(), 3);
        assert!(registry.ranges.read().is_empty());
    }

    #[test]
    fn empty_memory_is_refused() {
        let error = registry().register(vec![RegisteredMemory::from(Vec::new())]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
