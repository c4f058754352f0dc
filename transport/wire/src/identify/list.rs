//! Lists of namespaces (CNS 02h, 07h, 10h; also the changed namespace list): up to 1024 ids in rising order, then
//! zeros. Lists of controllers (CNS 12h, 13h): how many, then up to 2047 ids in rising order.

use super::IDENTIFY_LEN;
use crate::codec::prefix;
use crate::error::WireError;
use crate::ids::{ControllerId, Nsid};

/// How many ids a list has room for.
pub const NSID_LIST_ENTRIES: usize = IDENTIFY_LEN / 4;

/// Writes the first 1024 of `nsids`, which the caller gives in rising order; returns how many were written.
pub fn encode_nsid_list(nsids: impl IntoIterator<Item = Nsid>, out: &mut [u8; IDENTIFY_LEN]) -> usize {
    out.fill(0);
    let mut written = 0;
    for (slot, nsid) in out.as_chunks_mut::<4>().0.iter_mut().zip(nsids) {
        *slot = nsid.0.to_le_bytes();
        written += 1;
    }
    written
}

/// The ids of a list, up to the first zero.
///
/// # Errors
/// Fewer than 4096 bytes.
pub fn nsid_list(bytes: &[u8]) -> Result<impl Iterator<Item = Nsid>, WireError> {
    let bytes: &[u8; IDENTIFY_LEN] = prefix(bytes, "namespace list")?;
    let ids = bytes.as_chunks::<4>().0.iter().map(|id| Nsid(u32::from_le_bytes(*id)));
    Ok(ids.take_while(|&nsid| nsid != Nsid::NONE))
}

/// Writes the first 2047 of `ids`, which the caller gives in rising order; returns how many were written.
pub fn encode_controller_list(ids: impl IntoIterator<Item = ControllerId>, out: &mut [u8; IDENTIFY_LEN]) -> usize {
    out.fill(0);
    let mut written = 0;
    let (count, slots) = out.split_at_mut(2);
    for (slot, id) in slots.as_chunks_mut::<2>().0.iter_mut().zip(ids) {
        *slot = id.0.to_le_bytes();
        written += 1;
    }
    // At most 2047.
    count.copy_from_slice(&(written as u16).to_le_bytes());
    written
}

/// The ids of a controller list.
///
/// # Errors
/// Fewer than 4096 bytes.
pub fn controller_list(bytes: &[u8]) -> Result<impl Iterator<Item = ControllerId>, WireError> {
    let bytes: &[u8; IDENTIFY_LEN] = prefix(bytes, "controller list")?;
    let mut words = bytes.as_chunks::<2>().0.iter().map(|word| u16::from_le_bytes(*word));
    let count = words.next().unwrap_or_default();
    Ok(words.take(count.into()).map(ControllerId))
}
