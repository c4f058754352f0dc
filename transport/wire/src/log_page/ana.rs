//! Asymmetric namespace access (log page 0Ch): which groups of namespaces this controller reaches how well.

use crate::codec::{Reader, Writer, get_u16, get_u64};
use crate::error::WireError;
use crate::ids::Nsid;

/// Bytes of the page's header.
pub const ANA_HEADER_LEN: usize = 16;
/// Bytes of a group's descriptor, before its namespace ids.
pub const ANA_DESC_LEN: usize = 32;

/// How well a group is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnaState {
    /// As well as can be.
    Optimized,
    /// Less well.
    NonOptimized,
    /// Not now.
    Inaccessible,
    /// Never again.
    PersistentLoss,
    /// Changing.
    Change,
    /// A value without a name.
    Other(u8),
}

impl AnaState {
    fn to_wire(self) -> u8 {
        match self {
            Self::Optimized => 0x01,
            Self::NonOptimized => 0x02,
            Self::Inaccessible => 0x03,
            Self::PersistentLoss => 0x04,
            Self::Change => 0x0F,
            Self::Other(value) => value & 0xF,
        }
    }

    fn from_wire(value: u8) -> Self {
        match value & 0xF {
            0x01 => Self::Optimized,
            0x02 => Self::NonOptimized,
            0x03 => Self::Inaccessible,
            0x04 => Self::PersistentLoss,
            0x0F => Self::Change,
            other => Self::Other(other),
        }
    }
}

/// A group of namespaces that are always reached alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnaGroup<Nsids = Vec<Nsid>> {
    /// The group, from 1.
    pub id: u32,
    /// Grows with each change of the group.
    pub change_count: u64,
    /// How well it is reached.
    pub state: AnaState,
    /// The namespaces in it, in rising order.
    pub nsids: Nsids,
}

/// The page's beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnaHeader {
    /// Grows with each change of the page.
    pub change_count: u64,
    /// How many groups follow.
    pub groups: u16,
}

/// Writes the page; returns its length.
///
/// # Errors
/// The buffer is too small.
pub fn encode_ana<Nsids: AsRef<[Nsid]>>(
    change_count: u64,
    groups: &[AnaGroup<Nsids>],
    out: &mut [u8],
) -> Result<usize, WireError> {
    let mut writer = Writer::new(out, "ANA log page");
    writer.u64(change_count)?;
    writer.u16(groups.len().min(0xFFFF) as u16)?;
    writer.bytes(&[0; 6])?;
    for group in groups.iter().take(0xFFFF) {
        let nsids = group.nsids.as_ref();
        writer.u32(group.id)?;
        writer.u32(nsids.len() as u32)?; // ids are 32 bits wide: there cannot be more
        writer.u64(group.change_count)?;
        writer.u8(group.state.to_wire())?;
        writer.bytes(&[0; 15])?;
        for nsid in nsids {
            writer.u32(nsid.0)?;
        }
    }
    Ok(writer.written_bytes())
}

impl AnaHeader {
    /// Reads the page's beginning.
    ///
    /// # Errors
    /// Fewer than 16 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b = crate::codec::prefix::<ANA_HEADER_LEN>(bytes, "ANA log page")?;
        Ok(Self { change_count: get_u64::<0, _>(b), groups: get_u16::<8, _>(b) })
    }
}

/// Reads a page's groups one after the other.
#[derive(Debug, Clone)]
pub struct AnaGroupReader<'a> {
    rest: Reader<'a>,
    left: u16,
}

impl<'a> AnaGroupReader<'a> {
    /// Reads the groups of the page in `bytes`.
    ///
    /// # Errors
    /// Fewer bytes than the page's header has.
    pub fn new(bytes: &'a [u8]) -> Result<Self, WireError> {
        let header = AnaHeader::decode(bytes)?;
        let mut rest = Reader::new(bytes, "ANA group descriptor");
        rest.bytes(ANA_HEADER_LEN)?;
        Ok(Self { rest, left: header.groups })
    }

    fn group(&mut self) -> Result<AnaGroup, WireError> {
        let id = self.rest.u32()?;
        let count = self.rest.u32()?;
        let change_count = self.rest.u64()?;
        let state = AnaState::from_wire(self.rest.u8()?);
        self.rest.bytes(15)?;
        let nsids = self.rest.bytes((count as usize).saturating_mul(4))?;
        let nsids = nsids.as_chunks::<4>().0.iter().map(|id| Nsid(u32::from_le_bytes(*id))).collect();
        Ok(AnaGroup { id, change_count, state, nsids })
    }
}

impl Iterator for AnaGroupReader<'_> {
    type Item = Result<AnaGroup, WireError>;

    /// The next group; after an error there is none.
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let group = self.group();
        if group.is_err() {
            self.left = 0;
        }
        Some(group)
    }
}
