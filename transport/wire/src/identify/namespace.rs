//! Identify Namespace (CNS 00h; NVM command set 4.1.5.1) and its form for all command sets (CNS 08h).

use super::IDENTIFY_LEN;
use crate::codec::{
    get, get_u8, get_u16, get_u32, get_u64, get_u128, prefix, put, put_u8, put_u16, put_u32, put_u64, put_u128,
};
use crate::error::WireError;

/// How many LBA formats the structure has room for.
pub const LBAF_COUNT: usize = 64;
const LBAF_AT: usize = 128;
const LBAF_LEN: usize = 4;

/// A form that a namespace's blocks can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LbaFormat {
    /// Metadata, in bytes per block.
    pub ms: u16,
    /// Data, as a power of two of bytes: 9 for 512, 12 for 4096. Below 9 the format is not available.
    pub lbads: u8,
    /// Relative performance: 0 is best, 3 is worst.
    pub rp: u8,
}

impl LbaFormat {
    /// Bytes of data per block; `None` if the format is not available, or is beyond 2 GiB.
    pub fn block_bytes(self) -> Option<u32> {
        (9..=31).contains(&self.lbads).then(|| 1 << self.lbads)
    }
}

/// What a namespace is. The default is all zero, which is also what an inactive namespace returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentifyNamespace {
    /// Size, in blocks.
    pub nsze: u64,
    /// Capacity, in blocks.
    pub ncap: u64,
    /// Use, in blocks.
    pub nuse: u64,
    /// Features: bit 0 thin provisioning, bit 1 own atomicity, bit 4 the optimal I/O fields (NPWG to NOWS) are valid.
    pub nsfeat: u8,
    /// How many LBA formats there are, from zero.
    pub nlbaf: u8,
    /// Which LBA format is in use: bits 3:0, and bits 6:5 above them.
    pub flbas: u8,
    /// Metadata capabilities.
    pub mc: u8,
    /// Protection capabilities.
    pub dpc: u8,
    /// Protection settings.
    pub dps: u8,
    /// Sharing: bit 0, several controllers may have it.
    pub nmic: u8,
    /// Reservations.
    pub rescap: u8,
    /// What deallocated blocks read as: bits 2:0, 001b is zeros; bit 3, Write Zeroes can deallocate.
    pub dlfeat: u8,
    /// Atomicity of a write, in blocks, from zero.
    pub nawun: u16,
    /// Atomicity when power fails, in blocks, from zero.
    pub nawupf: u16,
    /// Atomicity of a fused compare and write, in blocks, from zero.
    pub nacwu: u16,
    /// I/O that crosses a multiple of this many blocks is slower; 0 is not said.
    pub noiob: u16,
    /// Size in bytes; 0 is not said.
    pub nvmcap: u128,
    /// Preferred write granularity, in blocks, from zero.
    pub npwg: u16,
    /// Preferred write alignment, in blocks, from zero.
    pub npwa: u16,
    /// Preferred deallocate granularity, in blocks, from zero.
    pub npdg: u16,
    /// Preferred deallocate alignment, in blocks, from zero.
    pub npda: u16,
    /// Optimal write size, in blocks, from zero.
    pub nows: u16,
    /// ANA group; 0 is none.
    pub anagrpid: u32,
    /// Attributes: bit 0, write protected.
    pub nsattr: u8,
    /// Globally unique id; zero is none.
    pub nguid: [u8; 16],
    /// IEEE extended unique id; zero is none.
    pub eui64: [u8; 8],
    /// The LBA formats.
    pub lbaf: [LbaFormat; LBAF_COUNT],
}

impl Default for IdentifyNamespace {
    fn default() -> Self {
        Self {
            nsze: 0,
            ncap: 0,
            nuse: 0,
            nsfeat: 0,
            nlbaf: 0,
            flbas: 0,
            mc: 0,
            dpc: 0,
            dps: 0,
            nmic: 0,
            rescap: 0,
            dlfeat: 0,
            nawun: 0,
            nawupf: 0,
            nacwu: 0,
            noiob: 0,
            nvmcap: 0,
            npwg: 0,
            npwa: 0,
            npdg: 0,
            npda: 0,
            nows: 0,
            anagrpid: 0,
            nsattr: 0,
            nguid: [0; 16],
            eui64: [0; 8],
            lbaf: [LbaFormat::default(); LBAF_COUNT],
        }
    }
}

impl IdentifyNamespace {
    /// NSFEAT: thin provisioning.
    pub const NSFEAT_THIN: u8 = 1 << 0;
    /// NSFEAT: NPWG, NPWA, NPDG, NPDA and NOWS are valid.
    pub const NSFEAT_OPTIMAL_IO: u8 = 1 << 4;
    /// NMIC: several controllers may have it.
    pub const NMIC_SHARED: u8 = 1 << 0;
    /// DLFEAT: deallocated blocks read as zeros, and Write Zeroes can deallocate.
    pub const DLFEAT_ZEROES_WITH_DEALLOCATE: u8 = 0b0000_1001;
    /// NSATTR: write protected.
    pub const NSATTR_WRITE_PROTECTED: u8 = 1 << 0;

    /// `blocks` blocks of `1 << lbads` bytes, in one format without metadata.
    pub fn with_blocks(blocks: u64, lbads: u8) -> Self {
        let mut namespace = Self {
            nsze: blocks,
            ncap: blocks,
            nuse: blocks,
            nvmcap: u128::from(blocks).checked_shl(lbads.into()).unwrap_or(0),
            ..Self::default()
        };
        if let Some(first) = namespace.lbaf.first_mut() {
            first.lbads = lbads;
        }
        namespace
    }

