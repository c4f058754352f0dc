//! Error information (log page 01h): an entry for each of the latest errors, newest first.

use crate::codec::{get_u8, get_u16, get_u32, get_u64, prefix, put_u8, put_u16, put_u32, put_u64};
use crate::error::WireError;
use crate::ids::{CommandId, Lba, Nsid, QueueId};
use crate::status::Status;

/// Bytes of an entry.
pub const ERROR_ENTRY_LEN: usize = 64;

/// An error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorEntry {
    /// Which error since the controller came to be, from 1; 0 is an entry that was never used.
    pub error_count: u64,
    /// The queue; FFFFh where the error belongs to no command.
    pub sqid: QueueId,
    /// The command; FFFFh likewise.
    pub cid: CommandId,
    /// How the command ended.
    pub status: Status,
    /// Where the wrong parameter is: byte in bits 7:0, bit in bits 10:8; FFFFh is no particular one.
    pub parameter_location: u16,
    /// The first block that met the error.
    pub lba: Lba,
    /// The namespace.
    pub nsid: Nsid,
    /// The transport: 3 is TCP.
    pub trtype: u8,
    /// What the command itself has to say.
    pub command_specific: u64,
}

impl ErrorEntry {
    /// Writes the entry.
    pub fn encode(&self, out: &mut [u8; ERROR_ENTRY_LEN]) {
        out.fill(0);
        put_u64::<0, _>(out, self.error_count);
        put_u16::<8, _>(out, self.sqid.0);
        put_u16::<10, _>(out, self.cid.0);
        put_u16::<12, _>(out, self.status.to_wire());
        put_u16::<14, _>(out, self.parameter_location);
        put_u64::<16, _>(out, self.lba.0);
        put_u32::<24, _>(out, self.nsid.0);
        put_u8::<29, _>(out, self.trtype);
        put_u64::<32, _>(out, self.command_specific);
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// Fewer than 64 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; ERROR_ENTRY_LEN] = prefix(bytes, "error log entry")?;
        Ok(Self {
            error_count: get_u64::<0, _>(b),
            sqid: QueueId(get_u16::<8, _>(b)),
            cid: CommandId(get_u16::<10, _>(b)),
            status: Status::from_wire(get_u16::<12, _>(b)),
            parameter_location: get_u16::<14, _>(b),
            lba: Lba(get_u64::<16, _>(b)),
            nsid: Nsid(get_u32::<24, _>(b)),
            trtype: get_u8::<29, _>(b),
            command_specific: get_u64::<32, _>(b),
        })
    }
}
