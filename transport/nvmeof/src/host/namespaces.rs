//! What the host knows of a target's namespaces.

use nvferry_engine::FileBufferId;
use nvferry_wire::{Nguid, Nsid};

/// Whether a namespace can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// The target has it.
    Present,
    /// The target had it before the connection to it was lost, and has not offered it again yet: requests wait.
    Awaited,
    /// The target has another file there than the one that this was, which had that NGUID: it is not used.
    Replaced {
        /// What it was.
        was: Nguid,
    },
}

/// More than any file has.
const MAX_CAPACITY_BYTES: u64 = 1 << 63;

/// A namespace, as a host sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostNamespace {
    /// Its id; the file's, too.
    pub nsid: Nsid,
    /// Log2 of the bytes of a logical block.
    pub block_shift: u8,
    /// Blocks that it has.
    pub blocks: u64,
    /// Which file it is, where the target tells.
    pub nguid: Option<Nguid>,
    /// Whether it can be used.
    pub presence: Presence,
}

impl HostNamespace {
    /// Bytes of a logical block.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        1 << self.block_shift
    }

    /// Bytes that can be reached. A target may say what it likes; no offset here comes near the end of its 64 bits.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes())).min(MAX_CAPACITY_BYTES)
    }

    /// The longest command in bytes, for a controller that takes `max_transfer_bytes`: whole blocks, at least one.
    #[must_use]
    pub fn max_command_bytes(&self, max_transfer_bytes: u32) -> u32 {
        let most = u64::from(self.block_bytes()) * u64::from(nvferry_wire::nvm::MAX_BLOCKS);
        // At most what `max_transfer_bytes` is, so 32 bits suffice.
        let bytes = u64::from(max_transfer_bytes).min(most) as u32;
        (bytes & !(self.block_bytes() - 1)).max(self.block_bytes())
    }
}

/// All namespaces of a target, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamespaceTable {
    entries: Vec<HostNamespace>,
}

impl NamespaceTable {
    /// A table of these.
    #[must_use]
    pub fn new(mut entries: Vec<HostNamespace>) -> Self {
        entries.sort_by_key(|entry| entry.nsid);
        entries.dedup_by_key(|entry| entry.nsid);
        Self { entries }
    }

    /// The namespace of a file.
    #[must_use]
    pub fn get(&self, file: FileBufferId) -> Option<&HostNamespace> {
        let at = self.entries.binary_search_by_key(&Nsid(file.0), |entry| entry.nsid).ok()?;
        self.entries.get(at)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &HostNamespace> {
        self.entries.iter()
    }

    /// What is known once a target has been found again and offers `now`: namespaces that it had and does not offer
    /// yet are awaited.
    #[must_use]
    pub fn after_reconnect(&self, now: &Self) -> Self {
        let missing = self.entries.iter().filter(|entry| now.get(FileBufferId(entry.nsid.0)).is_none());
        let awaited = missing.map(|entry| HostNamespace { presence: Presence::Awaited, ..*entry });
        Self::new(now.entries.iter().copied().chain(awaited).collect())
    }

    /// What is known after a change that the target announced: what it does not have any more is gone for good, but
    /// for what had been awaited.
    #[must_use]
    pub fn after_change(&self, now: &Self) -> Self {
        let awaited = self.entries.iter().filter(|entry| entry.presence == Presence::Awaited);
        let awaited = awaited.filter(|entry| now.get(FileBufferId(entry.nsid.0)).is_none());
        Self::new(now.entries.iter().chain(awaited).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(nsid: u32) -> HostNamespace {
        HostNamespace { nsid: Nsid(nsid), block_shift: 9, blocks: 8, nguid: None, presence: Presence::Present }
    }

    fn table(nsids: &[u32]) -> NamespaceTable {
        NamespaceTable::new(nsids.iter().map(|&nsid| namespace(nsid)).collect())
    }

    fn shape(table: &NamespaceTable) -> Vec<(u32, Presence)> {
        table.iter().map(|entry| (entry.nsid.0, entry.presence)).collect()
    }

    #[test]
    fn after_a_restart_what_is_missing_is_awaited_until_it_comes() {
        use Presence::{Awaited, Present};
        let before = table(&[1, 2, 3]);
        let restarted = before.after_reconnect(&table(&[2]));
        assert_eq!(shape(&restarted), [(1, Awaited), (2, Present), (3, Awaited)]);
        let one_more = restarted.after_change(&table(&[1, 2]));
        assert_eq!(shape(&one_more), [(1, Present), (2, Present), (3, Awaited)]);
        let removed = one_more.after_change(&table(&[1]));
        assert_eq!(shape(&removed), [(1, Present), (3, Awaited)], "what is withdrawn is gone");
    }

    /// Found by fuzzing: the end of a range, rounded up to a block, must be a number.
    #[test]
    fn p14_no_size_that_a_target_claims_brings_offsets_to_the_end_of_their_bits() {
        for block_shift in 9..=16 {
            for blocks in [1 << 50, (1 << 55) - 1, u64::MAX] {
                let claimed = HostNamespace { block_shift, blocks, ..namespace(1) };
                assert!(claimed.capacity_bytes().checked_add(claimed.block_bytes().into()).is_some(), "{claimed:?}");
            }
        }
    }

    #[test]
    fn commands_are_whole_blocks_within_all_limits() {
        let small = namespace(1);
        assert_eq!(small.max_command_bytes(1 << 20), 1 << 20);
        assert_eq!(small.max_command_bytes(u32::MAX), 512 * 65_536);
        assert_eq!(small.max_command_bytes(1000), 512);
        let large = HostNamespace { block_shift: 16, ..small };
        assert_eq!(large.max_command_bytes(4096), 65_536, "at least one block");
    }
}
