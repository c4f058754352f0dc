//! Lists of namespaces (CNS 02h, 07h, 10h; also the changed namespace list): up to 1024 ids in rising order, then
//! zeros.

use super::IDENTIFY_LEN;
use crate::codec::prefix;
use crate::error::WireError;
use crate::ids::Nsid;

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
