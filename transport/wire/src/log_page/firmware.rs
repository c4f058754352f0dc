//! Firmware slots (log page 03h).

use crate::codec::{get_u8, pad_text, padded_text, prefix, put_u8};
use crate::error::WireError;

/// Bytes of the page.
pub const FIRMWARE_LOG_LEN: usize = 512;

const REVISIONS_AT: usize = 8;
const REVISION_LEN: usize = 8;

/// Which firmware is where. Software has one slot with its version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FirmwareSlots {
    /// The slot that runs, 1 to 7.
    pub active_slot: u8,
    /// The slot that the next reset activates; 0 is none.
    pub next_slot: u8,
    /// The revision in each of slots 1 to 7, at most 8 characters; empty where a slot is.
    pub revisions: [String; 7],
}

impl FirmwareSlots {
    /// One slot, running `revision`.
    pub fn single(revision: impl Into<String>) -> Self {
        let mut slots = Self { active_slot: 1, ..Self::default() };
        slots.revisions[0] = revision.into();
        slots
    }

    /// Writes the page.
    pub fn encode(&self, out: &mut [u8; FIRMWARE_LOG_LEN]) {
        out.fill(0);
        put_u8::<0, _>(out, self.active_slot & 0x7 | (self.next_slot & 0x7) << 4);
        let (slots, _) = out[REVISIONS_AT..].as_chunks_mut::<REVISION_LEN>();
        for (slot, revision) in slots.iter_mut().zip(&self.revisions) {
            if !revision.is_empty() {
                *slot = pad_text(revision);
            }
        }
    }

    /// Reads the page.
    ///
    /// # Errors
    /// Fewer than 512 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; FIRMWARE_LOG_LEN] = prefix(bytes, "firmware slot log page")?;
        let afi = get_u8::<0, _>(b);
        let mut slots = Self { active_slot: afi & 0x7, next_slot: afi >> 4 & 0x7, ..Self::default() };
        for (revision, slot) in slots.revisions.iter_mut().zip(b[REVISIONS_AT..].as_chunks::<REVISION_LEN>().0) {
            *revision = padded_text(slot);
        }
        Ok(slots)
    }
}
