//! Identify structures that belong to an I/O command set (CNS 05h, 06h), and the list of command sets (CNS 1Ch).

use super::IDENTIFY_LEN;
use crate::codec::{get_u8, get_u32, get_u64, prefix, put_u8, put_u32, put_u64};
use crate::error::WireError;

/// What the NVM command set says of the controller (CNS 06h, CSI 0; NVM command set 4.1.5.4). Limits of 0 are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NvmIdentifyController {
    /// The most data of Verify, as a power of two of CAP.MPSMIN.
    pub vsl: u8,
    /// The most that Write Zeroes sets, as a power of two of CAP.MPSMIN.
    pub wzsl: u8,
    /// The most that Write Uncorrectable marks, as a power of two of CAP.MPSMIN.
    pub wusl: u8,
    /// The most ranges of Dataset Management.
    pub dmrl: u8,
    /// The most blocks of one range.
    pub dmrsl: u32,
    /// The most blocks of all ranges.
    pub dmsl: u64,
}

impl NvmIdentifyController {
    /// Writes the structure.
    pub fn encode(&self, out: &mut [u8; IDENTIFY_LEN]) {
        out.fill(0);
        put_u8::<0, _>(out, self.vsl);
        put_u8::<1, _>(out, self.wzsl);
        put_u8::<2, _>(out, self.wusl);
        put_u8::<3, _>(out, self.dmrl);
        put_u32::<4, _>(out, self.dmrsl);
        put_u64::<8, _>(out, self.dmsl);
    }

    /// Reads the structure.
    ///
    /// # Errors
    /// Fewer than 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; IDENTIFY_LEN] = prefix(bytes, "Identify Controller of the NVM command set")?;
        Ok(Self {
            vsl: get_u8::<0, _>(b),
            wzsl: get_u8::<1, _>(b),
            wusl: get_u8::<2, _>(b),
            dmrl: get_u8::<3, _>(b),
            dmrsl: get_u32::<4, _>(b),
            dmsl: get_u64::<8, _>(b),
        })
    }
}

/// What the NVM command set says of a namespace beyond CNS 00h (CNS 05h, CSI 0; NVM command set 4.1.5.3). All
/// zero where there is no protection information.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NvmIdentifyNamespace {
    /// Logical block storage tag mask.
    pub lbstm: u64,
    /// Protection information capabilities.
    pub pic: u8,
}

impl NvmIdentifyNamespace {
    /// Writes the structure.
    pub fn encode(&self, out: &mut [u8; IDENTIFY_LEN]) {
        out.fill(0);
        put_u64::<0, _>(out, self.lbstm);
        put_u8::<8, _>(out, self.pic);
    }

    /// Reads the structure.
    ///
    /// # Errors
    /// Fewer than 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; IDENTIFY_LEN] = prefix(bytes, "Identify Namespace of the NVM command set")?;
        Ok(Self { lbstm: get_u64::<0, _>(b), pic: get_u8::<8, _>(b) })
    }
}

/// Writes the list of I/O command set combinations (CNS 1Ch) of a controller that has the NVM command set alone.
pub fn encode_io_command_sets(out: &mut [u8; IDENTIFY_LEN]) {
    out.fill(0);
    put_u64::<0, _>(out, 1); // the first combination: bit 0, NVM
}
