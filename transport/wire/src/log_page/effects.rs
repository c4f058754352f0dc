//! Which commands there are and what they affect (log page 05h), and which log pages there are (log page 00h).

use super::LogPageId;
use crate::admin::AdminOpcode;
use crate::codec::prefix;
use crate::error::WireError;
use crate::nvm::NvmOpcode;

/// Bytes of the commands supported and effects page: 256 admin commands, 256 I/O commands, the rest reserved.
pub const COMMAND_EFFECTS_LEN: usize = 4096;
/// Bytes of the supported log pages page.
pub const SUPPORTED_PAGES_LEN: usize = 1024;

const SUPPORTED: u32 = 1 << 0;
const CHANGES_CONTENT: u32 = 1 << 1;

/// What a controller's commands affect. The bits of each are those of the specification (bit 0 supported, bit 1
/// changes content, ...).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEffects {
    /// By admin opcode.
    pub admin: [u32; 256],
    /// By I/O opcode.
    pub io: [u32; 256],
}

impl CommandEffects {
    /// The effects of the commands given, as a controller without namespace management has them.
    pub fn of(admin: &[AdminOpcode], io: &[NvmOpcode]) -> Self {
        let mut effects = Self { admin: [0; 256], io: [0; 256] };
        for &opcode in admin {
            effects.admin[usize::from(opcode as u8)] = SUPPORTED;
        }
        for &opcode in io {
            let writes = matches!(
                opcode,
                NvmOpcode::Write
                    | NvmOpcode::WriteUncorrectable
                    | NvmOpcode::WriteZeroes
                    | NvmOpcode::DatasetManagement
                    | NvmOpcode::Copy
            );
            effects.io[usize::from(opcode as u8)] = SUPPORTED | if writes { CHANGES_CONTENT } else { 0 };
        }
        effects
    }

    /// Whether an admin command is supported.
    pub fn supports_admin(&self, opcode: u8) -> bool {
        self.admin[usize::from(opcode)] & SUPPORTED != 0
    }

    /// Whether an I/O command is supported.
    pub fn supports_io(&self, opcode: u8) -> bool {
        self.io[usize::from(opcode)] & SUPPORTED != 0
    }

    /// Writes the page.
    pub fn encode(&self, out: &mut [u8; COMMAND_EFFECTS_LEN]) {
        out.fill(0);
        for (slot, effects) in out.as_chunks_mut::<4>().0.iter_mut().zip(self.admin.iter().chain(&self.io)) {
            *slot = effects.to_le_bytes();
        }
    }

    /// Reads the page.
    ///
    /// # Errors
    /// Fewer than 4096 bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let b: &[u8; COMMAND_EFFECTS_LEN] = prefix(bytes, "commands supported and effects log page")?;
        let mut effects = Self { admin: [0; 256], io: [0; 256] };
        for (slot, value) in effects.admin.iter_mut().chain(&mut effects.io).zip(b.as_chunks::<4>().0) {
            *slot = u32::from_le_bytes(*value);
        }
        Ok(effects)
    }
}

/// Writes the supported log pages page.
pub fn encode_supported_pages(pages: &[LogPageId], out: &mut [u8; SUPPORTED_PAGES_LEN]) {
    out.fill(0);
    let (slots, _) = out.as_chunks_mut::<4>();
    for &page in pages {
        // 256 entries, and a page's number is a byte.
        slots[usize::from(page as u8)] = SUPPORTED.to_le_bytes();
    }
}