    /// The format in use.
    pub fn format(&self) -> LbaFormat {
        let index = self.flbas & 0xF | (self.flbas >> 5 & 0x3) << 4;
        // Six bits: always one of the 64.
        self.lbaf.get(usize::from(index)).copied().unwrap_or_default()
    }

    /// Whether the namespace is active: an inactive one returns zeros.
    pub fn is_active(&self) -> bool {
        self.nsze != 0
    }

    /// Writes the structure.
    pub fn encode(&self, out: &mut [u8; IDENTIFY_LEN]) {
        out.fill(0);
        put_u64::<0, _>(out, self.nsze);
        put_u64::<8, _>(out, self.ncap);
        put_u64::<16, _>(out, self.nuse);
        put_u8::<24, _>(out, self.nsfeat);
        put_u8::<25, _>(out, self.nlbaf);
        put_u8::<26, _>(out, self.flbas);
        put_u8::<27, _>(out, self.mc);
        put_u8::<28, _>(out, self.dpc);
        put_u8::<29, _>(out, self.dps);
        put_u8::<30, _>(out, self.nmic);
        put_u8::<31, _>(out, self.rescap);
        put_u8::<33, _>(out, self.dlfeat);
        put_u16::<34, _>(out, self.nawun);
        put_u16::<36, _>(out, self.nawupf);
        put_u16::<38, _>(out, self.nacwu);
        put_u16::<46, _>(out, self.noiob);
        put_u128::<48, _>(out, self.nvmcap);
        put_u16::<64, _>(out, self.npwg);
        put_u16::<66, _>(out, self.npwa);
        put_u16::<68, _>(out, self.npdg);
        put_u16::<70, _>(out, self.npda);
        put_u16::<72, _>(out, self.nows);
        put_u32::<92, _>(out, self.anagrpid);
        put_u8::<99, _>(out, self.nsattr);
        put::<104, 16, _>(out, self.nguid);
        put::<120, 8, _>(out, self.eui64);
        let (formats, _) = out[LBAF_AT..].as_chunks_mut::<LBAF_LEN>();
        for (slot, format) in formats.iter_mut().zip(&self.lbaf) {
            put_u16::<0, _>(slot, format.ms);
            put_u8::<2, _>(slot, format.lbads);
            put_u8::<3, _>(slot, format.rp & 0x3);
        }
    }

    /// Reads the structure.
    ///
    /// # Errors
    /// Fewer than 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; IDENTIFY_LEN] = prefix(bytes, "Identify Namespace")?;
        let mut lbaf = [LbaFormat::default(); LBAF_COUNT];
        for (format, slot) in lbaf.iter_mut().zip(b[LBAF_AT..].as_chunks::<LBAF_LEN>().0) {
            *format =
                LbaFormat { ms: get_u16::<0, _>(slot), lbads: get_u8::<2, _>(slot), rp: get_u8::<3, _>(slot) & 0x3 };
        }
        Ok(Self {
            nsze: get_u64::<0, _>(b),
            ncap: get_u64::<8, _>(b),
            nuse: get_u64::<16, _>(b),
            nsfeat: get_u8::<24, _>(b),
            nlbaf: get_u8::<25, _>(b),
            flbas: get_u8::<26, _>(b),
            mc: get_u8::<27, _>(b),
            dpc: get_u8::<28, _>(b),
            dps: get_u8::<29, _>(b),
            nmic: get_u8::<30, _>(b),
            rescap: get_u8::<31, _>(b),
            dlfeat: get_u8::<33, _>(b),
            nawun: get_u16::<34, _>(b),
            nawupf: get_u16::<36, _>(b),
            nacwu: get_u16::<38, _>(b),
            noiob: get_u16::<46, _>(b),
            nvmcap: get_u128::<48, _>(b),
            npwg: get_u16::<64, _>(b),
            npwa: get_u16::<66, _>(b),
            npdg: get_u16::<68, _>(b),
            npda: get_u16::<70, _>(b),
            nows: get_u16::<72, _>(b),
            anagrpid: get_u32::<92, _>(b),
            nsattr: get_u8::<99, _>(b),
            nguid: get::<104, 16, _>(b),
            eui64: get::<120, 8, _>(b),
            lbaf,
        })
    }
}

/// What a namespace is, whatever its I/O command set (CNS 08h; base specification 5.17.2.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NamespaceIndependent {
    /// Features.
    pub nsfeat: u8,
    /// Sharing: bit 0, several controllers may have it.
    pub nmic: u8,
    /// Reservations.
    pub rescap: u8,
    /// ANA group; 0 is none.
    pub anagrpid: u32,
    /// Attributes: bit 0, write protected.
    pub nsattr: u8,
    /// Whether it is ready for I/O (NSTAT bit 0).
    pub ready: bool,
}

impl NamespaceIndependent {
    /// Writes the structure.
    pub fn encode(&self, out: &mut [u8; IDENTIFY_LEN]) {
        out.fill(0);
        put_u8::<0, _>(out, self.nsfeat);
        put_u8::<1, _>(out, self.nmic);
        put_u8::<2, _>(out, self.rescap);
        put_u32::<4, _>(out, self.anagrpid);
        put_u8::<8, _>(out, self.nsattr);
        put_u8::<14, _>(out, self.ready.into());
    }

    /// Reads the structure.
    ///
    /// # Errors
    /// Fewer than 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; IDENTIFY_LEN] = prefix(bytes, "Identify Namespace, command set independent")?;
        Ok(Self {
            nsfeat: get_u8::<0, _>(b),
            nmic: get_u8::<1, _>(b),
            rescap: get_u8::<2, _>(b),
            anagrpid: get_u32::<4, _>(b),
            nsattr: get_u8::<8, _>(b),
            ready: get_u8::<14, _>(b) & 1 == 1,
        })
    }
}
