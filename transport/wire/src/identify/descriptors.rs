//! The names of a namespace (CNS 03h; base specification 5.17.2.3).

use super::IDENTIFY_LEN;
use crate::codec::{Reader, Writer};
use crate::error::WireError;

const EUI64: u8 = 1;
const NGUID: u8 = 2;
const UUID: u8 = 3;
const CSI: u8 = 4;

/// The names of a namespace: a descriptor for each that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NamespaceIds {
    /// IEEE extended unique id.
    pub eui64: Option<[u8; 8]>,
    /// Globally unique id.
    pub nguid: Option<[u8; 16]>,
    /// UUID.
    pub uuid: Option<[u8; 16]>,
    /// The I/O command set; 0 is NVM.
    pub csi: Option<u8>,
}

impl NamespaceIds {
    /// Writes the descriptors; a descriptor of length 0 ends them.
    pub fn encode(&self, out: &mut [u8; IDENTIFY_LEN]) {
        let mut writer = Writer::new(out, "namespace identification descriptors");
        // All four take 61 bytes of the 4096: no write can fail.
        let _ = self.write(&mut writer);
        writer.zero_rest();
    }

    fn write(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let mut descriptor = |kind: u8, id: Option<&[u8]>| -> Result<(), WireError> {
            let Some(id) = id else { return Ok(()) };
            writer.bytes(&[kind, id.len() as u8, 0, 0])?; // the longest id has 16 bytes
            writer.bytes(id)
        };
        descriptor(EUI64, self.eui64.as_ref().map(|id| id.as_slice()))?;
        descriptor(NGUID, self.nguid.as_ref().map(|id| id.as_slice()))?;
        descriptor(UUID, self.uuid.as_ref().map(|id| id.as_slice()))?;
        descriptor(CSI, self.csi.as_ref().map(std::slice::from_ref))
    }

    /// Reads the descriptors. Unknown kinds are skipped; of two of a kind, the first counts.
    ///
    /// # Errors
    /// A descriptor that reaches beyond the bytes, or whose length is not what its kind has.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let what = "namespace identification descriptor";
        let bytes = &bytes[..bytes.len().min(IDENTIFY_LEN)];
        let mut reader = Reader::new(bytes, what);
        let mut ids = Self::default();
        while reader.remaining_bytes() >= 4 {
            let (kind, len) = (reader.u8()?, reader.u8()?);
            reader.bytes(2)?;
            if len == 0 {
                break;
            }
            let id = reader.bytes(len.into())?;
            let wrong_length = |_| WireError::InvalidField {
                what,
                field: "NIDL",
                value: len.into(),
                why: "is not the length of an id of its type",
            };
            match kind {
                EUI64 => ids.eui64 = ids.eui64.or(Some(id.try_into().map_err(wrong_length)?)),
                NGUID => ids.nguid = ids.nguid.or(Some(id.try_into().map_err(wrong_length)?)),
                UUID => ids.uuid = ids.uuid.or(Some(id.try_into().map_err(wrong_length)?)),
                CSI => {
                    let [csi] = id.try_into().map_err(wrong_length)?;
                    ids.csi = ids.csi.or(Some(csi));
                }
                _ => {}
            }
        }
        Ok(ids)
    }
}
