//! Property Get and Set, and the controller properties that fabrics have (base specification 3.1.3).

use super::{FabricsType, fabrics_sqe};
use crate::codec::{get_u8, get_u32, get_u64, put_u8, put_u32, put_u64};
use crate::ids::CommandId;
use crate::sqe::Sqe;
use crate::status::StatusCode;

/// A controller property, by its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Property {
    /// Controller Capabilities, 8 bytes.
    Cap = 0x00,
    /// Version, 4 bytes.
    Vs = 0x08,
    /// Controller Configuration, 4 bytes; the only one that is set besides NSSR.
    Cc = 0x14,
    /// Controller Status, 4 bytes.
    Csts = 0x1C,
    /// NVM Subsystem Reset, 4 bytes.
    Nssr = 0x20,
    /// Controller Ready Timeouts, 4 bytes.
    Crto = 0x68,
}

impl Property {
    /// The property at this offset.
    pub fn from_offset(offset: u32) -> Option<Self> {
        Some(match offset {
            0x00 => Self::Cap,
            0x08 => Self::Vs,
            0x14 => Self::Cc,
            0x1C => Self::Csts,
            0x20 => Self::Nssr,
            0x68 => Self::Crto,
            _ => return None,
        })
    }

    /// How many bytes it has.
    pub fn size(self) -> PropertySize {
        match self {
            Self::Cap => PropertySize::Eight,
            _ => PropertySize::Four,
        }
    }
}

/// How many bytes a property command moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PropertySize {
    /// 4 bytes.
    Four,
    /// 8 bytes.
    Eight,
}

impl PropertySize {
    fn from_wire(attrib: u8) -> Result<Self, StatusCode> {
        match attrib & 0x7 {
            0 => Ok(Self::Four),
            1 => Ok(Self::Eight),
            _ => Err(StatusCode::InvalidField),
        }
    }
}

/// Returns a property; the completion's result is its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PropertyGet {
    /// How much to return.
    pub size: PropertySize,
    /// From where; see [`Property::from_offset`].
    pub offset: u32,
}

impl PropertyGet {
    /// To get `property` whole.
    pub fn of(property: Property) -> Self {
        Self { size: property.size(), offset: property as u32 }
    }

    /// The command.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = fabrics_sqe(FabricsType::PropertyGet, cid);
        let out = sqe.as_bytes_mut();
        put_u8::<40, _>(out, self.size as u8);
        put_u32::<44, _>(out, self.offset);
        sqe
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: a size that does not exist.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        let bytes = sqe.as_bytes();
        Ok(Self { size: PropertySize::from_wire(get_u8::<40, _>(bytes))?, offset: get_u32::<44, _>(bytes) })
    }
}

/// Sets a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PropertySet {
    /// How much to set.
    pub size: PropertySize,
    /// Where; see [`Property::from_offset`].
    pub offset: u32,
    /// To what.
    pub value: u64,
}

impl PropertySet {
    /// To set `property` whole.
    pub fn of(property: Property, value: u64) -> Self {
        Self { size: property.size(), offset: property as u32, value }
    }

    /// The command.
    pub fn sqe(&self, cid: CommandId) -> Sqe {
        let mut sqe = fabrics_sqe(FabricsType::PropertySet, cid);
        let out = sqe.as_bytes_mut();
        put_u8::<40, _>(out, self.size as u8);
        put_u32::<44, _>(out, self.offset);
        put_u64::<48, _>(out, self.value);
        sqe
    }

    /// Reads the command.
    ///
    /// # Errors
    /// The status to return: a size that does not exist.
    pub fn decode(sqe: &Sqe) -> Result<Self, StatusCode> {
        let bytes = sqe.as_bytes();
        let size = PropertySize::from_wire(get_u8::<40, _>(bytes))?;
        let value = match size {
            PropertySize::Four => get_u32::<48, _>(bytes).into(),
            PropertySize::Eight => get_u64::<48, _>(bytes),
        };
        Ok(Self { size, offset: get_u32::<44, _>(bytes), value })
    }
}

/// Controller Capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cap(pub u64);

impl Cap {
    /// A fabrics controller's capabilities: queues are contiguous (as they must be), the NVM command set, pages of 4
    /// KiB.
    ///
    /// `max_queue_entries` is how many entries an I/O queue may have (2 to 65536); `timeout_500ms` is how long
    /// enabling and disabling may take, in units of 500 ms.
    pub fn fabrics(max_queue_entries: u32, timeout_500ms: u8) -> Self {
        let mqes = u64::from(max_queue_entries.saturating_sub(1).min(0xFFFF));
        Self(mqes | 1 << 16 | u64::from(timeout_500ms) << 24 | 1 << 37)
    }

    /// How many entries an I/O queue may have, as people count (MQES + 1).
    pub fn max_queue_entries(self) -> u32 {
        u32::from(self.0 as u16) + 1
    }

    /// The longest that CSTS.RDY takes to follow CC.EN, in milliseconds (TO).
    pub fn ready_timeout_ms(self) -> u32 {
        u32::from((self.0 >> 24) as u8) * 500
    }

