//! What Get Log Page returns (base specification 5.16.1; discovery: 5.16.1.23).

mod ana;
mod discovery;
mod effects;
mod error;
mod firmware;
mod smart;

pub use ana::{ANA_DESC_LEN, ANA_HEADER_LEN, AnaGroup, AnaGroupReader, AnaHeader, AnaState, encode_ana};
pub use discovery::{
    DISCOVERY_ENTRY_LEN, DISCOVERY_HEADER_LEN, DiscoveryAdrFam, DiscoveryEntry, DiscoveryHeader, DiscoveryTrType,
    SubsystemType, Treq,
};
pub use effects::{COMMAND_EFFECTS_LEN, CommandEffects, SUPPORTED_PAGES_LEN, encode_supported_pages};
pub use error::{ERROR_ENTRY_LEN, ErrorEntry};
pub use firmware::{FIRMWARE_LOG_LEN, FirmwareSlots};
pub use smart::{SMART_LOG_LEN, SmartHealth};

use crate::identify::{IDENTIFY_LEN, encode_nsid_list};
use crate::ids::Nsid;

/// A log page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LogPageId {
    /// Which log pages there are.
    SupportedPages = 0x00,
    /// Errors.
    Error = 0x01,
    /// SMART and health.
    Smart = 0x02,
    /// Firmware slots.
    Firmware = 0x03,
    /// Namespaces that changed since this was last read.
    ChangedNamespaces = 0x04,
    /// Which commands there are, and what they affect.
    CommandsSupported = 0x05,
    /// Asymmetric namespace access.
    Ana = 0x0C,
    /// Where subsystems are.
    Discovery = 0x70,
}

impl LogPageId {
    /// The page with this number.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            0x00 => Self::SupportedPages,
            0x01 => Self::Error,
            0x02 => Self::Smart,
            0x03 => Self::Firmware,
            0x04 => Self::ChangedNamespaces,
            0x05 => Self::CommandsSupported,
            0x0C => Self::Ana,
            0x70 => Self::Discovery,
            _ => return None,
        })
    }
}

/// Bytes of the changed namespace list. It is read with [`nsid_list`](crate::identify::nsid_list); a first (and
/// only) id of [`Nsid::ALL`] says that more changed than fit.
pub const CHANGED_NAMESPACES_LEN: usize = IDENTIFY_LEN;

/// Writes the changed namespace list from ids in rising order.
pub fn encode_changed_namespaces(nsids: &[Nsid], out: &mut [u8; CHANGED_NAMESPACES_LEN]) {
    if encode_nsid_list(nsids.iter().copied(), out) < nsids.len() {
        encode_nsid_list([Nsid::ALL], out);
    }
}
