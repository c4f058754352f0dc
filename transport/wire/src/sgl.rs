//! Data pointers (SGL descriptors, base specification 4.1.2.1), as far as fabrics use them.

use crate::codec::{get, get_u8, get_u32, get_u64, put, put_u8, put_u32, put_u64};
use crate::status::StatusCode;

/// How long a descriptor is.
pub const SGL_LEN: usize = 16;

/// Where a command's data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SglDescriptor {
    /// In the command capsule, `offset` bytes after the place where in-capsule data begins (type 01h).
    InCapsule {
        /// Bytes from the start of in-capsule data.
        offset: u64,
        /// Bytes of data.
        length: u32,
    },
    /// Moved by the transport: C2HData, or R2T and H2CData (type 5Ah). Also stands in commands without data.
    Transport {
        /// Bytes of data.
        length: u32,
    },
    /// Memory of the host that an RDMA controller reads or writes itself (types 40h, 4Fh). Not for TCP.
    Keyed {
        /// The host's address.
        address: u64,
        /// Bytes of data, 24 bits.
        length: u32,
        /// The remote key.
        key: u32,
        /// Whether the controller shall invalidate the key when it is done.
        invalidate: bool,
    },
}

/// A data pointer that is refused, and the status that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SglError {
    /// A descriptor type that fabrics do not use, or do not use here.
    #[error("SGL descriptor type {0:#04x} is not one that NVMe over fabrics uses for a command's data")]
    Type(u8),
    /// A known type with a subtype it does not have.
    #[error("SGL descriptor {0:#04x} has a subtype that its type does not have")]
    SubType(u8),
    /// In-capsule data that lies outside the capsule's data.
    #[error("in-capsule data at {offset} of {length} bytes lies outside the capsule's {available} bytes")]
    Offset {
        /// Where the descriptor says that data begins.
        offset: u64,
        /// How long the descriptor says that it is.
        length: u32,
        /// How much the capsule brought.
        available: u32,
    },
}

impl SglError {
    /// The status to complete the command with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Type(_) | Self::SubType(_) => StatusCode::SglDescriptorTypeInvalid,
            Self::Offset { .. } => StatusCode::SglOffsetInvalid,
        }
    }
}

impl SglDescriptor {
    /// Bytes of data that it describes.
    #[inline]
    pub fn length_bytes(self) -> u32 {
        match self {
            Self::InCapsule { length, .. } | Self::Transport { length } | Self::Keyed { length, .. } => length,
        }
    }

    /// Writes the descriptor. A keyed length keeps its low 24 bits, for it has no more on the wire.
    #[inline]
    pub fn encode(self) -> [u8; SGL_LEN] {
        let mut out = [0; SGL_LEN];
        match self {
            Self::InCapsule { offset, length } => {
                put_u64::<0, _>(&mut out, offset);
                put_u32::<8, _>(&mut out, length);
                put_u8::<15, _>(&mut out, 0x01);
            }
            Self::Transport { length } => {
                put_u32::<8, _>(&mut out, length);
                put_u8::<15, _>(&mut out, 0x5A);
            }
            Self::Keyed { address, length, key, invalidate } => {
                let [l0, l1, l2, _] = length.to_le_bytes();
                put_u64::<0, _>(&mut out, address);
                put::<8, _, _>(&mut out, [l0, l1, l2]);
                put_u32::<11, _>(&mut out, key);
                put_u8::<15, _>(&mut out, if invalidate { 0x4F } else { 0x40 });
            }
        }
        out
    }

    /// Reads a descriptor.
    ///
    /// # Errors
    /// A type that fabrics do not use; [`SglError::status`] is what the command completes with.
    #[inline]
    pub fn decode(bytes: &[u8; SGL_LEN]) -> Result<Self, SglError> {
        let id = get_u8::<15, _>(bytes);
        match id {
            0x01 => Ok(Self::InCapsule { offset: get_u64::<0, _>(bytes), length: get_u32::<8, _>(bytes) }),
            0x5A => Ok(Self::Transport { length: get_u32::<8, _>(bytes) }),
            0x40 | 0x4F => {
                let [l0, l1, l2] = get::<8, 3, _>(bytes);
                Ok(Self::Keyed {
                    address: get_u64::<0, _>(bytes),
                    length: u32::from_le_bytes([l0, l1, l2, 0]),
                    key: get_u32::<11, _>(bytes),
                    invalidate: id == 0x4F,
                })
            }
            _ if matches!(id >> 4, 0x0 | 0x4 | 0x5) => Err(SglError::SubType(id)),
            _ => Err(SglError::Type(id)),
        }
    }

    /// For in-capsule data: where in the `available` bytes of the capsule's data it lies.
    ///
    /// # Errors
    /// The descriptor is of another type, or reaches beyond the capsule.
    #[inline]
    pub fn in_capsule_range(self, available: u32) -> Result<std::ops::Range<usize>, SglError> {
        match self {
            Self::InCapsule { offset, length } => {
                let end = offset.checked_add(length.into()).filter(|&end| end <= available.into());
                // Both ends are at most `available`, which is 32 bits wide.
                end.map(|end| offset as usize..end as usize).ok_or(SglError::Offset { offset, length, available })
            }
            Self::Transport { .. } => Err(SglError::Type(0x5A)),
            Self::Keyed { .. } => Err(SglError::Type(0x40)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_type(id: u8) -> Result<SglDescriptor, SglError> {
        let mut bytes = [0; SGL_LEN];
        bytes[15] = id;
        SglDescriptor::decode(&bytes)
    }

    #[test]
    fn only_what_fabrics_use_is_taken() {
        let known: Vec<u8> = (0..=255).filter(|&id| with_type(id).is_ok()).collect();
        assert_eq!(known, [0x01, 0x40, 0x4F, 0x5A]);
        assert_eq!(with_type(0x00), Err(SglError::SubType(0x00)));
        assert_eq!(with_type(0x20), Err(SglError::Type(0x20)));
        assert_eq!(with_type(0xFF).map_err(SglError::status), Err(StatusCode::SglDescriptorTypeInvalid));
    }

    #[test]
    fn in_capsule_data_stays_inside_the_capsule() {
        let range = |offset, length| SglDescriptor::InCapsule { offset, length }.in_capsule_range(4096);
        assert_eq!(range(0, 4096), Ok(0..4096));
        assert_eq!(range(4096, 0), Ok(4096..4096));
        assert_eq!(range(96, 4000), Ok(96..4096));
        for (offset, length) in [(0, 4097), (1, 4096), (4097, 0), (u64::MAX, 1), (u64::MAX, u32::MAX)] {
            let refused = range(offset, length).map_err(SglError::status);
            assert_eq!(refused, Err(StatusCode::SglOffsetInvalid), "{offset} {length}");
        }
        assert!(SglDescriptor::Transport { length: 1 }.in_capsule_range(4096).is_err());
    }
}