    /// Queues must be contiguous in memory; 1 in fabrics (CQR).
    pub fn contiguous_queues(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    /// Whether the NVM command set is supported (CSS bit 0).
    pub fn nvm_command_set(self) -> bool {
        self.0 >> 37 & 1 == 1
    }

    /// Whether one or more I/O command sets beyond NVM are supported (CSS bit 6).
    pub fn io_command_sets(self) -> bool {
        self.0 >> 43 & 1 == 1
    }

    /// The smallest memory page, in bytes (MPSMIN); the unit of MDTS.
    pub fn min_page_bytes(self) -> u32 {
        1 << (12 + (self.0 >> 48 & 0xF))
    }
}

/// Version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Vs(pub u32);

impl Vs {
    /// 1.3, the least with namespace identification descriptors.
    pub const V1_3: Self = Self::new(1, 3, 0);
    /// 1.4.
    pub const V1_4: Self = Self::new(1, 4, 0);
    /// 2.0.
    pub const V2_0: Self = Self::new(2, 0, 0);

    /// From its numbers.
    pub const fn new(major: u16, minor: u8, tertiary: u8) -> Self {
        Self((major as u32) << 16 | (minor as u32) << 8 | tertiary as u32)
    }
}

impl std::fmt::Display for Vs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 16, self.0 >> 8 & 0xFF, self.0 & 0xFF)
    }
}

/// What kind of shutdown the host asks for (CC.SHN).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shn {
    /// None.
    None,
    /// A normal one.
    Normal,
    /// An abrupt one.
    Abrupt,
    /// A value that has no meaning.
    Reserved,
}

/// Controller Configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Cc(pub u32);

impl Cc {
    /// Enabled, with entries of 64 and 16 bytes, the NVM command set, pages of 4 KiB: what a fabrics host sets.
    pub fn enabled() -> Self {
        Self(1 | 6 << 16 | 4 << 20)
    }

    /// The same with another shutdown notification.
    #[must_use]
    pub fn with_shn(self, shn: Shn) -> Self {
        let bits = match shn {
            Shn::None => 0,
            Shn::Normal => 1,
            Shn::Abrupt => 2,
            Shn::Reserved => 3,
        };
        Self(self.0 & !(0b11 << 14) | bits << 14)
    }

    /// The same, enabled or not.
    #[must_use]
    pub fn with_enable(self, enable: bool) -> Self {
        Self(self.0 & !1 | u32::from(enable))
    }

    /// Whether the controller shall process commands (EN).
    pub fn enable(self) -> bool {
        self.0 & 1 == 1
    }

    /// The command set selected (CSS): 0 is NVM, 6 all that are supported, 7 admin only.
    pub fn css(self) -> u8 {
        (self.0 >> 4 & 0x7) as u8
    }

    /// The memory page size in bytes (MPS).
    pub fn page_bytes(self) -> u32 {
        1 << (12 + (self.0 >> 7 & 0xF))
    }

    /// The arbitration selected (AMS): 0 is round robin.
    pub fn ams(self) -> u8 {
        (self.0 >> 11 & 0x7) as u8
    }

    /// What kind of shutdown is asked for.
    pub fn shn(self) -> Shn {
        match self.0 >> 14 & 0b11 {
            0 => Shn::None,
            1 => Shn::Normal,
            2 => Shn::Abrupt,
            _ => Shn::Reserved,
        }
    }

    /// The size of I/O submission queue entries as a power of two (IOSQES): 6.
    pub fn iosqes(self) -> u8 {
        (self.0 >> 16 & 0xF) as u8
    }

    /// The size of I/O completion queue entries as a power of two (IOCQES): 4.
    pub fn iocqes(self) -> u8 {
        (self.0 >> 20 & 0xF) as u8
    }
}

/// How far a shutdown has come (CSTS.SHST).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shst {
    /// None was asked for.
    Normal,
    /// In progress.
    Occurring,
    /// Complete.
    Complete,
    /// A value that has no meaning.
    Reserved,
}

/// Controller Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Csts(pub u32);

impl Csts {
    /// Ready or not, failed or not, and how far a shutdown has come.
    pub fn new(ready: bool, fatal: bool, shst: Shst) -> Self {
        let shst = match shst {
            Shst::Normal => 0,
            Shst::Occurring => 1,
            Shst::Complete => 2,
            Shst::Reserved => 3,
        };
        Self(u32::from(ready) | u32::from(fatal) << 1 | shst << 2)
    }

    /// The controller processes commands (RDY).
    pub fn ready(self) -> bool {
        self.0 & 1 == 1
    }

    /// The controller has failed and needs a reset (CFS).
    pub fn fatal(self) -> bool {
        self.0 >> 1 & 1 == 1
    }

    /// How far a shutdown has come.
    pub fn shst(self) -> Shst {
        match self.0 >> 2 & 0b11 {
            0 => Shst::Normal,
            1 => Shst::Occurring,
            2 => Shst::Complete,
            _ => Shst::Reserved,
        }
    }
}
